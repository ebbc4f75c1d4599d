//! Small worlds in which things collide: few names, few labels, few addresses, and policies about them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;

use super::super::Policies;
use crate::verdict::{Direction, End, Flow, PolicyKind};
use crate::workload::{NamedPort, Node, Protocol, Workload, World};
use crate::*;

/// The namespace of mesh-wide policies.
pub(super) const ROOT: &str = "root";

fn name() -> impl Strategy<Value = String> {
    prop_oneof![Just("a"), Just("b")].prop_map(str::to_owned)
}

fn namespace() -> impl Strategy<Value = String> {
    // most in one place, so that policies meet
    prop_oneof![4 => Just("x"), 1 => Just("y"), 1 => Just(ROOT)].prop_map(str::to_owned)
}

fn labels() -> impl Strategy<Value = Labels> {
    proptest::collection::btree_map(name(), name(), 0..3)
}

fn selector() -> impl Strategy<Value = Selector> {
    let values = || btree_set(name(), 1..3);
    let expression = prop_oneof![
        (name(), values()).prop_map(|(k, v)| Expression::In(k, v)),
        (name(), values()).prop_map(|(k, v)| Expression::NotIn(k, v)),
        name().prop_map(Expression::Exists),
        name().prop_map(Expression::DoesNotExist),
    ];
    let matched = proptest::collection::btree_map(name(), name(), 0..2);
    prop_oneof![
        2 => Just(Selector::default()),
        1 => (matched, vec(expression, 0..2)).prop_map(|(match_labels, expressions)| Selector { match_labels, expressions }),
    ]
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (1u8..9).prop_map(|last| IpAddr::from([10, 0, 0, last])),
        (1u16..9).prop_map(|last| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last])),
    ]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)]
}

fn port_number() -> impl Strategy<Value = u16> {
    prop_oneof![Just(80u16), Just(81), Just(82), Just(0), Just(65535)]
}

fn workload() -> impl Strategy<Value = Workload> {
    let port =
        (name(), protocol(), port_number()).prop_map(|(name, protocol, port)| NamedPort { name, protocol, port });
    let who = (namespace(), name(), labels(), btree_set(address(), 0..3), btree_set(port, 0..3));
    (who, option::weighted(0.8, name()), proptest::bool::weighted(0.8), option::of(name())).prop_map(
        |((namespace, name, labels, addresses, ports), identity, enrolled, node)| {
            let identity = identity.map(|account| format!("spiffe://td/ns/{namespace}/sa/{account}"));
            Workload { namespace, name, labels, addresses, ports, identity, enrolled, node }
        },
    )
}

pub(super) fn world() -> impl Strategy<Value = World> {
    let node = (labels(), btree_set(address(), 0..2), any::<bool>());
    (
        proptest::collection::btree_map(namespace(), labels(), 0..3),
        vec(workload(), 1..6),
        proptest::collection::btree_map(name(), node, 0..3),
    )
        .prop_map(|(namespaces, workloads, nodes)| {
            let mut seen = BTreeSet::new();
            let workloads = workloads.into_iter().filter(|w| seen.insert(w.id())).collect();
            let mut taken = BTreeSet::new();
            let nodes = nodes.into_iter().map(|(name, (labels, mut addresses, known))| {
                addresses.retain(|address| taken.insert(*address));
                let identity = known.then(|| format!("spiffe://td/node/{name}"));
                (name, Node { labels, addresses, identity })
            });
            World { namespaces, workloads, nodes: nodes.collect(), root_namespace: ROOT.to_owned() }
        })
}

fn cidr() -> impl Strategy<Value = ipnet::IpNet> {
    let length = prop_oneof![Just(0u8), Just(29), Just(30), Just(32)];
    (address(), length).prop_map(|(address, length)| {
        let length = if address.is_ipv6() && length > 0 { 96 + length } else { length };
        ipnet::IpNet::new(address, length).unwrap()
    })
}

