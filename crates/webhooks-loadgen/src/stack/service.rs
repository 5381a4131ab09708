//! One service of ours as a process.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use webhooks_devstack::{Process, Signal, Spec, http_get, wait_until};

use super::Part;

/// Variables of the caller that must not reach a stack's services.
const FOREIGN: [&str; 6] = [
    "WEBHOOKS_ADDR_FILE",
    "WEBHOOKS_ADMIN_ADDR_FILE",
    "WEBHOOKS_DATABASE_URL_FILE",
    "WEBHOOKS_ENCRYPTION_KEYS_FILE",
    "WEBHOOKS_INTERNAL_TOKEN_FILE",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];

/// A service, running or dead.
#[derive(Debug)]
pub(super) struct Service {
    spec: Spec,
    admin_url: String,
    process: Option<Process>,
}

impl Service {
    pub(super) fn start(
        part: Part,
        program: PathBuf,
        log: PathBuf,
        settings: Vec<(String, String)>,
        admin_port: u16,
    ) -> anyhow::Result<Self> {
        let spec = Spec::new(part.to_string(), program).log(log);
        let spec = FOREIGN
            .iter()
            .fold(spec, |spec, name| spec.env_remove(name))
            .envs(settings);
        let process = Some(Process::spawn(&spec)?);
        Ok(Self {
            spec,
            admin_url: format!("http://127.0.0.1:{admin_port}"),
            process,
        })
    }

    /// Its process id while it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.process
            .as_ref()
            .filter(|process| process.exit_status().is_none())
            .map(Process::pid)
    }

    pub(super) async fn wait_ready(&self, limit: Duration) -> anyhow::Result<()> {
        let what = format!("{} to be ready", self.spec.name());
        let ready_url = format!("{}/readyz", self.admin_url);
        let ready = wait_until(&what, limit, async || match http_get(&ready_url).await {
            Ok((200, _)) => Ok(()),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(format!("{error:#}")),
        });
        ready.await.with_context(|| {
            format!(
                "the log of {} ends with:\n{}",
                self.spec.name(),
                self.spec.log_tail()
            )
        })
    }

    /// What it tells a collector of metrics.
    pub(super) async fn metrics(&self) -> anyhow::Result<String> {
        let (status, text) = http_get(&format!("{}/metrics", self.admin_url)).await?;
        anyhow::ensure!(status == 200, "{}: {status}", self.spec.name());
        Ok(text)
    }

    /// Where it tells about itself.
    pub(super) fn admin_url(&self) -> &str {
        &self.admin_url
    }

    /// Whether it was running.
    pub(super) fn signal(&self, signal: Signal) -> anyhow::Result<bool> {
        let process = self.process.as_ref();
        process.map_or(Ok(false), |process| process.signal(signal))
    }

    pub(super) async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(process) = self.process.take() {
            process.kill().await?;
        }
        Ok(())
    }

    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(process) = self.process.take() {
            process.stop().await?;
        }
        Ok(())
    }

    pub(super) fn revive(&mut self) -> anyhow::Result<()> {
        if self.pid().is_some() {
            bail!("{} runs already", self.spec.name());
        }
        self.process = Some(Process::spawn(&self.spec)?);
        Ok(())
    }
}
