//! Pieces of nft's language: conditions, ports, names.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Layer;
use crate::blocks::Blocks;
use crate::rule_set::{PortRange, Ports};
use crate::verdict::{Direction, Reason};
use crate::workload::Protocol;

/// Both, the one that is judged first before the other.
pub(super) const DIRECTIONS: [Direction; 2] = [Direction::Outbound, Direction::Inbound];
/// Why a stage can deny, each with a counter of its own.
pub(super) const REASONS: [Reason; 3] = [Reason::Rule, Reason::NoAllowMatched, Reason::Isolated];
/// No packet that is forwarded has it (RFC 1122 section 3.2.1.3, RFC 4291 section 2.5.2).
pub(super) const NOBODY: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
/// Somebody emptied what judges.
pub(super) const UNJUDGED: &str = "counter name unjudged drop";
/// Most elements in one rule: nft's lines have a limit, and rules of one verdict can follow each other.
const ELEMENTS_MAX: usize = 256;
/// A packet that its pin or the engine marked as a member's (`docs/packet-path.md`).
const MARK: &str = "meta mark and 0x03000000";
const MARK_MEMBER: &str = "0x01000000";

pub(super) fn letter(direction: Direction) -> char {
    match direction {
        Direction::Outbound => 'o',
        Direction::Inbound => 'i',
    }
}

pub(super) fn name(direction: Direction) -> &'static str {
    match direction {
        Direction::Outbound => "outbound",
        Direction::Inbound => "inbound",
    }
}

/// Who began the connection, and who serves it after DNAT.
pub(super) fn ends(is_v4: bool) -> [&'static str; 2] {
    if is_v4 { ["ct original ip saddr", "ct reply ip saddr"] } else { ["ct original ip6 saddr", "ct reply ip6 saddr"] }
}

/// The address at the other end, seen from the workload.
pub(super) fn peer(direction: Direction, is_v4: bool) -> &'static str {
    let [client, server] = ends(is_v4);
    match direction {
        Direction::Outbound => server,
        Direction::Inbound => client,
    }
}

/// The workload's own address.
pub(super) fn own(direction: Direction, is_v4: bool) -> &'static str {
    let [client, server] = ends(is_v4);
    match direction {
        Direction::Outbound => client,
        Direction::Inbound => server,
    }
}

/// Both ends are members, and this packet is proven to be from one of them.
pub(super) fn proof(is_v4: bool) -> String {
    let [client, server] = ends(is_v4);
    format!("{MARK} == {MARK_MEMBER} {client} @members {server} @members ")
}

/// The ways not to be proven.
pub(super) fn unproven(is_v4: bool) -> [String; 3] {
    let [client, server] = ends(is_v4);
    [format!("{MARK} != {MARK_MEMBER} "), format!("{client} != @members "), format!("{server} != @members ")]
}

/// The map from a local address to what a layer says of it.
pub(super) fn hook_map(direction: Direction, layer: Layer) -> String {
    format!("{}_{}", name(direction), layer.name())
}

/// What follows when a layer of a side lets a connection pass.
pub(super) fn allowed(direction: Direction, layer: Layer) -> String {
    match layer {
        Layer::Authorization => format!("goto then_{}", name(direction)),
        Layer::Network => "accept".to_owned(),
    }
}

/// The address that is in every set which must not be found empty.
pub(super) fn nobody(is_v4: bool) -> IpAddr {
    let [v4, v6] = NOBODY;
    if is_v4 { v4 } else { v6 }
}

/// What closes while somebody has emptied this set of addresses: [`nobody`] is not in it.
pub(super) fn whole(set: &str, direction: Direction, is_v4: bool) -> String {
    format!("{} and {} != @{set} {UNJUDGED}", peer(direction, is_v4), nobody(is_v4))
}

