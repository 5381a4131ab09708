//! What the machine can do without us, taken before the stack starts.

use std::{path::Path, time::Duration};

use webhooks_devstack::NatsServer;

use super::{Scale, Sync, numbers::rate};
use crate::{
    peers::{BusPeer, HttpPeer, bare_bus, bare_http},
    receiver::{Receiver, ReceiverOptions},
};

/// Connections of the bare client.
const CONNECTIONS: usize = 64;

/// The limits beside a throughput.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    bus_1: f64,
    bus_10: f64,
    http: f64,
}

impl Limits {
    pub(super) async fn measure(folder: &Path, sync: Sync, scale: &Scale) -> anyhow::Result<Self> {
        let nats = NatsServer::builder(folder)
            .sync_interval(sync.interval())
            .start()
            .await?;
        let duration = Duration::from_secs(scale.limit_seconds);
        let bus = async |fan_out| {
            let peer = BusPeer {
                url: nats.url(),
                fan_out,
                batching: sync.batching(),
                duration,
            };
            anyhow::Ok(bare_bus(&peer).await?.per_second())
        };
        let (bus_1, bus_10) = (bus(1).await?, bus(10).await?);
        let receiver = Receiver::start(ReceiverOptions {
            keep: 0,
            ..ReceiverOptions::default()
        })
        .await?;
        let peer = HttpPeer {
            url: receiver.url(""),
            path: "/ok".to_owned(),
            connections: CONNECTIONS,
            duration,
        };
        let http = bare_http(&peer).await?.per_second();
        receiver.stop().await?;
        Ok(Self {
            bus_1,
            bus_10,
            http,
        })
    }

    pub(super) fn beside(&self, fan_out: u64) -> String {
        let bus = if fan_out == 1 {
            self.bus_1
        } else {
            self.bus_10
        };
        format!(
            "bus alone {}, bare HTTP client {}",
            rate(bus),
            rate(self.http)
        )
    }
}
