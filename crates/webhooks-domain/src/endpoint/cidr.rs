//! Address ranges in `network/prefix` notation.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

/// An address range such as `10.0.0.0/8` or `fd00::/8`.
///
/// Written by operators, so it is read kindly: a bare address is a range of one, and bits below the
/// prefix are cleared (`127.0.0.1/8` is `127.0.0.0/8`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

/// Why a text is no [`Cidr`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CidrError {
    /// The part before the slash is no IP address.
    #[error("`{0}` is not an IP address")]
    Address(String),
    /// The part after the slash is no number, or larger than the address is long.
    #[error("`{0}` is not a prefix length for that address")]
    Prefix(String),
}

impl Cidr {
    /// A range of a table. Bits below the prefix must be 0.
    pub(super) const fn new(network: IpAddr, prefix: u8) -> Self {
        Self { network, prefix }
    }

    /// Its lowest address.
    #[must_use]
    pub fn first(&self) -> IpAddr {
        self.network
    }

    /// Its highest address.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        match self.network {
            IpAddr::V4(network) => {
                let host = u32::MAX.checked_shr(self.prefix.into()).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(network.to_bits() | host))
            }
            IpAddr::V6(network) => {
                let host = u128::MAX.checked_shr(self.prefix.into()).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(network.to_bits() | host))
            }
        }
    }

    /// Whether the range holds the address. IPv4-mapped addresses count as IPv4.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.network, ip.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                mask_v4(ip, self.prefix).to_bits() == network.to_bits()
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                mask_v6(ip, self.prefix).to_bits() == network.to_bits()
            }
            _ => false,
        }
    }
}

impl From<IpAddr> for Cidr {
    /// The range of one address.
    fn from(ip: IpAddr) -> Self {
        let network = ip.to_canonical();
        let prefix = if network.is_ipv4() { 32 } else { 128 };
        Self { network, prefix }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let ip: IpAddr = address
            .parse()
            .map_err(|_| CidrError::Address(address.to_owned()))?;
        let bits: u8 = if ip.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|prefix| *prefix <= bits)
                .ok_or_else(|| CidrError::Prefix(digits.to_owned()))?,
        };
        Ok(match (ip, ip.to_canonical()) {
            // Addresses are unwrapped before they are compared, so a mapped range must be too.
            (IpAddr::V6(_), IpAddr::V4(inner)) if prefix >= 96 => Self {
                network: IpAddr::V4(mask_v4(inner, prefix - 96)),
                prefix: prefix - 96,
            },
            (IpAddr::V4(ip), _) => Self {
                network: IpAddr::V4(mask_v4(ip, prefix)),
                prefix,
            },
            (IpAddr::V6(ip), _) => Self {
                network: IpAddr::V6(mask_v6(ip, prefix)),
                prefix,
            },
        })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

fn mask_v4(ip: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    // A shift by the whole width is what a prefix of 0 asks for, and what `checked_shl` refuses.
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    Ipv4Addr::from_bits(ip.to_bits() & mask)
}

fn mask_v6(ip: Ipv6Addr, prefix: u8) -> Ipv6Addr {
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
    Ipv6Addr::from_bits(ip.to_bits() & mask)
}
