//! What becomes of a packet: the packet filter, the routes and the engine's checks as one pure function.
//!
//! This is the executable specification of what `meshd/src/kernel` writes as nft rules and what `wg` checks. Tests hold
//! the whole sender-by-receiver matrix against it; `meshctl why` answers from it.

use std::fmt;
use std::net::IpAddr;

use identity::{NodeName, SpiffeId};

use crate::desired::{Desired, Filter, PeerName, RouteTable, RouteTarget};

/// One node as its kernel and engine are.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// Its name.
    pub node: &'a NodeName,
    /// What it holds.
    pub desired: &'a Desired,
}

/// A packet as a node's stack sees it after DNAT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Whose it says it is.
    pub source: IpAddr,
    /// For whom.
    pub destination: IpAddr,
    /// `None` where the protocol has no ports.
    pub ports: Option<Ports>,
    /// It goes in the reply direction of a connection that was let through.
    pub is_reply: bool,
    /// Where it comes from.
    pub origin: Origin,
}

/// Source and destination port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Of the sender.
    pub source: u16,
    /// Of the receiver.
    pub destination: u16,
}

/// Where a packet enters a node's stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A workload's host-side link.
    Link(String),
    /// A process of the node itself.
    Host,
    /// A link that is not pinned, or the underlay: a stranger.
    Stranger,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Delivered, sealed by one identity for another.
    Tunnel {
        /// The sender.
        from: SpiffeId,
        /// The receiver, on its node.
        to: PeerName,
    },
    /// Delivered on the same node between two workloads in the mesh, each authenticated by its pin.
    Local,
    /// Delivered in clear text, or handed to the world outside.
    Clear,
    /// Dropped.
    Dropped(Cause),
}

/// Why a packet is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// The source is not the link's own.
    SpoofedSource,
    /// It comes out of this node's pod range, from an address that no pinned link has, and is for a workload that has a
    /// key or that nobody has spoken for.
    Unpinned,
    /// It would leave in clear text to somebody who has a key.
    DowngradePrevented,
    /// Nobody has spoken for the destination.
    UnknownDestination,
    /// The sender may not send clear text out of the mesh.
    RequireMesh,
    /// The receiver takes the tunnel only.
    PlaintextDenied,
    /// Clear text of a sender who has a key, to a receiver who has one.
    PlaintextFromKeyed,
    /// The source is no local identity's.
    NotLocalSource,
    /// No verified key is known of the peer.
    NoBinding,
    /// The receiver does not know this source as that identity's on that node.
    SourceMismatch,
    /// The receiver's key is not the destination's.
    NotOurDestination,
}

impl Cause {
    /// The stable label, as in counters.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SpoofedSource => "spoofed_source",
            Self::Unpinned => "unpinned",
            Self::DowngradePrevented => "downgrade_prevented",
            Self::UnknownDestination => "unknown_destination",
            Self::RequireMesh => "require_mesh",
            Self::PlaintextDenied => "plaintext_denied",
            Self::PlaintextFromKeyed => "plaintext_from_keyed",
            Self::NotLocalSource => "not_local_source",
            Self::NoBinding => "no_binding",
            Self::SourceMismatch => "identity_ip_mismatch",
            Self::NotOurDestination => "not_our_destination",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Follows a packet from where it enters `sender`'s stack to its receiver, which lives on `receiver` (the same site for
/// the same node, and any for a destination outside the cluster).
#[must_use]
pub fn follow(sender: Site<'_>, receiver: Site<'_>, packet: &Packet) -> Fate {
    match leave(sender, packet) {
        Ok(Way::Mesh) => through_the_mesh(sender, receiver, packet),
        Ok(Way::Local) => Fate::Local,
        Ok(Way::Clear) if sender.node == receiver.node => Fate::Clear,
        Ok(Way::Clear) => match judge(receiver.desired, packet) {
            Some(cause) => Fate::Dropped(cause),
            None => Fate::Clear,
        },
        Err(cause) => Fate::Dropped(cause),
    }
}

/// By which way a packet leaves a node's stack.
enum Way {
    Mesh,
    Local,
    Clear,
}

/// What a pin puts on a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Member,
    Outsider,
    None,
}

fn leave(site: Site<'_>, packet: &Packet) -> Result<Way, Cause> {
    let filter = &site.desired.filter;
    let (source, destination) = (&packet.source, &packet.destination);
    let mark = match &packet.origin {
        Origin::Link(link) => match filter.pins.get(link) {
            Some(pin) if !pin.addresses.contains(source) => return Err(Cause::SpoofedSource),
            Some(pin) if pin.enrolled => Mark::Member,
            Some(_) => Mark::Outsider,
            None => Mark::None,
        },
        Origin::Host | Origin::Stranger => Mark::None,
    };
    let is_host = packet.origin == Origin::Host;
    if route(site.desired, *destination, mark, is_host) == RouteTarget::Mesh {
        return Ok(Way::Mesh);
    }
    if is_host {
        let keyed = filter.keyed.contains(destination);
        return if keyed { Err(Cause::DowngradePrevented) } else { Ok(Way::Clear) };
    }
    let unknown = is_unknown(filter, *destination);
    if mark == Mark::Member {
        if filter.keyed.contains(destination) || filter.keyed_nodes.contains(destination) {
            return Err(Cause::DowngradePrevented);
        }
        if filter.enrolled.contains(destination) {
            return Ok(Way::Local);
        }
        if unknown {
            return Err(Cause::UnknownDestination);
        }
        return why_not_in_clear(site.desired, packet).map_or(Ok(Way::Clear), Err);
    }
    let known = filter.local.contains(source) || filter.clear.contains(source);
    let unpinned = !known && filter.own_ranges.iter().any(|range| range.contains(source));
    let guarded = |ip: &IpAddr| filter.guarded_ranges.iter().any(|range| range.contains(ip));
    let is_known = |ip: &IpAddr| filter.local.contains(ip) || filter.clear.contains(ip);
    if [source, destination].into_iter().any(|ip| !is_known(ip) && guarded(ip)) {
        return Err(Cause::Unpinned);
    }
    if unpinned && (unknown || filter.keyed.contains(destination)) {
        return Err(Cause::Unpinned);
    }
    judge(site.desired, packet).map_or(Ok(Way::Clear), Err)
}

