//! Who takes part: webhooks of every kind, and a publisher at every door.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::turns::Scene;
use crate::{
    check::Hook,
    ledger::Ledger,
    now_micros,
    publish::{self, Door, Plan, Subject, Tally, Target},
    receiver::Receiver,
    stack::{NewWebhook, Stack, Workspace},
};

/// Who is told of trouble with the first workspace's webhooks.
pub(super) const PEOPLE: [&str; 2] = ["one@people.example", "two@people.example"];

/// Links of the first workspace.
const LINKS: usize = 3;

/// Events a second of each publisher: enough that every kill hits something under way, little enough
/// that a debug build on a small machine keeps up between kills.
const RATE: f64 = 12.0;

/// The workspaces, webhooks and publishers of a run.
pub(super) struct Cast {
    first: Workspace,
    second: Workspace,
    links: Vec<Uuid>,
    /// Every webhook.
    pub(super) hooks: Vec<Hook>,
}

impl Cast {
    /// Makes them, through the API.
    pub(super) async fn make(stack: &Stack, receiver: &Receiver) -> anyhow::Result<Self> {
        let (first, second) = (
            stack.workspace("First").await?,
            stack.workspace("Second").await?,
        );
        let id = first.id.to_string();
        let [one, two] = PEOPLE;
        let told = ["workspace", "update", &id, "--notify", one, "--notify", two];
        stack.operate(&told).await?;
        let links: Vec<Uuid> = (0..LINKS).map(|_| Uuid::new_v4()).collect();
        let mut cast = Self {
            first: first.clone(),
            second: second.clone(),
            links: links.clone(),
            hooks: Vec::new(),
        };
        let mut make =
            async |workspace: &Workspace, path: String, links: &[Uuid], kinds: Option<&[&str]>| {
                cast.hooks
                    .push(webhook(stack, receiver, workspace, path, links, kinds).await?);
                anyhow::Ok(())
            };
        make(&first, "/ok/wide-1".to_owned(), &[], Some(&[])).await?;
        make(&first, "/ok/wide-2".to_owned(), &[], Some(&[])).await?;
        // Made without triggers: the default.
        make(&first, "/ok/exits".to_owned(), &[], None).await?;
        for (number, link) in links.iter().enumerate() {
            make(&first, format!("/ok/link-{number}"), &[*link], Some(&[])).await?;
        }
        make(&first, "/flaky/300/a".to_owned(), &[], Some(&["KIND_EXIT"])).await?;
        make(
            &first,
            "/ok/deaf".to_owned(),
            &[],
            Some(&["KIND_CONDITION"]),
        )
        .await?;
        make(&second, "/ok/second".to_owned(), &[], Some(&[])).await?;
        Ok(cast)
    }

    /// Starts a publisher at every door for the first workspace and one for the second, each with a
    /// ledger in the folder.
    pub(super) fn publish(
        &self,
        stack: &Stack,
        folder: &Path,
        stop: &CancellationToken,
    ) -> anyhow::Result<Publishers> {
        let mut publishers = Publishers {
            tasks: JoinSet::new(),
            ledgers: Vec::new(),
        };
        for door in Door::ALL {
            publishers.start(
                stack.door(door, &self.first),
                self.subject(&self.first, &self.links),
                folder,
                stop,
            )?;
        }
        let other = self.subject(&self.second, &[Uuid::new_v4()]);
        publishers.start(stack.door(Door::Grpc, &self.second), other, folder, stop)?;
        Ok(publishers)
    }

    /// What writers of webhooks need: the first workspace, and one of its links.
    pub(super) fn scene(&self, receiver: &Arc<Receiver>, ledger: Ledger, seed: u64) -> Arc<Scene> {
        Arc::new(Scene {
            receiver: Arc::clone(receiver),
            workspace: self.first.clone(),
            link: self.links[0],
            ledger,
            seed,
        })
    }

    fn subject(&self, workspace: &Workspace, links: &[Uuid]) -> Subject {
        // Two kinds and three links in turn: every combination comes.
        let kinds = ["KIND_EXIT", "KIND_ENTRY"].map(str::to_owned).to_vec();
        Subject {
            workspace: workspace.id,
            links: links.to_vec(),
            kinds,
        }
    }
}

async fn webhook(
    stack: &Stack,
    receiver: &Receiver,
    workspace: &Workspace,
    path: String,
    links: &[Uuid],
    kinds: Option<&[&str]>,
) -> anyhow::Result<Hook> {
    let words = |kinds: &[&str]| {
        kinds
            .iter()
            .map(|kind| (*kind).to_owned())
            .collect::<Vec<_>>()
    };
    let new = NewWebhook {
        name: path.clone(),
        endpoint_url: receiver.url(&path),
        links: links.to_vec(),
        triggers: kinds.map(words),
    };
    let made = stack.api(workspace)?.create_webhook(&new).await?;
    receiver.add_secret(Some(made.id), made.key);
    Ok(Hook {
        id: made.id,
        workspace: workspace.id,
        healthy: path.starts_with("/ok"),
        path,
        links: links.to_vec(),
        kinds: words(kinds.unwrap_or(&["KIND_EXIT"])),
        created: now_micros(),
    })
}

/// Publishers at work.
pub(super) struct Publishers {
    tasks: JoinSet<anyhow::Result<(Door, Tally)>>,
    /// Their ledgers.
    pub(super) ledgers: Vec<PathBuf>,
}

impl Publishers {
    fn start(
        &mut self,
        target: Target,
        subject: Subject,
        folder: &Path,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let file = folder.join(format!(
            "published-{}-{}",
            self.ledgers.len(),
            target.door.as_str()
        ));
        let ledger = Ledger::open(&file)?;
        self.ledgers.push(file);
        let plan = Plan {
            rate: Some(RATE),
            workers: 8,
            retry: true,
            ..Plan::default()
        };
        let stop = stop.clone();
        self.tasks.spawn(async move {
            let tally = publish::run(&target, &subject, &plan, &ledger, &stop).await?;
            ledger.flush()?;
            Ok((target.door, tally))
        });
        Ok(())
    }

    /// Waits for all of them, once they were told to stop.
    pub(super) async fn finish(mut self) -> anyhow::Result<Vec<(Door, Tally)>> {
        let mut tallies = Vec::new();
        while let Some(tally) = self.tasks.join_next().await {
            tallies.push(tally??);
        }
        Ok(tallies)
    }
}
