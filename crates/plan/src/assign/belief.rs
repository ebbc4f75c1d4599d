//! What of the nodes' reports fits the cluster: who claims which address, and whose it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use identity::{NodeName, SpiffeId, TrustDomain};
use ipnet::IpNet;
use policy::EffectiveMode;

use super::refusal::{AddressFault, Refusal, RefusalReason};
use crate::desired::{enrolled_mode, has_network, is_routable};
use crate::view::{ClusterView, ENDPOINTS_MAX, EndpointSlice, MeshNode, Phase, Pod, ReportedAttachment};

/// Most addresses of its own that a node may have in the mesh.
const NODE_ADDRESSES_MAX: usize = 64;
/// Most refusals of one node that are kept; a node that lies more often is not listened to longer.
const REFUSALS_MAX: usize = 256;

/// One address as a node claims it, with what the cluster says of its holder.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) holder: Holder,
    /// Its interface came through our plugin; false for a pod that only its status speaks of.
    pub(super) attached: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Holder {
    Node { identity: SpiffeId },
    Pod { namespace: String, name: String, uid: String, identity: Option<SpiffeId>, mode: Option<EffectiveMode> },
}

impl Holder {
    /// Who it is to be in the mesh; `None` where it is to be outside.
    pub(super) fn wanted(&self) -> Option<&SpiffeId> {
        match self {
            Self::Node { identity } => Some(identity),
            Self::Pod { identity, mode, .. } => {
                identity.as_ref().filter(|_| mode.as_ref().is_some_and(EffectiveMode::is_keyed))
            }
        }
    }

    fn label(&self, node: &NodeName) -> String {
        match self {
            Self::Node { .. } => node.to_string(),
            Self::Pod { namespace, name, .. } => format!("{namespace}/{name}"),
        }
    }
}

/// Which addresses each pod had while it was attached: once its node says that it is gone, its status does not hold them.
pub(super) type Attached = BTreeMap<String, BTreeSet<IpAddr>>;

/// Everything that beliefs of one moment rest on.
pub(super) struct Belief<'a> {
    view: &'a ClusterView,
    trust_domain: &'a TrustDomain,
    root_namespace: &'a str,
    published: &'a BTreeMap<NodeName, EndpointSlice>,
    attached: &'a Attached,
    /// Live pods by the addresses in their status.
    by_status: BTreeMap<IpAddr, Vec<&'a Pod>>,
    by_node: BTreeMap<&'a NodeName, Vec<&'a Pod>>,
    pub(super) refusals: Vec<Refusal>,
}

impl<'a> Belief<'a> {
    pub(super) fn new(
        view: &'a ClusterView,
        (trust_domain, root_namespace): (&'a TrustDomain, &'a str),
        published: &'a BTreeMap<NodeName, EndpointSlice>,
        attached: &'a Attached,
    ) -> Self {
        let mut by_status: BTreeMap<IpAddr, Vec<&Pod>> = BTreeMap::new();
        let mut by_node: BTreeMap<&NodeName, Vec<&Pod>> = BTreeMap::new();
        for pod in view.pods.values().filter(|pod| has_network(pod)) {
            let Some(node) = &pod.node else { continue };
            by_node.entry(node).or_default().push(pod);
            for ip in &pod.ips {
                by_status.entry(*ip).or_default().push(pod);
            }
        }
        let refusals = Vec::new();
        Self { view, trust_domain, root_namespace, published, attached, by_status, by_node, refusals }
    }

