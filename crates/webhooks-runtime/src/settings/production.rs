//! Production mode: what development may run without and production may not.
//!
//! `WEBHOOKS_ENV=production` makes every process refuse to start (exit code 64) with defaults or
//! openings that are for development, all of them listed at once. Each process answers for what it
//! reads itself: fan-out is not asked for a database. The rules are this one function of what a
//! process asked for and what it was told.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use webhooks_domain::{endpoint::Cidr, sealing::is_made_up_key};

use super::{Env, SETTING_ENVIRONMENT};

/// Fewest characters of a token that services share.
const TOKEN_MIN_CHARS: usize = 32;

/// Fewest different characters in it.
const TOKEN_MIN_DIFFERENT: usize = 12;

/// How the ids and beginnings of what is written in examples look.
const MADE_UP: [&str; 7] = [
    "dev", "test", "example", "change", "default", "demo", "loadgen",
];

/// What production refuses: variable and reason. `asked` says whether this process reads a variable,
/// `value` what it is set to (a secret's file already read).
pub(super) fn problems(
    asked: impl Fn(&str) -> bool,
    value: impl Fn(&str) -> Option<String>,
) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let mut refuse = |name, text: &str| found.push((name, text.to_owned()));
    let is_on = |name: &str| {
        value(name).is_some_and(|text| {
            ["true", "1", "yes", "on"].contains(&text.to_ascii_lowercase().as_str())
        })
    };
    let is_set = |name: &str| value(name).is_some();

    if asked("WEBHOOKS_NATS_URL") {
        let url = value("WEBHOOKS_NATS_URL").unwrap_or_default();
        if !is_set("WEBHOOKS_NATS_NKEY_SEED") && !is_set("WEBHOOKS_NATS_CREDENTIALS") {
            refuse(
                "WEBHOOKS_NATS_NKEY_SEED",
                "production needs an nkey (or WEBHOOKS_NATS_CREDENTIALS)",
            );
        }
        let encrypted =
            !url.is_empty() && url.split(',').all(|one| one.trim().starts_with("tls://"));
        if !encrypted && !is_on("WEBHOOKS_NATS_TLS") && !is_set("WEBHOOKS_NATS_TLS_CA") {
            refuse(
                "WEBHOOKS_NATS_TLS",
                "production needs encrypted connections: true, or tls:// addresses",
            );
        }
    }
    if asked("WEBHOOKS_DATABASE_URL")
        && let Some(url) = value("WEBHOOKS_DATABASE_URL")
        && !database_is_verified(&url)
    {
        refuse(
            "WEBHOOKS_DATABASE_URL",
            "production needs sslmode=verify-full: verify-ca takes any name that the authority signed",
        );
    }
    if asked("WEBHOOKS_ENCRYPTION_KEYS")
        && value("WEBHOOKS_ENCRYPTION_KEYS")
            .is_some_and(|keys| keys.split(',').any(is_made_up_pair))
    {
        refuse(
            "WEBHOOKS_ENCRYPTION_KEYS",
            "a key is a development key: make one with `webhooks secrets`",
        );
    }
    for name in ["WEBHOOKS_INTERNAL_TOKEN", "WEBHOOKS_OPERATOR_TOKEN"] {
        if asked(name) && value(name).is_some_and(|token| is_made_up_token(&token)) {
            refuse(
                name,
                "is short or made up: production needs 32 random characters or more",
            );
        }
    }
    if asked("WEBHOOKS_OPERATOR_TOKEN")
        && is_set("WEBHOOKS_OPERATOR_TOKEN")
        && value("WEBHOOKS_OPERATOR_TOKEN") == value("WEBHOOKS_INTERNAL_TOKEN")
    {
        refuse("WEBHOOKS_OPERATOR_TOKEN", "must not be the internal token");
    }
    // Management serves reports, ingest only publishers.
    if asked("WEBHOOKS_GRPC_ADDR") {
        for name in [
            "WEBHOOKS_GRPC_TLS_CERT",
            "WEBHOOKS_GRPC_TLS_KEY",
            "WEBHOOKS_GRPC_TLS_CLIENT_CA",
            "WEBHOOKS_GRPC_TLS_CLIENT_NAMES",
        ] {
            if !is_set(name) {
                refuse(name, "production needs client certificates on gRPC");
            }
        }
    } else if asked("WEBHOOKS_INGEST_GRPC_ADDR") && !is_set("WEBHOOKS_GRPC_TLS_CERT") {
        refuse("WEBHOOKS_GRPC_TLS_CERT", "production needs encrypted gRPC");
    }
    if asked("WEBHOOKS_MANAGEMENT_GRPC_URL") {
        let url = value("WEBHOOKS_MANAGEMENT_GRPC_URL").unwrap_or_default();
        if !url.starts_with("https://") {
            refuse(
                "WEBHOOKS_MANAGEMENT_GRPC_URL",
                "production needs an https:// address",
            );
        }
        for name in [
            "WEBHOOKS_MANAGEMENT_GRPC_TLS_CERT",
            "WEBHOOKS_MANAGEMENT_GRPC_TLS_CA",
        ] {
            if !is_set(name) {
                refuse(name, "production needs certificates between services");
            }
        }
    }
    if asked("WEBHOOKS_EGRESS_ALLOW_HTTP") && is_on("WEBHOOKS_EGRESS_ALLOW_HTTP") {
        refuse(
            "WEBHOOKS_EGRESS_ALLOW_HTTP",
            "production sends over https only",
        );
    }
    // A name that does not resolve is the customer's fault, and ten such failures disable a webhook:
    // so it must be known when it is our resolver that fails.
    if asked("WEBHOOKS_EGRESS_CONTROL_NAME") && !is_set("WEBHOOKS_EGRESS_CONTROL_NAME") {
        refuse(
            "WEBHOOKS_EGRESS_CONTROL_NAME",
            "production needs a name that always resolves, or an outage of our resolver disables customers' webhooks",
        );
    }
    if asked("WEBHOOKS_EGRESS_ALLOW_CIDRS")
        && is_set("WEBHOOKS_EGRESS_ALLOW_CIDRS")
        && !is_on("WEBHOOKS_EGRESS_ALLOW_CIDRS_ACKNOWLEDGED")
    {
        refuse(
            "WEBHOOKS_EGRESS_ALLOW_CIDRS",
            "opens private addresses to every customer: set WEBHOOKS_EGRESS_ALLOW_CIDRS_ACKNOWLEDGED=true if that is meant",
        );
    }
    if asked("WEBHOOKS_TRUSTED_PROXIES")
        && value("WEBHOOKS_TRUSTED_PROXIES").is_some_and(|ranges| holds_everybody(&ranges))
    {
        refuse(
            "WEBHOOKS_TRUSTED_PROXIES",
            "believes everybody's X-Forwarded-For, so everybody chooses his address: name the proxies",
        );
    }
    if asked("WEBHOOKS_SMTP_URL")
        && value("WEBHOOKS_SMTP_URL").is_some_and(|url| mail_is_readable(&url))
    {
        refuse(
            "WEBHOOKS_SMTP_URL",
            "production needs encrypted mail: smtps://, or smtp://…?tls=required",
        );
    }
    found
}

