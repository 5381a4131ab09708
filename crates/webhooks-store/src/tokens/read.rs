//! Finding tokens.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{TokenCursor, TokenPage, TokenRow};
use crate::{
    Store,
    error::StoreError,
    history::MAX_PAGE,
    pg::{self, Micros, storable},
};

/// A token with what its workspace adds to it.
macro_rules! select {
    ($condition:literal) => {
        concat!(
            "SELECT t.*, w.events_per_second FROM tokens t JOIN workspaces w ON w.id = t.workspace_id WHERE ",
            $condition
        )
    };
}

const BY_ID: &str = select!("t.id = $1");

const IN_FORCE: &str = select!("t.workspace_id = $1 AND t.id = $2 AND t.revoked_at IS NULL");

const OF_WORKSPACE: &str = select!("t.workspace_id = $1 ORDER BY t.created_at, t.id");

const FOR_RECONCILE: &str = select!("t.id > $1 ORDER BY t.id LIMIT $2");

/// One row more than the page holds tells whether another page follows.
const PAGE: &str = select!(
    "t.workspace_id = $1 AND t.revoked_at IS NULL AND (t.created_at, t.id) > ($2, $3)
ORDER BY t.created_at, t.id LIMIT $4"
);

const TOTAL: &str = "SELECT count(*) FROM tokens WHERE workspace_id = $1 AND revoked_at IS NULL";

impl Store {
    /// The token of this id, revoked or expired ones included.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn token_by_id(&self, id: &str) -> Result<Option<TokenRow>, StoreError> {
        let row = sqlx::query(BY_ID)
            .bind(storable(id))
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(TokenRow::of).transpose()
    }

    /// The workspace's token of this id; revoked ones and other workspaces' are not found.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn get_token(
        &self,
        workspace: Uuid,
        id: &str,
    ) -> Result<Option<TokenRow>, StoreError> {
        in_force(&mut *self.pool.acquire().await?, workspace, id).await
    }

    /// A page of the workspace's tokens that are not revoked, oldest first, beginning after
    /// `after`, with the exact number of all. `page_size` is capped at [`MAX_PAGE`].
    ///
    /// # Errors
    /// When the database fails.
    pub async fn page_tokens(
        &self,
        workspace: Uuid,
        page_size: u32,
        after: Option<&TokenCursor>,
    ) -> Result<TokenPage, StoreError> {
        let page_size = page_size.min(MAX_PAGE);
        let (created_at, id) = after.map_or((i64::MIN, ""), |after| {
            (after.created_at, after.id.as_str())
        });
        let mut tx = self.begin_reading().await?;
        let total: i64 = sqlx::query_scalar(TOTAL)
            .bind(workspace)
            .fetch_one(&mut *tx)
            .await?;
        let found = sqlx::query(PAGE)
            .bind(workspace)
            .bind(Micros(created_at))
            .bind(storable(id))
            .bind(i64::from(page_size) + 1)
            .fetch_all(&mut *tx)
            .await?;
        tx.commit().await?;
        let (rows, more) = pg::page(&found, page_size, TokenRow::of)?;
        Ok(TokenPage { rows, total, more })
    }

    /// The workspace's tokens, oldest first, revoked ones included.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_tokens(&self, workspace: Uuid) -> Result<Vec<TokenRow>, StoreError> {
        let rows = sqlx::query(OF_WORKSPACE)
            .bind(workspace)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(TokenRow::of).collect()
    }

    /// The next `limit` tokens after `after` in the order of ids, revoked ones included, of every
    /// workspace: for the reconcile of the read model.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn token_config_rows(
        &self,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<TokenRow>, StoreError> {
        let rows = sqlx::query(FOR_RECONCILE)
            .bind(storable(after.unwrap_or_default()))
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(TokenRow::of).collect()
    }
}

pub(super) async fn in_force(
    connection: &mut PgConnection,
    workspace: Uuid,
    id: &str,
) -> Result<Option<TokenRow>, StoreError> {
    let row = sqlx::query(IN_FORCE)
        .bind(workspace)
        .bind(storable(id))
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(TokenRow::of).transpose()
}
