//! The cluster as policies see it: who is there, at which addresses, and whom the mesh can prove.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use identity::SpiffeId;
use policy::{Labels, Node, Policies, Workload, World};

use crate::desired::{Filter, Here, has_network, membership};
use crate::view::{ClusterView, Pod};

/// All policies of the cluster.
#[must_use]
pub fn policies(view: &ClusterView) -> Policies {
    Policies {
        network: view.network_policies.values().cloned().collect(),
        authorization: view.authorization_policies.values().cloned().collect(),
        cluster: view.cluster_policies.values().cloned().collect(),
    }
}

/// Addresses of members as this node knows them: what they send each other travels sealed, or between two pins here.
#[must_use]
pub fn members(filter: &Filter) -> BTreeSet<IpAddr> {
    filter.enrolled.union(&filter.keyed).copied().collect()
}

/// Who policies can be about, and who can be at the other end.
///
/// A pod's address is what its attachment here says; elsewhere what the controller signed; and only where nobody has
/// spoken what its status says, so that an old status does not make an address two pods'.
#[must_use]
pub fn world(view: &ClusterView, here: &Here) -> World {
    let claims = Claims::of(view, here);
    let pods = view.pods.values().filter(|pod| has_network(pod) && !claims.is_of_another_life(pod));
    let attached = here.attachments.iter().filter_map(|attachment| attachment.pod.as_ref());
    // one that is attached and whose manifest is not at hand is known from its attachment
    let known = |pod: &Pod| view.pods.get(&key(pod)).is_some_and(|known| known.uid == pod.uid);
    let forgotten = attached.filter(|pod| has_network(pod) && !known(pod));
    let workloads = pods.chain(forgotten).map(|pod| workload(view, here, &claims, pod)).collect();
    let namespaces: BTreeMap<String, Labels> =
        view.namespaces.values().map(|it| (it.name.clone(), it.labels.clone())).collect();
    let mut nodes: BTreeMap<String, Node> = BTreeMap::new();
    for node in view.nodes.values() {
        let identity = SpiffeId::for_node(&here.trust_domain, &node.name).ok().map(|identity| identity.to_string());
        let (labels, addresses) = (node.labels.clone(), node.addresses.iter().copied().collect());
        nodes.insert(node.name.0.clone(), Node { labels, addresses, identity });
    }
    nodes.entry(here.node.0.clone()).or_default().addresses.extend(&here.addresses);
    World { namespaces, workloads, nodes, root_namespace: here.root_namespace.clone() }
}

fn key(pod: &Pod) -> (String, String) {
    (pod.namespace.clone(), pod.name.clone())
}

/// Whose address is whose, by what is better than a pod's status.
struct Claims<'a> {
    /// UIDs of what is attached here, by namespace and name; the youngest of one name.
    attached: BTreeMap<(&'a str, &'a str), &'a str>,
    /// Attached here or signed by the controller: by UID.
    known: BTreeMap<&'a str, BTreeSet<IpAddr>>,
    taken: BTreeSet<IpAddr>,
}

impl<'a> Claims<'a> {
    fn of(view: &'a ClusterView, here: &'a Here) -> Self {
        let mut holder: BTreeMap<IpAddr, (u64, &str)> = BTreeMap::new();
        for slice in view.slices.values().filter(|slice| slice.node != here.node) {
            for (ip, endpoint) in &slice.endpoints {
                let newest = holder.entry(*ip).or_insert((slice.revision, &endpoint.uid));
                if newest.0 < slice.revision {
                    *newest = (slice.revision, &endpoint.uid);
                }
            }
        }
        // oldest first: the youngest has it
        for attachment in &here.attachments {
            let uid = attachment.pod.as_ref().map_or("", |pod| pod.uid.as_str());
            holder.extend(attachment.ips.iter().map(|ip| (*ip, (u64::MAX, uid))));
        }
        let mut known: BTreeMap<&str, BTreeSet<IpAddr>> = BTreeMap::new();
        for (ip, (_, uid)) in &holder {
            known.entry(uid).or_default().insert(*ip);
        }
        let attached = here.attachments.iter().filter_map(|attachment| attachment.pod.as_ref());
        let attached = attached.map(|pod| ((pod.namespace.as_str(), pod.name.as_str()), pod.uid.as_str())).collect();
        Self { attached, known, taken: holder.into_keys().collect() }
    }

    fn addresses(&self, pod: &Pod) -> BTreeSet<IpAddr> {
        match self.known.get(pod.uid.as_str()) {
            Some(ips) => ips.clone(),
            None => pod.ips.difference(&self.taken).copied().collect(),
        }
    }

    /// A pod of this name is attached here with another UID: this manifest is of another life of it.
    fn is_of_another_life(&self, pod: &Pod) -> bool {
        let attached = self.attached.get(&(pod.namespace.as_str(), pod.name.as_str()));
        attached.is_some_and(|uid| *uid != pod.uid)
    }
}

fn workload(view: &ClusterView, here: &Here, claims: &Claims<'_>, pod: &Pod) -> Workload {
    let identity = SpiffeId::for_service_account(&here.trust_domain, &pod.namespace, &pod.service_account);
    Workload {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        labels: pod.labels.clone(),
        addresses: claims.addresses(pod),
        ports: pod.ports.clone(),
        identity: identity.ok().map(|identity| identity.to_string()),
        enrolled: membership(view, &here.trust_domain, &here.root_namespace, pod).is_some(),
        node: pod.node.as_ref().map(|node| node.0.clone()),
    }
}
