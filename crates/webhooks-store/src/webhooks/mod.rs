//! Webhooks: what customers configure.

mod options;
mod past;
mod read;
mod secrets;
mod statements;
mod verify;
pub(crate) mod write;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sqlx::{Row as _, postgres::PgRow};
use uuid::Uuid;
use webhooks_domain::{
    challenge,
    endpoint::url_for_record,
    webhook::{DeliveryOrder, HeldChoice, StatusReason, WebhookSource, WebhookStatus},
};

use crate::{WorkspaceRow, error::StoreError, pg, tokens::email_for_record};

pub use options::{RateChoice, RetryChoice, RetryNumbers, WebhookOptions};
pub use past::{DeletedWebhook, Past, PastConfig};
pub use secrets::{MAX_OLD_SECRETS, Rotation};
pub use verify::Verified;

/// Something secret of a webhook, encrypted by the caller: a signing key, or what its requests
/// carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSecret {
    /// Which key of the keyring opens it.
    pub key_id: String,
    /// Its version, from 1. All secrets of a webhook share one numbering; no number comes twice.
    pub version: u32,
    /// The nonce.
    pub nonce: Vec<u8>,
    /// Ciphertext and tag.
    pub ciphertext: Vec<u8>,
    /// When it was made, in microseconds.
    pub created_at: i64,
    /// When it stops signing, in microseconds; `None` = never.
    pub expires_at: Option<i64>,
}

impl SealedSecret {
    /// Whether it signs at `now`, in microseconds.
    #[must_use]
    pub fn signs_at(&self, now: i64) -> bool {
        signs_at(self.expires_at, now)
    }
}

/// A key that ends signs before that moment, not at it.
fn signs_at(expires_at: Option<i64>, now: i64) -> bool {
    expires_at.is_none_or(|end| now < end)
}

/// Headers and credentials of a webhook's requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extras {
    /// What may be shown of them: names and masks.
    pub shown: Value,
    /// All of it; `None` = there are none.
    pub sealed: Option<SealedSecret>,
}

impl Default for Extras {
    fn default() -> Self {
        Self {
            shown: json!({}),
            sealed: None,
        }
    }
}

/// An ed25519 signing key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsymmetricSecret {
    /// What receivers verify with.
    pub public_key: String,
    /// The seed.
    pub sealed: SealedSecret,
}

/// The public half of an ed25519 key, for anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// What receivers verify with.
    pub key: String,
    /// When it was made, in microseconds.
    pub created_at: i64,
    /// When it stops signing, in microseconds; `None` = not planned.
    pub expires_at: Option<i64>,
}

impl PublicKey {
    /// Whether it signs at `now`, in microseconds.
    #[must_use]
    pub fn signs_at(&self, now: i64) -> bool {
        signs_at(self.expires_at, now)
    }
}

/// A webhook to be made, at revision 1.
#[derive(Debug, Clone)]
pub struct NewWebhook {
    /// Its id.
    pub id: Uuid,
    /// Whose it is.
    pub workspace_id: Uuid,
    /// What people call it.
    pub name: String,
    /// Where requests go.
    pub endpoint_url: String,
    /// The links whose events it takes, in this order; empty = the whole workspace.
    pub link_ids: Vec<Uuid>,
    /// The step kinds it takes; empty = every kind.
    pub triggers: Vec<String>,
    /// Who made it.
    pub source: WebhookSource,
    /// The payload profile.
    pub profile: String,
    /// The member behind the call.
    pub created_by: Uuid,
    /// Where that member reads mail; `None` = not known.
    pub created_by_email: Option<String>,
    /// What delivery obeys.
    pub status: WebhookStatus,
    /// Why it is not active; `None` exactly when it is.
    pub status_reason: Option<StatusReason>,
    /// What else was chosen.
    pub options: WebhookOptions,
    /// Its first signing key.
    pub secret: SealedSecret,
    /// Headers and credentials.
    pub extras: Extras,
    /// A key for `v1a` signatures.
    pub asymmetric: Option<AsymmetricSecret>,
    /// Now, in microseconds.
    pub now: i64,
}

