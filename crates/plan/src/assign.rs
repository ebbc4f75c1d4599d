//! The controller's brain: which address belongs to which identity on which node, and which keys deserve a binding.
//!
//! A node is believed only about what the cluster says is its own: pods scheduled there, addresses in its ranges that
//! nobody else holds. A change of who has a key is published in two phases (decision 0008).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use identity::{Epoch, NodeName, SpiffeId, TrustDomain};
use thiserror::Error;

use crate::desired::membership;
use crate::view::{ClusterView, Endpoint, EndpointSlice, MeshNode, Pod, ReportedAttachment, RequestedKey};

/// How long receivers wait for every node to say that it has switched before they reject the other way: a node that
/// is down must not hold a mode change up. Ten times what a live node needs (measured: tens of milliseconds).
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Everything the controller should publish now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Assignments {
    /// One slice per node that has joined.
    pub slices: BTreeMap<NodeName, EndpointSlice>,
    /// Keys that deserve a binding, by node.
    pub grants: BTreeMap<NodeName, Vec<RequestedKey>>,
    /// What was not believed.
    pub refusals: Vec<Refusal>,
}

/// Something a node said that is not believed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// The node that said it.
    pub node: NodeName,
    /// About which identity and epoch, where it is about a key.
    pub key: Option<(SpiffeId, Epoch)>,
    /// Why.
    pub reason: RefusalReason,
}

/// Why a node's claim is not believed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum RefusalReason {
    /// The identity has no live, enrolled workload attached there.
    #[error("no live enrolled workload of {identity} is attached on this node")]
    NoWorkload {
        /// The identity asked for.
        identity: SpiffeId,
    },
    /// Somebody withdrew the identity.
    #[error("{identity} is revoked: give it back with `meshctl identity restore`")]
    Revoked {
        /// The identity asked for.
        identity: SpiffeId,
    },
    /// The pod is unknown, finished, of another UID, or scheduled elsewhere.
    #[error("pod {pod} with that UID is not scheduled on this node")]
    NotScheduled {
        /// `namespace/name`.
        pod: String,
    },
    /// The address cannot be this pod's.
    #[error("{ip} cannot be {pod}'s: {why}")]
    Address {
        /// The address claimed.
        ip: IpAddr,
        /// `namespace/name`, or the node's name.
        pod: String,
        /// What stands against it.
        why: AddressFault,
    },
}

/// What stands against an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum AddressFault {
    /// Unspecified, loopback, multicast or link-local.
    #[error("it is no unicast address of a workload")]
    Kind,
    /// Outside the node's pod ranges.
    #[error("it is outside the node's pod CIDRs")]
    Range,
    /// The pod's status names others.
    #[error("the pod's status names other addresses")]
    Status,
    /// A node's own address.
    #[error("it is a node's own address")]
    NodeAddress,
    /// Another live workload holds it.
    #[error("another live workload holds it")]
    Held,
    /// Not among the node's addresses in its Node object.
    #[error("the Node object does not list it")]
    Unlisted,
}

/// Follows the view and says what to publish; remembers what it published, so that holders keep what they hold.
#[derive(Debug)]
pub struct Assigner {
    trust_domain: TrustDomain,
    root_namespace: String,
    revision: u64,
    published: BTreeMap<NodeName, EndpointSlice>,
    unsettled: BTreeMap<(NodeName, IpAddr), Unsettled>,
}

#[derive(Clone, Copy, Debug)]
struct Unsettled {
    revision: u64,
    since: Instant,
}

struct Claimed {
    ip: IpAddr,
    endpoint: Endpoint,
}

impl Assigner {
    /// Begins with the slices that were published before a restart, so that revisions go on rising.
    #[must_use]
    pub fn new(
        trust_domain: TrustDomain,
        root_namespace: String,
        published: BTreeMap<NodeName, EndpointSlice>,
    ) -> Self {
        let revision = published.values().map(|slice| slice.revision).max().unwrap_or(0);
        Self { trust_domain, root_namespace, revision, published, unsettled: BTreeMap::new() }
    }

    /// What to publish for this view. Unchanged slices come back unchanged, with the revision they had.
    pub fn handle_view(&mut self, view: &ClusterView, revoked: &BTreeSet<SpiffeId>, now: Instant) -> Assignments {
        let mut out = Assignments::default();
        let mut claims: BTreeMap<NodeName, Vec<Claimed>> = BTreeMap::new();
        for node in view.mesh_nodes.values() {
            claims.insert(node.name.clone(), self.believe(view, node, &mut out.refusals));
        }
        let held = self.settle_holders(claims, view, &mut out.refusals);
        for (name, endpoints) in held {
            let Some(node) = view.mesh_nodes.get(&name) else { continue };
            out.grants.insert(name.clone(), self.grants(node, &endpoints, revoked, &mut out.refusals));
            out.slices.insert(name.clone(), self.publish(node, endpoints, now));
        }
        self.published.retain(|name, _| out.slices.contains_key(name));
        self.unsettled.retain(|(name, _), _| out.slices.contains_key(name));
        self.enforce(view, &mut out.slices, now);
        out
    }

