//! The objects that Weft reads, as plain data, free of their wire form.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use identity::{Epoch, NodeName, SpiffeId, Suite};
use ipnet::IpNet;
use policy::{AuthorizationPolicy, ClusterPolicy, EffectiveMode, Labels, NamedPort, NetworkPolicy, PeerAuthentication};

/// What an object is called: its kind, its namespace (empty for cluster-scoped kinds) and its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The kind, as in a manifest: `Pod`, `MeshNode`.
    pub kind: &'static str,
    /// Empty for cluster-scoped kinds.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

/// An object that Weft reads, converted at the door.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// `v1` Namespace.
    Namespace(Namespace),
    /// `v1` Pod.
    Pod(Pod),
    /// `v1` Node.
    Node(Node),
    /// PeerAuthentication of `weft.dev` (and Istio's).
    PeerAuthentication(PeerAuthentication),
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy(Arc<NetworkPolicy>),
    /// AuthorizationPolicy of `weft.dev`.
    AuthorizationPolicy(Arc<AuthorizationPolicy>),
    /// A policy of the administrator's tiers (`policy.networking.k8s.io`), of any of the three kinds.
    ClusterPolicy(Arc<ClusterPolicy>),
    /// `weft.dev` MeshNode: what a node says of itself, with the controller's answer.
    MeshNode(Box<MeshNode>),
    /// `weft.dev` MeshEndpointSlice, its signature already verified by the shell.
    MeshEndpointSlice(EndpointSlice),
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// `metadata.name`.
    pub name: String,
    /// Enrolment is `weft.dev/mesh=enabled` here.
    pub labels: Labels,
}

/// A pod, as far as Weft cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `weft.dev/mesh` here overrides the namespace's.
    pub labels: Labels,
    /// `spec.nodeName`; `None` while unscheduled.
    pub node: Option<NodeName>,
    /// `spec.serviceAccountName`, `default` where absent.
    pub service_account: String,
    /// Shares its node's network: has the node's identity, never one of its own.
    pub host_network: bool,
    /// Phase Succeeded or Failed: it holds no address any more.
    pub finished: bool,
    /// `status.podIPs`, where somebody reported them.
    pub ips: BTreeSet<IpAddr>,
    /// `spec.containers[].ports` that have a name, which policies can use.
    pub ports: BTreeSet<NamedPort>,
}

/// A node, as the cluster describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `metadata.name`.
    pub name: NodeName,
    /// `metadata.uid`: what a node's own objects go with; empty where nobody gives one.
    pub uid: String,
    /// `metadata.labels`, which the administrator's policies can select by.
    pub labels: Labels,
    /// `spec.podCIDRs`: addresses outside are refused in a node's report, where this is known.
    pub pod_cidrs: Vec<IpNet>,
    /// `status.addresses` of type InternalIP.
    pub addresses: Vec<IpAddr>,
}

/// What a node says of itself. The controller's shell has verified the node's signature before it hands this on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshNode {
    /// `metadata.name`.
    pub name: NodeName,
    /// A random identifier made with the node's secret; a rebuilt node has another.
    pub uid: String,
    /// Outer UDP endpoints, both families.
    pub endpoints: Vec<SocketAddr>,
    /// The node's own addresses, which its node identity owns.
    pub addresses: BTreeSet<IpAddr>,
    /// Keys that the node asks bindings for.
    pub keys: Vec<RequestedKey>,
    /// Workloads whose interface is attached there.
    pub attachments: Vec<ReportedAttachment>,
    /// The newest revision of endpoint slices that this node has put into its kernel.
    pub observed_revision: u64,
}

/// A WireGuard public key for which a node asks a binding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestedKey {
    /// For this identity.
    pub identity: SpiffeId,
    /// In this epoch.
    pub epoch: Epoch,
    /// X25519 public key.
    pub public_key: [u8; 32],
    /// Ed25519 public key for the X.509-SVID.
    pub svid_key: [u8; 32],
    /// The best data cipher that the node speaks with this key.
    pub suite: Suite,
}

/// An attached workload, as its node reports it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReportedAttachment {
    /// Pod namespace.
    pub namespace: String,
    /// Pod name.
    pub pod: String,
    /// Pod UID.
    pub uid: String,
    /// Addresses that the primary CNI plugin gave it.
    pub ips: BTreeSet<IpAddr>,
}

/// Which address belongs to which identity on one node: the controller's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// The node.
    pub node: NodeName,
    /// The node's UID at that time.
    pub node_uid: String,
    /// Rises with every change of any slice.
    pub revision: u64,
    /// One per address; at most [`ENDPOINTS_MAX`](super::ENDPOINTS_MAX).
    pub endpoints: BTreeMap<IpAddr, Endpoint>,
}

/// One address of a workload (or of a node) as everybody should treat it.
///
/// `identity`, `mode` and `enforced` together say how far the workload is on its way into the mesh: see [`Phase`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Who is there; `None` where the workload is outside the mesh: clear text is right.
    pub identity: Option<SpiffeId>,
    /// What it accepts; DISABLE with an identity is [`Phase::Ready`]. Absent where not enrolled, and for nodes.
    pub mode: Option<EffectiveMode>,
    /// Every node has switched to what this says: receivers may reject the other way.
    pub enforced: bool,
    /// Pod namespace, empty for a node's own address.
    pub namespace: String,
    /// Pod name, or node name.
    pub name: String,
    /// Pod UID, or node UID.
    pub uid: String,
}

/// How far a workload is in the mesh, as published: neighbours understand each other, so that a change loses no packet
/// while nodes learn of it one after another (decision 0008).
///
/// ```text
///            senders use        receivers accept      as Endpoint
/// Outside    clear text         clear text            identity none
/// Ready      clear text         both                  identity, mode DISABLE, not enforced
/// Switched   the tunnel         both                  identity, keyed mode,   not enforced
/// Enforced   the tunnel         what the mode says    identity, keyed mode,   enforced
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Not in the mesh.
    Outside,
    /// Everybody knows its key and takes its tunnelled packets; nobody sends any yet, or nobody does any more.
    Ready,
    /// Everybody sends to it by the tunnel, and it does so itself; clear text is taken from whoever does not know yet.
    Switched,
    /// Its mode holds, and clear text from a sender who has a key is refused.
    Enforced,
}

impl Endpoint {
    /// How far it is in the mesh.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match (&self.identity, &self.mode) {
            (None, _) => Phase::Outside,
            (Some(_), Some(mode)) if !mode.is_keyed() => Phase::Ready,
            (Some(_), _) if self.enforced => Phase::Enforced,
            (Some(_), _) => Phase::Switched,
        }
    }
}
