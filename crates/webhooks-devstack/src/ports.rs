//! Free ports on loopback that stay free while their server restarts.
//!
//! Port 0 would give one from the range the kernel also uses for outgoing connections; while a
//! killed server is down, any client on the machine could be given its port. So ports come from
//! below that range (32768 on Linux, 49152 on macOS), at random, so that two checkouts that start at
//! the same moment do not meet; and one process never gets the same port twice.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    sync::{Mutex, PoisonError},
};

use anyhow::bail;

const PORTS: Range<u16> = 15_000..32_000;
const TRIES: usize = 200;

static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A port nobody listens on, and that this function gives to nobody else in this process.
///
/// # Errors
/// No free port was found in 200 tries.
pub fn free_port() -> anyhow::Result<u16> {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let given = given.get_or_insert_default();
    for _ in 0..TRIES {
        let port = rand::random_range(PORTS);
        if !given.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            given.insert(port);
            return Ok(port);
        }
    }
    bail!(
        "no free port between {} and {} in {TRIES} tries",
        PORTS.start,
        PORTS.end
    )
}

#[cfg(test)]
mod tests {
    use super::{HashSet, PORTS, free_port};

    #[test]
    fn no_port_is_given_twice() {
        let ports: HashSet<u16> = (0..50).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.len(), 50);
        assert!(ports.iter().all(|port| PORTS.contains(port)));
    }
}
