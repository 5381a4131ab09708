//! Who changed what, and when: one row per change, in the change's own transaction.

use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    error::StoreError,
    pg::{Micros, storable},
};

/// Who makes a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// A caller of the API, by the id of its token.
    Token(String),
    /// A person with operator rights.
    Operator,
    /// The system itself, such as the circuit breaker.
    System,
}

impl Actor {
    fn text(&self) -> String {
        match self {
            Self::Token(id) => format!("token:{}", storable(id)),
            Self::Operator => "operator".to_owned(),
            Self::System => "system".to_owned(),
        }
    }
}

/// One entry. `before` and `after` hold no secrets.
pub(crate) struct Entry<'a> {
    pub(crate) workspace: Uuid,
    pub(crate) actor: &'a Actor,
    /// `webhook.create`, `token.revoke`, …
    pub(crate) action: &'static str,
    pub(crate) subject: &'a str,
    pub(crate) at: i64,
    pub(crate) before: Option<Value>,
    pub(crate) after: Option<Value>,
}

const INSERT: &str = "
INSERT INTO audit_log (workspace_id, actor, action, subject, at, before, after)
VALUES ($1, $2, $3, $4, $5, $6, $7)";

pub(crate) async fn write(
    connection: &mut PgConnection,
    entry: Entry<'_>,
) -> Result<(), StoreError> {
    sqlx::query(INSERT)
        .bind(entry.workspace)
        .bind(entry.actor.text())
        .bind(entry.action)
        .bind(entry.subject)
        .bind(Micros(entry.at))
        .bind(entry.before)
        .bind(entry.after)
        .execute(connection)
        .await?;
    Ok(())
}
