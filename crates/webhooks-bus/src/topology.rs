//! The streams, buckets and consumers as data: applied by `webhooks migrate`, verified by every
//! service at its start. Drift is an error; nothing is ever deleted and made again.
//!
//! | stream | kind | why |
//! | --- | --- | --- |
//! | INTAKE | work queue, shortest deduplication window | a window knows no tenants: a stranger's id must not suppress another's |
//! | EVENTS | limits, 7 days, window 24 h | source for rebuild; the window is what makes event ids idempotent, and a limits stream keeps it through restarts |
//! | VERDICTS | limits, 7 days | a re-run of an event reads its verdict here |
//! | DELIVERIES-n | work queue, 16 partitions each | owed now |
//! | RETRIES-n | work queue with schedules, no limits (the server refuses `discard: new` beside schedules, and `discard: old` would lose) | owed later |
//! | HELD | limits per webhook, 8 days | owed to paused webhooks; a partition's owner records and removes what is older than 7 days, so the stream's own age limit never bites |
//! | OPS | limits, 7 days, window as long | operational events; the window makes each one be told once |
//! | REPORTS | work queue | reports gRPC could not take |
//! | DEAD | limits, 30 days | what our services could not process: never pushed out |
//! | REFUSED | limits, 30 days, the newest 1,000 of each workspace | what publishers sent and is no event: the oldest make room, so it holds nobody up |

use std::time::Duration;

use async_nats::jetstream::{
    consumer::{self, AckPolicy, DeliverPolicy},
    kv,
    stream::{Config, DiscardPolicy, RetentionPolicy, StorageType},
};

use crate::{
    bus::Bus,
    error::{BusError, unavailable},
    letters::{FIRST_REFUSED, REFUSED_PER_WORKSPACE},
    settings::BusSettings,
    subjects::{self, names},
};

/// How long an unacknowledged message stays with who pulled it: above the longest attempt (30 s)
/// with room; longer work signals progress every 20 s.
pub const ACK_WAIT: Duration = Duration::from_secs(60);

/// The same for events on their way in, which take milliseconds: what a killed process held is
/// taken up by another one after this time. Longer work signals progress every second
/// ([`crate::PROGRESS_EVERY`]), and what waits longer for its turn at fan-out does so too.
pub const QUICK_ACK_WAIT: Duration = Duration::from_secs(4);

/// The same for what management writes into Postgres: above a batch's longest commit (the statement
/// timeout), with room. Longer work signals progress every 5 s. What a killed management held is
/// taken up after this time, and history lags no longer than that.
pub const HISTORY_ACK_WAIT: Duration = Duration::from_secs(15);

/// How long event ids are remembered at least.
pub const EVENT_ID_WINDOW: Duration = Duration::from_secs(24 * 3_600);

/// How long a verdict's id is remembered: a re-run of an event within this time reuses it.
pub const VERDICT_WINDOW: Duration = Duration::from_secs(6 * 3_600);

/// Shortest window the server takes.
const SHORTEST_WINDOW: Duration = Duration::from_millis(100);

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// How long HELD keeps a message at most: a day longer than anything is held.
pub const HELD_MAX_AGE: Duration = Duration::from_secs(8 * 24 * 3_600);

/// Most bytes of operational events; the oldest go first.
const OPS_MAX_BYTES: i64 = 128 * 1024 * 1024;

/// Largest message of a stream that carries whole bodies: 256 KiB and room for the snapshot and
/// headers; a verdict part holds 256 snapshots.
const MAX_MESSAGE: i32 = 1_000_000;

/// Oldest server that has schedules, batches and the multi-filter consumers we need.
pub const MIN_SERVER: (u32, u32) = (2, 14);