    /// Each address of each node that has joined, with the one whose it is.
    pub(super) fn settle(&mut self) -> BTreeMap<NodeName, BTreeMap<IpAddr, Claim>> {
        let mut held: BTreeMap<NodeName, BTreeMap<IpAddr, Claim>> = BTreeMap::new();
        let mut contenders: BTreeMap<IpAddr, Vec<(&NodeName, Claim)>> = BTreeMap::new();
        for node in self.view.mesh_nodes.values() {
            held.insert(node.name.clone(), BTreeMap::new());
            let refused = self.refusals.len();
            for (ip, claim) in self.claims(node) {
                contenders.entry(ip).or_default().push((&node.name, claim));
            }
            self.refusals.truncate(refused + REFUSALS_MAX);
        }
        for (ip, mut claims) in contenders {
            let rank = |(node, claim): &(&NodeName, Claim)| (!claim.attached, !self.is_published(node, ip, claim));
            // stable: among equals the node whose name sorts first, and there the attachment reported first
            claims.sort_by_key(rank);
            let mut claims = claims.into_iter();
            let Some((node, claim)) = claims.next() else { continue };
            let winner = (node, claim.holder.label(node));
            let here = held.entry(node.clone()).or_default();
            if here.len() < ENDPOINTS_MAX {
                here.insert(ip, claim);
            } else {
                let why = AddressFault::TooMany;
                self.refuse(node, RefusalReason::Address { ip, pod: winner.1.clone(), why });
            }
            for (node, claim) in claims {
                let pod = claim.holder.label(node);
                // the same said twice
                if winner != (node, pod.clone()) {
                    self.refuse(node, RefusalReason::Address { ip, pod, why: AddressFault::Held });
                }
            }
        }
        held
    }

    fn refuse(&mut self, node: &NodeName, reason: RefusalReason) {
        self.refusals.push(Refusal { node: node.clone(), key: None, reason });
    }

    /// Whether this very holder is the one that everybody knows.
    fn is_published(&self, node: &NodeName, ip: IpAddr, claim: &Claim) -> bool {
        let endpoint = self.published.get(node).and_then(|slice| slice.endpoints.get(&ip));
        endpoint.is_some_and(|endpoint| match &claim.holder {
            Holder::Node { identity } => endpoint.identity.as_ref() == Some(identity),
            Holder::Pod { uid, .. } => endpoint.uid == *uid,
        })
    }

    fn claims(&mut self, node: &'a MeshNode) -> Vec<(IpAddr, Claim)> {
        let mut claims = Vec::new();
        for attachment in &node.attachments {
            let label = format!("{}/{}", attachment.namespace, attachment.pod);
            let Some(pod) = self.scheduled_pod(node, attachment) else {
                self.refuse(&node.name, RefusalReason::NotScheduled { pod: label });
                continue;
            };
            self.claim_pod(node, pod, &attachment.ips, true, &mut claims);
        }
        self.claim_by_status(node, &mut claims);
        let Ok(identity) = SpiffeId::for_node(self.trust_domain, &node.name) else { return claims };
        for ip in node.addresses.iter().take(NODE_ADDRESSES_MAX) {
            match self.node_address_fault(node, *ip) {
                Some(why) => {
                    let reason = RefusalReason::Address { ip: *ip, pod: node.name.to_string(), why };
                    self.refuse(&node.name, reason);
                }
                None => {
                    let holder = Holder::Node { identity: identity.clone() };
                    claims.push((*ip, Claim { holder, attached: true }));
                }
            }
        }
        claims
    }

    fn claim_pod(
        &mut self,
        node: &MeshNode,
        pod: &Pod,
        ips: &BTreeSet<IpAddr>,
        attached: bool,
        claims: &mut Vec<(IpAddr, Claim)>,
    ) {
        let mode = enrolled_mode(self.view, self.root_namespace, pod);
        let identity = SpiffeId::for_service_account(self.trust_domain, &pod.namespace, &pod.service_account).ok();
        let (namespace, name, uid) = (pod.namespace.clone(), pod.name.clone(), pod.uid.clone());
        let holder = Holder::Pod { namespace, name, uid, identity, mode };
        for ip in ips {
            match self.address_fault(node, pod, *ip) {
                None => claims.push((*ip, Claim { holder: holder.clone(), attached })),
                Some(why) => {
                    let reason = RefusalReason::Address { ip: *ip, pod: holder.label(&node.name), why };
                    self.refuse(&node.name, reason);
                }
            }
        }
    }

    /// Pods that were there before our plugin was: outside the mesh, they are spoken for all the same, so that clear
    /// text to them is known to be right. Those that are to be in the mesh stay outside until they are attached.
    fn claim_by_status(&mut self, node: &MeshNode, claims: &mut Vec<(IpAddr, Claim)>) {
        let reported: BTreeSet<&String> = node.attachments.iter().map(|attachment| &attachment.uid).collect();
        let pods = self.by_node.get(&node.name).cloned().unwrap_or_default();
        for pod in pods {
            if pod.ips.is_empty() || reported.contains(&pod.uid) || self.attached.contains_key(&pod.uid) {
                continue;
            }
            let wanted = enrolled_mode(self.view, self.root_namespace, pod).is_some_and(|mode| mode.is_keyed());
            if wanted {
                let pod = format!("{}/{}", pod.namespace, pod.name);
                self.refuse(&node.name, RefusalReason::NotAttached { pod });
            }
            if !wanted || self.was_outside(node, pod) {
                self.claim_pod(node, pod, &pod.ips, false, claims);
            }
        }
    }

