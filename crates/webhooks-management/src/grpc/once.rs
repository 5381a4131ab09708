//! Idempotency keys on this face: what makes two requests the same, and how kept answers are put.

use prost::Message;
use sha2::{Digest as _, Sha256};
use tonic::{Response, metadata::MetadataValue};

use super::status::{Refused, kept};
use crate::{
    error::{ManagementError, Violation},
    service::{Answer, Once},
};

/// Longest idempotency key, in characters.
const MAX_KEY_CHARS: usize = 255;

/// The metadata that tells an answer of before from one of now.
pub(super) const REPLAYED: &str = "idempotent-replayed";

/// What makes a call repeatable: its key, and the request itself, whose bytes are the same for the
/// same request (maps are sorted).
pub(super) fn once_of(
    method: &str,
    key: &str,
    request: &impl Message,
) -> Result<Option<Once>, ManagementError> {
    let key = key.to_owned();
    if key.is_empty() {
        return Ok(None);
    }
    if key.chars().count() > MAX_KEY_CHARS {
        let message = format!("has at most {MAX_KEY_CHARS} characters");
        return Err(ManagementError::Invalid(vec![Violation::new(
            "idempotencyKey",
            "too_long",
            message,
        )]));
    }
    let mut hash = Sha256::new();
    hash.update(format!("grpc {method}\0"));
    hash.update(request.encode_to_vec());
    Ok(Some(Once {
        key,
        hash: hash.finalize().into(),
    }))
}

/// The message, or the refusal, that was kept.
pub(super) fn answered<M: Message + Default>(answer: &Answer) -> Result<Response<M>, Refused> {
    if answer.status != http::StatusCode::OK.as_u16() {
        return Err(kept(&answer.body)?);
    }
    let body = M::decode(answer.body.as_slice()).map_err(ManagementError::internal)?;
    let mut response = Response::new(body);
    if answer.replayed {
        let replayed = MetadataValue::from_static("true");
        response.metadata_mut().insert(REPLAYED, replayed);
    }
    Ok(response)
}