/// What to change of a webhook; `None` = leave as it is.
#[derive(Debug, Clone, Default)]
pub struct WebhookPatch {
    /// What people call it.
    pub name: Option<String>,
    /// Where requests go.
    pub endpoint_url: Option<String>,
    /// All its links, anew; empty = the whole workspace.
    pub link_ids: Option<Vec<Uuid>>,
    /// All its step kinds, anew; empty = every kind.
    pub triggers: Option<Vec<String>>,
    /// Status, and why (`None` exactly when active).
    pub status: Option<(WebhookStatus, Option<StatusReason>)>,
    /// A person decided on the status: what was known of the endpoint's health is void.
    pub new_health_epoch: bool,
    /// What becomes of the deliveries that are held now.
    pub held_choice: Option<HeldChoice>,
    /// What people note about it.
    pub description: Option<String>,
    /// All its labels, anew.
    pub labels: Option<BTreeMap<String, String>>,
    /// All its event actions, anew; empty = every action.
    pub event_actions: Option<Vec<String>>,
    /// When failed deliveries are tried again.
    pub retry: Option<RetryChoice>,
    /// How fast it may be called; `Some(None)` = as fast as it answers.
    pub rate: Option<Option<RateChoice>>,
    /// Requests open at the same time; `Some(None)` = the default.
    pub max_in_flight: Option<Option<u32>>,
    /// Which deliveries wait for each other.
    pub ordering: Option<DeliveryOrder>,
    /// Headers and credentials, anew.
    pub extras: Option<Extras>,
    /// The key for `v1a` signatures; `Some(None)` = none.
    pub asymmetric: Option<Option<AsymmetricSecret>>,
    /// Who made it.
    pub source: Option<WebhookSource>,
    /// The payload profile.
    pub profile: Option<String>,
    /// Refuse the change with [`StoreError::Conflict`] unless the row is at this revision.
    pub expected_revision: Option<i64>,
}

/// How many webhooks there may be in a workspace, and by what that was judged.
#[derive(Debug, Clone, Copy, Default)]
pub struct Room<'a> {
    /// Webhooks of any status; `None` = no limit.
    pub limit: Option<u32>,
    /// The workspace as it was read; `None` = whatever it is by now.
    pub judged_by: Option<&'a WorkspaceRow>,
}

impl From<Option<u32>> for Room<'_> {
    fn from(limit: Option<u32>) -> Self {
        Self {
            limit,
            judged_by: None,
        }
    }
}

