//! Reading a create or update body into a [`Draft`]: strict about types, and about what may not be
//! there at all. A member that only we set (`workspaceId`, `successCount`, …) is refused by name
//! rather than skipped: a caller who sends it believes that it does something.

use crate::{
    draft::Draft,
    error::{ManagementError, Violation},
    json::Json,
};

/// Largest body of a call, in bytes.
pub(crate) const MAX_BODY_BYTES: usize = 64 * 1024;

/// Most problems named in one answer; a body of thousands of unknown members needs no more.
const MAX_PROBLEMS: usize = 50;

/// Members of the webhook object that callers can read and never write.
const READ_ONLY: [&str; 13] = [
    "id",
    "workspaceId",
    "createdBy",
    "createdAt",
    "updatedAt",
    "lastSentAt",
    "lastDeliveredAt",
    "successCount",
    "failureCount",
    "statusReason",
    "statusLabel",
    "secret",
    "revision",
];

/// Which body it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A new webhook is active: its status cannot be chosen.
    Create,
    /// Everything that can be chosen at creation, and the status.
    Update,
}

/// Reads a body. Problems inside the object go into the draft, to be told with all others.
///
/// # Errors
/// The body is no JSON object.
pub(crate) fn read_draft(body: &[u8], purpose: Purpose) -> Result<Draft, ManagementError> {
    let whole =
        |reason, message| ManagementError::Invalid(vec![Violation::new("", reason, message)]);
    let json = serde_json::from_slice(body).map_err(|error| {
        whole(
            "malformed_json",
            format!("is not readable as JSON: {error}"),
        )
    })?;
    let Json::Object(members) = json else {
        return Err(whole("not_an_object", "has to be a JSON object".to_owned()));
    };
    let mut reader = Reader::default();
    for (key, value) in members {
        reader.take(key, value, purpose);
    }
    Ok(reader.finish())
}

#[derive(Default)]
struct Reader {
    draft: Draft,
    seen: Vec<String>,
    link_id: bool,
    link_ids: bool,
}

impl Reader {
    fn take(&mut self, key: String, value: Json, purpose: Purpose) {
        if self.draft.problems.len() >= MAX_PROBLEMS {
            return;
        }
        if self.seen.contains(&key) {
            return self.problem(&key, "duplicate_key", "is there twice");
        }
        match key.as_str() {
            "name" => self.draft.name = self.text(&key, value),
            "endpointUrl" => self.draft.endpoint_url = self.text(&key, value),
            "linkId" => {
                self.link_id = true;
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
            "status" if purpose == Purpose::Update => self.draft.status = self.text(&key, value),
            "status" => self.problem(
                &key,
                "read_only",
                "is ACTIVE at creation and can be changed afterwards",
            ),
            known if READ_ONLY.contains(&known) => self.problem(&key, "read_only", "cannot be set"),
            _ => self.problem(&key, "unknown_field", "is not known"),
        }
        self.seen.push(key);
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
                self.problem(
                    key,
                    "wrong_type",
                    format!("has to be text, not {}", other.kind()),
                );
                None
            }
        }
    }

    fn texts(&mut self, key: &str, value: Json) -> Option<Vec<String>> {
        let Json::List(items) = value else {
            self.problem(
                key,
                "wrong_type",
                format!("has to be a list, not {}", value.kind()),
            );
            return None;
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            match item {
                Json::Text(text) => texts.push(text),
                other => {
                    self.problem(
                        key,
                        "wrong_type",
                        format!("holds text, not {}", other.kind()),
                    );
                    return None;
                }
            }
        }
        Some(texts)
    }

    fn problem(&mut self, key: &str, reason: &'static str, message: impl Into<String>) {
        // A key is the caller's text: enough of it to recognise, not enough to flood a log.
        let field: String = key.chars().take(64).collect();
        self.draft
            .problems
            .push(Violation::new(field, reason, message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons(body: &str, purpose: Purpose) -> Vec<(String, &'static str)> {
        match read_draft(body.as_bytes(), purpose) {
            Ok(draft) => draft
                .problems
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
        assert_eq!(draft.problems, []);
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
        assert_eq!(
            reasons(status, Purpose::Create),
            [("status".to_owned(), "read_only")]
        );
        assert_eq!(reasons(status, Purpose::Update), []);
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
            ("linkIds", "wrong_type"),
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
        assert_eq!(reasons(&flood, Purpose::Create).len(), MAX_PROBLEMS);
    }
}
