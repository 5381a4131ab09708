//! Waiting between tries against our own infrastructure (NATS, Postgres, gRPC). Not the customers'
//! retry policy: that one is in the domain.

use std::{fmt::Display, future::Future, time::Duration};

use tokio_util::sync::CancellationToken;

/// A growing pause with a cap, spread by jitter so that a fleet does not come back in step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// The pause after the first failure.
    pub base: Duration,
    /// How much longer each further pause is; at least 1.
    pub factor: f64,
    /// The longest pause.
    pub cap: Duration,
    /// The share of a pause that chance may take away: 0 none, 1 all of it.
    pub jitter: f64,
}

impl Backoff {
    /// For connections to our own servers: 100 ms, doubling to 5 s, half of it chance.
    pub const CONNECT: Self = Self {
        base: Duration::from_millis(100),
        factor: 2.0,
        cap: Duration::from_secs(5),
        jitter: 0.5,
    };

    /// The pause after `failures` failures in a row (from 1; 0 counts as 1), for a random `draw` in `0..1`.
    #[must_use]
    pub fn delay(&self, failures: u32, draw: f64) -> Duration {
        let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = self.base.as_secs_f64() * self.factor.max(1.0).powi(exponent);
        let capped = grown.min(self.cap.as_secs_f64());
        Duration::from_secs_f64(capped * (1.0 - self.jitter.clamp(0.0, 1.0) * draw.clamp(0.0, 1.0)))
    }
}

/// Tries until it works. Each failure is logged as a warning with `what`. `None` when `stop` was
/// cancelled first. The pause is interruptible, the attempt itself is not.
pub async fn retry<T, E, F>(
    what: &str,
    backoff: Backoff,
    stop: &CancellationToken,
    mut attempt: impl FnMut() -> F,
) -> Option<T>
where
    E: Display,
    F: Future<Output = Result<T, E>>,
{
    let mut failures = 0_u32;
    while !stop.is_cancelled() {
        match attempt().await {
            Ok(value) => return Some(value),
            Err(error) => {
                failures = failures.saturating_add(1);
                let pause = backoff.delay(failures, rand::random());
                tracing::warn!(
                    what,
                    failures,
                    error = %format_args!("{error:#}"),
                    pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
                    "{what} failed, trying again"
                );
                if stop
                    .run_until_cancelled(tokio::time::sleep(pause))
                    .await
                    .is_none()
                {
                    break;
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{Backoff, CancellationToken, Duration, retry};

    const PLAIN: Backoff = Backoff {
        base: Duration::from_millis(100),
        factor: 2.0,
        cap: Duration::from_secs(1),
        jitter: 0.0,
    };

    const QUICK: Backoff = Backoff {
        base: Duration::from_millis(1),
        ..PLAIN
    };

    #[test]
    fn pauses_double_up_to_the_cap() {
        let delays: Vec<_> = (0..=6)
            .map(|failures| PLAIN.delay(failures, 0.9).as_millis())
            .collect();
        assert_eq!(delays, [100, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(PLAIN.delay(u32::MAX, 0.0), Duration::from_secs(1));
    }

    #[test]
    fn jitter_only_shortens_and_by_its_share_at_most() {
        let jittered = Backoff {
            jitter: 0.5,
            ..PLAIN
        };
        assert_eq!(jittered.delay(3, 0.0), Duration::from_millis(400));
        assert_eq!(jittered.delay(3, 1.0), Duration::from_millis(200));
        assert_eq!(
            jittered.delay(3, 7.0),
            Duration::from_millis(200),
            "a draw out of range is clamped"
        );
    }

    #[tokio::test]
    async fn it_tries_until_it_works() {
        let mut left = 3;
        let stop = CancellationToken::new();
        let result = retry("the test", QUICK, &stop, || {
            left -= 1;
            std::future::ready(if left == 0 {
                Ok("done")
            } else {
                Err("not yet")
            })
        });
        assert_eq!(result.await, Some("done"));
    }

    #[tokio::test]
    async fn a_stop_ends_it() {
        let stop = CancellationToken::new();
        let result = retry("the test", PLAIN, &stop, || {
            stop.cancel();
            std::future::ready(Err::<(), _>("never"))
        });
        assert_eq!(result.await, None);
    }
}
