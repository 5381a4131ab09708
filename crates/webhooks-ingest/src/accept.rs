//! The one way in. HTTP, gRPC and NATS all end in [`Acceptor::accept`].
//!
//! An event is accepted when the EVENTS stream has acknowledged it, and not a moment before: every
//! doubt is a refusal that says "come again with the same id". Ids make coming again safe. The
//! stream keeps them for a day and names the first message of a repeated id; reading that message
//! tells a repeat (the same bytes: accepted, delivered once) from a conflict (other bytes: the
//! first one wins).
//!
//! Nothing waits here without a limit: a publish has a deadline, and no more than
//! [`AcceptSettings::max_in_flight`] are under way at once; what comes beyond is refused at once
//! rather than queued.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::Semaphore;
use tracing::Instrument as _;
use uuid::Uuid;
use webhooks_bus::{Bus, Outgoing, PublishError, headers, names, subjects};
use webhooks_domain::{
    event::{EventLimits, ParsedEvent, event_identity, parse_event_of},
    hop::Hop,
};
use webhooks_runtime::{
    Clock,
    telemetry::{DONE, current_traceparent, next_traceparent, set_parent},
};

use crate::{
    hops,
    quota::Quota,
    refusal::{Refusal, RefusalKind},
};

/// Which way an event came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// `POST /v1/events`.
    Http,
    /// `EventService`.
    Grpc,
    /// The INTAKE stream.
    Nats,
}

impl Door {
    /// The word in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Nats => "nats",
        }
    }
}

/// An event as a door hands it over.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The event's bytes, kept as they are.
    pub payload: Bytes,
    /// The id beside the event: `Idempotency-Key`, the gRPC field or `Nats-Msg-Id`.
    pub explicit_id: Option<String>,
    /// The workspace the caller may publish for.
    pub workspace: Uuid,
    /// Events per second that it may publish here; 0 = as the installation says.
    pub events_per_second: u32,
    /// The caller's trace, continued when valid.
    pub traceparent: Option<String>,
    /// How many deliveries lie behind it, as the caller says.
    pub hop: Hop,
    /// The id of the request that it came in, where its door has such ids.
    pub request_id: Option<String>,
    /// Which way it came.
    pub door: Door,
    /// When the publisher got a durable yes already (microseconds since the epoch); `None` = now.
    pub received_at: Option<i64>,
}

/// A durable yes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The event's id.
    pub id: String,
    /// When the event was first accepted, microseconds since the epoch.
    pub accepted_at: i64,
    /// It had been accepted before; nothing new was stored.
    pub duplicate: bool,
}

/// Limits of accepting.
#[derive(Debug, Clone)]
pub struct AcceptSettings {
    /// Longest wait for JetStream's acknowledgement of one event.
    pub publish_timeout: Duration,
    /// Most publishes under way at once in this process.
    pub max_in_flight: usize,
    /// Events per second and workspace at HTTP and gRPC; 0 = no quota.
    pub quota_per_second: u32,
    /// What an event may be.
    pub limits: EventLimits,
}

/// The function behind every door. Clones share everything.
#[derive(Clone)]
pub struct Acceptor(Arc<Inner>);

struct Inner {
    bus: Bus,
    clock: Arc<dyn Clock>,
    settings: AcceptSettings,
    slots: Semaphore,
    quota: Quota,
    pulse: Pulse,
    /// Why nothing is taken at this moment.
    held_back: Mutex<Option<String>>,
}

/// When publishing last worked and last failed: readiness looks at it, because a stream whose disk
/// is full answers nothing at all while its server still says it is well.
#[derive(Debug, Default)]
struct Pulse {
    worked_at: AtomicI64,
    failed_at: AtomicI64,
}

impl Acceptor {
    /// Accepts into this bus.
    #[must_use]
    pub fn new(bus: Bus, clock: Arc<dyn Clock>, settings: AcceptSettings) -> Self {
        Self(Arc::new(Inner {
            slots: Semaphore::new(settings.max_in_flight),
            quota: Quota::new(settings.quota_per_second),
            pulse: Pulse::default(),
            held_back: Mutex::default(),
            bus,
            clock,
            settings,
        }))
    }

    /// Validates an event and makes it durable.
    ///
    /// # Errors
    /// Every [`RefusalKind`] but those of a single door. After [`RefusalKind::Unavailable`] the
    /// event may be stored all the same; the same id is then a duplicate.
    pub async fn accept(&self, submission: Submission) -> Result<Accepted, Refusal> {
        let begun = Instant::now();
        let span = tracing::info_span!("event.accept", door = submission.door.as_str());
        if let Some(traceparent) = &submission.traceparent {
            set_parent(&span, traceparent);
        }
        let (door, workspace) = (submission.door, submission.workspace);
        let request_id = submission.request_id.clone();
        let result = self.0.accept(submission).instrument(span).await;
        let took = begun.elapsed();
        record(door, workspace, request_id.as_deref(), took, &result);
        result
    }

