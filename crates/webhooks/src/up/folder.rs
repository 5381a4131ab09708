//! The folder of a run, and that only one run uses it.

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use crate::console::complain;

/// The folder, locked for as long as this lives. A killed run leaves no lock.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    lock: File,
}

impl Drop for Folder {
    /// Unlocks by name, not by closing: a child that is between fork and exec still has a copy of
    /// the descriptor, and would keep the lock for that moment.
    fn drop(&mut self) {
        if let Err(error) = self.lock.unlock() {
            complain(format_args!(
                "cannot unlock {}: {error}",
                self.path.display()
            ));
        }
    }
}

impl Folder {
    /// Makes it if need be and locks it; an `env` of an earlier run is removed.
    ///
    /// # Errors
    /// Another run uses it, or it cannot be written.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        let path = path.canonicalize()?;
        let lock = File::create(path.join("lock"))
            .with_context(|| format!("cannot write to {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another `webhooks up` uses {}", path.display()),
            Err(TryLockError::Error(error)) => return Err(error).context("cannot lock the folder"),
        }
        let folder = Self { path, lock };
        folder.forget_env()?;
        Ok(folder)
    }

    /// Where the addresses and tokens of the run stand.
    pub(crate) fn env_file(&self) -> PathBuf {
        self.path.join("env")
    }

    /// Removes it: whoever waits for it must not find an old one.
    ///
    /// # Errors
    /// It is there and cannot be removed.
    pub(crate) fn forget_env(&self) -> anyhow::Result<()> {
        match std::fs::remove_file(self.env_file()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.env_file().display()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Folder;

    #[test]
    fn one_run_at_a_time_and_no_old_addresses() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("run");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("env"), "OLD=1").unwrap();
        let folder = Folder::open(&path).unwrap();
        assert!(!folder.env_file().exists());
        let error = Folder::open(&path).unwrap_err().to_string();
        assert!(error.starts_with("another `webhooks up` uses "), "{error}");
        drop(folder);
        Folder::open(&path).unwrap();
    }
}
