//! From the rule set to tables: one chain for each stage of each distinct list of rules, sets and verdict maps for peers.
//!
//! The other end of a flow is found in one lookup for each protocol, however many rules name it: rules of one action
//! that follow each other become one set of addresses with ports for each protocol, and one verdict map from address to
//! ports for what is not a list of single ports. Large sets (a whole cluster's pods), and those in rules with several
//! conditions, are named sets shared by all chains that use them; loading is slow with very many of those, because the
//! kernel finds them by walking a list.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::program::{CONTESTED, JUDGED, MEMBERS, NODE, SELVES, Table};
use super::text::{self, hash};
use super::{Here, LAYERS, Layer, Program};
use crate::rule_set::{
    Action, Chain, ChainKey, Otherwise, PeerMatch, PeerSet, Ports, Proof, Rule, RuleSet, SetKey, Stage,
};
use crate::verdict::{Direction, Reason};
use crate::workload::Protocol;

/// Most addresses of a set that go into a chain's own sets and maps, element by element.
const SINGLE_MAX: usize = 256;
/// Most elements, addresses times ports, that one rule adds to a set of addresses with ports; with more of them the ports
/// are a chain of their own, that the addresses lead to.
const PAIRS_MAX: usize = 1024;

/// Compiles again and again, each time from the whole: only chains are written anew that changed, or a set of which did.
/// What it gives depends on its arguments alone.
#[derive(Debug, Default)]
pub struct Scribe {
    held: BTreeMap<(Direction, ChainKey), Written>,
}

/// A chain as it was written, and what it was written from.
#[derive(Debug)]
struct Written {
    chain: Arc<Chain>,
    sets: Vec<(SetKey, Option<Arc<PeerSet>>)>,
    /// IPv4 and IPv6.
    families: [Piece; 2],
}

/// What one chain needs of a table.
#[derive(Debug, Default)]
struct Piece {
    /// Where each layer begins, in the order of [`LAYERS`]; `None` where it has no stages.
    begins: [Option<String>; 2],
    table: Table,
}

impl Scribe {
    /// The rules about one node's workloads.
    #[must_use]
    pub fn program(&mut self, rules: &RuleSet, here: &Here<'_>) -> Program {
        let local = || rules.workloads.values().filter(|subject| subject.node.as_deref() == Some(here.node));
        let mut users: BTreeMap<(Direction, &ChainKey), BTreeSet<IpAddr>> = BTreeMap::new();
        let mut judged: BTreeSet<IpAddr> = BTreeSet::new();
        for subject in local() {
            for (side, key) in [(Direction::Outbound, &subject.outbound), (Direction::Inbound, &subject.inbound)] {
                let Some(key) = key else { continue };
                judged.extend(&subject.addresses);
                users.entry((side, key)).or_default().extend(&subject.addresses);
            }
        }
        let mut held = std::mem::take(&mut self.held);
        for (side, key) in users.keys() {
            let Some(chain) = rules.chains.get(*key) else { continue };
            let name = (*side, (*key).clone());
            let written = held.remove(&name).filter(|written| written.is_of(chain, rules));
            self.held.insert(name, written.unwrap_or_else(|| Written::new(chain, *side, key, rules)));
        }
        let table = |is_v4: bool| {
            let mut table = Table::default();
            let mut maps: BTreeMap<String, BTreeMap<IpAddr, String>> = BTreeMap::new();
            for side in text::DIRECTIONS {
                for layer in LAYERS {
                    maps.insert(text::hook_map(side, layer), BTreeMap::new());
                }
            }
            for ((side, key), written) in &self.held {
                let piece = if is_v4 { &written.families[0] } else { &written.families[1] };
                table.add(&piece.table);
                let ips = users.get(&(*side, key)).into_iter().flatten().filter(|ip| ip.is_ipv4() == is_v4);
                for (layer, begin) in LAYERS.into_iter().zip(&piece.begins) {
                    let Some(begin) = begin else { continue };
                    let entries = ips.clone().map(|ip| (*ip, format!("goto {begin}")));
                    maps.entry(text::hook_map(*side, layer)).or_default().extend(entries);
                }
            }
            // who is judged elsewhere has nothing to fear here, and is found all the same: whom no map knows is dropped
            for side in text::DIRECTIONS {
                for layer in LAYERS {
                    let map = maps.entry(text::hook_map(side, layer)).or_default();
                    for ip in judged.iter().filter(|ip| ip.is_ipv4() == is_v4) {
                        map.entry(*ip).or_insert_with(|| text::allowed(side, layer));
                    }
                }
            }
            table.maps.extend(maps.into_iter().map(|(name, map)| (name, Arc::new(map))));
            table.sets.extend(fixed(rules, here, &judged, is_v4));
            table
        };
        Program { v4: table(true), v6: table(false) }
    }
}

