//! `webhooks dead redrive`: sends a dead letter's payload on its way again.
//!
//! It goes to the subject it came from, as a new message: a fresh message id, since the old one may
//! be what was refused, and without the conditions of the old publish. What our own services need
//! (`Wh-…`, the trace and the hop) is kept. A publisher's event keeps its identity: the id in its body,
//! or else the message id it came with. The letter is removed only when the stream has acknowledged the
//! new message; a crash in between leaves both, and delivery ids make the second harmless.
//!
//! An event is judged before anything is published, by the rules it will meet: one that would be
//! refused again stays where it is, under its number and with its own payload, whatever `--payload`
//! said. What only the stream can tell (an id that stands for another body) is not foreseen; it
//! comes back as a new letter with the payload that was sent.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use uuid::Uuid;
use webhooks_bus::{Bus, FIRST_REFUSED, Outgoing, headers, letters_stream, names, subjects};
use webhooks_domain::{
    event::{EventLimits, FieldProblem, parse_event_of},
    hop,
};
use webhooks_ingest::check_message;
use webhooks_proto::internal::v1::DeadLetter;

use super::{
    connected_bus,
    dead::{self, Numbered},
};
use crate::{cli::RedriveOptions, console::say};

const PUBLISH_LIMIT: Duration = Duration::from_secs(10);

/// How the detail of a letter ends whose payload could not be kept whole.
const CUT: &str = "and was cut)";

/// Most letters whose refusal is told one by one.
const MAX_TOLD: usize = 20;

/// The command.
///
/// # Errors
/// At the first letter that is not there or cannot be published; those before it are done. At the
/// end, when there were letters that would be refused again: they are kept.
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
    let mut kept = Kept::default();
    if !options.all {
        for number in &options.numbers {
            let found = dead::get(&bus, *number).await?;
            kept.note(redrive(&bus, found, fixed.clone()).await?);
        }
        return kept.told();
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
        let fate = redrive(&bus, found, None).await?;
        done += u64::from(fate == Fate::Sent);
        kept.note(fate);
    }
    say(format_args!("{done} dead letters are on their way"));
    kept.told()
}

/// What became of a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    /// Published and removed.
    Sent,
    /// Neither, and why.
    Kept(String),
}

/// The letters that were kept, and why the first of them.
#[derive(Debug, Default)]
struct Kept {
    whys: Vec<String>,
    count: usize,
}

impl Kept {
    fn note(&mut self, fate: Fate) {
        if let Fate::Kept(why) = fate {
            self.count += 1;
            if self.whys.len() < MAX_TOLD {
                self.whys.push(why);
            }
        }
    }

    fn told(self) -> anyhow::Result<()> {
        match self.count - self.whys.len() {
            _ if self.count == 0 => Ok(()),
            0 => bail!("{}", self.whys.join("\n")),
            more => bail!("{}\nand {more} more are kept", self.whys.join("\n")),
        }
    }
}

async fn redrive(bus: &Bus, found: Numbered, fixed: Option<Vec<u8>>) -> anyhow::Result<Fate> {
    let number = found.number;
    let corrected = fixed.is_some();
    let (message, stream) = message(found.letter, fixed, &Uuid::new_v4().to_string())
        .with_context(|| format!("dead letter {number} has no way back"))?;
    if let Some(why) = objection(&message, &stream, corrected) {
        let what = if corrected {
            "this payload would be refused"
        } else {
            "it would be refused again (a corrected event is given with --payload)"
        };
        return Ok(Fate::Kept(format!(
            "dead letter {number} is kept as it is, {what}: {why}"
        )));
    }
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
    Ok(Fate::Sent)
}

/// Why a message would be refused where it goes, field by field. What goes to INTAKE is judged as
/// ingest will judge it. What lies on EVENTS was accepted once, so only a correction of it is judged;
/// what is no event is not.
fn objection(message: &Outgoing, stream: &str, corrected: bool) -> Option<String> {
    let header = |name: &str| message.headers.get(name).map(|value| value.as_str());
    let limits = EventLimits::DEFAULT;
    let problems = if message.subject.starts_with(subjects::INTAKE_PREFIX) {
        let (id, hop) = (header(headers::MSG_ID), header(hop::HEADER));
        let checked = check_message(&message.subject, id, hop, &message.payload, &limits);
        checked.err()?.problems
    } else if corrected && stream == names::EVENTS {
        let workspace = header(headers::WORKSPACE).and_then(|text| Uuid::try_parse(text).ok());
        let Some(workspace) = workspace else {
            return Some("no header says whose event it is".to_owned());
        };
        let checked = parse_event_of(&message.payload, &limits, workspace);
        checked.err()?.problems
    } else {
        return None;
    };
    let each: Vec<String> = problems.iter().map(told).collect();
    Some(each.join("; "))
}

