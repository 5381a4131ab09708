//! Programs of others over gRPC: our client for Rust, and the example in Python.

use std::{path::Path, pin::pin, time::Duration};

use anyhow::{Context as _, ensure};
use futures::StreamExt as _;
use tokio::process::Command;
use webhooks_client::{Client, Options, v1};
use webhooks_loadgen::{
    receiver::{Receiver, ReceiverOptions},
    stack::{Stack, StackOptions},
};

/// How long one thing may take.
const LIMIT: Duration = Duration::from_secs(30);

fn python(script: &str, arguments: &[&Path], folder: &Path) -> anyhow::Result<Command> {
    let packages = super::root().join(".tools/checks/grpc");
    ensure!(
        packages.join("grpc_tools").is_dir(),
        "gRPC for Python is not fetched yet: run `make check-tools`"
    );
    let path = std::env::join_paths([packages, folder.to_owned()])?;
    let mut command = Command::new(super::root().join(".tools/venv/bin/python"));
    command
        .arg(super::root().join("examples/python").join(script))
        .args(arguments)
        .env("PYTHONPATH", path)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .kill_on_drop(true);
    Ok(command)
}

async fn told(mut command: Command) -> anyhow::Result<String> {
    let output = tokio::time::timeout(LIMIT, command.output()).await;
    let output = output.context("it does not end")??;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{told}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(told)
}

/// One stack for both, since starting it takes most of the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_lives_its_life_over_grpc_from_rust_and_from_python() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let stack = Stack::start(StackOptions::new(super::bin_dir(), folder.path())).await?;
    let receiver = Receiver::start(ReceiverOptions::default()).await?;
    let workspace = stack.workspace("Clients").await?;
    let client = Client::new(Options::new(stack.grpc_url(), &workspace.token))?;
    let delivery = life(&client, &receiver.url("/ok/rust")).await?;
    assert_eq!(receiver.count(), 1);
    // What customers do not see, an operator does.
    let shown = stack.operate(&["delivery", "show", &delivery]).await?;
    ensure!(shown.contains("SUCCESS  200  to 127.0.0.1  by "), "{shown}");

    let generated = folder.path().join("generated");
    told(python("generate.py", &[&generated], &generated)?).await?;
    let mut script = python("life_of_a_webhook.py", &[], &generated)?;
    script
        .env("WEBHOOKS_GRPC_URL", stack.grpc_url())
        .env("WEBHOOKS_TOKEN", &workspace.token)
        .env("WEBHOOKS_ENDPOINT", receiver.url("/ok/python"));
    let told = told(script).await?;
    for part in [
        "made",
        "DELIVERY_STATE_DELIVERED",
        "attempt   1  200",
        "gone",
    ] {
        ensure!(told.contains(part), "no {part:?} in\n{told}");
    }
    assert_eq!(receiver.count(), 2);
    stack.stop_all().await
}

/// Gives the id of the test that was sent.
async fn life(client: &Client, endpoint: &str) -> anyhow::Result<String> {
    let made = client
        .create_webhook(v1::CreateWebhookRequest {
            name: "from Rust".to_owned(),
            endpoint_url: endpoint.to_owned(),
            ..v1::CreateWebhookRequest::default()
        })
        .await?;
    ensure!(made.secret.starts_with("whsec_"));
    let webhook = made.webhook.context("a webhook")?;
    let tail = client.tail(v1::TailDeliveriesRequest {
        webhook_id: webhook.id.clone(),
    });
    let mut tail = pin!(tail.await?);
    let test = client
        .test_webhook(v1::TestWebhookRequest {
            webhook_id: webhook.id.clone(),
            ..v1::TestWebhookRequest::default()
        })
        .await?;
    let test = test.delivery.context("a delivery")?;
    let arrived = async {
        loop {
            let report = tail.next().await.context("the tail ended")??;
            let delivery = report.delivery.context("a delivery")?;
            if delivery.id == test.id && delivery.state() == v1::DeliveryState::Delivered {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(LIMIT, arrived).await??;
    let one = v1::ListDeliveriesRequest {
        webhook_id: webhook.id.clone(),
        page_size: 1,
        ..v1::ListDeliveriesRequest::default()
    };
    let listed: Vec<_> = client.deliveries(one).collect().await;
    ensure!(listed.len() == 1, "{listed:?}");
    let whole = client
        .get_delivery(v1::GetDeliveryRequest {
            id: test.id.clone(),
        })
        .await?;
    ensure!(whole.attempts[0].status_code == 200, "{whole:?}");
    let delete = v1::DeleteWebhookRequest {
        id: webhook.id.clone(),
        ..v1::DeleteWebhookRequest::default()
    };
    client.delete_webhook(delete.clone()).await?;
    let gone = client.delete_webhook(delete).await.err();
    let gone = gone.context("it was deleted twice")?;
    let refusal = gone.refusal().context("a refusal")?;
    ensure!(refusal.reason == "WEBHOOK_NOT_FOUND" && !refusal.request_id.is_empty());
    Ok(test.id)
}
