//! The newest requests, in memory.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http::HeaderMap;
use serde::Serialize;
use uuid::Uuid;
use webhooks_domain::event::format_micros;

/// How many requests are kept unless told otherwise.
pub const DEFAULT_KEEP: usize = 10_000;

/// A request that came.
#[derive(Debug, Clone)]
pub struct Captured {
    /// When its body was complete, in microseconds since the epoch.
    pub received_at: i64,
    /// Its path, with the query.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Whether the signature holds and is fresh; `None` = no secret is known.
    pub verified: Option<bool>,
    /// The status it is answered with; 0 = the connection is reset instead.
    pub status: u16,
    /// `webhook.id` of its body.
    pub webhook: Option<Uuid>,
}

impl Captured {
    /// A header's value, where it is there and text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Whether it belongs to a webhook's id or carries this `webhook-id` header.
    pub(super) fn is_of(&self, id: &str) -> bool {
        self.header("webhook-id") == Some(id)
            || self
                .webhook
                .is_some_and(|webhook| Uuid::try_parse(id) == Ok(webhook))
    }

    pub(super) fn view(&self) -> impl Serialize {
        let headers = self.headers.iter();
        View {
            received_at: format_micros(self.received_at),
            path: self.path.clone(),
            headers: headers
                .map(|(name, value)| {
                    (
                        name.to_string(),
                        String::from_utf8_lossy(value.as_bytes()).into_owned(),
                    )
                })
                .collect(),
            body: String::from_utf8_lossy(&self.body).into_owned(),
            verified: self.verified,
            status: self.status,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct View {
    received_at: String,
    path: String,
    headers: BTreeMap<String, String>,
    body: String,
    verified: Option<bool>,
    status: u16,
}

/// A bounded ring of requests.
#[derive(Debug)]
pub(super) struct Journal {
    keep: usize,
    requests: Mutex<VecDeque<Arc<Captured>>>,
}

impl Journal {
    pub(super) fn new(keep: usize) -> Self {
        Self {
            keep,
            requests: Mutex::default(),
        }
    }

    /// Whether it is worth making a [`Captured`] at all.
    pub(super) fn keeps(&self) -> bool {
        self.keep > 0
    }

    pub(super) fn push(&self, request: Captured) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if requests.len() >= self.keep {
            requests.pop_front();
        }
        requests.push_back(Arc::new(request));
    }

    pub(super) fn newest(
        &self,
        limit: usize,
        wanted: impl Fn(&Captured) -> bool,
    ) -> Vec<Arc<Captured>> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests
            .iter()
            .rev()
            .filter(|request| wanted(request))
            .take(limit)
            .cloned()
            .collect()
    }

    pub(super) fn clear(&self) {
        self.requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(received_at: i64) -> Captured {
        Captured {
            received_at,
            path: "/ok".to_owned(),
            headers: [(
                http::HeaderName::from_static("webhook-id"),
                "msg_1".parse().unwrap(),
            )]
            .into_iter()
            .collect(),
            body: Bytes::from_static(b"{}"),
            verified: None,
            status: 200,
            webhook: Some(Uuid::from_u128(5)),
        }
    }

    #[test]
    fn the_oldest_leave_and_the_newest_come_first() {
        let journal = Journal::new(2);
        (1..=3).for_each(|at| journal.push(captured(at)));
        let times: Vec<_> = journal
            .newest(9, |_| true)
            .iter()
            .map(|request| request.received_at)
            .collect();
        assert_eq!(times, [3, 2]);
        assert_eq!(journal.newest(1, |_| true).len(), 1);
        journal.clear();
        assert!(journal.newest(9, |_| true).is_empty());
    }

    #[test]
    fn a_request_is_found_by_both_ids_and_shown_in_camel_case() {
        let request = captured(1_000_000);
        assert!(request.is_of("msg_1") && request.is_of(&Uuid::from_u128(5).to_string()));
        assert!(!request.is_of("msg_2") && !request.is_of(&Uuid::from_u128(6).to_string()));
        assert_eq!(
            serde_json::to_string(&request.view()).unwrap(),
            r#"{"receivedAt":"1970-01-01T00:00:01Z","path":"/ok","headers":{"webhook-id":"msg_1"},"body":"{}","verified":null,"status":200}"#
        );
    }
}
