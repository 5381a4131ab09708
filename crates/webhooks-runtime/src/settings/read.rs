//! The questions one can ask of an [`Env`].

use std::{
    fmt::Display,
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::Path,
    str::FromStr,
    time::Duration,
};

use super::{Address, Env, Secret, Setting, read_secret_file};

/// What to do when a variable is not set.
enum Fallback {
    Required,
    Absent,
    Default(String),
}

impl Env {
    /// Text, with a default.
    pub fn string(&mut self, name: &'static str, default: &str, doc: &str) -> String {
        self.ask(name, Fallback::Default(default.to_owned()), doc, text)
            .unwrap_or_default()
    }

    /// Text that must be set. Empty when it was not (and then [`Env::finish`] says so).
    pub fn required(&mut self, name: &'static str, doc: &str) -> String {
        self.ask(name, Fallback::Required, doc, text)
            .unwrap_or_default()
    }

    /// Text that may be absent.
    pub fn optional(&mut self, name: &'static str, doc: &str) -> Option<String> {
        self.ask(name, Fallback::Absent, doc, text)
    }

    /// The address of something served over HTTP, with a default.
    pub fn url(&mut self, name: &'static str, default: &str, doc: &str) -> String {
        self.ask(name, Fallback::Default(default.to_owned()), doc, url)
            .unwrap_or_default()
    }

    /// The address of something served over HTTP, or absent.
    pub fn optional_url(&mut self, name: &'static str, doc: &str) -> Option<String> {
        self.ask(name, Fallback::Absent, doc, url)
    }

    /// Anything that can be parsed, with a default.
    pub fn parse<T>(&mut self, name: &'static str, default: T, doc: &str) -> T
    where
        T: FromStr<Err: Display> + Display,
    {
        self.ask(name, Fallback::Default(default.to_string()), doc, parsed)
            .unwrap_or(default)
    }

    /// Anything that can be parsed, or absent.
    pub fn parse_optional<T: FromStr<Err: Display>>(
        &mut self,
        name: &'static str,
        doc: &str,
    ) -> Option<T> {
        self.ask(name, Fallback::Absent, doc, parsed)
    }

    /// A number (or anything ordered) within bounds, both included; the bounds show in the documentation.
    pub fn ranged<T>(
        &mut self,
        name: &'static str,
        default: T,
        bounds: RangeInclusive<T>,
        doc: &str,
    ) -> T
    where
        T: FromStr<Err: Display> + Display + PartialOrd,
    {
        let doc = format!("{doc} ({} to {})", bounds.start(), bounds.end());
        let fallback = Fallback::Default(default.to_string());
        self.ask(name, fallback, &doc, |value| {
            within(parsed(value)?, &bounds, T::to_string)
        })
        .unwrap_or(default)
    }

    /// A span of time with a unit: `250ms`, `30s`, `2h 30m`.
    pub fn duration(&mut self, name: &'static str, default: &str, doc: &str) -> Duration {
        self.ask(name, Fallback::Default(default.to_owned()), doc, span)
            .unwrap_or_default()
    }

    /// A span of time within bounds, both included; the bounds show in the documentation.
    pub fn duration_ranged(
        &mut self,
        name: &'static str,
        default: &str,
        bounds: RangeInclusive<Duration>,
        doc: &str,
    ) -> Duration {
        let show = |duration: &Duration| humantime::format_duration(*duration).to_string();
        let doc = format!("{doc} ({} to {})", show(bounds.start()), show(bounds.end()));
        self.ask(name, Fallback::Default(default.to_owned()), &doc, |value| {
            within(span(value)?, &bounds, show)
        })
        .unwrap_or_default()
    }

    /// `true`, `false`, or one of `1 0 yes no on off`.
    pub fn bool(&mut self, name: &'static str, default: bool, doc: &str) -> bool {
        self.ask(
            name,
            Fallback::Default(default.to_string()),
            doc,
            |value| match value.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Ok(true),
                "false" | "0" | "no" | "off" => Ok(false),
                _ => Err(format!("{value:?} is neither true nor false")),
            },
        )
        .unwrap_or(default)
    }

    /// A comma-separated list; blanks around entries and empty entries are dropped.
    pub fn list(&mut self, name: &'static str, default: &str, doc: &str) -> Vec<String> {
        self.parsed_list(name, default, doc)
    }

    /// A comma-separated list of things that can be parsed. Empty when one of them cannot; each that
    /// cannot is named.
    pub fn parsed_list<T: FromStr<Err: Display>>(
        &mut self,
        name: &'static str,
        default: &str,
        doc: &str,
    ) -> Vec<T> {
        self.ask(name, Fallback::Default(default.to_owned()), doc, |value| {
            let mut wrong = Vec::new();
            let entries: Vec<T> = value
                .split(',')
                .map(str::trim)
                .filter(|entry| !entry.is_empty())
                .filter_map(|entry| parsed(entry).map_err(|text| wrong.push(text)).ok())
                .collect();
            match wrong.is_empty() {
                true => Ok(entries),
                false => Err(wrong.join("; ")),
            }
        })
        .unwrap_or_default()
    }

