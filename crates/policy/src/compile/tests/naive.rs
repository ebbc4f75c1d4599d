//! A second judge, written from the API documentation's sentences: no sets, no chains, no shared code but the selectors.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::super::Policies;
use super::worlds::ROOT;
use crate::verdict::{Direction, End, Flow};
use crate::workload::{NAMESPACE_NAME_LABEL, Node, Protocol, Workload, World};
use crate::*;

/// Whether the flow passes: "for a connection from a source pod to a destination pod to be allowed, both the egress policy
/// on the source pod and the ingress policy on the destination pod need to allow the connection".
pub(crate) fn is_allowed(policies: &Policies, world: &World, flow: &Flow) -> bool {
    side(policies, world, flow, Direction::Outbound) && side(policies, world, flow, Direction::Inbound)
}

/// One side of a flow, with everything at hand that a sentence may be about.
struct Case<'a> {
    world: &'a World,
    flow: &'a Flow,
    peer: &'a End,
    own: &'a Workload,
    direction: Direction,
}

fn workload<'a>(world: &'a World, end: &End) -> Option<&'a Workload> {
    world.workloads.iter().find(|w| Some(w.id()) == end.workload)
}

fn node<'a>(world: &'a World, end: &End) -> Option<(&'a String, &'a Node)> {
    world.nodes.iter().find(|(_, node)| end.address.is_some_and(|address| node.addresses.contains(&address)))
}

fn side(policies: &Policies, world: &World, flow: &Flow, direction: Direction) -> bool {
    let (own, peer) = match direction {
        Direction::Outbound => (&flow.source, &flow.destination),
        Direction::Inbound => (&flow.destination, &flow.source),
    };
    // "a pod cannot block access to itself"
    let same_workload = own.workload.is_some() && own.workload == peer.workload;
    if same_workload
        || (own.workload.is_none() || peer.workload.is_none()) && own.address.is_some() && own.address == peer.address
    {
        return true;
    }
    // an address that two live workloads have is nobody's, and closed
    let is_contested = |end: &End| {
        let holders = world.workloads.iter().filter(|w| end.address.is_some_and(|a| w.addresses.contains(&a)));
        holders.count() > 1 && node(world, end).is_none()
    };
    if is_contested(own) || is_contested(peer) {
        return false;
    }
    let Some(workload) = workload(world, own) else { return true };
    // "traffic to and from the node where a Pod is running is always allowed"
    if node(world, peer).is_some_and(|(name, _)| workload.node.as_ref() == Some(name)) {
        return true;
    }
    let case = Case { world, flow, peer, own: workload, direction };
    case.is_authorized(policies) && case.is_admitted(policies)
}

