//! A workspace's access tokens: made, listed, changed and revoked by whoever holds the scopes.
//!
//! A token grants only scopes that it holds itself, so that nobody climbs by making a token. Nor does
//! it bring in a member's address that is not known already: who may make tokens and webhooks could
//! have mails with words of their own sent to anybody.
//!
//! The answer that shows a new token is kept (sealed) in the transaction that makes it: a repeated call
//! with the same idempotency key shows the same token, even after a crash, and makes no second one.

pub(crate) mod draft;

use uuid::Uuid;
use webhooks_domain::token::{MINT_BYTES, Token, TokenEnvironment};
use webhooks_store::{
    KeptAnswer, NewToken, StoreError, TokenCursor, TokenKeyType, TokenPatch, TokenRow, WorkspaceRow,
};

use super::{
    Answer, Management, Once, Page,
    once::{Claim, store_key},
};
use crate::{
    auth::Caller,
    error::{ManagementError, Violation},
    page::{ListScope, Position},
    scopes::lacking,
    secrets,
};

pub use draft::TokenDraft;

/// A kept answer shows a token again.
pub(super) const TOKEN_SHOWN: &str = "token.shown";

/// What came of a token's mutation.
#[derive(Debug, Clone, Copy)]
pub enum TokenMutated<'a> {
    /// A new token, and its text for this once.
    Created {
        /// The token.
        row: &'a TokenRow,
        /// `lbk_…`
        text: &'a str,
    },
    /// A token as it is now.
    Changed {
        /// The token.
        row: &'a TokenRow,
    },
}

/// How a face puts answers about tokens, so that they can be kept as they were given.
#[derive(Debug, Clone, Copy)]
pub struct TokenFace {
    /// Encodes a success.
    pub encode: fn(&TokenMutated<'_>) -> Result<Vec<u8>, ManagementError>,
    /// Encodes a refusal; `None` = refusals are not kept.
    pub refuse: Option<fn(&ManagementError) -> Vec<u8>>,
}

impl Management {
    /// Makes a token.
    ///
    /// # Errors
    /// The draft breaks rules, asks for scopes that the caller does not hold, or the change could
    /// not be made.
    pub async fn create_token(
        &self,
        caller: Caller,
        draft: Result<TokenDraft, ManagementError>,
        once: Option<Once>,
        face: TokenFace,
    ) -> Result<Answer, ManagementError> {
        let this = self.clone();
        self.to_the_end(async move {
            let result = match this.claim(&caller, once.as_ref()).await? {
                Claim::Answered(answer) => {
                    let (workspace, actor) = (caller.workspace, caller.actor());
                    this.shown_again(workspace, &actor, TOKEN_SHOWN, &answer, unpacked)
                        .await?;
                    return Ok(answer);
                }
                Claim::Do | Claim::Made(..) => {
                    this.make_token(&caller, draft, once.as_ref(), face).await
                }
            };
            this.conclude_with(&caller, once.as_ref(), face.refuse, result)
                .await
        })
        .await
    }

    /// Changes a token. `id` may be any text: what is no id names nothing.
    ///
    /// # Errors
    /// There is no such token, the draft breaks rules, or the change could not be made.
    pub async fn update_token(
        &self,
        caller: Caller,
        id: String,
        draft: Result<TokenDraft, ManagementError>,
        once: Option<Once>,
        face: TokenFace,
    ) -> Result<Answer, ManagementError> {
        let this = self.clone();
        self.to_the_end(async move {
            let result = match this.claim(&caller, once.as_ref()).await? {
                Claim::Answered(answer) => return Ok(answer),
                Claim::Do | Claim::Made(..) => this.change_token(&caller, &id, draft, face).await,
            };
            this.conclude_with(&caller, once.as_ref(), face.refuse, result)
                .await
        })
        .await
    }

