//! What policy answers, and why: verdicts name the policy and the rule, or the default that decided.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::workload::WorkloadId;

/// Seen from the workload that a policy is about: arriving at it, or leaving it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Arriving: the workload is the destination.
    Inbound,
    /// Leaving: the workload is the source.
    Outbound,
}

impl Direction {
    /// `inbound` or `outbound`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// The kinds of policy objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PolicyKind {
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy,
    /// `weft.dev` AuthorizationPolicy.
    AuthorizationPolicy,
    /// `policy.networking.k8s.io` ClusterNetworkPolicy.
    ClusterNetworkPolicy,
    /// Its predecessor of the tier before NetworkPolicy.
    AdminNetworkPolicy,
    /// Its predecessor of the tier after NetworkPolicy.
    BaselineAdminNetworkPolicy,
}

impl PolicyKind {
    /// The kind as manifests spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "NetworkPolicy",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::AdminNetworkPolicy => "AdminNetworkPolicy",
            Self::BaselineAdminNetworkPolicy => "BaselineAdminNetworkPolicy",
        }
    }
}

/// A policy by name. Two of one name in different namespaces are two policies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyRef {
    /// Of which kind.
    pub kind: PolicyKind,
    /// Empty for kinds of the cluster.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for PolicyRef {
    /// `NetworkPolicy shop/default-deny`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.namespace.is_empty() { "" } else { "/" };
        write!(f, "{} {}{slash}{}", self.kind.as_str(), self.namespace, self.name)
    }
}

/// One rule of a policy: its index in the list that the manifest has for that direction, from 0.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleRef {
    /// Whose rule.
    pub policy: Arc<PolicyRef>,
    /// Which one, from 0.
    pub rule: usize,
}

/// One end of a flow: a workload, an address, or both. A workload without an address is judged by its labels alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// Who it is; `None` for what is no workload (the outside, a node).
    pub workload: Option<WorkloadId>,
    /// The address that it uses here.
    pub address: Option<IpAddr>,
}

/// A connection to be judged: its tuple in the original direction, after destination translation. A reply belongs to the
/// connection that it answers and is never judged on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Who opened it.
    pub source: End,
    /// To whom.
    pub destination: End,
    /// IP protocol number (6 is TCP).
    pub protocol: u8,
    /// Destination port of TCP, UDP and SCTP. `None` for other protocols; where a port is missing, only rules about
    /// every port match.
    pub port: Option<u16>,
    /// Whether both ends are proven: the packet came out of a session between their two keys, or from a pinned local
    /// attachment of a member to a local member. Otherwise an address only claims to be somebody.
    pub proven: bool,
}

/// What happens to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Decision {
    /// It passes.
    Allowed,
    /// Its packets are dropped.
    Denied,
}

impl Decision {
    /// `allowed` or `denied`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
        }
    }
}

/// Why a flow is allowed or denied. A closed set with stable labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Allowed: a workload cannot be cut off from itself.
    Itself,
    /// Allowed: traffic between a workload and its own node always is.
    OwnNode,
    /// Allowed: no policy is about this workload in this direction.
    NoPolicy,
    /// Allowed or denied by the rule that the verdict names.
    Rule,
    /// Denied: an AuthorizationPolicy of action ALLOW is about this workload, and no rule of any of them matches.
    NoAllowMatched,
    /// Denied: a NetworkPolicy isolates the workload in this direction, and no rule of any of them matches.
    Isolated,
    /// Denied: two live workloads claim the address, so that it is nobody's.
    ContestedAddress,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Itself,
        Self::OwnNode,
        Self::NoPolicy,
        Self::Rule,
        Self::NoAllowMatched,
        Self::Isolated,
        Self::ContestedAddress,
    ];

    /// The label that logs, counters and JSON use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Itself => "itself",
            Self::OwnNode => "own_node",
            Self::NoPolicy => "no_policy",
            Self::Rule => "rule",
            Self::NoAllowMatched => "no_allow_matched",
            Self::Isolated => "isolated",
            Self::ContestedAddress => "contested_address",
        }
    }
}

/// The answer to a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Passes or not.
    pub decision: Decision,
    /// On which side it was decided: leaving the source, or arriving at the destination. An allowed flow passed both and
    /// tells of the last that had something to say.
    pub direction: Direction,
    /// Why.
    pub reason: Reason,
    /// The policy that decided: the rule's; for [`Reason::NoAllowMatched`] and [`Reason::Isolated`] the first, by name, of
    /// those that close the workload. `None` where no policy did.
    pub policy: Option<Arc<PolicyRef>>,
    /// The rule that decided, from 0 in its policy's list for that direction.
    pub rule: Option<usize>,
    /// Rules of action AUDIT that matched on either side, up to the decision; they never change it.
    pub audited: Vec<RuleRef>,
}

impl Verdict {
    /// Whether the flow passes.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.decision == Decision::Allowed
    }

    /// Why, as a sentence: which policy and rule, or which default.
    #[must_use]
    pub fn because(&self) -> String {
        let policy = self.policy.as_ref().map(ToString::to_string).unwrap_or_default();
        let side = match self.direction {
            Direction::Inbound => "arriving at the destination",
            Direction::Outbound => "leaving the source",
        };
        match (self.reason, self.rule) {
            (Reason::Itself, _) => "a workload cannot be cut off from itself".to_owned(),
            (Reason::OwnNode, _) => "traffic between a workload and its own node always passes".to_owned(),
            (Reason::NoPolicy, _) => "no policy is about either end in this direction".to_owned(),
            (Reason::Rule, Some(rule)) => format!("{policy}, rule {rule}, {side}"),
            (Reason::Rule, None) => format!("{policy}, {side}"),
            (Reason::NoAllowMatched, _) => {
                format!("{policy} lets only some in, and no rule of any ALLOW policy matches, {side}")
            }
            (Reason::Isolated, _) => format!("{policy} isolates it, and no rule of any NetworkPolicy matches, {side}"),
            (Reason::ContestedAddress, _) => "two live pods claim the address, so that it is nobody's".to_owned(),
        }
    }
}
