//! What an operator wants a workspace to be: raw from any face, then judged whole.

use std::ops::RangeInclusive;

use uuid::Uuid;
use webhooks_domain::{
    challenge::{MAX_EXEMPT_HOSTS, is_host_pattern},
    webhook::Plan,
};
use webhooks_store::{WorkspaceLimits, WorkspacePatch, WorkspaceSettings};

use crate::{
    emails::is_email,
    error::{ManagementError, parse_id},
    names::wrong_name,
    violations::Violations,
};

/// Most notification addresses of a workspace.
pub const MAX_EMAILS: usize = 10;

/// Limits as asked for, unchecked; `None` = as the plan or the installation says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimitsDraft {
    /// Webhooks of any status.
    pub webhooks: Option<i64>,
    /// Most attempts that a webhook's retry policy may ask for.
    pub retry_max_attempts: Option<i64>,
    /// Longest time that a webhook's retry policy may ask for, in seconds.
    pub retry_max_age_seconds: Option<i64>,
    /// Events a second at each ingest process.
    pub events_per_second: Option<i64>,
    /// Deliveries held for one webhook.
    pub held_per_webhook: Option<i64>,
}

/// A workspace as asked for, unchecked. Absent means untouched, or the default at creation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkspaceDraft {
    /// Its id; only at creation.
    pub id: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// FREE, LIGHT, PRO or ENTERPRISE.
    pub plan: Option<String>,
    /// The member that owns it; only at creation.
    pub owner_member: Option<String>,
    /// Its tokens are test tokens.
    pub sandbox: Option<bool>,
    /// Who is told of its webhooks' trouble, anew.
    pub notification_emails: Option<Vec<String>>,
    /// All its limits, anew.
    pub limits: Option<LimitsDraft>,
    /// Nothing is delivered to an endpoint that has not answered a challenge.
    pub endpoint_verification: Option<bool>,
    /// Hosts whose endpoints need not, anew.
    pub exempt_hosts: Option<Vec<String>>,
    /// What the face itself found wrong (types, unknown members).
    pub problems: Violations,
}

/// A new workspace, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NewWish {
    pub(super) id: Option<Uuid>,
    pub(super) name: String,
    pub(super) plan: Plan,
    pub(super) owner_member: Option<Uuid>,
    pub(super) settings: WorkspaceSettings,
}

impl WorkspaceDraft {
    /// Checks a workspace that is to be made.
    ///
    /// # Errors
    /// Every rule that is broken.
    pub(super) fn judge_new(self) -> Result<NewWish, ManagementError> {
        let mut judge = Judge(self.problems);
        if self.name.is_none() {
            judge.broken("name", "missing", "is required");
        }
        let wish = NewWish {
            id: judge.id("id", self.id),
            name: judge.name(self.name).unwrap_or_default(),
            plan: judge.plan(self.plan).unwrap_or(Plan::Free),
            owner_member: judge.id("ownerMember", self.owner_member),
            settings: WorkspaceSettings {
                sandbox: self.sandbox.unwrap_or_default(),
                notification_emails: judge.emails(self.notification_emails).unwrap_or_default(),
                limits: judge.limits(self.limits).unwrap_or_default(),
                endpoint_verification: self.endpoint_verification.unwrap_or_default(),
                verification_exempt_hosts: judge.hosts(self.exempt_hosts).unwrap_or_default(),
            },
        };
        judge.verdict(wish)
    }

