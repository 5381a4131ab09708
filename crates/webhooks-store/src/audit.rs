//! Who changed what, when and from where: one row per change, in the change's own transaction.
//!
//! Reading a secret changes nothing and leaves a row too ([`Store::record_access`]). Rows are only
//! ever added; nothing here updates or removes one.

use serde_json::Value;
use sqlx::{PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use crate::{
    Store,
    error::StoreError,
    history::{MAX_COUNTED, MAX_PAGE},
    pg::{self, Micros, storable},
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
    /// One of these, over the network.
    Remote(Box<Self>, Origin),
}

/// Where a call came from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The client's address.
    pub remote_ip: String,
    /// What the client calls itself; its own text, cut to a sane length by the caller.
    pub user_agent: String,
    /// The request's id, as answered in `X-Request-Id`.
    pub request_id: String,
}

impl Actor {
    /// The same, calling from there.
    #[must_use]
    pub fn from_origin(self, origin: Origin) -> Self {
        Self::Remote(Box::new(self), origin)
    }

    /// `token:<id>`, `operator` or `system`: how the log names it.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Token(id) => format!("token:{}", storable(id)),
            Self::Operator => "operator".to_owned(),
            Self::System => "system".to_owned(),
            Self::Remote(who, _) => who.text(),
        }
    }

    fn origin(&self) -> Option<&Origin> {
        match self {
            Self::Remote(_, origin) => Some(origin),
            _ => None,
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

/// A stored entry.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditRow {
    /// Its number.
    pub id: i64,
    /// When, in microseconds.
    pub at: i64,
    /// `token:<id>`, `operator` or `system`.
    pub actor: String,
    /// `webhook.create`, `token.revoke`, …
    pub action: String,
    /// The id of what was changed.
    pub subject: String,
    /// Where the call came from; `None` = not over the network.
    pub origin: Option<Origin>,
    /// What there was.
    pub before: Option<Value>,
    /// What there is.
    pub after: Option<Value>,
}

impl AuditRow {
    fn of(row: &PgRow) -> Result<Self, StoreError> {
        let text = |column| row.try_get::<Option<String>, _>(column);
        let remote_ip = text("remote_ip")?;
        let (user_agent, request_id) = (text("user_agent")?, text("request_id")?);
        Ok(Self {
            id: row.try_get("id")?,
            at: pg::micros(row, "at")?,
            actor: row.try_get("actor")?,
            action: row.try_get("action")?,
            subject: row.try_get("subject")?,
            origin: remote_ip.map(|remote_ip| Origin {
                remote_ip,
                user_agent: user_agent.unwrap_or_default(),
                request_id: request_id.unwrap_or_default(),
            }),
            before: row.try_get("before")?,
            after: row.try_get("after")?,
        })
    }
}

/// Which entries a list shows; `None` = all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// With this action.
    pub action: Option<String>,
    /// About this subject.
    pub subject: Option<String>,
    /// By this actor.
    pub actor: Option<String>,
    /// From this moment on, in microseconds.
    pub from: Option<i64>,
    /// Before this moment, in microseconds.
    pub to: Option<i64>,
}

/// The last entry of a page; the next page begins after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditCursor {
    /// When, in microseconds.
    pub at: i64,
    /// Its number.
    pub id: i64,
}

/// A page of entries.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditPage {
    /// The entries, newest first.
    pub rows: Vec<AuditRow>,
    /// How many match in all, exact up to [`MAX_COUNTED`].
    pub total: i64,
    /// There are more than `total`.
    pub total_is_lower_bound: bool,
    /// Whether another page follows.
    pub more: bool,
}