/// Every stream.
#[must_use]
pub fn streams(settings: &BusSettings) -> Vec<Config> {
    let base = |name: &str, subjects: Vec<String>| Config {
        name: name.to_owned(),
        subjects,
        storage: StorageType::File,
        num_replicas: settings.replicas,
        max_message_size: MAX_MESSAGE,
        discard: DiscardPolicy::New,
        allow_direct: true,
        allow_atomic_publish: true,
        duplicate_window: Duration::from_secs(120),
        ..Config::default()
    };
    let mut all = vec![
        Config {
            retention: RetentionPolicy::WorkQueue,
            max_bytes: settings.intake_max_bytes,
            duplicate_window: SHORTEST_WINDOW,
            // Publishers are strangers, and a batch that is begun and never ended is kept in memory.
            allow_atomic_publish: false,
            ..base(names::INTAKE, vec![subjects::INTAKE_FILTER.to_owned()])
        },
        Config {
            retention: RetentionPolicy::Limits,
            max_age: 7 * DAY,
            max_bytes: settings.events_max_bytes,
            duplicate_window: EVENT_ID_WINDOW,
            deny_delete: true,
            deny_purge: true,
            ..base(names::EVENTS, vec!["wh.evt.>".to_owned()])
        },
        Config {
            retention: RetentionPolicy::Limits,
            max_age: 7 * DAY,
            max_bytes: settings.verdicts_max_bytes,
            duplicate_window: VERDICT_WINDOW,
            ..base(names::VERDICTS, vec!["wh.vrd.>".to_owned()])
        },
        Config {
            retention: RetentionPolicy::Limits,
            max_age: HELD_MAX_AGE,
            max_bytes: settings.held_max_bytes,
            max_messages_per_subject: settings.held_per_webhook,
            discard_new_per_subject: true,
            ..base(names::HELD, vec!["wh.held.>".to_owned()])
        },
        Config {
            retention: RetentionPolicy::WorkQueue,
            max_bytes: settings.reports_max_bytes,
            ..base(names::REPORTS, vec!["wh.rpt.>".to_owned()])
        },
        Config {
            retention: RetentionPolicy::Limits,
            max_age: 7 * DAY,
            max_bytes: OPS_MAX_BYTES,
            duplicate_window: 7 * DAY,
            discard: DiscardPolicy::Old,
            ..base(names::OPS, vec![subjects::OPS_FILTER.to_owned()])
        },
        Config {
            retention: RetentionPolicy::Limits,
            max_age: 30 * DAY,
            max_bytes: settings.dead_max_bytes,
            ..base(names::DEAD, vec!["wh.dead.>".to_owned()])
        },
        Config {
            retention: RetentionPolicy::Limits,
            max_age: 30 * DAY,
            max_bytes: settings.refused_max_bytes,
            max_messages_per_subject: REFUSED_PER_WORKSPACE,
            discard: DiscardPolicy::Old,
            first_sequence: Some(FIRST_REFUSED),
            ..base(names::REFUSED, vec![subjects::REFUSED_FILTER.to_owned()])
        },
    ];
    for shard in 0..settings.shards() {
        let first = shard * names::PARTITIONS_PER_STREAM;
        let partitions = first
            ..settings
                .partitions
                .min(first + names::PARTITIONS_PER_STREAM);
        all.push(Config {
            retention: RetentionPolicy::WorkQueue,
            max_bytes: settings.deliveries_max_bytes,
            ..base(
                &names::deliveries(first),
                partitions.clone().map(subjects::deliveries_of).collect(),
            )
        });
        all.push(Config {
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::Old,
            allow_message_schedules: true,
            allow_rollup: true,
            ..base(
                &names::retries(first),
                partitions
                    .flat_map(|p| [format!("wh.sched.{p}.>"), subjects::due_of(p)])
                    .collect(),
            )
        });
    }
    all
}

/// Every bucket.
#[must_use]
pub fn buckets(settings: &BusSettings) -> Vec<kv::Config> {
    let base = |bucket: &str| kv::Config {
        bucket: bucket.to_owned(),
        history: 1,
        storage: StorageType::File,
        num_replicas: settings.replicas,
        ..kv::Config::default()
    };
    vec![
        kv::Config {
            max_bytes: 1024 * 1024 * 1024,
            ..base(names::CONFIG)
        },
        kv::Config {
            max_bytes: 256 * 1024 * 1024,
            ..base(names::STATS)
        },
        // Up to some 3 kB (computed) for an endpoint that has failed. Full, nobody's failures are counted.
        kv::Config {
            max_bytes: 1024 * 1024 * 1024,
            ..base(names::HEALTH)
        },
        kv::Config {
            max_bytes: 16 * 1024 * 1024,
            limit_markers: Some(Duration::from_secs(60)),
            ..base(names::LEASES)
        },
        kv::Config {
            max_bytes: 64 * 1024 * 1024,
            max_age: crate::CANCELLED_KEPT,
            ..base(names::CANCELLED)
        },
    ]
}

/// A consumer that several replicas of a service share.
fn shared(name: &str, max_ack_pending: i64) -> consumer::pull::Config {
    consumer::pull::Config {
        durable_name: Some(name.to_owned()),
        ack_policy: AckPolicy::Explicit,
        deliver_policy: DeliverPolicy::All,
        ack_wait: ACK_WAIT,
        max_ack_pending,
        max_deliver: -1,
        ..consumer::pull::Config::default()
    }
}

