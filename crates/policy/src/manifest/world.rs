//! Manifests one by one, of whatever kind, into the policies and the world that they describe together.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Effect, Fault, Refusal, authorization_policy, cluster_policy, network_policy, node, pod_workload};
use crate::compile::Policies;
use crate::enrolment::is_enrolled;
use crate::selector::Labels;
use crate::verdict::{PolicyKind, PolicyRef};
use crate::workload::{Workload, World};

/// Takes manifests in any order. What is of no kind that policy looks at is passed over.
///
/// ```
/// let mut gatherer = policy::manifest::Gatherer::new("cluster.local", "weft-system");
/// let manifest = serde_json::json!({
///     "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p", "namespace": "shop"},
///     "spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0/8"}}]}]},
/// });
/// let refusals = gatherer.add(&manifest);
/// assert!(refusals[0].to_string().starts_with("spec.ingress[0].from[0].ipBlock.cidr: `10.0.0/8` is no prefix"));
/// assert_eq!(gatherer.finish().policies.network.len(), 1, "the rest of it works");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Gatherer {
    trust_domain: String,
    world: World,
    workloads: BTreeMap<(String, String), Option<Workload>>,
    policies: Policies,
    seen: BTreeSet<PolicyRef>,
}

/// What manifests describe together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gathered {
    /// The policies.
    pub policies: Policies,
    /// What they are held against.
    pub world: World,
}

impl Gatherer {
    /// Nothing yet. Identities are of this trust domain; policies of this namespace are about the whole mesh.
    #[must_use]
    pub fn new(trust_domain: &str, root_namespace: &str) -> Self {
        let world = World { root_namespace: root_namespace.to_owned(), ..World::default() };
        Self { trust_domain: trust_domain.to_owned(), world, ..Self::default() }
    }

    /// One more manifest, and what of it cannot be used. A second one of the same kind and name is left out.
    pub fn add(&mut self, manifest: &Value) -> Vec<Refusal> {
        let text = |pointer: &str| manifest.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (kind, name) = (text("/kind"), text("/metadata/name"));
        let namespace = Some(text("/metadata/namespace")).filter(|n| !n.is_empty()).unwrap_or("default");
        let is_second = match kind {
            "Namespace" => add(&mut self.world.namespaces, name.to_owned(), node::labels(manifest)),
            "Node" => add(&mut self.world.nodes, name.to_owned(), node::node(name, manifest, &self.trust_domain)),
            "Pod" => {
                let workload = pod_workload(namespace, name, manifest, &self.trust_domain);
                add(&mut self.workloads, (namespace.to_owned(), name.to_owned()), workload)
            }
            _ => match policy_kind(text("/apiVersion"), kind) {
                Some(kind) => return self.add_policy(kind, namespace, name, manifest),
                None => false,
            },
        };
        if is_second { vec![second()] } else { Vec::new() }
    }

    fn add_policy(&mut self, kind: PolicyKind, namespace: &str, name: &str, manifest: &Value) -> Vec<Refusal> {
        let namespaced = matches!(kind, PolicyKind::NetworkPolicy | PolicyKind::AuthorizationPolicy);
        let of = if namespaced { namespace } else { "" };
        let reference = PolicyRef { kind, namespace: of.to_owned(), name: name.to_owned() };
        if !self.seen.insert(reference) {
            return vec![second()];
        }
        match kind {
            PolicyKind::NetworkPolicy => {
                let parsed = network_policy(namespace, name, manifest);
                self.policies.network.push(parsed.value.into());
                parsed.refusals
            }
            PolicyKind::AuthorizationPolicy => {
                let parsed = authorization_policy(namespace, name, manifest);
                self.policies.authorization.push(parsed.value.into());
                parsed.refusals
            }
            PolicyKind::ClusterNetworkPolicy
            | PolicyKind::AdminNetworkPolicy
            | PolicyKind::BaselineAdminNetworkPolicy => {
                let parsed = cluster_policy(kind, name, manifest);
                self.policies.cluster.push(parsed.value.into());
                parsed.refusals
            }
        }
    }

    /// The whole.
    #[must_use]
    pub fn finish(self) -> Gathered {
        let mut world = self.world;
        let none = Labels::new();
        for mut workload in self.workloads.into_values().flatten() {
            let namespace = world.namespaces.get(&workload.namespace).unwrap_or(&none);
            workload.enrolled = is_enrolled(namespace, &workload.labels);
            world.workloads.push(workload);
        }
        Gathered { policies: self.policies, world }
    }
}

/// Adds what is not there yet; whether something was.
fn add<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: V) -> bool {
    match map.entry(key) {
        Entry::Vacant(place) => {
            place.insert(value);
            false
        }
        Entry::Occupied(_) => true,
    }
}

fn second() -> Refusal {
    let fault = Fault::Inconsistent { rule: "an object of this kind and name was read before" };
    Refusal { path: "metadata.name".to_owned(), fault, effect: Effect::LeftOut }
}

/// The kinds of policies, each in its group only: other projects use the same words.
fn policy_kind(api_version: &str, kind: &str) -> Option<PolicyKind> {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    match (group, kind) {
        ("networking.k8s.io", "NetworkPolicy") => Some(PolicyKind::NetworkPolicy),
        ("weft.dev" | "security.istio.io", "AuthorizationPolicy") => Some(PolicyKind::AuthorizationPolicy),
        ("policy.networking.k8s.io", "ClusterNetworkPolicy") => Some(PolicyKind::ClusterNetworkPolicy),
        ("policy.networking.k8s.io", "AdminNetworkPolicy") => Some(PolicyKind::AdminNetworkPolicy),
        ("policy.networking.k8s.io", "BaselineAdminNetworkPolicy") => Some(PolicyKind::BaselineAdminNetworkPolicy),
        _ => None,
    }
}
