//! The small nouns that identities are made with: node names, epochs, wall-clock seconds.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Shortest rotation period, in seconds: what tests use. Below it there is no time to publish a key ahead.
pub const ROTATION_PERIOD_MIN_SECONDS: u64 = 60;

/// The name of a node, as the cluster calls it (an RFC 1123 subdomain, at most 253 characters).
///
/// Parsing and deserialising check that; the public field is for names that were checked elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(pub String);

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// Not an RFC 1123 subdomain.
    #[error(
        "`{text}` is not a node name: 1 to 253 of a-z, 0-9, '-', '.', in labels that begin and end with a letter or digit"
    )]
    Node {
        /// What was read, shortened.
        text: String,
    },
    /// Not something that a node's UID can be.
    #[error("`{text}` is not a node UID: 1 to {max} of a-z, A-Z, 0-9, '-', '_'", max = NODE_UID_LENGTH_MAX)]
    NodeUid {
        /// What was read, shortened.
        text: String,
    },
}

/// Longest node UID in bytes; a UUID has 36, the rest is room for other schemes.
pub const NODE_UID_LENGTH_MAX: usize = 64;

/// Checks a node's UID: 1 to [`NODE_UID_LENGTH_MAX`] ASCII letters, digits, dashes and underscores.
///
/// # Errors
/// Anything else.
pub fn check_node_uid(uid: &str) -> Result<(), NameError> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if uid.is_empty() || uid.len() > NODE_UID_LENGTH_MAX || !uid.bytes().all(good) {
        return Err(NameError::NodeUid { text: quoted(uid) });
    }
    Ok(())
}

/// A foreign text as an error message may show it: no control characters, at most 80 characters.
pub(crate) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if text.chars().nth(80).is_some() {
        shown.push_str("...");
    }
    shown
}

impl FromStr for NodeName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let label = |l: &str| !l.is_empty() && l.bytes().all(good) && !l.starts_with('-') && !l.ends_with('-');
        if text.len() > 253 || !text.split('.').all(label) {
            return Err(NameError::Node { text: quoted(text) });
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for NodeName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key generation: the wall clock divided by the rotation period, so that every restart derives the same keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch whose turn it is at `wall`. A period under [`ROTATION_PERIOD_MIN_SECONDS`] counts as that.
    #[must_use]
    pub fn at(wall: UnixTime, period: Duration) -> Self {
        Self(wall.0 / period.as_secs().max(ROTATION_PERIOD_MIN_SECONDS))
    }

    /// When this epoch's turn begins; the end of time where that is out of range.
    #[must_use]
    pub fn start(self, period: Duration) -> UnixTime {
        UnixTime(self.0.saturating_mul(period.as_secs().max(ROTATION_PERIOD_MIN_SECONDS)))
    }

    /// The one after; the last stays the last.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The one before; the first stays the first.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Wall-clock time in whole seconds since 1970-01-01 UTC; never a monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// This much later, in whole seconds; never wraps.
    #[must_use]
    pub const fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration.as_secs()))
    }

    /// This much earlier, in whole seconds; never before 1970.
    #[must_use]
    pub const fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration.as_secs()))
    }

    /// How long after `earlier` this is; zero where it is not after.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_name_is_an_rfc_1123_subdomain() {
        let longest = format!("{}.{}", "a".repeat(126), "b".repeat(126));
        for good in ["n1", "n-1.example", "0", longest.as_str()] {
            assert_eq!(good.parse::<NodeName>().map(String::from).as_deref(), Ok(good));
        }
        let long = "a".repeat(254);
        for bad in
            ["", ".", "a.", ".a", "a..b", "-a", "a-", "a.-b", "A", "a/b", "a b", "a\0", "é", "%2f", long.as_str()]
        {
            assert!(bad.parse::<NodeName>().is_err(), "{bad:?} was taken");
            assert!(serde_json::from_value::<NodeName>(bad.into()).is_err(), "{bad:?} was read");
        }
    }

    #[test]
    fn foreign_text_is_shown_short_and_without_control_characters() {
        let error = format!("\u{1b}[31m{}\n", "x".repeat(10_000)).parse::<NodeName>().unwrap_err().to_string();
        assert!(error.len() < 300 && !error.chars().any(char::is_control), "{error}");
    }

    #[test]
    fn a_node_uid_is_short_and_plain() {
        for good in ["0a1b", "2f0f4c7e-9a8d-4c52-8f5b-2f1f6a1a9c11"] {
            assert_eq!(check_node_uid(good), Ok(()));
        }
        for bad in ["", "a b", "a/b", "a\n", &"a".repeat(65)] {
            assert!(check_node_uid(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn epochs_never_wrap_and_a_zero_period_never_divides() {
        assert_eq!(Epoch::at(UnixTime(120), Duration::ZERO), Epoch(2));
        assert_eq!(Epoch::at(UnixTime(86_399), Duration::from_secs(86_400)), Epoch(0));
        assert_eq!(Epoch::at(UnixTime(86_400), Duration::from_secs(86_400)), Epoch(1));
        assert_eq!(Epoch(u64::MAX).next(), Epoch(u64::MAX));
        assert_eq!(Epoch(0).previous(), Epoch(0));
        assert_eq!(Epoch(u64::MAX).start(Duration::from_secs(60)), UnixTime(u64::MAX));
    }
}