    /// Whether publishes went unacknowledged in the last `within` and none has worked since.
    #[must_use]
    pub fn is_failing(&self, within: Duration) -> bool {
        let failed = self.0.pulse.failed_at.load(Ordering::Relaxed);
        let worked = self.0.pulse.worked_at.load(Ordering::Relaxed);
        let since = self.0.clock.now_micros().saturating_sub(failed);
        failed > worked && u128::try_from(since).is_ok_and(|since| since < within.as_micros())
    }

    /// Takes no event while there is a reason; `None` = takes them again. Said over and over.
    pub fn hold_back(&self, reason: Option<String>) {
        let mut held_back = self.0.held_back();
        if held_back.is_none() != reason.is_none() {
            match &reason {
                Some(reason) => tracing::error!(reason, "ingest.held_back"),
                None => tracing::info!("ingest.goes_on"),
            }
        }
        *held_back = reason;
    }

    /// Why no event is taken at this moment, if none is.
    #[must_use]
    pub fn held_back(&self) -> Option<String> {
        self.0.held_back().clone()
    }

    /// What an event may be.
    #[must_use]
    pub fn limits(&self) -> &EventLimits {
        &self.0.settings.limits
    }
}

impl Inner {
    fn held_back(&self) -> MutexGuard<'_, Option<String>> {
        self.held_back
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn accept(&self, submission: Submission) -> Result<Accepted, Refusal> {
        // Before the quota: what goes in a circle uses up nothing of what others may publish.
        hops::judge(submission.hop)?;
        // INTAKE's publishers have JetStream's yes already: their events are not refused for being many.
        if submission.door != Door::Nats
            && !self.quota.take(
                submission.workspace,
                submission.events_per_second,
                self.clock.now_micros(),
            )
        {
            return Err(Refusal::new(
                RefusalKind::Quota,
                "the workspace publishes more events per second than its quota",
            ));
        }
        let (parsed, id) = examine(
            &submission.payload,
            &self.settings.limits,
            submission.workspace,
            submission.explicit_id.as_deref(),
        )?;
        if let Some(reason) = &*self.held_back() {
            return Err(Refusal {
                detail: Some(reason.clone()),
                ..Refusal::new(
                    RefusalKind::Full,
                    "what is to be delivered later fills its place; come again",
                )
                .about(&id)
            });
        }
        let Ok(_slot) = self.slots.try_acquire() else {
            return Err(Refusal::new(
                RefusalKind::Overloaded,
                "too many events are being stored at this moment",
            )
            .about(&id));
        };
        let result = self.store(&parsed, &id, &submission).await;
        result.map_err(|refusal| refusal.about(&id))
    }

    async fn store(
        &self,
        parsed: &ParsedEvent,
        id: &str,
        submission: &Submission,
    ) -> Result<Accepted, Refusal> {
        let accepted_at = submission
            .received_at
            .unwrap_or_else(|| self.clock.now_micros());
        let message = self.message(parsed, id, accepted_at, submission);
        let stored = match self
            .bus
            .publish(message, self.settings.publish_timeout)
            .await
        {
            Ok(stored) => stored,
            Err(error) => return Err(self.failed(error)),
        };
        self.pulse
            .worked_at
            .store(self.clock.now_micros(), Ordering::Relaxed);
        let first = Accepted {
            id: id.to_owned(),
            accepted_at,
            duplicate: false,
        };
        if stored.duplicate {
            self.compare(first, stored.seq, &submission.payload).await
        } else {
            Ok(first)
        }
    }

    /// The event as EVENTS keeps it: the received bytes, everything else in headers.
    fn message(
        &self,
        parsed: &ParsedEvent,
        id: &str,
        accepted_at: i64,
        submission: &Submission,
    ) -> Outgoing {
        let workspace = submission.workspace;
        let mut message = Outgoing::new(
            subjects::event(workspace, parsed.link_id),
            &message_id(workspace, id),
            submission.payload.clone(),
        );
        let traceparent = current_traceparent()
            .unwrap_or_else(|| next_traceparent(submission.traceparent.as_deref(), rand::random()));
        for (name, value) in [
            (headers::EVENT_ID, id),
            (headers::WORKSPACE, &*workspace.to_string()),
            (headers::ACCEPTED_AT, &*accepted_at.to_string()),
            (headers::TRACEPARENT, &*traceparent),
        ] {
            message.headers.insert(name, value);
        }
        if submission.hop != Hop::default() {
            let hop = submission.hop.get().to_string();
            message.headers.insert(headers::HOP, hop.as_str());
        }
        message
    }

    /// The id was there before: is it the same event, or another one under its name?
    async fn compare(
        &self,
        mine: Accepted,
        seq: u64,
        payload: &Bytes,
    ) -> Result<Accepted, Refusal> {
        let first = match self.bus.get(names::EVENTS, seq).await {
            Ok(first) => first,
            Err(error) => return Err(Refusal::unavailable(error)),
        };
        // Removed since (an operator, the stream's limits): the id was accepted, and that is all we know.
        let Some(first) = first else {
            return Ok(Accepted {
                duplicate: true,
                ..mine
            });
        };
        if first.payload != *payload {
            return Err(Refusal::of_field(
                RefusalKind::Conflict,
                "id",
                "conflict",
                "an event with this id and another body was accepted before",
            ));
        }
        let accepted_at = first
            .header(headers::ACCEPTED_AT)
            .and_then(|micros| micros.parse().ok())
            .unwrap_or(mine.accepted_at);
        // A repeat of our own publish, whose first acknowledgement was lost, is no duplicate.
        let duplicate = accepted_at != mine.accepted_at;
        Ok(Accepted {
            accepted_at,
            duplicate,
            ..mine
        })
    }

