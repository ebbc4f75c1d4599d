//! Which ciphers a node seals the data of its sessions with: named in its bindings, so that both sides of a session know
//! beforehand.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The best data cipher of a key's holder, who speaks those before it, too. Decision 0020.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Suite {
    /// WireGuard's own, which everybody speaks.
    #[default]
    ChaCha20Poly1305,
    /// AES-256-GCM; never towards a stock peer.
    Aes256Gcm,
}

/// Why a text is not the name of a suite.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{text}` is not a data cipher: chacha20-poly1305 or aes-256-gcm")]
pub struct SuiteError {
    /// What was read, shortened.
    pub text: String,
}

impl Suite {
    /// Its name in bindings, flags and status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
            Self::Aes256Gcm => "aes-256-gcm",
        }
    }

    /// Whether it is what everybody speaks, and need not be said.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Suite {
    type Err = SuiteError;

    fn from_str(text: &str) -> Result<Self, SuiteError> {
        [Self::ChaCha20Poly1305, Self::Aes256Gcm]
            .into_iter()
            .find(|suite| suite.name() == text)
            .ok_or_else(|| SuiteError { text: crate::name::quoted(text) })
    }
}

impl TryFrom<String> for Suite {
    type Error = SuiteError;

    fn try_from(text: String) -> Result<Self, SuiteError> {
        text.parse()
    }
}

impl From<Suite> for String {
    fn from(suite: Suite) -> Self {
        suite.name().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written_and_nothing_else_is() {
        for suite in [Suite::ChaCha20Poly1305, Suite::Aes256Gcm] {
            assert_eq!(suite.to_string().parse(), Ok(suite));
        }
        for text in ["", "aes", "AES-256-GCM", "aes-256-gcm "] {
            assert!(text.parse::<Suite>().is_err(), "{text:?}");
        }
    }
}
