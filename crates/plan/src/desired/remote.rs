//! What lives elsewhere: peers, routes, and what is known to be outside the mesh.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use identity::{NodeName, SpiffeId};
use ipnet::IpNet;

use super::{Desired, Here, PeerName, RemoteIdentity, Route, RouteTable, RouteTarget, has_network, is_routable};
use crate::view::{ClusterView, Endpoint, EndpointSlice, Phase};

/// Shortest prefix of a pod range that is taken for one; a shorter one would lead the node's own traffic astray. 8 is
/// the largest private range (RFC 1918, section 3), 16 leaves room below any unique local prefix of 48 (RFC 4193).
const RANGE_BITS_MIN: [u8; 2] = [8, 16];

/// Adds everything that is not on this node.
pub(super) fn add(desired: &mut Desired, view: &ClusterView, here: &Here) {
    let spoken_for = newest_endpoints(view);
    let mut elsewhere = Elsewhere { view, here, desired, routes: BTreeMap::new() };
    elsewhere.add_ranges();
    for (ip, (slice, endpoint)) in &spoken_for {
        if !elsewhere.is_here(*ip) {
            elsewhere.add_endpoint(*ip, slice, endpoint);
        }
    }
    elsewhere.add_unspoken(&spoken_for);
    elsewhere.keep_out_of_ranges();
    let route = |((table, prefix), target)| Route { table, prefix, target };
    let routes = std::mem::take(&mut elsewhere.routes).into_iter().map(route).collect();
    desired.routes = routes;
}

/// Every published address, each once: where two slices speak of one address, the newer revision counts.
fn newest_endpoints(view: &ClusterView) -> BTreeMap<IpAddr, (&EndpointSlice, &Endpoint)> {
    let mut newest: BTreeMap<IpAddr, (&EndpointSlice, &Endpoint)> = BTreeMap::new();
    for slice in view.slices.values() {
        for (ip, endpoint) in &slice.endpoints {
            let held = newest.entry(*ip).or_insert((slice, endpoint));
            if held.0.revision < slice.revision {
                *held = (slice, endpoint);
            }
        }
    }
    newest
}

struct Elsewhere<'a> {
    view: &'a ClusterView,
    here: &'a Here,
    desired: &'a mut Desired,
    /// One target for each prefix of a table.
    routes: BTreeMap<(RouteTable, IpNet), RouteTarget>,
}

