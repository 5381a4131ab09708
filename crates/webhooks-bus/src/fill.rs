//! The alarm before a stream is full: a full one refuses, and then publishers wait.

use std::{collections::HashMap, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{bus::Bus, topology};

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

/// Shows how full each stream with a limit is (`webhooks_stream_fill_ratio`), and logs once when one
/// passes a mark, until `shutdown`. One service does it for all.
pub async fn watch_fill(bus: &Bus, shutdown: CancellationToken) {
    let limited = topology::streams(bus.settings())
        .into_iter()
        .filter(|stream| stream.max_bytes > 0);
    let names: Vec<String> = limited.map(|stream| stream.name).collect();
    let watching = async {
        let mut levels: HashMap<&str, Level> = HashMap::new();
        loop {
            for name in &names {
                // NATS away is told elsewhere.
                let Ok(fill) = bus.fill(name).await else {
                    break;
                };
                let ratio = fill.ratio();
                metrics::gauge!("webhooks_stream_fill_ratio", "stream" => name.clone()).set(ratio);
                let level = Level::of(ratio);
                if levels.insert(name, level).unwrap_or_default() == level {
                    continue;
                }
                let percent = ratio * 100.0;
                match level {
                    Level::Fine => tracing::info!(stream = name, percent, "stream.has_room"),
                    Level::Filling => tracing::warn!(stream = name, percent, "stream.filling"),
                    Level::NearlyFull => {
                        tracing::error!(stream = name, percent, "stream.nearly_full");
                    }
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    shutdown.run_until_cancelled(watching).await;
}

#[cfg(test)]
mod tests {
    use super::Level;

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
