//! Names that never leave, in any profile.
//!
//! The allow-list decides nearly everything; this is the second net, for the subtrees whose
//! content is the publisher's own but not the visitor's (a step's payload, a tag). A name is
//! matched whatever its case. The patterns are the policy's, written out by hand: seven small
//! rules need no regular expression engine, and a payload's members are looked at for every event.

use std::borrow::Cow;

/// Whether a member of this name must not leave.
pub(crate) fn is_denied(name: &str) -> bool {
    let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    };
    let name = name.as_ref();
    is_qr_code_secret(name)
        || is_key(name)
        || contains_any(name, &SECRET_WORDS)
        || is_any(
            name,
            &["token", "jwt", "hash", "salt", "nonce", "otp", "pin"],
        )
        || is_scoring(name)
        || is_any(name, &MODEL_WORDS)
        || INTERNAL_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
        || contains_any(name, &SIGNED_WORDS)
}

const SECRET_WORDS: [&str; 7] = [
    "secret",
    "password",
    "passwd",
    "credential",
    "authorization",
    "cookie",
    "session",
];

const MODEL_WORDS: [&str; 8] = [
    "algorithm",
    "weights",
    "features",
    "coefficients",
    "model_id",
    "modelid",
    "model_version",
    "modelversion",
];

const INTERNAL_PREFIXES: [&str; 13] = [
    "internal",
    "_",
    "debug",
    "shard",
    "partition",
    "row_version",
    "rowversion",
    "tenant_db",
    "tenantdb",
    "stripe",
    "billing",
    "customer_ref",
    "customerref",
];

/// Not in the policy's patterns, but in the contract's list of what is never let out: a signed
/// URL or an access token opens something to whoever holds it.
const SIGNED_WORDS: [&str; 4] = ["signedurl", "signed_url", "accesstoken", "access_token"];

fn is_any(name: &str, words: &[&str]) -> bool {
    words.contains(&name)
}

fn contains_any(name: &str, words: &[&str]) -> bool {
    words.iter().any(|word| name.contains(word))
}

fn without_underscore(text: &str) -> &str {
    text.strip_prefix('_').unwrap_or(text)
}

/// `^qr_?code_?(key|secret|token|salt)s?$`
fn is_qr_code_secret(name: &str) -> bool {
    name.strip_prefix("qr")
        .and_then(|rest| without_underscore(rest).strip_prefix("code"))
        .map(without_underscore)
        .map(|word| word.strip_suffix('s').unwrap_or(word))
        .is_some_and(|word| is_any(word, &["key", "secret", "token", "salt"]))
}

/// `(^|_)(api|private|secret|signing|encryption|access)_?key$`
fn is_key(name: &str) -> bool {
    const OWNERS: [&str; 6] = [
        "api",
        "private",
        "secret",
        "signing",
        "encryption",
        "access",
    ];
    let Some(stem) = name.strip_suffix("key") else {
        return false;
    };
    let stem = stem.strip_suffix('_').unwrap_or(stem);
    OWNERS.iter().any(|owner| {
        stem.strip_suffix(owner)
            .is_some_and(|before| before.is_empty() || before.ends_with('_'))
    })
}

/// `(score|scoring)_?(algorithm|model|weights?|formula|version|features?|explain.*|trace|raw)$`,
/// and `explanation` with `explain`, which the pattern's spelling misses.
fn is_scoring(name: &str) -> bool {
    const INNARDS: [&str; 10] = [
        "algorithm",
        "model",
        "weight",
        "weights",
        "formula",
        "version",
        "feature",
        "features",
        "trace",
        "raw",
    ];
    ["score", "scoring"].iter().any(|word| {
        name.match_indices(word).any(|(at, _)| {
            let rest = without_underscore(&name[at + word.len()..]);
            is_any(rest, &INNARDS) || rest.starts_with("explain") || rest.starts_with("explanation")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pattern_of_the_policy_refuses_its_names() {
        let denied = [
            "qrcodeKey",
            "qr_code_key",
            "QRCodeSecrets",
            "qrcode_token",
            "qrCodeSalts",
            "apiKey",
            "api_key",
            "my_api_key",
            "privateKey",
            "PRIVATE_KEY",
            "x_signingkey",
            "encryption_key",
            "accessKey",
            "access_key",
            "secret",
            "clientSecret",
            "password",
            "userPasswordHash",
            "passwd",
            "credentials",
            "Authorization",
            "setCookie",
            "sessionId",
            "token",
            "JWT",
            "hash",
            "salt",
            "nonce",
            "otp",
            "pin",
            "leadScoreAlgorithm",
            "score_model",
            "scoringWeights",
            "scoreWeight",
            "score_formula",
            "scoreVersion",
            "scoring_features",
            "scoreExplanation",
            "score_explain",
            "scoreTrace",
            "scoring_raw",
            "algorithm",
            "weights",
            "features",
            "coefficients",
            "modelId",
            "model_version",
            "internalRef",
            "_id",
            "__proto__",
            "debugInfo",
            "shardKey",
            "partition",
            "rowVersion",
            "row_version",
            "tenantDb",
            "tenant_db_name",
            "stripeCustomer",
            "billingId",
            "customerRef",
            "customer_reference",
            "qrcodeSignedUrl",
            "signed_url",
            "accessToken",
        ];
        for name in denied {
            assert!(is_denied(name), "{name}");
        }
    }

    #[test]
    fn ordinary_names_pass() {
        let allowed = [
            "",
            "conversion_tracking",
            "conversionTracking",
            "destination",
            "title",
            "description",
            "formFields",
            "key",
            "keys",
            "tokens",
            "myToken",
            "hashtag",
            "pinned",
            "spin",
            "score",
            "leadScore",
            "scoreboard",
            "monkey",
            "turnkey",
            "myApiKey",
            "apikeys",
            "qrcodeDesignId",
            "qrcode",
            "qrcodeKeyring",
            "model",
            "modelName",
            "weight",
            "feature",
            "mediaId",
            "debt",
            "row",
            "customer",
            "value_",
            "algorithmic",
            "underscore_in_middle",
        ];
        for name in allowed {
            assert!(!is_denied(name), "{name}");
        }
    }
}
