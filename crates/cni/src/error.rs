//! The error object that a plugin prints instead of a result, and the table of its codes.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::version::Version;

/// A numeric error code: 0 to 99 are the specification's (CNI 1.1.0, section 5 "Error"), 100 and over are ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Code(pub u32);

impl Code {
    /// The version asked for is not spoken, or does not know the verb.
    pub const INCOMPATIBLE_VERSION: Self = Self(1);
    /// A field of the network configuration cannot be honoured; the message names key and value.
    pub const UNSUPPORTED_FIELD: Self = Self(2);
    /// The container is unknown or gone: nothing to clean up.
    pub const UNKNOWN_CONTAINER: Self = Self(3);
    /// A `CNI_*` variable is missing or bad; the message names it.
    pub const INVALID_ENVIRONMENT: Self = Self(4);
    /// Reading or writing failed.
    pub const IO_FAILURE: Self = Self(5);
    /// Bytes that are not what they should be: no JSON, no object, too long, too deep.
    pub const DECODING_FAILURE: Self = Self(6);
    /// The network configuration is well-formed and wrong.
    pub const INVALID_CONFIG: Self = Self(7);
    /// Something that should pass: the runtime should call again.
    pub const TRY_AGAIN_LATER: Self = Self(11);
    /// STATUS: no ADD can be served.
    pub const NOT_AVAILABLE: Self = Self(50);
    /// STATUS: no ADD can be served, and what is attached may have limited connectivity.
    pub const LIMITED_CONNECTIVITY: Self = Self(51);
    /// Ours: CHECK found that something which ADD put in place is missing or changed.
    pub const DRIFTED: Self = Self(100);
    /// Ours: ADD of an attachment that is attached already; the first one stays as it is.
    pub const ALREADY_ATTACHED: Self = Self(101);
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What went wrong, for a runtime (the code) and for a human: pod events show `msg; details` word for word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// What a runtime may act on.
    pub code: Code,
    /// What went wrong, in one short sentence.
    pub msg: String,
    /// With what values, and what to do about it. May be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl Error {
    /// Puts an error together.
    pub fn new(code: Code, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: details.into() }
    }

    /// The object to print, `version` being that of the configuration where it could be read.
    #[must_use]
    pub fn to_json(&self, version: Version) -> Value {
        let mut object = json!({ "cniVersion": version, "code": self.code, "msg": self.msg });
        if let (Some(fields), false) = (object.as_object_mut(), self.details.is_empty()) {
            fields.insert("details".to_owned(), self.details.clone().into());
        }
        object
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.msg)?;
        if !self.details.is_empty() {
            write!(f, "; {}", self.details)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_is_that_of_the_specification() {
        let error = Error::new(Code::INVALID_CONFIG, "Invalid Configuration", "Network 192.168.0.0/31 too small");
        let printed = error.to_json(Version::V1_1_0).to_string();
        assert_eq!(
            printed,
            r#"{"cniVersion":"1.1.0","code":7,"msg":"Invalid Configuration","details":"Network 192.168.0.0/31 too small"}"#
        );
        assert_eq!(error.to_string(), "Invalid Configuration; Network 192.168.0.0/31 too small");
    }

    #[test]
    fn without_details_there_is_no_such_field() {
        let error = Error::new(Code::TRY_AGAIN_LATER, "later", "");
        assert_eq!(error.to_json(Version::V0_4_0).to_string(), r#"{"cniVersion":"0.4.0","code":11,"msg":"later"}"#);
        assert_eq!(error.to_string(), "later");
    }
}
