//! The vendor's own client for Rust finds our API unchanged.

use anyhow::{Context as _, ensure};
use linkbreakers::{
    apis::{Error, configuration::Configuration, webhooks_api as api},
    models::{
        CreateWebhookRequest, Webhook, WebhookSource, WebhookStatus, WebhooksServiceUpdateBody,
        create_webhook_request, webhook, webhooks_service_update_body,
    },
};
use uuid::Uuid;
use webhooks_devstack::wait_until;
use webhooks_loadgen::{
    receiver::{Receiver, ReceiverOptions},
    stack::{Stack, StackOptions},
};

use crate::publisher::Publisher;

const LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

fn client(url: &str, token: &str) -> Configuration {
    Configuration {
        base_path: url.to_owned(),
        bearer_access_token: Some(token.to_owned()),
        ..Configuration::default()
    }
}

/// What every answer about one webhook has.
fn one(webhook: Option<Box<Webhook>>) -> anyhow::Result<Webhook> {
    Ok(*webhook.context("the answer has no webhook")?)
}

fn body() -> WebhooksServiceUpdateBody {
    WebhooksServiceUpdateBody::new()
}

/// The status and the codeType of a refusal.
fn refused<T: std::fmt::Debug, E: std::fmt::Debug>(
    answer: Result<T, Error<E>>,
) -> anyhow::Result<(u16, String)> {
    match answer {
        Err(Error::ResponseError(refusal)) => {
            let said: serde_json::Value = serde_json::from_str(&refusal.content)?;
            let code = said["codeType"].as_str().context("no codeType")?;
            ensure!(refusal.entity.is_some(), "the client cannot read {said}");
            Ok((refusal.status.as_u16(), code.to_owned()))
        }
        other => anyhow::bail!("no refusal: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_vendors_rust_client_lives_through_a_webhooks_life_unchanged() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let stack = Stack::start(StackOptions::new(super::bin_dir(), folder.path())).await?;
    let receiver = Receiver::start(ReceiverOptions::default()).await?;
    let workspace = stack.workspace("Vendor").await?;
    let mut publisher = Publisher::new(&stack, &workspace)?;
    let client = client(&stack.api_url(), &workspace.token);

    // Created with all that the client knows, and read back.
    let link = Uuid::new_v4().to_string();
    let url = receiver.url("/ok/vendor");
    let wish = CreateWebhookRequest {
        link_id: Some(link.clone()),
        source: Some(WebhookSource::WebhookSourceMake),
        triggers: Some(vec![create_webhook_request::Triggers::KindInteraction]),
        ..CreateWebhookRequest::new(url.clone(), "vendor client".to_owned())
    };
    let key = Uuid::new_v4().to_string();
    let made = api::webhooks_service_create(&client, wish.clone(), Some(&key)).await?;
    let made = one(made.webhook)?;
    let id = made.id.clone().context("no id")?;
    assert_eq!(made.status, Some(WebhookStatus::WebhookStatusActive));
    assert_eq!(made.source, Some(WebhookSource::WebhookSourceMake));
    assert_eq!(made.link_id.as_deref(), Some(link.as_str()));
    assert_eq!(
        made.triggers,
        Some(vec![webhook::Triggers::KindInteraction])
    );
    assert_eq!(made.workspace_id, Some(workspace.id.to_string()));
    assert_eq!((made.success_count, made.failure_count), (Some(0), Some(0)));
    assert_eq!(
        (&made.last_sent_at, &made.last_delivered_at),
        (&None, &None)
    );
    let again = api::webhooks_service_create(&client, wish, Some(&key)).await?;
    assert_eq!(
        one(again.webhook)?.id.as_deref(),
        Some(id.as_str()),
        "a key makes one"
    );
    let read = api::webhooks_service_get(&client, &id).await?;
    assert_eq!(one(read.webhook)?, made);

    // Changed member by member.
    let same = api::webhooks_service_update(&client, &id, body(), None).await?;
    assert_eq!(one(same.webhook)?, made, "an empty update changes nothing");
    let wider = WebhooksServiceUpdateBody {
        link_id: Some(String::new()),
        triggers: Some(vec![webhooks_service_update_body::Triggers::KindExit]),
        name: Some("renamed".to_owned()),
        ..body()
    };
    let wider = api::webhooks_service_update(&client, &id, wider, None).await?;
    let wider = one(wider.webhook)?;
    assert_eq!(
        (wider.name.as_deref(), &wider.link_id),
        (Some("renamed"), &None)
    );
    assert_eq!(wider.endpoint_url.as_deref(), Some(url.as_str()));
    for status in [
        WebhookStatus::WebhookStatusPaused,
        WebhookStatus::WebhookStatusDisabled,
        WebhookStatus::WebhookStatusActive,
    ] {
        let wish = WebhooksServiceUpdateBody {
            status: Some(status),
            ..body()
        };
        let set = api::webhooks_service_update(&client, &id, wish, None).await?;
        assert_eq!(one(set.webhook)?.status, Some(status));
    }

    // It delivers, and the client sees it.
    publisher.publish().await?;
    let delivered = wait_until("the counters to show the delivery", LIMIT, async || {
        let read = api::webhooks_service_get(&client, &id).await;
        let read = read.map_err(|error| error.to_string())?;
        let webhook = read.webhook.ok_or("no webhook")?;
        match webhook.success_count {
            Some(1) => Ok(webhook),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    assert!(delivered.last_sent_at.is_some() && delivered.last_delivered_at.is_some());
    assert_eq!(receiver.count(), 1);

    // Lists: page by page, and by status.
    for name in ["second", "third"] {
        let wish = CreateWebhookRequest::new(url.clone(), name.to_owned());
        api::webhooks_service_create(&client, wish, None).await?;
    }
    let (mut seen, mut token) = (Vec::new(), None::<String>);
    loop {
        let page =
            api::webhooks_service_list(&client, None, Some(2), token.as_deref(), None).await?;
        assert_eq!(page.total_count, Some(3));
        seen.extend(page.webhooks.unwrap_or_default());
        token = page.next_page_token.filter(|token| !token.is_empty());
        if token.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 3);
    let paused = Some("WEBHOOK_STATUS_PAUSED");
    let paused = api::webhooks_service_list(&client, paused, None, None, None).await?;
    assert_eq!(paused.total_count, Some(0));

    // Refusals are read as refusals.
    let blank = WebhooksServiceUpdateBody {
        name: Some(" ".to_owned()),
        ..body()
    };
    let blank = api::webhooks_service_update(&client, &id, blank, None).await;
    assert_eq!(refused(blank)?, (400, "INVALID_ARGUMENT".to_owned()));
    let nowhere = api::webhooks_service_get(&client, &Uuid::new_v4().to_string()).await;
    assert_eq!(refused(nowhere)?, (404, "WEBHOOK_NOT_FOUND".to_owned()));
    let stranger = self::client(&stack.api_url(), "wrong");
    let stranger = api::webhooks_service_list(&stranger, None, None, None, None).await;
    assert_eq!(refused(stranger)?, (401, "UNAUTHENTICATED".to_owned()));

    // And its end.
    for webhook in &seen {
        let id = webhook.id.as_deref().context("no id")?;
        let gone = api::webhooks_service_delete(&client, id).await?;
        assert_eq!(gone, serde_json::json!({}));
    }
    let gone = api::webhooks_service_get(&client, &id).await;
    assert_eq!(refused(gone)?.0, 404);
    stack.stop_all().await
}
