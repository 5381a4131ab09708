//! Telling others which ports were taken: several processes share a machine, so addresses default to
//! port 0, and whoever starts the process reads the result from a file.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// Collects `name=address` lines and keeps a file of them up to date, if one is wanted.
#[derive(Debug, Clone, Default)]
pub struct Announcer {
    file: Option<PathBuf>,
    addresses: Arc<Mutex<BTreeMap<String, SocketAddr>>>,
}

impl Announcer {
    /// Announces into this file (and the log), or the log only.
    #[must_use]
    pub fn new(file: Option<PathBuf>) -> Self {
        Self {
            file,
            addresses: Arc::default(),
        }
    }

    /// States that `name` listens at `address`. The file is rewritten whole.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn announce(&self, name: &str, address: SocketAddr) -> io::Result<()> {
        tracing::info!(listener = name, address = %address, "service.listening");
        let mut addresses = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        addresses.insert(name.to_owned(), address);
        let Some(file) = &self.file else {
            return Ok(());
        };
        let lines: String = addresses
            .iter()
            .map(|(name, address)| format!("{name}={address}\n"))
            .collect();
        write_whole(file, &lines)
    }

    /// What was announced so far.
    #[must_use]
    pub fn addresses(&self) -> BTreeMap<String, SocketAddr> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Replaces a file by rename, so that a reader sees the old text or the new one, never half.
///
/// # Errors
/// The folder cannot be written to.
pub fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    std::fs::write(&partial, text)?;
    std::fs::rename(&partial, path)
}

#[cfg(test)]
mod tests {
    use super::Announcer;

    #[test]
    fn every_address_ends_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("addresses");
        let announcer = Announcer::new(Some(file.clone()));
        announcer
            .announce("grpc", "127.0.0.1:2".parse().unwrap())
            .unwrap();
        announcer
            .clone()
            .announce("api", "127.0.0.1:1".parse().unwrap())
            .unwrap();
        assert_eq!(
            std::fs::read_to_string(&file).unwrap(),
            "api=127.0.0.1:1\ngrpc=127.0.0.1:2\n"
        );
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            1,
            "no partial file stays"
        );
        assert_eq!(announcer.addresses().len(), 2);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_an_error() {
        let announcer = Announcer::new(Some("/nowhere/to/be/found".into()));
        announcer
            .announce("api", "127.0.0.1:1".parse().unwrap())
            .unwrap_err();
    }
}