    fn was_outside(&self, node: &MeshNode, pod: &Pod) -> bool {
        let endpoints = self.published.get(&node.name).map(|slice| &slice.endpoints);
        endpoints.is_some_and(|all| all.values().any(|e| e.uid == pod.uid && e.phase() == Phase::Outside))
    }

    fn scheduled_pod(&self, node: &MeshNode, attachment: &ReportedAttachment) -> Option<&'a Pod> {
        let pod = self.view.pods.get(&(attachment.namespace.clone(), attachment.pod.clone()))?;
        let here = pod.node.as_ref() == Some(&node.name) && pod.uid == attachment.uid;
        (here && has_network(pod)).then_some(pod)
    }

    fn address_fault(&self, node: &MeshNode, pod: &Pod, ip: IpAddr) -> Option<AddressFault> {
        if !is_routable(ip) {
            return Some(AddressFault::Kind);
        }
        if !pod.ips.is_empty() && !pod.ips.contains(&ip) {
            return Some(AddressFault::Status);
        }
        if !self.is_in_own_range(&node.name, ip) {
            return Some(AddressFault::Range);
        }
        if self.is_node_address(ip) {
            return Some(AddressFault::NodeAddress);
        }
        let others = self.by_status.get(&ip).map(Vec::as_slice).unwrap_or_default();
        let holds = |other: &&&Pod| other.uid != pod.uid && other.node.as_ref() != Some(&node.name);
        let held = others.iter().filter(holds).any(|other| !self.has_released(other, ip));
        held.then_some(AddressFault::Held)
    }

    /// Whether a node's ranges allow the address; where it has none, no other node's may hold it.
    fn is_in_own_range(&self, node: &NodeName, ip: IpAddr) -> bool {
        let ranges = self.view.nodes.get(node).map(|n| n.pod_cidrs.as_slice()).unwrap_or_default();
        if ranges.is_empty() { !self.is_in_range_of_another(node, ip) } else { contains(ranges, ip) }
    }

    fn is_in_range_of_another(&self, node: &NodeName, ip: IpAddr) -> bool {
        self.view.nodes.values().filter(|other| other.name != *node).any(|other| contains(&other.pod_cidrs, ip))
    }

    /// A node's word on its own addresses does not reach into another node's range.
    fn is_node_address(&self, ip: IpAddr) -> bool {
        let mut listed = self.view.nodes.values().filter(|node| node.addresses.contains(&ip));
        listed.any(|node| !self.is_in_range_of_another(&node.name, ip))
    }

    /// Whether a pod had the address by an attachment that its node says is gone.
    fn has_released(&self, pod: &Pod, ip: IpAddr) -> bool {
        let had = self.attached.get(&pod.uid).is_some_and(|ips| ips.contains(&ip));
        let node = pod.node.as_ref().and_then(|node| self.view.mesh_nodes.get(node));
        had && node.is_some_and(|node| node.attachments.iter().all(|attachment| attachment.uid != pod.uid))
    }

    fn node_address_fault(&self, node: &MeshNode, ip: IpAddr) -> Option<AddressFault> {
        if !is_routable(ip) {
            return Some(AddressFault::Kind);
        }
        if self.is_in_range_of_another(&node.name, ip) {
            return Some(AddressFault::Range);
        }
        match self.view.nodes.get(&node.name).filter(|known| !known.addresses.is_empty()) {
            Some(known) => (!known.addresses.contains(&ip)).then_some(AddressFault::Unlisted),
            // its own object is missing or says nothing, as of a node that was deleted: whoever lists the address has it now
            None if self.is_node_address(ip) => Some(AddressFault::NodeAddress),
            None => self.by_status.contains_key(&ip).then_some(AddressFault::Held),
        }
    }
}

fn contains(ranges: &[IpNet], ip: IpAddr) -> bool {
    ranges.iter().any(|range| range.contains(&ip))
}
