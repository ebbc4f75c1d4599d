//! The packet filter as nft scripts: a whole one, and the smallest that leads from one wish to another. Pure.
//!
//! The chains never change; what is wished for is in sets, and in one netdev chain per pinned link. Marks, chains and
//! their order are explained in `docs/packet-path.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use plan::Filter;

use super::nft::line;
use super::standing::BY_FILTER;
use super::{MARK_MASK, MARK_MEMBER, MARK_ORIGINS, MARK_OUTER, flows, pin};

/// What the forward and output hooks count, in table `inet weft`.
pub(super) const COUNTERS: [&str; 11] = [
    "plaintext_denied",
    "plaintext_from_keyed",
    "plaintext_accepted",
    "downgrade_prevented",
    "unknown_destination",
    "require_mesh",
    "unpinned",
    "loop",
    "flows_exceeded",
    "source_routed",
    "set_emptied",
];
/// What the pins count, in table `netdev weft`.
pub(super) const PIN_COUNTERS: [&str; 3] = ["spoofed_source", "forged_discovery", "not_ip"];
/// Flows remembered in each of the dynamic sets; when one is full, flows are still judged and counted, only not listed.
const REMEMBERED_MAX: usize = 4096;

/// Sets that open what they keep closed when somebody empties them: each holds [`NOBODY`], and whoever asks them asks for that
/// first. `keyed`, `keyed_nodes`, `pod_cidrs` and `own_ranges` need it not: what they stop is led into the mesh by its route.
const NEVER_EMPTY: [&str; 6] =
    ["strict", "require_mesh", "enrolled_enforced", "keyed_enforced", "closed_ports", "guarded_ranges"];
/// No packet that is forwarded has it (RFC 1122 section 3.2.1.3, RFC 4291 section 2.5.2).
const NOBODY: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];

/// What the chains are made of that no wish changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fixed {
    /// Name of the TUN device.
    pub(super) tun: String,
    /// Flows that one pod may hold; 0 for no bound.
    pub(super) flows_per_pod: u32,
}

/// Counter values to begin with, by name: (packets, bytes).
pub(super) type Counts = BTreeMap<String, (u64, u64)>;

/// The sets of a wish: name and elements as nft writes them.
pub(super) fn sets(filter: &Filter) -> BTreeMap<String, BTreeSet<String>> {
    let mut sets = BTreeMap::new();
    // the other half of the enrolled: whoever is found in neither is refused, so that an emptied set opens nothing
    let permissive = filter.enrolled.difference(&filter.strict).copied().collect();
    let addresses = [
        ("enrolled", &filter.enrolled),
        ("enrolled_enforced", &filter.enrolled_enforced),
        ("strict", &filter.strict),
        ("permissive", &permissive),
        ("require_mesh", &filter.require_mesh),
        ("keyed", &filter.keyed),
        ("keyed_nodes", &filter.keyed_nodes),
        ("keyed_enforced", &filter.keyed_enforced),
        ("clear", &filter.clear),
        ("local", &filter.local),
    ];
    for (name, members) in addresses {
        add(&mut sets, name, members.iter().map(|ip| (ip.is_ipv4(), ip.to_string())));
    }
    for (name, members) in [("open_ports", &filter.open_ports), ("closed_ports", &filter.closed_ports)] {
        add(&mut sets, name, members.iter().map(|(ip, port)| (ip.is_ipv4(), format!("{ip} . {port}"))));
    }
    let ranges = [
        ("pod_cidrs", &filter.pod_cidrs),
        ("own_ranges", &filter.own_ranges),
        ("guarded_ranges", &filter.guarded_ranges),
    ];
    for (name, ranges) in ranges {
        let ranges = ranges.iter().map(|range| (range.addr().is_ipv4(), range.trunc().to_string()));
        add(&mut sets, name, ranges);
    }
    sets
}

fn add(sets: &mut BTreeMap<String, BTreeSet<String>>, name: &str, members: impl Iterator<Item = (bool, String)>) {
    let (mut v4, mut v6) = (BTreeSet::new(), BTreeSet::new());
    for (is_v4, member) in members {
        if is_v4 {
            v4.insert(member)
        } else {
            v6.insert(member)
        };
    }
    if NEVER_EMPTY.contains(&name) {
        let port = if name.ends_with("ports") { " . 0" } else { "" };
        for (set, nobody) in [&mut v4, &mut v6].into_iter().zip(NOBODY) {
            set.insert(format!("{nobody}{port}"));
        }
    }
    sets.insert(format!("{name}4"), v4);
    sets.insert(format!("{name}6"), v6);
}

