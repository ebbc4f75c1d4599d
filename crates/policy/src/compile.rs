//! Policies × workloads → rule set, remembering what did not change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

mod index;
mod rules;
mod sets;

#[cfg(test)]
pub(crate) mod tests;

use self::index::{Index, Known};
use self::rules::Scribe;
use self::sets::Sets;
use crate::authorization_policy::{AuthorizationAction, AuthorizationPolicy};
use crate::cluster_policy::{ClusterPolicy, ClusterTier};
use crate::network_policy::NetworkPolicy;
use crate::rule_set::{Chain, ChainKey, Otherwise, RuleSet, SetKey, Stage, Subject, Tier};
use crate::selector::{Labels, Selector};
use crate::verdict::{Direction, PolicyKind, PolicyRef};
use crate::workload::{WorkloadId, World};

/// All policies of the cluster, in any order; of two of one kind, namespace and name only one may be in here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    /// `networking.k8s.io/v1` NetworkPolicy.
    pub network: Vec<Arc<NetworkPolicy>>,
    /// `weft.dev` AuthorizationPolicy.
    pub authorization: Vec<Arc<AuthorizationPolicy>>,
    /// The administrator's tiers.
    pub cluster: Vec<Arc<ClusterPolicy>>,
}

/// Compiles again and again, each time from the whole: sets and chains that came out the same are the same `Arc`, only
/// workloads that changed are held against selectors that did not, and only chains whose policies changed are written
/// anew. What it gives depends on its arguments alone.
///
/// ```
/// use policy::{Compiler, NetworkPolicy, Policies, Workload, World};
///
/// let closed = NetworkPolicy { namespace: "shop".into(), name: "closed".into(), ingress: Some(vec![]), ..Default::default() };
/// let pod = |name: &str, ip: &str| Workload {
///     namespace: "shop".into(),
///     name: name.into(),
///     addresses: [ip.parse().unwrap()].into(),
///     ..Default::default()
/// };
/// let world = World { workloads: vec![pod("cart", "10.0.0.1"), pod("web", "10.0.0.2")], ..Default::default() };
/// let rules = Compiler::default().compile(&Policies { network: vec![closed.into()], ..Default::default() }, &world, None);
/// let (source, destination) = (rules.end("10.0.0.2".parse().unwrap()), rules.end("10.0.0.1".parse().unwrap()));
/// let verdict = rules.judge(&policy::Flow { source, destination, protocol: 6, port: Some(80), proven: true });
/// assert!(!verdict.is_allowed());
/// assert_eq!(verdict.policy.unwrap().to_string(), "NetworkPolicy shop/closed");
/// ```
#[derive(Debug, Default)]
pub struct Compiler {
    index: Index,
    sets: Sets,
    chains: BTreeMap<ChainKey, Written>,
}

/// A chain as it was written, and what it was written from; beside that its key counts, and for egress by port names the
/// numbers that they have anywhere.
#[derive(Debug)]
struct Written {
    chain: Arc<Chain>,
    network: Vec<Arc<NetworkPolicy>>,
    authorization: Vec<Arc<AuthorizationPolicy>>,
    cluster: Vec<Arc<ClusterPolicy>>,
    /// The sets that its rules name.
    sets: BTreeSet<SetKey>,
}

/// A policy with its reference.
type Named<'a, P> = (&'a Arc<P>, Arc<PolicyRef>);

/// The policies by name, each with its reference.
struct Shelf<'a> {
    network: BTreeMap<&'a str, Bucket<'a, NetworkPolicy>>,
    authorization: BTreeMap<&'a str, Bucket<'a, AuthorizationPolicy>>,
    cluster: Vec<Named<'a, ClusterPolicy>>,
}

/// Policies of one namespace in order, found by the first label that they ask for.
struct Bucket<'a, P> {
    all: Vec<Named<'a, P>>,
    by_label: BTreeMap<(&'a str, &'a str), Vec<usize>>,
    without: Vec<usize>,
}

