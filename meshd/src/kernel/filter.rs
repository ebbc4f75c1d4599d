//! The packet filter as nft scripts: a whole one, and the smallest that leads from one wish to another. Pure.
//!
//! The chains never change; what is wished for is in sets, and in one netdev chain per pinned link. Marks, chains and
//! their order are explained in `docs/packet-path.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use plan::{Filter, Pin};

use super::standing::BY_FILTER;
use super::{MARK_MASK, MARK_MEMBER, MARK_ORIGINS, MARK_OUTER, MARK_OUTSIDER, flows};

/// What the forward and output hooks count, in table `inet weft`.
pub(super) const COUNTERS: [&str; 10] = [
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
];
/// What the pins count, in table `netdev weft`.
pub(super) const PIN_COUNTERS: [&str; 3] = ["spoofed_source", "forged_discovery", "not_ip"];
/// Flows remembered in each of the dynamic sets; when one is full, flows are still judged and counted, only not listed.
const REMEMBERED_MAX: usize = 4096;

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
        add_pin(&mut script, link, pin);
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
        remove_pin(&mut script, link);
    }
    for (link, pin) in to.pins.iter().filter(|(link, pin)| from.pins.get(*link) != Some(*pin)) {
        remove_pin(&mut script, link);
        add_pin(&mut script, link, pin);
    }
    script
}

/// Removes everything of ours.
pub(super) fn nothing() -> String {
    ["inet weft", "netdev weft"].map(|table| format!("add table {table}\ndelete table {table}\n")).concat()
}

