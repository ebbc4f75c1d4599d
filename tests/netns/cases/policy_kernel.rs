//! The compiled rules against the model: crafted packets through a TUN device, judged by the kernel and by the judge.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use policy::{Direction, Flow, Reason, RuleSet, Verdict, nft};

use super::policy_random::{self, Dice};
use super::policy_router::{NODE, Probe, Router, addresses, apply, error_about, one_allowed};
use crate::shell::run;

pub const CASES: &[(&str, fn())] = &[
    ("policy_kernel_and_model_agree_on_random_packets", agree),
    ("np_10_errors_about_an_allowed_flow_pass_and_forged_ones_do_not", errors),
];

/// Probes of the case that compares; each is one packet, and one more backwards where it passes.
const PROBES: usize = 10_000;
/// Rule sets that they are spread over; each replaces the one before by the smallest difference.
const ROUNDS: usize = 40;
/// So many of the first addresses are pods of this node.
const LOCALS: usize = 4;

pub fn random_probe(dice: &mut Dice) -> Probe {
    let v6 = dice.one_in(2);
    let all = addresses(v6);
    // mostly one end is here, and often both
    let of = |dice: &mut Dice, here: bool| *dice.pick(if here { &all[..LOCALS] } else { &all });
    let here = dice.below(4);
    let source = of(dice, here < 2);
    let mut destination = source;
    while destination == source {
        destination = of(dice, here == 1 || here == 2);
    }
    let echo = if v6 { 58 } else { 1 };
    let protocol = *dice.pick(&[6, 6, 17, 17, 132, echo, 253]);
    let port = 77 + u16::try_from(dice.below(10)).unwrap();
    let source_port = 1024 + u16::try_from(dice.below(60_000)).unwrap();
    Probe { source, destination, protocol, source_port, port, member: dice.one_in(2) }
}

/// A probe's connection as the model sees it.
pub fn flow(rules: &RuleSet, members: &BTreeSet<IpAddr>, probe: &Probe) -> Flow {
    let proven = probe.member && members.contains(&probe.source) && members.contains(&probe.destination);
    let port = probe.has_ports().then_some(probe.port);
    Flow {
        source: rules.end(probe.source),
        destination: rules.end(probe.destination),
        protocol: probe.protocol,
        port,
        proven,
    }
}

/// Packets that both families' tables counted under this name.
pub fn counted(name: &str) -> u64 {
    let of = |family: &str| {
        let listed: serde_json::Value =
            serde_json::from_str(&run("nft", &["-j", "list", "counter", family, nft::TABLE, name])).expect("JSON");
        let counters = listed["nftables"].as_array().expect("a list").iter().filter_map(|it| it.get("counter"));
        counters.map(|counter| counter["packets"].as_u64().expect("a number")).sum::<u64>()
    };
    of("ip") + of("ip6")
}

/// What was probed, so that nothing that can be said is left out, and what the kernel is to have counted.
#[derive(Default)]
struct Tally {
    passed: usize,
    denied: usize,
    cut: usize,
    /// Verdicts by their reason, allowed or not, IPv6, and whether both ends are here.
    verdicts: BTreeMap<(Reason, bool, bool, bool), usize>,
    /// Verdicts by the kind of the policy that they name, and allowed or not.
    kinds: BTreeMap<(&'static str, bool), usize>,
    /// Packets by counter.
    counters: BTreeMap<String, u64>,
    /// Packets of connections that both sides refuse: the client's side is asked first.
    refused_by_both: u64,
}

impl Tally {
    fn probe(&mut self, probe: &Probe, verdict: &Verdict) {
        let locals = &addresses(probe.source.is_ipv6())[..LOCALS];
        let is_here = locals.contains(&probe.source) && locals.contains(&probe.destination);
        let key = (verdict.reason, verdict.is_allowed(), probe.source.is_ipv6(), is_here);
        *self.verdicts.entry(key).or_default() += 1;
        if let Some(policy) = &verdict.policy {
            *self.kinds.entry((policy.kind.as_str(), verdict.is_allowed())).or_default() += 1;
        }
        *(if verdict.is_allowed() { &mut self.passed } else { &mut self.denied }) += 1;
    }

