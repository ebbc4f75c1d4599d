//! Rules of policies as rules of the rule set: one alternative each, named ports looked up, proof asked for.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::index::{Index, Known};
use super::sets::{Definition, HasPort, Namespaces, Selection, Sets};
use crate::authorization_policy::{AuthorizationAction, AuthorizationPolicy, PeerTerms, Target};
use crate::cluster_policy::{ClusterAction, ClusterPeer, ClusterPolicy, ClusterPort};
use crate::network_policy::{NetworkPeer, NetworkPolicy, NetworkPort};
use crate::rule_set::{Action, PeerMatch, PortRange, Ports, Proof, Rule, SetKey};
use crate::selector::Selector;
use crate::verdict::{Direction, PolicyRef, RuleRef};
use crate::workload::Protocol;

/// For whom rules are made: the world, the sets they ask for, and the workload whose port names count where it arrives.
pub(super) struct Scribe<'a> {
    pub(super) index: &'a Index,
    pub(super) sets: &'a mut Sets,
    pub(super) subject: &'a Known,
    pub(super) direction: Direction,
    /// The sets that the rules name.
    pub(super) requested: BTreeSet<SetKey>,
}

/// What the other end and the ports have to be, in one alternative.
type Alternative = (Vec<PeerMatch>, Ports);

