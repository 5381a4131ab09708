//! What plans and workspaces are allowed.

use webhooks_domain::webhook::Plan;
use webhooks_store::WorkspaceRow;

use super::Management;
use crate::{auth::Caller, error::ManagementError};

/// What a workspace is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowances {
    /// Its plan.
    pub plan: Plan,
    /// Webhooks of any status; `None` = no limit.
    pub webhooks: Option<u32>,
    /// Webhooks of any status that there are.
    pub webhooks_used: i64,
}

/// What a plan allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanLimits {
    /// The plan.
    pub plan: Plan,
    /// Webhooks of any status; `None` = no limit.
    pub webhooks: Option<u32>,
}

/// Every plan, with this number of webhooks on the Light one.
#[must_use]
pub fn plans(light: u32) -> Vec<PlanLimits> {
    let all = Plan::ALL.iter();
    all.map(|plan| PlanLimits {
        plan: *plan,
        webhooks: plan.webhook_limit(light),
    })
    .collect()
}

impl Management {
    /// Every plan with its limits.
    #[must_use]
    pub fn pricing_plans(&self) -> Vec<PlanLimits> {
        plans(self.inner.light_plan_webhooks)
    }

    /// What the caller's workspace is allowed.
    ///
    /// # Errors
    /// The workspace was deleted meanwhile, or the store is away.
    pub async fn allowances(&self, caller: &Caller) -> Result<Allowances, ManagementError> {
        let workspace = self.inner.store.get_workspace(caller.workspace).await?;
        let workspace = workspace.ok_or(ManagementError::Unauthenticated)?;
        Ok(Allowances {
            plan: workspace.plan,
            webhooks: self.webhook_limit(&workspace),
            webhooks_used: self.inner.store.count_webhooks(caller.workspace).await?,
        })
    }

    /// How many webhooks of any status a workspace may have: what an operator set for it, else what
    /// its plan says; `None` = no limit.
    pub(super) fn webhook_limit(&self, workspace: &WorkspaceRow) -> Option<u32> {
        let own = workspace.settings.limits.webhooks;
        own.or_else(|| workspace.plan.webhook_limit(self.inner.light_plan_webhooks))
    }
}