fn network_port() -> impl Strategy<Value = NetworkPort> {
    prop_oneof![
        protocol().prop_map(NetworkPort::Every),
        (protocol(), port_number(), port_number()).prop_map(|(p, a, b)| NetworkPort::Range(p, a.min(b), a.max(b))),
        (protocol(), name()).prop_map(|(p, n)| NetworkPort::Named(p, n)),
    ]
}

fn network_rule() -> impl Strategy<Value = NetworkRule> {
    let peer = prop_oneof![
        (option::of(selector()), selector()).prop_map(|(namespaces, pods)| NetworkPeer::Pods { namespaces, pods }),
        (cidr(), vec(cidr(), 0..3)).prop_map(|(cidr, except)| NetworkPeer::Block { cidr, except }),
    ];
    (option::of(vec(peer, 0..3)), option::of(vec(network_port(), 0..3)))
        .prop_map(|(peers, ports)| NetworkRule { peers, ports })
}

fn network_policy() -> impl Strategy<Value = NetworkPolicy> {
    let rules = || option::of(vec(network_rule(), 0..3));
    (namespace(), name(), selector(), rules(), rules()).prop_map(|(namespace, name, selector, ingress, egress)| {
        NetworkPolicy { namespace, name, selector, ingress, egress }
    })
}

fn principal() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (namespace(), name()).prop_map(|(ns, account)| format!("spiffe://td/ns/{ns}/sa/{account}")),
        1 => name().prop_map(|node| format!("spiffe://td/node/{node}")),
    ]
}

fn terms() -> impl Strategy<Value = PeerTerms> {
    let some = |chance| proptest::bool::weighted(chance);
    (
        option::weighted(0.4, btree_set(principal(), 0..4)),
        (some(0.2), btree_set(principal(), 0..3)),
        option::weighted(0.2, btree_set(namespace(), 0..3)),
        (some(0.2), btree_set(namespace(), 0..2)),
        option::weighted(0.1, vec(cidr(), 0..2)),
        (some(0.1), vec(cidr(), 0..2)),
    )
        .prop_map(|(principals, not_principals, namespaces, not_namespaces, ip_blocks, not_ip_blocks)| PeerTerms {
            principals,
            not_principals: if not_principals.0 { not_principals.1 } else { BTreeSet::new() },
            namespaces,
            not_namespaces: if not_namespaces.0 { not_namespaces.1 } else { BTreeSet::new() },
            ip_blocks,
            not_ip_blocks: if not_ip_blocks.0 { not_ip_blocks.1 } else { Vec::new() },
        })
}

fn authorization_policy() -> impl Strategy<Value = AuthorizationPolicy> {
    let ports = (option::weighted(0.3, btree_set(port_number(), 0..3)), btree_set(port_number(), 0..2));
    let target = (option::weighted(0.3, terms()), ports).prop_map(|(terms, (ports, not_ports))| Target {
        destination: terms.unwrap_or_default(),
        ports,
        not_ports,
    });
    let rule = (option::weighted(0.7, vec(terms(), 0..3)), option::weighted(0.3, vec(target, 0..3)))
        .prop_map(|(from, to)| AuthorizationRule { from, to });
    let action = prop_oneof![
        Just(AuthorizationAction::Allow),
        Just(AuthorizationAction::Deny),
        Just(AuthorizationAction::Audit),
    ];
    let direction = prop_oneof![Just(Direction::Inbound), Just(Direction::Outbound)];
    (namespace(), name(), selector(), action, direction, vec(rule, 0..3)).prop_map(
        |(namespace, name, selector, action, direction, rules)| AuthorizationPolicy {
            namespace,
            name,
            selector,
            action,
            direction,
            rules,
        },
    )
}

