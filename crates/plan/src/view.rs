//! The cluster as plain data: objects in by events, a re-list replaces everything at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use identity::NodeName;
use policy::{AuthorizationPolicy, ClusterPolicy, Labels, NetworkPolicy, PeerAuthentication};
use thiserror::Error;

pub use self::object::{
    Endpoint, EndpointSlice, MeshNode, Namespace, Node, Object, ObjectKey, Phase, Pod, ReportedAttachment, RequestedKey,
};

mod object;

/// Most objects of one kind: Kubernetes supports 150,000 pods and 5,000 nodes (its page "Considerations for large
/// clusters"); one more is refused, what is known stays. A pod takes about 1 KiB.
pub const OBJECTS_MAX: usize = 150_000;

/// Most nodes, MeshNodes and slices each; the limit on nodes of the same page, with room.
pub const NODES_MAX: usize = 8_192;

/// Most addresses in one slice: 250 pods in both families are usual, the rest is room for a dense node.
pub const ENDPOINTS_MAX: usize = 4_096;

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

/// Everything known of the cluster; bounded by [`OBJECTS_MAX`], [`NODES_MAX`] and [`ENDPOINTS_MAX`].
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
    /// By namespace and name.
    pub network_policies: BTreeMap<(String, String), Arc<NetworkPolicy>>,
    /// By namespace and name.
    pub authorization_policies: BTreeMap<(String, String), Arc<AuthorizationPolicy>>,
    /// By kind and name.
    pub cluster_policies: BTreeMap<(String, String), Arc<ClusterPolicy>>,
    /// By name.
    pub mesh_nodes: BTreeMap<NodeName, MeshNode>,
    /// By node.
    pub slices: BTreeMap<NodeName, EndpointSlice>,
    /// The highest revision of each node's slice, kept when the slice goes: an old one cannot come back after it.
    revisions: BTreeMap<NodeName, u64>,
    staged: Option<Box<Self>>,
    synced: bool,
}

/// Why a change was not taken in. What was known before stays.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ViewError {
    /// The control plane, or the store it writes to, went back in time.
    #[error("endpoint slice of {node} has revision {revision}, {kept} was seen before: an old one came back")]
    RolledBack {
        /// Whose slice.
        node: NodeName,
        /// The revision that came.
        revision: u64,
        /// The revision that is kept.
        kept: u64,
    },
    /// Two slices of one revision say different things: two controllers write, or one forgot what it wrote.
    #[error("endpoint slice of {node} at revision {revision} says something else than the one seen before")]
    Contradictory {
        /// Whose slice.
        node: NodeName,
        /// The revision of both.
        revision: u64,
    },
    /// One object more than there is room for.
    #[error("there are {max} objects of kind {kind} already, {name} is left out")]
    Full {
        /// The kind.
        kind: &'static str,
        /// `namespace/name`, or the name alone.
        name: String,
        /// The limit.
        max: usize,
    },
    /// A slice with more addresses than a node can have.
    #[error("endpoint slice of {node} has {count} addresses, the limit is {max}", max = ENDPOINTS_MAX)]
    TooManyEndpoints {
        /// Whose slice.
        node: NodeName,
        /// How many.
        count: usize,
    },
}

impl ClusterView {
    /// Takes one change in. `Ok(true)` where something may have to follow from it: the visible view changed.
    ///
    /// # Errors
    /// [`ViewError`]: the object is left out and what was known of it stays.
    pub fn handle(&mut self, event: Event) -> Result<bool, ViewError> {
        match event {
            Event::Init => {
                self.staged = Some(Box::default());
                Ok(false)
            }
            Event::InitDone => Ok(self.staged.take().is_some_and(|staged| self.replace(*staged))),
            Event::Apply(Object::MeshEndpointSlice(slice)) => self.apply_slice(slice),
            Event::Apply(object) => match self.staged.as_deref_mut() {
                Some(staged) => staged.apply(object).map(|_| false),
                None => self.apply(object),
            },
            Event::Delete(key) => match self.staged.as_deref_mut() {
                Some(staged) => {
                    staged.delete(&key);
                    Ok(false)
                }
                None => Ok(self.delete(&key)),
            },
        }
    }

