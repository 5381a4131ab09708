//! What kind of address is this?
//!
//! The IPv4 table and the IPv6 exceptions follow the IANA special-purpose registries, plus what
//! clouds put on public-looking addresses. `Ipv6Addr::to_canonical` unwraps only IPv4-mapped
//! addresses; every other way to carry IPv4 inside IPv6 is refused as a whole, since whether the
//! carried address is public says nothing about where the carrier ends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::cidr::Cidr;

/// What an address is for. Only [`AddressClass::Global`] may be dialled.
///
/// For operators and logs; customers are never told the class of an address a name resolved to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AddressClass {
    /// Public unicast.
    Global,
    /// "This network", `0.0.0.0/8` and `::`. Linux connects these to loopback.
    Unspecified,
    /// `127.0.0.0/8`, `::1`.
    Loopback,
    /// RFC 1918, and unique local `fc00::/7` (clouds keep metadata services there).
    Private,
    /// `169.254.0.0/16`, `fe80::/10`: the home of `169.254.169.254`.
    LinkLocal,
    /// `fec0::/10`, deprecated but still routed by some.
    SiteLocal,
    /// Carrier-grade NAT, `100.64.0.0/10`.
    SharedNat,
    /// IETF protocol assignments, `192.0.0.0/24` and `2001::/23`.
    IetfProtocol,
    /// The 6to4 relay, `192.88.99.0/24`.
    RelayAnycast,
    /// Documentation ranges.
    Documentation,
    /// Benchmarking ranges.
    Benchmarking,
    /// Multicast.
    Multicast,
    /// Class E, and all of IPv6 outside `2000::/3` that has no better name.
    Reserved,
    /// `255.255.255.255`.
    Broadcast,
    /// A public-looking address that is a cloud's own service inside its network.
    CloudService,
    /// IPv6 that carries an IPv4 address: compatible, SIIT, NAT64, 6to4, Teredo, ISATAP.
    EmbeddedIpv4,
}

/// One row of the IPv4 deny table.
struct V4Range {
    network: u32,
    mask: u32,
    class: AddressClass,
}

/// One row of an IPv6 table.
struct V6Range {
    network: u128,
    mask: u128,
    class: AddressClass,
}

const fn v4(octets: [u8; 4], prefix: u32, class: AddressClass) -> V4Range {
    V4Range {
        network: u32::from_be_bytes(octets),
        mask: u32::MAX << (32 - prefix),
        class,
    }
}

const fn v6(segments: [u16; 8], prefix: u32, class: AddressClass) -> V6Range {
    let [a, b, c, d, e, f, g, h] = segments;
    V6Range {
        network: Ipv6Addr::new(a, b, c, d, e, f, g, h).to_bits(),
        mask: u128::MAX << (128 - prefix),
        class,
    }
}

use AddressClass::{
    Benchmarking, Broadcast, CloudService, Documentation, EmbeddedIpv4, IetfProtocol, LinkLocal,
    Loopback, Multicast, Private, RelayAnycast, Reserved, SharedNat, SiteLocal, Unspecified,
};

/// IPv4 is allowed unless a row here says otherwise; the first match names the class.
const V4_DENIED: [V4Range; 17] = [
    v4([0, 0, 0, 0], 8, Unspecified),
    v4([10, 0, 0, 0], 8, Private),
    v4([100, 64, 0, 0], 10, SharedNat),
    v4([127, 0, 0, 0], 8, Loopback),
    // Azure's WireServer: public by number, reachable only from inside.
    v4([168, 63, 129, 16], 32, CloudService),
    v4([169, 254, 0, 0], 16, LinkLocal),
    v4([172, 16, 0, 0], 12, Private),
    v4([192, 0, 0, 0], 24, IetfProtocol),
    v4([192, 0, 2, 0], 24, Documentation),
    v4([192, 88, 99, 0], 24, RelayAnycast),
    v4([192, 168, 0, 0], 16, Private),
    v4([198, 18, 0, 0], 15, Benchmarking),
    v4([198, 51, 100, 0], 24, Documentation),
    v4([203, 0, 113, 0], 24, Documentation),
    v4([224, 0, 0, 0], 4, Multicast),
    v4([255, 255, 255, 255], 32, Broadcast),
    v4([240, 0, 0, 0], 4, Reserved),
];

/// The only IPv6 that may be dialled …
const V6_GLOBAL: V6Range = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3, AddressClass::Global);

