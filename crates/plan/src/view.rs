//! The cluster as plain data: objects in by events, a re-list replaces everything at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use identity::{Epoch, NodeName, SpiffeId};
use ipnet::IpNet;
use policy::{EffectiveMode, Labels, PeerAuthentication};

/// A change in the cluster, as watched. `Init`, any number of `Apply`, `InitDone` replaces the whole view at `InitDone`.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A (re-)list begins; what follows until `InitDone` is collected aside.
    Init,
    /// This object is as given.
    Apply(Object),
    /// This object is gone.
    Delete(ObjectKey),
    /// The (re-)list is complete: objects that were not in it are gone.
    InitDone,
}

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
}

/// A node, as the cluster describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `metadata.name`.
    pub name: NodeName,
    /// `spec.podCIDRs`: addresses outside are refused in a node's report, where this is known.
    pub pod_cidrs: Vec<IpNet>,
    /// `status.addresses` of type InternalIP.
    pub addresses: Vec<IpAddr>,
}

/// What a node says of itself and what the controller answered. The shell has verified the node's signature
/// (`report_valid`) before it hands this on; bindings are verified by whoever uses them.
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
    /// Bindings that the controller signed: the encoded signed binding (`identity::SignedBinding`).
    pub bindings: Vec<String>,
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
    /// One per address.
    pub endpoints: BTreeMap<IpAddr, Endpoint>,
}

/// One address of a workload (or of a node) as everybody should treat it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Who is there; `None` where the workload is not enrolled: clear text is right.
    pub identity: Option<SpiffeId>,
    /// Absent where not enrolled.
    pub mode: Option<EffectiveMode>,
    /// Every node has switched to what this says: receivers may now reject the other way (two-phase change).
    pub enforced: bool,
    /// Pod namespace, empty for a node's own address.
    pub namespace: String,
    /// Pod name, or node name.
    pub name: String,
    /// Pod UID, or node UID.
    pub uid: String,
}

/// Everything known of the cluster.
#[derive(Clone, Debug, Default)]
pub struct ClusterView {
    /// By name.
    pub namespaces: BTreeMap<String, Namespace>,
    /// By namespace and name.
    pub pods: BTreeMap<(String, String), Pod>,
    /// By name.
    pub nodes: BTreeMap<NodeName, Node>,
    /// By namespace and name.
    pub peer_authentications: BTreeMap<(String, String), PeerAuthentication>,
    /// By name.
    pub mesh_nodes: BTreeMap<NodeName, MeshNode>,
    /// By node.
    pub slices: BTreeMap<NodeName, EndpointSlice>,
}