fn told(problem: &FieldProblem) -> String {
    let FieldProblem {
        field,
        reason,
        message,
    } = problem;
    format!("{field} {message} ({reason})")
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
    let kept =
        |name: &str| name.starts_with("Wh-") || name == headers::TRACEPARENT || name == hop::HEADER;
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
    for header in &letter.headers {
        // Ingest takes this one in any case.
        let name = match header.name.eq_ignore_ascii_case(hop::HEADER) {
            true => hop::HEADER,
            false => header.name.as_str(),
        };
        if kept(name) {
            message.headers.insert(name, header.value.as_str());
        }
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

    use uuid::Uuid;
    use webhooks_bus::{names, subjects};

    use super::{DeadLetter, Fate, Kept, MAX_TOLD, headers, message, objection};

    const WORKSPACE: Uuid = Uuid::from_u128(0xa39d);

    fn event(workspace: Uuid, members: &str) -> Vec<u8> {
        format!(
            r#"{{"event":{{"id":"visit","workspaceId":"{workspace}","linkId":"{workspace}"{members}}},"workflowStep":{{"id":"step","kind":"KIND_EXIT"}},"timestamp":"2025-10-10T16:12:28Z","type":"step.completed","lbid":"l"}}"#
        )
        .into_bytes()
    }

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
    fn an_event_that_would_be_refused_is_told_with_field_and_reason() {
        let subject = subjects::intake(WORKSPACE);
        let check = |fixed: Option<Vec<u8>>| {
            let corrected = fixed.is_some();
            let (sent, stream) = message(letter(&subject), fixed, "fresh").unwrap();
            objection(&sent, &stream, corrected)
        };
        for kept in [check(None), check(Some(b"nojs".to_vec()))] {
            let kept = kept.unwrap();
            assert!(
                kept.starts_with("$ ") && kept.ends_with(" (not_json)"),
                "{kept}"
            );
        }
        assert_eq!(
            check(Some(event(Uuid::from_u128(2), ""))).unwrap(),
            "event.workspaceId is another workspace than the event is published for (tenant_mismatch)"
        );
        assert_eq!(
            check(Some(event(WORKSPACE, r#","link":5,"device":[]"#))).unwrap(),
            "event.link must be an object, found a number (wrong_type); event.device must be an object, found an array (wrong_type)"
        );
        let with_hop = |hop: &str| {
            let mut letter = letter(&subject);
            letter.headers.push(Header {
                name: "X-Linkbreakers-Hop".to_owned(),
                value: hop.to_owned(),
            });
            let (sent, stream) = message(letter, Some(event(WORKSPACE, "")), "fresh").unwrap();
            objection(&sent, &stream, true)
        };
        assert_eq!(with_hop("1"), None);
        let circle = with_hop("2").unwrap();
        assert!(
            circle.starts_with("x-linkbreakers-hop ") && circle.ends_with(" (loop)"),
            "{circle}"
        );
        let large = [event(WORKSPACE, ""), vec![b' '; 256 * 1024]].concat();
        assert!(check(Some(large)).unwrap().ends_with(" (too_large)"));
        assert_eq!(check(Some(event(WORKSPACE, ""))), None);
    }

    #[test]
    fn of_what_lies_on_events_only_a_correction_is_judged_and_of_other_streams_nothing() {
        let of = |stream: &str, workspace: Option<Uuid>, fixed: Option<Vec<u8>>| {
            let mut letter = DeadLetter {
                stream: stream.to_owned(),
                ..letter("wh.evt.1.x")
            };
            letter.headers.extend(workspace.map(|workspace| Header {
                name: headers::WORKSPACE.to_owned(),
                value: workspace.to_string(),
            }));
            let corrected = fixed.is_some();
            let (sent, stream) = message(letter, fixed, "fresh").unwrap();
            objection(&sent, &stream, corrected)
        };
        let own = Some(WORKSPACE);
        assert_eq!(of(names::EVENTS, own, None), None);
        assert_eq!(of(names::EVENTS, own, Some(event(WORKSPACE, ""))), None);
        assert!(of(names::EVENTS, own, Some(event(Uuid::nil(), ""))).is_some());
        assert!(of(names::EVENTS, None, Some(event(WORKSPACE, ""))).is_some());
        assert_eq!(of(names::REPORTS, own, Some(b"report".to_vec())), None);
    }

    #[test]
    fn what_is_kept_is_told_up_to_a_limit_and_is_an_error() {
        let told = |count: usize| {
            let mut kept = Kept::default();
            kept.note(Fate::Sent);
            for number in 0..count {
                kept.note(Fate::Kept(format!("letter {number}")));
            }
            kept.told().map_err(|error| error.to_string())
        };
        assert_eq!(told(0), Ok(()));
        assert_eq!(told(2), Err("letter 0\nletter 1".to_owned()));
        assert_eq!(told(MAX_TOLD).unwrap_err().lines().count(), MAX_TOLD);
        let many = told(MAX_TOLD + 2).unwrap_err();
        assert!(many.ends_with("\nand 2 more are kept"), "{many}");
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