    /// A packet of a connection that is denied: counted by the side that refused, and by the reason.
    fn drops(&mut self, rules: &RuleSet, flow: &Flow, verdict: &Verdict) {
        let sides = [Direction::Outbound, Direction::Inbound].map(|side| rules.judge_side(flow, side));
        let mut count = |name: String| *self.counters.entry(name).or_default() += 1;
        if verdict.reason == Reason::ContestedAddress {
            return count("contested_address".to_owned());
        }
        count(format!("{}_denied", verdict.direction.as_str()));
        count(format!("denied_{}", verdict.reason.as_str()));
        self.refused_by_both += u64::from(sides.iter().all(|side| !side.is_allowed()));
    }

    /// The kernel counted exactly these, whatever else it has counters for.
    fn is_counted(&self, round: usize) {
        let others = ["outbound_denied", "inbound_denied", "contested_address", "connection_unknown", "unjudged"];
        for name in others.iter().chain(&nft::REASONS) {
            assert_eq!(counted(name), self.counters.get(*name).copied().unwrap_or_default(), "round {round}: {name}");
        }
    }

    fn is_a_mix(&self) {
        println!("{} passed, {} denied, {} live connections cut", self.passed, self.denied, self.cut);
        println!("{:?}\n{:?}", self.verdicts, self.kinds);
        let mut wanted: Vec<_> = [Reason::OwnNode, Reason::ContestedAddress].map(|reason| (reason, false)).into();
        let by_policy = [Reason::NoPolicy, Reason::Rule, Reason::NoAllowMatched, Reason::Isolated];
        wanted.extend(by_policy.iter().flat_map(|reason| [(*reason, true), (*reason, false)]));
        for (reason, is_here) in wanted {
            let decisions = match reason {
                Reason::Rule => &[true, false][..],
                Reason::OwnNode | Reason::NoPolicy | Reason::Itself => &[true],
                Reason::NoAllowMatched | Reason::Isolated | Reason::ContestedAddress => &[false],
            };
            for (is_allowed, v6) in decisions.iter().flat_map(|decision| [(*decision, false), (*decision, true)]) {
                let count = self.verdicts.get(&(reason, is_allowed, v6, is_here)).copied().unwrap_or_default();
                assert!(count >= 20, "{reason:?}, allowed {is_allowed}, IPv6 {v6}, on one node {is_here}: {count}");
            }
        }
        for kind in ["NetworkPolicy", "AuthorizationPolicy", "ClusterNetworkPolicy"] {
            for is_allowed in [true, false] {
                let count = self.kinds.get(&(kind, is_allowed)).copied().unwrap_or_default();
                assert!(count >= 100, "{kind}, allowed {is_allowed}: {count}");
            }
        }
        assert!(self.refused_by_both > 500, "{} of both sides", self.refused_by_both);
        assert!(self.cut > 100, "connections that lived are cut");
    }
}

fn agree() {
    let router = Router::new();
    let dice = &mut Dice(0x5eed_0001_2026_1121);
    let both = [addresses(false), addresses(true)];
    let members: BTreeSet<IpAddr> = both.iter().flat_map(|family| family[..6].iter().copied()).collect();
    let mut held = nft::Program::default();
    apply(&held.whole(|_| (0, 0)));
    let mut live: Vec<Probe> = Vec::new();
    // of protocols without ports there is one connection between two addresses: who began it
    let mut began: BTreeSet<(u8, IpAddr, IpAddr)> = BTreeSet::new();
    let mut tally = Tally::default();
    for round in 0..ROUNDS {
        // every other one is of policies, by way of the compiler
        let rules = if round % 2 == 0 { policy_random::rule_set(dice) } else { policy_random::compiled(dice, &both) };
        let program = nft::Program::of(&rules, &nft::Here { node: NODE, members: &members });
        apply(&held.difference(&program));
        held = program;
        // what passed before is judged anew, both ways
        for probe in std::mem::take(&mut live) {
            let flow = flow(&rules, &members, &probe);
            let verdict = rules.judge(&flow);
            let expected = verdict.is_allowed();
            for is_reply in [false, true] {
                let found = router.passes(&probe.packet(is_reply));
                let what = format!("round {round}, established, reply {is_reply}: {probe:?}, {}", verdict.because());
                assert_eq!(found, expected, "{what}\n{}", shown(&probe));
            }
            if !expected {
                tally.cut += 1;
                [(); 2].iter().for_each(|()| tally.drops(&rules, &flow, &verdict));
            } else if !probe.is_echo() && live.len() < 30 {
                live.push(probe);
            }
        }
        // one that is left out is made up for
        while tally.passed + tally.denied < (round + 1) * PROBES / ROUNDS {
            let probe = random_probe(dice);
            if !probe.has_ports() && !probe.is_echo() {
                if began.contains(&(probe.protocol, probe.destination, probe.source)) {
                    continue;
                }
                began.insert((probe.protocol, probe.source, probe.destination));
            }
            let flow = flow(&rules, &members, &probe);
            let verdict = rules.judge(&flow);
            tally.probe(&probe, &verdict);
            let found = router.passes(&probe.packet(false));
            let what = || format!("round {round}: {probe:?}, {}\n{}", verdict.because(), shown(&probe));
            assert_eq!(found, verdict.is_allowed(), "{}", what());
            if !found {
                tally.drops(&rules, &flow, &verdict);
                continue;
            }
            assert!(router.passes(&probe.packet(true)), "the answer, {}", what());
            if live.len() < 60 && !probe.is_echo() {
                live.push(probe);
            }
        }
        tally.is_counted(round);
    }
    assert_eq!(tally.passed + tally.denied, PROBES);
    tally.is_a_mix();
    let by_differences = listed();
    apply(&held.whole(|_| (0, 0)));
    assert_eq!(by_differences, listed(), "changes lead to what is written from nothing");
}

/// The rules as nft lists them, in an order that does not depend on history, without counts.
fn listed() -> Vec<String> {
    let mut all = Vec::new();
    for family in ["ip", "ip6"] {
        let text = run("nft", &["-n", "-s", "list", "table", family, nft::TABLE]);
        for block in text.split("\n\n") {
            if block.contains("set denied") {
                continue;
            }
            let (before, elements) = block.split_once("elements = {").unwrap_or((block, ""));
            let mut words: Vec<_> =
                elements.split([',', '\n']).map(str::trim).filter(|w| !w.is_empty()).map(str::to_owned).collect();
            words.sort();
            all.push(format!("{before}{}", words.join(",").replace(" }", "").replace('}', "")));
        }
    }
    all.sort();
    all
}

fn shown(probe: &Probe) -> String {
    run("nft", &["-n", "list", "table", if probe.source.is_ipv4() { "ip" } else { "ip6" }, nft::TABLE])
}

fn errors() {
    let router = Router::new();
    let rules = one_allowed();
    let members = BTreeSet::new();
    let here = nft::Here { node: NODE, members: &members };
    let open = nft::Program::of(&rules, &here);
    apply(&open.whole(|_| (0, 0)));
    let mut closed = rules.clone();
    closed.sets.clear();
    let closed = nft::Program::of(&closed, &here);
    for v6 in [false, true] {
        let all = addresses(v6);
        let (server, client, some_router) = (all[0], all[4], all[7]);
        let flow =
            Probe { source: client, destination: server, protocol: 17, source_port: 5000, port: 80, member: false };
        assert!(router.passes(&flow.packet(false)) && router.passes(&flow.packet(true)));
        let unreachable = error_about(&flow.packet(false), server, client, false);
        let too_big = error_about(&flow.packet(true), some_router, server, true);
        assert!(router.passes(&unreachable), "port unreachable about an allowed flow, v6 {v6}");
        assert!(router.passes(&too_big), "too big about an allowed answer, v6 {v6}");
        // a flow that is not there: forged, whichever way it goes
        let never = Probe { source_port: 5001, ..flow };
        assert!(!router.passes(&error_about(&never.packet(false), server, client, false)), "forged, leaving, v6 {v6}");
        assert!(
            !router.passes(&error_about(&never.packet(true), some_router, server, true)),
            "forged, arriving, v6 {v6}"
        );
        // an answer that nobody asked for, and a packet of a connection that does not exist (NP-06)
        let asked_by_nobody = Probe { source: client, destination: server, source_port: 80, port: 5002, ..flow };
        assert!(!router.passes(&asked_by_nobody.packet(false)), "an unasked answer, v6 {v6}");
        apply(&open.difference(&closed));
        assert!(!router.passes(&flow.packet(false)) && !router.passes(&flow.packet(true)), "the flow is cut, v6 {v6}");
        assert!(!router.passes(&unreachable) && !router.passes(&too_big), "so are errors about it, v6 {v6}");
        apply(&closed.difference(&open));
        assert!(router.passes(&flow.packet(true)), "and it goes on where it is allowed again, v6 {v6}");
    }
}