    /// When to call [`Self::handle_view`] again although nothing came in.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.unsettled.values().map(|unsettled| unsettled.since + PATIENCE).min()
    }

    /// What of one node's report fits the cluster.
    fn believe(&self, view: &ClusterView, node: &MeshNode, refusals: &mut Vec<Refusal>) -> Vec<Claimed> {
        let mut claims = Vec::new();
        let mut refuse = |reason| refusals.push(Refusal { node: node.name.clone(), key: None, reason });
        for attachment in &node.attachments {
            let label = format!("{}/{}", attachment.namespace, attachment.pod);
            let Some(pod) = scheduled_pod(view, node, attachment) else {
                refuse(RefusalReason::NotScheduled { pod: label });
                continue;
            };
            for ip in &attachment.ips {
                match address_fault(view, node, pod, *ip) {
                    Some(why) => refuse(RefusalReason::Address { ip: *ip, pod: label.clone(), why }),
                    None => claims.push(Claimed { ip: *ip, endpoint: self.endpoint(view, pod) }),
                }
            }
        }
        let Ok(identity) = SpiffeId::for_node(&self.trust_domain, &node.name) else { return claims };
        for ip in &node.addresses {
            match node_address_fault(view, node, *ip) {
                Some(why) => refuse(RefusalReason::Address { ip: *ip, pod: node.name.to_string(), why }),
                None => claims.push(Claimed { ip: *ip, endpoint: node_endpoint(node, identity.clone()) }),
            }
        }
        claims
    }

    fn endpoint(&self, view: &ClusterView, pod: &Pod) -> Endpoint {
        let (identity, mode) = membership(view, &self.trust_domain, &self.root_namespace, pod).unzip();
        let (namespace, name, uid) = (pod.namespace.clone(), pod.name.clone(), pod.uid.clone());
        Endpoint { identity, mode, enforced: false, namespace, name, uid }
    }

    /// Gives each address to one: who was published as its holder keeps it, else the node whose name sorts first.
    fn settle_holders(
        &self,
        claims: BTreeMap<NodeName, Vec<Claimed>>,
        view: &ClusterView,
        refusals: &mut Vec<Refusal>,
    ) -> BTreeMap<NodeName, BTreeMap<IpAddr, Endpoint>> {
        let mut contenders: BTreeMap<IpAddr, Vec<(NodeName, Endpoint)>> = BTreeMap::new();
        let mut held: BTreeMap<NodeName, BTreeMap<IpAddr, Endpoint>> = BTreeMap::new();
        for (node, claimed) in claims {
            held.entry(node.clone()).or_default();
            for Claimed { ip, endpoint } in claimed {
                contenders.entry(ip).or_default().push((node.clone(), endpoint));
            }
        }
        for (ip, mut claimants) in contenders {
            let holds = |(node, endpoint): &(NodeName, Endpoint)| {
                self.published
                    .get(node)
                    .and_then(|slice| slice.endpoints.get(&ip))
                    .is_some_and(|e| e.uid == endpoint.uid)
            };
            let keeper = claimants.iter().position(holds).unwrap_or(0);
            let (node, endpoint) = claimants.swap_remove(keeper);
            for (other, loser) in claimants.into_iter().filter(|_| view.is_synced()) {
                let pod = format!("{}/{}", loser.namespace, loser.name);
                let reason = RefusalReason::Address { ip, pod, why: AddressFault::Held };
                refusals.push(Refusal { node: other, key: None, reason });
            }
            held.entry(node).or_default().insert(ip, endpoint);
        }
        held
    }

    fn grants(
        &self,
        node: &MeshNode,
        endpoints: &BTreeMap<IpAddr, Endpoint>,
        revoked: &BTreeSet<SpiffeId>,
        refusals: &mut Vec<Refusal>,
    ) -> Vec<RequestedKey> {
        let mut alive: BTreeSet<SpiffeId> = endpoints.values().filter_map(|e| e.identity.clone()).collect();
        alive.extend(SpiffeId::for_node(&self.trust_domain, &node.name));
        let mut granted = Vec::new();
        for key in &node.keys {
            let identity = key.identity.clone();
            let reason = match (alive.contains(&identity), revoked.contains(&identity)) {
                (true, false) => {
                    granted.push(key.clone());
                    continue;
                }
                (_, true) => RefusalReason::Revoked { identity },
                (false, false) => RefusalReason::NoWorkload { identity },
            };
            refusals.push(Refusal { node: node.name.clone(), key: Some((key.identity.clone(), key.epoch)), reason });
        }
        granted
    }

    /// The slice of one node: the published one while nothing changed, else a new one at a new revision.
    fn publish(&mut self, node: &MeshNode, mut endpoints: BTreeMap<IpAddr, Endpoint>, now: Instant) -> EndpointSlice {
        let before = self.published.get(&node.name).filter(|slice| slice.node_uid == node.uid);
        let mut switching = Vec::new();
        for (ip, endpoint) in &mut endpoints {
            let held = before.and_then(|slice| slice.endpoints.get(ip));
            match held.filter(|held| held.uid == endpoint.uid && held.identity == endpoint.identity) {
                Some(held) => endpoint.enforced = held.enforced,
                None => switching.push(*ip),
            }
        }
        if let Some(slice) = before.filter(|slice| slice.endpoints == endpoints) {
            return slice.clone();
        }
        self.revision += 1;
        for ip in switching {
            let unsettled = Unsettled { revision: self.revision, since: now };
            self.unsettled.insert((node.name.clone(), ip), unsettled);
        }
        let (node_uid, revision) = (node.uid.clone(), self.revision);
        let slice = EndpointSlice { node: node.name.clone(), node_uid, revision, endpoints };
        self.unsettled.retain(|(name, ip), _| *name != slice.node || slice.endpoints.contains_key(ip));
        self.published.insert(node.name.clone(), slice.clone());
        slice
    }

    /// Second phase: what every node has seen, or has had time to see, is now enforced.
    fn enforce(&mut self, view: &ClusterView, slices: &mut BTreeMap<NodeName, EndpointSlice>, now: Instant) {
        // an endpoint that a former life of the controller left half-way settles like any other
        for (name, slice) in slices.iter() {
            for ip in slice.endpoints.iter().filter(|(_, endpoint)| !endpoint.enforced).map(|(ip, _)| *ip) {
                let unsettled = Unsettled { revision: slice.revision, since: now };
                self.unsettled.entry((name.clone(), ip)).or_insert(unsettled);
            }
        }
        let seen = view.mesh_nodes.values().map(|node| node.observed_revision).min().unwrap_or(0);
        let is_over = |unsettled: &Unsettled| seen >= unsettled.revision || now >= unsettled.since + PATIENCE;
        let over: Vec<_> = self.unsettled.iter().filter(|(_, u)| is_over(u)).map(|(key, _)| key.clone()).collect();
        let nodes: BTreeSet<_> = over.iter().map(|(node, _)| node.clone()).collect();
        for node in nodes {
            let Some(slice) = slices.get_mut(&node) else { continue };
            self.revision += 1;
            slice.revision = self.revision;
            for (_, ip) in over.iter().filter(|(name, _)| *name == node) {
                if let Some(endpoint) = slice.endpoints.get_mut(ip) {
                    endpoint.enforced = true;
                }
            }
            self.published.insert(node, slice.clone());
        }
        for key in over {
            self.unsettled.remove(&key);
        }
    }
}

