//! From rules to nftables: what judges each forwarded packet in the kernel, and the smallest script that leads from one
//! set of rules to another. Pure: text out, nothing is run.
//!
//! One table a family, `ip weft_policy` and `ip6 weft_policy`. A packet is judged by its *connection*, as conntrack
//! knows it after DNAT: `ct original saddr` is who began it, `ct reply saddr` who serves it, `ct reply proto-src` the
//! port there. Packets of both directions, and ICMP errors about them (which conntrack relates), so meet the same rules,
//! each of them, for as long as the connection lives: a policy that goes takes the flow with it.
//!
//! ```text
//! forward_outbound (hook forward, -4) of the client, then forward_inbound (-3) of the server, each:
//!   no connection known: what is to or from a judged workload is dropped
//!   a workload with itself, or with its own node: accept
//!   own end in the map …_authorization ─▶ its first stage ── denied ──▶ counted, remembered, dropped
//!   not there, and judged: dropped         │ allowed
//!   own end in the map …_network ───────▶ its first stage ── denied ──▶ counted, remembered, dropped
//!   not there, and judged: dropped         │ allowed
//!                                        accept: on to the server's side
//!
//! a stage: other end @verdict map ─▶ verdict, or jump to its ports · large sets · blocks · … · otherwise
//! ```
//!
//! Whoever is judged by anything is in each of the four maps, and in the set of the judged: an emptied map closes who was
//! in it, an emptied chain closes all that comes by (the hooks drop what no rule accepts), and an emptied set of the judged
//! leaves the maps. A set that would open what its rules keep closed holds an address that nobody has; a stage that does not
//! find it drops. So somebody else's hand that empties opens nothing until it is put right, but where a hook or a whole table
//! goes: who comes after sees by two bits of the packet's mark whether both hooks were there ([`JUDGED_MARK`]).

mod compile;
mod program;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

pub use self::compile::Scribe;
use self::program::{CONTESTED, Edit, JUDGED, MEMBERS, NODE, SELVES, Table, edits};
use crate::rule_set::RuleSet;
use crate::verdict::Direction;

/// Name of the tables.
pub const TABLE: &str = "weft_policy";
/// The bit of its mark that a packet has once these rules were asked about it, together with [`BEFORE_MARK`]: whoever comes
/// after them sees that they are there.
pub const JUDGED_MARK: u32 = 0x0800_0000;
/// The bit that a packet has when it comes to these rules. The first hook takes it and the second gives it back: where either
/// is gone, or who came before, one of the two bits is missing at the end.
pub const BEFORE_MARK: u32 = 0x0400_0000;
/// What the rules count. What a policy refused is counted twice: by the side that refused, and in [`REASONS`].
pub const COUNTERS: [&str; 9] = [
    "outbound_denied",
    "inbound_denied",
    "connection_unknown",
    "contested_address",
    "unjudged",
    "audited",
    "denied_rule",
    "denied_no_allow_matched",
    "denied_isolated",
];
/// The counters of what policies refused, by [`Reason`](crate::verdict::Reason): its label after `denied_`.
pub const REASONS: [&str; 3] = ["denied_rule", "denied_no_allow_matched", "denied_isolated"];
/// Flows remembered in the set of denied ones; when it is full, flows are still judged and counted, only not listed.
const REMEMBERED_MAX: usize = 4096;
/// Elements on one line of a script; longer lists are several lines of one transaction.
const LINE_MAX: usize = 512;

/// The two layers of a side: both must let a connection pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layer {
    /// AuthorizationPolicy.
    Authorization,
    /// NetworkPolicy and its tiers.
    Network,
}

/// In their order.
const LAYERS: [Layer; 2] = [Layer::Authorization, Layer::Network];

impl Layer {
    fn letter(self) -> char {
        match self {
            Self::Authorization => 'a',
            Self::Network => 'n',
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Authorization => "authorization",
            Self::Network => "network",
        }
    }
}

