//! Sets of peers: what a rule says of them, as a definition with a name of its own, and who that is right now.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use ipnet::IpNet;

use super::index::{Index, Known};
use crate::blocks::Blocks;
use crate::rule_set::{PeerSet, SetKey};
use crate::selector::Selector;
use crate::workload::{Protocol, WorkloadId};

/// Which namespaces a selection looks at.
#[derive(Clone, Debug)]
pub(super) enum Namespaces {
    One(String),
    By(Selector),
}

/// A container port that a member has to have.
#[derive(Clone, Debug)]
pub(super) struct HasPort {
    pub(super) name: String,
    pub(super) protocol: Protocol,
    pub(super) number: u16,
}

/// Who is selected, by something that changes with the world.
#[derive(Clone, Debug)]
pub(super) enum Selection {
    Pods { namespaces: Namespaces, pods: Selector, port: Option<HasPort> },
    Identities(BTreeSet<String>),
    InNamespaces(BTreeSet<String>),
    Nodes(Selector),
}

/// The union of selections and of prefixes with their exceptions.
#[derive(Clone, Debug, Default)]
pub(super) struct Definition {
    pub(super) selections: Vec<Selection>,
    pub(super) blocks: Vec<(IpNet, Vec<IpNet>)>,
}

impl Definition {
    pub(super) fn of(selection: Selection) -> Self {
        Self { selections: vec![selection], blocks: Vec::new() }
    }

    pub(super) fn of_blocks(blocks: &[IpNet]) -> Self {
        let blocks = blocks.iter().map(|cidr| (*cidr, Vec::new())).collect();
        Self { selections: Vec::new(), blocks }
    }

    /// Two definitions of one key are the same set.
    pub(super) fn key(&self) -> SetKey {
        let selections = self.selections.iter().map(Selection::text);
        let blocks = self.blocks.iter().map(|(cidr, except)| {
            let except = except.iter().map(|e| e.trunc()).collect::<BTreeSet<_>>();
            except.iter().fold(cidr.trunc().to_string(), |text, e| text + " except " + &e.to_string())
        });
        let parts: BTreeSet<String> = selections.chain(blocks).collect();
        SetKey(parts.into_iter().collect::<Vec<_>>().join(" | ").into())
    }

    fn evaluate(&self, index: &Index) -> PeerSet {
        let mut set = PeerSet::default();
        for (cidr, except) in &self.blocks {
            set.blocks.merge(&Blocks::carved(*cidr, except));
        }
        for selection in &self.selections {
            selection.evaluate(index, &mut set);
        }
        set
    }

    fn is_about_nodes(&self) -> bool {
        self.selections.iter().any(|s| matches!(s, Selection::Nodes(_) | Selection::Identities(_)))
    }

    fn has(&self, known: &Known) -> bool {
        self.selections.iter().any(|selection| selection.has(known))
    }
}

impl Selection {
    fn text(&self) -> String {
        match self {
            Self::Pods { namespaces, pods, port } => {
                let mut text = match namespaces {
                    Namespaces::One(name) => format!("pods {pods} of {name:?}"),
                    Namespaces::By(selector) => format!("pods {pods} where {selector}"),
                };
                if let Some(HasPort { name, protocol, number }) = port {
                    let _infallible = write!(text, " with {name:?} {} {number}", protocol.as_str());
                }
                text
            }
            Self::Identities(identities) => format!("identities {identities:?}"),
            Self::InNamespaces(names) => format!("namespaces {names:?}"),
            Self::Nodes(selector) => format!("nodes {selector}"),
        }
    }

    fn has(&self, Known { workload, namespace_labels }: &Known) -> bool {
        match self {
            Self::Pods { namespaces, pods, port } => {
                let in_namespace = match namespaces {
                    Namespaces::One(name) => *name == workload.namespace,
                    Namespaces::By(selector) => selector.matches(namespace_labels),
                };
                in_namespace
                    && pods.matches(&workload.labels)
                    && port.as_ref().is_none_or(|wanted| {
                        let is_it = |p: &crate::workload::NamedPort| {
                            p.name == wanted.name && p.protocol == wanted.protocol && p.port == wanted.number
                        };
                        workload.ports.iter().any(is_it)
                    })
            }
            Self::Identities(identities) => workload.identity.as_ref().is_some_and(|i| identities.contains(i)),
            Self::InNamespaces(names) => names.contains(&workload.namespace),
            Self::Nodes(_) => false,
        }
    }