/// Whether a set's elements are ranges, which nft may merge.
pub(super) fn is_ranges(set: &str) -> bool {
    ["pod_cidrs", "own_ranges", "guarded_ranges"].contains(&set.trim_end_matches(['4', '6']))
}

/// Both tables from nothing, replacing what is there in the same transaction.
pub(super) fn whole(filter: &Filter, fixed: &Fixed, counts: &Counts) -> String {
    let mut script = String::new();
    for table in ["inet weft", "netdev weft"] {
        line(&mut script, format_args!("add table {table}\ndelete table {table}"));
    }
    line(&mut script, format_args!("table inet weft {{"));
    counters(&mut script, &COUNTERS, counts);
    for (name, members) in sets(filter) {
        let family = if name.ends_with('4') { "ipv4_addr" } else { "ipv6_addr" };
        let (port, flags) = match name.trim_end_matches(['4', '6']) {
            "open_ports" | "closed_ports" => (" . inet_service", ""),
            "pod_cidrs" | "own_ranges" | "guarded_ranges" => ("", "flags interval\nauto-merge\n"),
            _ => ("", ""),
        };
        line(&mut script, format_args!("set {name} {{\ntype {family}{port}\n{flags}{}}}", elements(&members)));
    }
    for (version, family) in [('4', "ipv4_addr"), ('6', "ipv6_addr")] {
        for name in ["denied", "clear_seen"] {
            let kind = format!("{family} . {family} . inet_proto . inet_service");
            let bounds = format!("size {REMEMBERED_MAX}\nflags dynamic,timeout\ntimeout 10m");
            line(&mut script, format_args!("set {name}{version} {{\ntype {kind}\n{bounds}\n}}"));
        }
    }
    script.push_str(&chains(fixed));
    line(&mut script, format_args!("}}\ntable netdev weft {{"));
    counters(&mut script, &PIN_COUNTERS, counts);
    line(&mut script, format_args!("}}"));
    for (link, pin) in &filter.pins {
        pin::add(&mut script, link, pin);
    }
    script
}

/// The smallest script that leads from one wish to another; empty when they are equal.
pub(super) fn difference(from: &Filter, to: &Filter) -> String {
    let mut script = String::new();
    let before = sets(from);
    for (name, wanted) in sets(to) {
        let Some(held) = before.get(&name).filter(|held| **held != wanted) else { continue };
        if is_ranges(&name) {
            // ranges may merge and split: written anew, they are few
            line(&mut script, format_args!("flush set inet weft {name}"));
            change(&mut script, "add", &name, wanted.iter());
            continue;
        }
        change(&mut script, "delete", &name, held.difference(&wanted));
        change(&mut script, "add", &name, wanted.difference(held));
    }
    for link in from.pins.keys().filter(|link| !to.pins.contains_key(*link)) {
        pin::remove(&mut script, link);
    }
    for (link, pin) in to.pins.iter().filter(|(link, pin)| from.pins.get(*link) != Some(*pin)) {
        pin::remove(&mut script, link);
        pin::add(&mut script, link, pin);
    }
    script
}

/// Removes everything of ours.
pub(super) fn nothing() -> String {
    ["inet weft", "netdev weft"].map(|table| format!("add table {table}\ndelete table {table}\n")).concat()
}

fn counters(script: &mut String, names: &[&str], counts: &Counts) {
    for name in names {
        let (packets, bytes) = counts.get(*name).copied().unwrap_or_default();
        line(script, format_args!("counter {name} {{ packets {packets} bytes {bytes}\n}}"));
    }
}

fn elements(members: &BTreeSet<String>) -> String {
    if members.is_empty() {
        return String::new();
    }
    format!("elements = {{ {} }}\n", members.iter().map(String::as_str).collect::<Vec<_>>().join(", "))
}

fn change<'a>(script: &mut String, verb: &str, set: &str, members: impl Iterator<Item = &'a String>) {
    let members: Vec<_> = members.map(String::as_str).collect();
    if !members.is_empty() {
        line(script, format_args!("{verb} element inet weft {set} {{ {} }}", members.join(", ")));
    }
}

