//! What this node should look like: routes, filter, local identities, peers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use identity::{Epoch, NodeName, SpiffeId, TrustDomain};
use ipnet::IpNet;
use policy::EffectiveMode;

use crate::view::{ClusterView, Endpoint, Pod};

/// What this node knows that the cluster does not say: its own name, its attachments, the keys it has verified.
#[derive(Clone, Debug)]
pub struct Here {
    /// This node.
    pub node: NodeName,
    /// The trust domain of all identities.
    pub trust_domain: TrustDomain,
    /// The namespace of mesh-wide policies.
    pub root_namespace: String,
    /// This node's own addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Attached workloads.
    pub attachments: Vec<LocalAttachment>,
    /// Verified public keys of everybody, by epoch.
    pub keys: BTreeMap<PeerName, BTreeMap<Epoch, [u8; 32]>>,
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
    /// Waits until the controller says that every sender has switched before clear text is refused: true for a
    /// workload that was reachable in clear text before, false for one that is new here.
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

/// Our tables: packets of local processes only look into `Pods`, those of enrolled workloads into both.
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

/// What the packet filter enforces, as sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// One per host-side link: what may come out of it.
    pub pins: BTreeMap<String, Pin>,
    /// Local enrolled workloads.
    pub enrolled: BTreeSet<IpAddr>,
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
    /// The subset of `keyed` whose clear text is refused too, because every sender has switched.
    pub keyed_enforced: BTreeSet<IpAddr>,
    /// Pod address ranges of the cluster: an address in there that nobody has spoken for is not sent clear text.
    pub pod_cidrs: BTreeSet<IpNet>,
    /// Workload addresses known to be outside the mesh.
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
    pub keys: BTreeMap<Epoch, [u8; 32]>,
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
        for attachment in &here.attachments {
            desired.add_local(view, here, attachment);
        }
        if let Ok(identity) = SpiffeId::for_node(&here.trust_domain, &here.node) {
            desired.locals.entry(identity).or_default().addresses.extend(&here.addresses);
        }
        desired.add_remote(view, here);
        desired
    }

    /// The identity and mode of a local workload, if it takes part in the mesh.
    #[must_use]
    pub fn membership(view: &ClusterView, here: &Here, pod: &Pod) -> Option<(SpiffeId, EffectiveMode)> {
        membership(view, &here.trust_domain, &here.root_namespace, pod)
    }

    fn add_local(&mut self, view: &ClusterView, here: &Here, attachment: &LocalAttachment) {
        let member = attachment.pod.as_ref().and_then(|pod| Self::membership(view, here, pod));
        let (mac, addresses) = (attachment.mac, attachment.ips.clone());
        let pin = Pin { mac, addresses, enrolled: member.is_some() };
        self.filter.pins.insert(attachment.link.clone(), pin);
        self.filter.local.extend(&attachment.ips);
        let (Some((identity, mode)), Some(pod)) = (member, attachment.pod.as_ref()) else { return };
        self.locals.entry(identity.clone()).or_default().addresses.extend(&attachment.ips);
        let own = view.slices.get(&here.node).map(|slice| &slice.endpoints);
        for ip in &attachment.ips {
            let published = own.and_then(|endpoints| endpoints.get(ip)).filter(|endpoint| endpoint.uid == pod.uid);
            let switched = published.is_some_and(|e| e.enforced && e.identity.as_ref() == Some(&identity));
            self.filter.enrolled.insert(*ip);
            self.add_mode(*ip, &mode, switched || !attachment.patient);
        }
    }

    fn add_mode(&mut self, ip: IpAddr, mode: &EffectiveMode, refuses: bool) {
        if mode.outbound == policy::Outbound::RequireMesh {
            self.filter.require_mesh.insert(ip);
        }
        if !refuses {
            return;
        }
        if mode.is_strict() {
            self.filter.strict.insert(ip);
        }
        for port in mode.ports.keys() {
            let exceptions = match (mode.is_strict(), mode.refuses_clear_at(*port)) {
                (true, false) => &mut self.filter.open_ports,
                (false, true) => &mut self.filter.closed_ports,
                (true, true) | (false, false) => continue,
            };
            exceptions.insert((ip, *port));
        }
    }

    fn add_remote(&mut self, view: &ClusterView, here: &Here) {
        let spoken_for = newest_endpoints(view, here);
        for (ip, (node, endpoint)) in &spoken_for {
            if !self.filter.local.contains(ip) && !here.addresses.contains(ip) {
                self.add_endpoint(*ip, node, endpoint, view, here);
            }
        }
        let others = view.pods.values().filter(|pod| pod.node.as_ref() != Some(&here.node));
        for pod in others.filter(|pod| !pod.finished && !pod.host_network && !is_enrolled(view, pod)) {
            for ip in pod.ips.iter().filter(|ip| !spoken_for.contains_key(ip)) {
                if !self.filter.local.contains(ip) && !here.addresses.contains(ip) {
                    self.add_clear(*ip);
                }
            }
        }
        for node in view.nodes.values() {
            self.filter.pod_cidrs.extend(&node.pod_cidrs);
            if node.name != here.node {
                let whole =
                    |prefix: &IpNet| Route { table: RouteTable::Pods, prefix: *prefix, target: RouteTarget::Mesh };
                self.routes.extend(node.pod_cidrs.iter().map(whole));
            }
        }
    }

    fn add_clear(&mut self, ip: IpAddr) {
        self.filter.clear.insert(ip);
        self.routes.insert(Route { table: RouteTable::Pods, prefix: ip.into(), target: RouteTarget::Main });
    }

    fn add_endpoint(&mut self, ip: IpAddr, node: &NodeName, endpoint: &Endpoint, view: &ClusterView, here: &Here) {
        let keyed = endpoint.identity.as_ref().filter(|_| endpoint.mode.as_ref().is_none_or(EffectiveMode::is_keyed));
        let Some(identity) = keyed else { return self.add_clear(ip) };
        let name = PeerName { node: node.clone(), identity: identity.clone() };
        let keys = here.keys.get(&name).cloned().unwrap_or_default();
        let is_node = SpiffeId::for_node(&here.trust_domain, node).is_ok_and(|own| own == *identity);
        let table = if is_node { RouteTable::Nodes } else { RouteTable::Pods };
        if is_node && keys.is_empty() {
            return;
        }
        let endpoints = view.mesh_nodes.get(node).map(|n| n.endpoints.clone()).unwrap_or_default();
        let peer = self.peers.entry(name).or_insert(RemoteIdentity { keys, endpoints, addresses: BTreeSet::new() });
        peer.addresses.insert(ip);
        self.routes.insert(Route { table, prefix: ip.into(), target: RouteTarget::Mesh });
        if is_node {
            self.filter.keyed_nodes.insert(ip);
            return;
        }
        self.filter.keyed.insert(ip);
        if endpoint.enforced {
            self.filter.keyed_enforced.insert(ip);
        }
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
    if pod.host_network || pod.finished || !is_enrolled(view, pod) {
        return None;
    }
    let policies = view.peer_authentications.values();
    let mode = policy::resolve(policies, &pod.namespace, &pod.labels, root_namespace);
    let identity = SpiffeId::for_service_account(trust_domain, &pod.namespace, &pod.service_account).ok()?;
    mode.is_keyed().then_some((identity, mode))
}

pub(crate) fn is_enrolled(view: &ClusterView, pod: &Pod) -> bool {
    policy::is_enrolled(&view.namespace_labels(&pod.namespace), &pod.labels)
}

/// Every address of other nodes, each once: where two slices speak of one address, the newer revision counts.
fn newest_endpoints<'a>(view: &'a ClusterView, here: &Here) -> BTreeMap<IpAddr, (&'a NodeName, &'a Endpoint)> {
    let mut newest: BTreeMap<IpAddr, (u64, &NodeName, &Endpoint)> = BTreeMap::new();
    for slice in view.slices.values().filter(|slice| slice.node != here.node) {
        for (ip, endpoint) in &slice.endpoints {
            let held = newest.entry(*ip).or_insert((slice.revision, &slice.node, endpoint));
            if held.0 < slice.revision {
                *held = (slice.revision, &slice.node, endpoint);
            }
        }
    }
    newest.into_iter().map(|(ip, (_, node, endpoint))| (ip, (node, endpoint))).collect()
}

#[cfg(test)]
mod tests;
