//! The operator's key.

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use webhooks_runtime::Secret;

/// The key's hash: text of any length is compared in the same time.
pub(super) struct OperatorKey(Option<[u8; 32]>);

impl OperatorKey {
    /// Without a key nobody is the operator.
    pub(super) fn new(key: Option<&Secret>) -> Self {
        let key = key.map(Secret::expose).filter(|key| !key.is_empty());
        Self(key.map(|key| Sha256::digest(key.as_bytes()).into()))
    }

    /// Whether this is the key.
    pub(super) fn opens(&self, shown: &str) -> bool {
        let hash: [u8; 32] = Sha256::digest(shown.as_bytes()).into();
        self.0.is_some_and(|key| bool::from(hash.ct_eq(&key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_opens_and_without_one_nothing_does() {
        let key = OperatorKey::new(Some(&Secret::new("k".repeat(40))));
        assert!(key.opens(&"k".repeat(40)));
        for wrong in ["", "k", &"k".repeat(41)] {
            assert!(!key.opens(wrong));
            assert!(!OperatorKey::new(None).opens(wrong));
            assert!(!OperatorKey::new(Some(&Secret::new(""))).opens(wrong));
        }
    }
}