/// A stored webhook with its links, secrets and counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookRow {
    /// Its id.
    pub id: Uuid,
    /// Whose it is.
    pub workspace_id: Uuid,
    /// What people call it.
    pub name: String,
    /// Where requests go.
    pub endpoint_url: String,
    /// What delivery obeys.
    pub status: WebhookStatus,
    /// Why it is not active; `None` exactly when it is.
    pub status_reason: Option<StatusReason>,
    /// The links whose events it takes; empty = the whole workspace.
    pub link_ids: Vec<Uuid>,
    /// The step kinds it takes; empty = every kind.
    pub triggers: Vec<String>,
    /// Who made it.
    pub source: WebhookSource,
    /// The payload profile.
    pub profile: String,
    /// The member behind its creation.
    pub created_by: Uuid,
    /// Where that member read mail then; `None` = not known.
    pub created_by_email: Option<String>,
    /// Microseconds.
    pub created_at: i64,
    /// When its configuration last changed, in microseconds.
    pub updated_at: i64,
    /// Grows by one with each change of the configuration.
    pub revision: i64,
    /// How often the read model had to be told beside that; see [`Self::config_revision`].
    pub told: i64,
    /// What else was chosen.
    pub options: WebhookOptions,
    /// Its signing keys, newest first, expired ones included.
    pub secrets: Vec<SealedSecret>,
    /// Headers and credentials.
    pub extras: Extras,
    /// The key for `v1a` signatures.
    pub asymmetric: Option<AsymmetricSecret>,
    /// Those before it, newest first, expired ones included; none without it.
    pub old_asymmetric: Vec<AsymmetricSecret>,
    /// The newest version a secret of it ever had.
    pub secret_version: u32,
    /// Grows by one each time a person sets the status.
    pub health_epoch: i64,
    /// What becomes of the deliveries that were held before `held_choice_at`.
    pub held_choice: HeldChoice,
    /// When that was chosen, in microseconds.
    pub held_choice_at: Option<i64>,
    /// Most deliveries held for it, as its workspace's limits say; `None` = the installation's.
    pub held_max: Option<u32>,
    /// SHA-256 of the URL that was shown to belong to its owner, if one was.
    pub verified_endpoint: Option<Vec<u8>>,
    /// Its workspace requires that, and its endpoint's host is not exempt.
    pub must_verify: bool,
    /// Deliveries that succeeded.
    pub success_count: i64,
    /// Deliveries that finally failed.
    pub failure_count: i64,
    /// When the newest attempt began, in microseconds.
    pub last_sent_at: Option<i64>,
    /// When the newest successful attempt began, in microseconds.
    pub last_delivered_at: Option<i64>,
}

/// Which webhooks a list shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StatusFilter {
    /// All.
    #[default]
    Any,
    /// Active ones.
    Active,
    /// Paused ones, for whatever reason.
    Paused,
    /// Those that are off, by a person or automatically.
    Disabled,
}

impl StatusFilter {
    fn words(self) -> Vec<&'static str> {
        let statuses: &[WebhookStatus] = match self {
            Self::Any => WebhookStatus::ALL,
            Self::Active => &[WebhookStatus::Active],
            Self::Paused => &[WebhookStatus::Paused],
            Self::Disabled => &[WebhookStatus::Disabled, WebhookStatus::AutoDisabled],
        };
        statuses.iter().map(|status| status.as_str()).collect()
    }
}

/// The last row of a page; the next page begins after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebhookCursor {
    /// When that webhook was made, in microseconds.
    pub created_at: i64,
    /// Its id.
    pub id: Uuid,
}

/// A page of webhooks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookPage {
    /// The rows.
    pub rows: Vec<WebhookRow>,
    /// How many match in all, at the moment the rows were read.
    pub total: i64,
    /// Whether another page follows.
    pub more: bool,
}

impl WebhookRow {
    /// The revision in the read model, which takes nothing but newer ones: it grows when an operator
    /// changes what the webhook's workspace may, too.
    #[must_use]
    pub fn config_revision(&self) -> i64 {
        self.revision.saturating_add(self.told)
    }

    /// Its ed25519 keys, newest first, expired ones included.
    pub fn asymmetric_keys(&self) -> impl Iterator<Item = &AsymmetricSecret> {
        self.asymmetric.iter().chain(&self.old_asymmetric)
    }

    /// Where the page after this row begins.
    #[must_use]
    pub fn cursor(&self) -> WebhookCursor {
        WebhookCursor {
            created_at: self.created_at,
            id: self.id,
        }
    }

    /// Whether its endpoint, as it is now, was shown to belong to its owner; `None` = nobody asks.
    #[must_use]
    pub fn verified(&self) -> Option<bool> {
        self.must_verify.then(|| self.has_verified_endpoint())
    }

    /// Whether its endpoint, as it is now, was shown to belong to its owner, asked for or not.
    pub(crate) fn has_verified_endpoint(&self) -> bool {
        let hash = challenge::endpoint_hash(&self.endpoint_url);
        self.verified_endpoint.as_deref() == Some(hash.as_slice())
    }

