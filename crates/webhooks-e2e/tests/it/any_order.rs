//! Services wait for what they need, in whatever order it comes.

use std::time::Duration;

use anyhow::ensure;
use webhooks_devstack::{http_get, wait_until};
use webhooks_loadgen::{
    receiver::{Receiver, ReceiverOptions},
    stack::{NewWebhook, Part, Stack, StackOptions},
};

use crate::publisher::Publisher;

const LIMIT: Duration = Duration::from_secs(60);

const SERVICES: [Part; 4] = [
    Part::Management,
    Part::Ingest,
    Part::Fanout,
    Part::Dispatcher(1),
];

/// Waits until each service lives, says that it is not ready, and names what it misses: management
/// its database, the others this of NATS.
async fn all_wait(stack: &Stack, of_nats: &str) -> anyhow::Result<()> {
    for part in SERVICES {
        let missing = match part {
            Part::Management => "postgres",
            _ => of_nats,
        };
        let url = stack.admin_url(part)?;
        let live = format!("{url}/livez");
        let ready = format!("{url}/readyz");
        wait_until(
            &format!("{part} to wait for {missing}"),
            LIMIT,
            async || {
                let answers = (http_get(&live).await, http_get(&ready).await);
                match &answers {
                    (Ok((200, _)), Ok((503, text))) if text.contains(missing) => Ok(()),
                    _ => Err(format!("{answers:?}")),
                }
            },
        )
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_that_start_before_their_servers_and_their_schema_wait_and_then_deliver()
-> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let options = StackOptions::new(super::bin_dir(), folder.path());
    let mut stack = Stack::prepare(options).await?;
    stack.start_services()?;
    all_wait(&stack, "nats: ").await?;
    stack.revive(Part::Nats).await?;
    all_wait(&stack, "run `webhooks migrate`").await?;
    stack.revive(Part::Postgres).await?;
    all_wait(&stack, "run `webhooks migrate`").await?;
    stack.migrate().await?;
    for part in SERVICES {
        stack.wait_ready(part).await?;
        ensure!(stack.pid(part).is_some(), "{part} has ended");
    }

    let receiver = Receiver::start(ReceiverOptions::default()).await?;
    let workspace = stack.workspace("Late").await?;
    let new = NewWebhook {
        name: "Late".to_owned(),
        endpoint_url: receiver.url("/ok/late"),
        ..NewWebhook::default()
    };
    stack.api(&workspace)?.create_webhook(&new).await?;
    Publisher::new(&stack, &workspace)?.publish().await?;
    wait_until("the delivery to arrive", LIMIT, async || {
        match receiver.count() {
            1 => Ok(()),
            count => Err(count),
        }
    })
    .await?;
    stack.stop_all().await
}
