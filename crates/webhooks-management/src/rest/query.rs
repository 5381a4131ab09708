//! Query strings of lists.

use axum::extract::Query;
use http::Uri;
use webhooks_domain::event::parse_rfc3339_micros;

use crate::{
    error::{ManagementError, Violation},
    page::page_size,
    words::{STATUS_UNSPECIFIED, ShownStatus},
};

/// The parts of a list's query. Unknown ones are skipped: proxies and trackers add theirs.
#[derive(Debug, Default)]
pub(super) struct ListQuery {
    parts: Vec<(String, String)>,
}

impl ListQuery {
    /// Reads a query string.
    ///
    /// # Errors
    /// It cannot be decoded.
    pub(super) fn of(uri: &Uri) -> Result<Self, ManagementError> {
        let Query(parts) = Query::try_from_uri(uri).map_err(|_| {
            let message = "the query string cannot be decoded";
            ManagementError::Invalid(vec![Violation::new("", "malformed_query", message)])
        })?;
        Ok(Self { parts })
    }

    /// Rows a page.
    ///
    /// # Errors
    /// `pageSize` is no size.
    pub(super) fn page_size(&self) -> Result<u32, ManagementError> {
        page_size(self.get("pageSize"))
    }

    /// The page token, under either of its names; empty = the first page.
    pub(super) fn page_token(&self) -> &str {
        let given = |name| self.get(name).filter(|token| !token.is_empty());
        given("pageToken")
            .or_else(|| given("cursor"))
            .unwrap_or_default()
    }

    /// Which webhooks.
    ///
    /// # Errors
    /// `status` is no status.
    pub(super) fn status(&self) -> Result<Option<ShownStatus>, ManagementError> {
        match self.get("status") {
            None | Some("" | STATUS_UNSPECIFIED) => Ok(None),
            Some(word) => ShownStatus::parse(word)
                .map(Some)
                .ok_or_else(|| unknown("status", &ShownStatus::ALL.map(ShownStatus::as_str))),
        }
    }

    /// Every value of a part that may be given several times, or once with commas.
    pub(super) fn all(&self, name: &str) -> Vec<String> {
        let given = self.parts.iter().filter(|(key, _)| key == name);
        given
            .flat_map(|(_, value)| value.split(','))
            .filter(|value| !value.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// A text; empty = not given.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let text = self.get(name).filter(|text| !text.is_empty());
        text.map(str::to_owned)
    }

    /// A time, in microseconds; empty = not given.
    ///
    /// # Errors
    /// It is no time.
    pub(super) fn time(&self, name: &str) -> Result<Option<i64>, ManagementError> {
        let Some(text) = self.get(name).filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let at = parse_rfc3339_micros(text);
        at.map(Some).ok_or_else(|| {
            let message = "is a time such as 2026-01-15T12:00:00Z";
            ManagementError::Invalid(vec![Violation::new(name, "not_a_time", message)])
        })
    }

    fn get(&self, name: &str) -> Option<&str> {
        let part = self.parts.iter().find(|(key, _)| key == name)?;
        Some(part.1.as_str())
    }
}

fn unknown(field: &str, expected: &[&str]) -> ManagementError {
    let message = format!("is one of {}", expected.join(", "));
    ManagementError::Invalid(vec![Violation::new(field, "unknown_value", message)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> ListQuery {
        ListQuery::of(&format!("/v1/webhooks?{text}").parse().unwrap()).unwrap()
    }

    #[test]
    fn the_page_token_wins_over_its_alias() {
        assert_eq!(query("cursor=b").page_token(), "b");
        assert_eq!(query("cursor=b&pageToken=a").page_token(), "a");
        assert_eq!(query("cursor=b&pageToken=").page_token(), "b");
        assert_eq!(query("").page_token(), "");
        assert_eq!(query("").page_size().unwrap(), 100);
    }

    #[test]
    fn filters_know_their_words() {
        assert_eq!(
            query("status=WEBHOOK_STATUS_PAUSED").status().unwrap(),
            Some(ShownStatus::Paused)
        );
        assert_eq!(
            query("status=WEBHOOK_STATUS_UNSPECIFIED").status().unwrap(),
            None
        );
        assert_eq!(query("status=").status().unwrap(), None);
        assert!(query("status=PAUSED").status().is_err());
        assert_eq!(
            query("state=HELD&state=FAILED,PENDING&state=").all("state"),
            ["HELD", "FAILED", "PENDING"]
        );
    }
}
