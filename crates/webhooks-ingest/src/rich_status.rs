//! `google.rpc.Status` with `ErrorInfo`, `BadRequest` and `RetryInfo`, which gRPC clients of every
//! language can read. The few messages are spelled out here: their form is frozen, and a crate for
//! them would bring a hundred more.

use bytes::Bytes;
use prost::Message;

use crate::refusal::Refusal;

/// The `domain` of our error reasons.
pub const ERROR_DOMAIN: &str = "webhooks.linkbreakers.com";

#[derive(Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
}

#[derive(Message)]
struct BadRequest {
    #[prost(message, repeated, tag = "1")]
    field_violations: Vec<Violation>,
}

#[derive(Message)]
struct Violation {
    #[prost(string, tag = "1")]
    field: String,
    #[prost(string, tag = "2")]
    description: String,
    #[prost(string, tag = "3")]
    reason: String,
}

#[derive(Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Span>,
}

#[derive(Message)]
struct Span {
    #[prost(int64, tag = "1")]
    seconds: i64,
}

/// The value of `grpc-status-details-bin` for a refusal.
pub(crate) fn details(refusal: &Refusal) -> Bytes {
    let info = ErrorInfo {
        reason: refusal.kind.code_type().to_owned(),
        domain: ERROR_DOMAIN.to_owned(),
    };
    let mut details = vec![any("ErrorInfo", &info)];
    if !refusal.problems.is_empty() {
        let field_violations = refusal
            .problems
            .iter()
            .map(|problem| Violation {
                field: problem.field.clone(),
                description: problem.message.clone(),
                // google.rpc wants UPPER_SNAKE here.
                reason: problem.reason.to_ascii_uppercase(),
            })
            .collect();
        details.push(any("BadRequest", &BadRequest { field_violations }));
    }
    if let Some(seconds) = refusal.retry_after() {
        let retry_delay = Some(Span {
            seconds: i64::from(seconds),
        });
        details.push(any("RetryInfo", &RetryInfo { retry_delay }));
    }
    let status = RpcStatus {
        code: i32::from(refusal.kind.grpc()),
        message: refusal.message.clone(),
        details,
    };
    status.encode_to_vec().into()
}

fn any(name: &str, message: &impl Message) -> Any {
    Any {
        type_url: format!("type.googleapis.com/google.rpc.{name}"),
        value: message.encode_to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::RefusalKind;

    #[test]
    fn a_refusal_carries_reason_fields_and_when_to_come_again() {
        let refusal = Refusal::of_field(RefusalKind::Invalid, "lbid", "missing", "is required");
        let status = RpcStatus::decode(details(&refusal)).unwrap();
        assert_eq!(status.code, 3);
        let names: Vec<_> = status
            .details
            .iter()
            .map(|any| any.type_url.rsplit('.').next().unwrap())
            .collect();
        assert_eq!(names, ["ErrorInfo", "BadRequest"]);
        let fields = BadRequest::decode(&*status.details[1].value)
            .unwrap()
            .field_violations;
        assert_eq!((&*fields[0].field, &*fields[0].reason), ("lbid", "MISSING"));

        let full = RpcStatus::decode(details(&Refusal::new(RefusalKind::Full, "full"))).unwrap();
        assert_eq!(full.code, 14);
        let retry = RetryInfo::decode(&*full.details[1].value).unwrap();
        assert_eq!(retry.retry_delay.map(|span| span.seconds), Some(5));

        let guessing = RpcStatus::decode(details(&Refusal::guessing(42))).unwrap();
        assert_eq!(guessing.code, 8);
        let retry = RetryInfo::decode(&*guessing.details[1].value).unwrap();
        assert_eq!(retry.retry_delay.map(|span| span.seconds), Some(42));
    }
}
