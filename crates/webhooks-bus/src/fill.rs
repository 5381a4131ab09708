//! The alarm before a stream is full, and the stop where the server knows no limit.
//!
//! A stream with a limit (those behind buckets are such) refuses when it is full, and then publishers wait. A stream with schedules can
//! have none (RETRIES: the server refuses `discard: new` beside schedules, and `discard: old` would lose),
//! so it would grow until the disk is full. There the stop is ours: from 85 % of what it is meant for on,
//! ingest takes no more events, and what is owed later can go out and make room.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{bus::Bus, read::Fill, settings::BusSettings, subjects::names, topology};

/// How often streams are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// From this share on somebody should look.
pub const FILLING: f64 = 0.70;

/// From this share on somebody must act.
pub const NEARLY_FULL: f64 = 0.85;

/// How bad it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Level {
    #[default]
    Fine,
    Filling,
    NearlyFull,
}

impl Level {
    fn of(ratio: f64) -> Self {
        if ratio >= NEARLY_FULL {
            Self::NearlyFull
        } else if ratio >= FILLING {
            Self::Filling
        } else {
            Self::Fine
        }
    }
}

/// Below this share a stop that began at [`NEARLY_FULL`] ends: not at the same mark, or it would flicker.
pub const ROOM_AGAIN: f64 = 0.80;

/// A stream that is looked at.
struct Watched {
    name: String,
    /// Ours, for streams that the server puts no limit to; 0 = the server's holds.
    max_bytes: u64,
    level: Level,
    /// It is too full for more events to be taken.
    stops: bool,
}

impl Watched {
    fn all(settings: &BusSettings) -> Vec<Self> {
        let watched = |name, max_bytes| Self {
            name,
            max_bytes,
            level: Level::Fine,
            stops: false,
        };
        let streams = topology::streams(settings).into_iter().map(|stream| {
            let no_limit = u64::try_from(settings.retries_max_bytes).unwrap_or(0);
            watched(stream.name, if stream.max_bytes > 0 { 0 } else { no_limit })
        });
        // A bucket that is full refuses what its writer repeats for ever.
        let buckets = topology::buckets(settings).into_iter();
        let buckets = buckets.map(|bucket| watched(format!("KV_{}", bucket.bucket), 0));
        streams.chain(buckets).collect()
    }

    fn note(&mut self, fill: Fill) {
        let name = || self.name.clone();
        let fill = Fill {
            max_bytes: if self.max_bytes > 0 {
                self.max_bytes
            } else {
                fill.max_bytes
            },
            ..fill
        };
        let ratio = fill.ratio();
        metrics::gauge!("webhooks_stream_fill_ratio", "stream" => name()).set(ratio);
        metrics::gauge!("webhooks_stream_bytes", "stream" => name()).set(number(fill.bytes));
        metrics::gauge!("webhooks_stream_messages", "stream" => name()).set(number(fill.messages));
        metrics::gauge!("webhooks_stream_oldest_seconds", "stream" => name())
            .set(fill.oldest.as_secs_f64());
        self.stops = self.max_bytes > 0 && stops(self.stops, ratio);
        let level = Level::of(ratio);
        if std::mem::replace(&mut self.level, level) == level {
            return;
        }
        let (stream, percent) = (self.name.as_str(), ratio * 100.0);
        match level {
            Level::Fine => tracing::info!(stream, percent, "stream.has_room"),
            Level::Filling => tracing::warn!(stream, percent, "stream.filling"),
            Level::NearlyFull => tracing::error!(stream, percent, "stream.nearly_full"),
        }
    }
}

/// Whether no more is to be taken at this share, when none was taken `before`.
fn stops(before: bool, ratio: f64) -> bool {
    ratio >= if before { ROOM_AGAIN } else { NEARLY_FULL }
}

fn number(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a gauge needs no more")]
    let number = count as f64;
    number
}

/// Shows how full each stream is, those behind buckets too, how many messages it has and how old the oldest is
/// (`webhooks_stream_…`), and how far fan-out is behind (`webhooks_events_lag`); logs once when a stream
/// passes a mark. RETRIES has no limit at the server, so `stop` is told at every look why nothing more
/// may be taken, or that it may. Until `shutdown`: one question for each stream every five seconds.
pub async fn watch_fill(bus: &Bus, shutdown: CancellationToken, stop: impl Fn(Option<String>)) {
    let mut streams = Watched::all(bus.settings());
    let watching = async {
        loop {
            for stream in &mut streams {
                // NATS away is told elsewhere.
                let Ok(fill) = bus.fill(&stream.name).await else {
                    break;
                };
                stream.note(fill);
            }
            if let Ok(fanout) = bus
                .consumer_state(names::EVENTS, names::EVENTS_CONSUMER)
                .await
            {
                let behind = fanout.pending.saturating_add(fanout.unacknowledged);
                metrics::gauge!("webhooks_events_lag").set(number(behind));
            }
            let full = streams.iter().find(|stream| stream.stops);
            stop(full.map(|stream| {
                let (name, percent) = (&stream.name, NEARLY_FULL * 100.0);
                format!("{name} has reached {percent} % of WEBHOOKS_RETRIES_MAX_BYTES")
            }));
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    shutdown.run_until_cancelled(watching).await;
}

#[cfg(test)]
mod tests {
    use super::{Level, stops};

    #[test]
    fn a_stop_begins_at_eighty_five_and_ends_below_eighty() {
        let mut stopped = false;
        for (ratio, expected) in [
            (0.84, false),
            (0.85, true),
            (0.84, true),
            (0.80, true),
            (0.79, false),
            (0.84, false),
            (1.2, true),
        ] {
            stopped = stops(stopped, ratio);
            assert_eq!(stopped, expected, "{ratio}");
        }
    }

    #[test]
    fn f_09_the_marks_are_at_seventy_and_eighty_five() {
        for (ratio, level) in [
            (0.0, Level::Fine),
            (0.699, Level::Fine),
            (0.70, Level::Filling),
            (0.849, Level::Filling),
            (0.85, Level::NearlyFull),
            (1.0, Level::NearlyFull),
        ] {
            assert_eq!(Level::of(ratio), level, "{ratio}");
        }
    }
}
