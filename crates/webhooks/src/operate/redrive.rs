//! `webhooks dead redrive`: sends a dead letter's payload on its way again.
//!
//! It goes to the subject it came from, as a new message: a fresh message id, since the old one may
//! be what was refused, and without the conditions of the old publish. What our own services need
//! (`Wh-…` and the trace) is kept. A publisher's event keeps its identity: the id in its body, or else
//! the message id it came with. The letter is removed only when the stream has acknowledged the
//! new message; a crash in between leaves both, and delivery ids make the second harmless.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use uuid::Uuid;
use webhooks_bus::{Bus, FIRST_REFUSED, Outgoing, headers, letters_stream, names, subjects};
use webhooks_proto::internal::v1::DeadLetter;

use super::{
    connected_bus,
    dead::{self, Numbered},
};
use crate::{cli::RedriveOptions, console::say};

const PUBLISH_LIMIT: Duration = Duration::from_secs(10);

/// How the detail of a letter ends whose payload could not be kept whole.
const CUT: &str = "and was cut)";

/// The command.
///
/// # Errors
/// At the first letter that is not there or cannot be published; those before it are done.
pub(crate) async fn run(options: &RedriveOptions) -> anyhow::Result<()> {
    let fixed = match &options.payload {
        None => None,
        Some(_) if options.numbers.len() != 1 => {
            bail!("--payload fixes one letter: name one number")
        }
        Some(file) => {
            Some(std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?)
        }
    };
    let bus = connected_bus().await?;
    if !options.all {
        for number in &options.numbers {
            redrive(&bus, dead::get(&bus, *number).await?, fixed.clone()).await?;
        }
        return Ok(());
    }
    // Letters that arrive meanwhile, perhaps from these very payloads, are left for the next time.
    let last = bus.last_seq(names::DEAD).await?;
    let last_refused = bus.last_seq(names::REFUSED).await?;
    let (mut from, mut done) = (1, 0_u64);
    while let Some(found) = dead::after(&bus, options.source.as_deref(), from).await? {
        if found.number > last_refused {
            break;
        }
        if (last + 1..FIRST_REFUSED).contains(&found.number) {
            from = FIRST_REFUSED;
            continue;
        }
        from = found.number + 1;
        redrive(&bus, found, None).await?;
        done += 1;
    }
    say(format_args!("{done} dead letters are on their way"));
    Ok(())
}

async fn redrive(bus: &Bus, found: Numbered, fixed: Option<Vec<u8>>) -> anyhow::Result<()> {
    let number = found.number;
    let (message, stream) = message(found.letter, fixed, &Uuid::new_v4().to_string())
        .with_context(|| format!("dead letter {number} has no way back"))?;
    let subject = message.subject.clone();
    bus.publish(message, PUBLISH_LIMIT)
        .await
        .with_context(|| format!("dead letter {number} could not be published"))?;
    bus.remove_letter(number)
        .await
        .with_context(|| format!("dead letter {number} was published but not removed"))?;
    say(format_args!(
        "{number}: published to {stream} on {subject}, removed from {}",
        letters_stream(number)
    ));
    Ok(())
}

/// The message to publish, and the stream it is for.
fn message(
    letter: DeadLetter,
    fixed: Option<Vec<u8>>,
    id: &str,
) -> anyhow::Result<(Outgoing, String)> {
    let a_letter = ["wh.dead.", "wh.refused."]
        .iter()
        .any(|prefix| letter.subject.starts_with(prefix));
    let ours = letter.subject.starts_with("wh.") && !a_letter;
    if !ours && !letter.subject.starts_with(subjects::INTAKE_PREFIX) {
        bail!("{:?} is no subject of ours", letter.subject);
    }
    if fixed.is_none() && letter.detail.ends_with(CUT) {
        bail!("its payload was too large to be kept whole: give it with --payload");
    }
    let kept = |name: &str| name.starts_with("Wh-") || name == headers::TRACEPARENT;
    let payload = fixed.map_or(letter.payload, Bytes::from);
    let mut message = Outgoing::new(letter.subject, id, payload);
    if !ours {
        // To ingest the message id is the event's, and must not contradict the body.
        let came_with = letter
            .headers
            .iter()
            .find(|header| header.name == headers::MSG_ID);
        let own = own_id(&message.payload);
        message.headers = Default::default();
        if let (None, Some(came_with)) = (own, came_with) {
            message
                .headers
                .insert(headers::MSG_ID, came_with.value.as_str());
        }
    }
    for header in letter.headers.iter().filter(|header| kept(&header.name)) {
        message
            .headers
            .insert(header.name.as_str(), header.value.as_str());
    }
    Ok((message, letter.stream))
}

/// What an event says its id is. Only looked at: the bytes go on as they are.
fn own_id(event: &[u8]) -> Option<String> {
    let event: serde_json::Value = serde_json::from_slice(event).ok()?;
    event.get("id")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use webhooks_proto::v1::Header;

    use super::{DeadLetter, headers, message};

    fn letter(subject: &str) -> DeadLetter {
        let header = |name: &str, value: &str| Header {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        DeadLetter {
            subject: subject.to_owned(),
            payload: b"old".to_vec().into(),
            headers: vec![
                header(headers::MSG_ID, "refused"),
                header("Nats-Expected-Last-Subject-Sequence", "4"),
                header("Wh-Event-Id", "e"),
                header(headers::TRACEPARENT, "00-1-2-01"),
            ],
            ..DeadLetter::default()
        }
    }

    #[test]
    fn a_letter_goes_back_with_a_new_id_and_without_the_old_conditions() {
        let subject = "workflow.events.v1.x.step.completed";
        let (sent, _) = message(letter(subject), Some(b"new".to_vec()), "fresh").unwrap();
        let header = |name: &str| {
            sent.headers
                .get(name)
                .map(|value| value.as_str().to_owned())
        };
        assert_eq!(
            (sent.subject.as_str(), sent.payload.as_ref()),
            (subject, b"new".as_slice())
        );
        assert_eq!(
            header(headers::MSG_ID).as_deref(),
            Some("refused"),
            "the event's identity"
        );
        assert_eq!(header("Nats-Expected-Last-Subject-Sequence"), None);
        assert_eq!(
            (header("Wh-Event-Id"), header("traceparent")),
            (Some("e".into()), Some("00-1-2-01".into()))
        );
        let named = message(letter(subject), Some(br#"{"id":"own"}"#.to_vec()), "fresh").unwrap();
        assert!(
            named.0.headers.get(headers::MSG_ID).is_none(),
            "the body has it"
        );
        assert_eq!(
            message(letter("wh.rpt.3"), None, "fresh")
                .unwrap()
                .0
                .payload
                .as_ref(),
            b"old"
        );
    }

    #[test]
    fn half_a_payload_is_never_published() {
        let cut = || DeadLetter {
            detail: "large (the payload had 9 bytes and was cut)".to_owned(),
            ..letter("wh.rpt.3")
        };
        assert!(message(cut(), None, "fresh").is_err());
        message(cut(), Some(b"whole".to_vec()), "fresh").unwrap();
    }

    #[test]
    fn other_subjects_are_refused() {
        for subject in [
            "",
            "$JS.API.STREAM.DELETE.EVENTS",
            "wh.dead.ingest",
            "wh.refused.x",
            "orders",
        ] {
            assert!(
                message(letter(subject), None, "fresh").is_err(),
                "{subject}"
            );
        }
    }
}
