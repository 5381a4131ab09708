//! Settings come from environment variables, all read here, all problems reported at once.
//!
//! A reader that stops at the first mistake makes an operator restart a service once per typo. So
//! [`Env`] hands out *something* for every question, remembers what was wrong, and [`Env::finish`]
//! tells it all. A value that was handed out is only to be used when `finish` was content.
//!
//! The same questions are the documentation: each carries its default and its meaning, and
//! [`Env::markdown`] and [`Env::effective`] print what was asked. An empty variable counts as unset,
//! as compose files and scripts produce them.
//!
//! Two services of one process may ask for the same variable; it is listed once.

mod address;
mod describe;
mod production;
mod read;
mod secret;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, path::Path};

use thiserror::Error;

pub use self::{
    address::Address,
    describe::{Setting, markdown},
    secret::Secret,
};

/// The prefix of our own variables.
pub const PREFIX: &str = "WEBHOOKS_";

/// Says whether this is production.
pub(crate) const SETTING_ENVIRONMENT: &str = "WEBHOOKS_ENV";

/// The longest file a `NAME_FILE` variable may point to, in bytes.
pub const SECRET_FILE_MAX_BYTES: u64 = 64 * 1024;

/// Settings of one service, read from the environment.
///
/// `read` may ask whatever it likes and must not fail: problems go into the `Env`.
pub trait Settings: Sized {
    /// Asks for every setting.
    fn read(env: &mut Env) -> Self;
}

impl Settings for () {
    fn read(_: &mut Env) -> Self {}
}

impl<A: Settings, B: Settings> Settings for (A, B) {
    fn read(env: &mut Env) -> Self {
        (A::read(env), B::read(env))
    }
}

/// Everything that is wrong with the environment, one line each.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}", ProblemList(.problems))]
pub struct SettingsError {
    /// `NAME: what is wrong`, in the order of asking.
    pub problems: Vec<String>,
}

struct ProblemList<'a>(&'a [String]);

impl fmt::Display for ProblemList<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let many = if self.0.len() == 1 {
            "problem"
        } else {
            "problems"
        };
        write!(formatter, "{} {many} with the settings:", self.0.len())?;
        self.0
            .iter()
            .try_for_each(|problem| write!(formatter, "\n  {problem}"))
    }
}

/// The environment, and what has been asked of it.
#[derive(Clone, Default)]
pub struct Env {
    variables: BTreeMap<String, String>,
    settings: Vec<Setting>,
    problems: Vec<String>,
}

impl Env {
    /// The environment of this process. Variables that are not Unicode are left out; if one of ours
    /// is among them, that is a problem.
    #[must_use]
    pub fn from_process() -> Self {
        let mut env = Self::default();
        for (name, value) in std::env::vars_os() {
            match (name.into_string(), value.into_string()) {
                (Ok(name), Ok(value)) => drop(env.variables.insert(name, value)),
                (Ok(name), Err(_)) if name.starts_with(PREFIX) => {
                    env.problem(name, "is not valid UTF-8");
                }
                _ => {}
            }
        }
        env
    }

    /// An environment of these variables only.
    pub fn from_vars<K: Into<String>, V: Into<String>>(
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let variables = variables
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        Self {
            variables,
            ..Self::default()
        }
    }

    /// Reports a rule that spans several settings (`attempt timeout must be below ack wait`).
    pub fn problem(&mut self, name: impl fmt::Display, text: impl fmt::Display) {
        let line = format!("{name}: {text}");
        if !self.problems.contains(&line) {
            self.problems.push(line);
        }
    }

    /// Whether everything asked so far was answered well.
    ///
    /// # Errors
    /// All problems found, when there is one.
    pub fn finish(&self) -> Result<(), SettingsError> {
        if self.problems.is_empty() {
            return Ok(());
        }
        Err(SettingsError {
            problems: self.problems.clone(),
        })
    }

    /// Variables with our prefix that nobody asked for: a typing mistake, or another service's.
    /// Worth a warning, not a refusal: scripts hand the whole environment on.
    #[must_use]
    pub fn unknown(&self) -> Vec<String> {
        let asked = |name: &str| {
            self.settings.iter().any(|setting| {
                setting.name == name || name.strip_suffix("_FILE") == Some(setting.name)
            })
        };
        self.variables
            .keys()
            .filter(|name| name.starts_with(PREFIX) && !asked(name))
            .cloned()
            .collect()
    }

    /// Every setting asked for, in the order of asking.
    #[must_use]
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// The effective values in shell syntax, secrets masked, defaults behind a `#`.
    #[must_use]
    pub fn effective(&self) -> String {
        describe::effective(&self.settings)
    }

    /// A Markdown table of every setting asked for: name, default, meaning.
    #[must_use]
    pub fn markdown(&self) -> String {
        describe::markdown(&self.settings)
    }

    /// The value of a variable, trimmed; empty is unset.
    fn raw(&self, name: &str) -> Option<String> {
        self.variables
            .get(name)
            .map(|value| value.trim())
            .filter(|value| !value.is_empty())
            .map(str::to_owned)
    }

    /// The file that a variable names.
    pub(crate) fn path_of(&self, name: &str) -> Option<std::path::PathBuf> {
        self.raw(name).map(Into::into)
    }

    fn record(&mut self, setting: Setting) {
        if !self.settings.iter().any(|known| known.name == setting.name) {
            self.settings.push(setting);
        }
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the variables: passwords are among them.
        formatter
            .debug_struct("Env")
            .field("settings", &self.settings)
            .field("problems", &self.problems)
            .finish()
    }
}

/// Reads the file a `NAME_FILE` variable names (a mounted Kubernetes or compose secret).
fn read_secret_file(path: &Path) -> Result<String, String> {
    let length = std::fs::metadata(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?
        .len();
    if length > SECRET_FILE_MAX_BYTES {
        return Err(format!(
            "{} is larger than {SECRET_FILE_MAX_BYTES} bytes",
            path.display()
        ));
    }
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    match text.trim() {
        "" => Err(format!("{} is empty", path.display())),
        value => Ok(value.to_owned()),
    }
}