/// Whether the server's certificate is checked, with its name. A Unix socket needs none.
fn database_is_verified(url: &str) -> bool {
    let (rest, query) = url.split_once('?').unwrap_or((url, ""));
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let parameter = |name: &str| {
        query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    };
    let socket = parameter("host")
        .is_some_and(|host| host.starts_with('/') || host.starts_with("%2F"))
        || host.starts_with("%2F");
    socket
        || matches!(
            parameter("sslmode").or_else(|| parameter("ssl-mode")),
            Some("verify-full")
        )
}

fn starts_made_up(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    MADE_UP.iter().any(|word| text.starts_with(word))
}

fn different(text: &str) -> usize {
    text.chars()
        .collect::<std::collections::BTreeSet<_>>()
        .len()
}

/// `id:base64`: by its id, or because nobody drew its bytes.
fn is_made_up_pair(pair: &str) -> bool {
    let (id, key) = pair.trim().split_once(':').unwrap_or((pair, ""));
    starts_made_up(id) || is_made_up_key(key)
}

/// Whether a list of ranges has one that holds every address of a kind.
fn holds_everybody(ranges: &str) -> bool {
    let everybody = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    ranges.split(',').any(|range| {
        let all_ones = |ip: IpAddr| match ip {
            IpAddr::V4(_) => IpAddr::from(Ipv4Addr::BROADCAST),
            IpAddr::V6(_) => IpAddr::from(Ipv6Addr::from_bits(u128::MAX)),
        };
        let range = range.trim().parse::<Cidr>();
        // A range that holds the first and the last address holds all.
        range.is_ok_and(|range| {
            everybody
                .iter()
                .any(|ip| range.contains(*ip) && range.contains(all_ones(*ip)))
        })
    })
}