impl<P> Default for Bucket<'_, P> {
    fn default() -> Self {
        Self { all: Vec::new(), by_label: BTreeMap::new(), without: Vec::new() }
    }
}

impl<'a, P> Bucket<'a, P> {
    /// Sorts what was put into `all`, and finds it by labels from now on.
    fn order(&mut self, selector: impl Fn(&'a P) -> &'a Selector) {
        self.all.sort_by(|(_, a), (_, b)| a.cmp(b));
        for (at, (policy, _)) in self.all.iter().enumerate() {
            match selector(policy).match_labels.first_key_value() {
                Some((key, value)) => self.by_label.entry((key.as_str(), value.as_str())).or_default().push(at),
                None => self.without.push(at),
            }
        }
    }

    /// In order, those that may select a workload with these labels: all others do not.
    fn candidates(&self, labels: &Labels) -> impl Iterator<Item = &Named<'a, P>> {
        let by_label = labels.iter().filter_map(|(key, value)| self.by_label.get(&(key.as_str(), value.as_str())));
        let mut found: Vec<usize> = by_label.flatten().chain(&self.without).copied().collect();
        found.sort_unstable();
        found.into_iter().filter_map(|at| self.all.get(at))
    }
}

/// What is about one workload in one direction.
struct Applied<'s, 'a> {
    network: Vec<&'s Named<'a, NetworkPolicy>>,
    authorization: Vec<&'s Named<'a, AuthorizationPolicy>>,
    cluster: Vec<&'s Named<'a, ClusterPolicy>>,
}

impl Compiler {
    /// The rule set of these policies in this world. With `here` only workloads of that node get chains, which is all that
    /// the node enforces; without it all do.
    #[must_use]
    pub fn compile(&mut self, policies: &Policies, world: &World, here: Option<&str>) -> RuleSet {
        let before = std::mem::replace(&mut self.index, Index::of(world));
        self.sets.update(&before, &self.index);
        if before.port_numbers != self.index.port_numbers {
            self.forget_written(|_| false);
        }
        let shelf = Shelf::of(policies);
        let mut chains: BTreeMap<ChainKey, Arc<Chain>> = BTreeMap::new();
        let mut workloads = BTreeMap::new();
        let index = std::mem::take(&mut self.index);
        for (id, known) in &index.workloads {
            let mut subject = Subject {
                addresses: known.workload.addresses.clone(),
                node: known.workload.node.clone(),
                inbound: None,
                outbound: None,
            };
            if here.is_none_or(|here| known.workload.node.as_deref() == Some(here)) {
                let mut chain = |direction| {
                    let applied = shelf.applied(known, direction, &index.root_namespace)?;
                    let key = applied.key(known, direction);
                    if !chains.contains_key(&key) {
                        chains.insert(key.clone(), self.written(&key, &applied, &index, known, direction));
                    }
                    Some(key)
                };
                subject.inbound = chain(Direction::Inbound);
                subject.outbound = chain(Direction::Outbound);
            }
            workloads.insert(WorkloadId::clone(id), subject);
        }
        self.index = index;
        self.forget_written(|key| chains.contains_key(key));
        RuleSet {
            workloads,
            addresses: self.index.addresses.clone(),
            contested: self.index.contested.clone(),
            nodes: world.nodes.iter().map(|(name, node)| (name.clone(), node.addresses.clone())).collect(),
            sets: self.sets.all(),
            chains,
        }
    }

