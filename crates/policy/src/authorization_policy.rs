//! AuthorizationPolicy (`weft.dev`), the part of Istio's that packets can be judged by, as plain data.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::selector::Selector;
use crate::verdict::Direction;

/// One AuthorizationPolicy. It is about members of the mesh: those of its namespace, or of all namespaces when it stands in
/// the root namespace, that its selector selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `spec.selector`; an empty one selects all.
    pub selector: Selector,
    /// `spec.action`.
    pub action: AuthorizationAction,
    /// `spec.direction`: who may reach the selected workloads, or whom they may reach.
    pub direction: Direction,
    /// `spec.rules`. No rules match nothing: an ALLOW policy without them denies everything.
    pub rules: Vec<AuthorizationRule>,
}

/// What a matching rule does. DENY comes before ALLOW; AUDIT never changes a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuthorizationAction {
    /// Lets in who matches, and nobody else.
    Allow,
    /// Keeps out who matches.
    Deny,
    /// Tells of who matches.
    Audit,
}

/// A rule matches when one of `from` and one of `to` match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthorizationRule {
    /// `from[].source`; `None` is anybody, `Some` of nothing is nobody.
    pub from: Option<Vec<PeerTerms>>,
    /// `to[]`; `None` is everything, `Some` of nothing is nothing.
    pub to: Option<Vec<Target>>,
}

/// What the other end has to be; all that is given has to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerTerms {
    /// `principals`: one of these SPIFFE IDs (with `spiffe://`), exactly.
    pub principals: Option<BTreeSet<String>>,
    /// `notPrincipals`: none of these.
    pub not_principals: BTreeSet<String>,
    /// `namespaces`: in one of these.
    pub namespaces: Option<BTreeSet<String>>,
    /// `notNamespaces`: in none of these.
    pub not_namespaces: BTreeSet<String>,
    /// `ipBlocks`: an address in one of these.
    pub ip_blocks: Option<Vec<IpNet>>,
    /// `notIpBlocks`: an address in none of these.
    pub not_ip_blocks: Vec<IpNet>,
}

/// One element of `to`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// `destination`: who it is that the selected workloads reach; only where the direction is outbound.
    pub destination: PeerTerms,
    /// `operation.ports`: one of these, of TCP, UDP or SCTP.
    pub ports: Option<BTreeSet<u16>>,
    /// `operation.notPorts`: none of these. A protocol without ports has none of them.
    pub not_ports: BTreeSet<u16>,
}