/// The shared consumers, with their streams.
#[must_use]
pub fn consumers() -> Vec<(&'static str, consumer::pull::Config)> {
    let quick = |name, max_ack_pending| consumer::pull::Config {
        ack_wait: QUICK_ACK_WAIT,
        ..shared(name, max_ack_pending)
    };
    let history = |name, max_ack_pending| consumer::pull::Config {
        ack_wait: HISTORY_ACK_WAIT,
        ..shared(name, max_ack_pending)
    };
    vec![
        (names::INTAKE, quick(names::INTAKE_CONSUMER, 10_000)),
        // What three fan-outs have in hand at the most, and some.
        (names::EVENTS, quick(names::EVENTS_CONSUMER, 65_536)),
        (names::VERDICTS, history(names::VERDICTS_CONSUMER, 20_000)),
        (names::REPORTS, history(names::REPORTS_CONSUMER, 20_000)),
        // One at a time and in order: what happened to a webhook last is what is shown.
        (names::OPS, history(names::OPS_CONSUMER, 1)),
    ]
}

/// Most messages of one partition and lane that its owner holds unacknowledged.
pub const PARTITION_ACK_PENDING: i64 = 4_096;

/// A partition's consumer on its DELIVERIES or RETRIES stream. Its state is kept in memory: what is
/// acknowledged has left the work queue anyway, an owner makes its consumers anew when it begins and
/// when they are gone, and writing their files was 12 % of the server's samples in a profile.
#[must_use]
pub fn partition_consumer(partition: u16, filter: String) -> consumer::pull::Config {
    consumer::pull::Config {
        filter_subject: filter,
        memory_storage: true,
        ..shared(&names::partition_consumer(partition), PARTITION_ACK_PENDING)
    }
}

impl Bus {
    /// Creates what is missing and updates what may be updated.
    ///
    /// # Errors
    /// When NATS is away, too old, or refuses a setting.
    pub async fn apply_topology(&self) -> Result<(), BusError> {
        self.check_version()?;
        for config in streams(self.settings()) {
            let name = config.name.clone();
            self.jetstream()
                .create_or_update_stream(config)
                .await
                .map_err(|error| BusError::Drift(format!("stream {name}: {error}")))?;
        }
        for config in buckets(self.settings()) {
            let name = config.bucket.clone();
            self.jetstream()
                .create_or_update_key_value(config)
                .await
                .map_err(|error| BusError::Drift(format!("bucket {name}: {error}")))?;
        }
        for (stream, config) in consumers() {
            self.jetstream()
                .create_consumer_on_stream(config, stream)
                .await
                .map_err(|error| BusError::Drift(format!("consumer on {stream}: {error}")))?;
        }
        Ok(())
    }

    /// Reads every setting back and names what differs: older servers ignore flags silently.
    ///
    /// # Errors
    /// [`BusError::Drift`] with all differences, [`BusError::Unavailable`] when NATS is away.
    pub async fn verify_topology(&self) -> Result<(), BusError> {
        self.check_version()?;
        let mut drift = Vec::new();
        for wanted in streams(self.settings()) {
            match self.jetstream().get_stream(&wanted.name).await {
                Ok(stream) => compare(&wanted, &stream.cached_info().config, &mut drift),
                Err(error) if self.is_connected() && missing(&error) => {
                    drift.push(format!("stream {} is missing", wanted.name));
                }
                Err(error) => return Err(unavailable(error)),
            }
        }
        for wanted in buckets(self.settings()) {
            match self
                .jetstream()
                .get_stream(format!("KV_{}", wanted.bucket))
                .await
            {
                Ok(stream) => compare_bucket(&wanted, &stream.cached_info().config, &mut drift),
                Err(error) if self.is_connected() && missing(&error) => {
                    drift.push(format!("bucket {} is missing", wanted.bucket));
                }
                Err(error) => return Err(unavailable(error)),
            }
        }
        for (stream, wanted) in consumers() {
            let name = wanted.durable_name.clone().unwrap_or_default();
            match self.consumer_config(stream, &name).await? {
                Some(found) => compare_consumer(stream, &wanted, &found, &mut drift),
                // A missing stream is told above.
                None => drift.push(format!("consumer {name} on {stream} is missing")),
            }
        }
        if drift.is_empty() {
            Ok(())
        } else {
            drift.push("run `webhooks migrate`".to_owned());
            Err(BusError::Drift(drift.join("; ")))
        }
    }