    /// The chain of this key, written anew where something changed that it was written from.
    fn written(
        &mut self,
        key: &ChainKey,
        applied: &Applied<'_, '_>,
        index: &Index,
        subject: &Known,
        direction: Direction,
    ) -> Arc<Chain> {
        let before = self.chains.get(key);
        if let Some(same) = before.filter(|before| before.is_of(applied)) {
            return Arc::clone(&same.chain);
        }
        let mut scribe = Scribe { index, sets: &mut self.sets, subject, direction, requested: BTreeSet::new() };
        let fresh = applied.chain(&mut scribe);
        let sets = scribe.requested;
        let kept = before.map(|before| &before.chain).filter(|kept| ***kept == fresh);
        let chain = kept.map_or_else(|| Arc::new(fresh), Arc::clone);
        fn arcs<P>(named: &[&Named<'_, P>]) -> Vec<Arc<P>> {
            named.iter().map(|(policy, _)| Arc::clone(policy)).collect()
        }
        let written = Written {
            chain: Arc::clone(&chain),
            network: arcs(&applied.network),
            authorization: arcs(&applied.authorization),
            cluster: arcs(&applied.cluster),
            sets,
        };
        self.sets.hold(&written.sets);
        if let Some(old) = self.chains.insert(key.clone(), written) {
            self.sets.release(&old.sets);
        }
        chain
    }

    /// Forgets chains, and sets that nobody names any more.
    fn forget_written(&mut self, keep: impl Fn(&ChainKey) -> bool) {
        let sets = &mut self.sets;
        self.chains.retain(|key, written| {
            let stays = keep(key);
            if !stays {
                sets.release(&written.sets);
            }
            stays
        });
        sets.forget_unheld();
    }
}

impl Written {
    /// Whether it was written from the same policies; those with the same key have the same names.
    fn is_of(&self, applied: &Applied<'_, '_>) -> bool {
        fn same<P: PartialEq>(held: &[Arc<P>], now: &[&Named<'_, P>]) -> bool {
            let equal = |held: &Arc<P>, now: &Arc<P>| Arc::ptr_eq(held, now) || held == now;
            held.len() == now.len() && held.iter().zip(now).all(|(held, (now, _))| equal(held, now))
        }
        same(&self.network, &applied.network)
            && same(&self.authorization, &applied.authorization)
            && same(&self.cluster, &applied.cluster)
    }
}

impl<'a> Shelf<'a> {
    fn of(policies: &'a Policies) -> Self {
        let name = |kind, namespace: &str, name: &str| {
            Arc::new(PolicyRef { kind, namespace: namespace.to_owned(), name: name.to_owned() })
        };
        let mut shelf = Self { network: BTreeMap::new(), authorization: BTreeMap::new(), cluster: Vec::new() };
        for policy in &policies.network {
            let named = (policy, name(PolicyKind::NetworkPolicy, &policy.namespace, &policy.name));
            shelf.network.entry(policy.namespace.as_str()).or_default().all.push(named);
        }
        for policy in &policies.authorization {
            let named = (policy, name(PolicyKind::AuthorizationPolicy, &policy.namespace, &policy.name));
            shelf.authorization.entry(policy.namespace.as_str()).or_default().all.push(named);
        }
        for policy in &policies.cluster {
            shelf.cluster.push((policy, name(policy.kind, "", &policy.name)));
        }
        shelf.network.values_mut().for_each(|bucket| bucket.order(|policy| &policy.selector));
        shelf.authorization.values_mut().for_each(|bucket| bucket.order(|policy| &policy.selector));
        shelf.cluster.sort_by(|(a, of_a), (b, of_b)| (a.tier, a.priority, of_a).cmp(&(b.tier, b.priority, of_b)));
        shelf
    }

