//! From the HTTP client's error to one of our fixed failures.
//!
//! The client wraps errors in errors; what happened is the innermost one that we know. Two traps:
//! `io::Error::source` skips the error it wraps, so that must be stepped into by hand; and an error
//! without a source may be a server that talks before it was asked.
//!
//! Whose fault it is that there is no way to a host the error does not say. *No route* (ENETUNREACH,
//! ENETDOWN) is what a machine says whose network is down, and also one without IPv6 of an endpoint
//! that has nothing else: it is ours while there is no route to the control name's addresses either
//! ([`no_route`], the dialler asks). *Not permitted* (EPERM, EACCES) comes from a packet filter of ours, so one
//! could blame us; but filters are made per destination, no control tells that one from another, and a
//! fault of ours is repeated without end. So it counts as a host that cannot be reached: the customer
//! learns that, and the operator's log has the error.

use std::error::Error as StdError;
use std::io::{self, ErrorKind};

use hyper_util::client::legacy::Error;
use rustls::{AlertDescription, CertificateError, PeerIncompatible};

use crate::failure::Failure;
use crate::resolver::DialFailure;
use crate::wire::TooManyBytes;

/// How deep a chain is followed. Real ones are five or six long.
const MAX_DEPTH: usize = 16;

/// What went wrong before the head of an answer was there.
pub(crate) fn failure_of(error: &Error) -> Failure {
    innermost(error).unwrap_or(if error.is_connect() {
        Failure::HostUnreachable
    } else {
        Failure::ConnectionClosed
    })
}

fn innermost(error: &(dyn StdError + 'static)) -> Option<Failure> {
    let mut found = None;
    let mut next = Some(error);
    for _ in 0..MAX_DEPTH {
        let Some(error) = next else { break };
        next = error.source();
        if let Some(DialFailure(failure)) = error.downcast_ref() {
            return Some(*failure);
        }
        if error.is::<TooManyBytes>() {
            return Some(Failure::HeadTooLarge);
        }
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(tls_failure(error));
        }
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            found = http_failure(error).or(found);
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            found = io_failure(error).or(found);
            if let Some(wrapped) = error.get_ref() {
                next = Some(wrapped);
            }
        }
    }
    found
}

fn http_failure(error: &hyper::Error) -> Option<Failure> {
    if error.is_parse_too_large() {
        Some(Failure::HeadTooLarge)
    } else if error.is_timeout() {
        None
    } else if error.is_user() {
        Some(Failure::Internal)
    } else if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        Some(Failure::ConnectionClosed)
    } else if error.is_parse() || error.source().is_none() {
        // The second kind is a server that talks before it was asked.
        Some(Failure::InvalidResponse)
    } else {
        None
    }
}

/// Whether this machine is out of descriptors, memory, buffers or local ports: ours, not the endpoint's.
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    const EXHAUSTED: [ErrorKind; 2] = [ErrorKind::OutOfMemory, ErrorKind::AddrNotAvailable];
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = 105;
    EXHAUSTED.contains(&error.kind())
        || matches!(error.raw_os_error(), Some(ENFILE | EMFILE | ENOBUFS))
}

/// Whether this machine knows no way to the network that was dialled.
pub(crate) fn no_route(error: &(dyn StdError + 'static)) -> bool {
    const NO_ROUTE: [ErrorKind; 2] = [ErrorKind::NetworkUnreachable, ErrorKind::NetworkDown];
    let mut next = Some(error);
    for _ in 0..MAX_DEPTH {
        let Some(error) = next else { break };
        next = error.source();
        if let Some(error) = error.downcast_ref::<io::Error>() {
            if NO_ROUTE.contains(&error.kind()) {
                return true;
            }
            if let Some(wrapped) = error.get_ref() {
                next = Some(wrapped);
            }
        }
    }
    false
}

fn io_failure(error: &io::Error) -> Option<Failure> {
    if is_exhausted(error) {
        return Some(Failure::Internal);
    }
    match error.kind() {
        ErrorKind::ConnectionRefused => Some(Failure::ConnectionRefused),
        ErrorKind::TimedOut => Some(Failure::ConnectTimeout),
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::NotConnected
        | ErrorKind::UnexpectedEof => Some(Failure::ConnectionClosed),
        ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable
        | ErrorKind::NetworkDown
        | ErrorKind::PermissionDenied => Some(Failure::HostUnreachable),
        _ => None,
    }
}

/// What the other side says when it ends a handshake. Its certificate alerts are about ours.
fn alert_failure(alert: AlertDescription) -> Failure {
    match alert {
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::CertificateRequired => Failure::ClientCertificateRefused,
        AlertDescription::ProtocolVersion => Failure::TlsVersion,
        _ => Failure::TlsHandshake,
    }
}

fn tls_failure(error: &rustls::Error) -> Failure {
    if let rustls::Error::AlertReceived(alert) = error {
        return alert_failure(*alert);
    }
    if let rustls::Error::PeerIncompatible(
        PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
    ) = error
    {
        return Failure::TlsVersion;
    }
    let rustls::Error::InvalidCertificate(certificate) = error else {
        return Failure::TlsHandshake;
    };
    match certificate {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            Failure::CertificateExpired
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            Failure::CertificateNotYetValid
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Failure::CertificateWrongHost
        }
        CertificateError::UnknownIssuer => Failure::CertificateUntrusted,
        _ => Failure::CertificateInvalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_wrapped_in_an_io_error_is_found() {
        let check = |error: io::Error, expected: Option<Failure>| {
            let wrapped = io::Error::other(error);
            assert_eq!(innermost(&wrapped), expected);
        };
        check(
            ErrorKind::ConnectionReset.into(),
            Some(Failure::ConnectionClosed),
        );
        check(
            io::Error::other(DialFailure(Failure::NameNotFound)),
            Some(Failure::NameNotFound),
        );
        check(
            io::Error::other(rustls::Error::InvalidCertificate(CertificateError::Expired)),
            Some(Failure::CertificateExpired),
        );
        check(
            io::Error::other(rustls::Error::HandshakeNotComplete),
            Some(Failure::TlsHandshake),
        );
        for old in [
            rustls::Error::AlertReceived(AlertDescription::ProtocolVersion),
            PeerIncompatible::ServerDoesNotSupportTls12Or13.into(),
        ] {
            check(io::Error::other(old), Some(Failure::TlsVersion));
        }
        for other in [
            rustls::Error::AlertReceived(AlertDescription::HandshakeFailure),
            PeerIncompatible::NoCipherSuitesInCommon.into(),
        ] {
            check(io::Error::other(other), Some(Failure::TlsHandshake));
        }
        check(io::Error::from_raw_os_error(24), Some(Failure::Internal));
        check(io::Error::from_raw_os_error(23), Some(Failure::Internal));
        // ENETUNREACH, EPERM: as far as the error alone tells.
        for (code, route) in [
            (101, true),
            (100, true),
            (1, false),
            (113, false),
            (111, false),
        ] {
            let error = io::Error::from_raw_os_error(code);
            assert_eq!(no_route(&error), route, "{error}");
            assert_eq!(no_route(&io::Error::other(error)), route);
        }
        for code in [101, 100, 113, 1] {
            let error = io::Error::from_raw_os_error(code);
            check(error, Some(Failure::HostUnreachable));
        }
        check(io::Error::other(TooManyBytes), Some(Failure::HeadTooLarge));
        check(io::Error::other("something else"), None);
    }
}
