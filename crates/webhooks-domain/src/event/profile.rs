//! Sanitising profiles: how much of an event a webhook receives.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How much of an event leaves. Set per webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// The documented payload; the sample is a fixed point.
    #[default]
    Standard,
    /// Only what the visitor gave: address truncated, no user agent, device ids, sub-scores or
    /// internal ids.
    Strict,
    /// Ids, kind, type, time and lbid; the receiver fetches the rest.
    Thin,
}

impl Profile {
    /// Every profile, from most to least.
    pub const ALL: [Self; 3] = [Self::Standard, Self::Strict, Self::Thin];

    /// The profile's word in API, storage and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Strict => "strict",
            Self::Thin => "thin",
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A word that names no profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown profile, expected standard, strict or thin")]
pub struct UnknownProfile;

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(word: &str) -> Result<Self, UnknownProfile> {
        Self::ALL
            .into_iter()
            .find(|profile| profile.as_str() == word)
            .ok_or(UnknownProfile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_reads_back_from_its_word() {
        for profile in Profile::ALL {
            assert_eq!(profile.as_str().parse(), Ok(profile));
            let json = serde_json::to_string(&profile).expect("serialises");
            assert_eq!(json, format!("\"{profile}\""));
        }
        assert_eq!("STRICT".parse::<Profile>(), Err(UnknownProfile));
        assert_eq!(Profile::default(), Profile::Standard);
    }
}
