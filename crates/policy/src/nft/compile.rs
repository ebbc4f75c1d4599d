//! From the rule set to tables: one chain for each stage of each distinct list of rules, verdict maps for single peers.
//!
//! The address at the other end of a flow is found in one lookup, however many rules name it: rules of one action that
//! follow each other become one verdict map from address to ports. Large sets (a whole cluster's pods), and those in
//! rules with several conditions, are named sets shared by all chains that use them; loading is slow with very many of
//! those, because the kernel finds them by walking a list.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::program::{CONTESTED, JUDGED, MEMBERS, NODE, SELVES, Table};
use super::text::{self, hash};
use super::{Here, LAYERS, Layer};
use crate::rule_set::{Action, ChainKey, Otherwise, PeerMatch, PeerSet, Ports, Proof, Rule, RuleSet, Stage};
use crate::verdict::{Direction, Reason};

/// Most addresses of a set that go into a chain's verdict map, element by element.
const SINGLE_MAX: usize = 256;

/// Compiles the rules of one family.
pub(super) fn table(rules: &RuleSet, here: &Here<'_>, is_v4: bool) -> Table {
    let mut compiler = Compiler { rules, is_v4, table: Table::default() };
    let local = rules.workloads.values().filter(|subject| subject.node.as_deref() == Some(here.node));
    let of_family = |ips: &BTreeSet<IpAddr>| -> BTreeSet<IpAddr> {
        ips.iter().filter(|ip| ip.is_ipv4() == is_v4).copied().collect()
    };
    let mut users: BTreeMap<(Direction, &ChainKey), BTreeSet<IpAddr>> = BTreeMap::new();
    let mut judged = BTreeSet::new();
    for subject in local {
        let own = of_family(&subject.addresses);
        for (side, key) in [(Direction::Outbound, &subject.outbound), (Direction::Inbound, &subject.inbound)] {
            let Some(key) = key else { continue };
            judged.extend(&own);
            users.entry((side, key)).or_default().extend(&own);
        }
    }
    for side in text::DIRECTIONS {
        for layer in LAYERS {
            compiler.table.maps.insert(text::hook_map(side, layer), BTreeMap::new());
        }
    }
    for ((side, key), ips) in users {
        compiler.subjects(side, key, &ips);
    }
    let own_node = rules.nodes.get(here.node).map(&of_family).unwrap_or_default();
    let fixed = [
        (SELVES, judged.clone()),
        (JUDGED, judged),
        (NODE, own_node),
        (CONTESTED, of_family(&rules.contested)),
        (MEMBERS, of_family(here.members)),
    ];
    let mut table = compiler.table;
    table.sets.extend(fixed.map(|(name, ips)| (name.to_owned(), Arc::new(ips))));
    table
}

struct Compiler<'a> {
    rules: &'a RuleSet,
    is_v4: bool,
    table: Table,
}

/// Where a stage's rules lead.
struct Ways {
    side: Direction,
    /// A rule of the stage denies.
    deny: String,
    /// No rule of the stage matches, and it is closed.
    closed: String,
    /// The layer lets it pass.
    allow: String,
    /// The stage has nothing to say.
    pass: String,
}

/// A rule's single peers, by address: their ports, or every port.
type Singles<'a> = BTreeMap<IpAddr, Vec<&'a Ports>>;

