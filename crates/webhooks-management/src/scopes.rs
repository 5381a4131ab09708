//! What tokens can be allowed: one table, from which everything that lists or reads scopes is made.
//!
//! A scope has two spellings: its name (`webhooks:read`, in gRPC, errors and the database) and the
//! vendor's long word (`API_SCOPE_WEBHOOKS_READ`, in REST). The vendor's client knows a closed set
//! of long words and drops an answer that holds another one, so `events:write`, which the vendor
//! does not have, is shown by name only; it is read in both spellings.

use webhooks_domain::token::grants;

/// One scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scope {
    /// `webhooks:read`
    pub(crate) name: &'static str,
    /// `API_SCOPE_WEBHOOKS_READ`
    pub(crate) word: &'static str,
    /// Whether the vendor's client knows the long word.
    pub(crate) vendors: bool,
    /// What it allows.
    pub(crate) description: &'static str,
}

/// Every scope, by resource, read before write.
pub(crate) const SCOPES: [Scope; 7] = [
    Scope {
        name: "analytics:read",
        word: "API_SCOPE_ANALYTICS_READ",
        vendors: true,
        description: "Read metrics and usage.",
    },
    Scope {
        name: "events:write",
        word: "API_SCOPE_EVENTS_WRITE",
        vendors: false,
        description: "Publish events.",
    },
    Scope {
        name: "tokens:read",
        word: "API_SCOPE_TOKENS_READ",
        vendors: true,
        description: "Read access tokens and their scopes, never their secrets.",
    },
    Scope {
        name: "tokens:write",
        word: "API_SCOPE_TOKENS_WRITE",
        vendors: true,
        description: "Create, update and delete access tokens, limited to the scopes the calling token holds.",
    },
    Scope {
        name: "webhooks:read",
        word: "API_SCOPE_WEBHOOKS_READ",
        vendors: true,
        description: "Read webhooks, their deliveries and events.",
    },
    Scope {
        name: "webhooks:write",
        word: "API_SCOPE_WEBHOOKS_WRITE",
        vendors: true,
        description: "Create, update and delete webhooks, see a secret when it is made, retry and replay deliveries.",
    },
    Scope {
        name: "workspace:read",
        word: "API_SCOPE_WORKSPACE_READ",
        vendors: true,
        description: "Read what the workspace is allowed, and its audit log.",
    },
];

/// What is said of a text that is none. All of them are too many words to be said each time.
pub(crate) const NO_SCOPE: &str = "is no scope: GET /v1/api-scopes has them all";

/// What a publishable token holds instead of scopes: it grants none of them. (An empty list would
/// grant all.)
pub(crate) const PUBLISHABLE: &str = "publishable";

impl Scope {
    /// Reads either spelling.
    pub(crate) fn parse(text: &str) -> Option<&'static Self> {
        SCOPES
            .iter()
            .find(|scope| scope.name == text || scope.word == text)
    }

    /// `webhooks` of `webhooks:read`.
    pub(crate) fn resource(&self) -> &'static str {
        self.name.split_once(':').map_or(self.name, |parts| parts.0)
    }

    /// `READ` or `WRITE`.
    pub(crate) fn access(&self) -> &'static str {
        if self.name.ends_with(":write") {
            "WRITE"
        } else {
            "READ"
        }
    }
}

/// The scopes that a token holds by what is stored for it, as written in the table; every one there
/// is with full access. A read scope that a write scope brings along is not listed.
pub(crate) fn held(stored: &[String]) -> Vec<&'static Scope> {
    let all = SCOPES.iter();
    all.filter(|scope| stored.is_empty() || stored.iter().any(|held| held == scope.name))
        .collect()
}

/// The first scope of `wanted` that `held` does not grant; `*` stands for full access.
pub(crate) fn lacking(held: &[String], wanted: &[String]) -> Option<&'static str> {
    if wanted.is_empty() {
        return (!held.is_empty()).then_some("*");
    }
    let lacking = wanted.iter().find(|scope| !grants(held, scope))?;
    Some(Scope::parse(lacking).map_or("*", |scope| scope.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_two_spellings_are_one_scope() {
        let mut names: Vec<_> = SCOPES.iter().map(|scope| scope.name).collect();
        let given = names.clone();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names, given, "by resource, read before write, each once");
        for scope in &SCOPES {
            let long = format!("API_SCOPE_{}", scope.name.replace(':', "_").to_uppercase());
            assert_eq!(scope.word, long);
            assert_eq!(Scope::parse(scope.word), Scope::parse(scope.name));
        }
        assert_eq!(Scope::parse("API_SCOPE_UNSPECIFIED"), None);
        assert_eq!(Scope::parse("webhooks"), None);
    }

    #[test]
    fn a_token_grants_what_it_holds() {
        let some = owned(&["tokens:write", "webhooks:write"]);
        assert_eq!(
            lacking(&some, &owned(&["tokens:read", "webhooks:read"])),
            None
        );
        assert_eq!(
            lacking(&some, &owned(&["webhooks:read", "events:write"])),
            Some("events:write")
        );
        assert_eq!(
            lacking(&some, &[]),
            Some("*"),
            "full access is for full access"
        );
        assert_eq!(lacking(&[], &[]), None);
        assert_eq!(lacking(&[], &some), None);
    }

    #[test]
    fn a_publishable_token_holds_nothing() {
        let stored = owned(&[PUBLISHABLE]);
        assert!(held(&stored).is_empty());
        for scope in &SCOPES {
            assert!(!grants(&stored, scope.name));
        }
        assert_eq!(held(&[]).len(), SCOPES.len());
    }
}
