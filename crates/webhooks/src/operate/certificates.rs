//! `webhooks certificates`: a private authority, for where there is no other.
//!
//! What is between our own parts (gRPC, NATS, PostgreSQL) needs certificates that those parts alone
//! trust. Whoever has an authority of their own uses that; this is for `docker compose`, for tests of
//! an installation, and for small ones. The authority's key should not stay on a machine that serves.

use std::{fs, path::Path};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use super::now;
use crate::{
    cli::{CertificateName, CertificatesOptions},
    console::say,
    secrets::write_private,
};

/// How long the authority lasts.
const AUTHORITY_DAYS: i64 = 3_650;

/// How far clocks may be apart.
const LEEWAY: Duration = Duration::hours(1);

/// The command.
///
/// # Errors
/// The folder cannot be written, a key in it cannot be read, or a name is none.
pub(crate) fn run(options: &CertificatesOptions) -> anyhow::Result<()> {
    let now = OffsetDateTime::from_unix_timestamp_nanos(i128::from(now()) * 1_000)
        .context("the clock shows no date")?;
    fs::create_dir_all(&options.folder)
        .with_context(|| format!("cannot create {}", options.folder.display()))?;
    let issuer = authority(&options.folder, now)?;
    for name in &options.names {
        let made = issue(&options.folder, &issuer, name, now, options.days)?;
        say(format_args!(
            "{}.pem {}",
            name.file,
            if made { "made" } else { "is there" }
        ));
    }
    Ok(())
}

/// The authority of this folder. Its certificate says nothing but its name, so it need not be read.
fn authority(folder: &Path, now: OffsetDateTime) -> anyhow::Result<Issuer<'static, KeyPair>> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(
        DnType::CommonName,
        "linkbreakers webhooks private authority",
    );
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now - LEEWAY;
    params.not_after = now + Duration::days(AUTHORITY_DAYS);
    let (certificate, secret) = (folder.join("ca.pem"), folder.join("ca.key"));
    if certificate.exists() {
        let text = fs::read_to_string(&secret)
            .with_context(|| format!("cannot read {}", secret.display()))?;
        let key = KeyPair::from_pem(&text)
            .with_context(|| format!("{} holds no key", secret.display()))?;
        return Ok(Issuer::new(params, key));
    }
    let key = KeyPair::generate()?;
    // The key first: a certificate that is there has its key.
    write_private(&secret, &key.serialize_pem())
        .with_context(|| format!("cannot write {}", secret.display()))?;
    write(&certificate, &params.self_signed(&key)?.pem())?;
    Ok(Issuer::new(params, key))
}

/// Whether one was made.
fn issue(
    folder: &Path,
    issuer: &Issuer<'_, KeyPair>,
    name: &CertificateName,
    now: OffsetDateTime,
    days: u16,
) -> anyhow::Result<bool> {
    let certificate = folder.join(format!("{}.pem", name.file));
    if certificate.exists() {
        return Ok(false);
    }
    let mut params = CertificateParams::new(name.names.clone())
        .with_context(|| format!("{:?} cannot stand in a certificate", name.names))?;
    params
        .distinguished_name
        .push(DnType::CommonName, name.file.clone());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    params.not_before = now - LEEWAY;
    params.not_after = now + Duration::days(days.into());
    let key = KeyPair::generate()?;
    let signed = params.signed_by(&key, issuer)?;
    let secret = folder.join(format!("{}.key", name.file));
    write_private(&secret, &key.serialize_pem())
        .with_context(|| format!("cannot write {}", secret.display()))?;
    write(&certificate, &signed.pem())?;
    Ok(true)
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn certificates_are_made_once_and_of_one_authority() {
        let place = tempfile::tempdir().unwrap();
        let options = |names: &[&str]| CertificatesOptions {
            folder: place.path().join("tls"),
            names: names.iter().map(|name| name.parse().unwrap()).collect(),
            days: 30,
        };
        let read = |name: &str| fs::read_to_string(place.path().join("tls").join(name)).unwrap();
        run(&options(&["nats", "management=management,127.0.0.1"])).unwrap();
        let first = ["ca.pem", "ca.key", "nats.pem", "management.key"].map(read);
        run(&options(&["nats", "dispatcher"])).unwrap();
        assert_eq!(
            ["ca.pem", "ca.key", "nats.pem", "management.key"].map(read),
            first
        );
        assert!(read("dispatcher.pem").starts_with("-----BEGIN CERTIFICATE"));
        let mode = fs::metadata(place.path().join("tls/ca.key")).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
        for bad in ["", "ca", "../nats", "a b", "=nats"] {
            bad.parse::<CertificateName>().unwrap_err();
        }
    }
}
