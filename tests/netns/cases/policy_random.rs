//! Random rules: as the rule set has them, and as the daemon compiles them from random policies of every kind.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use policy::rule_set::{
    Action, Chain, ChainKey, Otherwise, PeerMatch, PeerSet, PortRange, Ports, Proof, Rule, RuleSet, SetKey, Stage,
    Subject, Tier,
};
use policy::{
    AuthorizationAction, AuthorizationPolicy, AuthorizationRule, Blocks, ClusterAction, ClusterPeer, ClusterPolicy,
    ClusterPort, ClusterRule, ClusterTier, Compiler, Direction, Labels, NetworkPeer, NetworkPolicy, NetworkPort,
    NetworkRule, Node, PeerTerms, PodsOf, Policies, PolicyKind, PolicyRef, Protocol, RuleRef, Selector, Target,
    Workload, WorkloadId, World,
};

use super::policy_router::{NODE, addresses};

/// A small generator of numbers that look random and are the same in each run (xorshift, Marsaglia 2003).
pub struct Dice(pub u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }

    pub fn one_in(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

fn origin(dice: &mut Dice) -> RuleRef {
    let policy =
        PolicyRef { kind: PolicyKind::NetworkPolicy, namespace: "x".into(), name: format!("p{}", dice.below(4)) };
    RuleRef { policy: Arc::new(policy), rule: dice.below(3) }
}

/// Rules of any form, also such as no policy comes to.
pub fn rule_set(dice: &mut Dice) -> RuleSet {
    let mut rules = RuleSet::default();
    let all = [addresses(false), addresses(true)];
    for index in 0..7_usize {
        let id = WorkloadId::new("x", &format!("w{index}"));
        let own: BTreeSet<IpAddr> = all.iter().map(|family| family[index]).collect();
        rules.addresses.extend(own.iter().map(|ip| (*ip, id.clone())));
        let node = Some(if index < 4 { NODE } else { "there" }.to_owned());
        rules.workloads.insert(id, Subject { addresses: own, node, inbound: None, outbound: None });
    }
    rules.contested = all.iter().map(|family| family[9]).collect();
    rules.nodes.insert(NODE.to_owned(), all.iter().map(|family| family[8]).collect());
    for index in 0..6 {
        let mut set = PeerSet::default();
        for (id, subject) in &rules.workloads {
            if dice.one_in(3) {
                set.members.insert(id.clone());
                set.addresses.extend(&subject.addresses);
            }
        }
        for (block, hole) in [
            ("10.2.0.0/16", "10.2.0.2/31"),
            ("fd00:2::/32", "fd00:2::2/127"),
            ("0.0.0.0/0", "10.1.0.0/29"),
            ("10.9.0.1/32", "::/0"),
            ("::/0", "fd00:9::/32"),
        ] {
            if dice.one_in(6) {
                set.blocks.merge(&Blocks::carved(block.parse().unwrap(), &[hole.parse().unwrap()]));
            }
        }
        rules.sets.insert(SetKey(format!("set {index}").into()), Arc::new(set));
    }
    for index in 0..5 {
        let chain = Chain { authorization: random_layer(dice, true), network: random_layer(dice, false) };
        rules.chains.insert(ChainKey(format!("chain {index}").into()), Arc::new(chain));
    }
    let keys: Vec<_> = rules.chains.keys().cloned().collect();
    for subject in rules.workloads.values_mut().filter(|subject| subject.node.as_deref() == Some(NODE)) {
        subject.inbound = (!dice.one_in(3)).then(|| dice.pick(&keys).clone());
        subject.outbound = (!dice.one_in(3)).then(|| dice.pick(&keys).clone());
    }
    rules
}

fn random_layer(dice: &mut Dice, is_authorization: bool) -> Vec<Stage> {
    let tiers = if is_authorization {
        [Tier::Audit, Tier::Deny, Tier::Allow]
    } else {
        [Tier::Admin, Tier::Network, Tier::Baseline]
    };
    let mut stages = Vec::new();
    for tier in tiers {
        if dice.one_in(2) {
            continue;
        }
        let rules = (0..dice.below(6)).map(|_| random_rule(dice)).collect();
        let otherwise = if dice.one_in(3) { Otherwise::Deny } else { Otherwise::Pass };
        stages.push(Stage { tier, rules, otherwise, policies: vec![] });
    }
    stages
}

fn random_rule(dice: &mut Dice) -> Rule {
    let condition = |dice: &mut Dice| PeerMatch {
        // the seventh is not there: nobody
        set: SetKey(format!("set {}", dice.below(7)).into()),
        inside: !dice.one_in(4),
        proof: if dice.one_in(3) { Proof::Needed } else { Proof::Unneeded },
    };
    let peers = match dice.below(8) {
        0 => vec![],
        1 => vec![condition(dice), condition(dice)],
        _ => vec![condition(dice)],
    };
    let range = |dice: &mut Dice| {
        let first = if dice.one_in(8) { 0 } else { 78 + u16::try_from(dice.below(7)).unwrap() };
        let last = if first == 0 { u16::MAX } else { first + u16::try_from(dice.below(3)).unwrap() };
        PortRange { protocol: *dice.pick(&Protocol::ALL), first, last }
    };
    let ports = if dice.one_in(4) {
        Ports::Any
    } else {
        Ports::Listed { ranges: (0..dice.below(5)).map(|_| range(dice)).collect(), other_protocols: dice.one_in(4) }
    };
    let action = *dice.pick(&[Action::Allow, Action::Allow, Action::Deny, Action::Pass, Action::Audit]);
    Rule { origin: origin(dice), peers, ports, action }
}

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

/// What an AuthorizationPolicy asks of the other end: mostly one or two things at once, of people that there are and are not.
fn terms(dice: &mut Dice) -> PeerTerms {
    let some = |dice: &mut Dice, from: &[String]| -> BTreeSet<String> {
        from.iter().filter(|_| dice.one_in(3)).cloned().collect()
    };
    let blocks = |dice: &mut Dice| -> Vec<IpNet> {
        let all = ["10.1.0.0/30", "10.2.0.0/16", "fd00:1::/126", "fd00:2::/32", "0.0.0.0/0", "::/0"];
        all.iter().filter(|_| dice.one_in(3)).map(|block| block.parse().unwrap()).collect()
    };
    let identities: Vec<_> = (0..6).map(identity).collect();
    let namespaces = ["x", "y", "gone"].map(str::to_owned);
    let mut terms = PeerTerms::default();
    for _ in 0..1 + dice.below(2) {
        match dice.below(6) {
            0 => terms.principals = Some(some(dice, &identities)),
            1 => terms.not_principals = some(dice, &identities),
            2 => terms.namespaces = Some(some(dice, &namespaces)),
            3 => terms.not_namespaces = some(dice, &namespaces),
            4 => terms.ip_blocks = Some(blocks(dice)),
            _ => terms.not_ip_blocks = blocks(dice),
        }
    }
    terms
}

/// Two workloads may have one.
fn identity(index: usize) -> String {
    format!("spiffe://weft.lab/ns/x/sa/s{}", index % 5)
}

fn authorization_policy(dice: &mut Dice, number: usize) -> AuthorizationPolicy {
    let direction = if dice.one_in(3) { Direction::Outbound } else { Direction::Inbound };
    let target = |dice: &mut Dice| {
        let ports = |dice: &mut Dice| (77..87).filter(|_| dice.one_in(2)).collect();
        let destination = if direction == Direction::Outbound { terms(dice) } else { PeerTerms::default() };
        let not_ports = if dice.one_in(2) { ports(dice) } else { BTreeSet::new() };
        Target { destination, ports: dice.one_in(2).then(|| ports(dice)), not_ports }
    };
    let rule = |dice: &mut Dice| {
        let asks = direction == Direction::Inbound && !dice.one_in(5);
        let from = asks.then(|| (0..dice.below(3)).map(|_| terms(dice)).collect());
        let to = (!dice.one_in(3)).then(|| (0..dice.below(3)).map(|_| target(dice)).collect());
        AuthorizationRule { from, to }
    };
    let actions = [AuthorizationAction::Allow, AuthorizationAction::Deny, AuthorizationAction::Audit];
    AuthorizationPolicy {
        namespace: (*dice.pick(&["x", "y"])).to_owned(),
        name: format!("a{number}"),
        selector: selector(dice, "role", &["even", "odd"]),
        action: *dice.pick(&actions),
        direction,
        rules: (0..dice.below(4)).map(|_| rule(dice)).collect(),
    }
}

/// A rule set of policies of every kind; the first seven of these addresses are pods', the ninth is the node's.
pub fn compiled(dice: &mut Dice, families: &[Vec<IpAddr>; 2]) -> RuleSet {
    let of = |index: usize| -> BTreeSet<IpAddr> { families.iter().map(|family| family[index]).collect() };
    let workload = |index: usize| Workload {
        namespace: if index.is_multiple_of(3) { "y" } else { "x" }.to_owned(),
        name: format!("w{index}"),
        labels: labelled("role", if index.is_multiple_of(2) { "even" } else { "odd" }),
        addresses: of(index),
        identity: Some(identity(index)),
        enrolled: index < 6,
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
    for number in 0..1 + dice.below(4) {
        policies.authorization.push(authorization_policy(dice, number).into());
    }
    for number in 0..dice.below(5) {
        policies.cluster.push(cluster_policy(dice, number).into());
    }
    for number in 0..dice.below(4) {
        policies.network.push(network_policy(dice, number).into());
    }
    Compiler::default().compile(&policies, &world, Some(NODE))
}