/// Whether it is a place for workloads and nobody has spoken for it.
fn is_unknown(filter: &Filter, ip: IpAddr) -> bool {
    let known = filter.local.contains(&ip) || filter.clear.contains(&ip);
    !known && filter.pod_cidrs.iter().any(|range| range.contains(&ip))
}

/// Our tables, then main. Who is known to be outside the mesh does not look into them, and the node's own packets look
/// into that of the workloads alone.
fn route(desired: &Desired, to: IpAddr, mark: Mark, is_host: bool) -> RouteTarget {
    let tables: &[RouteTable] = match (mark, is_host) {
        (Mark::Outsider, _) => &[],
        (Mark::Member | Mark::None, true) => &[RouteTable::Pods],
        (Mark::Member | Mark::None, false) => &[RouteTable::Pods, RouteTable::Nodes],
    };
    let longest = |table: &RouteTable| {
        let inside = desired.routes.iter().filter(|route| route.table == *table && route.prefix.contains(&to));
        inside.max_by_key(|route| route.prefix.prefix_len()).map(|route| route.target)
    };
    // a throw goes on to the next table
    let found = tables.iter().filter_map(longest).find(|target| *target == RouteTarget::Mesh);
    found.unwrap_or(RouteTarget::Main)
}

/// Whether a member's packet may leave the mesh.
fn why_not_in_clear(desired: &Desired, packet: &Packet) -> Option<Cause> {
    let filter = &desired.filter;
    let at = packet.ports.map(|ports| (packet.source, ports.source));
    if packet.is_reply {
        if at.is_some_and(|at| filter.open_ports.contains(&at)) {
            return None;
        }
        let closed = at.is_some_and(|at| filter.closed_ports.contains(&at)) || filter.strict.contains(&packet.source);
        return closed.then_some(Cause::PlaintextDenied);
    }
    filter.require_mesh.contains(&packet.source).then_some(Cause::RequireMesh)
}

/// Whether clear text of somebody who is no member may reach a local workload.
fn judge(desired: &Desired, packet: &Packet) -> Option<Cause> {
    let filter = &desired.filter;
    if filter.keyed_enforced.contains(&packet.source) && filter.enrolled_enforced.contains(&packet.destination) {
        return Some(Cause::PlaintextFromKeyed);
    }
    if packet.is_reply || !filter.enrolled.contains(&packet.destination) {
        return None;
    }
    let at = packet.ports.map(|ports| (packet.destination, ports.destination));
    if at.is_some_and(|at| filter.open_ports.contains(&at)) {
        return None;
    }
    let closed = at.is_some_and(|at| filter.closed_ports.contains(&at)) || filter.strict.contains(&packet.destination);
    closed.then_some(Cause::PlaintextDenied)
}

fn through_the_mesh(sender: Site<'_>, receiver: Site<'_>, packet: &Packet) -> Fate {
    let locals = sender.desired.locals.iter();
    let owners = locals.filter(|(_, local)| local.addresses.contains(&packet.source)).map(|(identity, _)| identity);
    let Some(from) = only(owners) else { return Fate::Dropped(Cause::NotLocalSource) };
    let peers = sender.desired.peers.iter().filter(|(_, peer)| peer.addresses.contains(&packet.destination));
    let Some((to, peer)) = only(peers) else { return Fate::Dropped(Cause::UnknownDestination) };
    if peer.keys.is_empty() {
        return Fate::Dropped(Cause::NoBinding);
    }
    let name = PeerName { node: sender.node.clone(), identity: from.clone() };
    let Some(known) = receiver.desired.peers.get(&name).filter(|known| !known.keys.is_empty()) else {
        return Fate::Dropped(Cause::NoBinding);
    };
    let claimed = receiver.desired.peers.values().filter(|peer| peer.addresses.contains(&packet.source)).count();
    if !known.addresses.contains(&packet.source) || claimed != 1 {
        return Fate::Dropped(Cause::SourceMismatch);
    }
    let theirs = receiver.desired.locals.get(&to.identity).is_some_and(|l| l.addresses.contains(&packet.destination));
    if to.node != *receiver.node || !theirs {
        return Fate::Dropped(Cause::NotOurDestination);
    }
    Fate::Tunnel { from: from.clone(), to: to.clone() }
}

fn only<T>(mut all: impl Iterator<Item = T>) -> Option<T> {
    let first = all.next()?;
    all.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests;
