//! What the reader saw: one row per setting, for `webhooks config --print` and `docs/settings.md`.

use std::fmt::Write as _;

/// One setting as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The environment variable.
    pub name: &'static str,
    /// What holds when it is not set; `None` when it is required or simply absent.
    pub default: Option<String>,
    /// Whether the service refuses to start without it.
    pub required: bool,
    /// What it means, with unit and bounds.
    pub doc: String,
    /// What holds now (`***` for secrets); `None` when there is no value.
    pub effective: Option<String>,
    /// Whether the environment set it, as opposed to the default.
    pub from_environment: bool,
}

/// The settings with their effective values, one `NAME=value` a line, `#` before those at their default.
pub(super) fn effective(settings: &[Setting]) -> String {
    let mut text = String::new();
    for setting in settings {
        let mark = if setting.from_environment { "" } else { "# " };
        let value = setting.effective.as_deref().unwrap_or("");
        writeln!(text, "{mark}{}={value}", setting.name).expect("writing to a string cannot fail");
    }
    text
}

/// Settings as a Markdown table, without the values of this process.
#[must_use]
pub fn markdown<'a>(settings: impl IntoIterator<Item = &'a Setting>) -> String {
    let mut text = String::from("| Variable | Default | Meaning |\n| --- | --- | --- |\n");
    for setting in settings {
        let default = match (&setting.default, setting.required) {
            (Some(value), _) if !value.is_empty() => format!("`{}`", escape(value)),
            (_, true) => "required".to_owned(),
            _ => "none".to_owned(),
        };
        writeln!(
            text,
            "| `{}` | {default} | {} |",
            setting.name,
            escape(&setting.doc)
        )
        .expect("writing to a string cannot fail");
    }
    text
}

fn escape(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
