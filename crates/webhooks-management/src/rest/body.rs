//! Reading a create or update body into a [`Draft`]: strict about types, and about what may not be
//! there at all. A member that only we set (`workspaceId`, `successCount`, …) is refused by name
//! rather than skipped: a caller who sends it believes that it does something.

mod nested;

use std::collections::HashSet;

use webhooks_runtime::Secret;

use crate::{
    draft::Draft,
    error::{ManagementError, Violation},
    json::{self, Json},
    service::RotationDraft,
};

/// Largest body of a call, in bytes.
pub(crate) const MAX_BODY_BYTES: usize = 64 * 1024;

/// Members of the webhook object that callers can read and never write.
const READ_ONLY: [&str; 15] = [
    "id",
    "workspaceId",
    "createdBy",
    "createdByEmail",
    "createdAt",
    "updatedAt",
    "lastSentAt",
    "lastDeliveredAt",
    "successCount",
    "failureCount",
    "statusReason",
    "statusLabel",
    "publicKey",
    "revision",
    "verified",
];

/// Which body it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A new webhook: it may bring its own signing secret.
    Create,
    /// A change: it may say what becomes of held deliveries.
    Update,
}

/// Reads a body. Problems inside the object go into the draft, to be told with all others.
///
/// # Errors
/// The body is no JSON object.
pub(crate) fn read_draft(body: &[u8], purpose: Purpose) -> Result<Draft, ManagementError> {
    let members = read_members(body)?;
    let mut reader = Reader::default();
    for (key, value) in members {
        reader.take(key, value, purpose);
    }
    Ok(reader.finish())
}

/// Reads the body of a rotation. None at all is one too: every default.
///
/// # Errors
/// The body is no JSON object.
pub(crate) fn read_rotation(body: &[u8]) -> Result<RotationDraft, ManagementError> {
    let members = match body {
        [] => Vec::new(),
        body => read_members(body)?,
    };
    let mut reader = Reader::default();
    let mut rotation = RotationDraft::default();
    for (key, value) in members {
        if !reader.seen.insert(key.clone()) {
            reader.problem(&key, "duplicate_key", "is there twice");
            continue;
        }
        match key.as_str() {
            "key" => rotation.key = reader.text(&key, value),
            "overlapSeconds" => rotation.overlap_seconds = reader.integer(&key, value),
            "secret" => rotation.secret = reader.text(&key, value).map(Secret::new),
            _ => reader.problem(&key, "unknown_field", "is not known"),
        }
    }
    rotation.problems = reader.draft.problems;
    Ok(rotation)
}

fn read_members(body: &[u8]) -> Result<Vec<(String, Json)>, ManagementError> {
    json::object(body).map_err(|problem| ManagementError::Invalid(vec![problem]))
}

#[derive(Default)]
struct Reader {
    draft: Draft,
    seen: HashSet<String>,
    link_id: bool,
    link_ids: bool,
}

