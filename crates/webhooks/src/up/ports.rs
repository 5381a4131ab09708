//! Ports that stay: through restarts of parts, and from one run to the next while nobody else has
//! taken them, so that bookmarks and publishers keep working.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use webhooks_devstack::free_port;

/// The ports of a run, by name.
#[derive(Debug)]
pub(crate) struct Ports {
    file: PathBuf,
    remembered: BTreeMap<String, u16>,
    taken: BTreeMap<String, u16>,
}

impl Ports {
    /// Reads what an earlier run left in this file. Nonsense in it is nothing.
    pub(crate) fn load(file: &Path) -> Self {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let parse = |line: &str| {
            line.split_once('=')
                .and_then(|(name, port)| Some((name.to_owned(), port.parse().ok()?)))
        };
        Self {
            file: file.to_owned(),
            remembered: text.lines().filter_map(parse).collect(),
            taken: BTreeMap::new(),
        }
    }

    /// The port of this name: the remembered one if it is free, else a new one.
    ///
    /// # Errors
    /// There is no free port.
    pub(crate) fn take(&mut self, name: &str) -> anyhow::Result<u16> {
        let remembered = self.remembered.get(name).copied();
        let used: BTreeSet<u16> = self.taken.values().copied().collect();
        let again = remembered.filter(|port| {
            !used.contains(port) && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()
        });
        let port = match again {
            Some(port) => port,
            None => loop {
                let port = free_port()?;
                if !used.contains(&port) && !self.remembered.values().any(|other| *other == port) {
                    break port;
                }
            },
        };
        self.taken.insert(name.to_owned(), port);
        Ok(port)
    }

    /// Remembers them for the next run.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn save(&self) -> anyhow::Result<()> {
        let mut all = self.remembered.clone();
        all.extend(self.taken.clone());
        let text: String = all
            .iter()
            .map(|(name, port)| format!("{name}={port}\n"))
            .collect();
        std::fs::write(&self.file, text)
            .with_context(|| format!("cannot write {}", self.file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::{Ipv4Addr, Ports, TcpListener};

    #[test]
    fn a_port_is_kept_unless_somebody_else_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ports");
        std::fs::write(&file, "nonsense\nold=x\n").unwrap();
        let mut first = Ports::load(&file);
        let (one, two) = (first.take("one").unwrap(), first.take("two").unwrap());
        assert_ne!(one, two);
        first.save().unwrap();

        let _stranger = TcpListener::bind((Ipv4Addr::LOCALHOST, two)).unwrap();
        let mut second = Ports::load(&file);
        assert_eq!(second.take("one").unwrap(), one);
        assert_ne!(second.take("two").unwrap(), two);
    }
}
