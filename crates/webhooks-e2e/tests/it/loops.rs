//! A receiver that publishes what it is sent.

use std::{sync::Arc, time::Duration};

use anyhow::ensure;
use webhooks_devstack::wait_until;
use webhooks_domain::hop;
use webhooks_loadgen::{
    receiver::{Captured, Receiver, ReceiverOptions},
    stack::{NewWebhook, Stack, StackOptions},
};

use crate::publisher::Publisher;

const LIMIT: Duration = Duration::from_secs(20);

async fn arrival(receiver: &Receiver, hop: &str) -> anyhow::Result<Arc<Captured>> {
    wait_until("the request with its hop", LIMIT, async || {
        let requests = receiver.requests();
        let found = requests
            .iter()
            .find(|request| request.header(hop::HEADER) == Some(hop));
        found.cloned().ok_or(requests.len())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_publishes_what_it_is_sent_goes_round_once() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let stack = Stack::start(StackOptions::new(super::bin_dir(), folder.path())).await?;
    let receiver = Receiver::start(ReceiverOptions::default()).await?;
    let workspace = stack.workspace("Loop").await?;
    let new = NewWebhook {
        name: "Loop".to_owned(),
        endpoint_url: receiver.url("/ok/loop"),
        ..NewWebhook::default()
    };
    stack.api(&workspace)?.create_webhook(&new).await?;
    let mut publisher = Publisher::new(&stack, &workspace)?;
    publisher.publish().await?;

    let sent = arrival(&receiver, "1").await?;
    let answer = publisher.pass_on(&sent).await?;
    ensure!(answer.status == 202, "{answer:?}");

    let sent_again = arrival(&receiver, "2").await?;
    let answer = publisher.pass_on(&sent_again).await?;
    ensure!(answer.status == 409, "{answer:?}");
    let body = String::from_utf8_lossy(&answer.body);
    ensure!(body.contains(r#""codeType":"EVENT_LOOP""#), "{body}");

    // What comes after it is not held up, and is the third request.
    publisher.publish().await?;
    wait_until("the event after it", LIMIT, async || {
        match receiver.count() {
            3 => Ok(()),
            other => Err(other),
        }
    })
    .await?;
    stack.stop_all().await
}