    fn check_version(&self) -> Result<(), BusError> {
        let version = self.client().server_info().version;
        if version.is_empty() {
            return Err(BusError::Unavailable("not connected yet".to_owned()));
        }
        if parse_version(&version).is_some_and(|found| found >= MIN_SERVER) {
            Ok(())
        } else {
            Err(BusError::Drift(format!(
                "nats-server {version} is too old, {}.{} or newer is needed",
                MIN_SERVER.0, MIN_SERVER.1
            )))
        }
    }
}

fn missing(error: &async_nats::jetstream::context::GetStreamError) -> bool {
    matches!(
        error.kind(),
        async_nats::jetstream::context::GetStreamErrorKind::JetStream(ref e) if e.code() == 404
    )
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

macro_rules! same {
    ($what:expr, $wanted:ident, $found:ident, $drift:ident, $($field:ident),+ $(,)?) => {
        $(if $wanted.$field != $found.$field {
            $drift.push(format!(
                "{}: {} is {:?}, must be {:?}",
                $what, stringify!($field), $found.$field, $wanted.$field
            ));
        })+
    };
}

/// A limit that is smaller than what is asked for. More room is no drift, so that a limit can be raised
/// while services still run with the smaller one. The server says −1 where there is none.
fn room(what: &str, field: &str, wanted: i64, found: i64, drift: &mut Vec<String>) {
    let unlimited = |limit: i64| limit <= 0;
    if !unlimited(found) && (unlimited(wanted) || found < wanted) {
        drift.push(format!("{what}: {field} is {found}, must be {wanted}"));
    }
}

fn compare(wanted: &Config, found: &Config, drift: &mut Vec<String>) {
    let what = format!("stream {}", wanted.name);
    same!(
        what,
        wanted,
        found,
        drift,
        subjects,
        retention,
        discard,
        discard_new_per_subject,
        storage,
        num_replicas,
        max_age,
        duplicate_window,
        deny_delete,
        deny_purge,
        allow_rollup,
        allow_message_schedules,
        allow_atomic_publish,
        allow_direct,
        first_sequence,
    );
    for (field, wanted, found) in [
        ("max_bytes", wanted.max_bytes, found.max_bytes),
        (
            "max_messages_per_subject",
            wanted.max_messages_per_subject,
            found.max_messages_per_subject,
        ),
        (
            "max_message_size",
            i64::from(wanted.max_message_size),
            i64::from(found.max_message_size),
        ),
    ] {
        room(&what, field, wanted, found, drift);
    }
}

/// A bucket is a stream that the client lays out.
fn compare_bucket(wanted: &kv::Config, found: &Config, drift: &mut Vec<String>) {
    let what = format!("bucket {}", wanted.bucket);
    same!(what, wanted, found, drift, storage, num_replicas, max_age);
    room(&what, "max_bytes", wanted.max_bytes, found.max_bytes, drift);
    if found.max_messages_per_subject != wanted.history {
        drift.push(format!(
            "{what}: history is {}, must be {}",
            found.max_messages_per_subject, wanted.history
        ));
    }
    if wanted.limit_markers.is_some() && !found.allow_message_ttl {
        drift.push(format!("{what}: its keys must be able to expire"));
    }
}

fn compare_consumer(
    stream: &str,
    wanted: &consumer::pull::Config,
    found: &consumer::Config,
    drift: &mut Vec<String>,
) {
    let name = wanted.durable_name.as_deref().unwrap_or_default();
    let what = format!("consumer {name} on {stream}");
    same!(
        what,
        wanted,
        found,
        drift,
        ack_policy,
        deliver_policy,
        ack_wait,
        max_ack_pending,
        max_deliver,
        filter_subject,
        memory_storage,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(parse_version("2.15.1"), Some((2, 15)));
        assert!(parse_version("2.9.25") < Some(MIN_SERVER));
        assert_eq!(parse_version("dev"), None);
    }

    #[test]
    fn every_partition_has_its_subjects_in_one_stream() {
        let settings = BusSettings {
            partitions: 40,
            ..BusSettings::default()
        };
        let all = streams(&settings);
        for partition in 0..40 {
            let homes: Vec<_> = all
                .iter()
                .filter(|s| s.subjects.contains(&subjects::deliveries_of(partition)))
                .map(|s| s.name.clone())
                .collect();
            assert_eq!(homes, [names::deliveries(partition)]);
        }
    }
}
