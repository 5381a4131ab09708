//! Where the servers' programs are.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// Names a nats-server to use instead of the pinned one.
pub(crate) const NATS_SERVER_BIN: &str = "WEBHOOKS_NATS_SERVER_BIN";

/// Names the folder of PostgreSQL programs (`postgres`, `initdb`, `psql`) to use instead of the pinned ones.
pub(crate) const POSTGRES_BIN_DIR: &str = "WEBHOOKS_POSTGRES_BIN_DIR";

/// The programs of nats-server and PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tools {
    /// The nats-server program.
    pub nats_server: PathBuf,
    /// The folder that holds `postgres`, `initdb`, `pg_isready` and `psql`.
    pub postgres_bin: PathBuf,
}

impl Tools {
    /// Variables that name other programs than the pinned ones.
    pub const VARIABLES: [&str; 2] = [NATS_SERVER_BIN, POSTGRES_BIN_DIR];

    /// Finds them: in the environment, else in `.tools/env` of the clone around the current folder or
    /// around this crate's sources.
    ///
    /// # Errors
    /// They are not there; the message says what to run.
    pub fn locate() -> anyhow::Result<Self> {
        let starts = [
            std::env::current_dir().ok(),
            Some(PathBuf::from(env!("CARGO_MANIFEST_DIR"))),
        ];
        let file = starts
            .iter()
            .flatten()
            .flat_map(|start| start.ancestors())
            .find_map(env_file);
        Self::from_sources(|name| std::env::var(name).ok(), file.as_deref())
    }

    fn from_sources(
        variable: impl Fn(&str) -> Option<String>,
        file: Option<&str>,
    ) -> anyhow::Result<Self> {
        let find = |name: &str| {
            let set = variable(name).filter(|value| !value.is_empty());
            let value = set.or_else(|| file.and_then(|text| lookup(text, name)));
            value.map(PathBuf::from).with_context(|| {
                format!("nats-server and PostgreSQL are not fetched yet: run `make tools` (or set {name})")
            })
        };
        let tools = Self {
            nats_server: find(NATS_SERVER_BIN)?,
            postgres_bin: find(POSTGRES_BIN_DIR)?,
        };
        for program in [
            tools.nats_server.clone(),
            tools.postgres("postgres"),
            tools.postgres("psql"),
        ] {
            if !program.is_file() {
                bail!(
                    "{} does not exist: run `make tools` again",
                    program.display()
                );
            }
        }
        Ok(tools)
    }

    /// One of PostgreSQL's programs.
    #[must_use]
    pub fn postgres(&self, program: &str) -> PathBuf {
        self.postgres_bin.join(program)
    }
}

fn env_file(folder: &Path) -> Option<String> {
    std::fs::read_to_string(folder.join(".tools").join("env")).ok()
}

/// The value of `NAME='value'`, as scripts/fetch-tools writes it.
fn lookup(text: &str, name: &str) -> Option<String> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.trim().trim_matches('\'').to_owned())
}

#[cfg(test)]
mod tests {
    use super::{NATS_SERVER_BIN, POSTGRES_BIN_DIR, Tools, lookup};

    #[test]
    fn without_any_source_it_says_what_to_run() {
        let error = Tools::from_sources(|_| None, None).unwrap_err().to_string();
        assert!(error.contains("make tools"), "{error}");
        let error = Tools::from_sources(|_| Some("/nowhere".into()), None)
            .unwrap_err()
            .to_string();
        assert!(error.contains("/nowhere does not exist"), "{error}");
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        for name in ["nats-server", "postgres", "psql"] {
            std::fs::write(at(name), "").unwrap();
        }
        let file = format!(
            "{NATS_SERVER_BIN}='/elsewhere'\n{POSTGRES_BIN_DIR}='{}'\n",
            at("")
        );
        let tools = Tools::from_sources(
            |name| (name == NATS_SERVER_BIN).then(|| at("nats-server")),
            Some(&file),
        );
        assert_eq!(
            tools.unwrap().nats_server,
            folder.path().join("nats-server")
        );
    }

    #[test]
    fn quotes_are_taken_off() {
        assert_eq!(lookup("A='x y'\nB=z\n", "A").as_deref(), Some("x y"));
        assert_eq!(lookup("A='x y'\nB=z\n", "B").as_deref(), Some("z"));
        assert_eq!(lookup("AB=z\n", "A"), None);
    }
}