impl Compiler<'_> {
    /// Leads these addresses to their chain, and writes it.
    fn subjects(&mut self, side: Direction, key: &ChainKey, ips: &BTreeSet<IpAddr>) {
        let Some(chain) = self.rules.chains.get(key).cloned() else { return };
        for layer in LAYERS {
            let stages = match layer {
                Layer::Authorization => &chain.authorization,
                Layer::Network => &chain.network,
            };
            if stages.is_empty() {
                continue;
            }
            let name = |stage: usize| format!("{}{}_{}_{stage}", text::letter(side), layer.letter(), hash(&key.0));
            for (index, stage) in stages.iter().enumerate() {
                let allow = text::allowed(side, layer);
                let is_last = index + 1 == stages.len();
                let pass = if is_last { allow.clone() } else { format!("goto {}", name(index + 1)) };
                let closed = text::denied(side, stage.closed_for());
                let ways = Ways { side, deny: text::denied(side, Reason::Rule), closed, allow, pass };
                self.stage(&name(index), stage, &ways);
            }
            let entries = ips.iter().map(|ip| (*ip, format!("goto {}", name(0))));
            self.table.maps.entry(text::hook_map(side, layer)).or_default().extend(entries);
        }
    }

    fn stage(&mut self, name: &str, stage: &Stage, ways: &Ways) {
        let mut rules = Vec::new();
        for (index, part) in stage.rules.chunk_by(|a, b| a.action == b.action).enumerate() {
            let Some(action) = part.first().map(|rule| rule.action) else { continue };
            let verdict = match action {
                Action::Deny => &ways.deny,
                Action::Allow => &ways.allow,
                Action::Pass => &ways.pass,
                Action::Audit => "counter name audited",
            };
            let part_name = format!("{name}_{index}");
            if action == Action::Audit {
                part.iter().for_each(|rule| self.conditions(&mut rules, rule, ways.side, verdict));
            } else {
                self.part(&mut rules, &part_name, part, ways.side, verdict);
            }
        }
        rules.push(match stage.otherwise {
            Otherwise::Deny => ways.closed.clone(),
            Otherwise::Pass => ways.pass.clone(),
        });
        self.table.chains.insert(name.to_owned(), rules);
    }

    /// Rules of one action that follow each other: their order is of no consequence.
    fn part(&mut self, out: &mut Vec<String>, name: &str, part: &[Rule], side: Direction, verdict: &str) {
        let peer = text::peer(side, self.is_v4);
        let (mut claimed, mut proven): (Singles<'_>, Singles<'_>) = Default::default();
        let mut others = Vec::new();
        for rule in part.iter().filter(|rule| !text::is_nothing(&rule.ports)) {
            let single = match rule.peers.as_slice() {
                [only] if only.inside => {
                    self.set(only).filter(|set| set.addresses.len() <= SINGLE_MAX).map(|s| (only, s))
                }
                _ => None,
            };
            let Some((only, set)) = single else {
                self.conditions(&mut others, rule, side, verdict);
                continue;
            };
            let map = if only.proof == Proof::Needed { &mut proven } else { &mut claimed };
            for ip in set.addresses.iter().filter(|ip| ip.is_ipv4() == self.is_v4) {
                map.entry(*ip).or_default().push(&rule.ports);
            }
            for blocks in text::blocks(&set.blocks, self.is_v4) {
                text::push(&mut others, &format!("{peer} {{ {blocks} }} "), &rule.ports, verdict);
            }
        }
        for (map, suffix, condition) in [(claimed, "c", String::new()), (proven, "p", text::proof(self.is_v4))] {
            if map.is_empty() {
                continue;
            }
            let name = format!("{name}{suffix}");
            let entries = map.into_iter().map(|(ip, ports)| (ip, self.by_ports(&ports, side, verdict))).collect();
            self.table.maps.insert(name.clone(), entries);
            out.push(format!("{condition}{peer} vmap @{name}"));
        }
        out.append(&mut others);
    }

    /// What becomes of a packet whose other end is found: the verdict, or a look at its port first.
    fn by_ports(&mut self, ports: &[&Ports], side: Direction, verdict: &str) -> String {
        let ports = text::union(ports);
        if ports == Ports::Any {
            return verdict.to_owned();
        }
        let mut rules = Vec::new();
        text::push(&mut rules, "", &ports, verdict);
        let chain = format!("{}p_{}", text::letter(side), hash(&rules.join("\n")));
        self.table.chains.insert(chain.clone(), rules);
        format!("jump {chain}")
    }

    /// A rule with all its conditions written out; as many rules as there are ways to fulfil them.
    fn conditions(&mut self, out: &mut Vec<String>, rule: &Rule, side: Direction, verdict: &str) {
        let mut ways = vec![String::new()];
        for condition in &rule.peers {
            let all = self.alternatives(condition, side);
            ways = ways.iter().flat_map(|way| all.iter().map(move |other| format!("{way}{other}"))).collect();
        }
        for way in ways {
            text::push(out, &way, &rule.ports, verdict);
        }
    }

    /// The ways in which one condition can hold.
    fn alternatives(&mut self, condition: &PeerMatch, side: Direction) -> Vec<String> {
        let peer = text::peer(side, self.is_v4);
        let proof = if condition.proof == Proof::Needed { text::proof(self.is_v4) } else { String::new() };
        let set = self.set(condition).cloned().unwrap_or_default();
        let has_members = set.addresses.iter().any(|ip| ip.is_ipv4() == self.is_v4);
        let blocks: Vec<_> = text::blocks(&set.blocks, self.is_v4).collect();
        if condition.inside {
            let members = has_members.then(|| format!("{proof}{peer} @{} ", self.named(condition, &set)));
            return members.into_iter().chain(blocks.iter().map(|b| format!("{peer} {{ {b} }} "))).collect();
        }
        let outside: String = blocks.iter().map(|b| format!("{peer} != {{ {b} }} ")).collect();
        if !has_members {
            return vec![outside];
        }
        let not_member = format!("{outside}{peer} != @{} ", self.named(condition, &set));
        if condition.proof == Proof::Unneeded {
            return vec![not_member];
        }
        // one who does not prove to be a member is none
        let unproven = text::unproven(self.is_v4).map(|unproven| format!("{outside}{unproven}"));
        [vec![not_member], unproven.to_vec()].concat()
    }

    fn set(&self, condition: &PeerMatch) -> Option<&PeerSet> {
        self.rules.sets.get(&condition.set).map(AsRef::as_ref)
    }

    /// The name of the set of addresses in the table, which then has it.
    fn named(&mut self, condition: &PeerMatch, set: &PeerSet) -> String {
        let name = format!("s_{}", hash(&condition.set.0));
        let is_v4 = self.is_v4;
        let members = || Arc::new(set.addresses.iter().filter(|ip| ip.is_ipv4() == is_v4).copied().collect());
        self.table.sets.entry(name.clone()).or_insert_with(members);
        name
    }
}
