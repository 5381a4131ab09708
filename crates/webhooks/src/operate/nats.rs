//! `webhooks nkey …` and `webhooks nats-config`: who may connect to NATS, and what they may do.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail};
use webhooks_bus::{
    BusSettings, Identities,
    permissions::{Login, Role, Users, public_key, server_config},
    write_new_seed,
};
use webhooks_runtime::{Env, Settings as _};

use crate::{
    cli::{NatsConfigOptions, NkeyOptions, PublisherKey, RoleKey},
    console::say,
};

/// `webhooks nkey new FILE`: writes a seed, prints its public key.
///
/// # Errors
/// The file is there already, or cannot be written.
pub(crate) fn new_key(options: &NkeyOptions) -> anyhow::Result<()> {
    say(write_new_seed(&options.file)?);
    Ok(())
}

/// `webhooks nkey public FILE`: prints the public key of a seed.
///
/// # Errors
/// The file cannot be read or holds something else.
pub(crate) fn show_key(options: &NkeyOptions) -> anyhow::Result<()> {
    let seed = std::fs::read_to_string(&options.file)
        .with_context(|| format!("cannot read {}", options.file.display()))?;
    say(public_key(&seed).with_context(|| options.file.display().to_string())?);
    Ok(())
}

/// `webhooks nats-config`: prints the part of nats-server's configuration that names the users.
///
/// # Errors
/// A role has no key, or a key is not one.
pub(crate) fn config(options: &NatsConfigOptions) -> anyhow::Result<()> {
    let mut env = Env::from_process();
    let shards = BusSettings::read(&mut env).shards();
    let text = server_config(&users(options)?, shards)?;
    say(text.trim_end());
    Ok(())
}

fn users(options: &NatsConfigOptions) -> anyhow::Result<Users> {
    let kept = options.folder.as_ref().map(Identities::open).transpose()?;
    let mut users = Users::default();
    for RoleKey(role, public) in &options.keys {
        users.services.push((*role, public.clone()));
    }
    let named: BTreeSet<Role> = users.services.iter().map(|(role, _)| *role).collect();
    for role in Role::ALL.into_iter().filter(|role| !named.contains(role)) {
        let Some(kept) = &kept else {
            bail!("{role} has no key: give --key {role}=U…, or --folder for keys that are made");
        };
        users.services.push((role, kept.public_key(role)?));
    }
    for PublisherKey(workspace, public) in &options.publishers {
        let login = match (public, &kept) {
            (Some(public), _) => Login::NKey(public.clone()),
            (None, Some(kept)) => {
                let (user, password) = kept.publisher(*workspace)?;
                Login::Password(user, password)
            }
            (None, None) => {
                bail!(
                    "publisher {workspace} has no key: give --publisher {workspace}=U…, or --folder"
                )
            }
        };
        users.publishers.push((*workspace, login));
    }
    Ok(users)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;
    use webhooks_bus::permissions::new_seed;

    use super::*;

    #[test]
    fn every_role_needs_a_key_and_a_folder_makes_them() {
        let place = tempfile::tempdir().unwrap();
        let options = |folder: Option<&str>| NatsConfigOptions {
            folder: folder.map(|name| place.path().join(name)),
            keys: Vec::new(),
            publishers: vec![PublisherKey(Uuid::from_u128(1), None)],
        };
        let error = users(&options(None)).unwrap_err().to_string();
        assert!(error.starts_with("ingest has no key"), "{error}");
        let first = users(&options(Some("a"))).unwrap();
        assert_eq!((first.services.len(), first.publishers.len()), (5, 1));
        let again = users(&options(Some("a"))).unwrap();
        assert_eq!(first.services, again.services);
        assert_eq!(first.publishers, again.publishers);
        let mine = public_key(&new_seed([4; 32]).unwrap()).unwrap();
        let mixed = NatsConfigOptions {
            keys: vec![RoleKey(Role::Fanout, mine.clone())],
            ..options(Some("a"))
        };
        let mixed = users(&mixed).unwrap();
        assert!(mixed.services.contains(&(Role::Fanout, mine)));
        assert_eq!(mixed.services.len(), 5);
    }

    #[test]
    fn a_new_key_is_never_written_over_another() {
        let place = tempfile::tempdir().unwrap();
        let options = NkeyOptions {
            file: place.path().join("a.nk"),
        };
        new_key(&options).unwrap();
        let seed = std::fs::read_to_string(&options.file).unwrap();
        new_key(&options).unwrap_err();
        assert_eq!(std::fs::read_to_string(&options.file).unwrap(), seed);
        show_key(&options).unwrap();
    }
}
