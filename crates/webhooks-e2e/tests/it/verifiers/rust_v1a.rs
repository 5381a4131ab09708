use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, VerifyingKey};
use http::HeaderMap;

pub(crate) fn genuine(public_key: &str, headers: &HeaderMap, body: &[u8]) -> bool {
    verified(public_key, headers, body).is_some()
}

fn verified(public_key: &str, headers: &HeaderMap, body: &[u8]) -> Option<()> {
    let header = |name| headers.get(name)?.to_str().ok();
    let (message, timestamp) = (header("webhook-id")?, header("webhook-timestamp")?);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    if now.abs_diff(timestamp.parse().ok()?) > 300 {
        return None;
    }
    let bytes = STANDARD.decode(public_key.strip_prefix("whpk_")?).ok()?;
    let key = VerifyingKey::from_bytes(bytes.as_slice().try_into().ok()?).ok()?;
    let signed = [format!("{message}.{timestamp}.").as_bytes(), body].concat();
    let given = header("webhook-signature")?.split(' ');
    given
        .filter_map(|token| STANDARD.decode(token.strip_prefix("v1a,")?).ok())
        .filter_map(|bytes| Signature::from_slice(&bytes).ok())
        .find_map(|signature| key.verify_strict(&signed, &signature).ok())
}
