//! Trust domains and SPIFFE IDs: parsed once, printed once (SPIFFE-ID specification, sections 2 and 3).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::name::NodeName;

/// A trust domain name: lower-case letters, digits, dots, dashes and underscores, 1 to 255 characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(String);

/// A SPIFFE ID, always valid: `spiffe://<trust domain>/<path>`, at most 2048 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    path: String,
}

/// Why a text is not a trust domain or a SPIFFE ID.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SpiffeError {
    /// The `spiffe://` scheme is missing.
    #[error("`{text}` does not begin with spiffe://")]
    Scheme {
        /// What was read.
        text: String,
    },
    /// The trust domain has a character or a length that the specification forbids.
    #[error("`{text}` is not a trust domain name: 1 to 255 of a-z, 0-9, '.', '-', '_'")]
    TrustDomain {
        /// What was read.
        text: String,
    },
    /// A path segment is empty, a dot segment, or has a forbidden character.
    #[error("`{text}` is not a SPIFFE path: segments of letters, digits, '.', '-', '_', not empty and not '.' or '..'")]
    Path {
        /// What was read.
        text: String,
    },
    /// The whole is over 2048 bytes.
    #[error("a SPIFFE ID of {length} bytes is over the limit of 2048")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
}

impl FromStr for TrustDomain {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > 255 || !text.bytes().all(good) {
            return Err(SpiffeError::TrustDomain { text: text.to_owned() });
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl SpiffeId {
    /// The identity of pods that run as a service account: `spiffe://<td>/ns/<namespace>/sa/<service account>`.
    ///
    /// # Errors
    /// A name with a character that a SPIFFE path segment cannot hold.
    pub fn for_service_account(td: &TrustDomain, namespace: &str, account: &str) -> Result<Self, SpiffeError> {
        format!("spiffe://{td}/ns/{namespace}/sa/{account}").parse()
    }

    /// The identity of a node itself: `spiffe://<td>/node/<name>`; it owns the node's addresses.
    ///
    /// # Errors
    /// A name with a character that a SPIFFE path segment cannot hold.
    pub fn for_node(td: &TrustDomain, node: &NodeName) -> Result<Self, SpiffeError> {
        format!("spiffe://{td}/node/{node}").parse()
    }

    /// The trust domain part.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path, with its leading slash.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        if text.len() > 2048 {
            return Err(SpiffeError::TooLong { length: text.len() });
        }
        let rest = text.strip_prefix("spiffe://").ok_or_else(|| SpiffeError::Scheme { text: text.to_owned() })?;
        let (domain, segments) = rest.split_once('/').ok_or_else(|| SpiffeError::Path { text: String::new() })?;
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let bad = |s: &str| s.is_empty() || s == "." || s == ".." || !s.bytes().all(good);
        if segments.split('/').any(bad) {
            return Err(SpiffeError::Path { text: format!("/{segments}") });
        }
        Ok(Self { trust_domain: domain.parse()?, path: format!("/{segments}") })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}{}", self.trust_domain, self.path)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
