//! Who each process is to NATS: an nkey for each service and for the operator, a password for the
//! demo workspace's publisher, since every client knows passwords. Made once, found again.

use std::path::PathBuf;

use anyhow::Context as _;
use webhooks_bus::{BusSettings, Identities, permissions::Role};
use webhooks_devstack::Spec;
use webhooks_runtime::{Env, Secret, Settings as _};

use super::folder::Folder;
use crate::demo::{OTHER_WORKSPACE, WORKSPACE};

/// Names the operator's seed in `.run/env`, for the operators' commands.
pub(crate) const OPERATOR_SEED: &str = "WEBHOOKS_OPERATOR_NATS_NKEY_SEED";

/// What a caller may have set for a NATS of its own; our own server knows none of it.
const FOREIGN: [&str; 8] = [
    "WEBHOOKS_NATS_CREDENTIALS",
    "WEBHOOKS_NATS_CREDENTIALS_FILE",
    "WEBHOOKS_NATS_NKEY_SEED",
    "WEBHOOKS_NATS_NKEY_SEED_FILE",
    "WEBHOOKS_NATS_URL_FILE",
    "WEBHOOKS_NATS_TLS",
    "WEBHOOKS_NATS_TLS_CA",
    "WEBHOOKS_OPERATOR_NATS_NKEY_SEED_FILE",
];

/// The users of our own nats-server.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    identities: Identities,
}

impl Credentials {
    /// Finds them in the folder of the run, or makes them.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn open(folder: &Folder) -> anyhow::Result<Self> {
        let identities = Identities::open(folder.path.join("secrets/nats"))
            .context("cannot keep the users of NATS")?;
        Ok(Self { identities })
    }

    /// What nats-server is told.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub(crate) fn server_config(&self) -> anyhow::Result<String> {
        let mut env = Env::from_process();
        let shards = BusSettings::read(&mut env).shards();
        let text = self
            .identities
            .server_config(&[WORKSPACE, OTHER_WORKSPACE], shards);
        text.context("cannot write the users of NATS")
    }

    /// The address for the demo workspace's publisher.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub(crate) fn publisher_url(&self, url: &str) -> anyhow::Result<String> {
        let (user, password) = self.identities.publisher(WORKSPACE)?;
        Ok(url.replacen("://", &format!("://{user}:{password}@"), 1))
    }

    /// The operator's seed file.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub(crate) fn operator_seed_file(&self) -> anyhow::Result<PathBuf> {
        Ok(self.identities.seed_file(Role::Operator)?)
    }

    /// Makes settings of the bus the operator's.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub(crate) fn operator(&self, settings: BusSettings) -> anyhow::Result<BusSettings> {
        let seed = std::fs::read_to_string(self.operator_seed_file()?)
            .context("cannot read the operator's seed")?;
        Ok(BusSettings {
            nkey_seed: Some(Secret::new(seed)),
            credentials: None,
            tls: false,
            tls_ca: None,
            ..settings
        })
    }

    /// Gives a process its own.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub(crate) fn give(&self, spec: Spec, role: Role) -> anyhow::Result<Spec> {
        let spec = FOREIGN
            .iter()
            .fold(spec, |spec, name| spec.env_remove(name));
        Ok(spec.env(
            "WEBHOOKS_NATS_NKEY_SEED_FILE",
            self.identities.seed_file(role)?,
        ))
    }
}