/// Rules that drop while one of these sets of [`NEVER_EMPTY`] is empty, whatever the packet: no address is left of its own.
fn whole_sets(sets: &[&str], v: char) -> String {
    let [v4, v6] = NOBODY;
    let (ip, nobody) = if v == '4' { ("ip", v4) } else { ("ip6", v6) };
    let rule = |set: &&str| {
        let port = if set.ends_with("ports") { " . th dport and 0" } else { "" };
        format!("{ip} daddr and {nobody}{port} != @{set}{v} counter name set_emptied drop\n")
    };
    sets.iter().map(rule).collect()
}

/// The chains of table `inet weft`. Each family has its own, since nft's sets have one type of address. Somebody who
/// empties the forward chain closes it: what no rule accepts is dropped.
pub(super) fn chains(fixed: &Fixed) -> String {
    let mut text = String::new();
    for (v, ip) in [('4', "ip"), ('6', "ip6")] {
        text.push_str(&remembering("deny", "denied", "plaintext_denied", "drop", v, ip));
        text.push_str(&remembering("seen", "clear_seen", "plaintext_accepted", "accept", v, ip));
        // an enrolled workload's packet that would travel in clear text
        line(
            &mut text,
            format_args!(
                "chain leaving{v} {{\n{}\
                 ct direction reply meta l4proto {{ tcp, udp, sctp }} {ip} saddr . th sport @open_ports{v} accept\n\
                 ct direction reply meta l4proto {{ tcp, udp, sctp }} {ip} saddr . th sport @closed_ports{v} counter name plaintext_denied drop\n\
                 ct direction reply {ip} saddr @strict{v} counter name plaintext_denied drop\n\
                 ct direction reply ct state established,related accept\n\
                 {ip} saddr @require_mesh{v} counter name require_mesh drop\n\
                 accept\n}}",
                whole_sets(&["closed_ports", "strict", "require_mesh"], v)
            ),
        );
        line(
            &mut text,
            format_args!(
                "chain member{v} {{\n\
                 {ip} daddr @keyed{v} counter name downgrade_prevented drop\n\
                 {ip} daddr @keyed_nodes{v} counter name downgrade_prevented drop\n\
                 {ip} daddr @enrolled{v} accept\n\
                 {ip} daddr @pod_cidrs{v} {ip} daddr != @clear{v} {ip} daddr != @local{v} counter name unknown_destination drop\n\
                 goto leaving{v}\n}}"
            ),
        );
        text.push_str(&early(v, ip));
        // clear text towards an enrolled workload
        line(
            &mut text,
            format_args!(
                "chain judge{v} {{\n{}\
                 {ip} saddr @keyed_enforced{v} {ip} daddr @enrolled_enforced{v} counter name plaintext_from_keyed drop\n\
                 ct direction reply ct state established,related accept\n\
                 meta l4proto {{ tcp, udp, sctp }} {ip} daddr . th dport @open_ports{v} goto seen{v}\n\
                 meta l4proto {{ tcp, udp, sctp }} {ip} daddr . th dport @closed_ports{v} goto deny{v}\n\
                 {ip} daddr @strict{v} goto deny{v}\n\
                 {ip} daddr @permissive{v} goto seen{v}\n\
                 goto deny{v}\n}}",
                whole_sets(&["keyed_enforced", "enrolled_enforced", "closed_ports"], v)
            ),
        );
    }
    text.push_str(&hooks(&fixed.tun));
    text.push_str(&flows::sets_and_chains(&fixed.tun, fixed.flows_per_pod));
    text
}