    fn failed(&self, error: PublishError) -> Refusal {
        match error {
            PublishError::Full(detail) => Refusal {
                detail: Some(detail),
                ..Refusal::new(
                    RefusalKind::Full,
                    "the stream of events is full; come again",
                )
            },
            PublishError::TooLarge(detail) => Refusal {
                detail: Some(detail),
                ..Refusal::of_field(
                    RefusalKind::TooLarge,
                    "$",
                    "too_large",
                    "the event is too large",
                )
            },
            PublishError::Unavailable(detail) | PublishError::WrongLast(detail) => {
                self.pulse
                    .failed_at
                    .store(self.clock.now_micros(), Ordering::Relaxed);
                Refusal::unavailable(detail)
            }
        }
    }
}

/// The stream's deduplication id: a workspace can only ever meet its own.
fn message_id(workspace: Uuid, id: &str) -> String {
    format!("{workspace}:{id}")
}

/// What every door asks of an event before it is stored: the event, and the id it is kept under.
pub(crate) fn examine(
    payload: &[u8],
    limits: &EventLimits,
    workspace: Uuid,
    explicit_id: Option<&str>,
) -> Result<(ParsedEvent, String), Refusal> {
    let parsed = parse_event_of(payload, limits, workspace)?;
    let id = event_identity(&parsed, explicit_id)?;
    Ok((parsed, id))
}

/// One wide line and the counters.
fn record(
    door: Door,
    workspace: Uuid,
    request_id: Option<&str>,
    took: Duration,
    result: &Result<Accepted, Refusal>,
) {
    let label = match result {
        Ok(accepted) if accepted.duplicate => "duplicate",
        Ok(_) => "accepted",
        Err(refusal) => refusal.kind.label(),
    };
    metrics::counter!("webhooks_ingest_events_total", "door" => door.as_str(), "result" => label)
        .increment(1);
    metrics::histogram!("webhooks_ingest_accept_seconds", "door" => door.as_str())
        .record(took.as_secs_f64());
    let duration_ms = took.as_secs_f64() * 1_000.0;
    match result {
        Ok(accepted) => tracing::info!(
            target: DONE,
            door = door.as_str(),
            workspace.id = %workspace,
            request.id = request_id,
            event.id = accepted.id,
            result = label,
            duration_ms,
            "event.received"
        ),
        Err(refusal) => tracing::info!(
            door = door.as_str(),
            workspace.id = %workspace,
            request.id = request_id,
            event.id = refusal.event_id.as_deref(),
            result = label,
            reason = refusal.reason_word(),
            // Not `message`: that is the key of the line's own text.
            refusal.message = refusal.message,
            detail = refusal.detail.as_deref(),
            duration_ms,
            "event.refused"
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fmt, io};

    use serde::{
        Deserialize, Deserializer,
        de::{Error as _, IgnoredAny, MapAccess, Visitor},
    };
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Captured {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    /// The keys of an object that has none of them twice.
    struct Keys(BTreeSet<String>);

    impl<'de> Deserialize<'de> for Keys {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Each;

            impl<'de> Visitor<'de> for Each {
                type Value = Keys;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("an object")
                }

                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                    let mut keys = BTreeSet::new();
                    while let Some((key, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                        if !keys.insert(key.clone()) {
                            return Err(A::Error::custom(format!("{key} stands there twice")));
                        }
                    }
                    Ok(Keys(keys))
                }
            }

            deserializer.deserialize_map(Each)
        }
    }

    #[test]
    fn what_is_logged_of_an_event_has_no_key_twice() {
        assert!(serde_json::from_str::<Keys>(r#"{"message":"a","message":"b"}"#).is_err());
        let captured = Captured::default();
        // As the services log.
        let subscriber = tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_writer(captured.clone())
            .finish();
        let accepted = Accepted {
            id: "an-id".to_owned(),
            accepted_at: 0,
            duplicate: false,
        };
        tracing::subscriber::with_default(subscriber, || {
            for result in [Ok(accepted), Err(Refusal::unavailable("no answer"))] {
                record(
                    Door::Http,
                    Uuid::from_u128(1),
                    None,
                    Duration::ZERO,
                    &result,
                );
            }
        });
        let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<Keys> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[1].0.contains("refusal.message"), "{text}");
        assert!(
            lines.iter().all(|line| line.0.contains("message")),
            "{text}"
        );
    }

    #[test]
    fn an_id_of_one_workspace_is_never_that_of_another() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_ne!(message_id(a, "x"), message_id(b, "x"));
        // The workspace has a fixed length, so no id can imitate another workspace's prefix.
        assert_eq!(message_id(a, "x").find(':'), Some(36));
    }
}