impl Scribe<'_> {
    /// The rules of a NetworkPolicy in this direction.
    pub(super) fn network(&mut self, policy: &NetworkPolicy, name: &Arc<PolicyRef>, into: &mut Vec<Rule>) {
        for (at, rule) in network_rules(policy, self.direction).iter().enumerate() {
            let peers = rule.peers.as_ref().map(|peers| network_peers(&policy.namespace, peers));
            let alternatives = self.alternatives(peers, rule.ports.as_deref());
            let origin = RuleRef { policy: Arc::clone(name), rule: at };
            into.extend(alternatives.into_iter().map(|alternative| made(&origin, Action::Allow, alternative)));
        }
    }

    /// The rules of a cluster policy in this direction.
    pub(super) fn cluster(&mut self, policy: &ClusterPolicy, name: &Arc<PolicyRef>, into: &mut Vec<Rule>) {
        for (at, rule) in cluster_rules(policy, self.direction).iter().enumerate() {
            let peers = rule.peers.as_ref().map(|peers| cluster_peers(peers));
            let ports: Option<Vec<NetworkPort>> =
                rule.ports.as_ref().map(|ports| ports.iter().flat_map(of_any).collect());
            let alternatives = self.alternatives(peers, ports.as_deref());
            let origin = RuleRef { policy: Arc::clone(name), rule: at };
            let action = match rule.action {
                ClusterAction::Accept => Action::Allow,
                ClusterAction::Deny => Action::Deny,
                ClusterAction::Pass => Action::Pass,
            };
            into.extend(alternatives.into_iter().map(|alternative| made(&origin, action, alternative)));
        }
    }

    /// The rules of an AuthorizationPolicy: each `from` with each `to`.
    pub(super) fn authorization(&mut self, policy: &AuthorizationPolicy, name: &Arc<PolicyRef>, into: &mut Vec<Rule>) {
        let action = match policy.action {
            AuthorizationAction::Allow => Action::Allow,
            AuthorizationAction::Deny => Action::Deny,
            AuthorizationAction::Audit => Action::Audit,
        };
        let (anybody, everything) = (vec![PeerTerms::default()], vec![Target::default()]);
        for (at, rule) in policy.rules.iter().enumerate() {
            for from in rule.from.as_ref().unwrap_or(&anybody) {
                for to in rule.to.as_ref().unwrap_or(&everything) {
                    let mut peers = self.terms(from, action);
                    peers.extend(self.terms(&to.destination, action));
                    let origin = RuleRef { policy: Arc::clone(name), rule: at };
                    into.push(made(&origin, action, (peers, target_ports(to))));
                }
            }
        }
    }

    fn terms(&mut self, terms: &PeerTerms, action: Action) -> Vec<PeerMatch> {
        // an unproven claim may close and never opens
        let (included, excluded) = match action {
            Action::Deny => (Proof::Unneeded, Proof::Needed),
            Action::Allow | Action::Audit | Action::Pass => (Proof::Needed, Proof::Unneeded),
        };
        let identities = |names: &BTreeSet<String>| Definition::of(Selection::Identities(names.clone()));
        let namespaces = |names: &BTreeSet<String>| Definition::of(Selection::InNamespaces(names.clone()));
        let not = |names: &BTreeSet<String>| (!names.is_empty()).then(|| names.clone());
        let conditions = [
            (terms.principals.as_ref().map(identities), true, included),
            (terms.namespaces.as_ref().map(namespaces), true, included),
            (terms.ip_blocks.as_deref().map(Definition::of_blocks), true, Proof::Unneeded),
            (not(&terms.not_principals).as_ref().map(identities), false, excluded),
            (not(&terms.not_namespaces).as_ref().map(namespaces), false, excluded),
            (
                Some(&terms.not_ip_blocks).filter(|b| !b.is_empty()).map(|b| Definition::of_blocks(b)),
                false,
                Proof::Unneeded,
            ),
        ];
        let asked = conditions.into_iter().filter_map(|(definition, inside, proof)| Some((definition?, inside, proof)));
        asked.map(|(definition, inside, proof)| PeerMatch { set: self.set(definition), inside, proof }).collect()
    }

    /// What peers and ports of NetworkPolicy come to. A list that leaves nobody or no port gives no alternative at all.
    fn alternatives(&mut self, peers: Option<Definition>, ports: Option<&[NetworkPort]>) -> Vec<Alternative> {
        let Some(ports) = ports else { return self.alternative(peers, Ports::Any).into_iter().collect() };
        let mut ranges = BTreeSet::new();
        let mut named = BTreeSet::new();
        for port in ports {
            match port {
                NetworkPort::Every(protocol) => {
                    ranges.insert(PortRange { protocol: *protocol, first: 0, last: u16::MAX });
                }
                NetworkPort::Range(protocol, first, last) => {
                    ranges.insert(PortRange { protocol: *protocol, first: *first, last: *last });
                }
                NetworkPort::Named(protocol, name) if self.direction == Direction::Inbound => {
                    ranges.extend(named_at(self.subject, *protocol, name).map(|port| one(*protocol, port)));
                }
                NetworkPort::Named(protocol, name) => {
                    named.insert((name.clone(), *protocol));
                }
            }
        }
        let listed = Ports::Listed { ranges: ranges.iter().copied().collect(), other_protocols: false };
        let numeric = if ranges.is_empty() { None } else { self.alternative(peers.clone(), listed) };
        let mut found: Vec<Alternative> = numeric.into_iter().collect();
        for (name, protocol) in named {
            found.extend(self.by_name_of_peer(peers.as_ref(), &name, protocol));
        }
        found
    }

    /// A port name on the way out means something else at each peer: one alternative for each number that it has.
    fn by_name_of_peer(&mut self, peers: Option<&Definition>, name: &str, protocol: Protocol) -> Vec<Alternative> {
        let all = [Selection::Pods {
            namespaces: Namespaces::By(Selector::default()),
            pods: Selector::default(),
            port: None,
        }];
        let among = peers.map_or(&all[..], |peers| &peers.selections);
        let numbers = self.index.port_numbers.get(&(name.to_owned(), protocol));
        let mut found = Vec::new();
        for number in numbers.into_iter().flatten() {
            let with_port = among.iter().filter_map(|selection| match selection {
                Selection::Pods { namespaces, pods, .. } => {
                    let port = Some(HasPort { name: name.to_owned(), protocol, number: *number });
                    Some(Selection::Pods { namespaces: namespaces.clone(), pods: pods.clone(), port })
                }
                Selection::Identities(_) | Selection::InNamespaces(_) | Selection::Nodes(_) => None,
            });
            let definition = Definition { selections: with_port.collect(), blocks: Vec::new() };
            let ports = Ports::Listed { ranges: vec![one(protocol, *number)], other_protocols: false };
            found.extend(self.alternative(Some(definition), ports));
        }
        found
    }

    fn set(&mut self, definition: Definition) -> SetKey {
        let key = self.sets.request(definition, self.index);
        self.requested.insert(key.clone());
        key
    }

    fn alternative(&mut self, peers: Option<Definition>, ports: Ports) -> Option<Alternative> {
        let Some(definition) = peers else { return Some((Vec::new(), ports)) };
        if definition.selections.is_empty() && definition.blocks.is_empty() {
            return None;
        }
        let set = self.set(definition);
        Some((vec![PeerMatch { set, inside: true, proof: Proof::Unneeded }], ports))
    }
}

fn made(origin: &RuleRef, action: Action, (peers, ports): Alternative) -> Rule {
    Rule { origin: origin.clone(), peers, ports, action }
}

fn one(protocol: Protocol, port: u16) -> PortRange {
    PortRange { protocol, first: port, last: port }
}