    fn of(row: &PgRow) -> Result<Self, StoreError> {
        let endpoint_url: String = row.try_get("endpoint_url")?;
        // Null: the workspace requires nothing.
        let exempt: Option<Vec<String>> = row.try_get("exempt_hosts")?;
        let asymmetric = secrets::asymmetric(row)?;
        let (secrets, mut old_asymmetric) = secrets::several(row)?;
        if asymmetric.is_none() {
            // The release before takes the newest away and does not know of the others.
            old_asymmetric.clear();
        }
        Ok(Self {
            id: row.try_get("id")?,
            workspace_id: row.try_get("workspace_id")?,
            name: row.try_get("name")?,
            verified_endpoint: row.try_get("verified_endpoint")?,
            must_verify: exempt.is_some_and(|hosts| !challenge::is_exempt(&endpoint_url, &hosts)),
            endpoint_url,
            status: pg::word(row, "status")?,
            status_reason: pg::optional_word(row, "status_reason")?,
            link_ids: row.try_get("link_ids")?,
            triggers: row.try_get("triggers")?,
            source: pg::word(row, "source")?,
            profile: row.try_get("profile")?,
            created_by: row.try_get("created_by")?,
            created_by_email: row.try_get("created_by_email")?,
            created_at: pg::micros(row, "created_at")?,
            updated_at: pg::micros(row, "updated_at")?,
            revision: row.try_get("revision")?,
            told: row.try_get("told")?,
            options: WebhookOptions::of(row)?,
            secrets,
            extras: Extras {
                shown: row.try_get("extras_shown")?,
                sealed: secrets::single(row, "extras")?,
            },
            asymmetric,
            old_asymmetric,
            secret_version: pg::unsigned(row, "secret_version")?,
            health_epoch: row.try_get("health_epoch")?,
            held_choice: pg::word(row, "held_choice")?,
            held_choice_at: pg::optional_micros(row, "held_choice_at")?,
            held_max: row
                .try_get::<Option<i32>, _>("held_max")?
                .and_then(|most| u32::try_from(most).ok()),
            success_count: row.try_get("success_count")?,
            failure_count: row.try_get("failure_count")?,
            last_sent_at: pg::optional_micros(row, "last_sent_at")?,
            last_delivered_at: pg::optional_micros(row, "last_delivered_at")?,
        })
    }

    /// What the audit log keeps: everything a person configured, and no secret. What matching asks is
    /// read back, see `past.rs`.
    pub(crate) fn audited(&self) -> Value {
        json!({
            "name": self.name,
            "endpointUrl": url_for_record(&self.endpoint_url),
            "endpointVerified": self.has_verified_endpoint(),
            "status": self.status.as_str(),
            "statusReason": self.status_reason.map(StatusReason::as_str),
            "linkIds": self.link_ids,
            "triggers": self.triggers,
            "source": self.source.as_str(),
            "profile": self.profile,
            "createdByEmail": self.created_by_email.as_deref().map(email_for_record),
            "options": self.options.audited(),
            "extras": shown_for_record(&self.extras.shown),
            "publicKey": self.asymmetric.as_ref().map(|key| &key.public_key),
            "oldPublicKeys": self.old_asymmetric.iter().map(secrets::audited_old).collect::<Vec<_>>(),
            "signingKeys": self.secrets.iter().map(secrets::audited).collect::<Vec<_>>(),
            "heldChoice": self.held_choice.as_str(),
            "revision": self.revision,
        })
    }
}

/// What is shown of headers and credentials, for the audit log: where a token comes from is a URL,
/// too.
fn shown_for_record(shown: &Value) -> Value {
    let mut shown = shown.clone();
    if let Some(url) = shown.pointer_mut("/auth/tokenUrl")
        && let Some(text) = url.as_str()
    {
        *url = url_for_record(text).into();
    }
    shown
}
