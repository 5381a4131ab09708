//! Names to addresses that may be dialled.
//!
//! The dialler uses this resolver and no other, so the verdict and the dial share one answer. A
//! verdict is cached with the addresses it is about.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
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
use crate::failure::Failure;

/// What became of a lookup.
#[derive(Clone, Debug)]
enum Answer {
    /// All addresses are allowed; these are to be tried, in this order.
    Vetted(Arc<[SocketAddr]>),
    /// At least one address is forbidden.
    Refused(EndpointRefusal),
    /// The name does not exist, or has no addresses.
    NotFound,
    /// No usable answer: broken servers, or none within the budget.
    Failed,
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
    budget: Duration,
    control: Option<Control>,
}

/// The name that tells a customer's broken name from our broken resolvers.
struct Control {
    name: String,
    resolves: Slot<bool>,
}

impl VettingResolver {
    pub(crate) fn new(
        config: &EgressConfig,
        policy: Arc<AddressPolicy>,
    ) -> Result<Self, EgressError> {
        Ok(Self(Arc::new(Inner {
            dns: dns_client(config).map_err(EgressError::Resolver)?,
            policy,
            names: NameCache::new(MAX_CACHED_NAMES),
            lookups: Semaphore::new(MAX_CONCURRENT_LOOKUPS),
            budget: budget(config),
            control: config.control_name.clone().map(|name| Control {
                name,
                resolves: Slot::default(),
            }),
        })))
    }

    /// The addresses of a name, all of them allowed.
    pub(crate) async fn addresses(&self, name: &str) -> Result<Arc<[SocketAddr]>, Failure> {
        match self.0.answer(name).await {
            Answer::Vetted(addresses) => Ok(addresses),
            Answer::Refused(refusal) => Err(Failure::Refused(refusal)),
            Answer::NotFound => Err(self.0.blame(Failure::NameNotFound).await),
            Answer::Failed => Err(self.0.blame(Failure::NameLookupFailed).await),
        }
    }
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
                Err(_) => (Answer::Failed, FAILED_TTL),
            }
        };
        match timeout_at(deadline, slot.get_or_ask(ask)).await {
            Ok(answer) => answer,
            Err(_) => Answer::Failed,
        }
    }

    /// Asks the servers and judges what they say.
    async fn ask(&self, name: &str) -> (Answer, Duration) {
        let (addresses, ttl) = match self.lookup(name).await {
            Ok(found) => found,
            Err(error) if error.is_no_records_found() => {
                return (Answer::NotFound, NOT_FOUND_TTL);
            }
            Err(error) => {
                tracing::debug!(host = name, %error, "name lookup failed");
                return (Answer::Failed, FAILED_TTL);
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
        let found = self.dns.lookup_ip(qualified).await?;
        let ttl = found
            .valid_until()
            .saturating_duration_since(std::time::Instant::now());
        Ok((found.iter().collect(), believed(ttl)))
    }

    /// Whose fault is a name that does not resolve? Ours, while the control name fails as well.
    async fn blame(&self, theirs: Failure) -> Failure {
        let Some(control) = &self.control else {
            return theirs;
        };
        let ask = || async {
            let lookup = timeout(self.budget, self.lookup(&control.name)).await;
            let resolves = matches!(lookup, Ok(Ok((addresses, _))) if !addresses.is_empty());
            if !resolves {
                tracing::error!(control = control.name, "no name resolves: DNS is down");
            }
            (resolves, FAILED_TTL)
        };
        if control.resolves.get_or_ask(ask).await {
            theirs
        } else {
            Failure::ResolverDown
        }
    }
}

/// How long an answer is believed that says so long: 5 s to 5 min.
fn believed(ttl: Duration) -> Duration {
    ttl.clamp(MIN_TTL, MAX_TTL)
}

/// How long a lookup may take: two of them, the name's and the control name's, fit into an attempt
/// with room, or its deadline would pass before it is known whose fault it is.
fn budget(config: &EgressConfig) -> Duration {
    config.dns_timeout.min(config.attempt_timeout / 3)
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
        assert_eq!(budget(&with(3)), Duration::from_secs(1));
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
