//! The demo's workspaces and tokens.

use anyhow::{Context as _, bail};
use uuid::{Uuid, uuid};
use webhooks_bus::Bus;
use webhooks_domain::webhook::Plan;
use webhooks_store::Store;

use crate::{
    operate::accounts::{kept_token, operator},
    secrets::Secrets,
};

/// The workspace of the sample event, on the Enterprise plan.
pub(crate) const WORKSPACE: Uuid = uuid!("a39dbbfb-be5e-41c8-b49a-7c9ada520fa4");

/// Its owner: the member that made the sample's webhook.
const OWNER: Uuid = uuid!("a36358fe-2749-40a3-8068-e94177a8d069");

/// A stranger to it, on the Free plan.
pub(crate) const OTHER_WORKSPACE: Uuid = uuid!("5d1f2a70-1c7b-4b7e-9c52-0c8b7f3f6f11");

const OTHER_OWNER: Uuid = uuid!("9a5b6e0e-6f0c-4f43-8a7a-3e2f6d1c2b54");

/// Who may do what in the demo.
#[derive(Clone)]
pub(crate) struct Accounts {
    pub(crate) workspace: Uuid,
    pub(crate) token: String,
    pub(crate) other_workspace: Uuid,
    pub(crate) other_token: String,
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accounts")
            .field("workspace", &self.workspace)
            .finish_non_exhaustive()
    }
}

impl Accounts {
    /// Finds them, or makes them.
    ///
    /// # Errors
    /// The database or NATS fails, or somebody else uses these workspaces on other plans.
    pub(crate) async fn ensure(
        store: &Store,
        bus: &Bus,
        secrets: &Secrets,
    ) -> anyhow::Result<Self> {
        let operator = operator(store, bus);
        for (id, name, plan, owner) in [
            (WORKSPACE, "Demo", Plan::Enterprise, OWNER),
            (OTHER_WORKSPACE, "Another", Plan::Free, OTHER_OWNER),
        ] {
            let made = operator
                .create_workspace(id, name, plan, owner)
                .await
                .context("the demo workspaces could not be made")?;
            if made.plan != plan {
                bail!(
                    "workspace {id} is on the {} plan, the demo needs {plan}",
                    made.plan
                );
            }
        }
        Ok(Self {
            workspace: WORKSPACE,
            token: kept_token(store, &operator, secrets, "token", WORKSPACE).await?,
            other_workspace: OTHER_WORKSPACE,
            other_token: kept_token(store, &operator, secrets, "other_token", OTHER_WORKSPACE)
                .await?,
        })
    }
}