/// The sets that every table has.
fn fixed(
    rules: &RuleSet,
    here: &Here<'_>,
    judged: &BTreeSet<IpAddr>,
    is_v4: bool,
) -> [(String, Arc<BTreeSet<IpAddr>>); 5] {
    let of_family = |ips: &BTreeSet<IpAddr>| -> Arc<BTreeSet<IpAddr>> {
        Arc::new(ips.iter().filter(|ip| ip.is_ipv4() == is_v4).copied().collect())
    };
    let selves = of_family(judged);
    // who is contested is in no map: where somebody empties that set, they are judged and not found
    let judged = of_family(&judged.union(&rules.contested).copied().collect());
    let members: BTreeSet<IpAddr> = here.members.iter().copied().chain(text::NOBODY).collect();
    let node = rules.nodes.get(here.node).map(&of_family).unwrap_or_default();
    [
        (SELVES, selves),
        (JUDGED, judged),
        (NODE, node),
        (CONTESTED, of_family(&rules.contested)),
        (MEMBERS, of_family(&members)),
    ]
    .map(|(name, ips)| (name.to_owned(), ips))
}

impl Written {
    fn new(chain: &Arc<Chain>, side: Direction, key: &ChainKey, rules: &RuleSet) -> Self {
        let stages = chain.authorization.iter().chain(&chain.network);
        let named = stages.flat_map(|stage| &stage.rules).flat_map(|rule| &rule.peers).map(|peer| &peer.set);
        let named: BTreeSet<&SetKey> = named.collect();
        let sets = named.into_iter().map(|key| (key.clone(), rules.sets.get(key).cloned())).collect();
        let families = [true, false].map(|is_v4| {
            let mut writer = Writer { rules, is_v4, table: Table::default(), wholeness: BTreeSet::new() };
            let begins = LAYERS.map(|layer| writer.layer(chain, side, key, layer));
            Piece { begins, table: writer.table }
        });
        Self { chain: Arc::clone(chain), sets, families }
    }

    /// Whether nothing that it was written from has changed.
    fn is_of(&self, chain: &Arc<Chain>, rules: &RuleSet) -> bool {
        let same = |(key, held): &(SetKey, Option<Arc<PeerSet>>)| match (held, rules.sets.get(key)) {
            (Some(held), Some(now)) => Arc::ptr_eq(held, now) || held == now,
            (held, now) => held.is_none() && now.is_none(),
        };
        (Arc::ptr_eq(&self.chain, chain) || self.chain == *chain) && self.sets.iter().all(same)
    }
}

/// Whether a rule of this action lets more pass when a set is empty that the other end has to be in (`inside`), or not in.
fn opens_without(action: Action, inside: bool) -> bool {
    match action {
        Action::Deny => inside,
        Action::Allow => !inside,
        // what is passed over may as well deny as allow
        Action::Pass => true,
        Action::Audit => false,
    }
}

struct Writer<'a> {
    rules: &'a RuleSet,
    is_v4: bool,
    table: Table,
    /// Rules that close the stage that is being written while a set that it needs is emptied.
    wholeness: BTreeSet<String>,
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

/// A rule's single peers.
#[derive(Default)]
struct Singles<'a> {
    /// Those that any port, or more than single ones, are meant of.
    by_address: BTreeMap<IpAddr, Vec<&'a Ports>>,
    /// Single ports of each protocol.
    by_port: BTreeMap<Protocol, BTreeSet<(IpAddr, u16)>>,
}

impl<'a> Singles<'a> {
    fn is_empty(&self) -> bool {
        self.by_address.is_empty() && self.by_port.is_empty()
    }

    fn add(&mut self, ips: &[IpAddr], ports: &'a Ports) {
        if ips.is_empty() {
            return;
        }
        let Some(single) = text::single_ports(ports).filter(|single| single.len() * ips.len() <= PAIRS_MAX) else {
            for ip in ips {
                self.by_address.entry(*ip).or_default().push(ports);
            }
            return;
        };
        for (protocol, port) in single {
            self.by_port.entry(protocol).or_default().extend(ips.iter().map(|ip| (*ip, port)));
        }
    }
}

