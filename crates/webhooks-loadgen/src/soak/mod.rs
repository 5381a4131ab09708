//! Scale and bad neighbours, on the whole system: each scenario starts a stack of its own, loads it,
//! looks at every process's memory once a second, and says what was seen. A claim that does not hold
//! is an error.
//!
//! | | |
//! | --- | --- |
//! | endpoints | one delivery each to so many endpoints, twice, each at an address of its own |
//! | retries | so many deliveries whose next attempt is due later, all at the same moment |
//! | hanging | 10,000 endpoints that hang for 30 s beside healthy ones (R-26) |
//! | floods | 20 endpoints that answer with floods of 1xx beside healthy ones (R-06) |
//! | tenant | a tenant with 5,000 deliveries to an endpoint that answers after 28 s (R-25) |

mod beside;
mod endpoints;
mod report;
mod retries;
mod sink;
mod watch;

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use uuid::Uuid;

pub use self::{beside::Neighbour, report::Report};
use crate::stack::{NewWebhook, Stack, StackOptions, Workspace};

/// Calls of the API at the same time while webhooks are made.
const MAKERS: usize = 16;

/// What to do.
#[derive(Debug, Clone)]
pub struct SoakOptions {
    /// Where the programs are.
    pub bin_dir: PathBuf,
    /// A folder on the disk that is to be used; what is in it stays when a scenario fails.
    pub folder: PathBuf,
    /// What is driven.
    pub scenario: Scenario,
}

/// What is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// One delivery each to so many endpoints.
    Endpoints {
        /// How many.
        count: u32,
    },
    /// Outstanding retries.
    Retries {
        /// How many.
        count: u64,
        /// To so many webhooks; an event makes a delivery to each.
        webhooks: u32,
        /// From the start of the load until all of them are due.
        due_after: Duration,
    },
    /// Healthy endpoints beside others.
    Beside {
        /// The others.
        neighbour: Neighbour,
        /// How long the healthy ones are measured, alone and beside the others.
        seconds: u64,
    },
}

/// Runs a scenario; `note` is told what happens.
///
/// # Errors
/// Something cannot be started, deliveries are missing, or a claim does not hold.
pub async fn run(
    options: &SoakOptions,
    mut note: impl FnMut(String) + Send,
) -> anyhow::Result<Report> {
    std::fs::create_dir_all(&options.folder)
        .with_context(|| format!("cannot create {}", options.folder.display()))?;
    let folder = tempfile::tempdir_in(&options.folder).context("cannot make a temporary folder")?;
    // What a failed run left is what tells why.
    let folder = folder.keep();
    note(format!("starting the stack in {}", folder.display()));
    let stack = Stack::start(StackOptions::new(&options.bin_dir, &folder)).await?;
    let report = match options.scenario {
        Scenario::Endpoints { count } => endpoints::run(&stack, count, &mut note).await,
        Scenario::Retries {
            count,
            webhooks,
            due_after,
        } => retries::run(&stack, (count, webhooks, due_after), &mut note).await,
        Scenario::Beside { neighbour, seconds } => {
            Box::pin(beside::run(&stack, neighbour, seconds, &mut note)).await
        }
    }?;
    stack.stop_all().await?;
    std::fs::remove_dir_all(&folder)
        .with_context(|| format!("cannot remove {}", folder.display()))?;
    Ok(report)
}

/// Makes webhooks, several at a time, each with the links that `wishes` says.
async fn make_webhooks(
    stack: &Stack,
    workspace: &Workspace,
    wishes: Vec<NewWebhook>,
) -> anyhow::Result<Vec<Uuid>> {
    let mut makers = tokio::task::JoinSet::new();
    for share in wishes.chunks(wishes.len().div_ceil(MAKERS).max(1)) {
        let (mut api, share) = (stack.api(workspace)?, share.to_vec());
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
    Ok(webhooks)
}

fn on_link(name: String, endpoint_url: String, link: Uuid) -> NewWebhook {
    NewWebhook {
        name,
        endpoint_url,
        links: vec![link],
        triggers: None,
    }
}