    /// An address to bind or connect to, `ip:port`; port 0 takes a free one.
    pub fn socket_addr(&mut self, name: &'static str, default: &str, doc: &str) -> SocketAddr {
        self.ask(name, Fallback::Default(default.to_owned()), doc, parsed)
            .unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    /// A secret that must be set: in `NAME`, or in the file that `NAME_FILE` names.
    pub fn secret(&mut self, name: &'static str, doc: &str) -> Secret {
        self.ask_secret(name, Fallback::Required, doc)
            .unwrap_or_default()
    }

    /// A secret that may be absent.
    pub fn optional_secret(&mut self, name: &'static str, doc: &str) -> Option<Secret> {
        self.ask_secret(name, Fallback::Absent, doc)
    }

    /// A value that may hold a secret (a URL with a password), with a harmless default.
    pub fn secret_or(&mut self, name: &'static str, default: &str, doc: &str) -> Secret {
        self.ask_secret(name, Fallback::Default(default.to_owned()), doc)
            .unwrap_or_default()
    }

    /// An address that may hold a password and must be set.
    pub fn secret_address(&mut self, name: &'static str, address: Address, doc: &str) -> Secret {
        let secret = self.secret(name, doc);
        self.judged(name, address, secret)
    }

    /// An address that may hold a password, with a harmless default.
    pub fn secret_address_or(
        &mut self,
        name: &'static str,
        address: Address,
        default: &str,
        doc: &str,
    ) -> Secret {
        let secret = self.secret_or(name, default, doc);
        self.judged(name, address, secret)
    }

    /// An address that may hold a password, or absent.
    pub fn optional_secret_address(
        &mut self,
        name: &'static str,
        address: Address,
        doc: &str,
    ) -> Option<Secret> {
        let secret = self.optional_secret(name, doc)?;
        Some(self.judged(name, address, secret))
    }

    fn judged(&mut self, name: &'static str, address: Address, secret: Secret) -> Secret {
        // What is missing has been told of already.
        if !secret.expose().is_empty()
            && let Err(text) = address.judge(secret.expose())
        {
            self.problem(name, text);
        }
        secret
    }

    fn ask<T>(
        &mut self,
        name: &'static str,
        fallback: Fallback,
        doc: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let raw = self.raw(name);
        let from_environment = raw.is_some();
        let (required, default) = match fallback {
            Fallback::Required => (true, None),
            Fallback::Absent => (false, None),
            Fallback::Default(default) => (false, Some(default)),
        };
        let effective = raw.or_else(|| default.clone());
        self.record(Setting {
            name,
            default,
            required,
            doc: doc.to_owned(),
            effective: effective.clone(),
            from_environment,
        });
        let Some(value) = effective else {
            if required {
                self.problem(name, "must be set");
            }
            return None;
        };
        parse(&value).map_err(|text| self.problem(name, text)).ok()
    }

    fn ask_secret(&mut self, name: &'static str, fallback: Fallback, doc: &str) -> Option<Secret> {
        let file_variable = format!("{name}_FILE");
        let value = match (self.raw(name), self.raw(&file_variable)) {
            (Some(_), Some(_)) => Err(format!(
                "is set, and {file_variable} too: only one of them may be"
            )),
            (Some(value), None) => Ok(Some(value)),
            (None, Some(path)) => read_secret_file(Path::new(&path)).map(Some),
            (None, None) => Ok(None),
        };
        let (required, default) = match fallback {
            Fallback::Required => (true, None),
            Fallback::Absent => (false, None),
            Fallback::Default(default) => (false, Some(default)),
        };
        let given = matches!(value, Ok(Some(_)));
        self.record(Setting {
            name,
            default: default.clone(),
            required,
            doc: format!("{doc} (or the path of a file that holds it, in `{file_variable}`)"),
            effective: if given {
                Some("***".to_owned())
            } else {
                default.clone()
            },
            from_environment: given,
        });
        match value {
            Ok(Some(value)) => Some(Secret::new(value)),
            Ok(None) if required => {
                self.problem(name, format!("must be set (or {file_variable})"));
                None
            }
            Ok(None) => default.map(Secret::new),
            Err(text) => {
                self.problem(name, text);
                None
            }
        }
    }
}

/// Has the shape of the other parsers.
fn text(value: &str) -> Result<String, String> {
    Ok(value.to_owned())
}

fn url(value: &str) -> Result<String, String> {
    Address::Http.judge(value).map(|()| value.to_owned())
}

fn parsed<T: FromStr<Err: Display>>(value: &str) -> Result<T, String> {
    value
        .parse()
        .map_err(|error| format!("{value:?} is not valid: {error}"))
}

fn span(value: &str) -> Result<Duration, String> {
    humantime::parse_duration(value)
        .map_err(|error| format!("{value:?} is not a duration such as 30s: {error}"))
}

fn within<T: PartialOrd>(
    value: T,
    bounds: &RangeInclusive<T>,
    show: impl Fn(&T) -> String,
) -> Result<T, String> {
    if bounds.contains(&value) {
        return Ok(value);
    }
    Err(format!(
        "{} is outside {} to {}",
        show(&value),
        show(bounds.start()),
        show(bounds.end())
    ))
}