/// Whether what is sent to a mail server, its password too, can be read on the way. Within this
/// machine there is no way.
fn mail_is_readable(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("smtp://") else {
        return false;
    };
    let (authority, parameters) = rest.split_once(['/', '?']).unwrap_or((rest, ""));
    let parameters = parameters
        .split_once('?')
        .map_or(parameters, |parts| parts.1);
    if parameters.split('&').any(|pair| pair == "tls=required") {
        return false;
    }
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let host = match host.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let local = host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback());
    !local
}

fn is_made_up_token(token: &str) -> bool {
    token.len() < TOKEN_MIN_CHARS || different(token) < TOKEN_MIN_DIFFERENT || starts_made_up(token)
}

impl Env {
    /// Whether this process is told that it is production.
    pub fn is_production(&mut self) -> bool {
        let doc =
            "`development` or `production`, which refuses to start with what is for development";
        match self
            .string(SETTING_ENVIRONMENT, "development", doc)
            .as_str()
        {
            "production" => true,
            "development" => false,
            other => {
                let text = format!("{other:?} is neither development nor production");
                self.problem(SETTING_ENVIRONMENT, text);
                false
            }
        }
    }

    /// Refuses what production may not run with, in what has been asked for so far. Nothing happens
    /// in development.
    pub fn require_production(&mut self) {
        if !self.is_production() {
            return;
        }
        let asked = |name: &str| self.settings().iter().any(|setting| setting.name == name);
        let value = |name: &str| self.raw(name).or_else(|| self.in_file(name));
        for (name, text) in problems(asked, value) {
            self.problem(name, text);
        }
    }

    /// A secret's file. One that cannot be read was complained about where it was asked for.
    fn in_file(&self, name: &str) -> Option<String> {
        let path = self.raw(&format!("{name}_FILE"))?;
        super::read_secret_file(std::path::Path::new(&path)).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const KEY: &str = "k1:9sX0bUj4Gq7nT2hVw8cLrYpZ3eDmKfA5iOzQ1xWvB6E=";
    const TOKEN: &str = "pJ7sK2vQ9xW4mB8nR1tY6zL3cF5gH0dA";

    /// Everything a well set up installation says, for all services together.
    fn good() -> BTreeMap<&'static str, &'static str> {
        BTreeMap::from([
            ("WEBHOOKS_NATS_URL", "tls://a:4222,tls://b:4222"),
            ("WEBHOOKS_NATS_NKEY_SEED", "SU…"),
            (
                "WEBHOOKS_DATABASE_URL",
                "postgres://u:p@h/d?sslmode=verify-full",
            ),
            ("WEBHOOKS_ENCRYPTION_KEYS", KEY),
            ("WEBHOOKS_INTERNAL_TOKEN", TOKEN),
            (
                "WEBHOOKS_OPERATOR_TOKEN",
                "aN9bX3cV7dZ1eL5fK8gJ2hH6iG0jF4kD",
            ),
            ("WEBHOOKS_GRPC_ADDR", "0.0.0.0:9090"),
            ("WEBHOOKS_GRPC_TLS_CERT", "c"),
            ("WEBHOOKS_GRPC_TLS_KEY", "k"),
            ("WEBHOOKS_GRPC_TLS_CLIENT_CA", "a"),
            ("WEBHOOKS_GRPC_TLS_CLIENT_NAMES", "dispatcher"),
            ("WEBHOOKS_MANAGEMENT_GRPC_URL", "https://management:9090"),
            ("WEBHOOKS_MANAGEMENT_GRPC_TLS_CERT", "c"),
            ("WEBHOOKS_MANAGEMENT_GRPC_TLS_CA", "a"),
            ("WEBHOOKS_EGRESS_ALLOW_HTTP", "false"),
            ("WEBHOOKS_EGRESS_CONTROL_NAME", "example.com"),
            ("WEBHOOKS_TRUSTED_PROXIES", "10.0.0.0/8, 2001:db8::/32"),
            ("WEBHOOKS_SMTP_URL", "smtps://user:password@mail.example"),
        ])
    }

    fn check(change: &[(&'static str, &'static str)]) -> Vec<&'static str> {
        let mut values = good();
        for (name, value) in change {
            if value.is_empty() {
                values.remove(name);
            } else {
                values.insert(name, value);
            }
        }
        let value = |name: &str| values.get(name).map(|value| (*value).to_owned());
        problems(|_| true, value)
            .into_iter()
            .map(|(name, _)| name)
            .collect()
    }

