//! Changes lead to what is written from nothing, in an order that the kernel takes, and touch nothing that stays.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::blocks::Blocks;
use crate::rule_set::{
    Action, Chain, ChainKey, Otherwise, PeerMatch, PeerSet, PortRange, Ports, Proof, Rule, SetKey, Stage, Subject, Tier,
};
use crate::verdict::{PolicyKind, PolicyRef, RuleRef};
use crate::workload::{Protocol, WorkloadId};

fn ips(number: u8) -> [IpAddr; 2] {
    [Ipv4Addr::new(10, 0, 0, number).into(), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into()).into()]
}

fn rule() -> impl Strategy<Value = Rule> {
    let peer = (0..4_u8, any::<bool>(), any::<bool>());
    let port = (0..3_usize, 80..84_u16, 0..3_u16);
    let action = prop::sample::select(vec![Action::Allow, Action::Deny, Action::Pass, Action::Audit]);
    let ports = prop::option::of((prop::collection::vec(port, 0..3), any::<bool>()));
    (prop::collection::vec(peer, 0..3), ports, action).prop_map(|(peers, ports, action)| {
        let peers = peers.into_iter().map(|(set, inside, proven)| PeerMatch {
            set: SetKey(format!("set {set}").into()),
            inside,
            proof: if proven { Proof::Needed } else { Proof::Unneeded },
        });
        let range = |(protocol, first, more): (usize, u16, u16)| PortRange {
            protocol: Protocol::ALL[protocol],
            first,
            last: first + more,
        };
        let ports = ports.map_or(Ports::Any, |(ranges, other_protocols)| Ports::Listed {
            ranges: ranges.into_iter().map(range).collect(),
            other_protocols,
        });
        let policy = PolicyRef { kind: PolicyKind::NetworkPolicy, namespace: "a".into(), name: "b".into() };
        Rule { origin: RuleRef { policy: Arc::new(policy), rule: 0 }, peers: peers.collect(), ports, action }
    })
}

fn rule_set() -> impl Strategy<Value = RuleSet> {
    let stage = (prop::collection::vec(rule(), 0..4), any::<bool>()).prop_map(|(rules, closed)| Stage {
        tier: Tier::Network,
        rules,
        otherwise: if closed { Otherwise::Deny } else { Otherwise::Pass },
        policies: vec![],
    });
    let stage = stage.boxed();
    let chain = (prop::collection::vec(stage.clone(), 0..3), prop::collection::vec(stage, 0..3));
    let chains = prop::collection::vec(chain, 3);
    // one set is larger than what goes into a verdict map
    let size = prop::sample::select(vec![0_usize, 1, 3, 200]);
    let set = (prop::collection::btree_set(any::<u8>(), 0..4), size, any::<bool>());
    let sets = prop::collection::vec(set, 3);
    let subjects = prop::collection::vec((prop::option::of(0..3_u8), prop::option::of(0..3_u8), any::<bool>()), 4);
    (chains, sets, subjects).prop_map(|(chains, sets, subjects)| {
        let mut rules = RuleSet::default();
        for (index, (authorization, network)) in chains.into_iter().enumerate() {
            let key = ChainKey(format!("chain {index}").into());
            rules.chains.insert(key, Arc::new(Chain { authorization, network }));
        }
        for (index, (some, size, has_block)) in sets.into_iter().enumerate() {
            let many = (0..u8::MAX).take(size);
            let mut set =
                PeerSet { addresses: some.into_iter().chain(many).flat_map(ips).collect(), ..PeerSet::default() };
            if has_block {
                set.blocks.merge(&Blocks::carved("10.1.0.0/16".parse().unwrap(), &["10.1.2.0/24".parse().unwrap()]));
            }
            rules.sets.insert(SetKey(format!("set {index}").into()), Arc::new(set));
        }
        for (index, (inbound, outbound, here)) in subjects.into_iter().enumerate() {
            let key = |chain: u8| ChainKey(format!("chain {chain}").into());
            let number = u8::try_from(index).unwrap();
            let subject = Subject {
                addresses: ips(number).into(),
                node: Some(if here { "here" } else { "there" }.to_owned()),
                inbound: inbound.map(key),
                outbound: outbound.map(key),
            };
            rules.workloads.insert(WorkloadId::new("a", &format!("w{index}")), subject);
        }
        rules
    })
}