fn cluster_policy() -> impl Strategy<Value = ClusterPolicy> {
    let pods_of = || (selector(), selector()).prop_map(|(namespaces, pods)| PodsOf { namespaces, pods });
    let peer = prop_oneof![
        pods_of().prop_map(ClusterPeer::Pods),
        selector().prop_map(ClusterPeer::Nodes),
        vec(cidr(), 0..3).prop_map(ClusterPeer::Networks),
    ];
    let port = prop_oneof![network_port().prop_map(ClusterPort::One), name().prop_map(ClusterPort::Named)];
    let action = prop_oneof![Just(ClusterAction::Accept), Just(ClusterAction::Deny), Just(ClusterAction::Pass)];
    let rule = (action, option::weighted(0.8, vec(peer, 0..3)), option::of(vec(port, 0..3)))
        .prop_map(|(action, peers, ports)| ClusterRule { action, peers, ports })
        .boxed();
    let tier = prop_oneof![Just(ClusterTier::Admin), Just(ClusterTier::Baseline)];
    (name(), tier, 0u16..3, pods_of(), vec(rule.clone(), 0..3), vec(rule, 0..3)).prop_map(
        |(name, tier, priority, subject, ingress, egress)| ClusterPolicy {
            kind: PolicyKind::ClusterNetworkPolicy,
            name,
            tier,
            priority,
            subject,
            ingress,
            egress,
        },
    )
}

pub(super) fn policies() -> impl Strategy<Value = Policies> {
    let counts = prop_oneof![Just((3, 3, 3)), Just((4, 0, 0)), Just((0, 5, 0)), Just((2, 0, 4))];
    let lists = counts.prop_flat_map(|(network, authorization, cluster)| {
        (
            vec(network_policy(), 0..=network),
            vec(authorization_policy(), 0..=authorization),
            vec(cluster_policy(), 0..=cluster),
        )
    });
    lists.prop_map(|(network, authorization, cluster)| {
        let mut seen = BTreeSet::new();
        let network = network.into_iter().filter(|p| seen.insert((p.namespace.clone(), p.name.clone())));
        let network = network.map(Arc::new).collect();
        seen.clear();
        let unique = authorization.into_iter().filter(|p| seen.insert((p.namespace.clone(), p.name.clone())));
        let authorization = unique.map(Arc::new).collect();
        seen.clear();
        let cluster = cluster.into_iter().filter(|p| seen.insert((String::new(), p.name.clone())));
        let cluster = cluster.map(Arc::new).collect();
        Policies { network, authorization, cluster }
    })
}

/// Who a flow can have at its ends: every workload with each of its addresses or without, nodes, and the outside.
fn ends(world: &World) -> Vec<End> {
    let mut claims: BTreeMap<IpAddr, usize> = BTreeMap::new();
    for address in world.workloads.iter().flat_map(|w| &w.addresses) {
        *claims.entry(*address).or_default() += 1;
    }
    let nodes: BTreeSet<IpAddr> = world.nodes.values().flat_map(|n| n.addresses.clone()).collect();
    let mut ends = Vec::new();
    for workload in &world.workloads {
        ends.push(End { workload: Some(workload.id()), address: None });
        for address in workload.addresses.difference(&nodes) {
            let is_own = claims.get(address) == Some(&1);
            ends.push(End { workload: is_own.then(|| workload.id()), address: Some(*address) });
        }
    }
    for (name, node) in &world.nodes {
        let id = WorkloadId::of_node(name);
        ends.extend(node.addresses.iter().map(|a| End { workload: Some(id.clone()), address: Some(*a) }));
    }
    let outside = ["10.0.0.7", "192.0.2.1", "fd00::7"].map(|text| text.parse::<IpAddr>().unwrap());
    let free = outside.into_iter().filter(|address| !claims.contains_key(address) && !nodes.contains(address));
    ends.extend(free.map(|address| End { workload: None, address: Some(address) }));
    ends
}

/// Flows between all of them, to ports that policies may name and to one that none does.
pub(super) fn flows(world: &World) -> Vec<Flow> {
    let ends = ends(world);
    let mut flows = Vec::new();
    for source in &ends {
        for destination in &ends {
            for (protocol, port) in
                [(6, Some(80)), (6, Some(0)), (17, Some(81)), (6, None), (132, Some(443)), (1, None)]
            {
                for proven in [false, true] {
                    let (source, destination) = (source.clone(), destination.clone());
                    flows.push(Flow { source, destination, protocol, port, proven });
                }
            }
        }
    }
    flows
}
