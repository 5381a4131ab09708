//! What a caller wants a token to be: raw from either face, then judged whole.

use uuid::Uuid;
use webhooks_domain::token::TokenEnvironment;
use webhooks_store::{TokenKeyType, TokenPatch, TokenRow};

use crate::{
    emails::is_email,
    error::ManagementError,
    names::wrong_name,
    operator::TokenWish,
    scopes::{NO_SCOPE, PUBLISHABLE, Scope},
    violations::Violations,
};

/// A token as asked for, unchecked. Absent means untouched, or the default at creation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenDraft {
    /// The name.
    pub name: Option<String>,
    /// Long word of the key type.
    pub key_type: Option<String>,
    /// Scopes, in either spelling.
    pub scopes: Option<Vec<String>>,
    /// Full access (again).
    pub full_access: Option<bool>,
    /// When it ends, in microseconds; `Some(None)` = never.
    pub expires_at: Option<Option<i64>>,
    /// Where the member behind it reads mail; only at creation.
    pub member_email: Option<String>,
    /// What the face itself found wrong (types, unknown members).
    pub problems: Violations,
}

/// A new token, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NewWish {
    pub(super) name: String,
    pub(super) key_type: TokenKeyType,
    /// As they are stored.
    pub(super) scopes: Vec<String>,
    pub(super) expires_at: Option<i64>,
    pub(super) member_email: Option<String>,
}

/// The long word of a key type.
pub(crate) fn key_type_word(key_type: TokenKeyType) -> &'static str {
    match key_type {
        TokenKeyType::Secret => "WORKSPACE_TOKEN_KEY_TYPE_SECRET",
        TokenKeyType::Publishable => "WORKSPACE_TOKEN_KEY_TYPE_PUBLISHABLE",
    }
}

impl TokenDraft {
    /// Checks a token that is to be made.
    ///
    /// # Errors
    /// Every rule that is broken.
    pub(super) fn judge_new(self, now: i64) -> Result<NewWish, ManagementError> {
        let mut judge = Judge(self.problems);
        let key_type = match self.key_type.as_deref() {
            None => judge.key_type("missing", "is required"),
            Some("WORKSPACE_TOKEN_KEY_TYPE_SECRET") => TokenKeyType::Secret,
            Some("WORKSPACE_TOKEN_KEY_TYPE_PUBLISHABLE") => TokenKeyType::Publishable,
            Some(_) => judge.key_type(
                "unknown_value",
                "is WORKSPACE_TOKEN_KEY_TYPE_SECRET or WORKSPACE_TOKEN_KEY_TYPE_PUBLISHABLE",
            ),
        };
        let asked = self.scopes.unwrap_or_default();
        let any = !asked.is_empty();
        let mut scopes = judge.scopes(asked);
        if key_type == TokenKeyType::Publishable {
            if any {
                judge.broken(
                    "scopes",
                    "not_for_publishable",
                    "a publishable token takes none",
                );
            }
            scopes = vec![PUBLISHABLE.to_owned()];
        }
        if self.full_access.is_some() {
            judge.broken("fullAccess", "read_only", "is had by leaving scopes out");
        }
        let wish = NewWish {
            name: judge.name(self.name).unwrap_or_default(),
            key_type,
            scopes,
            expires_at: judge.expiry(self.expires_at, now).flatten(),
            member_email: judge.email(self.member_email),
        };
        judge.verdict(wish)
    }

    /// Checks a token that an operator makes for a workspace. Its environment is for the caller to
    /// set.
    ///
    /// # Errors
    /// Every rule that is broken.
    pub(in crate::service) fn judge_issue(
        mut self,
        workspace: Uuid,
        now: i64,
    ) -> Result<TokenWish, ManagementError> {
        self.key_type = Some(key_type_word(TokenKeyType::Secret).to_owned());
        let wish = self.judge_new(now)?;
        Ok(TokenWish {
            workspace,
            name: wish.name,
            scopes: wish.scopes,
            member: None,
            member_email: wish.member_email,
            environment: TokenEnvironment::Live,
            expires_at: wish.expires_at,
        })
    }

