//! What the kernel is to hold, as plain data: sets, verdict maps and chains by name, and the way from one to another.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// The set whose elements are pairs of one address with itself: workloads that are judged.
pub(super) const SELVES: &str = "selves";
/// The set of addresses that are judged.
pub(super) const JUDGED: &str = "judged";
/// The set of the node's own addresses.
pub(super) const NODE: &str = "node";
/// The set of addresses that more than one workload claims.
pub(super) const CONTESTED: &str = "contested";
/// The set of addresses that have a key.
pub(super) const MEMBERS: &str = "members";

/// The rules of one address family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// Sets of addresses.
    pub(super) sets: BTreeMap<String, Arc<BTreeSet<IpAddr>>>,
    /// Sets of addresses with a port each.
    pub(super) ports: BTreeMap<String, Arc<BTreeSet<(IpAddr, u16)>>>,
    /// Verdict maps: what becomes of a packet by an address.
    pub(super) maps: BTreeMap<String, Arc<BTreeMap<IpAddr, String>>>,
    /// Regular chains: their rules in order.
    pub(super) chains: BTreeMap<String, Arc<Vec<String>>>,
}

impl Table {
    /// Takes in what a part of the rules needs; what parts share is the same in each.
    pub(super) fn add(&mut self, part: &Self) {
        fn all<T>(map: &BTreeMap<String, Arc<T>>) -> impl Iterator<Item = (String, Arc<T>)> {
            map.iter().map(|(name, it)| (name.clone(), Arc::clone(it)))
        }
        self.sets.extend(all(&part.sets));
        self.ports.extend(all(&part.ports));
        self.maps.extend(all(&part.maps));
        self.chains.extend(all(&part.chains));
    }
}

