//! Keys and tokens of an installation that nobody configured by hand: made once, kept as one file
//! each (mode 600) in a folder (mode 700), found again at the next start. The file names are what
//! `WEBHOOKS_…_FILE` variables may point to.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    cli::{SecretsCommand, SecretsOptions},
    console::say,
};

/// The keys that signing secrets are sealed with (`WEBHOOKS_ENCRYPTION_KEYS`).
pub(crate) const ENCRYPTION_KEYS: &str = "encryption_keys";

/// What services show each other (`WEBHOOKS_INTERNAL_TOKEN`).
pub(crate) const INTERNAL_TOKEN: &str = "internal_token";

/// What opens the operators' API (`WEBHOOKS_OPERATOR_TOKEN`).
pub(crate) const OPERATOR_TOKEN: &str = "operator_token";

/// The folder.
#[derive(Debug, Clone)]
pub(crate) struct Secrets {
    folder: PathBuf,
}

impl Secrets {
    /// Opens the folder, making it if need be.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn open(folder: impl Into<PathBuf>) -> anyhow::Result<Self> {
        let folder = folder.into();
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder);
        made.with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(Self { folder })
    }

    /// A kept secret.
    ///
    /// # Errors
    /// Its file is there but cannot be read, or is empty.
    pub(crate) fn get(&self, name: &str) -> anyhow::Result<Option<String>> {
        let file = self.folder.join(name);
        match fs::read_to_string(&file) {
            Ok(text) if text.trim().is_empty() => {
                bail!("{} is empty: remove it to have a new one", file.display())
            }
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
    }

    /// Keeps a secret, in place of an older one.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn put(&self, name: &str, value: &str) -> anyhow::Result<()> {
        let file = self.folder.join(name);
        write_private(&file, value).with_context(|| format!("cannot write {}", file.display()))
    }

    /// A kept secret, or a new one, which is kept.
    ///
    /// # Errors
    /// As [`Secrets::get`] and [`Secrets::put`].
    pub(crate) fn get_or_make(
        &self,
        name: &str,
        make: impl FnOnce() -> String,
    ) -> anyhow::Result<String> {
        if let Some(there) = self.get(name)? {
            return Ok(there);
        }
        let value = make();
        self.put(name, &value)?;
        Ok(value)
    }

    /// What all services of an installation share.
    ///
    /// # Errors
    /// As [`Secrets::get_or_make`].
    pub(crate) fn shared(&self) -> anyhow::Result<Shared> {
        let random = || STANDARD.encode(rand::random::<[u8; 32]>());
        let keys = || format!("k1:{}", random());
        Ok(Shared {
            encryption_keys: self.get_or_make(ENCRYPTION_KEYS, keys)?,
            internal_token: self.get_or_make(INTERNAL_TOKEN, random)?,
            operator_token: self.get_or_make(OPERATOR_TOKEN, random)?,
        })
    }
}

/// What all services of an installation share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) encryption_keys: String,
    pub(crate) internal_token: String,
    /// For management alone.
    pub(crate) operator_token: String,
}

impl Shared {
    /// The caller's own values win.
    pub(crate) fn or_as_the_caller_says(self) -> Self {
        let said = |name: &str, kept: String| {
            std::env::var(name)
                .ok()
                .filter(|value| !value.trim().is_empty())
                .unwrap_or(kept)
        };
        Self {
            encryption_keys: said("WEBHOOKS_ENCRYPTION_KEYS", self.encryption_keys),
            internal_token: said("WEBHOOKS_INTERNAL_TOKEN", self.internal_token),
            operator_token: said("WEBHOOKS_OPERATOR_TOKEN", self.operator_token),
        }
    }
}

/// `webhooks secrets FOLDER` and `webhooks secrets rewrap`.
///
/// # Errors
/// The folder cannot be written.
pub(crate) async fn run(options: &SecretsOptions) -> anyhow::Result<()> {
    let folder = match (&options.command, &options.folder) {
        (Some(SecretsCommand::Rewrap), _) => return crate::operate::rewrap::run().await,
        (None, Some(folder)) => folder,
        (None, None) => bail!("name a folder"),
    };
    Secrets::open(folder)?.shared()?;
    say(format_args!(
        "{ENCRYPTION_KEYS}, {INTERNAL_TOKEN} and {OPERATOR_TOKEN} are in {}",
        folder.display()
    ));
    Ok(())
}

/// Writes a file that only its owner may read (mode 600), in place of an older one.
pub(crate) fn write_private(file: &Path, text: &str) -> io::Result<()> {
    let partial = file.with_extension(format!("{}.partial", std::process::id()));
    let mut opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)?;
    opened.write_all(text.as_bytes())?;
    opened.sync_all()?;
    fs::rename(&partial, file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use webhooks_domain::sealing::Keyring;

    use super::{ENCRYPTION_KEYS, Secrets, fs};

    #[test]
    fn secrets_are_made_once_and_only_their_owner_reads_them() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = Secrets::open(folder.path().join("a/b")).unwrap();
        let first = secrets.shared().unwrap();
        Keyring::parse(&first.encryption_keys).unwrap();
        let again = Secrets::open(folder.path().join("a/b"))
            .unwrap()
            .shared()
            .unwrap();
        assert_eq!(
            (again.encryption_keys, again.internal_token),
            (first.encryption_keys, first.internal_token)
        );
        let mode = |path: &str| {
            fs::metadata(folder.path().join(path))
                .unwrap()
                .permissions()
                .mode()
                & 0o777
        };
        assert_eq!((mode("a/b"), mode("a/b/encryption_keys")), (0o700, 0o600));
        assert_eq!(
            fs::read_dir(folder.path().join("a/b")).unwrap().count(),
            3,
            "no partial file stays"
        );
    }

    #[test]
    fn an_empty_file_is_an_error_and_not_a_new_key() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = Secrets::open(folder.path()).unwrap();
        secrets.put(ENCRYPTION_KEYS, "\n").unwrap();
        assert!(secrets.shared().is_err());
        assert_eq!(secrets.get("absent").unwrap(), None);
    }
}