    /// What is about this workload in this direction; `None` when nothing is.
    fn applied(&self, known: &Known, direction: Direction, root: &str) -> Option<Applied<'_, 'a>> {
        let workload = &known.workload;
        let inbound = direction == Direction::Inbound;
        let own = self.network.get(workload.namespace.as_str());
        let own = own.into_iter().flat_map(|bucket| bucket.candidates(&workload.labels));
        let network = own.filter(|(policy, _)| {
            let has_type = if inbound { policy.ingress.is_some() } else { policy.egress.is_some() };
            has_type && policy.selector.matches(&workload.labels)
        });
        let scopes = if workload.namespace == root { vec![root] } else { vec![root, workload.namespace.as_str()] };
        let scopes = scopes.into_iter().filter_map(|scope| self.authorization.get(scope));
        let scopes = scopes.flat_map(|bucket| bucket.candidates(&workload.labels));
        let authorization = scopes.filter(|(policy, _)| {
            workload.enrolled && policy.direction == direction && policy.selector.matches(&workload.labels)
        });
        let cluster = self.cluster.iter().filter(|(policy, _)| {
            let rules = if inbound { &policy.ingress } else { &policy.egress };
            !rules.is_empty()
                && policy.subject.namespaces.matches(&known.namespace_labels)
                && policy.subject.pods.matches(&workload.labels)
        });
        let applied =
            Applied { network: network.collect(), authorization: authorization.collect(), cluster: cluster.collect() };
        let is_nothing = applied.network.is_empty() && applied.authorization.is_empty() && applied.cluster.is_empty();
        (!is_nothing).then_some(applied)
    }
}

impl Applied<'_, '_> {
    /// Workloads with the same key have the same chain.
    fn key(&self, known: &Known, direction: Direction) -> ChainKey {
        let mut text = format!("{direction:?}");
        let network = self.network.iter().map(|(_, name)| name);
        let authorization = self.authorization.iter().map(|(_, name)| name);
        for name in authorization.chain(network).chain(self.cluster.iter().map(|(_, name)| name)) {
            text.push_str(", ");
            text.push_str(&name.to_string());
        }
        if direction == Direction::Inbound {
            let network = self.network.iter().map(|(policy, _)| policy.as_ref());
            let names = rules::asked_names(network, self.cluster.iter().map(|(policy, _)| policy.as_ref()));
            text.push_str(&rules::resolution(&names, known));
        }
        ChainKey(text.into())
    }

    fn chain(&self, scribe: &mut Scribe<'_>) -> Chain {
        let mut chain = Chain::default();
        for (tier, action) in [
            (Tier::Audit, AuthorizationAction::Audit),
            (Tier::Deny, AuthorizationAction::Deny),
            (Tier::Allow, AuthorizationAction::Allow),
        ] {
            let these = self.authorization.iter().filter(|(policy, _)| policy.action == action);
            let mut stage = Stage::new(tier);
            for (policy, name) in these {
                stage.policies.push(Arc::clone(name));
                scribe.authorization(policy, name, &mut stage.rules);
            }
            chain.authorization.extend(Some(stage).filter(|stage| !stage.policies.is_empty()));
        }
        chain.network.extend(self.cluster_stage(Tier::Admin, ClusterTier::Admin, scribe));
        if self.network.is_empty() {
            chain.network.extend(self.cluster_stage(Tier::Baseline, ClusterTier::Baseline, scribe));
        } else {
            let mut stage = Stage::new(Tier::Network);
            for (policy, name) in &self.network {
                stage.policies.push(Arc::clone(name));
                scribe.network(policy, name, &mut stage.rules);
            }
            chain.network.push(stage);
        }
        chain
    }

    fn cluster_stage(&self, tier: Tier, wanted: ClusterTier, scribe: &mut Scribe<'_>) -> Option<Stage> {
        let mut stage = Stage::new(tier);
        for (policy, name) in self.cluster.iter().filter(|(policy, _)| policy.tier == wanted) {
            stage.policies.push(Arc::clone(name));
            scribe.cluster(policy, name, &mut stage.rules);
        }
        (!stage.policies.is_empty()).then_some(stage)
    }
}

impl Stage {
    /// A stage without rules; ALLOW and NetworkPolicy close what they do not open.
    fn new(tier: Tier) -> Self {
        let otherwise = match tier {
            Tier::Allow | Tier::Network => Otherwise::Deny,
            Tier::Audit | Tier::Deny | Tier::Admin | Tier::Baseline => Otherwise::Pass,
        };
        Self { tier, rules: Vec::new(), otherwise, policies: Vec::new() }
    }
}
