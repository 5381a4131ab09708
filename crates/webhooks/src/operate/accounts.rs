//! `webhooks workspace …` and `webhooks token …`: who may use this installation.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use uuid::Uuid;
use webhooks_bus::Bus;
use webhooks_domain::{
    event::format_micros,
    token::{Token, TokenEnvironment},
};
use webhooks_management::operator::{LimitsDraft, Operator, TokenWish, WorkspaceDraft};
use webhooks_runtime::SystemClock;
use webhooks_store::Store;

use super::{
    connected_bus, now, store,
    workspaces::{explained, limits},
};
use crate::{
    cli::{TokenCreateOptions, TokenListOptions, TokenRevokeOptions, WorkspaceCreateOptions},
    console::say,
    secrets::Secrets,
};

/// The hands that do it.
pub(crate) fn operator(store: &Store, bus: &Bus) -> Operator {
    Operator::new(store.clone(), bus, Arc::new(SystemClock))
}

pub(crate) async fn from_environment() -> anyhow::Result<Operator> {
    Ok(operator(&store()?, &connected_bus().await?))
}

/// `webhooks workspace create`: prints the id.
///
/// # Errors
/// The id is taken by another workspace, or the database fails.
pub(crate) async fn create_workspace(options: &WorkspaceCreateOptions) -> anyhow::Result<()> {
    let id = options.id.unwrap_or_else(Uuid::now_v7);
    let owner = options.owner.unwrap_or_else(Uuid::now_v7);
    let draft = WorkspaceDraft {
        id: Some(id.to_string()),
        name: Some(options.name.clone()),
        plan: Some(options.plan.as_str().to_owned()),
        owner_member: Some(owner.to_string()),
        sandbox: Some(options.sandbox),
        notification_emails: Some(options.notify.clone()),
        limits: Some(limits(LimitsDraft::default(), &options.limits)),
        ..WorkspaceDraft::default()
    };
    let made = from_environment()
        .await?
        .make_workspace(draft)
        .await
        .map_err(explained)?;
    if made.name != options.name || made.plan != options.plan {
        bail!(
            "workspace {id} is there already: {:?} on the {} plan",
            made.name,
            made.plan
        );
    }
    say(made.id);
    Ok(())
}

/// `webhooks token list`: a line each.
///
/// # Errors
/// The database fails.
pub(crate) async fn list_tokens(options: &TokenListOptions) -> anyhow::Result<()> {
    let tokens = from_environment().await?.tokens(options.workspace).await?;
    for token in tokens {
        let scopes = match token.scopes.as_slice() {
            [] => "everything".to_owned(),
            scopes => scopes.join(","),
        };
        let state = match (token.revoked_at, token.expires_at) {
            (Some(at), _) => format!("revoked {}", format_micros(at)),
            (None, Some(at)) if at <= now() => format!("expired {}", format_micros(at)),
            (None, Some(at)) => format!("valid until {}", format_micros(at)),
            (None, None) => "valid".to_owned(),
        };
        let used = token
            .last_used_at
            .map_or_else(|| "never".to_owned(), format_micros);
        say(format_args!(
            "{}  {scopes}  {state}  last used {used}  {}",
            token.id, token.name
        ));
    }
    Ok(())
}

/// `webhooks token create`: prints the token.
///
/// # Errors
/// There is no such workspace, the member's address is none, or the database fails.
pub(crate) async fn create_token(options: &TokenCreateOptions) -> anyhow::Result<()> {
    let ends = |time: std::time::Duration| {
        i64::try_from(time.as_micros())
            .ok()
            .and_then(|span| now().checked_add(span))
    };
    let expires_at = match options.expires_in {
        None => None,
        Some(time) => Some(ends(time).context("--expires-in is too far in the future")?),
    };
    let wish = TokenWish {
        workspace: options.workspace,
        name: options.name.clone(),
        scopes: options.scopes.clone(),
        member: None,
        member_email: options.member_email.clone(),
        environment: if options.test {
            TokenEnvironment::Test
        } else {
            TokenEnvironment::Live
        },
        expires_at,
    };
    let made = from_environment().await?.create_token(wish).await;
    say(made.map_err(explained)?.reveal());
    Ok(())
}

/// `webhooks token revoke`.
///
/// # Errors
/// The workspace has no such token that is valid, or the database fails.
pub(crate) async fn revoke_token(options: &TokenRevokeOptions) -> anyhow::Result<()> {
    if !from_environment()
        .await?
        .revoke_token(options.workspace, &options.id)
        .await?
    {
        bail!(
            "workspace {} has no valid token {}",
            options.workspace,
            options.id
        );
    }
    say(format_args!("token {} is revoked", options.id));
    Ok(())
}

/// The token kept under this name, if it still opens the workspace; else a new one with full access,
/// which is kept.
///
/// # Errors
/// The database or the read model fails, or the secrets cannot be read or written.
pub(crate) async fn kept_token(
    store: &Store,
    operator: &Operator,
    secrets: &Secrets,
    name: &str,
    workspace: Uuid,
) -> anyhow::Result<String> {
    if let Some(token) = secrets.get(name)?.as_deref().and_then(Token::parse)
        && let Some(row) = store.token_by_id(token.id()).await?
        && row.workspace_id == workspace
        && row.revoked_at.is_none()
        && token.matches(&row.hash)
    {
        return Ok(token.reveal().to_owned());
    }
    let wish = TokenWish {
        workspace,
        name: name.to_owned(),
        scopes: Vec::new(),
        member: None,
        member_email: None,
        environment: TokenEnvironment::Test,
        expires_at: None,
    };
    let token = operator.create_token(wish).await?;
    secrets.put(name, token.reveal())?;
    Ok(token.reveal().to_owned())
}
