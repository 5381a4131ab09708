//! The audit log, as a workspace reads it.

use uuid::Uuid;
use webhooks_store::{AuditCursor, AuditFilter, AuditRow};

use super::{Found, Management, Page};
use crate::{auth::Caller, error::ManagementError, page::ListScope};

impl Management {
    /// Who changed what in the caller's workspace, newest first. The total is counted up to 10,000.
    ///
    /// # Errors
    /// The page token is not for this list.
    pub async fn list_audit_log(
        &self,
        caller: &Caller,
        filter: &AuditFilter,
        page_size: u32,
        page_token: &str,
    ) -> Result<Found<AuditRow>, ManagementError> {
        let text = |wish: &Option<String>| wish.clone().unwrap_or_default();
        let time = |wish: Option<i64>| wish.map_or_else(String::new, |at| at.to_string());
        let parts = [
            text(&filter.action),
            text(&filter.subject),
            text(&filter.actor),
            time(filter.from),
            time(filter.to),
        ];
        let filters = parts.each_ref().map(String::as_str);
        let scope = ListScope {
            list: "audit",
            workspace: caller.workspace,
            filters: &filters,
        };
        let after = self.inner.pages.read(scope, page_token)?;
        let after = after.map(|at| AuditCursor {
            at: at.created_at,
            id: i64::try_from(at.id.as_u128()).unwrap_or(i64::MAX),
        });
        let page = self
            .inner
            .store
            .list_audit(caller.workspace, filter, page_size, after)
            .await?;
        let last = page.rows.last().filter(|_| page.more);
        Ok(Found {
            page: Page {
                next: last.map(|row| {
                    let number = u128::try_from(row.id).unwrap_or(0);
                    self.token_after(scope, row.at, Uuid::from_u128(number))
                }),
                total: u64::try_from(page.total).unwrap_or(0),
                rows: page.rows,
            },
            total_is_lower_bound: page.total_is_lower_bound,
        })
    }
}
