//! A webhook whose creation was answered catches the event that is published next: a thousand times.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::ensure;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::Mutex;
use uuid::Uuid;
use webhooks_devstack::wait_until;
use webhooks_loadgen::{
    receiver::{Receiver, ReceiverOptions},
    stack::{NewWebhook, Stack, StackOptions},
};

use crate::publisher::Publisher;

const TIMES: usize = 1_000;

/// Customers at the same time, each with connections of their own.
const CUSTOMERS: usize = 8;

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_just_made_over_rest_catches_the_event_published_next_over_http()
-> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let stack = Stack::start(StackOptions::new(super::bin_dir(), folder.path())).await?;
    let receiver = Receiver::start(ReceiverOptions::default()).await?;
    let workspace = stack.workspace("Caught").await?;
    let promised = Mutex::new(BTreeMap::new());
    let customers = stream::iter(0..CUSTOMERS).map(async |customer| {
        let mut api = stack.api(&workspace)?;
        let mut publisher = Publisher::new(&stack, &workspace)?;
        for time in (0..TIMES).filter(|time| time % CUSTOMERS == customer) {
            let path = format!("/ok/{time}");
            let link = Uuid::new_v4();
            let new = NewWebhook {
                name: path.clone(),
                endpoint_url: receiver.url(&path),
                links: vec![link],
                ..NewWebhook::default()
            };
            api.create_webhook(&new).await?;
            let event = publisher.publish_on(link).await?;
            promised.lock().await.insert(path, event);
        }
        anyhow::Ok(())
    });
    customers
        .buffer_unordered(CUSTOMERS)
        .try_collect::<()>()
        .await?;
    let promised = promised.into_inner();
    ensure!(promised.len() == TIMES, "{}", promised.len());
    wait_until("a thousand deliveries", LIMIT, async || {
        let came: BTreeSet<String> = receiver
            .requests()
            .iter()
            .map(|request| request.path.clone())
            .collect();
        let missing = promised.keys().find(|path| !came.contains(*path));
        match missing {
            None => Ok(()),
            Some(first) => Err(format!("{} came, {first} did not", came.len())),
        }
    })
    .await?;
    for request in receiver.requests() {
        let event = promised[&request.path].to_string();
        let body = String::from_utf8_lossy(&request.body);
        ensure!(body.contains(&event), "{}: {body}", request.path);
    }
    // Once each, but for what a machine that stood still for seconds gave back.
    ensure!(
        receiver.count() <= u64::try_from(TIMES + TIMES / 100)?,
        "{} requests",
        receiver.count()
    );
    stack.stop_all().await
}