/// For whom rules are compiled.
#[derive(Clone, Copy, Debug)]
pub struct Here<'a> {
    /// The node whose workloads are judged.
    pub node: &'a str,
    /// Addresses of members: packets between two of them travel sealed, or between two pins of one node.
    pub members: &'a BTreeSet<IpAddr>,
}

/// What the kernel is to hold for both families.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    v4: Table,
    v6: Table,
}

impl Default for Program {
    /// Nobody is judged.
    fn default() -> Self {
        Self::of(&RuleSet::default(), &Here { node: "", members: &BTreeSet::new() })
    }
}

impl Program {
    /// Compiles the rules about one node's workloads, from scratch.
    #[must_use]
    pub fn of(rules: &RuleSet, here: &Here<'_>) -> Self {
        Scribe::default().program(rules, here)
    }

    /// Both tables from nothing, replacing what is there in the same transaction. `counts` says where each counter
    /// begins: packets and bytes, by name.
    #[must_use]
    pub fn whole(&self, counts: impl Fn(&str) -> (u64, u64)) -> String {
        let mut script = nothing();
        for family in [V4, V6] {
            // the families' counters are shown as sums, so that one of them can hold what was counted before
            script.push_str(&frame(family, |name| if family.is_v4 { counts(name) } else { (0, 0) }));
        }
        script + &Self::default().difference(self)
    }

    /// The smallest script that leads from these rules to others; empty when they are equal.
    #[must_use]
    pub fn difference(&self, to: &Self) -> String {
        let mut script = String::new();
        for ((family, from), (_, to)) in self.families().into_iter().zip(to.families()) {
            render(&mut script, family, &edits(from, to));
        }
        script
    }

    /// Whether nobody is judged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.families().iter().all(|(_, table)| table.chains.is_empty())
    }

    /// All chains in the table of a family, `ip` or `ip6`, each with how many rules it has at least.
    pub fn chains(&self, family: &str) -> impl Iterator<Item = (String, usize)> {
        let (family, table) = if family == V4.ip { (V4, &self.v4) } else { (V6, &self.v6) };
        let own = table.chains.iter().map(|(name, rules)| (name.clone(), rules.len()));
        own.chain(rules_by_chain(&frame(family, |_| (0, 0))))
    }

    /// What every set and map in the table of a family, `ip` or `ip6`, holds as nft writes it.
    pub fn elements(&self, family: &str) -> impl Iterator<Item = (&str, BTreeSet<String>)> {
        let table = if family == V4.ip { &self.v4 } else { &self.v6 };
        let sets =
            table.sets.iter().map(|(name, ips)| (name.as_str(), ips.iter().map(|ip| member(name, ip)).collect()));
        let maps = table.maps.iter().map(|(name, verdicts)| {
            (name.as_str(), verdicts.iter().map(|(ip, verdict)| format!("{ip} : {verdict}")).collect())
        });
        let ports = table.ports.iter().map(|(name, pairs)| (name.as_str(), pairs.iter().map(pair).collect()));
        sets.chain(ports).chain(maps)
    }

    fn families(&self) -> [(Family, &Table); 2] {
        [(V4, &self.v4), (V6, &self.v6)]
    }
}

/// How nft calls a family.
#[derive(Clone, Copy)]
struct Family {
    ip: &'static str,
    address: &'static str,
    is_v4: bool,
}

const V4: Family = Family { ip: "ip", address: "ipv4_addr", is_v4: true };
const V6: Family = Family { ip: "ip6", address: "ipv6_addr", is_v4: false };

/// How many rules each chain has that a script of ours writes in one block, one rule a line.
pub fn rules_by_chain(script: &str) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let mut chain = None;
    for line in script.lines() {
        if let Some(name) = line.strip_prefix("chain ") {
            chain = Some(name.trim_end_matches(" {").to_owned());
        } else if line == "}" {
            chain = None;
        } else if let Some(name) = chain.as_ref().filter(|_| !line.starts_with("type ")) {
            *found.entry(name.clone()).or_default() += 1;
        }
    }
    found
}

