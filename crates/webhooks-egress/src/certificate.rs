//! What a certificate says of itself, for people and for checks when it is saved.

use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::tls::{TlsIdentityError, certificates};

/// Most characters of a subject that are shown.
const MAX_SUBJECT_CHARS: usize = 200;

/// What a certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Whom it is for, printable and short.
    pub subject: String,
    /// SHA-256 of the certificate, lower-case hexadecimal.
    pub fingerprint: String,
    /// From when on it is valid, seconds since the Unix epoch.
    pub not_before: i64,
    /// Until when, seconds since the Unix epoch.
    pub not_after: i64,
    /// Whether it may sign others.
    pub is_authority: bool,
}

/// Reads every certificate of a PEM text, in order; text around them is passed over.
///
/// # Errors
/// A certificate that is none. No certificate at all is an empty list.
pub fn certificate_facts(pem: &[u8]) -> Result<Vec<CertificateFacts>, TlsIdentityError> {
    let all = certificates(pem).map_err(|_| TlsIdentityError::Certificate)?;
    all.iter().map(|one| facts(one)).collect()
}

fn facts(der: &[u8]) -> Result<CertificateFacts, TlsIdentityError> {
    let (_, parsed) = X509Certificate::from_der(der).map_err(|_| TlsIdentityError::Certificate)?;
    let printable = |text: char| if text.is_control() { '\u{fffd}' } else { text };
    let subject = parsed.subject().to_string();
    Ok(CertificateFacts {
        subject: subject
            .chars()
            .take(MAX_SUBJECT_CHARS)
            .map(printable)
            .collect(),
        fingerprint: Sha256::digest(der)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        not_before: parsed.validity().not_before.timestamp(),
        not_after: parsed.validity().not_after.timestamp(),
        is_authority: parsed.is_ca(),
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, DnValue, IsCa, KeyPair, date_time_ymd,
    };

    use super::*;

    #[test]
    fn a_certificate_tells_whom_it_is_for_and_how_long() {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        let name = DnValue::Utf8String("a\u{7}b".repeat(200));
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2030, 1, 1);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let two = format!("noise\n{0}{0}", certificate.pem());
        let read = certificate_facts(two.as_bytes()).expect("certificates");
        assert_eq!(read.len(), 2);
        let one = &read[0];
        assert_eq!(
            (one.not_before, one.not_after),
            (1_577_836_800, 1_893_456_000)
        );
        assert!(one.is_authority);
        assert_eq!(one.fingerprint.len(), 64);
        assert!(one.subject.chars().count() <= MAX_SUBJECT_CHARS);
        assert!(!one.subject.chars().any(char::is_control));
    }

    #[test]
    fn what_is_no_certificate_is_told_apart_from_nothing() {
        assert_eq!(certificate_facts(b""), Ok(Vec::new()));
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(
            certificate_facts(broken),
            Err(TlsIdentityError::Certificate)
        );
    }
}
