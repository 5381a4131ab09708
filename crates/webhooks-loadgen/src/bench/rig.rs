//! A stack with a receiver and a workspace, ready to be loaded.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use tokio::task::JoinSet;
use uuid::Uuid;
use webhooks_devstack::wait_until;

use super::{Sync, numbers::mebibytes, table::Row};
use crate::{
    ledger::{self, Received},
    receiver::{Receiver, ReceiverOptions},
    stack::{NewWebhook, Part, Stack, StackOptions, Workspace},
};

/// The memory figure.
pub(super) const MEMORY: &str = "memory of each service, MiB at rest / most in the bench";

/// The witness's ledger.
const WITNESS: &str = "received";

/// How long a started stack rests before its memory is read.
const REST: Duration = Duration::from_secs(3);

/// Calls of the API at the same time while webhooks are made.
const MAKERS: usize = 16;

/// How long a load may take to be complete in Postgres after its last delivery arrived.
const HISTORY_LIMIT: Duration = Duration::from_secs(120);

/// Memory of each part, in bytes.
pub(super) type Memory = BTreeMap<Part, u64>;

/// A running stack, a receiver, and what was seen of their memory.
pub(super) struct Rig {
    pub(super) stack: Stack,
    /// Counts, and costs as little as it can.
    pub(super) receiver: Receiver,
    /// Notes every request in a ledger.
    pub(super) witness: Receiver,
    pub(super) sync: Sync,
    most: Arc<Mutex<Memory>>,
}

/// Webhooks on links of a workspace: every event of a link makes `fan_out` deliveries.
pub(super) struct Load {
    pub(super) workspace: Workspace,
    pub(super) links: Vec<Uuid>,
    pub(super) webhooks: Vec<Uuid>,
    pub(super) fan_out: u64,
}

impl Rig {
    pub(super) async fn start(bin_dir: &Path, folder: &Path, sync: Sync) -> anyhow::Result<Self> {
        let options = StackOptions {
            sync: sync.interval(),
            ..StackOptions::new(bin_dir, folder)
        };
        let options = options.setting(
            "WEBHOOKS_NATS_BATCHING",
            if sync.batching() { "1" } else { "0" },
        );
        let stack = Stack::start(options).await?;
        let plain = ReceiverOptions {
            keep: 0,
            ..ReceiverOptions::default()
        };
        let receiver = Receiver::start(plain.clone()).await?;
        let witness = Receiver::start(ReceiverOptions {
            ledger: Some(folder.join(WITNESS)),
            ..plain
        })
        .await?;
        Ok(Self {
            stack,
            receiver,
            witness,
            sync,
            most: Arc::default(),
        })
    }

    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.stack.stop_all().await?;
        self.receiver.stop().await?;
        self.witness.stop().await
    }

    /// What the witness has noted so far.
    pub(super) fn noted(&self) -> anyhow::Result<Vec<Received>> {
        self.witness.flush()?;
        ledger::read(&self.stack.folder().join(WITNESS))
    }

    /// Makes a workspace with `links` links, `fan_out` webhooks on each, each with a path of its own
    /// at `receiver`.
    pub(super) async fn load(
        &self,
        name: &str,
        receiver: &Receiver,
        links: usize,
        fan_out: usize,
    ) -> anyhow::Result<Load> {
        self.load_at(name, receiver, links, fan_out, "/ok").await
    }

    /// The same, with paths that begin with `path`, which says how the endpoints behave.
    pub(super) async fn load_at(
        &self,
        name: &str,
        receiver: &Receiver,
        links: usize,
        fan_out: usize,
        path: &str,
    ) -> anyhow::Result<Load> {
        let workspace = self.stack.workspace(name).await?;
        let links: Vec<Uuid> = (0..links).map(|_| Uuid::new_v4()).collect();
        let wishes: Vec<NewWebhook> = links
            .iter()
            .flat_map(|link| std::iter::repeat_n(*link, fan_out))
            .enumerate()
            .map(|(number, link)| NewWebhook {
                name: format!("{name} {number}"),
                endpoint_url: receiver.url(&format!("{path}/{name}/{number}")),
                links: vec![link],
                triggers: None,
            })
            .collect();
        let mut makers = JoinSet::new();
        for share in wishes.chunks(wishes.len().div_ceil(MAKERS).max(1)) {
            let (mut api, share) = (self.stack.api(&workspace)?, share.to_vec());
            makers.spawn(async move {
                let mut made = Vec::with_capacity(share.len());
                for wish in share {
                    made.push(api.create_webhook(&wish).await?.id);
                }
                anyhow::Ok(made)
            });
        }
        let mut webhooks = Vec::with_capacity(wishes.len());
        while let Some(made) = makers.join_next().await {
            webhooks.extend(made??);
        }
        Ok(Load {
            workspace,
            links,
            webhooks,
            fan_out: u64::try_from(fan_out)?,
        })
    }

    /// Deliveries that Postgres has recorded as delivered, and as failed.
    pub(super) async fn recorded(&self) -> anyhow::Result<(u64, u64)> {
        let sums = "SELECT coalesce(sum(success_count), 0), coalesce(sum(failure_count), 0) FROM webhook_stats";
        let text = self.stack.sql(sums).await?;
        let (delivered, failed) = text.trim().split_once('|').context("two sums")?;
        Ok((delivered.parse()?, failed.parse()?))
    }

    /// Waits until Postgres has recorded so many deliveries; none may have failed.
    pub(super) async fn wait_recorded(&self, expected: u64) -> anyhow::Result<()> {
        wait_until(
            "the history to be complete",
            HISTORY_LIMIT,
            async || match self.recorded().await {
                Ok((delivered, 0)) if delivered >= expected => Ok(()),
                Ok(other) => Err(format!("{other:?} instead of {expected}")),
                Err(error) => Err(format!("{error:#}")),
            },
        )
        .await?;
        let (delivered, _) = self.recorded().await?;
        ensure!(
            delivered == expected,
            "{delivered} deliveries instead of {expected}"
        );
        Ok(())
    }

    /// Looks at the memory of every part, and remembers the most.
    pub(super) fn look_at_memory(&self) {
        let now = self.memory_now();
        let mut most = self.most.lock().unwrap_or_else(PoisonError::into_inner);
        for (part, bytes) in now {
            let seen = most.entry(part).or_default();
            *seen = bytes.max(*seen);
        }
    }

    pub(super) async fn memory_at_rest(&self) -> Memory {
        tokio::time::sleep(REST).await;
        self.memory_now()
    }

    /// The memory figure.
    pub(super) fn memory(&self, at_rest: &Memory) -> Row {
        let most = self.most.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = at_rest
            .iter()
            .filter(|(part, _)| !matches!(part, Part::Nats | Part::Postgres))
            .map(|(part, bytes)| {
                format!(
                    "{part} {} / {}",
                    mebibytes(*bytes),
                    mebibytes(most.get(part).copied().unwrap_or(0))
                )
            });
        let ours: Vec<String> = ours.collect();
        Row {
            figure: MEMORY.to_owned(),
            ours: ours.join(", "),
            limit: "–".to_owned(),
            aim: "≤ 64 / ≤ 200".to_owned(),
            how: "resident, sampled; with the largest workspace of this table".to_owned(),
        }
    }

    fn memory_now(&self) -> Memory {
        let usage = self.stack.usage();
        self.stack
            .parts()
            .into_iter()
            .filter_map(|part| Some((part, usage.resident_bytes(part)?)))
            .collect()
    }
}
