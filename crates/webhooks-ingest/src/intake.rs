//! The NATS door: the INTAKE stream, which publishers write to directly.
//!
//! The workspace is the token of the *subject*: that is what NATS authorised the publisher for;
//! what the body says must agree. A message is acknowledged only when EVENTS has the event, or the
//! dead letters have the message. What is wrong with one message never holds up the next: each is
//! judged for itself, and one that cannot be stored now is handed back for later.
//!
//! The id of one publisher cannot burn another's: INTAKE forgets ids after a moment, and on EVENTS
//! ids carry their workspace.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;
use webhooks_bus::{Bus, PullSettings, Pulled, headers, names, subjects, survive};
use webhooks_domain::event::EventLimits;
use webhooks_runtime::Clock;

use crate::{
    accept::{Acceptor, Door, Submission, examine},
    hops,
    refusal::{Refusal, RefusalKind},
};

/// How often a message is tried whose handling panics.
const TRIES: u32 = 3;

/// The first pause before a message is handed over again; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// The longest pause before a message is handed over again.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// What the tasks of this door share.
#[derive(Clone)]
pub(crate) struct Intake {
    pub(crate) bus: Bus,
    pub(crate) acceptor: Acceptor,
    pub(crate) clock: Arc<dyn Clock>,
    /// Messages being judged and stored at the same time.
    pub(crate) concurrency: usize,
}

/// What is to become of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Disposition {
    /// EVENTS has it.
    Stored,
    /// Nothing is wrong with it; later.
    Later,
    /// It will never be an event.
    Dead {
        reason: &'static str,
        detail: String,
    },
}

impl From<Refusal> for Disposition {
    fn from(refusal: Refusal) -> Self {
        if refusal.kind.is_passing() {
            return Self::Later;
        }
        Self::Dead {
            reason: refusal.reason_word(),
            detail: refusal.message,
        }
    }
}

/// What this door asks of a message before it is stored, for whoever sends one that was refused on
/// its way again. Nothing is stored, so what only the stream can tell (an id that stands for
/// another body) is not told. `hop` is what its header says.
///
/// # Errors
/// What the message would be refused for.
pub fn check_message(
    subject: &str,
    message_id: Option<&str>,
    hop: Option<&str>,
    payload: &[u8],
    limits: &EventLimits,
) -> Result<(), Refusal> {
    let workspace = workspace_of(subject)?;
    hops::judge(hops::read(hop)?)?;
    let id = message_id.map(|id| own_id(workspace, id));
    examine(payload, limits, workspace, id).map(drop)
}

/// The workspace that NATS authorised the publisher for.
fn workspace_of(subject: &str) -> Result<Uuid, Refusal> {
    subjects::intake_workspace(subject).ok_or_else(|| {
        Refusal::of_field(
            RefusalKind::Invalid,
            "subject",
            "unknown_subject",
            "the subject is not workflow.events.v1.<workspace>.step.completed",
        )
    })
}

impl Intake {
    /// Takes messages until `shutdown`, then finishes those in hand and hands the rest back.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let places = Arc::new(Semaphore::new(self.concurrency));
        let tasks = TaskTracker::new();
        let settings = PullSettings::default();
        let mut pull = self
            .bus
            .pull(names::INTAKE, names::INTAKE_CONSUMER, settings);
        while let Some(batch) = shutdown
            .run_until_cancelled(pull.next_batch(settings.batch))
            .await
        {
            for pulled in batch {
                let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                    return;
                };
                let intake = self.clone();
                tasks.spawn(async move {
                    intake.handle(&pulled).await;
                    drop(place);
                });
            }
        }
        pull.hand_back().await;
        tasks.close();
        tasks.wait().await;
    }

    async fn handle(&self, pulled: &Pulled) {
        let acker = pulled.acker();
        let done = acker.while_working(Box::pin(self.process(pulled))).await;
        let answered = if done {
            acker.ack().await
        } else {
            acker.nak(Some(pause(pulled.delivered))).await
        };
        if let Err(error) = answered {
            // It comes again, and is then recognised.
            tracing::debug!(stream.seq = pulled.stream_seq, %error, "an intake message could not be answered");
        }
    }

    /// Whether the message may be acknowledged.
    async fn process(&self, pulled: &Pulled) -> bool {
        let judged = survive(TRIES, || Box::pin(self.judge(pulled))).await;
        let disposition = judged.unwrap_or_else(|panic| Disposition::Dead {
            reason: "panic",
            detail: panic,
        });
        match disposition {
            Disposition::Stored => true,
            Disposition::Later => false,
            Disposition::Dead { reason, detail } => self.bury(pulled, reason, &detail).await,
        }
    }

    async fn judge(&self, pulled: &Pulled) -> Disposition {
        let told = workspace_of(&pulled.subject)
            .and_then(|workspace| Ok((workspace, hops::of_message(pulled)?)));
        let (workspace, hop) = match told {
            Ok(told) => told,
            Err(refusal) => return refusal.into(),
        };
        let submission = Submission {
            payload: pulled.payload.clone(),
            explicit_id: pulled
                .header(headers::MSG_ID)
                .map(|id| own_id(workspace, id).to_owned()),
            workspace,
            events_per_second: 0,
            traceparent: pulled.header(headers::TRACEPARENT).map(str::to_owned),
            hop,
            request_id: None,
            door: Door::Nats,
            received_at: Some(pulled.published_micros),
        };
        match self.acceptor.accept(submission).await {
            Ok(_) => Disposition::Stored,
            Err(refusal) => refusal.into(),
        }
    }

    /// Keeps the message with its reason; `false` when even that cannot be done now.
    async fn bury(&self, pulled: &Pulled, reason: &str, detail: &str) -> bool {
        let now = self.clock.now_micros();
        let workspace = subjects::intake_workspace(&pulled.subject).unwrap_or_default();
        let whole = self.acceptor.limits().max_bytes;
        let kept = self
            .bus
            .refuse_pulled(workspace, pulled, reason, detail, (whole, now))
            .await;
        if let Err(error) = &kept {
            tracing::warn!(stream.seq = pulled.stream_seq, %error, "a dead letter could not be kept yet");
        }
        kept.is_ok()
    }
}