    /// Checks changes to a workspace.
    ///
    /// # Errors
    /// Every rule that is broken.
    pub(super) fn judge_changes(self) -> Result<WorkspacePatch, ManagementError> {
        let mut judge = Judge(self.problems);
        for (field, given) in [("id", self.id), ("ownerMember", self.owner_member)] {
            if given.is_some() {
                judge.broken(field, "read_only", "cannot be changed");
            }
        }
        let patch = WorkspacePatch {
            name: judge.name(self.name),
            plan: judge.plan(self.plan),
            sandbox: self.sandbox,
            notification_emails: judge.emails(self.notification_emails),
            limits: judge.limits(self.limits),
            endpoint_verification: self.endpoint_verification,
            verification_exempt_hosts: judge.hosts(self.exempt_hosts),
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

    fn id(&mut self, field: &str, text: Option<String>) -> Option<Uuid> {
        let id = parse_id(text.as_deref()?);
        if id.is_none() {
            self.broken(field, "not_an_id", "is a UUID with hyphens");
        }
        id
    }

    fn name(&mut self, name: Option<String>) -> Option<String> {
        let name = name?;
        if let Some((reason, message)) = wrong_name(&name) {
            self.broken("name", reason, message);
        }
        Some(name)
    }

    fn plan(&mut self, word: Option<String>) -> Option<Plan> {
        let plan = word?.parse().ok();
        if plan.is_none() {
            let known: Vec<_> = Plan::ALL.iter().map(|plan| plan.as_str()).collect();
            let message = format!("is one of {}", known.join(", "));
            self.broken("plan", "unknown_value", message);
        }
        plan
    }

    /// Each address once, whatever the case of its letters.
    fn emails(&mut self, emails: Option<Vec<String>>) -> Option<Vec<String>> {
        let mut once: Vec<String> = Vec::new();
        for (index, email) in emails?.into_iter().enumerate() {
            if !is_email(&email) {
                let message = "is an address of the form name@host.example";
                let violations = &mut self.0;
                violations.refuse_entry("notificationEmails", index, "not_an_address", message);
            } else if once.len() <= MAX_EMAILS
                && !once.iter().any(|known| known.eq_ignore_ascii_case(&email))
            {
                // Beyond the limit they are looked at, and no longer kept.
                once.push(email);
            }
        }
        if once.len() > MAX_EMAILS {
            let message = format!("holds at most {MAX_EMAILS} addresses");
            self.broken("notificationEmails", "too_many", message);
        }
        Some(once)
    }

    /// Each host once, in lower case.
    fn hosts(&mut self, hosts: Option<Vec<String>>) -> Option<Vec<String>> {
        const FIELD: &str = "verificationExemptHosts";
        let mut once: Vec<String> = Vec::new();
        for (index, host) in hosts?.into_iter().enumerate() {
            let host = host.to_ascii_lowercase();
            if !is_host_pattern(&host) {
                let message = "is a host name, or *.name for all below one";
                self.0.refuse_entry(FIELD, index, "not_a_host", message);
            } else if once.len() <= MAX_EXEMPT_HOSTS && !once.contains(&host) {
                once.push(host);
            }
        }
        if once.len() > MAX_EXEMPT_HOSTS {
            let message = format!("holds at most {MAX_EXEMPT_HOSTS} hosts");
            self.broken(FIELD, "too_many", message);
        }
        Some(once)
    }

    fn limits(&mut self, limits: Option<LimitsDraft>) -> Option<WorkspaceLimits> {
        let limits = limits?;
        let mut number = |name: &str, value: Option<i64>, range: RangeInclusive<i64>| {
            let value = value?;
            if range.contains(&value) {
                return u32::try_from(value).ok();
            }
            let message = format!("is {} to {}", range.start(), range.end());
            self.broken(&format!("limits.{name}"), "out_of_range", message);
            None
        };
        let age = number(
            "retryMaxAgeSeconds",
            limits.retry_max_age_seconds,
            1..=MAX_RETRY_AGE_SECONDS,
        );
        Some(WorkspaceLimits {
            webhooks: number("webhooks", limits.webhooks, 0..=1_000_000),
            retry_max_attempts: number("retryMaxAttempts", limits.retry_max_attempts, 1..=100),
            retry_max_age_seconds: age.map(u64::from),
            events_per_second: number("eventsPerSecond", limits.events_per_second, 1..=1_000_000),
            held_per_webhook: number("heldPerWebhook", limits.held_per_webhook, 0..=10_000_000),
        })
    }

    fn verdict<T>(self, value: T) -> Result<T, ManagementError> {
        self.0.verdict(value)
    }
}

/// Thirty days: longer than any retry policy.
const MAX_RETRY_AGE_SECONDS: i64 = 30 * 86_400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_broken_rule_is_named() {
        let draft = WorkspaceDraft {
            id: Some("x".into()),
            name: Some(" ".into()),
            plan: Some("GOLD".into()),
            notification_emails: Some(vec![
                "nobody".into(),
                "ops@acme.example".into(),
                "no one".into(),
            ]),
            exempt_hosts: Some(vec!["a.example".into(), "b c".into()]),
            limits: Some(LimitsDraft {
                webhooks: Some(-1),
                retry_max_attempts: Some(0),
                retry_max_age_seconds: Some(0),
                events_per_second: Some(0),
                held_per_webhook: Some(i64::MAX),
            }),
            ..WorkspaceDraft::default()
        };
        let error = draft.judge_new().unwrap_err();
        let fields: Vec<_> = error
            .violations()
            .iter()
            .map(|violation| violation.field.as_str())
            .collect();
        assert_eq!(
            fields,
            [
                "id",
                "name",
                "plan",
                "notificationEmails[0]",
                "notificationEmails[2]",
                "limits.retryMaxAgeSeconds",
                "limits.webhooks",
                "limits.retryMaxAttempts",
                "limits.eventsPerSecond",
                "limits.heldPerWebhook",
                "verificationExemptHosts[1]",
            ]
        );
    }

    #[test]
    fn exempt_hosts_are_host_names_each_once() {
        let with = |hosts: &[&str]| {
            WorkspaceDraft {
                exempt_hosts: Some(hosts.iter().map(|&host| host.to_owned()).collect()),
                ..WorkspaceDraft::default()
            }
            .judge_changes()
        };
        let taken = with(&["Hooks.Zapier.com", "*.make.com", "hooks.zapier.com"]).unwrap();
        assert_eq!(
            taken.verification_exempt_hosts,
            Some(vec!["hooks.zapier.com".to_owned(), "*.make.com".to_owned()])
        );
        let refused = with(&["https://hooks.zapier.com"]).unwrap_err();
        assert_eq!(refused.violations()[0].reason, "not_a_host");
        let many: Vec<String> = (0..=MAX_EXEMPT_HOSTS).map(|n| format!("a{n}.b")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(with(&many[1..]).is_ok());
        assert_eq!(with(&many).unwrap_err().violations()[0].reason, "too_many");
    }

    #[test]
    fn ten_addresses_are_enough_and_each_counts_once() {
        let with = |emails: Vec<String>| {
            WorkspaceDraft {
                notification_emails: Some(emails),
                ..WorkspaceDraft::default()
            }
            .judge_changes()
        };
        let many = |n: usize| {
            (0..n)
                .map(|n| format!("a{n}@b.example"))
                .collect::<Vec<_>>()
        };
        assert!(with(many(10)).is_ok());
        assert!(with(many(11)).is_err());
        let twice = with(vec!["A@b.example".into(), "a@B.example".into()]).unwrap();
        assert_eq!(
            twice.notification_emails,
            Some(vec!["A@b.example".to_owned()])
        );
        let fixed = WorkspaceDraft {
            id: Some(Uuid::nil().to_string()),
            ..WorkspaceDraft::default()
        };
        assert_eq!(
            fixed.judge_changes().unwrap_err().violations()[0].reason,
            "read_only"
        );
    }
}
