//! Workspaces, as operators handle them through the API. What is done stands in
//! [`crate::operator`]; here is how a call of the API reaches it.

use std::future::Future;

use uuid::Uuid;
use webhooks_domain::token::Token;
use webhooks_store::{Actor, WorkspaceCursor, WorkspaceRow};

use super::{
    Answer, Management, Once, Page, TokenDraft,
    once::{Claim, store_key},
    tokens::{TOKEN_SHOWN, packed, unpacked},
};
use crate::{
    auth::Caller,
    error::ManagementError,
    operator::{Kept, Operator},
    page::ListScope,
    secrets,
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

/// How a face puts a workspace that an operator has made.
#[derive(Debug, Clone, Copy)]
pub struct WorkspaceFace {
    /// Encodes it, with the number of its webhooks.
    pub encode: fn(&WorkspaceRow, i64) -> Result<Vec<u8>, ManagementError>,
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

    /// Makes a workspace, at most once for an idempotency key: who takes the key over of a call that was
    /// cut off gets what that one made.
    ///
    /// # Errors
    /// The draft breaks rules, the change could not be made, or the key is in use.
    pub async fn create_workspace(
        &self,
        actor: Actor,
        draft: Result<WorkspaceDraft, ManagementError>,
        once: Option<Once>,
        face: WorkspaceFace,
    ) -> Result<Answer, ManagementError> {
        let this = self.clone();
        self.to_the_end(async move {
            let operator = operator_keys();
            let hands = this.operator(actor);
            let result = match this.claim(&operator, once.as_ref()).await? {
                Claim::Answered(answer) => return Ok(answer),
                Claim::Made(id, _) => this.shown(&hands, hands.workspace(id).await, face).await,
                Claim::Do => {
                    let made = async {
                        let draft = draft?;
                        this.read_model_is_there().await?;
                        let claim = once.as_ref().map(|once| store_key(&operator, once));
                        hands.make_workspace_for(draft, claim).await
                    };
                    let made = made.await;
                    this.shown(&hands, made, face).await
                }
            };
            this.conclude_with(&operator, once.as_ref(), face.refuse, result)
                .await
        })
        .await
    }

    async fn shown(
        &self,
        hands: &Operator,
        made: Result<WorkspaceRow, ManagementError>,
        face: WorkspaceFace,
    ) -> Result<Vec<u8>, ManagementError> {
        let row = made?;
        let count = hands.webhook_count(row.id).await?;
        (face.encode)(&row, count)
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
    /// There is no such workspace, the draft breaks rules, the change could not be made, or the key is in
    /// use.
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
                    this.issue(actor, workspace, draft, once.as_ref(), face)
                        .await
                }
            };
            let (result, told) = match result {
                Ok((body, subject, workspace)) => (Ok((body, Some(subject))), Some(workspace)),
                Err(error) => (Err(error), None),
            };
            let answer = this
                .conclude_about(&operator, once.as_ref(), face.refuse, result)
                .await?;
            if let Some(workspace) = told {
                this.inner.outbox.settled(workspace).await?;
            }
            Ok(answer)
        })
        .await
    }

    /// Makes a token of a workspace, with the scopes that the draft names. With a key its answer is kept
    /// in the same transaction: a token whose text nobody knows is never left behind.
    async fn issue(
        &self,
        actor: Actor,
        workspace: Result<Uuid, ManagementError>,
        draft: Result<TokenDraft, ManagementError>,
        once: Option<&Once>,
        face: IssueFace,
    ) -> Result<(Vec<u8>, Uuid, Uuid), ManagementError> {
        let (workspace, draft) = (workspace?, draft?);
        let operator = self.operator(actor);
        operator.workspace(workspace).await?;
        let wish = draft.judge_issue(workspace, self.now())?;
        self.read_model_is_there().await?;
        let keep = |token: &Token| {
            let Some(once) = once else {
                return Ok(None);
            };
            let holder = operator_keys();
            let (key, body) = (store_key(&holder, once), (face.encode)(token)?);
            let sealed = secrets::seal_answer(&self.inner.keyring, holder.workspace, key, &body);
            Ok(Some(Kept {
                key: once.key.clone(),
                body: sealed.map_err(ManagementError::internal)?,
                subject: packed(token.id()),
                holder: holder.token_id,
            }))
        };
        let (token, workspace) = operator.create_token_and(wish, keep).await?;
        Ok(((face.encode)(&token)?, packed(token.id()), workspace))
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
