//! Names to addresses that may be dialled.
//!
//! The dialler uses this resolver and no other, so the verdict and the dial share one answer. A
//! verdict is cached with the addresses it is about.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::Name;
use hyper_util::client::legacy::connect::dns::Name as HostName;
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tower::Service;
use webhooks_domain::endpoint::{AddressPolicy, EndpointRefusal, vet_addresses};

use crate::cache::{NameCache, Slot};
use crate::config::{
    EgressConfig, EgressError, FAILED_TTL, MAX_CACHED_NAMES, MAX_CONCURRENT_LOOKUPS,
    MAX_DIALLED_ADDRESSES, MAX_TTL, MIN_TTL, NOT_FOUND_TTL,
};
use crate::diagnose::is_exhausted;
use crate::failure::Failure;
use crate::sockets::Sockets;

/// The port that a route is looked for to; nothing is sent there.
const DISCARD_PORT: u16 = 9;

/// What became of a lookup.
#[derive(Clone, Debug)]
enum Answer {
    /// All addresses are allowed; these are to be tried, in this order.
    Vetted(Arc<[SocketAddr]>),
    /// At least one address is forbidden.
    Refused(EndpointRefusal),
    /// The name does not exist, or has no addresses.
    NotFound,
    /// No usable answer: broken servers, or none within the budget. Since when it was asked for.
    Failed(Instant),
    /// We could not even ask: no descriptors, no memory.
    Unasked,
}

/// How the dialler's error chain carries a [`Failure`] back to us.
#[derive(Debug, Error)]
#[error("the name was not resolved: {}", .0.reason())]
pub(crate) struct DialFailure(pub(crate) Failure);

/// The resolver; cheap to clone.
#[derive(Clone)]
pub(crate) struct VettingResolver(Arc<Inner>);

struct Inner {
    dns: TokioResolver,
    policy: Arc<AddressPolicy>,
    names: NameCache<Answer>,
    lookups: Semaphore,
    sockets: Sockets,
    budget: Duration,
    control: Option<Control>,
}

/// The name that tells a customer's broken name from our broken resolvers.
struct Control {
    name: String,
    resolves: Slot<Verdict>,
    /// Whether there is a way to its addresses.
    reached: Slot<bool>,
}

/// Whether the control name resolves.
#[derive(Clone, Copy, Debug)]
struct Verdict {
    resolves: bool,
    asked: Instant,
    answered: Instant,
}

impl VettingResolver {
    pub(crate) fn new(
        config: &EgressConfig,
        policy: Arc<AddressPolicy>,
        sockets: Sockets,
    ) -> Result<Self, EgressError> {
        Ok(Self(Arc::new(Inner {
            dns: dns_client(config).map_err(EgressError::Resolver)?,
            policy,
            names: NameCache::new(MAX_CACHED_NAMES),
            lookups: Semaphore::new(MAX_CONCURRENT_LOOKUPS),
            sockets,
            budget: budget(config),
            control: config.control_name.clone().map(|name| Control {
                name,
                resolves: Slot::default(),
                reached: Slot::default(),
            }),
        })))
    }

    /// The addresses of a name, all of them allowed.
    ///
    /// Whose fault is a name that does not resolve? Ours, while the control name fails as well. That
    /// is asked after the name, so a resolver that comes back between the two would be taken for one
    /// that had worked: then the name is asked for once more.
    pub(crate) async fn addresses(&self, name: &str) -> Result<Arc<[SocketAddr]>, Failure> {
        let mut answer = self.0.answer(name).await;
        let failed_at = match answer {
            Answer::Failed(asked) => Some(asked),
            // An answer, if a sad one: a verdict of a moment ago will do.
            Answer::NotFound => Instant::now().checked_sub(FAILED_TTL),
            _ => None,
        };
        if let (Some(asked), Some(control)) = (failed_at, &self.0.control) {
            let verdict = self.0.verdict(control, asked).await;
            if !verdict.resolves {
                return Err(Failure::ResolverDown);
            }
            if matches!(answer, Answer::Failed(_)) {
                answer = self.0.answer_since(name, verdict.answered).await;
            }
        }
        match answer {
            Answer::Vetted(addresses) => Ok(addresses),
            Answer::Refused(refusal) => Err(Failure::Refused(refusal)),
            Answer::NotFound => Err(Failure::NameNotFound),
            Answer::Failed(_) => Err(Failure::NameLookupFailed),
            Answer::Unasked => Err(Failure::Internal),
        }
    }

