//! Random policies of the administrator's tiers around random NetworkPolicies, compiled as the daemon does it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use policy::{
    ClusterAction, ClusterPeer, ClusterPolicy, ClusterPort, ClusterRule, ClusterTier, Compiler, Labels, NetworkPeer,
    NetworkPolicy, NetworkPort, NetworkRule, Node, PodsOf, Policies, PolicyKind, Protocol, RuleSet, Selector, Workload,
    World,
};

use super::policy_kernel::{Dice, NODE};

fn labelled(key: &str, value: &str) -> Labels {
    BTreeMap::from([(key.to_owned(), value.to_owned())])
}

/// Pods of both namespaces, of one, of half of them, or one pod.
fn selector(dice: &mut Dice, key: &str, values: &[&str]) -> Selector {
    let value: &&str = dice.pick(values);
    let match_labels = if dice.one_in(3) { Labels::new() } else { labelled(key, value) };
    Selector { match_labels, ..Selector::default() }
}

fn pods_of(dice: &mut Dice) -> PodsOf {
    PodsOf { namespaces: selector(dice, "team", &["a", "b"]), pods: selector(dice, "role", &["even", "odd"]) }
}

fn port(dice: &mut Dice) -> NetworkPort {
    let protocol = *dice.pick(&Protocol::ALL);
    let first = 78 + u16::try_from(dice.below(7)).expect("small");
    if dice.one_in(4) { NetworkPort::Every(protocol) } else { NetworkPort::Range(protocol, first, first + 2) }
}

fn cluster_rule(dice: &mut Dice) -> ClusterRule {
    let peer = |dice: &mut Dice| match dice.below(6) {
        0 => ClusterPeer::Nodes(Selector::default()),
        1 => {
            ClusterPeer::Networks(["10.2.0.0/16", "fd00:2::/32", "10.9.0.0/16"].map(|net| net.parse().unwrap()).into())
        }
        _ => ClusterPeer::Pods(pods_of(dice)),
    };
    let peers = (!dice.one_in(8)).then(|| (0..1 + dice.below(2)).map(|_| peer(dice)).collect());
    let ports = dice.one_in(2).then(|| (0..1 + dice.below(2)).map(|_| ClusterPort::One(port(dice))).collect());
    let action = *dice.pick(&[ClusterAction::Accept, ClusterAction::Deny, ClusterAction::Pass]);
    ClusterRule { action, peers, ports }
}

fn cluster_policy(dice: &mut Dice, number: usize) -> ClusterPolicy {
    let rules = |dice: &mut Dice| (0..dice.below(4)).map(|_| cluster_rule(dice)).collect();
    ClusterPolicy {
        kind: PolicyKind::ClusterNetworkPolicy,
        name: format!("c{number}"),
        tier: *dice.pick(&[ClusterTier::Admin, ClusterTier::Admin, ClusterTier::Baseline]),
        priority: u16::try_from(dice.below(4)).expect("small"),
        subject: pods_of(dice),
        ingress: rules(dice),
        egress: rules(dice),
    }
}

fn network_policy(dice: &mut Dice, number: usize) -> NetworkPolicy {
    let rule = |dice: &mut Dice| {
        let namespaces = Some(selector(dice, "team", &["a", "b"]));
        let pods = selector(dice, "role", &["even", "odd"]);
        let ports = dice.one_in(2).then(|| vec![port(dice)]);
        NetworkRule { peers: Some(vec![NetworkPeer::Pods { namespaces, pods }]), ports }
    };
    let rules = |dice: &mut Dice| dice.one_in(2).then(|| (0..dice.below(3)).map(|_| rule(dice)).collect());
    NetworkPolicy {
        namespace: (*dice.pick(&["x", "y"])).to_owned(),
        name: format!("n{number}"),
        selector: selector(dice, "role", &["even", "odd"]),
        ingress: rules(dice),
        egress: rules(dice),
    }
}

/// A rule set of the tiers; the first seven of these addresses are pods', the ninth is the node's.
pub fn tiers(dice: &mut Dice, families: &[Vec<IpAddr>; 2]) -> RuleSet {
    let of = |index: usize| -> BTreeSet<IpAddr> { families.iter().map(|family| family[index]).collect() };
    let workload = |index: usize| Workload {
        namespace: if index.is_multiple_of(3) { "y" } else { "x" }.to_owned(),
        name: format!("w{index}"),
        labels: labelled("role", if index.is_multiple_of(2) { "even" } else { "odd" }),
        addresses: of(index),
        enrolled: true,
        node: Some(if index < 4 { NODE } else { "there" }.to_owned()),
        ..Workload::default()
    };
    let namespaces = [("x", "a"), ("y", "b")].map(|(name, team)| (name.to_owned(), labelled("team", team)));
    let node = Node { addresses: of(8), ..Node::default() };
    let world = World {
        namespaces: namespaces.into(),
        workloads: (0..7).map(workload).collect(),
        nodes: BTreeMap::from([(NODE.to_owned(), node)]),
        ..World::default()
    };
    let mut policies = Policies::default();
    for number in 0..1 + dice.below(5) {
        policies.cluster.push(cluster_policy(dice, number).into());
    }
    for number in 0..dice.below(3) {
        policies.network.push(network_policy(dice, number).into());
    }
    Compiler::default().compile(&policies, &world, Some(NODE))
}
