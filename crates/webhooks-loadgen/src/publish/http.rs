//! `POST /v1/events`.

use bytes::Bytes;
use http::{HeaderMap, Method, header};
use serde::Deserialize;
use webhooks_domain::event::parse_rfc3339_micros;

use super::{Event, Verdict};
use crate::client::{Answer, HttpClient};

/// One connection to ingest's HTTP door.
pub(super) struct HttpDoor {
    client: HttpClient,
    headers: HeaderMap,
}

#[derive(Deserialize)]
struct Single {
    event: Accepted,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Accepted {
    accepted_at: Option<String>,
}

#[derive(Deserialize)]
struct Batch {
    results: Vec<Line>,
}

#[derive(Deserialize)]
struct Line {
    status: String,
    #[serde(default)]
    error: Option<Problem>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Problem {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    message: String,
}

impl HttpDoor {
    pub(super) fn new(url: &str, token: &str, traceparent: Option<&str>) -> anyhow::Result<Self> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse()?);
        headers.insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static("application/json"),
        );
        if let Some(traceparent) = traceparent {
            headers.insert("traceparent", traceparent.parse()?);
        }
        Ok(Self {
            client: HttpClient::new(url)?,
            headers,
        })
    }

    pub(super) async fn publish(&mut self, events: &[Event]) -> Vec<Verdict> {
        let body = match events {
            [one] => one.bytes.clone(),
            many => array(many),
        };
        match self
            .client
            .send(Method::POST, "/v1/events", &self.headers, body)
            .await
        {
            Ok(answer) if events.len() == 1 => vec![single(&answer)],
            Ok(answer) => batch(&answer, events.len()),
            Err(error) => vec![Verdict::unknown(format!("{error:#}")); events.len()],
        }
    }
}

fn array(events: &[Event]) -> Bytes {
    let mut body = Vec::with_capacity(
        events
            .iter()
            .map(|event| event.bytes.len() + 1)
            .sum::<usize>()
            + 1,
    );
    for (index, event) in events.iter().enumerate() {
        body.push(if index == 0 { b'[' } else { b',' });
        body.extend_from_slice(&event.bytes);
    }
    body.push(b']');
    body.into()
}

fn single(answer: &Answer) -> Verdict {
    match answer.status.as_u16() {
        202 => {
            let accepted = serde_json::from_slice::<Single>(&answer.body).ok();
            Verdict::ok(
                accepted.and_then(|answer| parse_rfc3339_micros(&answer.event.accepted_at?)),
            )
        }
        code => failed(code, &String::from_utf8_lossy(&answer.body)),
    }
}

fn batch(answer: &Answer, count: usize) -> Vec<Verdict> {
    if answer.status.as_u16() != 200 {
        return vec![
            failed(
                answer.status.as_u16(),
                &String::from_utf8_lossy(&answer.body)
            );
            count
        ];
    }
    match serde_json::from_slice::<Batch>(&answer.body) {
        Ok(batch) if batch.results.len() == count => batch.results.iter().map(line).collect(),
        Ok(batch) => vec![
            Verdict::unknown(format!(
                "{} results for {count} events",
                batch.results.len()
            ));
            count
        ],
        Err(error) => vec![Verdict::unknown(error.to_string()); count],
    }
}

fn line(line: &Line) -> Verdict {
    match (line.status.as_str(), &line.error) {
        ("accepted" | "duplicate", _) => Verdict::ok(None),
        (_, Some(problem)) => failed(problem.code, &problem.message),
        (status, None) => Verdict::unknown(status),
    }
}

/// A 4xx was not taken; a 5xx leaves it open.
pub(super) fn failed(code: u16, detail: &str) -> Verdict {
    let detail = format!("{code} {}", detail.chars().take(200).collect::<String>());
    if (400..500).contains(&code) {
        Verdict::refused(detail)
    } else {
        Verdict::unknown(detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Outcome;
    use http::StatusCode;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    #[test]
    fn only_a_202_is_ok_and_only_a_4xx_is_surely_refused() {
        let accepted = single(&answer(
            202,
            r#"{"event":{"id":"x","acceptedAt":"1970-01-01T00:00:01Z","duplicate":false}}"#,
        ));
        assert_eq!(accepted, Verdict::ok(Some(1_000_000)));
        assert_eq!(single(&answer(429, "{}")).outcome, Outcome::Refused);
        for code in [200, 500, 503] {
            assert_eq!(
                single(&answer(code, "{}")).outcome,
                Outcome::Unknown,
                "{code}"
            );
        }
    }

    #[test]
    fn a_batch_has_a_verdict_for_each() {
        let body = r#"{"results":[{"id":"a","status":"accepted"},{"id":"b","status":"duplicate"},{"id":"c","status":"refused","error":{"code":400,"codeType":"X","message":"m"}},{"id":"d","status":"refused","error":{"code":503,"message":"m"}}]}"#;
        let outcomes: Vec<_> = batch(&answer(200, body), 4)
            .into_iter()
            .map(|verdict| verdict.outcome)
            .collect();
        assert_eq!(
            outcomes,
            [Outcome::Ok, Outcome::Ok, Outcome::Refused, Outcome::Unknown]
        );
        assert!(
            batch(&answer(200, body), 5)
                .iter()
                .all(|verdict| verdict.outcome == Outcome::Unknown)
        );
        assert!(
            batch(&answer(413, "x"), 2)
                .iter()
                .all(|verdict| verdict.outcome == Outcome::Refused)
        );
    }
}
