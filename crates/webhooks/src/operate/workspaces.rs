//! `webhooks workspace …`: looking at workspaces, and changing what they may.

use anyhow::{anyhow, bail};
use webhooks_domain::event::format_micros;
use webhooks_management::{
    ManagementError,
    operator::{LimitsDraft, WorkspaceDraft},
};
use webhooks_store::{WorkspaceLimits, WorkspaceRow};

use super::accounts::from_environment;
use crate::{
    cli::{
        Limit, WorkspaceDeleteOptions, WorkspaceIdOptions, WorkspaceLimitOptions,
        WorkspaceUpdateOptions,
    },
    console::say,
};

/// Workspaces that are read at once.
const PAGE: u32 = 500;

/// `webhooks workspace show`.
///
/// # Errors
/// There is none of this id, or the database fails.
pub(crate) async fn show(options: &WorkspaceIdOptions) -> anyhow::Result<()> {
    let operator = from_environment().await?;
    let row = operator.workspace(options.id).await?;
    say(described(&row, operator.webhook_count(row.id).await?));
    Ok(())
}

/// Everything about a workspace, a line each.
fn described(row: &WorkspaceRow, webhooks: i64) -> String {
    let settings = &row.settings;
    let limits = settings.limits;
    let shown = |limit: Option<u64>| limit.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let short = |limit: Option<u32>| shown(limit.map(u64::from));
    [
        line(row, webhooks),
        format!("owner                 {}", row.owner_member),
        format!("sandbox               {}", settings.sandbox),
        format!(
            "notified              {}",
            settings.notification_emails.join(", ")
        ),
        format!("max webhooks          {}", short(limits.webhooks)),
        format!("retry max attempts    {}", short(limits.retry_max_attempts)),
        format!(
            "retry max age seconds {}",
            shown(limits.retry_max_age_seconds)
        ),
        format!("events per second     {}", short(limits.events_per_second)),
        format!("held per webhook      {}", short(limits.held_per_webhook)),
        format!("endpoint verification {}", settings.endpoint_verification),
        format!(
            "exempt hosts          {}",
            settings.verification_exempt_hosts.join(", ")
        ),
    ]
    .join("\n")
}

/// `webhooks workspace list`: a line each.
///
/// # Errors
/// The database fails.
pub(crate) async fn list() -> anyhow::Result<()> {
    let operator = from_environment().await?;
    let mut after = None;
    loop {
        let page = operator.workspaces(PAGE, after).await?;
        for (row, count) in &page.rows {
            say(line(row, *count));
        }
        match page.rows.last() {
            Some((last, _)) if page.more => after = Some(last.cursor()),
            _ => return Ok(()),
        }
    }
}

/// `webhooks workspace update`: changes it and shows what it is now.
///
/// # Errors
/// There is none of this id, a value is out of range, or the database or NATS fails.
pub(crate) async fn update(options: &WorkspaceUpdateOptions) -> anyhow::Result<()> {
    let operator = from_environment().await?;
    let before = operator.workspace(options.id).await?;
    let emails = match (options.notify_nobody, options.notify.as_slice()) {
        (true, _) => Some(Vec::new()),
        (false, []) => None,
        (false, emails) => Some(emails.to_vec()),
    };
    let draft = WorkspaceDraft {
        name: options.name.clone(),
        plan: options.plan.map(|plan| plan.as_str().to_owned()),
        sandbox: options.sandbox,
        notification_emails: emails,
        limits: Some(limits(as_draft(before.settings.limits), &options.limits)),
        endpoint_verification: options.endpoint_verification,
        exempt_hosts: match (options.exempt_no_host, options.exempt_hosts.as_slice()) {
            (true, _) => Some(Vec::new()),
            (false, []) => None,
            (false, hosts) => Some(hosts.to_vec()),
        },
        ..WorkspaceDraft::default()
    };
    let row = operator
        .change_workspace(options.id, draft)
        .await
        .map_err(explained)?;
    say(described(&row, operator.webhook_count(row.id).await?));
    Ok(())
}

/// `webhooks workspace delete`.
///
/// # Errors
/// There is none of this id and name, or the database or NATS fails.
pub(crate) async fn delete(options: &WorkspaceDeleteOptions) -> anyhow::Result<()> {
    let operator = from_environment().await?;
    let row = operator.workspace(options.id).await?;
    if row.name != options.name {
        bail!("workspace {} is called {:?}", row.id, row.name);
    }
    let gone = operator.delete_workspace(row.id).await?;
    say(format_args!(
        "workspace {} is deleted, with {} webhooks and {} tokens",
        row.id, gone.webhooks, gone.tokens
    ));
    Ok(())
}

