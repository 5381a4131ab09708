//! Once is once: idempotency keys, and the answers kept for them.
//!
//! The store keeps claims and answers ([`Store::begin_idempotent`]); here is what may be kept and
//! how it is put. Answers are sealed before they are stored, because the answer to a creation holds
//! the signing secret.

use http::StatusCode;
use uuid::Uuid;
use webhooks_store::{Actor, Begun, IdempotencyKey, WebhookRow};

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
    /// What the earlier call made, where that is known.
    pub subject: Option<Uuid>,
    /// Which version of it, where it has several.
    pub version: Option<u32>,
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
    /// A webhook with a new key.
    Rotated {
        /// The webhook.
        row: &'a WebhookRow,
        /// What is shown of it.
        key: NewKey<'a>,
    },
    /// A webhook as it is now.
    Changed {
        /// The webhook.
        row: &'a WebhookRow,
    },
}

/// What a rotation shows of the key that it made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewKey<'a> {
    /// A signing secret (`whsec_…`), this once.
    Secret(&'a str),
    /// The public half of a key pair (`whpk_…`).
    Public(&'a str),
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
    /// An earlier holder was cut off after it had made this, or this version of it.
    Made(Uuid, Option<u32>),
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
            Begun::Recovered { subject, version } => Ok(Claim::Made(subject, version)),
            Begun::InProgress => Err(ManagementError::IdempotencyInProgress),
            Begun::Mismatch => Err(ManagementError::IdempotencyReused),
            Begun::Replay {
                status,
                body,
                subject,
                version,
            } => {
                let body = secrets::open_answer(&self.inner.keyring, caller.workspace, key, &body)
                    .map_err(ManagementError::internal)?;
                let ok = status == StatusCode::OK.as_u16();
                if ok {
                    // The first call may have given up waiting; this one promises the same.
                    self.inner.outbox.settled(caller.workspace).await?;
                }
                Ok(Claim::Answered(Answer {
                    status,
                    body,
                    replayed: true,
                    subject,
                    version,
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
        let result = result.map(|body| (body, None));
        self.conclude_about(caller, once, refuse, result).await
    }

    /// As [`Self::conclude_with`]; the success says what it is about.
    pub(super) async fn conclude_about(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        refuse: Option<fn(&ManagementError) -> Vec<u8>>,
        result: Result<(Vec<u8>, Option<Uuid>), ManagementError>,
    ) -> Result<Answer, ManagementError> {
        match result {
            Ok((body, subject)) => {
                self.keep(caller, once, StatusCode::OK, &body, subject)
                    .await?;
                self.inner.outbox.settled(caller.workspace).await?;
                Ok(Answer {
                    status: StatusCode::OK.as_u16(),
                    body,
                    replayed: false,
                    subject: None,
                    version: None,
                })
            }
            Err(error) => {
                match refuse {
                    Some(refuse) if is_kept(&error) => {
                        let body = refuse(&error);
                        self.keep(caller, once, error.row().0, &body, None).await?;
                    }
                    _ => self.give_up(caller, once).await,
                }
                Err(error)
            }
        }
    }

    /// Writes down that a kept answer shows a secret again, before it does.
    pub(super) async fn shown_again(
        &self,
        workspace: Uuid,
        actor: &Actor,
        action: &'static str,
        answer: &Answer,
        subject: impl FnOnce(Uuid) -> String,
    ) -> Result<(), ManagementError> {
        if answer.status != StatusCode::OK.as_u16() {
            return Ok(());
        }
        let subject = answer.subject.map_or_else(String::new, subject);
        let written =
            self.inner
                .store
                .record_access(workspace, actor, action, &subject, self.now());
        Ok(written.await?)
    }

    async fn keep(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        status: StatusCode,
        body: &[u8],
        subject: Option<Uuid>,
    ) -> Result<(), ManagementError> {
        let Some(once) = once else { return Ok(()) };
        let key = store_key(caller, once);
        let sealed = secrets::seal_answer(&self.inner.keyring, caller.workspace, key, body)
            .map_err(ManagementError::internal)?;
        Ok(self
            .inner
            .store
            .finish_idempotent(key, status.as_u16(), &sealed, subject)
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

/// Whether a refusal is the answer for as long as the key is kept. Not what is our own trouble, not
/// what someone else can lift (401, 403, 429), and not what only says to come back.
fn is_kept(error: &ManagementError) -> bool {
    let status = error.row().0;
    let lifted = [
        StatusCode::UNAUTHORIZED,
        StatusCode::FORBIDDEN,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    !status.is_server_error() && !lifted.contains(&status) && error.retry_after().is_none()
}

pub(super) fn store_key<'a>(caller: &'a Caller, once: &'a Once) -> IdempotencyKey<'a> {
    IdempotencyKey {
        token_id: &caller.token_id,
        key: &once.key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::Refusal;

    #[test]
    fn a_refusal_is_kept_unless_it_is_ours_or_passes() {
        for kept in [
            ManagementError::Invalid(Vec::new()),
            ManagementError::WebhookNotFound,
            ManagementError::Precondition { current: 1 },
            Refusal::WebhookDisabled.into(),
            Refusal::DeliveryEnded.into(),
            Refusal::JobEnded.into(),
            Refusal::PayloadExpired.into(),
        ] {
            assert!(is_kept(&kept), "{kept}");
        }
        for not in [
            ManagementError::Unauthenticated,
            ManagementError::MissingScope("webhooks:write"),
            ManagementError::RateLimited(std::time::Duration::from_secs(1)),
            ManagementError::TokenLimit(1),
            ManagementError::IdempotencyInProgress,
            ManagementError::Pending,
            ManagementError::Unavailable(None),
            Refusal::NotYet.into(),
            Refusal::TooManyJobs(1).into(),
        ] {
            assert!(!is_kept(&not), "{not}");
        }
    }
}