/// The event's id in a `Nats-Msg-Id`: publishers may write it with their workspace in front.
fn own_id(workspace: Uuid, id: &str) -> &str {
    let prefix = workspace.to_string();
    id.split_at_checked(prefix.len())
        .filter(|(head, _)| head.eq_ignore_ascii_case(&prefix))
        .and_then(|(_, rest)| rest.strip_prefix(':'))
        .unwrap_or(id)
}

/// How long to wait before the message is handed over for the `delivered + 1`th time.
fn pause(delivered: u64) -> Duration {
    let doublings = u32::try_from(delivered.saturating_sub(1)).unwrap_or(u32::MAX);
    FIRST_PAUSE
        .saturating_mul(2_u32.saturating_pow(doublings))
        .min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_workspace_in_front_of_an_id_is_taken_off_and_nothing_else() {
        let own = Uuid::from_u128(0xabcd);
        let other = Uuid::from_u128(2);
        let check = |id: &str, expected: &str| assert_eq!(own_id(own, id), expected);
        check("plain", "plain");
        check(&format!("{own}:e1"), "e1");
        check(&format!("{}:e1", own.to_string().to_uppercase()), "e1");
        check(&format!("{own}:"), "");
        check(&format!("{own}e1"), &format!("{own}e1"));
        check(&format!("{other}:e1"), &format!("{other}:e1"));
        check("ü", "ü");
    }

    #[test]
    fn a_message_is_checked_as_if_it_came_in() {
        let own = Uuid::from_u128(0xabcd);
        let event = |workspace: Uuid| {
            format!(
                r#"{{"id":"e1","event":{{"id":"visit","workspaceId":"{workspace}","linkId":"{own}"}},"workflowStep":{{"id":"step","kind":"KIND_EXIT"}},"timestamp":"2025-10-10T16:12:28Z","type":"step.completed","lbid":"l"}}"#
            )
        };
        let check = |subject: &str, id: Option<&str>, payload: &str| {
            let limits = EventLimits::DEFAULT;
            let refused = check_message(subject, id, None, payload.as_bytes(), &limits).err()?;
            Some((refused.problems[0].field.clone(), refused.reason_word()))
        };
        let with_hop = |hop: &str| {
            let (subject, payload) = (subjects::intake(own), event(own));
            let limits = EventLimits::DEFAULT;
            let checked = check_message(&subject, None, Some(hop), payload.as_bytes(), &limits);
            checked.err().map(|refused| refused.reason_word())
        };
        assert_eq!(
            ["1", "2", "x"].map(with_hop),
            [None, Some("loop"), Some("not_a_hop")]
        );
        let refused = |field: &str, reason| Some((field.to_owned(), reason));
        let (subject, good) = (subjects::intake(own), event(own));
        assert_eq!(check(&subject, None, &good), None);
        assert_eq!(check(&subject, Some(&format!("{own}:e1")), &good), None);
        assert_eq!(
            check(&subject, Some("e2"), &good),
            refused("id", "id_mismatch")
        );
        assert_eq!(check(&subject, None, "nojson"), refused("$", "not_json"));
        let foreign = event(Uuid::from_u128(2));
        assert_eq!(
            check(&subject, None, &foreign),
            refused("event.workspaceId", "tenant_mismatch")
        );
        let large = format!("{good}{}", " ".repeat(EventLimits::DEFAULT.max_bytes));
        assert_eq!(check(&subject, None, &large), refused("$", "too_large"));
        assert_eq!(
            check("workflow.events.v1.x.step.completed", None, &good),
            refused("subject", "unknown_subject")
        );
    }

    #[test]
    fn pauses_grow_and_end_at_the_longest() {
        let pauses: Vec<_> = [0, 1, 2, 3, 7, 64, u64::MAX]
            .map(|n| pause(n).as_millis())
            .into();
        assert_eq!(pauses, [250, 250, 500, 1_000, 15_000, 15_000, 15_000]);
    }
}