/// The limits that are there, changed as the options say.
pub(crate) fn limits(there: LimitsDraft, options: &WorkspaceLimitOptions) -> LimitsDraft {
    let set = |there, option: Option<Limit>| option.map_or(there, |limit| limit.0);
    LimitsDraft {
        webhooks: set(there.webhooks, options.max_webhooks),
        retry_max_attempts: set(there.retry_max_attempts, options.retry_max_attempts),
        retry_max_age_seconds: set(there.retry_max_age_seconds, options.retry_max_age_seconds),
        events_per_second: set(there.events_per_second, options.events_per_second),
        held_per_webhook: set(there.held_per_webhook, options.held_per_webhook),
    }
}

/// A refusal with everything that is wrong.
pub(crate) fn explained(error: ManagementError) -> anyhow::Error {
    let problems: Vec<String> = error
        .violations()
        .iter()
        .map(|problem| match problem.field.as_str() {
            "" => problem.message.clone(),
            field => format!("{field} {}", problem.message),
        })
        .collect();
    match problems.as_slice() {
        [] => error.into(),
        problems => anyhow!("{error}: {}", problems.join("; ")),
    }
}

fn as_draft(limits: WorkspaceLimits) -> LimitsDraft {
    LimitsDraft {
        webhooks: limits.webhooks.map(i64::from),
        retry_max_attempts: limits.retry_max_attempts.map(i64::from),
        retry_max_age_seconds: limits
            .retry_max_age_seconds
            .and_then(|seconds| i64::try_from(seconds).ok()),
        events_per_second: limits.events_per_second.map(i64::from),
        held_per_webhook: limits.held_per_webhook.map(i64::from),
    }
}

fn line(row: &WorkspaceRow, webhooks: i64) -> String {
    format!(
        "{}  {}  {webhooks} webhooks  since {}  {}",
        row.id,
        row.plan,
        format_micros(row.created_at),
        row.name
    )
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;
    use webhooks_domain::webhook::Plan;
    use webhooks_store::WorkspaceSettings;

    use super::*;

    #[test]
    fn a_workspace_is_shown_with_all_that_can_be_changed() {
        let row = WorkspaceRow {
            id: Uuid::from_u128(1),
            name: "Acme".to_owned(),
            plan: Plan::Enterprise,
            owner_member: Uuid::from_u128(2),
            settings: WorkspaceSettings {
                sandbox: true,
                notification_emails: vec!["ops@example.com".to_owned()],
                limits: WorkspaceLimits {
                    webhooks: Some(11),
                    retry_max_attempts: Some(12),
                    retry_max_age_seconds: Some(13),
                    events_per_second: Some(14),
                    held_per_webhook: None,
                },
                endpoint_verification: true,
                verification_exempt_hosts: vec!["a.example".to_owned(), "b.example".to_owned()],
            },
            created_at: 0,
            updated_at: 0,
        };
        let text = described(&row, 3);
        let ends: Vec<_> = text
            .lines()
            .map(|line| line.rsplit("  ").next().unwrap_or_default().trim())
            .collect();
        assert!(text.contains("3 webhooks") && ends[0] == "Acme", "{text}");
        for (at, shown) in [
            (2, "true"),
            (3, "ops@example.com"),
            (4, "11"),
            (5, "12"),
            (6, "13"),
            (7, "14"),
            (8, "-"),
            (9, "true"),
            (10, "a.example, b.example"),
        ] {
            assert!(ends[at].ends_with(shown), "{at}: {text}");
        }
    }

    #[test]
    fn a_limit_stays_unless_it_is_named() {
        let there = LimitsDraft {
            webhooks: Some(5),
            events_per_second: Some(9),
            ..LimitsDraft::default()
        };
        let options = WorkspaceLimitOptions {
            max_webhooks: Some(Limit(None)),
            held_per_webhook: Some(Limit(Some(3))),
            ..WorkspaceLimitOptions::default()
        };
        let expected = LimitsDraft {
            events_per_second: Some(9),
            held_per_webhook: Some(3),
            ..LimitsDraft::default()
        };
        assert_eq!(limits(there, &options), expected);
    }
}
