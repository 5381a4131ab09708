//! Addresses among the settings: one that nobody could call is a problem at start, beside all others,
//! and not a service that waits for it for ever.

use axum::http::Uri;
use url::Url;

/// What an address is called with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// HTTP, or gRPC.
    Http,
    /// PostgreSQL. Its host may stand in the parameter `host`, for a Unix socket.
    Postgres,
    /// Servers of NATS, comma separated; one without a scheme is unencrypted.
    Nats,
}

impl Address {
    /// Whether it could be called. What is wrong is told without the text itself: passwords stand in
    /// addresses.
    pub(super) fn judge(self, text: &str) -> Result<(), String> {
        match self {
            Self::Http => {
                scheme(text, &["http", "https"])?;
                // The parser of those who call it takes any port, but not every host that the other
                // one takes.
                text.parse::<Uri>()
                    .map_err(|error| format!("is no URL: {error}"))?;
                named(has_host(&parsed(text)?))
            }
            Self::Postgres => {
                scheme(text, &["postgres", "postgresql"])?;
                let url = parsed(text)?;
                let socket = url
                    .query_pairs()
                    .any(|(key, value)| matches!(&*key, "host" | "hostaddr") && !value.is_empty());
                named(socket || has_host(&url))
            }
            Self::Nats => {
                let wrong: Vec<String> = (1..)
                    .zip(text.split(','))
                    .filter_map(|(number, one)| {
                        let problem = server(one.trim()).err()?;
                        Some(format!("address {number} {problem}"))
                    })
                    .collect();
                match wrong.is_empty() {
                    true => Ok(()),
                    false => Err(wrong.join("; ")),
                }
            }
        }
    }
}

fn server(text: &str) -> Result<(), String> {
    if !text.contains("://") {
        return named(has_host(&parsed(&format!("nats://{text}"))?));
    }
    scheme(text, &["nats", "tls"])?;
    named(has_host(&parsed(text)?))
}

fn scheme(text: &str, allowed: &[&str]) -> Result<(), String> {
    let known = text
        .split_once("://")
        .is_some_and(|(scheme, _)| allowed.iter().any(|one| one.eq_ignore_ascii_case(scheme)));
    if known {
        return Ok(());
    }
    let shown: Vec<String> = allowed.iter().map(|one| format!("{one}://")).collect();
    Err(format!("does not begin with {}", shown.join(" or ")))
}

fn parsed(text: &str) -> Result<Url, String> {
    Url::parse(text).map_err(|error| format!("is no URL: {error}"))
}

fn has_host(url: &Url) -> bool {
    url.host_str().is_some_and(|host| !host.is_empty())
}

fn named(host: bool) -> Result<(), String> {
    match host {
        true => Ok(()),
        false => Err("names no host".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::Address;

    #[test]
    fn what_can_be_called_is_taken() {
        for (address, text) in [
            (Address::Http, "http://127.0.0.1:9090"),
            (Address::Http, "https://management.example/"),
            (Address::Http, "http://[::1]:9090"),
            (Address::Postgres, "postgres://u:p@host/database"),
            (
                Address::Postgres,
                "postgresql://host:5432/d?sslmode=verify-full",
            ),
            (Address::Postgres, "postgres:///d?host=/run/postgres"),
            (Address::Postgres, "postgres://%2Frun%2Fpostgres/d"),
            (Address::Http, "HTTPS://host/"),
            (Address::Nats, "nats://u:p@127.0.0.1:4222"),
            (Address::Nats, "tls://a:4222, b, c:4222,[::1]:4222"),
        ] {
            assert_eq!(address.judge(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_nobody_could_call_is_refused_and_not_shown() {
        for (address, text, problem) in [
            (
                Address::Http,
                "::",
                "does not begin with http:// or https://",
            ),
            (Address::Http, "hunter2:9090", "does not begin with"),
            (Address::Http, "nats://hunter2", "does not begin with"),
            (Address::Http, "http://", "is no URL"),
            (Address::Http, "http:///hunter2", "is no URL"),
            (Address::Http, "http://hunter2:port", "is no URL"),
            (
                Address::Postgres,
                "mysql://u:hunter2@x",
                "does not begin with postgres:// or postgresql://",
            ),
            (Address::Postgres, "hunter2", "does not begin with"),
            (Address::Postgres, "postgres://", "names no host"),
            (
                Address::Postgres,
                "postgres:///hunter2?host=",
                "names no host",
            ),
            (
                Address::Postgres,
                "postgres://u:hunter2@h:port/d",
                "is no URL",
            ),
            (
                Address::Nats,
                "http://hunter2",
                "address 1 does not begin with nats:// or tls://",
            ),
            (Address::Nats, "nats://a,", "address 2 names no host"),
            (
                Address::Nats,
                "nats://a:port:hunter2",
                "address 1 is no URL",
            ),
            (
                Address::Nats,
                "http://hunter2,b,ws://c",
                "address 3 does not begin with",
            ),
        ] {
            let said = address.judge(text).unwrap_err();
            assert!(said.contains(problem), "{text}: {said}");
            assert!(!said.contains("hunter2"), "{text}: {said}");
        }
    }
}
