//! The world as the compiler looks things up in it: workloads with their effective labels, and whose address is whose.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::selector::Labels;
use crate::workload::{NAMESPACE_NAME_LABEL, Node, Protocol, Workload, WorkloadId, World};

/// A workload with what its namespace adds to it, and without addresses that are not its alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) workload: Workload,
    pub(super) namespace_labels: Arc<Labels>,
}

/// See the module page.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    pub(super) workloads: BTreeMap<WorkloadId, Arc<Known>>,
    pub(super) by_namespace: BTreeMap<String, Vec<WorkloadId>>,
    pub(super) addresses: BTreeMap<IpAddr, WorkloadId>,
    pub(super) contested: BTreeSet<IpAddr>,
    /// The numbers that a port name has anywhere.
    pub(super) port_numbers: BTreeMap<(String, Protocol), BTreeSet<u16>>,
    pub(super) nodes: BTreeMap<WorkloadId, Node>,
    pub(super) root_namespace: String,
}

impl Index {
    pub(super) fn of(world: &World) -> Self {
        let mut index = Self { root_namespace: world.root_namespace.clone(), ..Self::default() };
        for (name, node) in &world.nodes {
            let id = WorkloadId::of_node(name);
            index.addresses.extend(node.addresses.iter().map(|address| (*address, id.clone())));
            index.nodes.insert(id, node.clone());
        }
        let node_addresses: BTreeSet<IpAddr> = index.addresses.keys().copied().collect();
        for workload in &world.workloads {
            for address in workload.addresses.difference(&node_addresses) {
                let other = index.addresses.insert(*address, workload.id());
                if other.is_some_and(|other| other != workload.id()) {
                    index.contested.insert(*address);
                }
            }
        }
        index.addresses.retain(|address, _| !index.contested.contains(address));
        let mut labels = BTreeMap::new();
        for workload in &world.workloads {
            index.add(world, workload, &mut labels);
        }
        index
    }

    fn add(&mut self, world: &World, workload: &Workload, labels: &mut BTreeMap<String, Arc<Labels>>) {
        let id = workload.id();
        let name = &workload.namespace;
        let of_namespace = labels.entry(name.clone()).or_insert_with(|| {
            let mut labels = world.namespaces.get(name).cloned().unwrap_or_default();
            labels.insert(NAMESPACE_NAME_LABEL.to_owned(), name.clone());
            Arc::new(labels)
        });
        let mut own = workload.clone();
        own.addresses.retain(|address| self.addresses.get(address) == Some(&id));
        for port in &own.ports {
            self.port_numbers.entry((port.name.clone(), port.protocol)).or_default().insert(port.port);
        }
        let known = Known { workload: own, namespace_labels: Arc::clone(of_namespace) };
        if self.workloads.insert(id.clone(), Arc::new(known)).is_none() {
            self.by_namespace.entry(name.clone()).or_default().push(id);
        }
    }

    /// What differs from another index, one way or the other. Nodes are not in it.
    pub(super) fn changed_since(&self, before: &Self) -> BTreeSet<WorkloadId> {
        let new = self.workloads.iter().filter(|(id, known)| before.workloads.get(*id) != Some(*known));
        let gone = before.workloads.keys().filter(|id| !self.workloads.contains_key(*id));
        new.map(|(id, _)| id).chain(gone).cloned().collect()
    }
}
