//! The tiers around NetworkPolicy (`policy.networking.k8s.io`): ClusterNetworkPolicy and the two kinds it grew out of,
//! AdminNetworkPolicy and BaselineAdminNetworkPolicy, as plain data.

use ipnet::IpNet;

use crate::network_policy::NetworkPort;
use crate::selector::Selector;
use crate::verdict::PolicyKind;

/// One policy of the cluster's administrator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterPolicy {
    /// Which of the three kinds it is.
    pub kind: PolicyKind,
    /// `metadata.name`.
    pub name: String,
    /// Before NetworkPolicy, or after it.
    pub tier: ClusterTier,
    /// `spec.priority`, 0 to 1000: the lower comes first. Equal ones go by name.
    pub priority: u16,
    /// `spec.subject`: which pods it is about.
    pub subject: PodsOf,
    /// `spec.ingress`, in order.
    pub ingress: Vec<ClusterRule>,
    /// `spec.egress`, in order.
    pub egress: Vec<ClusterRule>,
}

/// Where a [`ClusterPolicy`] stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClusterTier {
    /// Before NetworkPolicy, and over it.
    Admin,
    /// After NetworkPolicy, for pods that none isolates.
    Baseline,
}

/// Pods by the labels of their namespace and their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodsOf {
    /// Which namespaces.
    pub namespaces: Selector,
    /// Which pods of them.
    pub pods: Selector,
}

/// One rule of a [`ClusterPolicy`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterRule {
    /// What happens when it matches.
    pub action: ClusterAction,
    /// `from` or `to`; `None` only where an unreadable rule has to match everybody.
    pub peers: Option<Vec<ClusterPeer>>,
    /// `protocols` (or `ports`); `None` is every port of every protocol.
    pub ports: Option<Vec<ClusterPort>>,
}

/// What a rule of a [`ClusterPolicy`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClusterAction {
    /// Passes, whatever later tiers say.
    Accept,
    /// Denied, whatever later tiers say.
    Deny,
    /// The next tier is asked.
    Pass,
}

/// One peer of a rule of a [`ClusterPolicy`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterPeer {
    /// Pods by labels.
    Pods(PodsOf),
    /// The own addresses of nodes by labels.
    Nodes(Selector),
    /// Addresses, whoever they belong to.
    Networks(Vec<IpNet>),
}

/// One port of a rule of a [`ClusterPolicy`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterPort {
    /// As in NetworkPolicy.
    One(NetworkPort),
    /// The container port of this name, of whichever protocol.
    Named(String),
}
