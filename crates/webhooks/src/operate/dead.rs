//! `webhooks dead list|show`: the messages that a service could not process, with its reasons.
//!
//! A letter's number is its sequence on the DEAD stream or, from 1,000,000,000,000 on, on REFUSED, which
//! has what NATS publishers sent and is no event. Letters are kept for 30 days, of REFUSED the newest
//! 1,000 of a workspace.

use anyhow::Context as _;
use prost::Message as _;
use webhooks_bus::{Bus, StoredMessage};
use webhooks_domain::event::format_micros;
use webhooks_proto::internal::v1::DeadLetter;

use super::connected_bus;
use crate::{
    cli::{DeadListOptions, DeadShowOptions},
    console::say,
};

/// A letter and its number.
#[derive(Debug, Clone)]
pub(crate) struct Numbered {
    pub(crate) number: u64,
    pub(crate) letter: DeadLetter,
}

impl Numbered {
    fn of(message: &StoredMessage) -> anyhow::Result<Self> {
        let letter = DeadLetter::decode(message.payload.as_ref())
            .with_context(|| format!("dead letter {} cannot be decoded", message.seq))?;
        Ok(Self {
            number: message.seq,
            letter,
        })
    }
}

/// `webhooks dead list`.
///
/// # Errors
/// NATS is not there.
pub(crate) async fn list(options: &DeadListOptions) -> anyhow::Result<()> {
    let bus = connected_bus().await?;
    let (mut from, mut shown) = (options.from, 0);
    while shown < options.limit {
        let Some(next) = after(&bus, options.source.as_deref(), from).await? else {
            if shown == 0 {
                say("no dead letters");
            }
            return Ok(());
        };
        say(line(&next));
        from = next.number + 1;
        shown += 1;
    }
    let left = after(&bus, options.source.as_deref(), from).await?;
    if let Some(left) = left {
        say(format_args!("more: --from {}", left.number));
    }
    Ok(())
}

/// `webhooks dead show`.
///
/// # Errors
/// NATS is not there, or there is no such letter.
pub(crate) async fn show(options: &DeadShowOptions) -> anyhow::Result<()> {
    let bus = connected_bus().await?;
    let found = get(&bus, options.number).await?;
    say(whole(&found));
    Ok(())
}

/// One letter.
///
/// # Errors
/// NATS is not there, or there is no such letter.
pub(crate) async fn get(bus: &Bus, number: u64) -> anyhow::Result<Numbered> {
    let message = bus
        .letter(number)
        .await?
        .with_context(|| format!("there is no dead letter {number}"))?;
    Numbered::of(&message)
}

/// The first letter (of one service, if named) at or after a number.
///
/// # Errors
/// NATS is not there.
pub(crate) async fn after(
    bus: &Bus,
    source: Option<&str>,
    from: u64,
) -> anyhow::Result<Option<Numbered>> {
    let message = bus.letter_after(source, from).await?;
    message.as_ref().map(Numbered::of).transpose()
}

fn line(found: &Numbered) -> String {
    let letter = &found.letter;
    format!(
        "{}  {}  {}  {}  {} ({} bytes)  {}",
        found.number,
        format_micros(letter.at),
        letter.source,
        letter.reason,
        letter.subject,
        letter.payload.len(),
        letter.detail,
    )
}

fn whole(found: &Numbered) -> String {
    let letter = &found.letter;
    let mut text = format!(
        "number:  {}\nsource:  {}\nreason:  {}\ndetail:  {}\nat:      {}\nfrom:    {} {} of {}\n",
        found.number,
        letter.source,
        letter.reason,
        letter.detail,
        format_micros(letter.at),
        letter.stream,
        letter.stream_seq,
        letter.subject,
    );
    for header in &letter.headers {
        text.push_str(&format!("header:  {}: {}\n", header.name, header.value));
    }
    text.push_str(&format!("payload: {} bytes\n", letter.payload.len()));
    match std::str::from_utf8(&letter.payload) {
        Ok(readable) => text.push_str(readable),
        Err(_) => text.push_str(&letter.payload.escape_ascii().to_string()),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{DeadLetter, Numbered, line, whole};

    #[test]
    fn a_letter_is_shown_with_its_reason_and_payload() {
        let letter = DeadLetter {
            source: "ingest".to_owned(),
            reason: "NOT_JSON".to_owned(),
            detail: "line 1".to_owned(),
            stream: "INTAKE".to_owned(),
            subject: "workflow.events.v1.x.step.completed".to_owned(),
            stream_seq: 7,
            payload: b"{oops\xff".to_vec().into(),
            ..DeadLetter::default()
        };
        let found = Numbered { number: 3, letter };
        let short = line(&found);
        assert!(
            short.starts_with("3  1970-01-01T00:00:00Z  ingest  NOT_JSON  "),
            "{short}"
        );
        assert!(short.ends_with("(6 bytes)  line 1"), "{short}");
        assert!(
            whole(&found).ends_with("payload: 6 bytes\n{oops\\xff"),
            "{}",
            whole(&found)
        );
    }
}
