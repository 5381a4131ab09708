//! Workspaces, as operators handle them through the API. What is done stands in
//! [`crate::operator`]; here is how a call of the API reaches it.

use std::future::Future;

use uuid::Uuid;
use webhooks_domain::token::{Token, TokenEnvironment};
use webhooks_store::{Actor, WorkspaceCursor, WorkspaceRow};

use super::{
    Answer, Management, Once, Page, TokenDraft,
    once::Claim,
    tokens::{TOKEN_SHOWN, packed, unpacked},
};
use crate::{
    auth::Caller,
    error::ManagementError,
    operator::{Operator, TokenWish},
    page::ListScope,
};

pub use crate::operator::{LimitsDraft, WorkspaceDraft};

/// All workspaces are one list, which belongs to none of them.
const WORKSPACES: ListScope<'static> = ListScope {
    list: "workspaces",
    workspace: Uuid::nil(),
    filters: &[],
};

/// Idempotency keys of operators are told from tokens' by a holder that no token can be.
const OPERATOR_KEYS: &str = "operator";

/// How a face puts a token that an operator has made.
#[derive(Debug, Clone, Copy)]
pub struct IssueFace {
    /// Encodes the token, this once.
    pub encode: fn(&Token) -> Result<Vec<u8>, ManagementError>,
    /// Encodes a refusal; `None` = refusals are not kept.
    pub refuse: Option<fn(&ManagementError) -> Vec<u8>>,
}

fn operator_keys() -> Caller {
    Caller {
        token_id: OPERATOR_KEYS.to_owned(),
        ..Caller::default()
    }
}

impl Management {
    /// The operator's hands, for a call of the API.
    #[must_use]
    pub fn operator(&self, actor: Actor) -> Operator {
        let inner = &self.inner;
        Operator::within(
            inner.store.clone(),
            inner.outbox.clone(),
            std::sync::Arc::clone(&inner.clock),
            actor,
        )
    }

    /// Runs an operator's call to its end, at most once for an idempotency key.
    ///
    /// # Errors
    /// As `work`, or the key is in use.
    pub async fn operate_once(
        &self,
        once: Option<Once>,
        refuse: Option<fn(&ManagementError) -> Vec<u8>>,
        work: impl Future<Output = Result<Vec<u8>, ManagementError>> + Send + 'static,
    ) -> Result<Answer, ManagementError> {
        let this = self.clone();
        self.to_the_end(async move {
            let operator = operator_keys();
            let result = match this.claim(&operator, once.as_ref()).await? {
                Claim::Answered(answer) => return Ok(answer),
                // Refused before anything happens, as every change is.
                Claim::Do | Claim::Made(..) => match this.read_model_is_there().await {
                    Ok(()) => work.await,
                    Err(error) => Err(error),
                },
            };
            this.conclude_with(&operator, once.as_ref(), refuse, result)
                .await
        })
        .await
    }

    /// Deletes a workspace.
    ///
    /// # Errors
    /// There is none of this id, or the change could not be made.
    pub async fn delete_workspace(&self, actor: Actor, id: Uuid) -> Result<(), ManagementError> {
        let this = self.clone();
        self.to_the_end(async move {
            this.read_model_is_there().await?;
            this.operator(actor).delete_workspace(id).await?;
            Ok(())
        })
        .await
    }

    /// Makes a token of a workspace, at most once for an idempotency key. `workspace` and `draft` are
    /// what the face could read, or why it could not.
    ///
    /// # Errors
    /// As [`Self::issue_token`], or the key is in use.
    pub async fn issue_once(
        &self,
        actor: Actor,
        workspace: Result<Uuid, ManagementError>,
        draft: Result<TokenDraft, ManagementError>,
        once: Option<Once>,
        face: IssueFace,
    ) -> Result<Answer, ManagementError> {
        let this = self.clone();
        self.to_the_end(async move {
            let operator = operator_keys();
            let result = match this.claim(&operator, once.as_ref()).await? {
                Claim::Answered(answer) => {
                    let workspace = workspace?;
                    this.shown_again(workspace, &actor, TOKEN_SHOWN, &answer, unpacked)
                        .await?;
                    return Ok(answer);
                }
                Claim::Do | Claim::Made(..) => {
                    let issued = async {
                        let token = this.issue_token(actor, workspace?, draft?).await?;
                        Ok(((face.encode)(&token)?, Some(packed(token.id()))))
                    };
                    issued.await
                }
            };
            this.conclude_about(&operator, once.as_ref(), face.refuse, result)
                .await
        })
        .await
    }

    /// Makes a token of a workspace, with the scopes that the draft names.
    ///
    /// # Errors
    /// There is no such workspace, the draft breaks rules, or the change could not be made.
    pub async fn issue_token(
        &self,
        actor: Actor,
        workspace: Uuid,
        draft: TokenDraft,
    ) -> Result<Token, ManagementError> {
        let operator = self.operator(actor);
        let sandbox = operator.workspace(workspace).await?.settings.sandbox;
        let wish = TokenWish {
            workspace,
            environment: match sandbox {
                true => TokenEnvironment::Test,
                false => TokenEnvironment::Live,
            },
            ..draft.judge_issue(workspace, self.now())?
        };
        self.read_model_is_there().await?;
        operator.create_token(wish).await
    }

    /// All workspaces, oldest first, each with its number of webhooks.
    ///
    /// # Errors
    /// The page token is not for this list.
    pub async fn list_workspaces(
        &self,
        page_size: u32,
        page_token: &str,
    ) -> Result<Page<(WorkspaceRow, i64)>, ManagementError> {
        let after = self.inner.pages.read(WORKSPACES, page_token)?;
        let after = after.map(|at| WorkspaceCursor {
            created_at: at.created_at,
            id: at.id,
        });
        let page = self.inner.store.list_workspaces(page_size, after).await?;
        let last = page.rows.last().filter(|_| page.more);
        Ok(Page {
            next: last.map(|(row, _)| self.token_after(WORKSPACES, row.created_at, row.id)),
            total: u64::try_from(page.total).unwrap_or(0),
            rows: page.rows,
        })
    }
}