    /// Whether this machine has no network at all: there is no way to the control name's addresses
    /// either, or they cannot be found. Never, as far as we know, without a control name.
    pub(crate) async fn network_is_down(&self) -> bool {
        let Some(control) = &self.0.control else {
            return false;
        };
        let ask = || async {
            let lookup = timeout(self.0.budget, self.0.lookup(&control.name)).await;
            let reached = match lookup {
                Ok(Ok((addresses, _))) => addresses.into_iter().any(has_route),
                _ => false,
            };
            if !reached {
                tracing::error!(control = control.name, "no way out: the network is down");
            }
            (reached, FAILED_TTL)
        };
        !control.reached.get_or_ask(ask).await
    }
}

/// Whether the system knows a way to an address. Nothing is sent.
fn has_route(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind((any, 0))
        .and_then(|socket| socket.connect((address, DISCARD_PORT)))
        .is_ok()
}

impl Service<HostName> for VettingResolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = DialFailure;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DialFailure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialFailure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: HostName) -> Self::Future {
        let resolver = self.clone();
        Box::pin(async move {
            let addresses = resolver.addresses(name.as_str()).await;
            Ok(addresses.map_err(DialFailure)?.to_vec().into_iter())
        })
    }
}

impl Inner {
    async fn answer(&self, name: &str) -> Answer {
        let now = Instant::now();
        if let Some(answer) = self.names.fresh(name, now) {
            return answer;
        }
        let deadline = now + self.budget;
        let slot = self.names.slot(name, now);
        let ask = || async {
            // Inside the budget of whoever waits, so that a silent server is remembered as such
            // before the waiter gives up.
            match timeout_at(deadline, self.ask(name)).await {
                Ok(answer) => answer,
                Err(_) => (Answer::Failed(now), FAILED_TTL),
            }
        };
        match timeout_at(deadline, slot.get_or_ask(ask)).await {
            Ok(answer) => answer,
            Err(_) => Answer::Failed(now),
        }
    }

    /// The same, where a failure of before `since` does not count.
    async fn answer_since(&self, name: &str, since: Instant) -> Answer {
        let slot = self.names.slot(name, Instant::now());
        slot.forget(|answer| matches!(answer, Answer::Failed(asked) if *asked < since));
        self.answer(name).await
    }

    /// Asks the servers and judges what they say.
    async fn ask(&self, name: &str) -> (Answer, Duration) {
        let asked = Instant::now();
        let (addresses, ttl) = match self.lookup(name).await {
            Ok(found) => found,
            Err(error) if error.is_no_records_found() => {
                return (Answer::NotFound, NOT_FOUND_TTL);
            }
            Err(NetError::Io(error)) if is_exhausted(&error) => {
                tracing::error!(host = name, %error, "name not looked up");
                return (Answer::Unasked, FAILED_TTL);
            }
            Err(error) => {
                tracing::debug!(host = name, %error, "name lookup failed");
                return (Answer::Failed(asked), FAILED_TTL);
            }
        };
        let answer = match vet_addresses(&addresses, &self.policy) {
            Ok(()) => Answer::Vetted(
                addresses
                    .iter()
                    .take(MAX_DIALLED_ADDRESSES)
                    // Port 0 makes the dialler put in the URL's port.
                    .map(|ip| SocketAddr::new(*ip, 0))
                    .collect(),
            ),
            Err(EndpointRefusal::NoAddress) => return (Answer::NotFound, NOT_FOUND_TTL),
            Err(refusal) => {
                tracing::warn!(
                    host = name,
                    ?addresses,
                    "name resolves to a forbidden address"
                );
                Answer::Refused(refusal)
            }
        };
        (answer, ttl)
    }

