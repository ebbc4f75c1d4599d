//! What this node should look like: routes, filter, local identities, peers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use identity::{Epoch, NodeName, SpiffeId};
use ipnet::IpNet;

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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    /// Remote addresses that have a key: nothing to them may leave in clear text.
    pub keyed: BTreeSet<IpAddr>,
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