/// Removes the tables.
#[must_use]
pub fn nothing() -> String {
    ["ip", "ip6"].map(|ip| format!("add table {ip} {TABLE}\ndelete table {ip} {TABLE}\n")).concat()
}

/// What every table has, whatever the rules: counters, sets and maps of nobody, and the chains that lead to the rules.
fn frame(family: Family, counts: impl Fn(&str) -> (u64, u64)) -> String {
    let Family { ip, address, is_v4 } = family;
    let mut text = format!("table {ip} {TABLE} {{\n");
    for name in COUNTERS {
        let (packets, bytes) = counts(name);
        line(&mut text, format_args!("counter {name} {{ packets {packets} bytes {bytes}\n}}"));
    }
    line(&mut text, format_args!("set {SELVES} {{\ntype {address} . {address}\n}}"));
    for name in [JUDGED, NODE, CONTESTED] {
        line(&mut text, format_args!("set {name} {{\ntype {address}\n}}"));
    }
    // as in a program without any member
    let nobody = text::nobody(is_v4);
    line(&mut text, format_args!("set {MEMBERS} {{\ntype {address}\nelements = {{ {nobody} }}\n}}"));
    let kind = format!("{address} . {address} . inet_proto . inet_service");
    let bounds = format!("size {REMEMBERED_MAX}\nflags dynamic,timeout\ntimeout 10m");
    line(&mut text, format_args!("set denied {{\ntype {kind}\n{bounds}\n}}"));
    for direction in text::DIRECTIONS {
        text.push_str(&remembering(ip, direction));
        for layer in LAYERS {
            let map = text::hook_map(direction, layer);
            line(&mut text, format_args!("map {map} {{\ntype {address} : verdict\n}}"));
        }
    }
    // without a connection nobody knows who began: what cannot be judged does not pass where something is judged
    line(
        &mut text,
        format_args!(
            "chain unknown {{\n{ip} saddr @{JUDGED} counter name connection_unknown drop\n\
             {ip} daddr @{JUDGED} counter name connection_unknown drop\n\
             {ip} saddr . {ip} saddr @{SELVES} counter name connection_unknown drop\n\
             {ip} daddr . {ip} daddr @{SELVES} counter name connection_unknown drop\naccept\n}}"
        ),
    );
    for direction in text::DIRECTIONS {
        text.push_str(&hook(is_v4, direction));
    }
    line(&mut text, format_args!("}}"));
    text
}

/// The base chain of a side, and what follows its first layer.
fn hook(is_v4: bool, direction: Direction) -> String {
    let ([client, server], own) = (text::ends(is_v4), text::own(direction, is_v4));
    // bridged neighbour discovery comes by here and has no connection; a routed packet has less than 255 hops left
    let discovery = "ip6 hoplimit 255 icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept\n";
    let discovery = if is_v4 { "" } else { discovery };
    let [authorization, network] = LAYERS.map(|layer| text::hook_map(direction, layer));
    let contested = "counter name contested_address drop";
    let unjudged = text::UNJUDGED;
    // after the mesh's own filter, which is at -5
    let (name, priority, mark) = match direction {
        Direction::Outbound => ("outbound", -4, BEFORE_MARK | JUDGED_MARK),
        Direction::Inbound => ("inbound", -3, BEFORE_MARK),
    };
    format!(
        "chain then_{name} {{\n{own} vmap @{network}\n{own} @{JUDGED} {unjudged}\naccept\n}}\n\
         chain forward_{name} {{\ntype filter hook forward priority {priority}; policy drop;\n\
         meta mark set meta mark xor {mark:#010x}\n{discovery}ct state invalid,untracked goto unknown\n\
         {client} . {server} @{SELVES} accept\n\
         {client} @{CONTESTED} {contested}\n{server} @{CONTESTED} {contested}\n\
         {client} @{NODE} accept\n{server} @{NODE} accept\n\
         {own} vmap @{authorization}\n{own} @{JUDGED} {unjudged}\naccept\n}}\n"
    )
}

