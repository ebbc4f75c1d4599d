//! Policies made plain: what the judge here and the nftables compiler both read. The executable specification.
//!
//! ```text
//! subject (workload × direction) ──▶ Chain ──▶ two layers, both of which must let the flow pass
//!
//!   authorization   Audit ─▶ Deny ─▶ Allow          AuthorizationPolicy
//!   network         Admin ─▶ NetworkPolicy | Baseline
//!
//!   a layer is stages in order, a stage is rules in order; the first rule that matches says what happens:
//!     Deny   the flow is denied
//!     Allow  this layer lets it pass: on to the next layer, after the last the flow is allowed
//!     Pass   this stage has nothing to say: on to the next stage of this layer
//!     Audit  remember, and on to the next rule
//!   no rule matches: the stage's `otherwise` (Deny or Pass); no stage left: the layer lets it pass
//! ```
//!
//! Sets and chains have keys that come from their *definition* (selectors, policy names), not from their content: a pod
//! more changes what is in a set and not what the set is called. They are shared (`Arc`), so that a compiler that keeps
//! the unchanged ones lets a differ compare pointers first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::blocks::Blocks;
use crate::verdict::{Direction, End, PolicyRef, Reason, RuleRef};
use crate::workload::{Protocol, WorkloadId};

mod judge;

/// The compiled policies: see the module page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// Who may be a subject or a member, with the addresses that are theirs alone.
    pub workloads: BTreeMap<WorkloadId, Subject>,
    /// Whose address is whose. Contested addresses are not in it. A node is in it as [`WorkloadId::of_node`], and is no
    /// subject.
    pub addresses: BTreeMap<IpAddr, WorkloadId>,
    /// Addresses that more than one live workload claims: they belong to nobody, and nothing passes from or to them.
    pub contested: BTreeSet<IpAddr>,
    /// The own addresses of each node: traffic between a workload and its own node always passes.
    pub nodes: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Sets of peers by key.
    pub sets: BTreeMap<SetKey, Arc<PeerSet>>,
    /// Chains by key.
    pub chains: BTreeMap<ChainKey, Arc<Chain>>,
}

/// A workload and what is applied to it. Without a chain everything passes in that direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Its addresses, without contested ones.
    pub addresses: BTreeSet<IpAddr>,
    /// Where it runs.
    pub node: Option<String>,
    /// What is applied to flows that arrive.
    pub inbound: Option<ChainKey>,
    /// What is applied to flows that leave.
    pub outbound: Option<ChainKey>,
}

/// The name of a set: canonical text of its definition. Of any length; hash it where names are short.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SetKey(pub Arc<str>);

/// The name of a chain: direction, policies in order, and what their named ports are for this workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainKey(pub Arc<str>);

/// Peers: workloads (that match by their addresses) and ranges of addresses, whoever they belong to. An empty set is nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerSet {
    /// Workloads, and nodes where a rule names their identity.
    pub members: BTreeSet<WorkloadId>,
    /// The members' addresses, without contested ones.
    pub addresses: BTreeSet<IpAddr>,
    /// Ranges.
    pub blocks: Blocks,
}

/// What is applied to one workload in one direction; workloads that the same policies are about share it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// The layer of AuthorizationPolicies. Empty when none is about the workload.
    pub authorization: Vec<Stage>,
    /// The layer of NetworkPolicy and its tiers. Empty when none is about the workload.
    pub network: Vec<Stage>,
}

/// Rules in order, and what happens when none matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Which one.
    pub tier: Tier,
    /// Tried in this order.
    pub rules: Vec<Rule>,
    /// When none matches.
    pub otherwise: Otherwise,
    /// The policies that this stage is made of, in order; the first one is named when `otherwise` denies.
    pub policies: Vec<Arc<PolicyRef>>,
}

/// Where a stage comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// AuthorizationPolicies of action AUDIT.
    Audit,
    /// AuthorizationPolicies of action DENY.
    Deny,
    /// AuthorizationPolicies of action ALLOW.
    Allow,
    /// Cluster policies before NetworkPolicy, by priority.
    Admin,
    /// NetworkPolicies.
    Network,
    /// Cluster policies for what no NetworkPolicy isolates.
    Baseline,
}

/// When no rule of a stage matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// The flow is denied.
    Deny,
    /// On to the next stage.
    Pass,
}

/// One alternative of one rule of a policy. A rule of a manifest may become several of these with the same origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Which rule of which policy.
    pub origin: RuleRef,
    /// What the other end has to be: all of these hold. Empty is anybody.
    pub peers: Vec<PeerMatch>,
    /// What the destination port and protocol have to be.
    pub ports: Ports,
    /// What happens then.
    pub action: Action,
}

/// One condition on the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerMatch {
    /// Which set.
    pub set: SetKey,
    /// In it (`true`) or not in it.
    pub inside: bool,
    /// Whether a member of the set counts as one only where it is proven ([`crate::Flow::proven`]); ranges never need proof.
    pub proof: Proof,
}

/// Whether an address is enough to be taken for a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The address is enough: NetworkPolicy is about addresses. Also where believing an unproven claim is the closed
    /// answer: who a DENY is about, and who an ALLOW excepts.
    Unneeded,
    /// Only the key, or the pinned local attachment, says who it is: who an ALLOW lets in, and who a DENY spares.
    Needed,
}

/// What a matching rule does: see the module page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The flow is denied.
    Deny,
    /// This layer lets it pass.
    Allow,
    /// On to the next stage of this layer.
    Pass,
    /// Remember it, and on to the next rule.
    Audit,
}

/// Protocols and destination ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Every port of every protocol.
    Any,
    /// These.
    Listed {
        /// Ranges of ports, each of one protocol. May overlap.
        ranges: Vec<PortRange>,
        /// Every protocol that is not TCP, UDP or SCTP.
        other_protocols: bool,
    },
}

/// Destination ports of one protocol, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    /// Which protocol.
    pub protocol: Protocol,
    /// The first port.
    pub first: u16,
    /// The last port; not below the first.
    pub last: u16,
}

impl Subject {
    /// What is applied to it in this direction.
    #[must_use]
    pub fn chain(&self, direction: Direction) -> Option<&ChainKey> {
        match direction {
            Direction::Inbound => self.inbound.as_ref(),
            Direction::Outbound => self.outbound.as_ref(),
        }
    }
}

impl Stage {
    /// Why a flow is denied where no rule matches and the stage is closed.
    #[must_use]
    pub fn closed_for(&self) -> Reason {
        if self.tier == Tier::Allow { Reason::NoAllowMatched } else { Reason::Isolated }
    }
}

impl Ports {
    /// Whether a flow of this protocol to this port is meant.
    #[must_use]
    pub fn contains(&self, protocol: u8, port: Option<u16>) -> bool {
        let Self::Listed { ranges, other_protocols } = self else { return true };
        let Some(protocol) = Protocol::of_number(protocol) else { return *other_protocols };
        ranges.iter().filter(|range| range.protocol == protocol).any(|range| match port {
            Some(port) => (range.first..=range.last).contains(&port),
            None => range.first == 0 && range.last == u16::MAX,
        })
    }
}

impl RuleSet {
    /// Who uses this address.
    #[must_use]
    pub fn end(&self, address: IpAddr) -> End {
        End { workload: self.addresses.get(&address).cloned(), address: Some(address) }
    }
}