/// One change of a table. A list of them is one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Edit<'a> {
    /// There is this chain, empty.
    AddChain(&'a str),
    /// There is this set, empty.
    AddSet(&'a str),
    /// There is this set of addresses with ports, empty.
    AddPortSet(&'a str),
    /// There is this verdict map, empty.
    AddMap(&'a str),
    /// The chain has no rules.
    FlushChain(&'a str),
    /// The chain has this rule after those it has.
    AddRule(&'a str, &'a str),
    /// The set loses these.
    DelMembers(&'a str, Vec<IpAddr>),
    /// The set gains these.
    AddMembers(&'a str, Vec<IpAddr>),
    /// The set of addresses with ports loses these.
    DelPorts(&'a str, Vec<(IpAddr, u16)>),
    /// The set of addresses with ports gains these.
    AddPorts(&'a str, Vec<(IpAddr, u16)>),
    /// The map loses these keys.
    DelVerdicts(&'a str, Vec<IpAddr>),
    /// The map gains these.
    AddVerdicts(&'a str, Vec<(IpAddr, &'a str)>),
    /// The set is gone.
    DelSet(&'a str),
    /// The map is gone.
    DelMap(&'a str),
    /// The chain is gone.
    DelChain(&'a str),
}

/// The smallest list of edits that leads from one table to another, in an order in which nothing is used before it is
/// there and nothing goes before its last user; empty when they are equal.
pub(super) fn edits<'a>(from: &'a Table, to: &'a Table) -> Vec<Edit<'a>> {
    let mut edits = Vec::new();
    edits.extend(new(&from.chains, &to.chains).map(|(name, _)| Edit::AddChain(name)));
    edits.extend(new(&from.sets, &to.sets).map(|(name, _)| Edit::AddSet(name)));
    edits.extend(new(&from.ports, &to.ports).map(|(name, _)| Edit::AddPortSet(name)));
    edits.extend(new(&from.maps, &to.maps).map(|(name, _)| Edit::AddMap(name)));
    set_edits(&mut edits, &from.sets, &to.sets, Edit::DelMembers, Edit::AddMembers);
    set_edits(&mut edits, &from.ports, &to.ports, Edit::DelPorts, Edit::AddPorts);
    map_edits(&mut edits, from, to);
    for (name, rules) in &to.chains {
        let held = from.chains.get(name);
        // pointers first: what was compiled from the same is the same
        if held.is_some_and(|held| Arc::ptr_eq(held, rules) || held == rules) {
            continue;
        }
        if held.is_some_and(|held| !held.is_empty()) {
            edits.push(Edit::FlushChain(name));
        }
        edits.extend(rules.iter().map(|rule| Edit::AddRule(name, rule)));
    }
    let gone: Vec<_> = new(&to.chains, &from.chains).map(|(name, _)| name.as_str()).collect();
    edits.extend(gone.iter().map(|name| Edit::FlushChain(name)));
    edits.extend(new(&to.maps, &from.maps).map(|(name, _)| Edit::DelMap(name)));
    edits.extend(new(&to.sets, &from.sets).map(|(name, _)| Edit::DelSet(name)));
    edits.extend(new(&to.ports, &from.ports).map(|(name, _)| Edit::DelSet(name)));
    edits.extend(gone.into_iter().map(Edit::DelChain));
    edits
}

/// What is in the second and not in the first, by name.
fn new<'a, V>(
    from: &'a BTreeMap<String, V>,
    to: &'a BTreeMap<String, V>,
) -> impl Iterator<Item = (&'a String, &'a V)> + use<'a, V> {
    to.iter().filter(|(name, _)| !from.contains_key(*name))
}

/// Sets of one kind, by name.
type SetsOf<T> = BTreeMap<String, Arc<BTreeSet<T>>>;

fn set_edits<'a, T: Ord + Copy>(
    edits: &mut Vec<Edit<'a>>,
    from: &'a SetsOf<T>,
    to: &'a SetsOf<T>,
    del: fn(&'a str, Vec<T>) -> Edit<'a>,
    add: fn(&'a str, Vec<T>) -> Edit<'a>,
) {
    for (name, wanted) in to {
        let Some(held) = from.get(name) else {
            if !wanted.is_empty() {
                edits.push(add(name, wanted.iter().copied().collect()));
            }
            continue;
        };
        if Arc::ptr_eq(held, wanted) {
            continue;
        }
        let lost: Vec<_> = held.difference(wanted).copied().collect();
        let gained: Vec<_> = wanted.difference(held).copied().collect();
        if !lost.is_empty() {
            edits.push(del(name, lost));
        }
        if !gained.is_empty() {
            edits.push(add(name, gained));
        }
    }
}

fn map_edits<'a>(edits: &mut Vec<Edit<'a>>, from: &'a Table, to: &'a Table) {
    static NONE: BTreeMap<IpAddr, String> = BTreeMap::new();
    for (name, wanted) in &to.maps {
        let held = from.maps.get(name);
        if held.is_some_and(|held| Arc::ptr_eq(held, wanted)) {
            continue;
        }
        let held = held.map_or(&NONE, AsRef::as_ref);
        let lost: Vec<_> = held.iter().filter(|(ip, v)| wanted.get(*ip) != Some(*v)).map(|(ip, _)| *ip).collect();
        let gained = wanted.iter().filter(|(ip, v)| held.get(*ip) != Some(*v));
        let gained: Vec<_> = gained.map(|(ip, verdict)| (*ip, verdict.as_str())).collect();
        if !lost.is_empty() {
            edits.push(Edit::DelVerdicts(name, lost));
        }
        if !gained.is_empty() {
            edits.push(Edit::AddVerdicts(name, gained));
        }
    }
}

#[cfg(test)]
impl Table {
    /// Applies edits as the kernel does, which refuses what is out of order.
    pub(super) fn apply(&mut self, edits: &[Edit<'_>]) {
        for edit in edits {
            self.apply_one(edit);
        }
    }

    fn uses(&self, name: &str) -> bool {
        let says = |text: &String| text.split([' ', '@']).any(|word| word == name);
        self.chains.values().flat_map(|rules| rules.iter()).any(says)
            || self.maps.values().flat_map(|map| map.values()).any(says)
    }

    fn apply_one(&mut self, edit: &Edit<'_>) {
        match edit {
            Edit::AddChain(name) => assert!(self.chains.insert((*name).to_owned(), Arc::default()).is_none()),
            Edit::AddSet(name) => assert!(self.sets.insert((*name).to_owned(), Arc::default()).is_none()),
            Edit::AddPortSet(name) => assert!(self.ports.insert((*name).to_owned(), Arc::default()).is_none()),
            Edit::AddMap(name) => assert!(self.maps.insert((*name).to_owned(), Arc::default()).is_none()),
            Edit::FlushChain(name) => Arc::make_mut(self.chains.get_mut(*name).unwrap()).clear(),
            Edit::AddRule(name, rule) => {
                for word in rule.split(' ') {
                    if let Some(set) = word.strip_prefix('@') {
                        let known =
                            [self.sets.contains_key(set), self.ports.contains_key(set), self.maps.contains_key(set)];
                        assert!(known.contains(&true), "{rule}");
                    }
                }
                Arc::make_mut(self.chains.get_mut(*name).unwrap()).push((*rule).to_owned());
            }
            Edit::DelMembers(name, ips) => {
                let set = Arc::make_mut(self.sets.get_mut(*name).unwrap());
                assert!(ips.iter().all(|ip| set.remove(ip)));
            }
            Edit::AddMembers(name, ips) => {
                Arc::make_mut(self.sets.get_mut(*name).unwrap()).extend(ips);
            }
            Edit::DelPorts(name, pairs) => {
                let set = Arc::make_mut(self.ports.get_mut(*name).unwrap());
                assert!(pairs.iter().all(|pair| set.remove(pair)));
            }
            Edit::AddPorts(name, pairs) => {
                Arc::make_mut(self.ports.get_mut(*name).unwrap()).extend(pairs);
            }
            Edit::DelVerdicts(name, ips) => {
                let map = Arc::make_mut(self.maps.get_mut(*name).unwrap());
                assert!(ips.iter().all(|ip| map.remove(ip).is_some()));
            }
            Edit::AddVerdicts(name, verdicts) => {
                for (ip, verdict) in verdicts {
                    if let Some((_, chain)) = verdict.split_once(' ') {
                        let is_framed = chain.starts_with("deny_") || chain.starts_with("then_");
                        assert!(is_framed || self.chains.contains_key(chain), "{verdict}");
                    }
                    let map = Arc::make_mut(self.maps.get_mut(*name).unwrap());
                    assert!(map.insert(*ip, (*verdict).to_owned()).is_none());
                }
            }
            Edit::DelSet(name) => {
                assert!(!self.uses(name), "{name} is used");
                assert!(self.sets.remove(*name).is_some() || self.ports.remove(*name).is_some(), "{name} is not there");
            }
            Edit::DelMap(name) => {
                assert!(!self.uses(name), "{name} is used");
                self.maps.remove(*name).unwrap();
            }
            Edit::DelChain(name) => {
                assert!(!self.uses(name), "{name} is used");
                assert!(self.chains.remove(*name).unwrap().is_empty());
            }
        }
    }
}
