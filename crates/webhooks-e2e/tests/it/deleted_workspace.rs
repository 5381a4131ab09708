//! A workspace that is deleted while its deliveries wait, hang, retry and are held: all of them end, and
//! nobody else notices.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, ensure};
use http::Method;
use serde_json::json;
use uuid::Uuid;
use webhooks_devstack::wait_until;
use webhooks_loadgen::{
    receiver::{Receiver, ReceiverOptions},
    stack::{NewWebhook, Stack, StackOptions, Workspace},
};

use crate::publisher::Publisher;

const LIMIT: Duration = Duration::from_secs(60);

/// Events, each for every webhook.
const EVENTS: u64 = 20;

/// Requests that an endpoint takes at a time.
const IN_FLIGHT: u64 = 8;

async fn webhook(
    stack: &Stack,
    workspace: &Workspace,
    receiver: &Receiver,
    path: &str,
) -> anyhow::Result<Uuid> {
    let new = NewWebhook {
        name: path.to_owned(),
        endpoint_url: receiver.url(path),
        ..NewWebhook::default()
    };
    Ok(stack.api(workspace)?.create_webhook(&new).await?.id)
}

/// How many deliveries of a workspace are in each state.
async fn states(stack: &Stack, workspace: Uuid) -> anyhow::Result<BTreeMap<String, u64>> {
    let statement = format!(
        "SELECT state, count(*) FROM deliveries WHERE workspace_id = '{workspace}' GROUP BY state"
    );
    let rows = stack.sql(&statement).await?;
    rows.lines()
        .map(|line| {
            let (state, count) = line.split_once('|').context("two columns")?;
            Ok((state.to_owned(), count.parse()?))
        })
        .collect()
}

async fn until_states(
    stack: &Stack,
    workspace: Uuid,
    wanted: &[(&str, u64)],
) -> anyhow::Result<()> {
    let wanted: BTreeMap<String, u64> = wanted
        .iter()
        .map(|(state, count)| ((*state).to_owned(), *count))
        .collect();
    let what = format!("{wanted:?}");
    wait_until(&what, LIMIT, async || {
        match states(stack, workspace).await {
            Ok(found) if found == wanted => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_deleted_workspace_is_owed_ends_and_nobody_else_notices() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    // Retries and probes after the test is over: whatever ends before, the deletion has ended.
    let options = StackOptions::new(super::bin_dir(), folder.path())
        .setting("WEBHOOKS_RETRY_BASE", "10m")
        .setting("WEBHOOKS_RETRY_CAP", "10m")
        .setting("WEBHOOKS_BREAKER_FAILURES", "100")
        .setting("WEBHOOKS_AUTO_DISABLE_FAILURES", "100");
    let stack = Stack::start(options).await?;
    let receiver = Receiver::start(ReceiverOptions::default()).await?;
    let (gone, stays) = (
        stack.workspace("Gone").await?,
        stack.workspace("Stays").await?,
    );
    // One whose requests hang and whose others wait for them, one whose attempts fail, one that is off.
    webhook(&stack, &gone, &receiver, "/hang/25").await?;
    webhook(&stack, &gone, &receiver, "/status/503").await?;
    let paused = webhook(&stack, &gone, &receiver, "/ok/paused").await?;
    let off = json!({ "status": "WEBHOOK_STATUS_PAUSED" });
    let path = format!("/v1/webhooks/{paused}");
    let mut api = stack.api(&gone)?;
    api.call(Method::PATCH, &path, Some(&off)).await?;
    webhook(&stack, &stays, &receiver, "/ok/stays").await?;
    let mut publishers = [
        Publisher::new(&stack, &gone)?,
        Publisher::new(&stack, &stays)?,
    ];
    for _ in 0..EVENTS {
        for publisher in &mut publishers {
            publisher.publish().await?;
        }
    }
    let to = |path: &str| {
        let requests = receiver.requests();
        let count = requests.iter().filter(|request| request.path == path);
        u64::try_from(count.count()).unwrap_or(u64::MAX)
    };
    wait_until("the requests before", LIMIT, async || {
        // Each that is refused is tried again at once, and then not for ten minutes.
        match (to("/hang/25"), to("/status/503"), to("/ok/stays")) {
            (hanging, refused, EVENTS) if hanging >= IN_FLIGHT && refused == 2 * EVENTS => Ok(()),
            other => Err(other),
        }
    })
    .await?;
    wait_until("the states before", LIMIT, async || {
        match states(&stack, gone.id).await {
            Ok(found)
                if found.get("RETRYING") == Some(&EVENTS) && found.get("HELD") == Some(&EVENTS) =>
            {
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    })
    .await?;

    let id = gone.id.to_string();
    let delete = ["workspace", "delete", &id, "--name", "Gone"];
    let said = stack.operate(&delete).await?;
    ensure!(said.contains("3 webhooks and 1 tokens"), "{said}");

    // All that is not on the wire ends at once; what hangs there may end as it will, and is recorded.
    let hung = to("/hang/25");
    ensure!(hung < EVENTS, "nothing waited any more: {hung}");
    let after = [("CANCELLED", 3 * EVENTS - hung), ("DELIVERED", hung)];
    until_states(&stack, gone.id, &after).await?;
    let requests = (to("/hang/25"), to("/status/503"), to("/ok/paused"));
    ensure!(
        requests == (hung, 2 * EVENTS, 0),
        "requests after the deletion: {requests:?}"
    );
    let bus = stack.bus().await?;
    wait_until("nothing owed", LIMIT, async || {
        let mut left = 0;
        for stream in ["DELIVERIES-0", "RETRIES-0", "HELD"] {
            left += bus
                .message_count(stream)
                .await
                .map_err(|error| error.to_string())?;
        }
        if left == 0 {
            Ok(())
        } else {
            Err(left.to_string())
        }
    })
    .await?;
    // Its token opens nothing, and its publisher is told so.
    wait_until("the end of its token", LIMIT, async || {
        match publishers[0].publish().await {
            Err(refused) if refused.to_string().contains("401") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    // The other one goes on.
    publishers[1].publish().await?;
    wait_until("the next of the other", LIMIT, async || {
        match to("/ok/stays") {
            count if count == EVENTS + 1 => Ok(()),
            count => Err(count),
        }
    })
    .await?;
    stack.stop_all().await
}
