//! Trust domains and SPIFFE IDs: parsed once, printed once (SPIFFE-ID specification, sections 2 and 3).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::name::{NodeName, quoted};

/// Longest SPIFFE ID in bytes (SPIFFE-ID specification, section 2.3).
pub const SPIFFE_ID_LENGTH_MAX: usize = 2048;

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
        /// What was read, shortened.
        text: String,
    },
    /// The trust domain has a character or a length that the specification forbids.
    #[error("`{text}` is not a trust domain name: 1 to 255 of a-z, 0-9, '.', '-', '_'")]
    TrustDomain {
        /// What was read, shortened.
        text: String,
    },
    /// A path segment is empty, a dot segment, or has a forbidden character.
    #[error("`{text}` is not a SPIFFE path: segments of letters, digits, '.', '-', '_', not empty and not '.' or '..'")]
    Path {
        /// What was read, shortened.
        text: String,
    },
    /// The whole is over 2048 bytes.
    #[error("a SPIFFE ID of {length} bytes is over the limit of {max}", max = SPIFFE_ID_LENGTH_MAX)]
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
            return Err(SpiffeError::TrustDomain { text: quoted(text) });
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TrustDomain {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Serialize for TrustDomain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TrustDomain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl SpiffeId {
    /// The identity of pods that run as a service account: `spiffe://<td>/ns/<namespace>/sa/<service account>`.
    ///
    /// # Errors
    /// A name with a character that a SPIFFE path segment cannot hold.
    pub fn for_service_account(td: &TrustDomain, namespace: &str, account: &str) -> Result<Self, SpiffeError> {
        Self::of_segments(td, &["ns", namespace, "sa", account])
    }

    /// The identity of a node itself: `spiffe://<td>/node/<name>`; it owns the node's addresses.
    ///
    /// # Errors
    /// A name with a character that a SPIFFE path segment cannot hold.
    pub fn for_node(td: &TrustDomain, node: &NodeName) -> Result<Self, SpiffeError> {
        Self::of_segments(td, &["node", &node.0])
    }

    /// Joins segments; one that itself holds a slash would reach into another namespace, so each is checked alone.
    fn of_segments(td: &TrustDomain, segments: &[&str]) -> Result<Self, SpiffeError> {
        if let Some(bad) = segments.iter().find(|s| !is_segment(s)) {
            return Err(SpiffeError::Path { text: quoted(bad) });
        }
        format!("spiffe://{td}/{}", segments.join("/")).parse()
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

/// Whether a text is one path segment (SPIFFE-ID specification, section 2.2).
fn is_segment(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    !text.is_empty() && text != "." && text != ".." && text.bytes().all(good)
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        if text.len() > SPIFFE_ID_LENGTH_MAX {
            return Err(SpiffeError::TooLong { length: text.len() });
        }
        let rest = text.strip_prefix("spiffe://").ok_or_else(|| SpiffeError::Scheme { text: quoted(text) })?;
        let (domain, segments) = rest.split_once('/').ok_or_else(|| SpiffeError::Path { text: String::new() })?;
        let trust_domain = domain.parse()?;
        if !segments.split('/').all(is_segment) {
            return Err(SpiffeError::Path { text: quoted(&format!("/{segments}")) });
        }
        Ok(Self { trust_domain, path: format!("/{segments}") })
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn td() -> TrustDomain {
        "cluster.local".parse().unwrap()
    }

    #[test]
    fn a_spiffe_id_is_taken_exactly_as_the_specification_says() {
        for good in ["spiffe://td/ns/a/sa/b", "spiffe://a_b.c-1/x", "spiffe://td/A.b-_9/...", "spiffe://td/.../.a"] {
            assert_eq!(good.parse::<SpiffeId>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "spiffe://",
            "spiffe:///a",
            "spiffe://td",
            "spiffe://td/",
            "spiffe://td//a",
            "spiffe://td/a/",
            "spiffe://td/./a",
            "spiffe://td/a/..",
            "SPIFFE://td/a",
            "spiffe://TD/a",
            "spiffe://td:80/a",
            "spiffe://u@td/a",
            "spiffe://td/a?b",
            "spiffe://td/a#b",
            "spiffe://td/a%2fb",
            "spiffe://td/a*",
            "spiffe://td/[a]",
            "spiffe://td/a b",
            "spiffe://td/\u{e9}",
            " spiffe://td/a",
            "spiffe://td/a\n",
            "spiffe://td/a\0",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn limits_hold_to_the_byte() {
        let fits = format!("spiffe://td/{}", "a".repeat(SPIFFE_ID_LENGTH_MAX - 12));
        assert!(fits.parse::<SpiffeId>().is_ok());
        assert!(matches!(format!("{fits}a").parse::<SpiffeId>(), Err(SpiffeError::TooLong { length: 2049 })));
        assert!("a".repeat(255).parse::<TrustDomain>().is_ok());
        assert!("a".repeat(256).parse::<TrustDomain>().is_err());
    }

    /// ID-17: a name never reaches out of its own segment.
    #[test]
    fn id_17_a_name_with_special_characters_never_becomes_another_identity() {
        let longest = "a".repeat(253);
        for good in ["a", "a.b", "63-".repeat(21).trim_end_matches('-'), longest.as_str()] {
            let id = SpiffeId::for_service_account(&td(), good, "default").unwrap();
            assert_eq!(id.path(), format!("/ns/{good}/sa/default"));
        }
        for bad in ["", ".", "..", "a/sa/b", "*", "[a]", "%2f", "a%2fsa%2fb", "a b", "a\n", "a/../b", "a?b", "a#b"] {
            assert!(SpiffeId::for_service_account(&td(), bad, "default").is_err(), "namespace {bad:?} was taken");
            assert!(SpiffeId::for_service_account(&td(), "default", bad).is_err(), "account {bad:?} was taken");
            assert!(SpiffeId::for_node(&td(), &NodeName(bad.to_owned())).is_err(), "node {bad:?} was taken");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_printing_gives_it_back(text in "(spiffe://)?[a-z0-9._-]{0,8}(/[a-zA-Z0-9._%*-]{0,6}){0,4}") {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }

        #[test]
        fn any_text_at_all_is_parsed_without_panic(text in ".{0,300}") {
            let _parsed = text.parse::<SpiffeId>();
            let _parsed = text.parse::<TrustDomain>();
        }
    }
}
