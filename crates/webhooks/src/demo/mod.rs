//! The demo: two workspaces, one webhook, one event, and proof at each end that it arrived.
//!
//! `webhooks up` performs it at each start, `webhooks demo` in a compose project. Everything is found
//! again the next time, and what tests may have done to the webhook is put right.

mod accounts;
mod event;
mod show;
mod webhook;

use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use webhooks_bus::{Bus, Outgoing, subjects};
use webhooks_devstack::wait_until;

pub(crate) use self::accounts::{Accounts, OTHER_WORKSPACE, WORKSPACE};
use self::webhook::{DemoWebhook, Found};
use crate::{
    cli::DemoOptions,
    console::say,
    http::Client,
    operate::{connected_bus, now, store},
    secrets::Secrets,
};

/// How long the delivery may take to arrive; far more than it needs, less than a person's patience.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(30);

/// How long the log may lag behind the receiver.
const LOG_LIMIT: Duration = Duration::from_secs(15);

const PUBLISH_LIMIT: Duration = Duration::from_secs(10);

/// Where the demo takes place.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    /// The REST API.
    pub(crate) api: &'a str,
    /// The receiver, as we reach it.
    pub(crate) receiver: &'a str,
    /// The receiver, as dispatchers reach it.
    pub(crate) endpoint: &'a str,
    pub(crate) bus: &'a Bus,
    pub(crate) accounts: &'a Accounts,
    pub(crate) secrets: &'a Secrets,
}

/// `webhooks demo`.
///
/// # Errors
/// Something does not answer, or the delivery does not arrive.
pub(crate) async fn run(options: &DemoOptions) -> anyhow::Result<()> {
    let (store, bus, secrets) = (
        store()?,
        connected_bus().await?,
        Secrets::open(&options.secrets)?,
    );
    let accounts = Accounts::ensure(&store, &bus, &secrets).await?;
    let stage = Stage {
        api: &options.api,
        receiver: &options.receiver,
        endpoint: options.endpoint.as_deref().unwrap_or(&options.receiver),
        bus: &bus,
        accounts: &accounts,
        secrets: &secrets,
    };
    perform(&stage).await
}

/// Publishes the sample event, waits for its delivery, shows it. A refusal by the address policy is
/// shown too; it is a result, not an error.
///
/// # Errors
/// Something does not answer, or the delivery does not arrive.
pub(crate) async fn perform(stage: &Stage<'_>) -> anyhow::Result<()> {
    let api = Client::new(stage.api, Some(&stage.accounts.token))?;
    let receiver = Client::new(stage.receiver, None)?;
    let webhook = match webhook::ensure(&api, stage).await? {
        Found::Webhook(webhook) => webhook,
        Found::Refused(reason) => {
            say(show::refused_at_creation(stage.endpoint, &reason));
            return Ok(());
        }
    };
    webhook.tell(&receiver).await?;
    let others = webhook::others(&api).await?;
    if others > 0 {
        say(show::others(others));
    }
    let event = event::Event::new(now());
    let message = Outgoing::new(
        subjects::intake(WORKSPACE),
        &event.id,
        event.body.clone().into(),
    );
    stage
        .bus
        .publish(message, PUBLISH_LIMIT)
        .await
        .context("the sample event could not be published")?;
    say(format_args!(
        "published the sample event {} over NATS; JetStream has it",
        event.id
    ));
    match arrival(&api, &receiver, &webhook, &event).await? {
        Arrival::Received(request) => {
            say(show::request(&request));
            say(show::signature(&request, &webhook.key)?);
            let (row, attempts) = logged(&api, &webhook, &event).await?;
            say(show::log(&row, &attempts));
        }
        Arrival::Failed(delivery) => say(show::refused_at_delivery(stage.endpoint, &delivery)),
    }
    Ok(())
}

/// What became of the event.
enum Arrival {
    /// What the receiver says it got.
    Received(Value),
    /// What the log says instead.
    Failed(Value),
}

async fn arrival(
    api: &Client,
    receiver: &Client,
    webhook: &DemoWebhook,
    event: &event::Event,
) -> anyhow::Result<Arrival> {
    let requests = format!("/requests?limit=100&webhookId={}", webhook.id);
    wait_until("the demo's request to arrive", ARRIVAL_LIMIT, async || {
        let asked = async {
            let got = receiver.get(&requests).await?.json()?;
            if let Some(request) = got
                .as_array()
                .into_iter()
                .flatten()
                .find(|request| event.is_in(request))
            {
                return Ok(Some(Arrival::Received(request.clone())));
            }
            let failed = delivery(api, webhook, event)
                .await?
                .filter(|row| row["state"] == "FAILED");
            anyhow::Ok(failed.map(Arrival::Failed))
        };
        match asked.await {
            Ok(Some(arrival)) => Ok(arrival),
            Ok(None) => Err("nothing yet".to_owned()),
            Err(error) => Err(format!("{error:#}")),
        }
    })
    .await
}

/// The delivery's row as the log lists it, and the same with its attempts.
async fn logged(
    api: &Client,
    webhook: &DemoWebhook,
    event: &event::Event,
) -> anyhow::Result<(Value, Value)> {
    let row = wait_until(
        "the delivery's row in the log",
        LOG_LIMIT,
        async || match delivery(api, webhook, event).await {
            Ok(Some(row)) if row["state"] == "DELIVERED" => Ok(row),
            other => Err(format!("{other:?}")),
        },
    )
    .await?;
    let id = row["id"].as_str().context("a delivery without an id")?;
    let answer = api.get(&format!("/v1/deliveries/{id}")).await?.json()?;
    let whole = answer["delivery"].clone();
    Ok((row, whole))
}

async fn delivery(
    api: &Client,
    webhook: &DemoWebhook,
    event: &event::Event,
) -> anyhow::Result<Option<Value>> {
    let page = api
        .get(&format!(
            "/v1/webhooks/{}/deliveries?pageSize=100",
            webhook.id
        ))
        .await?
        .json()?;
    let rows = page["deliveries"].as_array().into_iter().flatten();
    Ok(rows
        .into_iter()
        .find(|row| row["eventId"] == event.id.as_str())
        .cloned())
}