impl Reader {
    fn take(&mut self, key: String, value: Json, purpose: Purpose) {
        if !self.seen.insert(key.clone()) {
            return self.problem(&key, "duplicate_key", "is there twice");
        }
        match key.as_str() {
            "name" => self.draft.name = self.text(&key, value),
            "endpointUrl" => self.draft.endpoint_url = self.text(&key, value),
            "linkId" => {
                self.link_id = true;
                self.draft.as_link_id = true;
                if let Some(link) = self.text(&key, value) {
                    // The vendor's word for "every link" is the empty one.
                    self.draft.links =
                        Some(Some(link).filter(|id| !id.is_empty()).into_iter().collect());
                }
            }
            "linkIds" => {
                self.link_ids = true;
                self.draft.links = self.texts(&key, value);
            }
            "triggers" => self.draft.triggers = self.texts(&key, value),
            "source" => self.draft.source = self.text(&key, value),
            "profile" => self.draft.profile = self.text(&key, value),
            "status" => self.draft.status = self.text(&key, value),
            "description" => self.draft.description = self.text(&key, value),
            "labels" => self.draft.labels = self.labels(&key, value),
            "eventActions" => self.draft.event_actions = self.texts(&key, value),
            "retryPolicy" => self.draft.retry = self.retry(&key, value),
            "rateLimit" => self.draft.rate = self.rate(&key, value),
            "maxInFlight" => {
                self.draft.max_in_flight = match value {
                    Json::Null => Some(None),
                    value => self.integer(&key, value).map(Some),
                }
            }
            "ordering" => self.draft.ordering = self.text(&key, value),
            "headers" => self.draft.headers = self.headers(&key, value),
            "auth" => self.draft.auth = self.auth(&key, value),
            "clientCertificate" => self.draft.certificate = self.certificate(&key, value),
            "signatures" => self.draft.signatures = self.texts(&key, value),
            "secret" if purpose == Purpose::Create => {
                self.draft.secret = self.text(&key, value).map(Secret::new);
            }
            "secret" => self.problem(&key, "read_only", "is changed by rotating it"),
            "heldDeliveries" if purpose == Purpose::Update => {
                self.draft.held = self.text(&key, value);
            }
            known if READ_ONLY.contains(&known) => self.problem(&key, "read_only", "cannot be set"),
            _ => self.problem(&key, "unknown_field", "is not known"),
        }
    }

    fn finish(mut self) -> Draft {
        if self.link_id && self.link_ids {
            self.problem("linkId", "ambiguous", "excludes linkIds: give one of them");
        }
        self.draft
    }

    fn text(&mut self, key: &str, value: Json) -> Option<String> {
        match value {
            Json::Text(text) => Some(text),
            other => {
                self.wrong(key, "text", &other);
                None
            }
        }
    }