fn node_endpoint(node: &MeshNode, identity: SpiffeId) -> Endpoint {
    let (namespace, name, uid) = (String::new(), node.name.to_string(), node.uid.clone());
    Endpoint { identity: Some(identity), mode: None, enforced: false, namespace, name, uid }
}

fn scheduled_pod<'a>(view: &'a ClusterView, node: &MeshNode, attachment: &ReportedAttachment) -> Option<&'a Pod> {
    let pod = view.pods.get(&(attachment.namespace.clone(), attachment.pod.clone()))?;
    let here = pod.node.as_ref() == Some(&node.name) && pod.uid == attachment.uid;
    (here && !pod.finished && !pod.host_network).then_some(pod)
}

fn is_unicast(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local)
}

fn address_fault(view: &ClusterView, node: &MeshNode, pod: &Pod, ip: IpAddr) -> Option<AddressFault> {
    if !is_unicast(ip) {
        return Some(AddressFault::Kind);
    }
    if !pod.ips.is_empty() && !pod.ips.contains(&ip) {
        return Some(AddressFault::Status);
    }
    let ranges = view.nodes.get(&node.name).map(|n| n.pod_cidrs.as_slice()).unwrap_or_default();
    if !ranges.is_empty() && !ranges.iter().any(|range| range.contains(&ip)) {
        return Some(AddressFault::Range);
    }
    if view.nodes.values().any(|other| other.addresses.contains(&ip)) {
        return Some(AddressFault::NodeAddress);
    }
    let other = |p: &&Pod| p.uid != pod.uid && !p.finished && !p.host_network && p.ips.contains(&ip);
    view.pods.values().find(other).map(|_| AddressFault::Held)
}

fn node_address_fault(view: &ClusterView, node: &MeshNode, ip: IpAddr) -> Option<AddressFault> {
    if !is_unicast(ip) {
        return Some(AddressFault::Kind);
    }
    match view.nodes.get(&node.name).filter(|known| !known.addresses.is_empty()) {
        Some(known) => (!known.addresses.contains(&ip)).then_some(AddressFault::Unlisted),
        None => view.nodes.values().any(|n| n.pod_cidrs.iter().any(|r| r.contains(&ip))).then_some(AddressFault::Range),
    }
}

#[cfg(test)]
mod tests;