/// The base chains.
fn hooks(tun: &str) -> String {
    let mut text = String::new();
    let judged = |mark: &str, chain: &str, guard: &str| {
        ["4", "6"].map(|v| {
            let ip = if v == "4" { "ip" } else { "ip6" };
            let guard = if guard.is_empty() { String::new() } else { format!("{ip} daddr @{guard}{v} ") };
            format!("meta nfproto ipv{v} {mark}{guard}goto {chain}{v}\n")
        })
    };
    let member_mark = format!("meta mark and {MARK_ORIGINS:#010x} == {MARK_MEMBER:#010x} ");
    let [member4, member6] = judged(&member_mark, "member", "");
    let judge = ["enrolled", "strict", "permissive"].map(|set| judged("", "judge", set).concat()).concat();
    let early = [("4", "ip"), ("6", "ip6")].map(|(v, ip)| {
        format!("{ip} saddr @own_ranges{v} {ip} saddr != @local{v} {ip} saddr != @clear{v} jump early{v}\n")
    });
    // where there are policies, nothing comes from or goes to who has no pin yet
    let guarded = [("4", "ip"), ("6", "ip6")].map(|(v, ip)| {
        let guard = |field: &str| {
            let unknown =
                format!("{ip} {field} @guarded_ranges{v} {ip} {field} != @local{v} {ip} {field} != @clear{v}");
            format!("{unknown} counter name unpinned drop\n")
        };
        let whole = whole_sets(&["guarded_ranges"], if v == "4" { '4' } else { '6' });
        [whole, guard("saddr"), guard("daddr")].concat()
    });
    // their destination is a lie until this hook is over (RFC 791 section 3.1): a node that follows them would be a way
    // round every rule about destinations
    let source_routes =
        ["lsrr", "ssrr"].map(|kind| format!("ip option {kind} exists counter name source_routed drop\n")).concat();
    let early = [guarded.concat(), early.concat()].concat();
    // a NodePort whose pod is on another node is translated here and sent on under this node's name, and so is its answer; a
    // packet whose source is somebody else's the engine refuses
    line(
        &mut text,
        format_args!(
            "chain forward {{\ntype filter hook forward priority -5; policy drop;\n\
             meta mark set meta mark or {BY_FILTER:#010x}\n\
             {source_routes}iifname \"{tun}\" oifname \"{tun}\" ct status & dnat != dnat counter name loop drop\n\
             iifname \"{tun}\" accept\noifname \"{tun}\" accept\n{member4}{member6}{early}{judge}accept\n}}"
        ),
    );
    // what the engine let in counts as a member's, so that the reverse path check finds the way back in our tables
    line(
        &mut text,
        format_args!(
            "chain prerouting {{\ntype filter hook prerouting priority -150; policy accept;\n\
             iifname \"{tun}\" meta mark set meta mark and {:#010x} or {MARK_MEMBER:#010x}\n}}",
            !MARK_MASK
        ),
    );
    // after the last routing decision: a Service's address that is translated in the output hook leads elsewhere than before
    line(
        &mut text,
        format_args!(
            "chain output {{\ntype filter hook postrouting priority -5; policy accept;\n\
             fib saddr type != local accept\n\
             meta mark and {MARK_MASK:#010x} == {MARK_OUTER:#010x} accept\n\
             oifname \"{tun}\" accept\n\
             ip daddr @keyed4 counter name downgrade_prevented drop\n\
             ip6 daddr @keyed6 counter name downgrade_prevented drop\n}}"
        ),
    );
    text
}

/// What comes out of our own range from a link that has no pin yet.
fn early(v: char, ip: &str) -> String {
    format!(
        "chain early{v} {{\n\
         {ip} daddr @keyed{v} counter name unpinned drop\n\
         {ip} daddr @pod_cidrs{v} {ip} daddr != @clear{v} {ip} daddr != @local{v} counter name unpinned drop\n}}\n"
    )
}

/// A chain that counts, remembers who talked to whom, and ends with a verdict. Protocols without ports have port 0.
fn remembering(chain: &str, set: &str, counter: &str, verdict: &str, v: char, ip: &str) -> String {
    let (who, new) =
        (format!("{ip} saddr . {ip} daddr . meta l4proto"), if verdict == "accept" { "ct state new " } else { "" });
    format!(
        "chain {chain}{v} {{\ncounter name {counter}\n\
         {new}meta l4proto {{ tcp, udp, sctp }} update @{set}{v} {{ {who} . th dport counter }} {verdict}\n\
         {new}meta l4proto != {{ tcp, udp, sctp }} update @{set}{v} {{ {who} . 0 counter }} {verdict}\n\
         {verdict}\n}}\n"
    )
}

/// Whether a link's name can be part of an nft script: the kernel allows more than nft's identifiers do.
pub(super) fn is_plain_name(link: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    !link.is_empty() && link.len() <= 15 && link.bytes().all(plain)
}
