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

/// Everything known of the cluster. Its size is bounded by whoever feeds it: the back ends refuse objects over their limits.
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
    staged: Option<Box<Self>>,
    synced: bool,
}

/// A slice that was not taken because a newer one of the same node is already known (a rolled-back control plane).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RolledBack {
    /// The revision that came.
    pub revision: u64,
    /// The revision that is kept.
    pub kept: u64,
}

impl ClusterView {
    /// Takes one change in.
    ///
    /// # Errors
    /// [`RolledBack`] when an endpoint slice is older than the one already known; the newer one stays.
    pub fn handle(&mut self, event: Event) -> Result<(), RolledBack> {
        match event {
            Event::Init => {
                self.staged = Some(Box::default());
                Ok(())
            }
            Event::InitDone => {
                if let Some(staged) = self.staged.take() {
                    self.replace(*staged);
                }
                Ok(())
            }
            Event::Apply(object) => self.staged_or_self().apply(object),
            Event::Delete(key) => {
                self.staged_or_self().delete(&key);
                Ok(())
            }
        }
    }

    /// Whether one whole list has come in: before that nothing may be concluded from what is absent.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// The labels of a namespace; none when it is unknown.
    #[must_use]
    pub fn namespace_labels(&self, name: &str) -> Labels {
        self.namespaces.get(name).map(|namespace| namespace.labels.clone()).unwrap_or_default()
    }

    fn staged_or_self(&mut self) -> &mut Self {
        // two steps, because a borrow of `staged` must not outlive the branch
        if self.staged.is_some() { self.staged.get_or_insert_default() } else { self }
    }

    fn replace(&mut self, mut fresh: Self) {
        for (node, kept) in std::mem::take(&mut self.slices) {
            if let Some(listed) = fresh.slices.get_mut(&node)
                && listed.revision < kept.revision
                && listed.node_uid == kept.node_uid
            {
                *listed = kept;
            }
        }
        fresh.synced = true;
        *self = fresh;
    }

    fn apply(&mut self, object: Object) -> Result<(), RolledBack> {
        match object {
            Object::Namespace(it) => drop(self.namespaces.insert(it.name.clone(), it)),
            Object::Pod(it) => drop(self.pods.insert((it.namespace.clone(), it.name.clone()), it)),
            Object::Node(it) => drop(self.nodes.insert(it.name.clone(), it)),
            Object::PeerAuthentication(it) => {
                self.peer_authentications.insert((it.namespace.clone(), it.name.clone()), it);
            }
            Object::MeshNode(it) => drop(self.mesh_nodes.insert(it.name.clone(), *it)),
            Object::MeshEndpointSlice(it) => {
                let held = self.slices.get(&it.node).filter(|held| held.node_uid == it.node_uid);
                if let Some(kept) = held.map(|held| held.revision).filter(|kept| *kept > it.revision) {
                    return Err(RolledBack { revision: it.revision, kept });
                }
                self.slices.insert(it.node.clone(), it);
            }
        }
        Ok(())
    }

    fn delete(&mut self, key: &ObjectKey) {
        let namespaced = (key.namespace.clone(), key.name.clone());
        let node = NodeName(key.name.clone());
        match key.kind {
            "Namespace" => drop(self.namespaces.remove(&key.name)),
            "Pod" => drop(self.pods.remove(&namespaced)),
            "Node" => drop(self.nodes.remove(&node)),
            "PeerAuthentication" => drop(self.peer_authentications.remove(&namespaced)),
            "MeshNode" => drop(self.mesh_nodes.remove(&node)),
            "MeshEndpointSlice" => drop(self.slices.remove(&node)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str) -> Event {
        Event::Apply(Object::Namespace(Namespace { name: name.to_owned(), labels: Labels::new() }))
    }

    fn slice(revision: u64) -> Event {
        let (node, node_uid) = (NodeName("n1".to_owned()), "u".to_owned());
        Event::Apply(Object::MeshEndpointSlice(EndpointSlice { node, node_uid, revision, endpoints: BTreeMap::new() }))
    }

    #[test]
    fn a_relist_replaces_everything_at_once() {
        let mut view = ClusterView::default();
        for event in [Event::Init, namespace("a"), namespace("b")] {
            view.handle(event).unwrap();
        }
        assert!(!view.is_synced() && view.namespaces.is_empty());
        view.handle(Event::InitDone).unwrap();
        assert!(view.is_synced());
        for event in [Event::Init, namespace("b"), namespace("c")] {
            view.handle(event).unwrap();
        }
        assert_eq!(view.namespaces.keys().collect::<Vec<_>>(), ["a", "b"], "a half list shows");
        view.handle(Event::InitDone).unwrap();
        assert_eq!(view.namespaces.keys().collect::<Vec<_>>(), ["b", "c"]);
        view.handle(Event::Delete(ObjectKey { kind: "Namespace", namespace: String::new(), name: "b".into() }))
            .unwrap();
        assert_eq!(view.namespaces.keys().collect::<Vec<_>>(), ["c"]);
    }

    #[test]
    fn a_rolled_back_slice_is_refused_by_apply_and_by_list() {
        let mut view = ClusterView::default();
        view.handle(slice(7)).unwrap();
        assert_eq!(view.handle(slice(6)), Err(RolledBack { revision: 6, kept: 7 }));
        for event in [Event::Init, slice(5), Event::InitDone] {
            view.handle(event).unwrap();
        }
        assert_eq!(view.slices[&NodeName("n1".to_owned())].revision, 7);
        view.handle(slice(8)).unwrap();
        assert_eq!(view.slices[&NodeName("n1".to_owned())].revision, 8);
    }
}
