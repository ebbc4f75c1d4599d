//! What this node should look like: routes, filter, local identities, peers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use identity::{Epoch, NodeName, SpiffeId, Suite, TrustDomain};
use ipnet::IpNet;
use policy::{EffectiveMode, PeerAuthentication};

use crate::view::{ClusterView, Pod};

mod local;
mod remote;

pub use local::Standing;

/// What this node knows that the cluster does not say: its own name, its attachments, the keys it has verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Here {
    /// This node.
    pub node: NodeName,
    /// The trust domain of all identities.
    pub trust_domain: TrustDomain,
    /// The namespace of mesh-wide policies.
    pub root_namespace: String,
    /// This node's own addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Attached workloads, oldest first: where two hold one address, the younger has it and the other's pin loses it.
    pub attachments: Vec<LocalAttachment>,
    /// Verified public keys of everybody. There are thousands, and they are asked for far more often than they change.
    pub keys: Arc<BoundKeys>,
}

/// Verified public keys by whose they are and by epoch.
pub type BoundKeys = BTreeMap<PeerName, BTreeMap<Epoch, BoundKey>>;

/// What a verified binding says of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundKey {
    /// X25519 public key.
    pub public_key: [u8; 32],
    /// The best data cipher of whoever has it.
    pub suite: Suite,
}

/// A workload whose interface is attached here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalAttachment {
    /// The pod as last known; `None` for a sandbox that no manifest stands for (it is pinned and never enrolled).
    pub pod: Option<Pod>,
    /// Host-side link.
    pub link: String,
    /// MAC of the sandbox's side.
    pub mac: [u8; 6],
    /// Addresses that the primary plugin gave it.
    pub ips: BTreeSet<IpAddr>,
    /// It was reachable in clear text when it was asked into the mesh, so it goes in phase by phase, after everybody
    /// else (decision 0008). False for one that was born into it: it is closed from its first packet. The shell begins
    /// with "not a member at ADD" and then follows [`Standing::is_patient_after`]; false where nobody remembers.
    pub patient: bool,
}

/// Everything this node's kernel and engine should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Policy routes.
    pub routes: BTreeSet<Route>,
    /// Packet filter.
    pub filter: Filter,
    /// Identities that live here, with the inner addresses that are theirs.
    pub locals: BTreeMap<SpiffeId, LocalIdentity>,
    /// Identities on other nodes.
    pub peers: BTreeMap<PeerName, RemoteIdentity>,
}

/// A route in one of our two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Which table.
    pub table: RouteTable,
    /// Destination.
    pub prefix: IpNet,
    /// Where to.
    pub target: RouteTarget,
}

/// Our tables: packets of the node's own processes look into `Pods` alone, those of pinned outsiders into neither, all
/// others into both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteTable {
    /// Remote workloads.
    Pods,
    /// Remote nodes' own addresses.
    Nodes,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteTarget {
    /// Into `mesh0`.
    Mesh,
    /// Back to the main table (`throw`): known to be outside the mesh.
    Main,
}

/// What the packet filter enforces, as sets. What the sets mean, rule by rule, is executable in [`crate::path`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// One per host-side link: what may come out of it.
    pub pins: BTreeMap<String, Pin>,
    /// Local workloads in the mesh: their pin marks what they send, and marked packets between them are authenticated.
    pub enrolled: BTreeSet<IpAddr>,
    /// The subset of `enrolled` that refuses clear text of `keyed_enforced`: everybody has switched to the tunnel.
    pub enrolled_enforced: BTreeSet<IpAddr>,
    /// Local workloads that accept the tunnel only.
    pub strict: BTreeSet<IpAddr>,
    /// (address, port) that accept clear text although the address is in `strict`.
    pub open_ports: BTreeSet<(IpAddr, u16)>,
    /// (address, port) that accept the tunnel only although the address is not in `strict`.
    pub closed_ports: BTreeSet<(IpAddr, u16)>,
    /// Local workloads that may not send clear text out of the mesh.
    pub require_mesh: BTreeSet<IpAddr>,
    /// Remote workload addresses that have a key: nothing to them may leave in clear text.
    pub keyed: BTreeSet<IpAddr>,
    /// Remote nodes' own addresses that have a key: nothing of an enrolled workload may leave to them in clear text.
    pub keyed_nodes: BTreeSet<IpAddr>,
    /// The subset of `keyed` whose clear text to `enrolled_enforced` is refused, because they have all switched.
    pub keyed_enforced: BTreeSet<IpAddr>,
    /// Where workloads can be: an address in there that nobody has spoken for is not sent clear text. No two overlap.
    pub pod_cidrs: BTreeSet<IpNet>,
    /// This node's own pod ranges. What comes out of them from an address that is neither `local` nor `clear` has no pin
    /// yet (a pod can send before its ADD comes to us), and goes neither to `keyed` nor to who is unknown. No two overlap.
    pub own_ranges: BTreeSet<IpNet>,
    /// The same while there is any policy: what has no pin yet may not be judged by its address, and nothing goes from it
    /// or to it (rule S4: a new pod is isolated before its first packet).
    pub guarded_ranges: BTreeSet<IpNet>,
    /// Addresses in `pod_cidrs` (or not) that are known to be outside the mesh.
    pub clear: BTreeSet<IpAddr>,
    /// Every local workload's address, enrolled or not.
    pub local: BTreeSet<IpAddr>,
}