    /// Revokes a token, the caller's own too.
    ///
    /// # Errors
    /// There is no such token, or the change could not be made.
    pub async fn delete_token(&self, caller: &Caller, id: &str) -> Result<(), ManagementError> {
        let (this, caller, id) = (self.clone(), caller.clone(), id.to_owned());
        self.to_the_end(async move {
            this.read_model_is_there().await?;
            let (store, now) = (&this.inner.store, this.now());
            if !store
                .revoke_token(caller.workspace, &id, &caller.actor(), now)
                .await?
            {
                return Err(ManagementError::TokenNotFound);
            }
            tracing::info!(token.id = %id, workspace.id = %caller.workspace, "token.revoked");
            this.inner.outbox.settled(caller.workspace).await
        })
        .await
    }

    /// One token of the caller's workspace.
    ///
    /// # Errors
    /// There is none of this id.
    pub async fn get_token(&self, caller: &Caller, id: &str) -> Result<TokenRow, ManagementError> {
        let row = self.inner.store.get_token(caller.workspace, id).await?;
        row.ok_or(ManagementError::TokenNotFound)
    }

    /// The caller's workspace's tokens, oldest first.
    ///
    /// # Errors
    /// The page token is not for this list.
    pub async fn list_tokens(
        &self,
        caller: &Caller,
        page_size: u32,
        page_token: &str,
    ) -> Result<Page<TokenRow>, ManagementError> {
        let scope = ListScope {
            list: "tokens",
            workspace: caller.workspace,
            filters: &[],
        };
        let after = self.inner.pages.read(scope, page_token)?;
        let after = after.map(|at| TokenCursor {
            created_at: at.created_at,
            id: unpacked(at.id),
        });
        let page = self
            .inner
            .store
            .page_tokens(caller.workspace, page_size, after.as_ref())
            .await?;
        let last = page.rows.last().filter(|_| page.more);
        Ok(Page {
            next: last.map(|row| {
                let position = Position {
                    created_at: row.created_at,
                    id: packed(&row.id),
                };
                self.inner.pages.make(scope, position)
            }),
            total: u64::try_from(page.total).unwrap_or(0),
            rows: page.rows,
        })
    }

    async fn make_token(
        &self,
        caller: &Caller,
        draft: Result<TokenDraft, ManagementError>,
        once: Option<&Once>,
        face: TokenFace,
    ) -> Result<Vec<u8>, ManagementError> {
        let now = self.now();
        let wish = draft?.judge_new(now)?;
        // A publishable token opens nothing, so anybody who may make tokens may make one.
        if wish.key_type == TokenKeyType::Secret
            && let Some(scope) = lacking(&caller.scopes, &wish.scopes)
        {
            return Err(ManagementError::MissingScope(scope));
        }
        self.read_model_is_there().await?;
        let workspace = self.inner.store.get_workspace(caller.workspace).await?;
        let workspace = workspace.ok_or(ManagementError::Unauthenticated)?;
        let environment = match workspace.settings.sandbox {
            true => TokenEnvironment::Test,
            false => TokenEnvironment::Live,
        };
        let member_email = address(caller, &workspace, wish.member_email)?;
        let random = secrets::random::<MINT_BYTES>().map_err(ManagementError::internal)?;
        let token = Token::mint(environment, &random);
        let new = NewToken {
            id: token.id().to_owned(),
            hash: token.hash(),
            workspace_id: caller.workspace,
            name: wish.name,
            key_type: wish.key_type,
            scopes: wish.scopes,
            created_by: caller.member,
            member_email,
            expires_at: wish.expires_at,
            now,
        };
        let body = (face.encode)(&TokenMutated::Created {
            row: &as_stored(&new),
            text: token.reveal(),
        })?;
        let key = once.map(|once| store_key(caller, once));
        let sealed = key
            .map(|key| secrets::seal_answer(&self.inner.keyring, caller.workspace, key, &body))
            .transpose()
            .map_err(ManagementError::internal)?;
        let kept = key.zip(sealed.as_deref()).map(|(key, body)| KeptAnswer {
            key,
            status: http::StatusCode::OK.as_u16(),
            body,
            subject: Some(packed(&new.id)),
        });
        let made = self
            .inner
            .store
            .create_token(&new, kept, &caller.actor())
            .await;
        let row = made.map_err(|error| match error {
            StoreError::Full { limit, .. } => ManagementError::TokenLimit(limit),
            StoreError::NotFound(_) => ManagementError::Unauthenticated,
            // The claim outlived its lease and someone else took it: that call gives the answer.
            StoreError::Conflict(_) if once.is_some() => ManagementError::IdempotencyInProgress,
            other => other.into(),
        })?;
        tracing::info!(token.id = %row.id, workspace.id = %row.workspace_id, "token.created");
        Ok(body)
    }