/// The numbers of a named port at a workload.
fn named_at<'a>(workload: &'a Known, protocol: Protocol, name: &'a str) -> impl Iterator<Item = u16> + 'a {
    let ports = workload.workload.ports.iter();
    ports.filter(move |port| port.protocol == protocol && port.name == name).map(|port| port.port)
}

/// A policy's rules in one direction; none where it is not of that type.
fn network_rules(policy: &NetworkPolicy, direction: Direction) -> &[crate::network_policy::NetworkRule] {
    match direction {
        Direction::Inbound => policy.ingress.as_deref().unwrap_or_default(),
        Direction::Outbound => policy.egress.as_deref().unwrap_or_default(),
    }
}

fn cluster_rules(policy: &ClusterPolicy, direction: Direction) -> &[crate::cluster_policy::ClusterRule] {
    match direction {
        Direction::Inbound => &policy.ingress,
        Direction::Outbound => &policy.egress,
    }
}

fn network_peers(own: &str, peers: &[NetworkPeer]) -> Definition {
    let mut definition = Definition::default();
    for peer in peers {
        match peer {
            NetworkPeer::Pods { namespaces, pods } => {
                let namespaces = match namespaces {
                    Some(selector) => Namespaces::By(selector.clone()),
                    None => Namespaces::One(own.to_owned()),
                };
                definition.selections.push(Selection::Pods { namespaces, pods: pods.clone(), port: None });
            }
            NetworkPeer::Block { cidr, except } => definition.blocks.push((*cidr, except.clone())),
        }
    }
    definition
}

fn cluster_peers(peers: &[ClusterPeer]) -> Definition {
    let mut definition = Definition::default();
    for peer in peers {
        match peer {
            ClusterPeer::Pods(pods) => definition.selections.push(Selection::Pods {
                namespaces: Namespaces::By(pods.namespaces.clone()),
                pods: pods.pods.clone(),
                port: None,
            }),
            ClusterPeer::Nodes(selector) => definition.selections.push(Selection::Nodes(selector.clone())),
            ClusterPeer::Networks(cidrs) => definition.blocks.extend(cidrs.iter().map(|cidr| (*cidr, Vec::new()))),
        }
    }
    definition
}

fn of_any(port: &ClusterPort) -> Vec<NetworkPort> {
    match port {
        ClusterPort::One(port) => vec![port.clone()],
        ClusterPort::Named(name) => Protocol::ALL.map(|protocol| NetworkPort::Named(protocol, name.clone())).into(),
    }
}

/// The ports of an element of `to`: the listed ones without the excepted ones, of every protocol that has ports.
fn target_ports(target: &Target) -> Ports {
    let mut spans = Vec::new();
    if let Some(ports) = &target.ports {
        spans.extend(ports.difference(&target.not_ports).map(|port| (*port, *port)));
    } else if target.not_ports.is_empty() {
        return Ports::Any;
    } else {
        let mut first = Some(0);
        for port in &target.not_ports {
            let Some(from) = first else { break };
            if from < *port {
                spans.push((from, port - 1));
            }
            first = port.checked_add(1);
        }
        spans.extend(first.map(|from| (from, u16::MAX)));
    }
    let of = |protocol| spans.iter().map(move |(first, last)| PortRange { protocol, first: *first, last: *last });
    Ports::Listed { ranges: Protocol::ALL.into_iter().flat_map(of).collect(), other_protocols: target.ports.is_none() }
}

/// The port names that the rules of these policies ask of the workload they are about, where it is the destination.
pub(super) fn asked_names<'a>(
    network: impl Iterator<Item = &'a NetworkPolicy>,
    cluster: impl Iterator<Item = &'a ClusterPolicy>,
) -> BTreeSet<(String, Protocol)> {
    let of_network = network.flat_map(|p| network_rules(p, Direction::Inbound)).filter_map(|rule| rule.ports.as_ref());
    let of_cluster = cluster.flat_map(|p| cluster_rules(p, Direction::Inbound)).filter_map(|rule| rule.ports.as_ref());
    let ports = of_network.flatten().cloned().chain(of_cluster.flatten().flat_map(of_any));
    let named = ports.filter_map(|port| match port {
        NetworkPort::Named(protocol, name) => Some((name, protocol)),
        NetworkPort::Every(_) | NetworkPort::Range(..) => None,
    });
    named.collect()
}

/// What those names are at this workload, as text.
pub(super) fn resolution(names: &BTreeSet<(String, Protocol)>, workload: &Known) -> String {
    let one = |(name, protocol): &(String, Protocol)| {
        let numbers: Vec<u16> = named_at(workload, *protocol, name).collect();
        format!(" {name:?}/{}={numbers:?}", protocol.as_str())
    };
    names.iter().map(one).collect()
}