    /// A list of text. An entry that is none keeps its place, so that those after it are told by
    /// theirs.
    fn texts(&mut self, key: &str, value: Json) -> Option<Vec<String>> {
        let Json::List(items) = value else {
            self.wrong(key, "a list", &value);
            return None;
        };
        let mut texts = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            texts.push(match item {
                Json::Text(text) => text,
                other => {
                    let message = format!("has to be text, not {}", other.kind());
                    self.problem(&format!("{key}[{index}]"), "wrong_type", message);
                    String::new()
                }
            });
        }
        Some(texts)
    }

    fn wrong(&mut self, key: &str, expected: &str, found: &Json) {
        let message = format!("has to be {expected}, not {}", found.kind());
        self.problem(key, "wrong_type", message);
    }

    fn problem(&mut self, key: &str, reason: &'static str, message: impl Into<String>) {
        // A key is the caller's text: enough of it to recognise, not enough to flood a log.
        let field: String = key.chars().take(64).collect();
        let problem = Violation::new(field, reason, message);
        self.draft.problems.unread(problem);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::violations::{MAX_NAMED, MORE_PROBLEMS};

    fn reasons(body: &str, purpose: Purpose) -> Vec<(String, &'static str)> {
        match read_draft(body.as_bytes(), purpose) {
            Ok(draft) => draft
                .problems
                .told()
                .into_iter()
                .map(|v| (v.field, v.reason))
                .collect(),
            Err(error) => error
                .violations()
                .iter()
                .map(|v| (v.field.clone(), v.reason))
                .collect(),
        }
    }

    #[test]
    fn the_vendors_body_is_read_whole() {
        let body = br#"{"name":"n","endpointUrl":"https://a.example","linkId":"","source":"WEBHOOK_SOURCE_MAKE","triggers":["KIND_EXIT"]}"#;
        let draft = read_draft(body, Purpose::Create).unwrap();
        assert_eq!(draft.problems.told(), []);
        assert_eq!(draft.links, Some(vec![]));
        assert_eq!(
            draft.triggers.as_deref(),
            Some(&["KIND_EXIT".to_owned()][..])
        );
        assert_eq!(draft.source.as_deref(), Some("WEBHOOK_SOURCE_MAKE"));
        assert_eq!(
            read_draft(b"{}", Purpose::Update).unwrap(),
            Draft::default()
        );
    }

    #[test]
    fn what_only_we_set_is_refused_by_name() {
        for key in READ_ONLY {
            let body = format!("{{\"{key}\":\"x\"}}");
            for purpose in [Purpose::Create, Purpose::Update] {
                assert_eq!(reasons(&body, purpose), [(key.to_owned(), "read_only")]);
            }
        }
        let status = r#"{"status":"WEBHOOK_STATUS_ACTIVE"}"#;
        assert_eq!(reasons(status, Purpose::Create), []);
        assert_eq!(reasons(status, Purpose::Update), []);
        let secret = r#"{"secret":"x"}"#;
        assert_eq!(reasons(secret, Purpose::Create), []);
        assert_eq!(
            reasons(secret, Purpose::Update),
            [("secret".to_owned(), "read_only")]
        );
        assert_eq!(
            reasons(r#"{"heldDeliveries":"KEEP"}"#, Purpose::Create),
            [("heldDeliveries".to_owned(), "unknown_field")]
        );
        assert_eq!(
            reasons(r#"{"plan":1}"#, Purpose::Create),
            [("plan".to_owned(), "unknown_field")]
        );
    }

    #[test]
    fn types_are_strict_and_keys_come_once() {
        let bad =
            r#"{"name":1,"endpointUrl":null,"triggers":"KIND_EXIT","linkIds":[true],"name":"n"}"#;
        let expected = [
            ("name", "wrong_type"),
            ("endpointUrl", "wrong_type"),
            ("triggers", "wrong_type"),
            ("linkIds[0]", "wrong_type"),
            ("name", "duplicate_key"),
        ];
        assert_eq!(
            reasons(bad, Purpose::Create),
            expected.map(|(f, r)| (f.to_owned(), r))
        );
        let both = r#"{"linkId":"","linkIds":[]}"#;
        assert_eq!(
            reasons(both, Purpose::Update),
            [("linkId".to_owned(), "ambiguous")]
        );
    }

    #[test]
    fn a_rotation_may_say_nothing() {
        assert_eq!(read_rotation(b"").unwrap(), RotationDraft::default());
        assert_eq!(read_rotation(b"{}").unwrap(), RotationDraft::default());
        let own = read_rotation(br#"{"overlapSeconds":0,"secret":"whsec_x"}"#).unwrap();
        assert_eq!(own.overlap_seconds, Some(0));
        assert_eq!(own.secret, Some(Secret::new("whsec_x")));
        assert_eq!(own.key, None);
        let public = read_rotation(br#"{"key":"PUBLIC_KEY"}"#).unwrap();
        assert_eq!(public.key.as_deref(), Some("PUBLIC_KEY"));
        let bad =
            read_rotation(br#"{"overlapSeconds":"1","x":1,"secret":"a","secret":"b","key":1}"#);
        let fields: Vec<_> = bad
            .unwrap()
            .problems
            .told()
            .into_iter()
            .map(|v| v.field)
            .collect();
        assert_eq!(fields, ["overlapSeconds", "x", "secret", "key"]);
        read_rotation(b"[]").unwrap_err();
    }

    #[test]
    fn what_is_no_object_is_refused_whole() {
        for (body, reason) in [
            ("", "malformed_json"),
            ("{", "malformed_json"),
            ("[]", "not_an_object"),
            ("null", "not_an_object"),
        ] {
            assert_eq!(reasons(body, Purpose::Create), [(String::new(), reason)]);
        }
        let flood: String = (0..500).map(|n| format!("\"k{n}\":1,")).collect();
        let flood = format!("{{{}\"z\":1}}", flood);
        let said = reasons(&flood, Purpose::Create);
        assert_eq!(said.len(), MAX_NAMED + 1);
        assert_eq!(said[MAX_NAMED], (String::new(), MORE_PROBLEMS));
    }
}
