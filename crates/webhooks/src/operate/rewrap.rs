//! `webhooks secrets rewrap`: seals with the newest key what older ones have sealed.
//!
//! Management does the same in the background; this is for whoever wants to see it done before an
//! old key is taken away. It may run while everything works.

use anyhow::{Context as _, bail};
use webhooks_domain::sealing::Keyring;
use webhooks_management::reseal::{remaining, reseal_all, unopened};
use webhooks_runtime::Env;

use super::store;
use crate::console::say;

/// The command.
///
/// # Errors
/// A setting cannot be used, the database fails, or a secret opens with no key.
pub(crate) async fn run() -> anyhow::Result<()> {
    let mut env = Env::from_process();
    let keys = env.secret(
        "WEBHOOKS_ENCRYPTION_KEYS",
        "keys that secrets are sealed with; the first seals, all open",
    );
    env.finish()?;
    let keyring = Keyring::parse(keys.expose()).context("WEBHOOKS_ENCRYPTION_KEYS")?;
    let store = store()?;
    let progress = reseal_all(&store, &keyring).await?;
    let left = remaining(&store, &keyring).await?;
    say(format_args!(
        "{} secrets are sealed with key {} now, {left} still with another",
        progress.done,
        keyring.active()
    ));
    let closed = unopened(&store, &keyring).await?;
    if closed > 0 {
        bail!(
            "{closed} secrets open with none of these keys: put the key back that sealed them, with the bytes it had"
        );
    }
    Ok(())
}
