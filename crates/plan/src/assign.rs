//! The controller's brain: which address belongs to which identity on which node, and which keys deserve a binding.
//!
//! A node is believed only about what the cluster says is its own: pods scheduled there, addresses in its ranges that
//! nobody else holds. A workload goes into the mesh and out of it phase by phase (decision 0008).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use identity::{NodeName, SpiffeId, TrustDomain, UnixTime};

use self::belief::{Attached, Belief, Claim, Holder};
use self::grant::{KeyHolders, grant};
use self::passage::{Passage, Situation, Waited, endpoint_in, next_phase};
use crate::view::{ClusterView, Endpoint, EndpointSlice, MeshNode, Phase, RequestedKey};

mod belief;
mod grant;
mod passage;
mod refusal;

pub use grant::KEYS_PER_IDENTITY_MAX;
pub use passage::PATIENCE;
pub use refusal::{AddressFault, Refusal, RefusalReason};

/// Everything the controller should publish now: slices, each with the bindings of what is granted to its node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Assignments {
    /// One slice per node that has joined.
    pub slices: BTreeMap<NodeName, EndpointSlice>,
    /// Keys that deserve a binding, by node.
    pub grants: BTreeMap<NodeName, Vec<RequestedKey>>,
    /// What was not believed.
    pub refusals: Vec<Refusal>,
}

impl Assignments {
    /// The slices, oldest revision first: the order to write them in, so that who has seen a revision has seen all
    /// before it.
    #[must_use]
    pub fn slices_in_order(&self) -> Vec<&EndpointSlice> {
        let mut slices: Vec<_> = self.slices.values().collect();
        slices.sort_by_key(|slice| slice.revision);
        slices
    }
}

/// Follows the view and says what to publish; remembers what it published, so that holders keep what they hold.
#[derive(Debug)]
pub struct Assigner {
    trust_domain: TrustDomain,
    root_namespace: String,
    revision: u64,
    published: BTreeMap<NodeName, EndpointSlice>,
    passage: Passage,
    attached: Attached,
    keys: KeyHolders,
}

impl Assigner {
    /// Begins with the slices that were published before a restart. Revisions go on from them, and from the wall clock
    /// (a thousand a second) where they were lost: nodes remember the revisions they saw and believe no lower ones.
    #[must_use]
    pub fn new(
        trust_domain: TrustDomain,
        root_namespace: String,
        published: BTreeMap<NodeName, EndpointSlice>,
        wall: UnixTime,
    ) -> Self {
        let newest = published.values().map(|slice| slice.revision).max().unwrap_or(0);
        let revision = newest.max(wall.0.saturating_mul(1_000));
        let mut attached = Attached::new();
        for (ip, endpoint) in published.values().flat_map(|slice| &slice.endpoints) {
            if endpoint.phase() > Phase::Outside {
                attached.entry(endpoint.uid.clone()).or_default().insert(*ip);
            }
        }
        let (passage, keys) = (Passage::default(), KeyHolders::new());
        Self { trust_domain, root_namespace, revision, published, passage, attached, keys }
    }

    /// What to publish for this view; to be called whenever the view changed and at [`Self::poll_timeout`]. Unchanged
    /// slices come back unchanged, with the revision they had. `None` while the view is not complete: nothing is
    /// concluded from what is absent then, and what was published stands.
    ///
    /// The view's MeshNodes are those that have joined; the shell leaves out the others.
    pub fn handle_view(
        &mut self,
        view: &ClusterView,
        revoked: &BTreeSet<SpiffeId>,
        now: Instant,
    ) -> Option<Assignments> {
        if !view.is_synced() {
            return None;
        }
        self.passage.follow(&view.mesh_nodes, now);
        let names = (&self.trust_domain, self.root_namespace.as_str());
        let mut belief = Belief::new(view, names, &self.published, &self.attached);
        let held = belief.settle();
        let mut out = Assignments { refusals: belief.refusals, ..Assignments::default() };
        self.remember_attached(view, &held);
        let others_behind = self.is_anybody_behind(&held, &view.mesh_nodes);
        for (name, claims) in &held {
            let Some(node) = view.mesh_nodes.get(name) else { continue };
            let slice = self.publish((node, claims), &view.mesh_nodes, others_behind, now);
            out.slices.insert(name.clone(), slice);
        }
        self.published.clone_from(&out.slices);
        let published = &self.published;
        self.passage.retain(|node, ip| published.get(node).is_some_and(|slice| slice.endpoints.contains_key(&ip)));
        let (grants, refused) = grant(view, &self.alive(&held), revoked, &mut self.keys);
        out.grants = grants;
        out.refusals.extend(refused);
        Some(out)
    }

