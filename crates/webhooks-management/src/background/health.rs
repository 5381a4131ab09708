//! What deliveries make of a webhook's status, as people see it: the row, the audit log, mails.
//!
//! The dispatchers decide, and tell it on stream OPS; nothing here can hold up or undo a decision. An
//! event is acted on once, whoever takes it. Mails stand in an outbox and go out when the mail server
//! takes them: one that is away delays nothing else and loses nothing within [`GIVE_UP_AFTER`].

use std::time::Duration;

use webhooks_bus::{OpsEvent, Pulled, names, while_working_on};
use webhooks_domain::event::parse_rfc3339_micros;
use webhooks_runtime::{Backoff, error_chain};
use webhooks_store::HealthNews;

use super::{
    Surroundings,
    consume::{Source, acknowledge},
    pause,
};
use crate::mail::{MailError, notices, without_addresses};

const SOURCE: Source = Source {
    stream: names::OPS,
    consumer: names::OPS_CONSUMER,
};

/// How often the outbox is looked at.
const MAIL_EVERY: Duration = Duration::from_secs(1);

/// A mail that was taken is another's again after this time: longer than one look can last.
const LEASE: Duration = Duration::from_secs(20 * 60);

/// Pauses between tries: doubling from the first, up to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);

/// How long a mail is tried.
const GIVE_UP_AFTER: Duration = Duration::from_secs(3 * 24 * 3_600);

/// Mirrors health until shutdown.
pub(super) async fn mirror(around: Surroundings) -> anyhow::Result<()> {
    let mut pull = SOURCE.open(&around);
    loop {
        let next = around.shutdown.run_until_cancelled(pull.next()).await;
        let Some(message) = next else { return Ok(()) };
        let (event, news) = match read(&message) {
            Ok(read) => read,
            Err(reason) => {
                SOURCE.bury(&around, &message, "undecodable", &reason).await;
                continue;
            }
        };
        let acting = act(&around, &message, &event, &news);
        if !while_working_on(&[message.acker()], Box::pin(acting)).await {
            return Ok(());
        }
    }
}

fn read(message: &Pulled) -> Result<(OpsEvent, HealthNews), String> {
    let event = OpsEvent::decode(&message.payload).map_err(|error| error.to_string())?;
    let reason = event.status_reason.as_deref().map(str::parse).transpose();
    let news = HealthNews {
        episode_id: event.episode_id.clone(),
        kind: event.kind.clone(),
        workspace_id: event.workspace_id,
        webhook_id: event.webhook_id,
        epoch: i64::try_from(event.epoch).unwrap_or(i64::MAX),
        status: event
            .status
            .parse()
            .map_err(|error: webhooks_domain::webhook::UnknownWord| error.to_string())?,
        reason: reason.map_err(|error: webhooks_domain::webhook::UnknownWord| error.to_string())?,
        at: parse_rfc3339_micros(&event.at).ok_or("`at` is no time")?,
    };
    Ok((event, news))
}

/// Records one event, however long that takes. False = the service ends first.
async fn act(around: &Surroundings, message: &Pulled, event: &OpsEvent, news: &HealthNews) -> bool {
    let mut failures = 0_u32;
    loop {
        let dashboard = around.dashboard.as_deref();
        let now = around.clock.now_micros();
        let recorded = around
            .store
            .record_health(
                news,
                |webhook, addresses| notices(event, webhook, addresses, dashboard),
                now,
            )
            .await;
        match recorded {
            Ok(acted) => {
                if acted {
                    tracing::info!(
                        webhook.id = %news.webhook_id,
                        workspace.id = %news.workspace_id,
                        kind = news.kind,
                        status = news.status.as_str(),
                        run = event.run,
                        "webhook.health"
                    );
                }
                acknowledge(&message.acker()).await;
                return true;
            }
            Err(error) if error.is_retryable() => {
                failures = failures.saturating_add(1);
                tracing::warn!(failures, error = error_chain(&error), "health.waiting");
                if pause(around, Backoff::CONNECT.delay(failures, rand::random())).await {
                    return false;
                }
            }
            Err(error) => {
                let detail = error_chain(&error);
                SOURCE
                    .bury(around, message, "refused_by_store", &detail)
                    .await;
                return true;
            }
        }
    }
}

/// Sends mails until shutdown.
pub(super) async fn mails(around: Surroundings) -> anyhow::Result<()> {
    if !around.mailer.is_set_up() {
        tracing::warn!("no mail server is set up (WEBHOOKS_SMTP_URL): notices to customers wait");
        // They wait in the table; the next start may know a server.
        around.shutdown.cancelled().await;
        return Ok(());
    }
    loop {
        let now = around.clock.now_micros();
        let taken = around.store.take_mails(now, now + micros(LEASE)).await?;
        for row in taken {
            let sent = around.mailer.send(&row.mail).await;
            let now = around.clock.now_micros();
            let result = match &sent {
                Ok(()) => "sent",
                Err(MailError::Refused(_)) => "refused",
                Err(MailError::Later(_)) => "failed",
            };
            metrics::counter!("webhooks_mails_total", "result" => result).increment(1);
            match sent {
                Ok(()) => around.store.mail_sent(row.id, now).await?,
                Err(error) => {
                    let text = error.to_string();
                    let shown = without_addresses(&text);
                    tracing::warn!(
                        mail.id = row.id,
                        tries = row.tries,
                        error = shown,
                        "mail.failed"
                    );
                    let next = next_try(&error, row.tries, row.created_at, now);
                    around.store.mail_failed(row.id, &text, next, now).await?;
                }
            }
        }
        if pause(&around, MAIL_EVERY).await {
            return Ok(());
        }
    }
}

/// When a mail that failed is tried again; `None` = never.
fn next_try(error: &MailError, tries: u32, created_at: i64, now: i64) -> Option<i64> {
    if matches!(error, MailError::Refused(_)) || now - created_at > micros(GIVE_UP_AFTER) {
        return None;
    }
    let pause = FIRST_PAUSE
        .saturating_mul(1 << tries.min(16))
        .min(LONGEST_PAUSE);
    Some(now + micros(pause))
}

fn micros(length: Duration) -> i64 {
    i64::try_from(length.as_micros()).unwrap_or(i64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_is_tried_for_three_days_with_growing_pauses() {
        let later = || MailError::Later("away".to_owned());
        assert_eq!(next_try(&later(), 0, 0, 10), Some(10 + 5_000_000));
        assert_eq!(next_try(&later(), 2, 0, 10), Some(10 + 20_000_000));
        assert_eq!(next_try(&later(), 40, 0, 10), Some(10 + 900_000_000));
        assert_eq!(next_try(&later(), 3, 0, 259_200_000_001), None);
        let refused = MailError::Refused("no such user".to_owned());
        assert_eq!(next_try(&refused, 0, 0, 10), None);
    }
}
