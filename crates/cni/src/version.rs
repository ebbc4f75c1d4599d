//! The versions of the specification that are spoken, and which verbs each of them knows.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use thiserror::Error;

use crate::verb::Verb;

/// A spoken version of the specification, older ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 0.3.1: ADD, DEL, VERSION.
    V0_3_1,
    /// 0.4.0: CHECK comes.
    V0_4_0,
    /// 1.0.0: `ips[].version` goes.
    V1_0_0,
    /// 1.1.0: GC and STATUS come, and `mtu`, `socketPath`, `pciID` of interfaces and `mtu` and more of routes.
    V1_1_0,
}

impl Version {
    /// All of them, oldest first.
    pub const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// What is spoken where nothing else was asked for.
    pub const NEWEST: Self = Self::V1_1_0;

    /// As configurations write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The first version that knows `verb`.
    #[must_use]
    pub fn introducing(verb: Verb) -> Self {
        match verb {
            Verb::Add | Verb::Del | Verb::Version => Self::V0_3_1,
            Verb::Check => Self::V0_4_0,
            Verb::Gc | Verb::Status => Self::V1_1_0,
        }
    }

    /// The list of [`Version::ALL`] for a message.
    #[must_use]
    pub fn spoken() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }
}

/// A version that is not spoken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("version {said:?} is not spoken; these are: {}", Version::spoken())]
pub struct VersionError {
    /// What was asked for, cut at 40 characters.
    pub said: String,
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let named = Self::ALL.into_iter().find(|version| version.as_str() == text);
        named.ok_or_else(|| VersionError { said: text.chars().take(40).collect() })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_nothing_else_is() {
        for version in Version::ALL {
            assert_eq!(version.to_string().parse(), Ok(version));
        }
        for wrong in ["", "1", "1.1", "1.1.0 ", "v1.1.0", "01.1.0", "0.3.0", "0.2.0", "1.2.0", "2.0.0"] {
            assert!(wrong.parse::<Version>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_oldest_comes_first() {
        assert!(Version::ALL.is_sorted());
        assert_eq!(Version::ALL.last(), Some(&Version::NEWEST));
    }
}
