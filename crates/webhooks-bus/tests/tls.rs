//! NATS over TLS, with a throw-away authority and a server that asks for certificates.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use webhooks_bus::{Bus, BusSettings, Outgoing, subjects};
use webhooks_devstack::{NatsServer, http_get, wait_until};
use webhooks_runtime::install_tls_provider;

const LIMIT: Duration = Duration::from_secs(10);

/// An authority whose files lie in a folder.
struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let name = folder.to_string_lossy().into_owned();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        std::fs::write(folder.join("ca.pem"), params.self_signed(&key)?.pem())?;
        Ok(Self {
            folder: folder.to_owned(),
            issuer: Issuer::new(params, key),
        })
    }

    fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Files of a certificate for this name, and of its key.
    fn issue(&self, name: &str) -> anyhow::Result<(PathBuf, PathBuf)> {
        let params = CertificateParams::new(vec![name.to_owned()])?;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let (chain, secret) = (
            self.folder.join(format!("{name}.pem")),
            self.folder.join(format!("{name}.key")),
        );
        std::fs::write(&chain, certificate.pem())?;
        std::fs::write(&secret, key.serialize_pem())?;
        Ok((chain, secret))
    }
}

/// A server with a certificate for this name, which asks clients for one of the same authority.
struct Server {
    nats: NatsServer,
    log: PathBuf,
}

impl Server {
    async fn start(authority: &Authority, name: &str) -> anyhow::Result<Self> {
        let (certificate, key) = authority.issue(name)?;
        let tls = format!(
            "tls {{ cert_file: {certificate:?}, key_file: {key:?}, ca_file: {:?}, verify: true }}",
            authority.ca()
        );
        Self::with(&authority.folder, &tls).await
    }

    async fn with(folder: &Path, extra: &str) -> anyhow::Result<Self> {
        let log = folder.join("server.log");
        let builder = NatsServer::builder(folder.join("nats")).log(&log);
        Ok(Self {
            nats: builder.extra_config(extra).start().await?,
            log,
        })
    }

    fn settings(&self) -> BusSettings {
        BusSettings {
            url: self.nats.url().replacen("nats://", "tls://", 1),
            ..BusSettings::default()
        }
    }

    /// How often the server has said this.
    fn said(&self, text: &str) -> usize {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.matches(text).count()
    }

    /// Waits until the server has said this of a client, and shows that the client is not in.
    async fn refuses(&self, settings: BusSettings, text: &str) -> anyhow::Result<()> {
        let before = self.said(text);
        let bus = Bus::connect(settings, "stranger").await?;
        wait_until("the server to refuse a client", LIMIT, async || {
            told(self.said(text) > before, text)
        })
        .await
        .with_context(|| std::fs::read_to_string(&self.log).unwrap_or_default())?;
        anyhow::ensure!(!bus.is_connected(), "{text}, and connected anyway");
        Ok(())
    }
}

#[tokio::test]
async fn nats_is_reached_over_tls_by_those_who_show_a_certificate_of_its_authority()
-> anyhow::Result<()> {
    install_tls_provider();
    let folder = tempfile::tempdir()?;
    let ours = Authority::new(&folder.path().join("ours"))?;
    let theirs = Authority::new(&folder.path().join("theirs"))?;
    let server = Server::start(&ours, "127.0.0.1").await?;
    let good = BusSettings {
        tls_ca: Some(ours.ca()),
        tls_identity: Some(ours.issue("dispatcher")?),
        ..server.settings()
    };
    let bus = Bus::connect(good.clone(), "test").await?;
    wait_until("the streams", LIMIT, async || bus.apply_topology().await).await?;
    let workspace = uuid::Uuid::from_u128(1);
    let message = Outgoing::new(subjects::intake(workspace), "one", "{}".into());
    bus.publish(message, LIMIT).await?;

    let none = BusSettings {
        tls_identity: None,
        ..good.clone()
    };
    server
        .refuses(none, "client didn't provide a certificate")
        .await?;
    let anothers = BusSettings {
        tls_identity: Some(theirs.issue("dispatcher")?),
        ..good.clone()
    };
    server
        .refuses(anothers, "failed to verify certificate")
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_server_of_another_authority_or_name_gets_nothing_of_us() -> anyhow::Result<()> {
    install_tls_provider();
    let folder = tempfile::tempdir()?;
    let ours = Authority::new(&folder.path().join("ours"))?;
    let theirs = Authority::new(&folder.path().join("theirs"))?;
    let identity = Some(ours.issue("dispatcher")?);
    let server = Server::start(&theirs, "127.0.0.1").await?;
    let settings = BusSettings {
        tls_ca: Some(ours.ca()),
        tls_identity: identity.clone(),
        ..server.settings()
    };
    server
        .refuses(settings, "unknown certificate authority")
        .await?;
    // The system's authorities do not vouch for it either.
    let system = BusSettings {
        tls_identity: identity.clone(),
        ..server.settings()
    };
    server
        .refuses(system, "unknown certificate authority")
        .await?;
    drop(server);

    let server = Server::start(&ours, "other.test").await?;
    let settings = BusSettings {
        tls_ca: Some(ours.ca()),
        tls_identity: identity,
        ..server.settings()
    };
    server.refuses(settings, "bad certificate").await
}

#[tokio::test]
async fn an_unencrypted_server_is_refused_where_encryption_is_asked_for() -> anyhow::Result<()> {
    install_tls_provider();
    let folder = tempfile::tempdir()?;
    let authority = Authority::new(&folder.path().join("ours"))?;
    let server = Server::with(folder.path(), "").await?;
    let plain = BusSettings {
        url: server.nats.url(),
        ..BusSettings::default()
    };
    let asking = [
        server.settings(),
        BusSettings {
            tls: true,
            ..plain.clone()
        },
        BusSettings {
            tls_ca: Some(authority.ca()),
            ..plain.clone()
        },
        // One address that asks for it asks for all.
        BusSettings {
            url: format!("{},tls://127.0.0.1:1", plain.url),
            ..plain.clone()
        },
    ];
    for settings in asking {
        let before = connections(&server.nats).await?;
        let bus = Bus::connect(settings, "careful").await?;
        // It comes back again and again, and never in.
        wait_until("three tries", LIMIT, async || {
            let tried = connections(&server.nats).await.map_err(|e| e.to_string())?;
            told(tried >= before + 3, tried)
        })
        .await?;
        anyhow::ensure!(!bus.is_connected(), "connected unencrypted");
    }
    let bus = Bus::connect(plain, "careless").await?;
    wait_until("a connection", LIMIT, async || {
        told(bus.is_connected(), "none")
    })
    .await
}

fn told(there: bool, otherwise: impl ToString) -> Result<(), String> {
    if there {
        Ok(())
    } else {
        Err(otherwise.to_string())
    }
}

/// How many connections a server has ever had.
async fn connections(nats: &NatsServer) -> anyhow::Result<u64> {
    let (_, text) = http_get(&format!("{}/varz", nats.monitor_url())).await?;
    let varz: serde_json::Value = serde_json::from_str(&text)?;
    Ok(varz["total_connections"].as_u64().unwrap_or_default())
}