    /// Whether one whole list has come in: before that nothing may be concluded from what is absent.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// The newest revision of any slice taken in so far; 0 before the first. A node that has put the view into its
    /// kernel reports this as its `observed_revision`.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revisions.values().copied().max().unwrap_or(0)
    }

    /// Whether an address is between two phases, so that the controller waits for every node to say how far it is
    /// ([`Self::revision`]). While nobody is, a node need not say it.
    #[must_use]
    pub fn is_anybody_waited_for(&self) -> bool {
        let phases = self.slices.values().flat_map(|slice| slice.endpoints.values().map(Endpoint::phase));
        phases.into_iter().any(|phase| matches!(phase, Phase::Ready | Phase::Switched))
    }

    /// The labels of a namespace; none when it is unknown.
    #[must_use]
    pub fn namespace_labels(&self, name: &str) -> Labels {
        self.namespaces.get(name).map(|namespace| namespace.labels.clone()).unwrap_or_default()
    }

    /// Whether the labels of a pod or of its namespace say that it takes part in the mesh.
    #[must_use]
    pub fn is_enrolled(&self, pod: &Pod) -> bool {
        let none = Labels::new();
        let namespace = self.namespaces.get(&pod.namespace).map_or(&none, |namespace| &namespace.labels);
        policy::is_enrolled(namespace, &pod.labels)
    }

    /// The PeerAuthentications of one namespace.
    pub(crate) fn peer_authentications_in(&self, namespace: &str) -> impl Iterator<Item = &PeerAuthentication> {
        let those = self.peer_authentications.range((namespace.to_owned(), String::new())..);
        those.take_while(move |((of, _), _)| of == namespace).map(|(_, policy)| policy)
    }

    /// Whether any policy says who may talk to whom.
    #[must_use]
    pub fn has_policies(&self) -> bool {
        !self.network_policies.is_empty()
            || !self.authorization_policies.is_empty()
            || !self.cluster_policies.is_empty()
    }

    fn replace(&mut self, mut fresh: Self) -> bool {
        fresh.revisions = std::mem::take(&mut self.revisions);
        fresh.synced = true;
        let changed = !self.synced || !self.is_same(&fresh);
        *self = fresh;
        changed
    }

    fn is_same(&self, other: &Self) -> bool {
        self.namespaces == other.namespaces
            && self.pods == other.pods
            && self.nodes == other.nodes
            && self.peer_authentications == other.peer_authentications
            && self.network_policies == other.network_policies
            && self.authorization_policies == other.authorization_policies
            && self.cluster_policies == other.cluster_policies
            && self.mesh_nodes == other.mesh_nodes
            && self.slices == other.slices
    }

    /// A slice is held against the newest seen of its node, whether a list is on its way or not.
    fn apply_slice(&mut self, slice: EndpointSlice) -> Result<bool, ViewError> {
        let held = self.slices.get(&slice.node);
        let newest = self.revisions.get(&slice.node).copied().unwrap_or(0);
        let refused = if slice.revision < newest {
            let (node, revision) = (slice.node.clone(), slice.revision);
            Some(ViewError::RolledBack { node, revision, kept: newest })
        } else if held.is_some_and(|held| held.revision == slice.revision && *held != slice) {
            Some(ViewError::Contradictory { node: slice.node.clone(), revision: slice.revision })
        } else if slice.endpoints.len() > ENDPOINTS_MAX {
            Some(ViewError::TooManyEndpoints { node: slice.node.clone(), count: slice.endpoints.len() })
        } else {
            None
        };
        let Some(error) = refused else {
            let (node, revision) = (slice.node.clone(), slice.revision);
            let slices = self.staged.as_deref_mut().map_or(&mut self.slices, |staged| &mut staged.slices);
            let changed = insert("MeshEndpointSlice", NODES_MAX, slices, slice.node.clone(), slice)?;
            self.remember(node, revision);
            return Ok(changed && self.staged.is_none());
        };
        // a list that holds only the old one does not make the newer one go away
        if let (Some(staged), Some(held)) = (self.staged.as_deref_mut(), held) {
            staged.slices.insert(slice.node, held.clone());
        }
        Err(error)
    }

    fn remember(&mut self, node: NodeName, revision: u64) {
        self.revisions.insert(node, revision);
        while self.revisions.len() > 2 * NODES_MAX {
            let gone = self.revisions.iter().filter(|(node, _)| !self.slices.contains_key(*node));
            let Some(oldest) = gone.min_by_key(|(_, revision)| **revision).map(|(node, _)| node.clone()) else { break };
            self.revisions.remove(&oldest);
        }
    }

    fn apply(&mut self, object: Object) -> Result<bool, ViewError> {
        match object {
            Object::Namespace(it) => insert("Namespace", OBJECTS_MAX, &mut self.namespaces, it.name.clone(), it),
            Object::Pod(it) => insert("Pod", OBJECTS_MAX, &mut self.pods, (it.namespace.clone(), it.name.clone()), it),
            Object::Node(it) => insert("Node", NODES_MAX, &mut self.nodes, it.name.clone(), it),
            Object::PeerAuthentication(it) => {
                let key = (it.namespace.clone(), it.name.clone());
                insert("PeerAuthentication", OBJECTS_MAX, &mut self.peer_authentications, key, it)
            }
            Object::NetworkPolicy(it) => {
                let key = (it.namespace.clone(), it.name.clone());
                insert("NetworkPolicy", OBJECTS_MAX, &mut self.network_policies, key, it)
            }
            Object::AuthorizationPolicy(it) => {
                let key = (it.namespace.clone(), it.name.clone());
                insert("AuthorizationPolicy", OBJECTS_MAX, &mut self.authorization_policies, key, it)
            }
            Object::ClusterPolicy(it) => {
                let kind = it.kind.as_str();
                insert(kind, OBJECTS_MAX, &mut self.cluster_policies, (kind.to_owned(), it.name.clone()), it)
            }
            Object::MeshNode(it) => insert("MeshNode", NODES_MAX, &mut self.mesh_nodes, it.name.clone(), *it),
            Object::MeshEndpointSlice(it) => self.apply_slice(it),
        }
    }

    fn delete(&mut self, key: &ObjectKey) -> bool {
        let namespaced = (key.namespace.clone(), key.name.clone());
        let node = NodeName(key.name.clone());
        match key.kind {
            "Namespace" => self.namespaces.remove(&key.name).is_some(),
            "Pod" => self.pods.remove(&namespaced).is_some(),
            "Node" => self.nodes.remove(&node).is_some(),
            "PeerAuthentication" => self.peer_authentications.remove(&namespaced).is_some(),
            "NetworkPolicy" => self.network_policies.remove(&namespaced).is_some(),
            "AuthorizationPolicy" => self.authorization_policies.remove(&namespaced).is_some(),
            "ClusterNetworkPolicy" | "AdminNetworkPolicy" | "BaselineAdminNetworkPolicy" => {
                self.cluster_policies.remove(&(key.kind.to_owned(), key.name.clone())).is_some()
            }
            "MeshNode" => self.mesh_nodes.remove(&node).is_some(),
            "MeshEndpointSlice" => self.slices.remove(&node).is_some(),
            _ => false,
        }
    }
}

/// Inserts within a bound; says whether anything changed.
fn insert<K: Ord + Named, V: PartialEq>(
    kind: &'static str,
    max: usize,
    into: &mut BTreeMap<K, V>,
    key: K,
    value: V,
) -> Result<bool, ViewError> {
    if into.len() >= max && !into.contains_key(&key) {
        return Err(ViewError::Full { kind, name: key.shown(), max });
    }
    let same = into.get(&key) == Some(&value);
    into.insert(key, value);
    Ok(!same)
}

/// How an object's key is shown to people.
trait Named {
    fn shown(&self) -> String;
}

impl Named for String {
    fn shown(&self) -> String {
        self.clone()
    }
}

impl Named for (String, String) {
    fn shown(&self) -> String {
        format!("{}/{}", self.0, self.1)
    }
}

impl Named for NodeName {
    fn shown(&self) -> String {
        self.to_string()
    }
}

#[cfg(test)]
mod tests;