const INSERT: &str = "
INSERT INTO audit_log
  (workspace_id, actor, action, subject, at, before, after, remote_ip, user_agent, request_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";

macro_rules! matching {
    ($select:literal, $rest:literal) => {
        concat!(
            $select,
            " FROM audit_log WHERE workspace_id = $1
  AND ($2::text IS NULL OR action = $2)
  AND ($3::text IS NULL OR subject = $3)
  AND ($4::text IS NULL OR actor = $4)
  AND ($5::timestamptz IS NULL OR at >= $5)
  AND ($6::timestamptz IS NULL OR at < $6)",
            $rest
        )
    };
}

/// The log is kept for ever: it is counted up to a number, and not to its beginning.
const TOTAL: &str = matching!("SELECT count(*) FROM (SELECT 1", " LIMIT $7) counted");

const PAGE: &str = matching!(
    "SELECT *",
    " AND (at, id) < ($7, $8) ORDER BY at DESC, id DESC LIMIT $9"
);

pub(crate) async fn write(
    connection: &mut PgConnection,
    entry: Entry<'_>,
) -> Result<(), StoreError> {
    let origin = entry.actor.origin();
    sqlx::query(INSERT)
        .bind(entry.workspace)
        .bind(entry.actor.text())
        .bind(entry.action)
        .bind(storable(entry.subject))
        .bind(Micros(entry.at))
        .bind(entry.before)
        .bind(entry.after)
        .bind(origin.map(|origin| storable(&origin.remote_ip)))
        .bind(origin.map(|origin| storable(&origin.user_agent)))
        .bind(origin.map(|origin| storable(&origin.request_id)))
        .execute(connection)
        .await?;
    Ok(())
}

impl Store {
    /// Writes down that something was looked at that only few may see, such as a secret. To be
    /// called before it is shown.
    ///
    /// # Errors
    /// When the database fails; then it must not be shown.
    pub async fn record_access(
        &self,
        workspace: Uuid,
        actor: &Actor,
        action: &'static str,
        subject: &str,
        now: i64,
    ) -> Result<(), StoreError> {
        let entry = Entry {
            workspace,
            actor,
            action,
            subject,
            at: now,
            before: None,
            after: None,
        };
        write(&mut *self.pool.acquire().await?, entry).await
    }

    /// A page of the workspace's entries, newest first, beginning after `after`, with the number
    /// of all that match, counted up to [`MAX_COUNTED`]. `page_size` is capped at [`MAX_PAGE`].
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_audit(
        &self,
        workspace: Uuid,
        filter: &AuditFilter,
        page_size: u32,
        after: Option<AuditCursor>,
    ) -> Result<AuditPage, StoreError> {
        let after = after.unwrap_or(AuditCursor {
            at: i64::MAX,
            id: i64::MAX,
        });
        let page_size = page_size.min(MAX_PAGE);
        let text = |wish: &Option<String>| wish.as_ref().map(|text| storable(text).into_owned());
        let (action, subject, actor) = (
            text(&filter.action),
            text(&filter.subject),
            text(&filter.actor),
        );
        let mut tx = self.begin_reading().await?;
        let total: i64 = sqlx::query_scalar(TOTAL)
            .bind(workspace)
            .bind(&action)
            .bind(&subject)
            .bind(&actor)
            .bind(filter.from.map(Micros))
            .bind(filter.to.map(Micros))
            .bind(MAX_COUNTED + 1)
            .fetch_one(&mut *tx)
            .await?;
        let found = sqlx::query(PAGE)
            .bind(workspace)
            .bind(&action)
            .bind(&subject)
            .bind(&actor)
            .bind(filter.from.map(Micros))
            .bind(filter.to.map(Micros))
            .bind(Micros(after.at))
            .bind(after.id)
            .bind(i64::from(page_size) + 1)
            .fetch_all(&mut *tx)
            .await?;
        tx.commit().await?;
        let (rows, more) = pg::page(&found, page_size, AuditRow::of)?;
        Ok(AuditPage {
            rows,
            total: total.min(MAX_COUNTED),
            total_is_lower_bound: total > MAX_COUNTED,
            more,
        })
    }
}