    #[test]
    fn what_is_well_set_up_starts() {
        assert_eq!(check(&[]), [""; 0]);
        assert_eq!(
            check(&[
                ("WEBHOOKS_NATS_URL", "nats://a"),
                ("WEBHOOKS_NATS_TLS", "true")
            ]),
            [""; 0]
        );
        assert_eq!(
            check(&[
                ("WEBHOOKS_NATS_NKEY_SEED", ""),
                ("WEBHOOKS_NATS_CREDENTIALS", "c")
            ]),
            [""; 0]
        );
        assert_eq!(
            check(&[("WEBHOOKS_DATABASE_URL", "postgres:///d?host=/run/postgres")]),
            [""; 0]
        );
        let acknowledged = [
            ("WEBHOOKS_EGRESS_ALLOW_CIDRS", "10.0.0.0/8"),
            ("WEBHOOKS_EGRESS_ALLOW_CIDRS_ACKNOWLEDGED", "true"),
        ];
        assert_eq!(check(&acknowledged), [""; 0]);
    }

    #[test]
    fn mail_is_encrypted_or_stays_on_this_machine() {
        for url in [
            "smtps://u:p@mail.example",
            "smtp://u:p@mail.example:587?tls=required",
            "smtp://mail.example/?x=1&tls=required",
            "smtp://localhost:25",
            "smtp://u:p@127.0.0.1:1025",
            "smtp://[::1]:1025/",
        ] {
            assert!(!mail_is_readable(url), "{url}");
        }
        for url in [
            "smtp://mail.example",
            "smtp://u:p@mail.example:25/?tls=opportunistic",
            "smtp://localhost.example",
            "smtp://localhost@mail.example",
            "smtp://10.0.0.1:25",
            "smtp://[2001:db8::1]:25",
        ] {
            assert!(mail_is_readable(url), "{url}");
        }
    }

