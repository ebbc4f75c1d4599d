//! Manifests of policies into plain data. What cannot be read never opens anything: it is left out where it would let
//! somebody in, taken for everybody where it would keep somebody out, and told of by its path.

use std::fmt;

use thiserror::Error;

mod authorization;
mod cluster;
mod network;
mod node;
mod place;
mod world;

#[cfg(test)]
mod cases;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;

pub use self::authorization::{OPERATION_REFUSED, RULE_REFUSED, SOURCE_REFUSED, SPEC_REFUSED, authorization_policy};
pub use self::cluster::cluster_policy;
pub use self::network::network_policy;
pub use self::node::{pod_ports, pod_workload};
pub use self::world::{Gathered, Gatherer};

/// Lays a part of a manifest over the whole: maps are merged key by key, anything else is replaced.
pub fn lay_over(base: &mut serde_json::Value, overlay: &serde_json::Value) {
    match (base, overlay) {
        (serde_json::Value::Object(base), serde_json::Value::Object(overlay)) => {
            for (key, value) in overlay {
                lay_over(base.entry(key.clone()).or_insert(serde_json::Value::Null), value);
            }
        }
        (base, overlay) => *base = overlay.clone(),
    }
}

/// What came out of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed<T> {
    /// What could be read, closed where it could not.
    pub value: T,
    /// What could not.
    pub refusals: Vec<Refusal>,
}

/// A part of a manifest that is not used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// Where: `spec.ingress[0].from[1].ipBlock.cidr`.
    pub path: String,
    /// What is wrong.
    pub fault: Fault,
    /// What it means for the verdicts.
    pub effect: Effect,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.path, self.fault, self.effect.as_str())
    }
}

/// What is wrong with a part of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum Fault {
    /// Another type of value.
    #[error("{expected} is expected here, not {found}")]
    WrongType {
        /// What should be there.
        expected: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// A field that is not known: a slip of the pen, or of a newer version.
    #[error("this field is not known here; known are: {known}")]
    UnknownField {
        /// The fields that are.
        known: String,
    },
    /// A field that only somebody who reads the content of a connection could judge by.
    #[error("{reason}")]
    Layer7 {
        /// Why not, and what to write instead.
        reason: &'static str,
    },
    /// Neither of several fields, or too many of them.
    #[error("exactly one of {choices} is needed")]
    NotOne {
        /// Which.
        choices: &'static str,
    },
    /// A list or an object that needs something in it.
    #[error("it is empty: {needed}")]
    Empty {
        /// What it needs.
        needed: &'static str,
    },
    /// A text that is not what it should be.
    #[error("`{text}` is no {expected}")]
    Malformed {
        /// What stands there.
        text: String,
        /// What should.
        expected: &'static str,
    },
    /// A pattern where names are compared.
    #[error("`{text}` looks like a pattern: names match exactly, so list them, or leave the field out to mean anybody")]
    Pattern {
        /// What stands there.
        text: String,
    },
    /// A condition that depends on another field.
    #[error("{rule}")]
    Inconsistent {
        /// What has to be.
        rule: &'static str,
    },
}

/// What follows from something that is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// This peer matches nobody.
    PeerNobody,
    /// This port matches nothing.
    PortNothing,
    /// This rule matches nothing.
    RuleNothing,
    /// This condition of a rule that denies is taken for fulfilled.
    Fulfilled,
    /// What is selected is closed.
    Closed,
    /// It is left out.
    LeftOut,
}

impl Effect {
    /// As a sentence.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PeerNobody => "this peer matches nobody",
            Self::PortNothing => "this port matches nothing",
            Self::RuleNothing => "this rule matches nothing",
            Self::Fulfilled => "the rule denies, so this condition counts as fulfilled",
            Self::Closed => "what the policy is about is closed",
            Self::LeftOut => "it is left out",
        }
    }
}
