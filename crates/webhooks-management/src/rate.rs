//! How many calls a token (or, without one, an address) may make in a window of time.
//!
//! A window opens with the first call and closes after its length; then the count starts anew.
//! Counted in this process only: with several replicas the limit is per replica, which bounds load
//! and is all it is for.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use crate::error::{ManagementError, whole_seconds};

/// Most windows kept at once. Beyond that, those without a window of their own share one.
const MAX_WINDOWS: usize = 100_000;

/// How much is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimits {
    /// Calls a token may make in a window.
    pub per_token: u32,
    /// Calls without a valid token that an address may make in a window.
    pub per_address: u32,
    /// The window's length.
    pub window: Duration,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self {
            per_token: 600,
            per_address: 300,
            window: Duration::from_secs(60),
        }
    }
}

/// Whose window it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Payer {
    /// A token, by its id.
    Token(String),
    /// Someone without a valid token.
    Address(IpAddr),
    /// Everyone who found the table full.
    Rest,
}

/// Where a payer stands after a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Calls allowed in the window.
    pub(crate) limit: u32,
    /// Calls left in it.
    pub(crate) remaining: u32,
    /// When it closes.
    pub(crate) reset: Duration,
    /// The window's length.
    pub(crate) window: Duration,
    /// This call was one too many.
    pub(crate) over: bool,
}

impl Standing {
    /// Refuses a call that was one too many.
    ///
    /// # Errors
    /// [`ManagementError::RateLimited`].
    pub(crate) fn admit(self) -> Result<(), ManagementError> {
        if self.over {
            Err(ManagementError::RateLimited(self.reset))
        } else {
            Ok(())
        }
    }

    /// The headers that every answer carries. `now_seconds` is the Unix time.
    pub(crate) fn write(self, headers: &mut HeaderMap, now_seconds: i64) {
        let reset = whole_seconds(self.reset);
        let reset_at = now_seconds.saturating_add(i64::try_from(reset).unwrap_or(i64::MAX));
        let Self {
            limit, remaining, ..
        } = self;
        let window = self.window.as_secs();
        let lines: [(&'static str, String); 8] = [
            (
                "ratelimit-policy",
                format!("\"default\";q={limit};w={window}"),
            ),
            ("ratelimit", format!("\"default\";r={remaining};t={reset}")),
            ("ratelimit-limit", limit.to_string()),
            ("ratelimit-remaining", remaining.to_string()),
            ("ratelimit-reset", reset.to_string()),
            ("x-ratelimit-limit", limit.to_string()),
            ("x-ratelimit-remaining", remaining.to_string()),
            ("x-ratelimit-reset", reset_at.to_string()),
        ];
        for (name, value) in lines {
            let value = HeaderValue::try_from(value).expect("digits and quotes are header text");
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// The windows.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    limits: RateLimits,
    windows: Mutex<HashMap<Payer, Window>>,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    opened: Instant,
    used: u32,
}

impl RateLimiter {
    /// No window is open yet.
    pub(crate) fn new(limits: RateLimits) -> Self {
        Self {
            limits,
            windows: Mutex::default(),
        }
    }

    /// How long a payer that has nothing left has to wait; `None` = something is left.
    pub(crate) fn spent(&self, payer: &Payer, now: Instant) -> Option<Duration> {
        let windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let window = windows.get(payer)?;
        let passed = now.duration_since(window.opened);
        let left = self.limits.window.checked_sub(passed)?;
        (window.used >= self.limit(payer) && !left.is_zero()).then_some(left)
    }

    fn limit(&self, payer: &Payer) -> u32 {
        match payer {
            Payer::Token(_) => self.limits.per_token,
            Payer::Address(_) | Payer::Rest => self.limits.per_address,
        }
    }

    /// Counts one call.
    pub(crate) fn spend(&self, payer: Payer, now: Instant) -> Standing {
        let length = self.limits.window;
        let limit = self.limit(&payer);
        let open = |window: &Window| now.duration_since(window.opened) < length;
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        if windows.len() >= MAX_WINDOWS && !windows.contains_key(&payer) {
            windows.retain(|_, window| open(window));
        }
        let full = windows.len() >= MAX_WINDOWS && !windows.contains_key(&payer);
        let payer = if full { Payer::Rest } else { payer };
        let window = windows.entry(payer).or_insert(Window {
            opened: now,
            used: 0,
        });
        if !open(window) {
            *window = Window {
                opened: now,
                used: 0,
            };
        }
        let over = window.used >= limit;
        window.used = window.used.saturating_add(1);
        Standing {
            limit,
            remaining: limit.saturating_sub(window.used),
            reset: length.saturating_sub(now.duration_since(window.opened)),
            window: length,
            over,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_window_closes_and_opens_again() {
        let limits = RateLimits {
            per_token: 2,
            per_address: 1,
            window: Duration::from_secs(60),
        };
        let limiter = RateLimiter::new(limits);
        let spend = |payer: &Payer| limiter.spend(payer.clone(), Instant::now());
        let (token, other) = (Payer::Token("a".into()), Payer::Token("b".into()));
        assert_eq!(spend(&token).remaining, 1);
        tokio::time::advance(Duration::from_secs(20)).await;
        assert!(spend(&token).admit().is_ok());
        let over = spend(&token);
        assert!(over.over);
        assert_eq!(over.reset, Duration::from_secs(40));
        assert_eq!(
            over.admit().unwrap_err().retry_after(),
            Some(Duration::from_secs(40))
        );
        assert!(!spend(&other).over, "one token does not pay for another");
        let address = Payer::Address(IpAddr::from([127, 0, 0, 1]));
        assert!(!spend(&address).over);
        assert!(spend(&address).over);
        tokio::time::advance(Duration::from_secs(40)).await;
        assert!(!spend(&token).over);
    }

    #[test]
    fn the_headers_are_the_contracts() {
        let mut headers = HeaderMap::new();
        let standing = Standing {
            limit: 600,
            remaining: 599,
            reset: Duration::from_millis(59_001),
            window: Duration::from_secs(60),
            over: false,
        };
        standing.write(&mut headers, 1_700_000_000);
        for (name, value) in [
            ("RateLimit-Policy", "\"default\";q=600;w=60"),
            ("RateLimit", "\"default\";r=599;t=60"),
            ("RateLimit-Limit", "600"),
            ("RateLimit-Remaining", "599"),
            ("RateLimit-Reset", "60"),
            ("X-RateLimit-Limit", "600"),
            ("X-RateLimit-Remaining", "599"),
            ("X-RateLimit-Reset", "1700000060"),
        ] {
            assert_eq!(headers[name], value);
        }
    }
}