    #[test]
    fn each_opening_is_refused_by_name() {
        for (name, value, refused) in [
            ("WEBHOOKS_NATS_NKEY_SEED", "", "WEBHOOKS_NATS_NKEY_SEED"),
            ("WEBHOOKS_NATS_URL", "nats://a", "WEBHOOKS_NATS_TLS"),
            ("WEBHOOKS_NATS_URL", "tls://a,nats://b", "WEBHOOKS_NATS_TLS"),
            ("WEBHOOKS_NATS_URL", "", "WEBHOOKS_NATS_TLS"),
            (
                "WEBHOOKS_DATABASE_URL",
                "postgres://u:p@h/d",
                "WEBHOOKS_DATABASE_URL",
            ),
            (
                "WEBHOOKS_DATABASE_URL",
                "postgres://u:p@h/d?sslmode=require",
                "WEBHOOKS_DATABASE_URL",
            ),
            (
                "WEBHOOKS_DATABASE_URL",
                "postgres://u:p@h/d?sslmode=verify-ca",
                "WEBHOOKS_DATABASE_URL",
            ),
            (
                "WEBHOOKS_TRUSTED_PROXIES",
                "10.0.0.1,0.0.0.0/0",
                "WEBHOOKS_TRUSTED_PROXIES",
            ),
            (
                "WEBHOOKS_TRUSTED_PROXIES",
                "::/0",
                "WEBHOOKS_TRUSTED_PROXIES",
            ),
            (
                "WEBHOOKS_TRUSTED_PROXIES",
                "::ffff:0:0/96",
                "WEBHOOKS_TRUSTED_PROXIES",
            ),
            (
                "WEBHOOKS_SMTP_URL",
                "smtp://mail.example:25",
                "WEBHOOKS_SMTP_URL",
            ),
            (
                "WEBHOOKS_ENCRYPTION_KEYS",
                "k:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
                "WEBHOOKS_ENCRYPTION_KEYS",
            ),
            (
                "WEBHOOKS_ENCRYPTION_KEYS",
                "k:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
                "WEBHOOKS_ENCRYPTION_KEYS",
            ),
            (
                "WEBHOOKS_ENCRYPTION_KEYS",
                "k:Y29ycmVjdCBob3JzZSBiYXR0ZXJ5IHN0YXBsZSAzMiE=",
                "WEBHOOKS_ENCRYPTION_KEYS",
            ),
            (
                "WEBHOOKS_ENCRYPTION_KEYS",
                "dev:9sX0bUj4Gq7nT2hVw8cLrYpZ3eDmKfA5iOzQ1xWvB6E=",
                "WEBHOOKS_ENCRYPTION_KEYS",
            ),
            (
                "WEBHOOKS_INTERNAL_TOKEN",
                "changeme-changeme-changeme-changeme",
                "WEBHOOKS_INTERNAL_TOKEN",
            ),
            (
                "WEBHOOKS_INTERNAL_TOKEN",
                "pJ7sK2vQ9xW4mB8n",
                "WEBHOOKS_INTERNAL_TOKEN",
            ),
            ("WEBHOOKS_OPERATOR_TOKEN", TOKEN, "WEBHOOKS_OPERATOR_TOKEN"),
            ("WEBHOOKS_GRPC_TLS_CERT", "", "WEBHOOKS_GRPC_TLS_CERT"),
            (
                "WEBHOOKS_GRPC_TLS_CLIENT_CA",
                "",
                "WEBHOOKS_GRPC_TLS_CLIENT_CA",
            ),
            (
                "WEBHOOKS_GRPC_TLS_CLIENT_NAMES",
                "",
                "WEBHOOKS_GRPC_TLS_CLIENT_NAMES",
            ),
            (
                "WEBHOOKS_MANAGEMENT_GRPC_URL",
                "http://management",
                "WEBHOOKS_MANAGEMENT_GRPC_URL",
            ),
            (
                "WEBHOOKS_MANAGEMENT_GRPC_TLS_CERT",
                "",
                "WEBHOOKS_MANAGEMENT_GRPC_TLS_CERT",
            ),
            (
                "WEBHOOKS_EGRESS_ALLOW_HTTP",
                "yes",
                "WEBHOOKS_EGRESS_ALLOW_HTTP",
            ),
            (
                "WEBHOOKS_EGRESS_ALLOW_CIDRS",
                "10.0.0.0/8",
                "WEBHOOKS_EGRESS_ALLOW_CIDRS",
            ),
            (
                "WEBHOOKS_EGRESS_CONTROL_NAME",
                "",
                "WEBHOOKS_EGRESS_CONTROL_NAME",
            ),
        ] {
            assert_eq!(check(&[(name, value)]), [refused], "{name}={value}");
        }
    }

    #[test]
    fn a_service_answers_for_what_it_reads_and_all_at_once() {
        let nothing = |_: &str| None;
        assert_eq!(problems(|_| false, nothing), []);
        let fanout = problems(|name| name == "WEBHOOKS_NATS_URL", nothing);
        assert_eq!(fanout.len(), 2, "{fanout:?}");
        let mut env = Env::from_vars([
            (SETTING_ENVIRONMENT, "production"),
            ("WEBHOOKS_EGRESS_ALLOW_HTTP", "1"),
        ]);
        env.bool("WEBHOOKS_EGRESS_ALLOW_HTTP", false, "");
        env.string("WEBHOOKS_NATS_URL", "nats://127.0.0.1", "");
        env.require_production();
        assert_eq!(env.finish().unwrap_err().problems.len(), 3);
        let mut env = Env::from_vars([(SETTING_ENVIRONMENT, "prod")]);
        env.require_production();
        assert_eq!(env.finish().unwrap_err().problems.len(), 1);
    }
}
