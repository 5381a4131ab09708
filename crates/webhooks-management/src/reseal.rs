//! Sealing anew: after a change of the key, the data keys that the older one sealed are sealed with the
//! one that counts now, in small batches beside the work, until the older key can go. The secrets
//! themselves stay closed; only what was sealed before there were data keys is opened.
//!
//! Every replica may do it, and the operators' command too, at the same time: a row is put back only
//! where it still is as it was read. The read model follows through the outbox. Answers that are
//! kept for idempotency keys are not sealed anew; they end within a day, so an old key stays for a day
//! after the last secret has left it.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use webhooks_domain::sealing::{
    Binding, Keyring, NONCE_BYTES, Purpose, SEAL_RANDOM_BYTES, SealError, Sealed,
};
use webhooks_runtime::{Readiness, error_chain};
use webhooks_store::{Resealed, SealedRow, Store, StoreError};

use crate::secrets::{NoRandomness, random};

/// Rows of one transaction: their webhooks are locked for so long.
const BATCH: u32 = 100;

/// How often it is looked whether there is something to do.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Why a pass ended early.
#[derive(Debug, thiserror::Error)]
pub enum ResealError {
    /// The database failed; what was done is done.
    #[error("secrets could not be sealed anew")]
    Store(#[from] StoreError),
    /// The system gives no random bytes.
    #[error("there is no nonce")]
    Randomness(#[from] NoRandomness),
}

/// What a pass came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Secrets that are sealed with the active key now.
    pub done: u64,
    /// Secrets that no key of the ring opens. They work for nobody; somebody has removed a key too
    /// early.
    pub stuck: u64,
}

/// Seals everything anew that another key than the active one seals.
///
/// # Errors
/// The database fails. Beginning again is harmless.
pub async fn reseal_all(store: &Store, keyring: &Keyring) -> Result<Progress, ResealError> {
    let mut progress = Progress::default();
    let mut after = (Uuid::nil(), 0);
    loop {
        let rows = store
            .sealed_with_others(keyring.active(), after, BATCH)
            .await?;
        let Some(last) = rows.last() else {
            return Ok(progress);
        };
        after = (last.webhook_id, last.version);
        let mut renewed = Vec::with_capacity(rows.len());
        for row in rows {
            match renew(keyring, row)? {
                Some(row) => renewed.push(row),
                None => progress.stuck += 1,
            }
        }
        progress.done += store.reseal(&renewed).await?;
    }
}

/// How many secrets no key of the ring opens, whatever their rows say: a key may have the right name and
/// other bytes.
///
/// # Errors
/// The database fails.
pub async fn unopened(store: &Store, keyring: &Keyring) -> Result<u64, ResealError> {
    // No key has an empty name, so these are all of them.
    let every = "";
    let (mut count, mut after) = (0, (Uuid::nil(), 0));
    loop {
        let rows = store.sealed_with_others(every, after, BATCH).await?;
        let Some(last) = rows.last() else {
            return Ok(count);
        };
        after = (last.webhook_id, last.version);
        let opens = |row: &SealedRow| {
            read(row).is_some_and(|(purpose, binding, sealed)| {
                keyring.open_for(purpose, binding, &sealed).is_ok()
            })
        };
        count += rows.iter().filter(|row| !opens(row)).count() as u64;
    }
}

/// What a row holds; nothing when it is none of ours.
fn read(row: &SealedRow) -> Option<(Purpose, Binding, Sealed)> {
    let purpose = match row.kind.as_str() {
        "SIGNING" => Purpose::SigningKey,
        "EXTRAS" => Purpose::Extras,
        "ED25519" | "ED25519_OLD" => Purpose::Ed25519,
        _ => return None,
    };
    let binding = Binding {
        workspace: row.workspace_id,
        webhook: row.webhook_id,
        version: row.version,
    };
    let sealed = Sealed {
        key_id: row.key_id.clone(),
        nonce: row.nonce.as_slice().try_into().ok()?,
        ciphertext: row.ciphertext.clone(),
    };
    Some((purpose, binding, sealed))
}

/// A row under the active key, or nothing when it does not open.
fn renew(keyring: &Keyring, old: SealedRow) -> Result<Option<Resealed>, NoRandomness> {
    let Some((purpose, binding, sealed)) = read(&old) else {
        return Ok(None);
    };
    match anew(keyring, purpose, binding, &sealed)? {
        Ok(sealed) => Ok(Some(Resealed {
            old,
            key_id: sealed.key_id,
            nonce: sealed.nonce.to_vec(),
            ciphertext: sealed.ciphertext,
        })),
        Err(error) => {
            tracing::error!(webhook.id = %old.webhook_id, version = old.version, %error, "secret.does_not_open");
            Ok(None)
        }
    }
}

fn anew(
    keyring: &Keyring,
    purpose: Purpose,
    binding: Binding,
    sealed: &Sealed,
) -> Result<Result<Sealed, SealError>, NoRandomness> {
    let nonce = random::<NONCE_BYTES>()?;
    Ok(match keyring.rewrap(purpose, binding, sealed, nonce) {
        Ok(Some(sealed)) => Ok(sealed),
        Ok(None) => {
            let random = random::<SEAL_RANDOM_BYTES>()?;
            keyring
                .open_for(purpose, binding, sealed)
                .map(|secret| keyring.seal_for(purpose, binding, &secret, random))
        }
        Err(error) => Err(error),
    })
}

/// Looks again and again until `stop`, and keeps the gauge `webhooks_sealed_with_old_key` true.
pub(crate) async fn run(
    store: Store,
    keyring: Keyring,
    readiness: Readiness,
    stop: CancellationToken,
) {
    let work = async {
        // Schema and streams are there then.
        let mut ready = readiness.subscribe();
        if ready.wait_for(|state| state.is_ready()).await.is_err() {
            return;
        }
        loop {
            if let Err(error) = look(&store, &keyring).await {
                tracing::warn!(error = error_chain(&error), "reseal.failed");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    stop.run_until_cancelled(work).await;
}

async fn look(store: &Store, keyring: &Keyring) -> Result<(), ResealError> {
    let old = remaining(store, keyring).await?;
    show(old);
    if old == 0 {
        return Ok(());
    }
    let Progress { done, stuck } = reseal_all(store, keyring).await?;
    tracing::info!(done, stuck, key = keyring.active(), "reseal.done");
    show(remaining(store, keyring).await?);
    Ok(())
}

/// How many secrets another key than the active one seals.
///
/// # Errors
/// The database fails.
pub async fn remaining(store: &Store, keyring: &Keyring) -> Result<u64, ResealError> {
    let by_key = store.sealed_by_key().await?;
    Ok(by_key
        .iter()
        .filter(|(key, _)| *key != keyring.active())
        .map(|(_, rows)| rows)
        .sum())
}

fn show(old: u64) {
    metrics::gauge!("webhooks_sealed_with_old_key")
        .set(f64::from(u32::try_from(old).unwrap_or(u32::MAX)));
}
