//! How many calls a token (or, without one, an address) may make in a window of time, and how many
//! wrong tokens an address may show.
//!
//! A window opens with the first call and closes after its length; then the count starts anew.
//! Counted in this process only: with several replicas the limit is per replica, which bounds load
//! and is all it is for.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use thiserror::Error;
use tokio::time::Instant;

/// Most windows kept at once, of tokens and of addresses. Beyond that, those without a window of
/// their own share one.
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
pub enum Payer {
    /// A token, by its id.
    Token(String),
    /// Someone without a valid token; made by [`Payer::at`].
    Address(IpAddr),
    /// Someone of whom not even the address is known.
    Rest,
}

impl Payer {
    /// Whoever calls from this address. Of IPv6 it is the network of 64 bits that counts: whoever has
    /// one address of it has all of them.
    pub fn at(ip: IpAddr) -> Self {
        Self::Address(match ip.to_canonical() {
            IpAddr::V6(ip) => {
                let network = ip.to_bits() & !u128::from(u64::MAX);
                Ipv6Addr::from_bits(network).into()
            }
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// Where a payer stands after a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Calls allowed in the window.
    pub limit: u32,
    /// Calls left in it.
    pub remaining: u32,
    /// When it closes.
    pub reset: Duration,
    /// The window's length.
    pub window: Duration,
    /// This call was one too many.
    pub over: bool,
}

impl Standing {
    /// Refuses a call that was one too many.
    ///
    /// # Errors
    /// Says how long to wait.
    pub fn admit(self) -> Result<(), TooMany> {
        if self.over {
            Err(TooMany(self.reset))
        } else {
            Ok(())
        }
    }
}

/// More than is allowed in the window, which closes after so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("too many requests")]
pub struct TooMany(pub Duration);

impl TooMany {
    /// How long to wait, in seconds, rounded up: who comes back earlier is refused again.
    #[must_use]
    pub fn whole_seconds(self) -> u64 {
        whole_seconds(self.0)
    }
}

/// Seconds, rounded up.
#[must_use]
pub fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// The window in which wrong credentials are counted.
pub const GUESSING_WINDOW: Duration = Duration::from_secs(60);

/// Wrong credentials, counted by address. Right ones are not counted and go on being served, since
/// several clients may share an address.
#[derive(Debug)]
pub struct Guesses {
    failures: RateLimiter,
}

impl Guesses {
    /// So many wrong credentials are answered plainly, for each address and minute.
    #[must_use]
    pub fn new(per_minute: u32) -> Self {
        Self {
            failures: RateLimiter::new(RateLimits {
                per_token: per_minute,
                per_address: per_minute,
                window: GUESSING_WINDOW,
            }),
        }
    }

    /// Counts a wrong credential of this address; `why` is a word for operators.
    ///
    /// # Errors
    /// It was one too many.
    pub fn failed(&self, payer: Payer, why: &'static str, now: Instant) -> Result<(), TooMany> {
        metrics::counter!("webhooks_auth_failures_total", "reason" => why).increment(1);
        let admitted = self.failures.spend(payer, now).admit();
        if admitted.is_err() {
            metrics::counter!("webhooks_auth_throttled_total").increment(1);
        }
        admitted
    }
}

/// The windows. Tokens and addresses have a table each: strangers, who can come from as many
/// addresses as they like, cannot crowd out those who pay with a token.
#[derive(Debug)]
pub struct RateLimiter {
    limits: RateLimits,
    tokens: Mutex<Table<String>>,
    addresses: Mutex<Table<IpAddr>>,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    opened: Instant,
    used: u32,
}

impl Window {
    fn new(opened: Instant) -> Self {
        Self { opened, used: 0 }
    }

    /// What is left of it; `None` = it is closed.
    fn left(&self, length: Duration, now: Instant) -> Option<Duration> {
        let left = length.checked_sub(now.duration_since(self.opened))?;
        (!left.is_zero()).then_some(left)
    }
}

/// Windows of one length, so they close in the order in which they were opened: whoever comes clears
/// away a few at the front, and nobody ever looks through all of them.
#[derive(Debug)]
struct Table<K> {
    windows: HashMap<K, Window>,
    /// Every open window, and some that were opened anew since and stand here twice.
    in_order: VecDeque<(Instant, K)>,
    room: usize,
    /// Of everybody who found no room.
    rest: Option<Window>,
}

/// How many closed windows a call clears away. It opens one at most, so the queue does not grow.
const CLEARED_AT_ONCE: usize = 4;

impl<K: Clone + Eq + Hash> Table<K> {
    fn new(room: usize) -> Self {
        Self {
            windows: HashMap::new(),
            in_order: VecDeque::new(),
            room,
            rest: None,
        }
    }

    fn clear_away(&mut self, length: Duration, now: Instant) {
        for _ in 0..CLEARED_AT_ONCE {
            let closed =
                |(opened, _): &(Instant, K)| Window::new(*opened).left(length, now).is_none();
            if !self.in_order.front().is_some_and(closed) {
                return;
            }
            let Some((opened, key)) = self.in_order.pop_front() else {
                return;
            };
            if self
                .windows
                .get(&key)
                .is_some_and(|window| window.opened == opened)
            {
                self.windows.remove(&key);
            }
        }
    }

    /// The window that a payer has, or would share.
    fn find(&mut self, key: Option<&K>, length: Duration, now: Instant) -> Option<Window> {
        self.clear_away(length, now);
        let own = key.and_then(|key| self.windows.get(key));
        let without = key.is_none() || self.windows.len() >= self.room;
        own.copied().or_else(|| self.rest.filter(|_| without))
    }

    /// The same, to count in, opened if it is closed.
    fn open(&mut self, key: Option<K>, length: Duration, now: Instant) -> &mut Window {
        self.clear_away(length, now);
        let own =
            key.filter(|key| self.windows.len() < self.room || self.windows.contains_key(key));
        let window = match own {
            None => self.rest.get_or_insert(Window::new(now)),
            Some(key) => {
                let known = self.windows.get(&key);
                if known.is_none_or(|window| window.left(length, now).is_none()) {
                    self.in_order.push_back((now, key.clone()));
                }
                self.windows.entry(key).or_insert(Window::new(now))
            }
        };
        if window.left(length, now).is_none() {
            *window = Window::new(now);
        }
        window
    }
}

impl RateLimiter {
    /// No window is open yet.
    #[must_use]
    pub fn new(limits: RateLimits) -> Self {
        Self::with_room(limits, MAX_WINDOWS)
    }

    fn with_room(limits: RateLimits, room: usize) -> Self {
        Self {
            limits,
            tokens: Mutex::new(Table::new(room)),
            addresses: Mutex::new(Table::new(room)),
        }
    }

    /// How long a payer that has nothing left has to wait; `None` = something is left. A payer who
    /// would find the table full is asked about the window that he would share.
    pub fn spent(&self, payer: &Payer, now: Instant) -> Option<Duration> {
        let length = self.limits.window;
        let window = match payer {
            Payer::Token(id) => held(&self.tokens).find(Some(id), length, now),
            Payer::Address(ip) => held(&self.addresses).find(Some(ip), length, now),
            Payer::Rest => held(&self.addresses).find(None, length, now),
        }?;
        let left = window.left(length, now)?;
        (window.used >= self.limit(payer)).then_some(left)
    }

    fn limit(&self, payer: &Payer) -> u32 {
        match payer {
            Payer::Token(_) => self.limits.per_token,
            Payer::Address(_) | Payer::Rest => self.limits.per_address,
        }
    }

    /// Counts one call.
    pub fn spend(&self, payer: Payer, now: Instant) -> Standing {
        let length = self.limits.window;
        let limit = self.limit(&payer);
        let count = |window: &mut Window| {
            let before = window.used;
            window.used = before.saturating_add(1);
            Standing {
                limit,
                remaining: limit.saturating_sub(window.used),
                reset: window.left(length, now).unwrap_or_default(),
                window: length,
                over: before >= limit,
            }
        };
        match payer {
            Payer::Token(id) => count(held(&self.tokens).open(Some(id), length, now)),
            Payer::Address(ip) => count(held(&self.addresses).open(Some(ip), length, now)),
            Payer::Rest => count(held(&self.addresses).open(None, length, now)),
        }
    }
}

fn held<K>(table: &Mutex<Table<K>>) -> MutexGuard<'_, Table<K>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_closes_and_opens_again() {
        let limits = RateLimits {
            per_token: 2,
            per_address: 1,
            window: Duration::from_secs(60),
        };
        let limiter = RateLimiter::new(limits);
        let start = Instant::now();
        let after = |seconds, payer: &Payer| {
            limiter.spend(payer.clone(), start + Duration::from_secs(seconds))
        };
        let (token, other) = (Payer::Token("a".into()), Payer::Token("b".into()));
        assert_eq!(after(0, &token).remaining, 1);
        assert_eq!(after(20, &token).admit(), Ok(()));
        let over = after(20, &token);
        assert!(over.over);
        assert_eq!(over.reset, Duration::from_secs(40));
        assert_eq!(over.admit(), Err(TooMany(Duration::from_secs(40))));
        assert!(
            !after(20, &other).over,
            "one token does not pay for another"
        );
        let address = Payer::at(IpAddr::from([127, 0, 0, 1]));
        assert!(!after(20, &address).over);
        assert!(after(20, &address).over);
        assert!(!after(60, &token).over);
    }

    #[test]
    fn wrong_credentials_are_counted_for_each_address_and_minute() {
        let guesses = Guesses::new(2);
        let start = Instant::now();
        let (here, there) = (address(1), address(2));
        let guess = |payer: &Payer, now| guesses.failed(payer.clone(), "test", now);
        assert_eq!(guess(&here, start), Ok(()));
        assert_eq!(guess(&here, start), Ok(()));
        let later = start + Duration::from_millis(1_500);
        let refused = guess(&here, later).unwrap_err();
        assert_eq!(refused.whole_seconds(), 59, "rounded up");
        assert_eq!(guess(&there, later), Ok(()));
        assert_eq!(guess(&here, start + GUESSING_WINDOW), Ok(()));
    }

    #[test]
    fn a_network_of_64_bits_pays_as_one_address() {
        let at = |ip: &str| Payer::at(ip.parse().unwrap());
        assert_eq!(
            at("2001:db8:1:2::1"),
            at("2001:db8:1:2:ffff:ffff:ffff:ffff")
        );
        assert_ne!(at("2001:db8:1:2::1"), at("2001:db8:1:3::1"));
        assert_ne!(at("192.0.2.1"), at("192.0.2.2"));
        assert_eq!(at("::ffff:192.0.2.1"), at("192.0.2.1"));
        assert_ne!(at("::ffff:192.0.2.1"), at("::ffff:192.0.2.2"));
    }

    fn address(number: u32) -> Payer {
        Payer::at(IpAddr::V4(number.into()))
    }

    #[test]
    fn whoever_finds_the_table_full_shares_one_window_and_is_held_to_it() {
        let limits = RateLimits {
            per_token: 2,
            per_address: 2,
            window: Duration::from_secs(60),
        };
        let limiter = RateLimiter::with_room(limits, 3);
        let start = Instant::now();
        for number in 0..3 {
            assert!(!limiter.spend(address(number), start).over);
        }
        // A new address for each guess does not help: two for all of them.
        assert_eq!(limiter.spent(&address(7), start), None);
        assert!(!limiter.spend(address(7), start).over);
        assert!(!limiter.spend(address(8), start).over);
        for number in 9..12 {
            let wait = limiter.spent(&address(number), start);
            assert_eq!(wait, Some(Duration::from_secs(60)), "{number}");
            assert!(limiter.spend(address(number), start).over);
        }
        // Whoever has a window of his own keeps it, and tokens have room of their own.
        assert_eq!(limiter.spent(&address(0), start), None);
        assert!(!limiter.spend(address(0), start).over);
        assert!(limiter.spend(address(0), start).over);
        let token = Payer::Token("a".into());
        assert!(!limiter.spend(token.clone(), start).over);
        assert_eq!(limiter.spent(&token, start), None);
        let later = start + Duration::from_secs(60);
        assert_eq!(limiter.spent(&address(9), later), None);
        assert!(
            !limiter.spend(address(9), later).over,
            "there is room again"
        );
        assert_eq!(held(&limiter.addresses).windows.len(), 1);
    }

    #[test]
    fn closed_windows_go_a_few_at_a_time() {
        let limiter = RateLimiter::with_room(RateLimits::default(), 1_000);
        let start = Instant::now();
        for number in 0..100 {
            limiter.spend(address(number), start);
        }
        let mut now = start + Duration::from_secs(60);
        let kept = |limiter: &RateLimiter| {
            let table = held(&limiter.addresses);
            (table.windows.len(), table.in_order.len())
        };
        limiter.spend(address(1_000), now);
        assert_eq!(
            kept(&limiter),
            (100 - CLEARED_AT_ONCE + 1, 100 - CLEARED_AT_ONCE + 1)
        );
        // The same few payers over many windows: what is remembered does not grow.
        for _ in 0..1_000 {
            now += Duration::from_secs(61);
            for number in 0..5 {
                limiter.spend(address(number), now);
            }
        }
        let (windows, in_order) = kept(&limiter);
        assert!(windows <= 5 && in_order <= 5, "{windows}, {in_order}");
    }
}