impl Elsewhere<'_> {
    fn is_here(&self, ip: IpAddr) -> bool {
        self.desired.filter.local.contains(&ip) || self.here.addresses.contains(&ip)
    }

    fn route(&mut self, table: RouteTable, ip: IpAddr, target: RouteTarget) {
        self.routes.insert((table, ip.into()), target);
    }

    /// Other nodes' ranges lead into the mesh: an address there that nobody has spoken for is held or dropped.
    fn add_ranges(&mut self) {
        let (mut ranges, mut own) = (Vec::new(), Vec::new());
        for node in self.view.nodes.values() {
            for range in node.pod_cidrs.iter().map(IpNet::trunc).filter(is_sane) {
                ranges.push(range);
                if node.name != self.here.node {
                    self.routes.insert((RouteTable::Pods, range), RouteTarget::Mesh);
                } else if !self.here.addresses.iter().any(|ip| range.contains(ip)) {
                    // a range that this node shares with its underlay is not only pods'
                    own.push(range);
                }
            }
        }
        self.desired.filter.own_ranges = IpNet::aggregate(&own).into_iter().collect();
        if self.view.has_policies() {
            self.desired.filter.guarded_ranges.clone_from(&self.desired.filter.own_ranges);
        }
        self.desired.filter.pod_cidrs = IpNet::aggregate(&ranges).into_iter().collect();
    }

    fn add_endpoint(&mut self, ip: IpAddr, slice: &EndpointSlice, endpoint: &Endpoint) {
        let phase = endpoint.phase();
        let identity = match &endpoint.identity {
            Some(identity) if slice.node != self.here.node => identity,
            // of this node and not attached any more: neither a peer nor known to be clear
            Some(_) => return,
            None => return self.add_clear(ip),
        };
        let name = PeerName { node: slice.node.clone(), identity: identity.clone() };
        let is_node = SpiffeId::for_node(&self.here.trust_domain, &slice.node).is_ok_and(|own| own == *identity);
        let remote = self.remote_identity(&name, slice);
        if is_node && remote.keys.is_empty() {
            return;
        }
        self.desired.peers.entry(name).or_insert(remote).addresses.insert(ip);
        match (is_node, phase) {
            (true, _) => {
                self.desired.filter.keyed_nodes.insert(ip);
                self.route(RouteTable::Nodes, ip, RouteTarget::Mesh);
            }
            (false, Phase::Outside | Phase::Ready) => self.add_clear(ip),
            (false, Phase::Switched | Phase::Enforced) => {
                self.desired.filter.keyed.insert(ip);
                self.route(RouteTable::Pods, ip, RouteTarget::Mesh);
            }
        }
        if !is_node && phase == Phase::Enforced {
            self.desired.filter.keyed_enforced.insert(ip);
        }
    }

    /// A peer without its addresses. A node that was rebuilt since the slice was published has no keys for it.
    fn remote_identity(&self, name: &PeerName, slice: &EndpointSlice) -> RemoteIdentity {
        let node = self.view.mesh_nodes.get(&name.node);
        let rebuilt = node.is_some_and(|node| node.uid != slice.node_uid);
        let keys = self.here.keys.get(name).filter(|_| !rebuilt).cloned().unwrap_or_default();
        let endpoints = node.map(|node| node.endpoints.clone()).unwrap_or_default();
        RemoteIdentity { keys, endpoints, addresses: BTreeSet::new() }
    }

    fn add_clear(&mut self, ip: IpAddr) {
        self.desired.filter.clear.insert(ip);
        self.route(RouteTable::Pods, ip, RouteTarget::Main);
    }

    /// Pods that no slice speaks for. Those in the mesh are waited for. Those outside are clear, but only on nodes
    /// without a slice: of its own node's addresses the controller knows better than a pod's status.
    fn add_unspoken(&mut self, spoken_for: &BTreeMap<IpAddr, (&EndpointSlice, &Endpoint)>) {
        let mut awaited: BTreeMap<IpAddr, &NodeName> = BTreeMap::new();
        let mut outside: BTreeMap<IpAddr, &NodeName> = BTreeMap::new();
        for pod in self.view.pods.values().filter(|pod| has_network(pod)) {
            let Some(node) = &pod.node else { continue };
            let unspoken = |ip: &&IpAddr| !spoken_for.contains_key(*ip) && !self.is_here(**ip) && is_routable(**ip);
            let mut ips = pod.ips.iter().filter(unspoken).peekable();
            if ips.peek().is_none() {
                continue;
            }
            if Desired::membership(self.view, self.here, pod).is_some() {
                awaited.extend(ips.map(|ip| (*ip, node)));
            } else if !self.view.slices.contains_key(node) {
                outside.extend(ips.map(|ip| (*ip, node)));
            }
        }
        let ranges = Ranges::of(self.view.nodes.values().flat_map(|node| {
            let of_node = node.pod_cidrs.iter();
            of_node.map(move |range| (*range, &node.name))
        }));
        for (ip, node) in outside {
            if !awaited.contains_key(&ip) && !ranges.around(ip).any(|owner| *owner != node) {
                self.add_clear(ip);
            }
        }
        for (ip, node) in awaited {
            if !self.desired.filter.pod_cidrs.iter().any(|range| range.contains(&ip)) {
                self.desired.filter.pod_cidrs.insert(ip.into());
            }
            if *node != self.here.node {
                self.route(RouteTable::Pods, ip, RouteTarget::Mesh);
            }
        }
    }

    /// Addresses that happen to be in another node's range and must not follow it: those of workloads here, and those
    /// of nodes, which the cluster's own traffic goes to. What enrolled workloads may send there is not widened: a
    /// node could name a workload's address as its own.
    fn keep_out_of_ranges(&mut self) {
        let pods = self.routes.keys().filter(|(table, _)| *table == RouteTable::Pods).map(|(_, prefix)| *prefix);
        let ranges = pods.filter(|prefix| prefix.prefix_len() < prefix.max_prefix_len());
        let ranges = Ranges::of(ranges.map(|range| (range, ())));
        let of_nodes = self.view.nodes.values().flat_map(|node| &node.addresses);
        let all = self.desired.filter.local.iter().chain(of_nodes).copied();
        let captured: BTreeSet<IpAddr> = all.filter(|ip| ranges.around(*ip).next().is_some()).collect();
        for ip in captured {
            self.routes.entry((RouteTable::Pods, ip.into())).or_insert(RouteTarget::Main);
        }
    }
}

/// Ranges and whose they are, asked by address: a cluster has as many as nodes, and many times as many addresses.
struct Ranges<T> {
    owners: BTreeMap<IpNet, Vec<T>>,
    /// The lengths that occur, of both families; few.
    lengths: BTreeSet<u8>,
}

impl<T> Ranges<T> {
    fn of(all: impl Iterator<Item = (IpNet, T)>) -> Self {
        let mut ranges = Self { owners: BTreeMap::new(), lengths: BTreeSet::new() };
        for (range, owner) in all {
            ranges.lengths.insert(range.prefix_len());
            ranges.owners.entry(range.trunc()).or_default().push(owner);
        }
        ranges
    }

    /// The owners of every range that the address is in.
    fn around(&self, ip: IpAddr) -> impl Iterator<Item = &T> {
        // a length that only the other family has makes no range of this one
        let ranges = self.lengths.iter().filter_map(move |length| IpNet::new(ip, *length).ok());
        ranges.filter_map(|range| self.owners.get(&range.trunc())).flatten()
    }
}

fn is_sane(range: &IpNet) -> bool {
    let [v4, v6] = RANGE_BITS_MIN;
    let least = if range.addr().is_ipv4() { v4 } else { v6 };
    range.prefix_len() >= least && is_routable(range.addr())
}