    async fn lookup(&self, name: &str) -> Result<(Vec<IpAddr>, Duration), NetError> {
        let mut qualified = Name::from_ascii(name)?;
        // Without this, the system's search domains would be tried.
        qualified.set_fqdn(true);
        let _permit = self.lookups.acquire().await;
        let _socket = self.sockets.take().await;
        let found = self.dns.lookup_ip(qualified).await?;
        let ttl = found
            .valid_until()
            .saturating_duration_since(std::time::Instant::now());
        Ok((found.iter().collect(), believed(ttl)))
    }

    /// Whether the control name resolves, asked no earlier than `since`.
    async fn verdict(&self, control: &Control, since: Instant) -> Verdict {
        control.resolves.forget(|verdict| verdict.asked < since);
        let ask = || async {
            let asked = Instant::now();
            let lookup = timeout(self.budget, self.lookup(&control.name)).await;
            let resolves = matches!(lookup, Ok(Ok((addresses, _))) if !addresses.is_empty());
            if !resolves {
                tracing::error!(control = control.name, "no name resolves: DNS is down");
            }
            let verdict = Verdict {
                resolves,
                asked,
                answered: Instant::now(),
            };
            (verdict, FAILED_TTL)
        };
        control.resolves.get_or_ask(ask).await
    }
}

/// How long an answer is believed that says so long: 5 s to 5 min.
fn believed(ttl: Duration) -> Duration {
    ttl.clamp(MIN_TTL, MAX_TTL)
}

/// How long a lookup may take: three of them, the name's, the control name's and the name's once more,
/// fit into an attempt with room, or its deadline would pass before it is known whose fault it is.
fn budget(config: &EgressConfig) -> Duration {
    config.dns_timeout.min(config.attempt_timeout / 4)
}

fn dns_client(config: &EgressConfig) -> Result<TokioResolver, NetError> {
    let mut builder = if config.dns_servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = config.dns_servers.iter().map(name_server).collect();
        TokioResolver::builder_with_config(
            ResolverConfig::from_name_servers(servers),
            TokioRuntimeProvider::default(),
        )
    };
    let options = builder.options_mut();
    options.use_hosts_file = ResolveHosts::Never;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    // Two tries fit into the budget, so that one lost datagram does not fail a name.
    options.timeout = budget(config) * 2 / 5;
    options.attempts = 1;
    options.max_active_requests = MAX_CONCURRENT_LOOKUPS;
    // Verdicts are cached here instead, with the addresses they are about.
    options.cache_size = 0;
    options.positive_min_ttl = Some(MIN_TTL);
    options.positive_max_ttl = Some(MAX_TTL);
    builder.build()
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()]
        .map(|mut connection| {
            connection.port = address.port();
            connection
        })
        .to_vec();
    NameServerConfig::new(address.ip(), true, connections)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_24_whose_fault_a_lookup_is_is_known_before_the_attempt_ends() {
        let with = |attempt: u64| EgressConfig {
            attempt_timeout: Duration::from_secs(attempt),
            dns_timeout: Duration::from_secs(5),
            ..EgressConfig::default()
        };
        assert_eq!(budget(&with(30)), Duration::from_secs(5));
        assert_eq!(budget(&with(4)), Duration::from_secs(1));
    }

    #[test]
    fn a_way_to_this_machine_is_known() {
        assert!(has_route(Ipv4Addr::LOCALHOST.into()));
        // Nobody is there, and nobody is asked: it is a matter of routes.
        assert!(
            !has_route(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into()),
            "no interface named"
        );
    }

    #[test]
    fn r_27_no_answer_is_believed_too_shortly_or_too_long() {
        let check = |seconds: u64, expected: u64| {
            let believed = believed(Duration::from_secs(seconds));
            assert_eq!(believed, Duration::from_secs(expected));
        };
        check(0, 5);
        check(60, 60);
        check(86_400, 300);
        check(u64::MAX, 300);
    }
}
