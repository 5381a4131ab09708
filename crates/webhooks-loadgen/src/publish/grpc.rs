//! `linkbreakers.webhooks.v1.EventService`.

use std::time::Duration;

use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};
use webhooks_domain::event::parse_rfc3339_micros;
use webhooks_proto::v1::{
    EventResult, PublishEventRequest, PublishEventsRequest,
    event_service_client::EventServiceClient,
};

use super::{Event, Verdict, http::failed};

/// How long a call may take.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Largest message: 1,000 events of the sample's size, with room.
const MESSAGE_MAX_BYTES: usize = 16 * 1024 * 1024;

/// One connection to ingest's gRPC door.
pub(super) struct GrpcDoor {
    client: EventServiceClient<Channel>,
    authorization: MetadataValue<Ascii>,
    traceparent: Option<MetadataValue<Ascii>>,
}

impl GrpcDoor {
    pub(super) fn new(url: &str, token: &str, traceparent: Option<&str>) -> anyhow::Result<Self> {
        let channel = Endpoint::from_shared(url.to_owned())?
            .timeout(CALL_LIMIT)
            .connect_timeout(Duration::from_secs(2))
            .tcp_nodelay(true)
            .connect_lazy();
        let client = EventServiceClient::new(channel)
            .max_encoding_message_size(MESSAGE_MAX_BYTES)
            .max_decoding_message_size(MESSAGE_MAX_BYTES);
        Ok(Self {
            client,
            authorization: format!("Bearer {token}").parse()?,
            traceparent: traceparent.map(str::parse).transpose()?,
        })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert("authorization", self.authorization.clone());
        if let Some(traceparent) = &self.traceparent {
            let metadata = request.metadata_mut();
            metadata.insert("traceparent", traceparent.clone());
        }
        request
    }

    pub(super) async fn publish(&mut self, events: &[Event]) -> Vec<Verdict> {
        let message = |event: &Event| PublishEventRequest {
            event: event.bytes.clone(),
            id: String::new(),
        };
        if let [one] = events {
            return match self.client.publish_event(self.request(message(one))).await {
                Ok(answer) => {
                    let event = answer.into_inner().event;
                    vec![Verdict::ok(
                        event.and_then(|event| parse_rfc3339_micros(&event.accepted_at)),
                    )]
                }
                Err(status) => vec![of_status(&status)],
            };
        }
        let all = PublishEventsRequest {
            events: events.iter().map(message).collect(),
        };
        match self.client.publish_events(self.request(all)).await {
            Ok(answer) => {
                let results = answer.into_inner().results;
                if results.len() == events.len() {
                    results.iter().map(of_result).collect()
                } else {
                    vec![
                        Verdict::unknown(format!(
                            "{} results for {} events",
                            results.len(),
                            events.len()
                        ));
                        events.len()
                    ]
                }
            }
            Err(status) => vec![of_status(&status); events.len()],
        }
    }
}

fn of_result(result: &EventResult) -> Verdict {
    match (result.status.as_str(), &result.error) {
        ("accepted" | "duplicate", _) => Verdict::ok(None),
        (_, Some(error)) => failed(u16::try_from(error.code).unwrap_or(0), &error.message),
        (status, None) => Verdict::unknown(status),
    }
}

/// Codes that say that the request was understood and turned down; every other leaves it open.
fn of_status(status: &Status) -> Verdict {
    let detail = format!("{:?} {}", status.code(), status.message());
    match status.code() {
        Code::InvalidArgument
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition
        | Code::ResourceExhausted => Verdict::refused(detail),
        _ => Verdict::unknown(detail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Outcome;

    #[test]
    fn a_lost_connection_leaves_it_open() {
        for code in [
            Code::Unavailable,
            Code::DeadlineExceeded,
            Code::Unknown,
            Code::Internal,
            Code::Cancelled,
        ] {
            assert_eq!(
                of_status(&Status::new(code, "x")).outcome,
                Outcome::Unknown,
                "{code:?}"
            );
        }
        assert_eq!(
            of_status(&Status::new(Code::InvalidArgument, "x")).outcome,
            Outcome::Refused
        );
    }

    #[test]
    fn results_are_read_like_those_of_http() {
        let result = |status: &str, code: Option<i32>| {
            let error = code.map(|code| webhooks_proto::v1::EventError {
                code,
                ..Default::default()
            });
            of_result(&EventResult {
                id: String::new(),
                status: status.to_owned(),
                error,
            })
            .outcome
        };
        assert_eq!(result("accepted", None), Outcome::Ok);
        assert_eq!(result("duplicate", None), Outcome::Ok);
        assert_eq!(result("refused", Some(409)), Outcome::Refused);
        assert_eq!(result("refused", Some(503)), Outcome::Unknown);
        assert_eq!(result("refused", None), Outcome::Unknown);
    }
}
