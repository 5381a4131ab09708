//! Identities that must come out the same on every run.
//!
//! A delivery's id is computed, never drawn: fan-out may be killed and run again, and the second
//! run has to name the same deliveries. The id has the shape of a version 8 UUID: 48 bits of
//! milliseconds (when the event was accepted), then bits of a SHA-256 over what the delivery is.
//! The time makes ids sort by age and tells which daily partition holds the row.

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// What made a delivery: an event, a person's replay of one, or a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// An accepted event.
    Event,
    /// A person asked for an old event again.
    Replay,
    /// A person asked for a test delivery.
    Test,
}

impl Trigger {
    /// The word in the `webhook-trigger` header.
    #[must_use]
    pub fn header_word(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Replay => "replay",
            Self::Test => "test",
        }
    }

    /// The word in the API.
    #[must_use]
    pub fn api_word(self) -> &'static str {
        match self {
            Self::Event => "EVENT",
            Self::Replay => "REPLAY",
            Self::Test => "TEST",
        }
    }
}

/// The id of the delivery that `event_id` owes to `webhook`, accepted at `accepted_at_micros`.
#[must_use]
pub fn delivery_id(
    workspace: Uuid,
    event_id: &str,
    webhook: Uuid,
    accepted_at_micros: i64,
) -> Uuid {
    timed_uuid(
        accepted_at_micros,
        &digest(b"delivery", workspace, event_id, webhook),
    )
}

/// The id of one replay (numbered or keyed by `replay_key`) of an event to a webhook.
#[must_use]
pub fn replay_delivery_id(
    workspace: Uuid,
    event_id: &str,
    webhook: Uuid,
    replay_key: Uuid,
    at_micros: i64,
) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(digest(b"replay", workspace, event_id, webhook));
    hash.update(replay_key.as_bytes());
    timed_uuid(at_micros, &hash.finalize().into())
}

/// The `webhook-id` header: the same over attempts and replays, so that a receiver can drop what
/// it has. No full stop in it, as Standard Webhooks demands.
#[must_use]
pub fn message_id(workspace: Uuid, event_id: &str, webhook: Uuid) -> String {
    let hash = digest(b"message", workspace, event_id, webhook);
    let mut id = String::with_capacity(36);
    id.push_str("msg_");
    for byte in &hash[..16] {
        for nibble in [byte >> 4, byte & 15] {
            id.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
        }
    }
    id
}

/// Milliseconds since the epoch that an id made by [`delivery_id`] carries.
#[must_use]
pub fn millis_of(id: Uuid) -> i64 {
    let bytes = id.as_bytes();
    let mut wide = [0u8; 8];
    wide[2..].copy_from_slice(&bytes[..6]);
    i64::from_be_bytes(wide)
}

fn digest(kind: &[u8], workspace: Uuid, event_id: &str, webhook: Uuid) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(kind);
    hash.update(workspace.as_bytes());
    hash.update(webhook.as_bytes());
    // Last and alone of variable length, so that no two inputs read alike.
    hash.update(event_id.as_bytes());
    hash.finalize().into()
}

fn timed_uuid(micros: i64, hash: &[u8; 32]) -> Uuid {
    let millis = u64::try_from(micros / 1_000).unwrap_or(0);
    let mut bytes = [0u8; 16];
    bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
    bytes[6..].copy_from_slice(&hash[..10]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// The partition of `endpoint` (a webhook's id) among `partitions`: FNV-1a 32 over its 16 bytes.
#[must_use]
pub fn partition_of(endpoint: Uuid, partitions: u16) -> u16 {
    let mut hash: u32 = 0x811c_9dc5;
    for byte in endpoint.as_bytes() {
        hash ^= u32::from(*byte);
        hash = hash.wrapping_mul(0x0100_0193);
    }
    u16::try_from(hash % u32::from(partitions.max(1))).expect("a remainder of a u16 fits a u16")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_same_event_and_webhook_always_make_the_same_delivery() {
        let (ws, wh) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let a = delivery_id(ws, "e", wh, 1_700_000_000_123_456);
        assert_eq!(a, delivery_id(ws, "e", wh, 1_700_000_000_123_456));
        assert_eq!(a.get_version_num(), 8);
        assert_eq!(millis_of(a), 1_700_000_000_123);
        assert_ne!(
            a,
            delivery_id(Uuid::from_u128(3), "e", wh, 1_700_000_000_123_456)
        );
        assert!(!message_id(ws, "e", wh).contains('.'));
    }

    proptest! {
        #[test]
        fn other_events_and_webhooks_make_other_ids(e1 in ".{1,40}", e2 in ".{1,40}", w1: u128, w2: u128) {
            let ws = Uuid::from_u128(7);
            let same = e1 == e2 && w1 == w2;
            let a = delivery_id(ws, &e1, Uuid::from_u128(w1), 5_000_000);
            let b = delivery_id(ws, &e2, Uuid::from_u128(w2), 5_000_000);
            prop_assert_eq!(a == b, same);
            prop_assert_eq!(message_id(ws, &e1, Uuid::from_u128(w1)) == message_id(ws, &e2, Uuid::from_u128(w2)), same);
        }

        #[test]
        fn a_partition_is_always_in_range(id: u128, partitions in 1u16..=1024) {
            prop_assert!(partition_of(Uuid::from_u128(id), partitions) < partitions);
        }
    }
}