impl Writer<'_> {
    /// Writes the stages of a layer; the name of the first.
    fn layer(&mut self, chain: &Chain, side: Direction, key: &ChainKey, layer: Layer) -> Option<String> {
        let stages = match layer {
            Layer::Authorization => &chain.authorization,
            Layer::Network => &chain.network,
        };
        let name = |stage: usize| format!("{}{}_{}_{stage}", text::letter(side), layer.letter(), hash(&key.0));
        for (index, stage) in stages.iter().enumerate() {
            let allow = text::allowed(side, layer);
            let is_last = index + 1 == stages.len();
            let pass = if is_last { allow.clone() } else { format!("goto {}", name(index + 1)) };
            let closed = text::denied(side, stage.closed_for());
            let ways = Ways { side, deny: text::denied(side, Reason::Rule), closed, allow, pass };
            self.stage(&name(index), stage, &ways);
        }
        (!stages.is_empty()).then(|| name(0))
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
        let whole = std::mem::take(&mut self.wholeness).into_iter().chain(rules).collect();
        self.table.chains.insert(name.to_owned(), Arc::new(whole));
    }

    /// Rules of one action that follow each other: their order is of no consequence.
    fn part(&mut self, out: &mut Vec<String>, name: &str, part: &[Rule], side: Direction, verdict: &str) {
        let peer = text::peer(side, self.is_v4);
        let opens = part.first().is_some_and(|rule| opens_without(rule.action, true));
        let (mut claimed, mut proven) = (Singles::default(), Singles::default());
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
            let singles = if only.proof == Proof::Needed { &mut proven } else { &mut claimed };
            let ips: Vec<_> = set.addresses.iter().filter(|ip| ip.is_ipv4() == self.is_v4).copied().collect();
            singles.add(&ips, &rule.ports);
            for blocks in text::blocks(&set.blocks, self.is_v4) {
                text::push(&mut others, &format!("{peer} {{ {blocks} }} "), &rule.ports, verdict);
            }
        }
        for (singles, suffix, condition) in [(claimed, "c", String::new()), (proven, "p", text::proof(self.is_v4))] {
            let name = format!("{name}{suffix}");
            if opens && !condition.is_empty() && !singles.is_empty() {
                self.wholeness.insert(text::whole(MEMBERS, side, self.is_v4));
            }
            self.by_address(out, &name, singles.by_address, &condition, (side, verdict, opens));
            for (protocol, mut pairs) in singles.by_port {
                let number = protocol.number();
                let name = format!("{name}{number}");
                out.push(format!(
                    "{condition}ct original protocol {number} {peer} . ct reply proto-src @{name} {verdict}"
                ));
                if opens {
                    self.wholeness.insert(text::whole_ports(&name, side, self.is_v4));
                    pairs.insert((text::nobody(self.is_v4), 0));
                }
                self.table.ports.insert(name, Arc::new(pairs));
            }
        }
        out.append(&mut others);
    }

    /// One look-up of the other end; where losing it would open, one for each list of ports, since only of a set, and not of a
    /// map, a rule can ask whether somebody emptied it.
    fn by_address(
        &mut self,
        out: &mut Vec<String>,
        name: &str,
        peers: BTreeMap<IpAddr, Vec<&Ports>>,
        condition: &str,
        (side, verdict, opens): (Direction, &str, bool),
    ) {
        if peers.is_empty() {
            return;
        }
        let peer = text::peer(side, self.is_v4);
        let entries: BTreeMap<_, _> =
            peers.into_iter().map(|(ip, ports)| (ip, self.by_ports(&ports, side, verdict))).collect();
        if !opens {
            self.table.maps.insert(name.to_owned(), Arc::new(entries));
            out.push(format!("{condition}{peer} vmap @{name}"));
            return;
        }
        let mut sets: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
        for (ip, verdict) in entries {
            sets.entry(verdict).or_default().insert(ip);
        }
        for (verdict, mut ips) in sets {
            let name = format!("{name}_{}", hash(&verdict));
            out.push(format!("{condition}{peer} @{name} {verdict}"));
            self.wholeness.insert(text::whole(&name, side, self.is_v4));
            ips.insert(text::nobody(self.is_v4));
            self.table.sets.insert(name, Arc::new(ips));
        }
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
        self.table.chains.insert(chain.clone(), Arc::new(rules));
        format!("jump {chain}")
    }

    /// A rule with all its conditions written out; as many rules as there are ways to fulfil them.
    fn conditions(&mut self, out: &mut Vec<String>, rule: &Rule, side: Direction, verdict: &str) {
        let mut ways = vec![String::new()];
        for condition in &rule.peers {
            let all = self.alternatives(condition, side, opens_without(rule.action, condition.inside));
            ways = ways.iter().flat_map(|way| all.iter().map(move |other| format!("{way}{other}"))).collect();
        }
        for way in ways {
            text::push(out, &way, &rule.ports, verdict);
        }
    }

    /// The ways in which one condition can hold. Where it `opens` without its set, that set is asked for first.
    fn alternatives(&mut self, condition: &PeerMatch, side: Direction, opens: bool) -> Vec<String> {
        let peer = text::peer(side, self.is_v4);
        let proof = if condition.proof == Proof::Needed { text::proof(self.is_v4) } else { String::new() };
        let set = self.set(condition).cloned().unwrap_or_default();
        let has_members = set.addresses.iter().any(|ip| ip.is_ipv4() == self.is_v4);
        let blocks: Vec<_> = text::blocks(&set.blocks, self.is_v4).collect();
        if opens && has_members {
            let name = self.named(condition, &set);
            self.wholeness.insert(text::whole(&name, side, self.is_v4));
            if condition.proof == Proof::Needed {
                self.wholeness.insert(text::whole(MEMBERS, side, self.is_v4));
            }
        }
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
        let all = set.addresses.iter().copied().chain(text::NOBODY);
        let members = || Arc::new(all.filter(|ip| ip.is_ipv4() == is_v4).collect());
        self.table.sets.entry(name.clone()).or_insert_with(members);
        name
    }
}