fn compiled(rules: &RuleSet) -> Program {
    program(&mut Scribe::default(), rules)
}

fn program(scribe: &mut Scribe, rules: &RuleSet) -> Program {
    let members: BTreeSet<IpAddr> = (0..3).flat_map(ips).collect();
    scribe.program(rules, &Here { node: "here", members: &members })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_sequence_of_changes_leads_to_what_is_compiled_from_nothing(all in prop::collection::vec(rule_set(), 1..6)) {
        let mut kernel = Program::default();
        let mut held = Program::default();
        let mut scribe = Scribe::default();
        for rules in &all {
            let wanted = program(&mut scribe, rules);
            prop_assert_eq!(&wanted, &compiled(rules), "what is kept from before changes nothing");
            kernel.v4.apply(&edits(&held.v4, &wanted.v4));
            kernel.v6.apply(&edits(&held.v6, &wanted.v6));
            prop_assert_eq!(&kernel, &wanted);
            prop_assert_eq!(held.difference(&wanted).is_empty(), held == wanted);
            held = wanted;
        }
        // and back to nothing
        kernel.v4.apply(&edits(&held.v4, &Program::default().v4));
        prop_assert_eq!(&kernel.v4, &Program::default().v4);
    }
}

/// Two workloads here under one chain that lets one set in at port 80.
fn simple(members: &[u8]) -> RuleSet {
    let mut rules = RuleSet::default();
    let condition = PeerMatch { set: SetKey("set".into()), inside: true, proof: Proof::Unneeded };
    let ranges = vec![PortRange { protocol: Protocol::Tcp, first: 80, last: 80 }];
    let policy = PolicyRef { kind: PolicyKind::NetworkPolicy, namespace: "a".into(), name: "b".into() };
    let rule = Rule {
        origin: RuleRef { policy: Arc::new(policy), rule: 0 },
        peers: vec![condition],
        ports: Ports::Listed { ranges, other_protocols: false },
        action: Action::Allow,
    };
    let stage = Stage { tier: Tier::Network, rules: vec![rule], otherwise: Otherwise::Deny, policies: vec![] };
    rules.chains.insert(ChainKey("c".into()), Arc::new(Chain { authorization: vec![], network: vec![stage] }));
    for number in [1, 2] {
        let id = WorkloadId::new("a", &format!("w{number}"));
        let (addresses, node, inbound) = (ips(number).into(), Some("here".to_owned()), Some(ChainKey("c".into())));
        rules.workloads.insert(id, Subject { addresses, node, inbound, outbound: None });
    }
    let addresses = members.iter().flat_map(|number| ips(*number)).collect();
    rules.sets.insert(SetKey("set".into()), Arc::new(PeerSet { addresses, ..PeerSet::default() }));
    rules
}

#[test]
fn one_peer_more_is_one_element_more() {
    let script = compiled(&simple(&[7])).difference(&compiled(&simple(&[7, 8])));
    let lines: Vec<_> = script.lines().collect();
    assert_eq!(lines.len(), 2, "one a family:\n{script}");
    assert!(
        lines[0].starts_with("add element ip weft_policy in_") && lines[0].contains("{ 10.0.0.8 . 80 }"),
        "{script}"
    );
}

#[test]
fn workloads_under_the_same_rules_share_their_chain() {
    let program = compiled(&simple(&[7]));
    let stages = program.v4.chains.keys().filter(|name| name.starts_with("in_")).count();
    assert_eq!(stages, 1);
    assert_eq!(program.v4.maps["inbound_network"].len(), 2);
}

#[test]
fn an_empty_set_is_nobody() {
    let program = compiled(&simple(&[]));
    let stage = program.v4.chains.iter().find(|(name, _)| name.starts_with("in_")).unwrap().1;
    assert_eq!(**stage, ["goto deny_inbound_isolated"], "nothing but the default is left");
}
