//! JetStream's own door: a publish whose acknowledgement is the promise.

use std::time::Duration;

use async_nats::{
    Client, ConnectOptions, HeaderMap, Request, ServerAddr, jetstream::response::Response,
};
use futures::future::join_all;
use serde::Deserialize;
use webhooks_bus::subjects::{self, headers};

use super::{Event, Verdict};

/// How long an acknowledgement may take.
const ACK_LIMIT: Duration = Duration::from_secs(5);

/// One connection to NATS.
pub(super) struct NatsDoor {
    client: Client,
    traceparent: Option<String>,
}

#[derive(Deserialize)]
struct Ack {
    #[expect(dead_code, reason = "an acknowledgement is one that names a sequence")]
    seq: u64,
}

impl NatsDoor {
    pub(super) async fn connect(url: &str, traceparent: Option<&str>) -> anyhow::Result<Self> {
        // The client reads no name and password from an address by itself.
        let address: ServerAddr = url.parse()?;
        let options = match (address.username(), address.password()) {
            (Some(user), Some(password)) => {
                ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned())
            }
            _ => ConnectOptions::new(),
        };
        let client = options
            .name("webhooks-loadgen")
            .retry_on_initial_connect()
            .request_timeout(Some(ACK_LIMIT))
            .reconnect_delay_callback(|_| Duration::from_millis(100))
            .connect(url)
            .await?;
        let traceparent = traceparent.map(str::to_owned);
        Ok(Self {
            client,
            traceparent,
        })
    }

    pub(super) async fn publish(&mut self, events: &[Event]) -> Vec<Verdict> {
        join_all(events.iter().map(|event| self.publish_one(event))).await
    }

    async fn publish_one(&self, event: &Event) -> Verdict {
        let mut header = HeaderMap::new();
        header.insert(headers::MSG_ID, event.spec.id.to_string());
        if let Some(traceparent) = &self.traceparent {
            header.insert(headers::TRACEPARENT, traceparent.as_str());
        }
        let request = Request::new().headers(header).payload(event.bytes.clone());
        let subject = subjects::intake(event.spec.workspace);
        match self.client.send_request(subject, request).await {
            Ok(reply) => of_reply(&reply.payload),
            Err(error) => Verdict::unknown(error.to_string()),
        }
    }
}

fn of_reply(payload: &[u8]) -> Verdict {
    match serde_json::from_slice::<Response<Ack>>(payload) {
        Ok(Response::Ok(_)) => Verdict::ok(None),
        // The stream answers either way, so an error is a refusal, except where it says "not now".
        Ok(Response::Err { error }) if error.code() < 500 => Verdict::refused(error.to_string()),
        Ok(Response::Err { error }) => Verdict::unknown(error.to_string()),
        Err(error) => Verdict::unknown(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Outcome;

    #[test]
    fn only_an_acknowledgement_with_a_sequence_is_ok() {
        assert_eq!(
            of_reply(br#"{"stream":"INTAKE","seq":4}"#).outcome,
            Outcome::Ok
        );
        assert_eq!(
            of_reply(br#"{"error":{"code":400,"err_code":10054,"description":"x"}}"#).outcome,
            Outcome::Refused
        );
        assert_eq!(
            of_reply(br#"{"error":{"code":503,"err_code":10077,"description":"x"}}"#).outcome,
            Outcome::Unknown
        );
        assert_eq!(of_reply(b"+OK").outcome, Outcome::Unknown);
    }
}