/// The chains that count and remember who was denied what and why, in the words of the connection's original direction.
fn remembering(ip: &str, direction: Direction) -> String {
    let name = text::name(direction);
    let by_reason = text::REASONS.map(|reason| {
        let chain = text::denied(direction, reason).replace("goto ", "");
        format!("chain {chain} {{\ncounter name denied_{}\ngoto deny_{name}\n}}\n", reason.as_str())
    });
    let ports = "meta l4proto { tcp, udp, sctp }";
    let original = format!("{ip} saddr . {ip} daddr . meta l4proto");
    let reply = format!("{ip} daddr . {ip} saddr . meta l4proto");
    let remember = format!(
        "chain deny_{name} {{\ncounter name {name}_denied\n\
         ct direction original {ports} update @denied {{ {original} . th dport counter }} drop\n\
         ct direction reply {ports} update @denied {{ {reply} . th sport counter }} drop\n\
         ct direction original update @denied {{ {original} . 0 counter }} drop\n\
         ct direction reply update @denied {{ {reply} . 0 counter }} drop\n\
         drop\n}}\n"
    );
    remember + &by_reason.concat()
}

fn line(script: &mut String, text: std::fmt::Arguments<'_>) {
    // writing to a String cannot fail
    let _written = script.write_fmt(text);
    script.push('\n');
}

fn render(script: &mut String, family: Family, edits: &[Edit<'_>]) {
    let Family { ip, address, .. } = family;
    let at = format!("{ip} {TABLE}");
    for edit in edits {
        match edit {
            Edit::AddChain(name) => line(script, format_args!("add chain {at} {name}")),
            Edit::AddSet(name) => line(script, format_args!("add set {at} {name} {{ type {address}; }}")),
            Edit::AddPortSet(name) => {
                line(script, format_args!("add set {at} {name} {{ type {address} . inet_service; }}"));
            }
            Edit::AddMap(name) => line(script, format_args!("add map {at} {name} {{ type {address} : verdict; }}")),
            Edit::FlushChain(name) => line(script, format_args!("flush chain {at} {name}")),
            Edit::AddRule(chain, rule) => line(script, format_args!("add rule {at} {chain} {rule}")),
            Edit::DelMembers(set, ips) => elements(script, "delete", &at, set, ips.iter().map(|ip| member(set, ip))),
            Edit::AddMembers(set, ips) => elements(script, "add", &at, set, ips.iter().map(|ip| member(set, ip))),
            Edit::DelPorts(set, pairs) => elements(script, "delete", &at, set, pairs.iter().map(pair)),
            Edit::AddPorts(set, pairs) => elements(script, "add", &at, set, pairs.iter().map(pair)),
            Edit::DelVerdicts(map, ips) => elements(script, "delete", &at, map, ips.iter().map(IpAddr::to_string)),
            Edit::AddVerdicts(map, verdicts) => {
                elements(script, "add", &at, map, verdicts.iter().map(|(ip, verdict)| format!("{ip} : {verdict}")));
            }
            Edit::DelSet(name) => line(script, format_args!("delete set {at} {name}")),
            Edit::DelMap(name) => line(script, format_args!("delete map {at} {name}")),
            Edit::DelChain(name) => line(script, format_args!("delete chain {at} {name}")),
        }
    }
}

fn pair((ip, port): &(IpAddr, u16)) -> String {
    format!("{ip} . {port}")
}

fn member(set: &str, ip: &IpAddr) -> String {
    if set == SELVES { format!("{ip} . {ip}") } else { ip.to_string() }
}

fn elements(script: &mut String, verb: &str, at: &str, set: &str, texts: impl Iterator<Item = String>) {
    let texts: Vec<_> = texts.collect();
    for some in texts.chunks(LINE_MAX) {
        line(script, format_args!("{verb} element {at} {set} {{ {} }}", some.join(", ")));
    }
}

#[cfg(test)]
mod tests;