fn line(script: &mut String, text: std::fmt::Arguments<'_>) {
    // writing to a String cannot fail
    let _written = script.write_fmt(text);
    script.push('\n');
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
                "chain leaving{v} {{\n\
                 ct direction reply meta l4proto {{ tcp, udp, sctp }} {ip} saddr . th sport @open_ports{v} accept\n\
                 ct direction reply meta l4proto {{ tcp, udp, sctp }} {ip} saddr . th sport @closed_ports{v} counter name plaintext_denied drop\n\
                 ct direction reply {ip} saddr @strict{v} counter name plaintext_denied drop\n\
                 ct direction reply ct state established,related accept\n\
                 {ip} saddr @require_mesh{v} counter name require_mesh drop\n\
                 accept\n}}"
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
                "chain judge{v} {{\n\
                 {ip} saddr @keyed_enforced{v} {ip} daddr @enrolled_enforced{v} counter name plaintext_from_keyed drop\n\
                 ct direction reply ct state established,related accept\n\
                 meta l4proto {{ tcp, udp, sctp }} {ip} daddr . th dport @open_ports{v} goto seen{v}\n\
                 meta l4proto {{ tcp, udp, sctp }} {ip} daddr . th dport @closed_ports{v} goto deny{v}\n\
                 {ip} daddr @strict{v} goto deny{v}\n\
                 {ip} daddr @permissive{v} goto seen{v}\n\
                 goto deny{v}\n}}"
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
        [guard("saddr"), guard("daddr")].concat()
    });
    // their destination is a lie until this hook is over (RFC 791 section 3.1): a node that follows them would be a way
    // round every rule about destinations
    let source_routes =
        ["lsrr", "ssrr"].map(|kind| format!("ip option {kind} exists counter name source_routed drop\n")).concat();
    let early = [guarded.concat(), early.concat()].concat();
    line(
        &mut text,
        format_args!(
            "chain forward {{\ntype filter hook forward priority -5; policy drop;\n\
             meta mark set meta mark or {BY_FILTER:#010x}\n\
             {source_routes}iifname \"{tun}\" oifname \"{tun}\" counter name loop drop\n\
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

fn remove_pin(script: &mut String, link: &str) {
    // `add` first, because the kernel may have taken the chain away together with its link
    line(
        script,
        format_args!(
            "add chain netdev weft pin_{link}\nflush chain netdev weft pin_{link}\ndelete chain netdev weft pin_{link}"
        ),
    );
}

/// What may come out of a link: IP with the right MAC and address, and only the neighbour discovery that goes with it.
fn add_pin(script: &mut String, link: &str, pin: &Pin) {
    let mac = pin.mac.map(|byte| format!("{byte:02x}")).join(":");
    let mark = if pin.enrolled { MARK_MEMBER } else { MARK_OUTSIDER };
    let set_mark = format!("meta mark set meta mark and {:#010x} or {mark:#010x}", !MARK_MASK);
    // no anonymous set anywhere: each costs the kernel as much as ten rules when hundreds of links are pinned at once
    let mut rules = vec![format!("ether saddr != {mac} counter name spoofed_source drop")];
    for own in pin.addresses.iter().filter(|ip| ip.is_ipv4()) {
        rules.push(format!("ether type ip ip saddr {own} {set_mark} accept"));
        let arp = format!("arp htype 1 arp ptype ip arp saddr ether {mac} arp saddr ip");
        rules.push(format!("ether type arp {arp} {own} accept"));
        // an address probe (RFC 5227 section 2.1)
        rules.push(format!("ether type arp {arp} 0.0.0.0 accept"));
    }
    rules.push("ether type ip counter name spoofed_source drop".to_owned());
    rules.push("ether type arp counter name forged_discovery drop".to_owned());
    let v6: Vec<_> = pin.addresses.iter().filter(|ip| ip.is_ipv6()).collect();
    if !v6.is_empty() {
        let forged = "counter name forged_discovery drop";
        rules.push(format!("ether type ip6 icmpv6 type nd-router-advert {forged}"));
        rules.push(format!("ether type ip6 icmpv6 type nd-redirect {forged}"));
        // the target address follows 8 bytes of ICMPv6 header (RFC 4861 section 4.4)
        let targets = v6.iter().filter_map(|ip| v6_bits(ip)).chain([link_local_bits(pin.mac)]);
        let foreign = targets.map(|bits| format!("@th,64,128 != {bits:#034x} ")).collect::<String>();
        rules.push(format!("ether type ip6 icmpv6 type nd-neighbor-advert {foreign}{forged}"));
        for own in v6 {
            rules.push(format!("ether type ip6 ip6 saddr {own} {set_mark} accept"));
        }
        // solicitations and advertisements (RFC 4861 sections 4.3 and 4.4)
        let discovery = "icmpv6 type 135-136";
        rules.push(format!("ether type ip6 ip6 saddr fe80::/10 {discovery} accept"));
        // duplicate address detection (RFC 4862 section 5.4.2)
        rules.push("ether type ip6 ip6 saddr :: icmpv6 type nd-neighbor-solicit accept".to_owned());
        // what every host sends by itself when its link comes up: not worth a count, and it goes nowhere
        for unspecific in ["::", "fe80::/10"] {
            rules.push(format!("ether type ip6 ip6 saddr {unspecific} meta l4proto ipv6-icmp drop"));
        }
    }
    rules.push("ether type ip6 counter name spoofed_source drop".to_owned());
    rules.push("counter name not_ip drop".to_owned());
    let hook = format!("type filter hook ingress device \"{link}\" priority -500; policy drop;");
    line(script, format_args!("add chain netdev weft pin_{link} {{ {hook} }}"));
    for rule in rules {
        line(script, format_args!("add rule netdev weft pin_{link} {rule}"));
    }
}

fn v6_bits(ip: &IpAddr) -> Option<u128> {
    match ip {
        IpAddr::V6(v6) => Some(v6.to_bits()),
        IpAddr::V4(_) => None,
    }
}

/// The link-local address that Linux makes of a MAC (modified EUI-64, RFC 4291 appendix A).
fn link_local_bits([a, b, c, d, e, f]: [u8; 6]) -> u128 {
    let low = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    (0xfe80_u128 << 112) | u128::from(low)
}

/// Whether a link's name can be part of an nft script: the kernel allows more than nft's identifiers do.
pub(super) fn is_plain_name(link: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    !link.is_empty() && link.len() <= 15 && link.bytes().all(plain)
}