/// What may come out of one workload's link, and whether it counts as authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The only source MAC.
    pub mac: [u8; 6],
    /// The only source addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Whether packets carry the mark of an authenticated, enrolled workload.
    pub enrolled: bool,
}

/// An identity that lives on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalIdentity {
    /// Inner addresses of its workloads here.
    pub addresses: BTreeSet<IpAddr>,
}

/// A remote (node, identity): a WireGuard peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerName {
    /// Its node.
    pub node: NodeName,
    /// Its identity.
    pub identity: SpiffeId,
}

/// What is known of a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteIdentity {
    /// Verified public keys by epoch; empty while no binding is known.
    pub keys: BTreeMap<Epoch, BoundKey>,
    /// Outer endpoints to begin with, best first.
    pub endpoints: Vec<SocketAddr>,
    /// Inner addresses that the controller says are its own.
    pub addresses: BTreeSet<IpAddr>,
}

impl Desired {
    /// The whole wish for one node.
    #[must_use]
    pub fn of(view: &ClusterView, here: &Here) -> Self {
        let mut desired = Self::default();
        local::add(&mut desired, view, here);
        remote::add(&mut desired, view, here);
        local::fence(&mut desired, view, here);
        desired
    }

    /// The identity and mode of a local workload, if its manifests say that it takes part in the mesh.
    #[must_use]
    pub fn membership(view: &ClusterView, here: &Here, pod: &Pod) -> Option<(SpiffeId, EffectiveMode)> {
        membership(view, &here.trust_domain, &here.root_namespace, pod)
    }
}

/// The identity and mode of a pod that takes part in the mesh: enrolled by label, with a network of its own, and not
/// DISABLE everywhere.
pub(crate) fn membership(
    view: &ClusterView,
    trust_domain: &TrustDomain,
    root_namespace: &str,
    pod: &Pod,
) -> Option<(SpiffeId, EffectiveMode)> {
    let mode = enrolled_mode(view, root_namespace, pod).filter(EffectiveMode::is_keyed)?;
    let identity = SpiffeId::for_service_account(trust_domain, &pod.namespace, &pod.service_account).ok()?;
    Some((identity, mode))
}

/// The mode of a pod that is enrolled by label and has a network of its own, DISABLE included.
pub(crate) fn enrolled_mode(view: &ClusterView, root_namespace: &str, pod: &Pod) -> Option<EffectiveMode> {
    enrolled_mode_from(view, root_namespace, pod).map(|(mode, _)| mode)
}

/// The same, with the PeerAuthentication that the mode is from.
pub(crate) fn enrolled_mode_from<'a>(
    view: &'a ClusterView,
    root_namespace: &str,
    pod: &Pod,
) -> Option<(EffectiveMode, Option<&'a PeerAuthentication>)> {
    if !has_network(pod) || !view.is_enrolled(pod) {
        return None;
    }
    // those of other namespaces speak for nobody here; who lives in the root namespace hears its own twice, which is no matter
    let policies = view.peer_authentications_in(&pod.namespace).chain(view.peer_authentications_in(root_namespace));
    Some(policy::resolve_from(policies, &pod.namespace, &pod.labels, root_namespace))
}

/// Whether a pod holds addresses of its own.
pub(crate) fn has_network(pod: &Pod) -> bool {
    !pod.host_network && !pod.finished
}

/// Whether an address can be a workload's at all: unicast, routable, and written in its own family.
pub(crate) fn is_routable(ip: IpAddr) -> bool {
    let special = match ip {
        // 240.0.0.0/4 is reserved (RFC 1112, section 4) and holds the broadcast address
        IpAddr::V4(v4) => v4.is_link_local() || v4.octets().first().is_some_and(|first| *first >= 240 || *first == 0),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4().is_some(),
    };
    !(special || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast())
}

#[cfg(test)]
mod tests;