impl Case<'_> {
    fn namespace_labels(&self, namespace: &str) -> Labels {
        let mut labels = self.world.namespaces.get(namespace).cloned().unwrap_or_default();
        labels.insert(NAMESPACE_NAME_LABEL.to_owned(), namespace.to_owned());
        labels
    }

    /// DENY first; then, where an ALLOW policy is about the workload, one has to match.
    fn is_authorized(&self, policies: &Policies) -> bool {
        let about = |policy: &&Arc<AuthorizationPolicy>| {
            self.own.enrolled
                && policy.direction == self.direction
                && (policy.namespace == ROOT || policy.namespace == self.own.namespace)
                && policy.selector.matches(&self.own.labels)
        };
        let of = |action| policies.authorization.iter().filter(about).filter(move |p| p.action == action);
        if of(AuthorizationAction::Deny).any(|policy| policy.rules.iter().any(|rule| self.rule(rule, true))) {
            return false;
        }
        of(AuthorizationAction::Allow).count() == 0
            || of(AuthorizationAction::Allow).any(|policy| policy.rules.iter().any(|rule| self.rule(rule, false)))
    }

    fn rule(&self, rule: &AuthorizationRule, denies: bool) -> bool {
        let from = rule.from.as_ref().is_none_or(|list| list.iter().any(|terms| self.terms(terms, denies)));
        let to = rule.to.as_ref().is_none_or(|list| {
            list.iter().any(|to| {
                let has_ports = [6, 17, 132].contains(&self.flow.protocol);
                let listed = to
                    .ports
                    .as_ref()
                    .is_none_or(|ports| has_ports && self.flow.port.is_some_and(|port| ports.contains(&port)));
                // of a missing port nothing can be said but that every port would do
                let spared = to.not_ports.is_empty()
                    || !has_ports
                    || self.flow.port.is_some_and(|port| !to.not_ports.contains(&port));
                listed && spared && self.terms(&to.destination, denies)
            })
        });
        from && to
    }

    /// Each condition is true, false, or depends on whether an unproven claim is true. DENY takes the doubt for a yes, ALLOW
    /// for a no.
    fn terms(&self, terms: &PeerTerms, denies: bool) -> bool {
        let claims_identity = match (workload(self.world, self.peer), node(self.world, self.peer)) {
            (Some(workload), _) => workload.identity.clone(),
            (None, node) => node.and_then(|(_, node)| node.identity.clone()),
        };
        let claims_namespace = workload(self.world, self.peer).map(|w| w.namespace.clone());
        let doubt = |claim: bool| match (claim, self.flow.proven) {
            (false, _) => Some(false),
            (true, true) => Some(true),
            (true, false) => None,
        };
        let settle = |is: Option<bool>| is.unwrap_or(denies);
        let in_blocks = |blocks: &[IpNet]| self.peer.address.is_some_and(|a| blocks.iter().any(|b| b.contains(&a)));
        let identity_in = |names: &std::collections::BTreeSet<String>| {
            doubt(claims_identity.as_ref().is_some_and(|identity| names.contains(identity)))
        };
        let namespace_in = |names: &std::collections::BTreeSet<String>| {
            doubt(claims_namespace.as_ref().is_some_and(|namespace| names.contains(namespace)))
        };
        terms.principals.as_ref().is_none_or(|names| settle(identity_in(names)))
            && settle(identity_in(&terms.not_principals).map(|is| !is))
            && terms.namespaces.as_ref().is_none_or(|names| settle(namespace_in(names)))
            && settle(namespace_in(&terms.not_namespaces).map(|is| !is))
            && terms.ip_blocks.as_ref().is_none_or(|blocks| in_blocks(blocks))
            && !in_blocks(&terms.not_ip_blocks)
    }

    /// The tiers: admin, NetworkPolicy, baseline.
    fn is_admitted(&self, policies: &Policies) -> bool {
        if let Some(said) = self.cluster(policies, ClusterTier::Admin) {
            return said;
        }
        let rules = |policy: &NetworkPolicy| match self.direction {
            Direction::Inbound => policy.ingress.clone(),
            Direction::Outbound => policy.egress.clone(),
        };
        let about = |policy: &&Arc<NetworkPolicy>| {
            policy.namespace == self.own.namespace
                && policy.selector.matches(&self.own.labels)
                && rules(policy).is_some()
        };
        let isolating: Vec<_> = policies.network.iter().filter(about).collect();
        if isolating.is_empty() {
            return self.cluster(policies, ClusterTier::Baseline).unwrap_or(true);
        }
        isolating.iter().any(|policy| {
            rules(policy).into_iter().flatten().any(|rule| {
                let peer = |peer: &NetworkPeer| match peer {
                    NetworkPeer::Pods { namespaces, pods } => self.is_pod(namespaces.as_ref(), pods, &policy.namespace),
                    NetworkPeer::Block { cidr, except } => self.peer.address.is_some_and(|address| {
                        cidr.contains(&address) && !except.iter().any(|hole| hole.contains(&address))
                    }),
                };
                rule.peers.as_ref().is_none_or(|peers| peers.iter().any(peer))
                    && rule.ports.as_ref().is_none_or(|ports| ports.iter().any(|port| self.is_port(port)))
            })
        })
    }

    fn is_pod(&self, namespaces: Option<&Selector>, pods: &Selector, own: &str) -> bool {
        let Some(peer) = workload(self.world, self.peer) else { return false };
        pods.matches(&peer.labels)
            && match namespaces {
                Some(selector) => selector.matches(&self.namespace_labels(&peer.namespace)),
                None => peer.namespace == own,
            }
    }

    fn is_port(&self, port: &NetworkPort) -> bool {
        let is = |protocol: &Protocol| protocol.number() == self.flow.protocol;
        match port {
            NetworkPort::Every(protocol) => is(protocol),
            NetworkPort::Range(protocol, first, last) => {
                is(protocol)
                    && match self.flow.port {
                        Some(port) => *first <= port && port <= *last,
                        None => (*first, *last) == (0, 65535),
                    }
            }
            // a port name is a container port's: of the pod at the destination, whichever side is judged
            NetworkPort::Named(protocol, name) => workload(self.world, &self.flow.destination).is_some_and(|pod| {
                is(protocol)
                    && pod
                        .ports
                        .iter()
                        .any(|p| p.name == *name && p.protocol == *protocol && Some(p.port) == self.flow.port)
            }),
        }
    }

    /// The first rule that matches, by priority, then by name, then by place; `None` when the tier has no say.
    fn cluster(&self, policies: &Policies, tier: ClusterTier) -> Option<bool> {
        let mut about: Vec<_> = policies.cluster.iter().filter(|policy| policy.tier == tier).collect();
        about.sort_by_key(|policy| (policy.priority, policy.name.clone()));
        let subject = |policy: &&&Arc<ClusterPolicy>| {
            policy.subject.namespaces.matches(&self.namespace_labels(&self.own.namespace))
                && policy.subject.pods.matches(&self.own.labels)
        };
        let rules = about.iter().filter(subject).flat_map(|policy| match self.direction {
            Direction::Inbound => &policy.ingress,
            Direction::Outbound => &policy.egress,
        });
        let matching = rules.into_iter().find(|rule| self.is_cluster_rule(rule))?;
        match matching.action {
            ClusterAction::Accept => Some(true),
            ClusterAction::Deny => Some(false),
            ClusterAction::Pass => None,
        }
    }

    fn is_cluster_rule(&self, rule: &ClusterRule) -> bool {
        let within = |cidrs: &[IpNet], address: IpAddr| cidrs.iter().any(|cidr| cidr.contains(&address));
        let peer = |peer: &ClusterPeer| match peer {
            ClusterPeer::Pods(of) => self.is_pod(Some(&of.namespaces), &of.pods, ""),
            ClusterPeer::Nodes(selector) => {
                node(self.world, self.peer).is_some_and(|(_, node)| selector.matches(&node.labels))
            }
            ClusterPeer::Networks(cidrs) => self.peer.address.is_some_and(|address| within(cidrs, address)),
        };
        // "you can't use a named port where the peer has none": a peer by address is none that has names
        let is_named =
            |port: &ClusterPort| matches!(port, ClusterPort::Named(_) | ClusterPort::One(NetworkPort::Named(..)));
        let pod = |p: &ClusterPeer| matches!(p, ClusterPeer::Pods(_)) && peer(p);
        let port = |port: &ClusterPort| match port {
            ClusterPort::One(port) => self.is_port(port),
            ClusterPort::Named(name) => {
                Protocol::ALL.into_iter().any(|protocol| self.is_port(&NetworkPort::Named(protocol, name.clone())))
            }
        };
        let outbound = self.direction == Direction::Outbound;
        let Some(ports) = &rule.ports else { return rule.peers.as_ref().is_none_or(|peers| peers.iter().any(peer)) };
        ports.iter().any(|p| {
            port(p)
                && rule.peers.as_ref().is_none_or(|peers| {
                    if outbound && is_named(p) { peers.iter().any(pod) } else { peers.iter().any(peer) }
                })
        })
    }
}