    /// Checks changes to a token.
    ///
    /// # Errors
    /// Every rule that is broken.
    pub(super) fn judge_changes(
        self,
        row: &TokenRow,
        now: i64,
    ) -> Result<TokenPatch, ManagementError> {
        let mut judge = Judge(self.problems);
        if self.key_type.is_some() {
            judge.broken("keyType", "read_only", "cannot be changed");
        }
        if self.member_email.is_some() {
            judge.broken("memberEmail", "read_only", "cannot be changed");
        }
        let given = self.scopes.is_some() || self.full_access.is_some();
        if given && row.key_type == TokenKeyType::Publishable {
            judge.broken(
                "scopes",
                "not_for_publishable",
                "a publishable token takes none",
            );
        }
        let scopes = match (self.scopes, self.full_access) {
            (Some(_), Some(true)) => {
                judge.broken(
                    "fullAccess",
                    "ambiguous",
                    "excludes scopes: give one of them",
                );
                None
            }
            (Some(scopes), _) if scopes.is_empty() => {
                judge.broken("scopes", "empty", "holds at least one; see fullAccess");
                None
            }
            (Some(scopes), _) => Some(judge.scopes(scopes)),
            (None, Some(true)) => Some(Vec::new()),
            (None, Some(false)) if row.scopes.is_empty() => {
                judge.broken(
                    "fullAccess",
                    "needs_scopes",
                    "is taken away by giving scopes",
                );
                None
            }
            (None, _) => None,
        };
        let patch = TokenPatch {
            name: judge.name(self.name),
            scopes,
            expires_at: judge.expiry(self.expires_at, now),
        };
        judge.verdict(patch)
    }
}

struct Judge(Violations);

impl Judge {
    fn broken(&mut self, field: &str, reason: &'static str, message: impl Into<String>) {
        // The face may have found the same field wrong already.
        self.0.refuse(field, reason, message);
    }

    fn key_type(&mut self, reason: &'static str, message: &str) -> TokenKeyType {
        self.broken("keyType", reason, message);
        TokenKeyType::Secret
    }

    fn name(&mut self, name: Option<String>) -> Option<String> {
        let name = name?;
        // No name at all is fine; one that shows nothing is a mistake.
        let wrong = wrong_name(&name).filter(|_| !name.is_empty());
        if let Some((reason, message)) = wrong {
            self.broken("name", reason, message);
        }
        Some(name)
    }

