//! What this installation allows, and the verdict on addresses, names and ports.

use std::net::IpAddr;

use super::address::{AddressClass, classify};
use super::cidr::Cidr;
use super::refusal::EndpointRefusal;

/// The switches of the address guard. `default()` is production: nothing is opened.
///
/// The first three are escape hatches for development, tests and private installations; whoever
/// starts a service with one of them says so in its log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressPolicy {
    /// Accept `http://` beside `https://`.
    pub allow_http: bool,
    /// Ranges that may be dialled although they are not public. A literal from them may also use
    /// any port but 0.
    pub allow_cidrs: Vec<Cidr>,
    /// Host names that skip the *name* rules (suffix, single label). What they resolve to is judged
    /// like anything else.
    pub allow_hosts: Vec<String>,
    /// Our own host names, with every name below them; refused whatever the other switches say.
    pub own_hosts: Vec<String>,
    /// Our own public addresses and ranges; refused whatever the other switches say.
    pub own_ips: Vec<Cidr>,
}

impl AddressPolicy {
    /// Whether an escape hatch is open, which deserves a warning at start.
    #[must_use]
    pub fn is_opened(&self) -> bool {
        self.allow_http || !self.allow_cidrs.is_empty() || !self.allow_hosts.is_empty()
    }

    /// Whether we would know ourselves: without a name or an address of ours, a webhook may call us.
    #[must_use]
    pub fn knows_itself(&self) -> bool {
        !self.own_hosts.is_empty() || !self.own_ips.is_empty()
    }

    /// The verdict on one address.
    ///
    /// # Errors
    /// [`EndpointRefusal::OwnAddress`] or [`EndpointRefusal::BlockedAddress`].
    pub fn vet_address(&self, ip: IpAddr) -> Result<(), EndpointRefusal> {
        let ip = ip.to_canonical();
        if self.own_ips.iter().any(|own| own.contains(ip)) {
            return Err(EndpointRefusal::OwnAddress);
        }
        if self.opens(ip) || classify(ip) == AddressClass::Global {
            return Ok(());
        }
        Err(EndpointRefusal::BlockedAddress)
    }

    /// Whether the operator listed the address.
    pub(super) fn opens(&self, ip: IpAddr) -> bool {
        self.allow_cidrs.iter().any(|cidr| cidr.contains(ip))
    }

    /// The verdict on a host name: lower case, ASCII, without its trailing dot.
    pub(super) fn vet_name(&self, name: &str) -> Result<(), EndpointRefusal> {
        if !is_well_formed(name) {
            return Err(EndpointRefusal::Malformed);
        }
        if covers(&self.own_hosts, name) {
            return Err(EndpointRefusal::OwnHost);
        }
        if lists(&self.allow_hosts, name) {
            return Ok(());
        }
        match name.rsplit_once('.') {
            Some((_, last)) if is_private_suffix(last) => Err(EndpointRefusal::BlockedHostName),
            Some(_) => Ok(()),
            None if is_private_suffix(name) => Err(EndpointRefusal::BlockedHostName),
            None => Err(EndpointRefusal::SingleLabel),
        }
    }
}

/// The verdict on everything a name resolved to: one forbidden answer refuses the whole name.
///
/// Picking the allowed answers instead would leave the choice between them to timing, and the
/// owner of such a name has no honest use for it.
///
/// # Errors
/// The first refusal found, or [`EndpointRefusal::NoAddress`] for an empty list.
pub fn vet_addresses(addrs: &[IpAddr], policy: &AddressPolicy) -> Result<(), EndpointRefusal> {
    if addrs.is_empty() {
        return Err(EndpointRefusal::NoAddress);
    }
    addrs.iter().try_for_each(|ip| policy.vet_address(*ip))
}

/// Whether a port may not be dialled, whoever owns the host.
pub(super) fn is_blocked_port(port: u16) -> bool {
    BLOCKED_PORTS.binary_search(&port).is_ok()
}

/// Ports of other protocols (the "bad ports" of the Fetch standard), port 0, and the ports that
/// databases, brokers and orchestrators usually listen on. Sorted.
const BLOCKED_PORTS: [u16; 107] = [
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101,
    102, 103, 104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427,
    465, 512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990,
    993, 995, 1433, 1521, 1719, 1720, 1723, 2049, 2375, 2376, 2379, 2380, 3306, 3389, 3659, 4045,
    4190, 4222, 5060, 5061, 5432, 5672, 5900, 6000, 6222, 6379, 6443, 6566, 6665, 6666, 6667, 6668,
    6669, 6679, 6697, 8222, 9042, 9092, 9200, 9300, 10080, 10250, 10255, 11211, 27017,
];

fn lists(hosts: &[String], name: &str) -> bool {
    hosts.iter().any(|host| {
        let host = host.strip_suffix('.').unwrap_or(host);
        host.eq_ignore_ascii_case(name)
    })
}

/// Whether a name is listed, or lies below one that is: its owner makes such names, and a wildcard
/// record makes all of them at once.
fn covers(hosts: &[String], name: &str) -> bool {
    let mut below = Some(name);
    while let Some(name) = below {
        if lists(hosts, name) {
            return true;
        }
        below = name.split_once('.').map(|(_, parent)| parent);
    }
    false
}

/// Last labels that never name a public host. `arpa` covers `home.arpa` and the reverse zones, `local`
/// Kubernetes' `cluster.local`, and `svc` the short form of the names of its services.
fn is_private_suffix(label: &str) -> bool {
    matches!(
        label,
        "localhost"
            | "localdomain"
            | "local"
            | "internal"
            | "intranet"
            | "lan"
            | "corp"
            | "home"
            | "private"
            | "arpa"
            | "onion"
            | "invalid"
            | "test"
            | "svc"
    )
}

/// Letters, digits, hyphens (inside) and underscores, in labels of 1–63 bytes, at most 253 in all.
/// The URL parser lets much more through.
fn is_well_formed(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_list_is_sorted_so_that_it_can_be_searched() {
        assert!(BLOCKED_PORTS.is_sorted_by(|a, b| a < b));
        assert!(is_blocked_port(0) && is_blocked_port(5432) && is_blocked_port(27017));
        assert!(!is_blocked_port(443) && !is_blocked_port(8443) && !is_blocked_port(80));
    }
}
