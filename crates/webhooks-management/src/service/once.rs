//! Once is once: idempotency keys, and the answers kept for them.
//!
//! The store keeps claims and answers ([`Store::begin_idempotent`]); here is what may be kept and
//! how it is put. Answers are sealed before they are stored, because the answer to a creation holds
//! the signing secret.

use http::StatusCode;
use webhooks_store::{Begun, IdempotencyKey, WebhookRow};

#[cfg(doc)]
use webhooks_store::Store;

use super::Management;
use crate::{auth::Caller, error::ManagementError, secrets};

/// What makes a call repeatable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once {
    /// The caller's key, 1 to 255 characters.
    pub key: String,
    /// What the request was: the same key for another one is refused.
    pub hash: [u8; 32],
}

/// What a mutation answers with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP's word for it.
    pub status: u16,
    /// As the face encoded it.
    pub body: Vec<u8>,
    /// It is the answer to an earlier call with the same key.
    pub replayed: bool,
}

/// What came of a mutation.
#[derive(Debug, Clone, Copy)]
pub enum Mutated<'a> {
    /// A new webhook, and its signing secret for this once.
    Created {
        /// The webhook.
        row: &'a WebhookRow,
        /// `whsec_…`
        secret: &'a str,
    },
    /// A webhook with a new signing secret, shown this once.
    Rotated {
        /// The webhook.
        row: &'a WebhookRow,
        /// `whsec_…`
        secret: &'a str,
    },
    /// A webhook as it is now.
    Changed {
        /// The webhook.
        row: &'a WebhookRow,
    },
}

/// How a face puts answers, so that they can be kept as they were given.
#[derive(Debug, Clone, Copy)]
pub struct Face {
    /// Encodes a success.
    pub encode: fn(&Mutated<'_>) -> Result<Vec<u8>, ManagementError>,
    /// Encodes a refusal; `None` = refusals are not kept.
    pub refuse: Option<fn(&ManagementError) -> Vec<u8>>,
}

/// What a key means for the call that brought it.
pub(super) enum Claim {
    /// Do it.
    Do,
    /// An earlier holder was cut off after it had made this webhook.
    Made(uuid::Uuid),
    /// It was answered before.
    Answered(Answer),
}

impl Management {
    /// Claims the key, if there is one.
    pub(super) async fn claim(
        &self,
        caller: &Caller,
        once: Option<&Once>,
    ) -> Result<Claim, ManagementError> {
        let Some(once) = once else {
            return Ok(Claim::Do);
        };
        let key = store_key(caller, once);
        match self
            .inner
            .store
            .begin_idempotent(key, once.hash, self.now())
            .await?
        {
            Begun::Fresh => Ok(Claim::Do),
            Begun::Recovered { subject } => Ok(Claim::Made(subject)),
            Begun::InProgress => Err(ManagementError::IdempotencyInProgress),
            Begun::Mismatch => Err(ManagementError::IdempotencyReused),
            Begun::Replay { status, body } => {
                let body = secrets::open_answer(&self.inner.keyring, caller.workspace, key, &body)
                    .map_err(ManagementError::internal)?;
                let ok = status == StatusCode::OK.as_u16();
                if ok {
                    // The first call may have given up waiting; this one promises the same.
                    self.inner.outbox.settled().await?;
                }
                Ok(Claim::Answered(Answer {
                    status,
                    body,
                    replayed: true,
                }))
            }
        }
    }

    /// Keeps the answer or gives the key up, then waits until the change is in force.
    pub(super) async fn conclude(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        face: Face,
        result: Result<Vec<u8>, ManagementError>,
    ) -> Result<Answer, ManagementError> {
        self.conclude_with(caller, once, face.refuse, result).await
    }

    /// As [`Self::conclude`], for what is not put by a [`Face`].
    pub(super) async fn conclude_with(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        refuse: Option<fn(&ManagementError) -> Vec<u8>>,
        result: Result<Vec<u8>, ManagementError>,
    ) -> Result<Answer, ManagementError> {
        match result {
            Ok(body) => {
                self.keep(caller, once, StatusCode::OK, &body).await?;
                self.inner.outbox.settled().await?;
                Ok(Answer {
                    status: StatusCode::OK.as_u16(),
                    body,
                    replayed: false,
                })
            }
            Err(error) => {
                match refuse {
                    Some(refuse) if is_kept(&error) => {
                        self.keep(caller, once, error.row().0, &refuse(&error))
                            .await?;
                    }
                    _ => self.give_up(caller, once).await,
                }
                Err(error)
            }
        }
    }

    async fn keep(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        status: StatusCode,
        body: &[u8],
    ) -> Result<(), ManagementError> {
        let Some(once) = once else { return Ok(()) };
        let key = store_key(caller, once);
        let sealed = secrets::seal_answer(&self.inner.keyring, caller.workspace, key, body)
            .map_err(ManagementError::internal)?;
        Ok(self
            .inner
            .store
            .finish_idempotent(key, status.as_u16(), &sealed)
            .await?)
    }

    async fn give_up(&self, caller: &Caller, once: Option<&Once>) {
        let Some(once) = once else { return };
        if let Err(error) = self
            .inner
            .store
            .forget_idempotent(store_key(caller, once))
            .await
        {
            // The claim ends by itself after its lease.
            tracing::warn!(%error, "an idempotency key stays claimed for a while");
        }
    }
}

/// Refusals that would come out the same again. Not those that pass by themselves, and not those
/// that someone else can lift (401, 403, 429).
fn is_kept(error: &ManagementError) -> bool {
    matches!(
        error.row().0,
        StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND
    )
}

pub(super) fn store_key<'a>(caller: &'a Caller, once: &'a Once) -> IdempotencyKey<'a> {
    IdempotencyKey {
        token_id: &caller.token_id,
        key: &once.key,
    }
}