    /// When to call [`Self::handle_view`] again although nothing came in.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.passage.poll_timeout()
    }

    /// What this holder was published as at this address; nothing of a former holder, or of the node before it was rebuilt.
    fn before(&self, node: &MeshNode, ip: IpAddr, claim: &Claim) -> Option<&Endpoint> {
        let slice = self.published.get(&node.name).filter(|slice| slice.node_uid == node.uid)?;
        slice.endpoints.get(&ip).filter(|endpoint| match &claim.holder {
            Holder::Node { .. } => endpoint.uid == node.uid && endpoint.namespace.is_empty(),
            Holder::Pod { uid, namespace, .. } => endpoint.uid == *uid && endpoint.namespace == *namespace,
        })
    }

    fn remember_attached(&mut self, view: &ClusterView, held: &BTreeMap<NodeName, BTreeMap<IpAddr, Claim>>) {
        let known: BTreeSet<&String> = view.pods.values().map(|pod| &pod.uid).collect();
        self.attached.retain(|uid, _| known.contains(uid));
        for (ip, claim) in held.values().flatten().filter(|(_, claim)| claim.attached) {
            if let Holder::Pod { uid, .. } = &claim.holder {
                self.attached.entry(uid.clone()).or_default().insert(*ip);
            }
        }
    }

    /// Whether a workload that is on its way in may not send by the tunnel yet: some node has not heard of it.
    fn is_anybody_behind(
        &self,
        held: &BTreeMap<NodeName, BTreeMap<IpAddr, Claim>>,
        nodes: &BTreeMap<NodeName, MeshNode>,
    ) -> bool {
        held.iter().filter_map(|(name, claims)| Some((nodes.get(name)?, claims))).any(|(node, claims)| {
            let mut joining = claims.iter().filter(|(_, claim)| claim.attached && claim.holder.wanted().is_some());
            joining.any(|(ip, claim)| match self.before(node, *ip, claim).map(Endpoint::phase) {
                Some(Phase::Outside | Phase::Ready) => true,
                Some(Phase::Switched) => !self.passage.look(&(node.name.clone(), *ip), nodes).is_settled(),
                Some(Phase::Enforced) | None => false,
            })
        })
    }

    /// The slice of one node: the published one while nothing changed, else a new one at a new revision.
    fn publish(
        &mut self,
        (node, claims): (&MeshNode, &BTreeMap<IpAddr, Claim>),
        nodes: &BTreeMap<NodeName, MeshNode>,
        others_behind: bool,
        now: Instant,
    ) -> EndpointSlice {
        let mut endpoints = BTreeMap::new();
        let mut moved = Vec::new();
        for (ip, claim) in claims {
            let before = self.before(node, *ip, claim).cloned();
            let from = before.as_ref().map(Endpoint::phase);
            let waited = match from {
                Some(Phase::Ready | Phase::Switched) => {
                    let revision = self.published.get(&node.name).map_or(0, |slice| slice.revision);
                    self.passage.waited(&(node.name.clone(), *ip), (revision, nodes), now)
                }
                Some(Phase::Outside | Phase::Enforced) | None => Waited::default(),
            };
            let wanted = claim.holder.wanted();
            let is_node = matches!(claim.holder, Holder::Node { .. });
            let ready = is_node || wanted.is_some_and(|wanted| node.keys.iter().any(|key| key.identity == *wanted));
            let situation = Situation { waited, ready, others_behind };
            let Some(phase) = next_phase(from, wanted.is_some(), claim.attached, situation) else { continue };
            if from != Some(phase) {
                moved.push((*ip, phase));
            }
            endpoints.insert(*ip, endpoint_in(phase, claim, before.as_ref(), (&node.name, &node.uid)));
        }
        let held = self.published.get(&node.name).filter(|slice| slice.node_uid == node.uid);
        if let Some(slice) = held.filter(|slice| slice.endpoints == endpoints) {
            return slice.clone();
        }
        self.revision = self.revision.saturating_add(1);
        for (ip, phase) in moved {
            self.passage.arrive((node.name.clone(), ip), phase, self.revision, now);
        }
        EndpointSlice { node: node.name.clone(), node_uid: node.uid.clone(), revision: self.revision, endpoints }
    }

    /// Who is alive on each node: attached and on the way into the mesh, or published as being in it.
    fn alive(&self, held: &BTreeMap<NodeName, BTreeMap<IpAddr, Claim>>) -> BTreeMap<NodeName, BTreeSet<SpiffeId>> {
        let of_node = |(name, claims): (&NodeName, &BTreeMap<IpAddr, Claim>)| {
            let attached = claims.values().filter(|claim| claim.attached);
            let mut alive: BTreeSet<SpiffeId> = attached.filter_map(|claim| claim.holder.wanted().cloned()).collect();
            let slice = self.published.get(name);
            alive.extend(slice.into_iter().flat_map(|s| s.endpoints.values().filter_map(|e| e.identity.clone())));
            alive.extend(SpiffeId::for_node(&self.trust_domain, name));
            (name.clone(), alive)
        };
        held.iter().map(of_node).collect()
    }
}

#[cfg(test)]
mod tests;
