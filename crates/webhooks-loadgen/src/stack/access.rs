//! How a stack is used: as operators, customers and publishers use it.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, Method, header};
use tokio::process::Command;
use uuid::Uuid;
use webhooks_bus::{Bus, BusSettings, permissions::Role};
use webhooks_devstack::wait_until;
use webhooks_domain::sealing::{Binding, Keyring, Purpose, Sealed};
use webhooks_runtime::{Secret, Settings as _};

use super::{Api, DATABASE, ENCRYPTION_KEYS, READY_LIMIT, Stack, StackOptions, Workspace};
use crate::{
    client::HttpClient,
    publish::{Door, Target},
};

/// How long an operator's command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(90);

impl Stack {
    /// Makes a workspace on the Enterprise plan and a token, and waits until ingest takes it.
    ///
    /// # Errors
    /// A command fails, or ingest does not learn of the token.
    pub async fn workspace(&self, name: &str) -> anyhow::Result<Workspace> {
        let free = {
            let mut free = self.free_workspaces.lock();
            let free = free.as_mut().map_err(|_| anyhow!("a test has panicked"))?;
            free.pop().context("this stack has no more workspaces")?
        };
        let id = self
            .operate(&[
                "workspace",
                "create",
                "--id",
                &free.to_string(),
                "--name",
                name,
                "--plan",
                "ENTERPRISE",
            ])
            .await?;
        let id: Uuid = id
            .trim()
            .parse()
            .with_context(|| format!("{id:?} is no workspace id"))?;
        let token = self
            .operate(&["token", "create", "--workspace", &id.to_string(), "--test"])
            .await?;
        let workspace = Workspace {
            id,
            token: token.trim().to_owned(),
        };
        self.known_to_ingest(&workspace.token).await?;
        Ok(workspace)
    }