/// The same of a set of addresses with ports. A connection's port cannot be part of this in nft's language, a packet's can.
pub(super) fn whole_ports(set: &str, direction: Direction, is_v4: bool) -> String {
    format!("{} and {} . th dport and 0 != @{set} {UNJUDGED}", peer(direction, is_v4), nobody(is_v4))
}

/// What follows when a stage denies.
pub(super) fn denied(direction: Direction, reason: Reason) -> String {
    format!("goto deny_{}_{}", name(direction), reason.as_str())
}

/// FNV-1a of 64 bits (RFC 9923): names must be the same in every run and on every machine.
pub(super) fn hash(text: &str) -> String {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    format!("{:016x}", text.bytes().fold(0xcbf2_9ce4_8422_2325, mix))
}

/// The ranges of one family as lists of elements, each of which fits a rule.
pub(super) fn blocks(blocks: &Blocks, is_v4: bool) -> impl Iterator<Item = String> + use<> {
    let ranges: Vec<_> =
        if is_v4 { blocks.v4().map(shown).collect() } else { blocks.v6().map(shown).collect::<Vec<_>>() };
    ranges.chunks(ELEMENTS_MAX).map(|some| some.join(", ")).collect::<Vec<_>>().into_iter()
}

fn shown<T: Display + PartialEq>((first, last): (T, T)) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// Whether no packet is meant.
pub(super) fn is_nothing(ports: &Ports) -> bool {
    matches!(ports, Ports::Listed { ranges, other_protocols: false } if ranges.is_empty())
}

/// The ports, where they are nothing but single ones.
pub(super) fn single_ports(ports: &Ports) -> Option<Vec<(Protocol, u16)>> {
    let Ports::Listed { ranges, other_protocols: false } = ports else { return None };
    ranges.iter().map(|range| (range.first == range.last).then_some((range.protocol, range.first))).collect()
}

/// What any of these mean.
pub(super) fn union(all: &[&Ports]) -> Ports {
    let (mut every, mut other) = (Vec::new(), false);
    for ports in all {
        match ports {
            Ports::Any => return Ports::Any,
            Ports::Listed { ranges, other_protocols } => {
                every.extend_from_slice(ranges);
                other |= other_protocols;
            }
        }
    }
    Ports::Listed { ranges: merged(&every), other_protocols: other }
}

/// Sorted, with overlaps and neighbours merged.
fn merged(ranges: &[PortRange]) -> Vec<PortRange> {
    let mut sorted = ranges.to_vec();
    sorted.sort();
    let mut merged: Vec<PortRange> = Vec::new();
    for next in sorted {
        let touches =
            |last: &&mut PortRange| last.protocol == next.protocol && next.first <= last.last.saturating_add(1);
        match merged.last_mut().filter(touches) {
            Some(last) => last.last = last.last.max(next.last),
            None => merged.push(next),
        }
    }
    merged
}

/// Adds the rules that give this verdict to packets to these ports: one for each protocol.
pub(super) fn push(rules: &mut Vec<String>, condition: &str, ports: &Ports, verdict: &str) {
    let Ports::Listed { ranges, other_protocols } = ports else {
        return rules.push(format!("{condition}{verdict}"));
    };
    for of_one in merged(ranges).chunk_by(|a, b| a.protocol == b.protocol) {
        let Some(first) = of_one.first() else { continue };
        // by number and not `meta l4proto`: an ICMP error belongs to the connection that it is about
        let start = format!("{condition}ct original protocol {}", first.protocol.number());
        if (first.first, first.last) == (0, u16::MAX) {
            rules.push(format!("{start} {verdict}"));
            continue;
        }
        let texts: Vec<_> = of_one.iter().map(|range| shown((range.first, range.last))).collect();
        for some in texts.chunks(ELEMENTS_MAX) {
            rules.push(format!("{start} ct reply proto-src {{ {} }} {verdict}", some.join(", ")));
        }
    }
    if *other_protocols {
        rules.push(format!("{condition}ct original protocol != {{ 6, 17, 132 }} {verdict}"));
    }
}
