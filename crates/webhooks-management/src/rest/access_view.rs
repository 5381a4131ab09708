//! Tokens, scopes, plans, workspaces and the audit log as JSON. Keys that are not set are left out.

use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;
use webhooks_domain::{event::format_micros, webhook::Plan};
use webhooks_store::{AuditRow, TokenRow, WorkspaceRow};

use crate::{
    scopes::{SCOPES, held},
    service::{Allowances, PlanLimits, key_type_word},
};

/// One token.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TokenView {
    id: String,
    workspace_id: Uuid,
    name: String,
    key_type: &'static str,
    full_access: bool,
    // The vendor's client knows a closed set of these words.
    scopes: Vec<&'static str>,
    scope_names: Vec<&'static str>,
    created_by: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    member_email: Option<String>,
    created_at: String,
    updated_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
}

impl TokenView {
    pub(super) fn of(row: &TokenRow) -> Self {
        let held = held(&row.scopes);
        Self {
            id: row.id.clone(),
            workspace_id: row.workspace_id,
            name: row.name.clone(),
            key_type: key_type_word(row.key_type),
            full_access: row.scopes.is_empty(),
            scopes: held
                .iter()
                .filter(|scope| scope.vendors)
                .map(|scope| scope.word)
                .collect(),
            scope_names: held.iter().map(|scope| scope.name).collect(),
            created_by: row.created_by,
            member_email: row.member_email.clone(),
            created_at: format_micros(row.created_at),
            updated_at: format_micros(row.updated_at),
            last_used_at: row.last_used_at.map(format_micros),
            expires_at: row.expires_at.map(format_micros),
        }
    }
}

/// One workspace.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WorkspaceView {
    id: Uuid,
    name: String,
    plan: &'static str,
    owner_member: Uuid,
    sandbox: bool,
    notification_emails: Vec<String>,
    limits: LimitsView,
    endpoint_verification: bool,
    verification_exempt_hosts: Vec<String>,
    webhook_count: i64,
    created_at: String,
    updated_at: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LimitsView {
    #[serde(skip_serializing_if = "Option::is_none")]
    webhooks: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_max_attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_max_age_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    events_per_second: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_per_webhook: Option<u32>,
}

impl WorkspaceView {
    pub(super) fn of(row: &WorkspaceRow, webhook_count: i64) -> Self {
        let limits = row.settings.limits;
        Self {
            id: row.id,
            name: row.name.clone(),
            plan: row.plan.as_str(),
            owner_member: row.owner_member,
            sandbox: row.settings.sandbox,
            notification_emails: row.settings.notification_emails.clone(),
            limits: LimitsView {
                webhooks: limits.webhooks,
                retry_max_attempts: limits.retry_max_attempts,
                retry_max_age_seconds: limits.retry_max_age_seconds,
                events_per_second: limits.events_per_second,
                held_per_webhook: limits.held_per_webhook,
            },
            endpoint_verification: row.settings.endpoint_verification,
            verification_exempt_hosts: row.settings.verification_exempt_hosts.clone(),
            webhook_count,
            created_at: format_micros(row.created_at),
            updated_at: format_micros(row.updated_at),
        }
    }
}

/// One entry of the audit log.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AuditView {
    id: String,
    at: String,
    actor: String,
    action: String,
    subject: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<Value>,
}

impl AuditView {
    pub(super) fn of(row: &AuditRow) -> Self {
        let filled = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let origin = row.origin.as_ref();
        Self {
            id: row.id.to_string(),
            at: format_micros(row.at),
            actor: row.actor.clone(),
            action: row.action.clone(),
            subject: row.subject.clone(),
            remote_ip: origin.and_then(|origin| filled(&origin.remote_ip)),
            user_agent: origin.and_then(|origin| filled(&origin.user_agent)),
            request_id: origin.and_then(|origin| filled(&origin.request_id)),
            before: row.before.clone(),
            after: row.after.clone(),
        }
    }
}

/// Every scope. One that the vendor's client does not know has no long word.
pub(super) fn scopes() -> Value {
    let scopes: Vec<Value> = SCOPES
        .iter()
        .map(|scope| {
            let mut view = json!({
                "name": scope.name,
                "resource": scope.resource(),
                "access": format!("API_SCOPE_ACCESS_{}", scope.access()),
                "description": scope.description,
            });
            if scope.vendors {
                view["scope"] = scope.word.into();
            }
            view
        })
        .collect();
    json!({ "scopes": scopes })
}

/// Every plan.
pub(super) fn plans(plans: &[PlanLimits]) -> Value {
    let plans: Vec<Value> = plans
        .iter()
        .map(|one| {
            json!({
                "id": plan_id(one.plan),
                "name": plan_name(one.plan),
                "limits": [limit(one.webhooks)],
            })
        })
        .collect();
    json!({ "plans": plans })
}

/// What a workspace is allowed.
pub(super) fn allowances(allowances: Allowances) -> Value {
    let mut used = limit(allowances.webhooks);
    used["used"] = allowances.webhooks_used.into();
    json!({
        "plan": plan_id(allowances.plan),
        // Allowances are what refills by the month; nothing here does.
        "allowances": [],
        "limits": [used],
    })
}

/// The vendor's word for a plan.
pub(crate) fn plan_id(plan: Plan) -> String {
    format!("PRICING_PLAN_ID_{}", plan.as_str())
}

/// What people call a plan.
pub(crate) fn plan_name(plan: Plan) -> &'static str {
    match plan {
        Plan::Free => "Free",
        Plan::Light => "Light",
        Plan::Pro => "Pro",
        Plan::Enterprise => "Enterprise",
    }
}

fn limit(webhooks: Option<u32>) -> Value {
    match webhooks {
        Some(value) => json!({
            "key": "PLAN_LIMIT_KEY_WEBHOOKS",
            "kind": "PLAN_LIMIT_KIND_TOTAL",
            "value": value,
        }),
        None => json!({ "key": "PLAN_LIMIT_KEY_WEBHOOKS", "kind": "PLAN_LIMIT_KIND_UNLIMITED" }),
    }
}