    async fn known_to_ingest(&self, token: &str) -> anyhow::Result<()> {
        let mut client = HttpClient::new(&self.ingest_url())?;
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse()?);
        headers.insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static("application/json"),
        );
        wait_until("ingest to know a token", READY_LIMIT, async || {
            // The token opens the door, and then the event is refused.
            match client
                .send(Method::POST, "/v1/events", &headers, "{}".into())
                .await
            {
                Ok(answer) if answer.status == 400 => Ok(()),
                Ok(answer) => Err(format!("{} {:?}", answer.status, answer.body)),
                Err(error) => Err(format!("{error:#}")),
            }
        })
        .await
    }

    /// Runs a command of the `webhooks` program against this stack; gives what it prints.
    ///
    /// # Errors
    /// It fails, or takes longer than a minute and a half.
    pub async fn operate(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(self.options.bin_dir.join("webhooks"));
        command
            .args(arguments)
            .env("WEBHOOKS_NATS_URL", self.nats_url())
            .envs([self.seed_setting(Role::Operator)?])
            .env("WEBHOOKS_DATABASE_URL", self.database_url())
            .envs(
                self.options
                    .settings
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
            .kill_on_drop(true);
        let output = tokio::time::timeout(COMMAND_LIMIT, command.output()).await;
        let output = output
            .with_context(|| format!("`webhooks {}` does not end", arguments.join(" ")))??;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "`webhooks {}`: {} {}",
            arguments.join(" "),
            output.status,
            errors.trim()
        );
        webhooks_devstack::note_answer(&output.stdout);
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The REST API, as the holder of a workspace's token.
    ///
    /// # Errors
    /// The token cannot stand in a header.
    pub fn api(&self, workspace: &Workspace) -> anyhow::Result<Api> {
        Api::new(&self.api_url(), &workspace.token)
    }

    /// Where the REST API is.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.addresses.api)
    }

    /// Where the gRPC face of management is.
    #[must_use]
    pub fn grpc_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.addresses.grpc)
    }

    /// A door for a workspace's publisher.
    ///
    /// # Panics
    /// The folder of the stack was removed.
    #[must_use]
    pub fn door(&self, door: Door, workspace: &Workspace) -> Target {
        let url = match door {
            Door::Http => self.ingest_url(),
            Door::Grpc => format!("http://127.0.0.1:{}", self.addresses.ingest_grpc),
            Door::Nats => {
                let login = self.identities.publisher(workspace.id);
                let (user, password) = login.expect("written when the stack was started");
                let login = format!("://{user}:{password}@");
                self.nats.url().replacen("://", &login, 1)
            }
        };
        Target {
            door,
            url,
            token: Some(workspace.token.clone()),
        }
    }

    /// A connection to this stack's NATS, with this stack's settings.
    ///
    /// # Errors
    /// It cannot be used.
    pub async fn bus(&self) -> anyhow::Result<Bus> {
        let seed = std::fs::read_to_string(self.identities.seed_file(Role::Operator)?)?;
        let settings = BusSettings {
            url: self.nats_url(),
            nkey_seed: Some(Secret::new(seed)),
            ..bus_settings(&self.options)?
        };
        Ok(Bus::connect(settings, "webhooks-loadgen").await?)
    }

    /// Asks PostgreSQL; rows as lines, columns split by `|`.
    ///
    /// # Errors
    /// The statement fails, or PostgreSQL is down.
    pub async fn sql(&self, statement: &str) -> anyhow::Result<String> {
        self.postgres.sql(DATABASE, statement).await
    }

    /// Every signing key of this stack's webhooks, opened as management opens it: `v1` keys and the
    /// seeds of `v1a` ones. For whoever searches for them.
    ///
    /// # Errors
    /// PostgreSQL is down, or a key does not open.
    pub async fn signing_keys(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        let name = "WEBHOOKS_ENCRYPTION_KEYS";
        let mut set = self.options.settings.iter().rev();
        let keys = set.find(|(of, _)| of == name);
        let keys = keys.map_or(ENCRYPTION_KEYS, |(_, keys)| keys);
        let keyring = Keyring::parse(keys)?;
        let rows = self
            .sql(
                "SELECT w.workspace_id, w.id, s.version, s.kind, s.key_id, encode(s.nonce, 'base64'), \
                 translate(encode(s.ciphertext, 'base64'), E'\n', '') \
                 FROM webhook_secrets s JOIN webhooks w ON w.id = s.webhook_id \
                 WHERE s.kind IN ('SIGNING', 'ED25519', 'ED25519_OLD')",
            )
            .await?;
        rows.lines().map(|row| opened(&keyring, row)).collect()
    }

    /// Notes what a search is to look for, where this run is kept.
    pub(super) async fn note_signing_keys(&self) -> anyhow::Result<()> {
        if webhooks_devstack::is_kept() && self.postgres.pid().is_some() {
            for key in self.signing_keys().await? {
                webhooks_devstack::note_secret(&key);
            }
        }
        Ok(())
    }

    pub(super) fn ingest_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.addresses.ingest)
    }

    pub(super) fn database_url(&self) -> String {
        self.postgres.url(DATABASE)
    }
}

/// Opens one row: workspace, webhook, version, kind, key id, nonce, ciphertext.
fn opened(keyring: &Keyring, row: &str) -> anyhow::Result<Vec<u8>> {
    let fields: Vec<&str> = row.split('|').collect();
    let [workspace, webhook, version, kind, key_id, nonce, ciphertext] = fields[..] else {
        bail!("a sealed key of {} columns", fields.len());
    };
    let purpose = match kind {
        "SIGNING" => Purpose::SigningKey,
        _ => Purpose::Ed25519,
    };
    let binding = Binding {
        workspace: workspace.parse()?,
        webhook: webhook.parse()?,
        version: version.parse()?,
    };
    let nonce = STANDARD.decode(nonce)?;
    let nonce = nonce.try_into().map_err(|_| anyhow!("a nonce"))?;
    let sealed = Sealed {
        key_id: key_id.to_owned(),
        nonce,
        ciphertext: STANDARD.decode(ciphertext)?,
    };
    Ok(keyring.open_for(purpose, binding, &sealed)?)
}

/// The settings of the bus that every process of a stack has.
pub(super) fn bus_settings(options: &StackOptions) -> anyhow::Result<BusSettings> {
    let mut env = webhooks_runtime::Env::from_vars(options.settings.iter().cloned());
    let settings = BusSettings::read(&mut env);
    env.finish()?;
    Ok(settings)
}