/// … minus these.
const V6_EXCEPTIONS: [V6Range; 6] = [
    // Teredo and benchmarking lie inside 2001::/23; listed first for the better name.
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, EmbeddedIpv4),
    v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48, Benchmarking),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, IetfProtocol),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, Documentation),
    v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, EmbeddedIpv4),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, Documentation),
];

/// Better names for what lies outside [`V6_GLOBAL`]. The verdict does not depend on this table.
const V6_NAMES: [V6Range; 11] = [
    v6([0, 0, 0, 0, 0, 0, 0, 0], 128, Unspecified),
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128, Loopback),
    v6([0, 0, 0, 0, 0, 0, 0, 0], 96, EmbeddedIpv4),
    v6([0, 0, 0, 0, 0, 0x5efe, 0, 0], 96, EmbeddedIpv4),
    v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96, EmbeddedIpv4),
    v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, EmbeddedIpv4),
    v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, EmbeddedIpv4),
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, Private),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, LinkLocal),
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, SiteLocal),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, Multicast),
];

/// The upper half of an interface identifier whose lower half is an IPv4 address (ISATAP, RFC 5214), with the
/// bit cleared that says whether that address is a public one.
const ISATAP: u32 = 0x0000_5efe;

/// Clears that bit.
const ISATAP_MASK: u32 = !0x0200_0000;

/// Says what an address is for. An IPv4-mapped IPv6 address is judged as the IPv4 address it is.
#[must_use]
pub fn classify(ip: IpAddr) -> AddressClass {
    match ip.to_canonical() {
        IpAddr::V4(ip) => classify_v4(ip),
        IpAddr::V6(ip) => classify_v6(ip),
    }
}

/// Every range that is not [`AddressClass::Global`], as a second wall (a firewall, a network policy)
/// has to name it. Ranges may lie inside one another. IPv4 inside IPv6 is not told apart: for such a
/// wall, a mapped address is outside of `2000::/3` like any other. ISATAP addresses are not among them:
/// they lie under every prefix, and no list of prefixes names them.
#[must_use]
pub fn forbidden_ranges() -> Vec<Cidr> {
    let v4 = V4_DENIED.iter().map(|range| {
        let network = IpAddr::V4(Ipv4Addr::from_bits(range.network));
        (network, range.mask.count_ones())
    });
    // Beside a range there is, for each bit of its prefix, the range that differs in that bit.
    let length = V6_GLOBAL.mask.count_ones();
    let outside = (1..=length).map(|prefix| {
        let mask = u128::MAX << (128 - prefix);
        let network = (V6_GLOBAL.network & mask) ^ (1 << (128 - prefix));
        (IpAddr::V6(Ipv6Addr::from_bits(network)), prefix)
    });
    let exceptions = V6_EXCEPTIONS.iter().map(|range| {
        let network = IpAddr::V6(Ipv6Addr::from_bits(range.network));
        (network, range.mask.count_ones())
    });
    v4.chain(outside)
        .chain(exceptions)
        .map(|(network, prefix)| {
            let prefix = u8::try_from(prefix).expect("an address has at most 128 bits");
            Cidr::new(network, prefix)
        })
        .collect()
}

fn classify_v4(ip: Ipv4Addr) -> AddressClass {
    let bits = ip.to_bits();
    V4_DENIED
        .iter()
        .find(|range| bits & range.mask == range.network)
        .map_or(AddressClass::Global, |range| range.class)
}

fn classify_v6(ip: Ipv6Addr) -> AddressClass {
    let bits = ip.to_bits();
    let within = |range: &&V6Range| bits & range.mask == range.network;
    if within(&&V6_GLOBAL) {
        V6_EXCEPTIONS
            .iter()
            .find(within)
            .map(|range| range.class)
            .unwrap_or(if is_isatap(ip) {
                EmbeddedIpv4
            } else {
                AddressClass::Global
            })
    } else {
        V6_NAMES
            .iter()
            .find(within)
            .map_or(Reserved, |range| range.class)
    }
}

/// Whether whoever holds the prefix hands the packet on to an IPv4 address within it. Of addresses that
/// were drawn at random one in two thousand millions looks like one.
fn is_isatap(ip: Ipv6Addr) -> bool {
    let [.., e, f, _, _] = ip.segments();
    let upper = (u32::from(e) << 16) | u32::from(f);
    upper & ISATAP_MASK == ISATAP
}
