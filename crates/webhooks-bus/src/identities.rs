//! Credentials of an installation that nobody configured by hand: one file each (mode 600) in a
//! folder (mode 700), made at the first start and found again. For `make run` and tests; where
//! there is a store of secrets, its keys are named to `webhooks nats-config` instead.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rand::{TryRngCore as _, rngs::OsRng};
use uuid::Uuid;

use crate::permissions::{
    Login, PermissionsError, Role, Users, new_seed, public_key, server_config,
};

/// A folder of credentials.
#[derive(Debug, Clone)]
pub struct Identities {
    folder: PathBuf,
}

/// Why credentials cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read or written.
    #[error("cannot use {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    NoRandomness,
    /// A file holds something else.
    #[error("{path} holds no credentials")]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: PermissionsError,
    },
}

impl Identities {
    /// Opens the folder, making it if need be.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, IdentityError> {
        let folder = folder.into();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(|source| file_error(&folder, source))?;
        Ok(Self { folder })
    }

    /// Where a role's seed is (`<role>.nk`), made if need be.
    ///
    /// # Errors
    /// It cannot be read or written, or holds something else.
    pub fn seed_file(&self, role: Role) -> Result<PathBuf, IdentityError> {
        let path = self.folder.join(format!("{role}.nk"));
        self.public_key_of(&path)?;
        Ok(path)
    }

    /// A role's public key.
    ///
    /// # Errors
    /// As [`Identities::seed_file`].
    pub fn public_key(&self, role: Role) -> Result<String, IdentityError> {
        self.public_key_of(&self.folder.join(format!("{role}.nk")))
    }

    /// How a workspace's publisher logs in, for a URL: `user:password`.
    ///
    /// # Errors
    /// As [`Identities::seed_file`].
    pub fn publisher(&self, workspace: Uuid) -> Result<(String, String), IdentityError> {
        let path = self.folder.join(format!("publisher-{workspace}"));
        let password = get_or_make(&path, |random| Ok(hex(&random)))?;
        Ok((format!("pub-{workspace}"), password))
    }

    /// nats-server's configuration for every role and these workspaces' publishers.
    ///
    /// # Errors
    /// As [`Identities::seed_file`].
    pub fn server_config(&self, workspaces: &[Uuid], shards: u16) -> Result<String, IdentityError> {
        let mut users = Users::default();
        for role in Role::ALL {
            users.services.push((role, self.public_key(role)?));
        }
        for workspace in workspaces {
            let (user, password) = self.publisher(*workspace)?;
            let login = Login::Password(user, password);
            users.publishers.push((*workspace, login));
        }
        server_config(&users, shards).map_err(|source| IdentityError::Content {
            path: self.folder.clone(),
            source,
        })
    }

    fn public_key_of(&self, path: &Path) -> Result<String, IdentityError> {
        let seed = get_or_make(path, new_seed)?;
        public_key(&seed).map_err(|source| IdentityError::Content {
            path: path.to_owned(),
            source,
        })
    }
}

/// Writes a new nkey seed to a file that must not be there yet (mode 600); gives its public key.
///
/// # Errors
/// It is there, or cannot be written.
pub fn write_new_seed(path: &Path) -> Result<String, IdentityError> {
    let wrong = |source| IdentityError::Content {
        path: path.to_owned(),
        source,
    };
    let seed = new_seed(random()?).map_err(wrong)?;
    write_new(path, &seed).map_err(|source| file_error(path, source))?;
    public_key(&seed).map_err(wrong)
}

fn get_or_make(
    path: &Path,
    make: impl FnOnce([u8; 32]) -> Result<String, PermissionsError>,
) -> Result<String, IdentityError> {
    match fs::read_to_string(path) {
        Ok(text) => return Ok(text.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(file_error(path, error)),
    }
    let value = make(random()?).map_err(|source| IdentityError::Content {
        path: path.to_owned(),
        source,
    })?;
    write_new(path, &value).map_err(|source| file_error(path, source))?;
    Ok(value)
}

fn random() -> Result<[u8; 32], IdentityError> {
    let mut bytes = [0; 32];
    OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(|_| IdentityError::NoRandomness)?;
    Ok(bytes)
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn file_error(path: &Path, source: io::Error) -> IdentityError {
    IdentityError::File {
        path: path.to_owned(),
        source,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
