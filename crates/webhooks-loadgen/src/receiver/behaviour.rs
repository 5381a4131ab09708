//! How an endpoint behaves, by its path.

use std::time::Duration;

use http::StatusCode;

/// Longest hang: anything longer is every sender's timeout.
pub const MAX_HANG: Duration = Duration::from_secs(600);

/// What a delivery meets. Anything may follow in the path (`/status/500/orders`), so that several
/// webhooks can share a behaviour and still be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// `/status/<n>` answers so; every path not named here answers 200.
    Answer(StatusCode),
    /// `/hang/<seconds>`: 200 after so long, at most [`MAX_HANG`].
    Hang(Duration),
    /// `/reset`: the connection is reset after the body was read.
    Reset,
    /// `/flaky/<permille>`: 500 for this share, at random, else 200.
    Flaky(u16),
    /// `/retry-after/<seconds>`: 429 with `Retry-After`.
    RetryAfter(u32),
}

impl Behaviour {
    /// Reads a path. A number that is missing or makes no sense is the mildest there is.
    #[must_use]
    pub fn of(path: &str) -> Self {
        let mut parts = path.trim_start_matches('/').split('/');
        let (word, number) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
        match word {
            "status" => {
                let status = number
                    .parse()
                    .ok()
                    .filter(|status| (200..600).contains(status));
                Self::Answer(
                    status
                        .and_then(|status| StatusCode::from_u16(status).ok())
                        .unwrap_or(StatusCode::OK),
                )
            }
            "hang" => {
                let seconds = number
                    .parse()
                    .ok()
                    .filter(|seconds: &f64| seconds.is_finite() && *seconds >= 0.0);
                Self::Hang(Duration::from_secs_f64(
                    seconds.unwrap_or(0.0).min(MAX_HANG.as_secs_f64()),
                ))
            }
            "reset" => Self::Reset,
            "flaky" => Self::Flaky(number.parse().unwrap_or(0).min(1_000)),
            "retry-after" => Self::RetryAfter(number.parse().unwrap_or(1)),
            _ => Self::Answer(StatusCode::OK),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_says_how_it_behaves() {
        let check =
            |path: &str, expected: Behaviour| assert_eq!(Behaviour::of(path), expected, "{path}");
        let ok = Behaviour::Answer(StatusCode::OK);
        check("/ok", ok);
        check("/ok/anything", ok);
        check("/", ok);
        check("/hook", ok);
        check("/status/410/x", Behaviour::Answer(StatusCode::GONE));
        check("/status/100", ok);
        check("/status/none", ok);
        check("/hang/0.5", Behaviour::Hang(Duration::from_millis(500)));
        check("/hang/1e30", Behaviour::Hang(MAX_HANG));
        check("/hang/NaN", Behaviour::Hang(Duration::ZERO));
        check("/hang/-1", Behaviour::Hang(Duration::ZERO));
        check("/reset", Behaviour::Reset);
        check("/flaky/300/a", Behaviour::Flaky(300));
        check("/flaky/5000", Behaviour::Flaky(1_000));
        check("/retry-after/7", Behaviour::RetryAfter(7));
    }
}
