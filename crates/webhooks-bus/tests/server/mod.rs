//! A nats-server of a test's own.

use std::time::Duration;

use webhooks_bus::{Bus, BusSettings};
use webhooks_devstack::{NatsServer, wait_until};

const LIMIT: Duration = Duration::from_secs(20);

/// The server, a connection to it, and the folder that both need; every stream is there.
pub(crate) async fn start() -> anyhow::Result<(NatsServer, Bus, tempfile::TempDir)> {
    let folder = tempfile::tempdir()?;
    let nats = NatsServer::builder(folder.path()).start().await?;
    let settings = BusSettings {
        url: nats.url(),
        ..BusSettings::default()
    };
    let bus = Bus::connect(settings, "test").await?;
    wait_until("the topology", LIMIT, async || bus.apply_topology().await).await?;
    Ok((nats, bus, folder))
}
