//! What Postgres says, as evidence.

use anyhow::Context as _;

use webhooks_bus::{OpsEvent, names};

use crate::{
    check::{AttemptRow, CounterRow, DeliveryRow, DisablingMail, DisablingRow, Disablings},
    stack::Stack,
};

/// What stream OPS, the audit log and the outbox of mails say of automatic disablings. `recipients`
/// are those of the workspace whose webhooks it happens to.
pub(crate) async fn disablings(stack: &Stack, recipients: &[&str]) -> anyhow::Result<Disablings> {
    const KIND: &str = "auto_disabled";
    let bus = stack.bus().await?;
    let (mut told, mut next) = (Vec::new(), 1);
    while let Some(message) = bus.get_next(names::OPS, ">", next).await? {
        next = message.seq + 1;
        let event = OpsEvent::decode(&message.payload)?;
        if event.kind == KIND {
            told.push(DisablingRow {
                webhook: event.webhook_id,
                episode: event.episode_id,
                run: event.run,
                gone: event.status_reason.as_deref() == Some("ENDPOINT_GONE"),
            });
        }
    }
    let audited = stack
        .sql("SELECT subject FROM audit_log WHERE action = 'webhook.auto_disable'")
        .await?;
    let mails = stack
        .sql("SELECT message_id, recipient FROM mail_outbox")
        .await?;
    // <episode>.<kind>.<number>@…
    let mail = |[id, recipient]: [&str; 2]| {
        let mark = format!(".{KIND}.");
        Ok(id.split_once(&mark).map(|(episode, _)| DisablingMail {
            episode: episode.to_owned(),
            recipient: recipient.to_owned(),
        }))
    };
    Ok(Disablings {
        told,
        audited: rows(&audited, |[webhook]| Ok(webhook.parse()?))?,
        mails: rows(&mails, mail)?.into_iter().flatten().collect(),
        recipients: recipients.iter().map(|one| (*one).to_owned()).collect(),
    })
}

/// Microseconds since the epoch.
macro_rules! micros {
    ($column:literal) => {
        concat!("(extract(epoch FROM ", $column, ") * 1000000)::bigint")
    };
}

pub(crate) async fn deliveries(stack: &Stack) -> anyhow::Result<Vec<DeliveryRow>> {
    let text = stack.sql("SELECT id, webhook_id, event_id, state, attempt_count FROM deliveries WHERE trigger = 'EVENT'").await?;
    rows(&text, |[id, webhook, event, state, attempts]| {
        Ok(DeliveryRow {
            id: id.parse()?,
            webhook: webhook.parse()?,
            event: event.parse()?,
            state: state.parse()?,
            attempts: attempts.parse()?,
        })
    })
}

pub(crate) async fn attempts(stack: &Stack) -> anyhow::Result<Vec<AttemptRow>> {
    let text = stack
        .sql(concat!(
            "SELECT delivery_id, number, ",
            micros!("started_at"),
            ", class FROM attempts"
        ))
        .await?;
    rows(&text, |[delivery, number, started, class]| {
        Ok(AttemptRow {
            delivery: delivery.parse()?,
            number: number.parse()?,
            started: started.parse()?,
            class: class.to_owned(),
        })
    })
}

pub(crate) async fn counters(stack: &Stack) -> anyhow::Result<Vec<CounterRow>> {
    let columns = concat!(
        "SELECT webhook_id, success_count, failure_count, ",
        micros!("last_sent_at"),
        ", ",
        micros!("last_delivered_at"),
        " FROM webhook_stats"
    );
    let time = |text: &str| (!text.is_empty()).then(|| text.parse()).transpose();
    rows(
        &stack.sql(columns).await?,
        |[webhook, success, failure, sent, delivered]| {
            Ok(CounterRow {
                webhook: webhook.parse()?,
                success: success.parse()?,
                failure: failure.parse()?,
                last_sent: time(sent)?,
                last_delivered: time(delivered)?,
            })
        },
    )
}

fn rows<const N: usize, T>(
    text: &str,
    read: impl Fn([&str; N]) -> anyhow::Result<T>,
) -> anyhow::Result<Vec<T>> {
    let one = |line: &str| {
        let fields: Vec<&str> = line.split('|').collect();
        let fields = <[&str; N]>::try_from(fields)
            .ok()
            .with_context(|| format!("{line:?} has not {N} columns"))?;
        read(fields).with_context(|| format!("the row {line:?}"))
    };
    text.lines()
        .filter(|line| !line.is_empty())
        .map(one)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::rows;

    #[test]
    fn rows_are_read_whole_or_not_at_all() {
        let read = |text| {
            rows(text, |[a, b]: [&str; 2]| {
                Ok((a.parse::<i32>()?, b.to_owned()))
            })
        };
        assert_eq!(
            read("1|x\n2|\n").unwrap(),
            [(1, "x".to_owned()), (2, String::new())]
        );
        assert!(read("").unwrap().is_empty());
        assert!(read("1").is_err());
        assert!(read("x|y").is_err());
    }
}