    async fn change_token(
        &self,
        caller: &Caller,
        id: &str,
        draft: Result<TokenDraft, ManagementError>,
        face: TokenFace,
    ) -> Result<Vec<u8>, ManagementError> {
        // An unknown id is told before the body is judged: a stranger's token has no rules to learn.
        let row = self.get_token(caller, id).await?;
        let patch = draft?.judge_changes(&row, self.now())?;
        may_give(caller, &row, &patch)?;
        self.read_model_is_there().await?;
        let changed = self
            .inner
            .store
            .update_token(caller.workspace, id, &patch, &caller.actor(), self.now())
            .await?;
        let changed = changed.ok_or(ManagementError::TokenNotFound)?;
        if changed.revision != row.revision {
            tracing::info!(token.id = %id, workspace.id = %caller.workspace, "token.changed");
        }
        (face.encode)(&TokenMutated::Changed { row: &changed })
    }
}

/// Where a new token's member reads mail: where the caller does, unless it names another address that the
/// workspace is known by.
fn address(
    caller: &Caller,
    workspace: &WorkspaceRow,
    wish: Option<String>,
) -> Result<Option<String>, ManagementError> {
    let Some(email) = wish else {
        return Ok(caller.member_email.clone());
    };
    let known = workspace.settings.notification_emails.iter();
    let mut known = known.chain(caller.member_email.as_ref());
    // As it is known: a name in other letters may be another mailbox.
    match known.find(|known| known.eq_ignore_ascii_case(&email)) {
        Some(known) => Ok(Some(known.clone())),
        None => {
            let message = "is the calling token's own, or one of the workspace's notification addresses; others are an operator's to give";
            let violation = Violation::new("memberEmail", "not_known", message);
            Err(ManagementError::Invalid(vec![violation]))
        }
    }
}

/// Whoever changes what a token may, or for how long, must hold all of it.
fn may_give(caller: &Caller, row: &TokenRow, patch: &TokenPatch) -> Result<(), ManagementError> {
    let gives = patch.scopes.is_some() || patch.expires_at.is_some();
    let wanted = patch.scopes.as_ref().unwrap_or(&row.scopes);
    match lacking(&caller.scopes, wanted) {
        Some(scope) if gives && row.key_type == TokenKeyType::Secret => {
            Err(ManagementError::MissingScope(scope))
        }
        _ => Ok(()),
    }
}

/// The row that the store will make of it.
fn as_stored(new: &NewToken) -> TokenRow {
    TokenRow {
        id: new.id.clone(),
        hash: new.hash,
        workspace_id: new.workspace_id,
        name: webhooks_store::storable(&new.name).into_owned(),
        key_type: new.key_type,
        scopes: new.scopes.clone(),
        created_by: new.created_by,
        member_email: new.member_email.clone(),
        created_at: new.now,
        updated_at: new.now,
        expires_at: new.expires_at,
        last_used_at: None,
        revoked_at: None,
        revision: 1,
        events_per_second: None,
    }
}

/// A token's id (12 characters) in the place that UUIDs have elsewhere: in page tokens, and beside
/// kept answers.
pub(super) fn packed(id: &str) -> Uuid {
    let mut bytes = [0; 16];
    for (slot, byte) in bytes.iter_mut().zip(id.bytes()) {
        *slot = byte;
    }
    Uuid::from_bytes(bytes)
}

pub(super) fn unpacked(id: Uuid) -> String {
    let bytes = id.into_bytes();
    let text = bytes.iter().take_while(|byte| **byte != 0);
    text.map(|byte| char::from(*byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_a_page_token() {
        for id in ["Ab3dEf6hIj9l", "", "0123456789abcdef"] {
            assert_eq!(unpacked(packed(id)), id);
        }
    }
}
