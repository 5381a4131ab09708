//! `webhooks dead`: what could not be accepted is kept with its reason, repaired by a person, and
//! delivered like everything else.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use uuid::Uuid;
use webhooks_bus::{Outgoing, subjects};
use webhooks_devstack::wait_until;
use webhooks_domain::clock::Clock as _;
use webhooks_loadgen::{
    receiver::{Receiver, ReceiverOptions},
    sample::{EventSpec, EventTemplate},
    stack::{NewWebhook, Stack, StackOptions},
};

use crate::publisher::Publisher;

const LIMIT: Duration = Duration::from_secs(30);

const PUBLISH_LIMIT: Duration = Duration::from_secs(10);

/// Whether the receiver has this event.
async fn arrives(receiver: &Receiver, event: &str) -> anyhow::Result<()> {
    let mark = format!(r#""event":{{"id":"{event}""#);
    wait_until("the delivery to arrive", LIMIT, async || {
        let requests = receiver.requests();
        let found = requests
            .iter()
            .find(|request| String::from_utf8_lossy(&request.body).contains(&mark));
        match found {
            Some(request) if request.verified == Some(true) => Ok(()),
            Some(request) => Err(format!("{:?}", request.headers)),
            None => Err(format!("{} others", requests.len())),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_message_blocks_nobody_and_is_listed_shown_repaired_and_delivered()
-> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let stack = Stack::start(StackOptions::new(super::bin_dir(), folder.path())).await?;
    let receiver = Receiver::start(ReceiverOptions::default()).await?;
    let workspace = stack.workspace("Dead").await?;
    let new = NewWebhook {
        name: "Dead".to_owned(),
        endpoint_url: receiver.url("/ok/dead"),
        ..NewWebhook::default()
    };
    let webhook = stack.api(&workspace)?.create_webhook(&new).await?;
    receiver.add_secret(Some(webhook.id), webhook.key);
    ensure!(stack.operate(&["dead", "list"]).await?.trim() == "no dead letters");

    let id = Uuid::new_v4();
    let spec = EventSpec {
        id,
        workspace: workspace.id,
        link: Uuid::new_v4(),
        kind: "KIND_EXIT".to_owned(),
        timestamp_micros: webhooks_runtime::SystemClock.now_micros(),
    };
    let whole = EventTemplate::new().render(&spec);
    let broken = whole.slice(..whole.len() - 1);
    let bus = stack.bus().await?;
    let message = Outgoing::new(
        subjects::intake(workspace.id),
        &id.to_string(),
        broken.clone(),
    );
    bus.publish(message, PUBLISH_LIMIT).await?;
    // What comes behind it goes its way.
    let next = Publisher::new(&stack, &workspace)?.publish().await?;
    arrives(&receiver, &next.to_string()).await?;

    let line = wait_until("the letter", LIMIT, async || {
        let list = stack.operate(&["dead", "list", "--source", "ingest"]).await;
        let list = list.map_err(|error| format!("{error:#}"))?;
        match list.trim() {
            "no dead letters" => Err(list),
            line => Ok(line.to_owned()),
        }
    })
    .await?;
    ensure!(line.lines().count() == 1, "{line}");
    let subject = subjects::intake(workspace.id);
    ensure!(line.contains(&subject), "{line}");
    let number = line.split_whitespace().next().context("a number")?;
    let shown = stack.operate(&["dead", "show", number]).await?;
    let payload = String::from_utf8(broken.to_vec())?;
    for part in [
        &format!("number:  {number}\n"),
        "source:  ingest\n",
        "reason:  ",
        &format!("header:  Nats-Msg-Id: {id}\n"),
        &format!("payload: {} bytes\n", payload.len()),
        &payload,
    ] {
        ensure!(shown.contains(part), "no {part:?} in\n{shown}");
    }

    // What would be refused again is not sent, and the letter stays as it is.
    let foreign = EventTemplate::new().render(&EventSpec {
        workspace: Uuid::new_v4(),
        ..spec.clone()
    });
    let mistyped = String::from_utf8(whole.to_vec())?;
    let mistyped = mistyped.replacen(r#""event":{"#, r#""event":{"visitor":5,"#, 1);
    let fixed = folder.path().join("fixed.json");
    let path = fixed.display().to_string();
    let corrected = ["dead", "redrive", number, "--payload", path.as_str()];
    for (payload, field, reason) in [
        (None, "$", "not_json"),
        (Some(b"{bad}".to_vec()), "$", "not_json"),
        (
            Some(foreign.to_vec()),
            "event.link.workspaceId",
            "tenant_mismatch",
        ),
        (Some(mistyped.into_bytes()), "event.visitor", "wrong_type"),
    ] {
        let told = match payload {
            None => stack.operate(&["dead", "redrive", number]).await,
            Some(payload) => {
                std::fs::write(&fixed, payload)?;
                stack.operate(&corrected).await
            }
        };
        let told = told.err().context("it is refused")?.to_string();
        for part in [&format!("{field} "), &format!("({reason})")] {
            ensure!(told.contains(part), "no {part:?} in {told}");
        }
        let still = stack.operate(&["dead", "show", number]).await?;
        ensure!(still == shown, "{still}");
    }
    ensure!(
        stack.operate(&["dead", "redrive", "--all"]).await.is_err(),
        "it is still refused"
    );
    // Repaired it is an event like any other.
    std::fs::write(&fixed, &whole)?;
    let told = stack.operate(&corrected).await?;
    ensure!(told.contains("published to INTAKE"), "{told}");
    arrives(&receiver, &id.to_string()).await?;
    ensure!(stack.operate(&["dead", "list"]).await?.trim() == "no dead letters");
    ensure!(
        stack.operate(&["dead", "show", number]).await.is_err(),
        "it is gone"
    );
    ensure!(receiver.count() == 2, "{} requests", receiver.count());
    stack.stop_all().await
}