    /// The names of the scopes, each once.
    fn scopes(&mut self, texts: Vec<String>) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            let Some(scope) = Scope::parse(text) else {
                let violations = &mut self.0;
                violations.refuse_entry("scopes", index, "unknown_value", NO_SCOPE);
                continue;
            };
            if !names.iter().any(|name| name == scope.name) {
                names.push(scope.name.to_owned());
            }
        }
        names
    }

    fn email(&mut self, email: Option<String>) -> Option<String> {
        let email = email?;
        if !is_email(&email) {
            let message = "is an address of the form name@host.example";
            self.broken("memberEmail", "not_an_address", message);
        }
        Some(email)
    }

    fn expiry(&mut self, expires_at: Option<Option<i64>>, now: i64) -> Option<Option<i64>> {
        if expires_at.flatten().is_some_and(|at| at <= now) {
            self.broken("expiresAt", "in_the_past", "lies in the future");
        }
        expires_at
    }

    fn verdict<T>(self, value: T) -> Result<T, ManagementError> {
        self.0.verdict(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "WORKSPACE_TOKEN_KEY_TYPE_SECRET";
    const PUBLIC: &str = "WORKSPACE_TOKEN_KEY_TYPE_PUBLISHABLE";

    fn draft(key_type: &str, scopes: &[&str]) -> TokenDraft {
        TokenDraft {
            key_type: Some(key_type.to_owned()),
            scopes: Some(scopes.iter().map(|scope| (*scope).to_owned()).collect()),
            ..TokenDraft::default()
        }
    }

    fn broken<T: std::fmt::Debug>(
        result: Result<T, ManagementError>,
    ) -> Vec<(String, &'static str)> {
        let error = result.unwrap_err();
        let all = error.violations().iter();
        all.map(|v| (v.field.clone(), v.reason)).collect()
    }

    #[test]
    fn scopes_are_read_in_both_spellings_and_kept_once() {
        let wish = draft(
            SECRET,
            &["API_SCOPE_WEBHOOKS_READ", "webhooks:read", "events:write"],
        );
        let wish = wish.judge_new(0).unwrap();
        assert_eq!(wish.scopes, ["webhooks:read", "events:write"]);
        assert!(draft(SECRET, &[]).judge_new(0).unwrap().scopes.is_empty());
        assert_eq!(
            draft(PUBLIC, &[]).judge_new(0).unwrap().scopes,
            [PUBLISHABLE]
        );
    }

    #[test]
    fn every_broken_rule_is_named() {
        let bad = TokenDraft {
            name: Some("n".repeat(256)),
            scopes: Some(vec![
                "links:read".into(),
                "webhooks:read".into(),
                "x".into(),
            ]),
            full_access: Some(true),
            expires_at: Some(Some(5)),
            member_email: Some("nobody".into()),
            ..TokenDraft::default()
        };
        assert_eq!(
            broken(bad.judge_new(5)),
            [
                ("keyType", "missing"),
                ("scopes[0]", "unknown_value"),
                ("scopes[2]", "unknown_value"),
                ("fullAccess", "read_only"),
                ("name", "too_long"),
                ("expiresAt", "in_the_past"),
                ("memberEmail", "not_an_address"),
            ]
            .map(|(field, reason)| (field.to_owned(), reason))
        );
        let mixed = draft(PUBLIC, &["webhooks:read"]).judge_new(0);
        assert_eq!(broken(mixed)[0].1, "not_for_publishable");
        assert_eq!(
            broken(draft("SECRET", &[]).judge_new(0))[0].1,
            "unknown_value"
        );
    }

    #[test]
    fn an_update_never_widens_by_accident() {
        let row = |scopes: &[&str]| TokenRow {
            id: "t".into(),
            hash: [0; 32],
            workspace_id: Uuid::nil(),
            name: String::new(),
            key_type: TokenKeyType::Secret,
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            created_by: Uuid::nil(),
            member_email: None,
            created_at: 0,
            updated_at: 0,
            expires_at: None,
            last_used_at: None,
            revoked_at: None,
            revision: 1,
            events_per_second: None,
        };
        let with = |scopes: Option<&[&str]>, full_access| TokenDraft {
            scopes: scopes.map(|all| all.iter().map(|s| (*s).to_owned()).collect()),
            full_access,
            ..TokenDraft::default()
        };
        let some = row(&["webhooks:read"]);
        let patch = with(None, Some(false)).judge_changes(&some, 0).unwrap();
        assert_eq!(patch, TokenPatch::default());
        let full = with(None, Some(true)).judge_changes(&some, 0).unwrap();
        assert_eq!(full.scopes, Some(vec![]));
        assert_eq!(
            broken(with(Some(&[]), None).judge_changes(&some, 0))[0].1,
            "empty"
        );
        let both = with(Some(&["webhooks:read"]), Some(true));
        assert_eq!(broken(both.judge_changes(&some, 0))[0].1, "ambiguous");
        let none = with(None, Some(false)).judge_changes(&row(&[]), 0);
        assert_eq!(broken(none)[0].1, "needs_scopes");
        let moved = TokenDraft {
            member_email: Some("a@b.example".into()),
            ..TokenDraft::default()
        };
        assert_eq!(broken(moved.judge_changes(&some, 0))[0].1, "read_only");
    }
}
