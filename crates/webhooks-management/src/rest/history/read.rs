//! Queries and bodies of the history routes.

use super::super::{object::ObjectReader, query::ListQuery};
use crate::{
    error::{ManagementError, Problems, Violation},
    service::{DeliveryQuery, JobDraft, MetricsQuery, UsageQuery},
};

/// Which deliveries.
pub(super) fn search(query: &ListQuery) -> DeliveryQuery {
    let text = |name| query.text(name).unwrap_or_default();
    let mut problems = Vec::new();
    let blocked = match text("blocked").as_str() {
        "" => None,
        "true" => Some(true),
        "false" => Some(false),
        _ => {
            let message = "is true or false";
            problems.push(Violation::new("blocked", "unknown_value", message));
            None
        }
    };
    let mut time = |name| match query.time(name) {
        Ok(at) => at,
        Err(error) => {
            problems.extend_from_slice(error.violations());
            None
        }
    };
    DeliveryQuery {
        webhook_id: text("webhookId"),
        states: query.all("state"),
        class: text("class"),
        status_code: text("statusCode"),
        event_id: text("eventId"),
        link_id: text("linkId"),
        lbid: text("lbid"),
        trigger: text("trigger"),
        blocked,
        created_after: time("createdAfter"),
        created_before: time("createdBefore"),
        problems: problems.into(),
    }
}

/// Which figures.
pub(super) fn metrics_query(query: &ListQuery) -> MetricsQuery {
    let mut problems = Vec::new();
    let mut time = |name| match query.time(name) {
        Ok(at) => at,
        Err(error) => {
            problems.extend_from_slice(error.violations());
            None
        }
    };
    MetricsQuery {
        interval: query.text("interval").unwrap_or_default(),
        from: time("from"),
        to: time("to"),
        problems: problems.into(),
    }
}

/// Which days.
pub(super) fn usage_query(query: &ListQuery) -> UsageQuery {
    let mut problems = Problems::default();
    let mut time = |name| problems.take(query.time(name));
    let (from, to) = (time("from"), time("to"));
    UsageQuery {
        from,
        to,
        problems: problems.violations(),
    }
}

/// The event that a test is made of: `{"eventId": …}`, or nothing at all.
pub(super) fn read_event_id(body: &[u8]) -> Result<Option<String>, ManagementError> {
    if body.is_empty() {
        return Ok(None);
    }
    let mut reader = ObjectReader::of(body)?;
    let event = reader.text("eventId");
    reader.finish(&[]).verdict(event)
}

/// A job to be made.
pub(super) fn read_job(body: &[u8]) -> Result<JobDraft, ManagementError> {
    let mut reader = ObjectReader::of(body)?;
    let mut draft = JobDraft {
        kind: reader.text("type").unwrap_or_default(),
        since: reader.time("since").flatten(),
        until: reader.time("until").flatten(),
        dry_run: reader.boolean("dryRun").unwrap_or_default(),
        rate_per_second: reader.integer("ratePerSecond"),
        ..JobDraft::default()
    };
    reader.object("filter", "filter.", |filter| {
        draft.states = filter.texts("state").unwrap_or_default();
        draft.class = filter.text("class").unwrap_or_default();
        draft.status_code = filter.text("statusCode").unwrap_or_default();
        draft.link_id = filter.text("linkId").unwrap_or_default();
    });
    draft.problems = reader.finish(&[]);
    Ok(draft)
}

#[cfg(test)]
mod tests {
    use webhooks_domain::event::parse_rfc3339_micros;

    use super::*;

    #[test]
    fn a_job_is_read_whole() {
        let draft = read_job(
            br#"{"type":"REPLAY","since":"2026-01-15T12:00:00Z","dryRun":true,"ratePerSecond":5,
                "filter":{"state":["FAILED"],"statusCode":"5xx"}}"#,
        )
        .unwrap();
        assert_eq!(draft.since, parse_rfc3339_micros("2026-01-15T12:00:00Z"));
        assert_eq!((draft.kind.as_str(), draft.dry_run), ("REPLAY", true));
        assert_eq!(draft.states, ["FAILED"]);
        assert_eq!(draft.rate_per_second, Some(5));
        assert!(draft.problems.is_empty());
        let wrong = read_job(br#"{"type":1,"since":"x","filter":{"stat":[]}}"#).unwrap();
        let told = wrong.problems.told();
        let mut fields: Vec<_> = told.iter().map(|p| p.field.as_str()).collect();
        fields.sort_unstable();
        assert_eq!(fields, ["filter.stat", "since", "type"]);
        let entries = read_job(br#"{"filter":{"state":[1,"FAILED",null],"class":2}}"#).unwrap();
        let told = entries.problems.told();
        let fields: Vec<_> = told.iter().map(|p| p.field.as_str()).collect();
        assert_eq!(
            fields,
            ["filter.state[0]", "filter.state[2]", "filter.class"]
        );
        assert_eq!(entries.states, ["", "FAILED", ""]);
    }

    #[test]
    fn a_test_needs_no_body() {
        assert_eq!(read_event_id(b"").unwrap(), None);
        assert_eq!(read_event_id(b"{}").unwrap(), None);
        let given = read_event_id(br#"{"eventId":"e"}"#).unwrap();
        assert_eq!(given.as_deref(), Some("e"));
        assert!(read_event_id(br#"{"event":"e"}"#).is_err());
        assert!(read_event_id(b"[]").is_err());
    }
}