    fn evaluate(&self, index: &Index, set: &mut PeerSet) {
        match self {
            Self::Pods { namespaces: Namespaces::One(name), .. } => {
                let here = index.by_namespace.get(name).into_iter().flatten();
                add(self, here.filter_map(|id| index.workloads.get_key_value(id)), set);
            }
            Self::Pods { .. } | Self::InNamespaces(_) => add(self, index.workloads.iter(), set),
            Self::Identities(identities) => {
                add(self, index.workloads.iter(), set);
                let is_meant = |identity: &Option<String>| identity.as_ref().is_some_and(|i| identities.contains(i));
                for (id, node) in index.nodes.iter().filter(|(_, node)| is_meant(&node.identity)) {
                    set.members.insert(id.clone());
                    set.addresses.extend(node.addresses.iter().copied());
                }
            }
            Self::Nodes(selector) => {
                let nodes = index.nodes.values().filter(|node| selector.matches(&node.labels));
                for address in nodes.flat_map(|node| &node.addresses) {
                    set.blocks.merge(&Blocks::carved((*address).into(), &[]));
                }
            }
        }
    }
}

fn add<'a>(selection: &Selection, among: impl Iterator<Item = (&'a WorkloadId, &'a Arc<Known>)>, set: &mut PeerSet) {
    for (id, known) in among.filter(|(_, known)| selection.has(known)) {
        set.members.insert(id.clone());
        set.addresses.extend(known.workload.addresses.iter().copied());
    }
}

/// The sets that chains name, kept from one compilation to the next.
#[derive(Debug, Default)]
pub(super) struct Sets {
    held: BTreeMap<SetKey, Held>,
}

#[derive(Debug)]
struct Held {
    definition: Definition,
    set: Arc<PeerSet>,
    /// How many chains name it.
    chains: usize,
}

impl Sets {
    /// Brings the held sets from one world to the next: only what changed is looked at again.
    pub(super) fn update(&mut self, before: &Index, index: &Index) {
        let changed = index.changed_since(before);
        let nodes_changed = before.nodes != index.nodes;
        for Held { definition, set, .. } in self.held.values_mut() {
            if nodes_changed && definition.is_about_nodes() {
                let fresh = definition.evaluate(index);
                if **set != fresh {
                    *set = Arc::new(fresh);
                }
                continue;
            }
            update_members(definition, set, &changed, before, index);
        }
    }

    /// The key of a definition's set, which is made if it is new.
    pub(super) fn request(&mut self, mut definition: Definition, index: &Index) -> SetKey {
        let key = definition.key();
        if !self.held.contains_key(&key) {
            definition.selections.shrink_to_fit();
            definition.blocks.shrink_to_fit();
            let set = Arc::new(definition.evaluate(index));
            self.held.insert(key.clone(), Held { definition, set, chains: 0 });
        }
        key
    }

    /// One chain more names these.
    pub(super) fn hold(&mut self, keys: &BTreeSet<SetKey>) {
        for key in keys {
            if let Some(held) = self.held.get_mut(key) {
                held.chains += 1;
            }
        }
    }

    /// One chain less names these.
    pub(super) fn release(&mut self, keys: &BTreeSet<SetKey>) {
        for key in keys {
            if let Some(held) = self.held.get_mut(key) {
                held.chains = held.chains.saturating_sub(1);
            }
        }
    }

    /// Forgets those that no chain names.
    pub(super) fn forget_unheld(&mut self) {
        self.held.retain(|_, held| held.chains > 0);
    }

    pub(super) fn all(&self) -> BTreeMap<SetKey, Arc<PeerSet>> {
        self.held.iter().map(|(key, held)| (key.clone(), Arc::clone(&held.set))).collect()
    }
}

/// Takes what changed out of a set as it was, and then puts it in as it is: an address may go from one to another.
fn update_members(
    definition: &Definition,
    set: &mut Arc<PeerSet>,
    changed: &BTreeSet<WorkloadId>,
    before: &Index,
    index: &Index,
) {
    let difference = changed.iter().filter_map(|id| {
        let old = before.workloads.get(id).filter(|_| set.members.contains(id));
        let new = index.workloads.get(id).filter(|known| definition.has(known));
        let addresses = |known: Option<&Arc<Known>>| known.map(|known| known.workload.addresses.clone());
        let (old, new) = (addresses(old), addresses(new));
        (old != new).then_some((id, old, new))
    });
    let difference: Vec<_> = difference.collect();
    if difference.is_empty() {
        return;
    }
    let set = Arc::make_mut(set);
    for (id, old, _) in &difference {
        set.members.remove(id);
        for address in old.iter().flatten() {
            set.addresses.remove(address);
        }
    }
    for (id, _, new) in difference {
        if let Some(new) = new {
            set.members.insert(id.clone());
            set.addresses.extend(new);
        }
    }
}
