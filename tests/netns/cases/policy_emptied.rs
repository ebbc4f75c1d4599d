//! NP-14: what somebody else empties is closed, not open, for as long as nobody puts it back, and is put back at once.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use policy::Protocol;
use policy::nft;
use policy::rule_set::{Action, Otherwise, PortRange, Ports, Proof, RuleSet};

use super::policy::{CLOSED, FIVE, SOON, five, network_policy, until};
use super::policy_kernel::{counted, flow, random_probe};
use super::policy_random::{self, Dice};
use super::policy_router::{NODE, Probe, Router, addresses, apply, error_about, one_allowed};
use crate::agent::{Agents, all_pairs};
use crate::lab::{Lab, peer_authentication};
use crate::shell::{eventually, run};

pub const CASES: &[(&str, fn())] = &[
    ("np_14_what_somebody_empties_is_closed_until_it_is_put_back", emptied),
    ("np_14_emptying_any_set_map_or_hook_of_random_rules_opens_nothing", emptied_at_random),
    ("np_14_somebody_elses_flush_is_repaired_within_a_second", flushed),
];

/// Within which all is put back.
const REPAIR: Duration = Duration::from_secs(1);

/// What passes: the allowed flow, what is denied arriving or leaving, a packet of no connection, and strangers.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    allowed: bool,
    denied: [bool; 3],
    strangers: bool,
}

fn look(router: &Router, v6: bool, source_port: u16) -> Seen {
    let all = addresses(v6);
    let (server, client, outside) = (all[0], all[4], all[7]);
    let probe = |source: IpAddr, destination: IpAddr, port: u16| Probe {
        source,
        destination,
        protocol: 17,
        source_port,
        port,
        member: false,
    };
    let passes = |probe: Probe| router.passes(&probe.packet(false));
    // an error about a flow that never was: conntrack calls it invalid
    let forged = error_about(&probe(server, outside, 9).packet(false), client, server, true);
    Seen {
        allowed: passes(probe(client, server, 80)),
        denied: [passes(probe(client, server, 81)), passes(probe(server, client, 81)), router.passes(&forged)],
        strangers: passes(probe(client, outside, 81)),
    }
}

fn emptied() {
    let router = Router::new();
    let members = BTreeSet::new();
    let program = nft::Program::of(&one_allowed(), &nft::Here { node: NODE, members: &members });
    let mut source_port = 5000;
    for (family, v6) in [("ip", false), ("ip6", true)] {
        apply(&program.whole(|_| (0, 0)));
        let listed = run("nft", &["list", "table", family, nft::TABLE]);
        let named = |kind: &str| {
            let names = listed.lines().filter_map(|line| line.strip_prefix(&format!("\t{kind} ")));
            names.map(|name| format!("{kind} {family} {} {}", nft::TABLE, name.trim_end_matches(" {"))).collect()
        };
        let [maps, sets, chains]: [Vec<String>; 3] = ["map", "set", "chain"].map(named);
        assert!(maps.len() >= 4 && sets.len() >= 4 && chains.len() > 8, "{listed}");
        let table = format!("table {family} {}", nft::TABLE);
        for what in maps.iter().chain(&sets).chain(&chains).chain([&table]) {
            apply(&program.whole(|_| (0, 0)));
            source_port += 1;
            let before = look(&router, v6, source_port);
            assert_eq!(before, Seen { allowed: true, denied: [false; 3], strangers: true }, "before {what}");
            apply(&format!("flush {what}"));
            // the flow that was allowed and begun, and new ones
            for port in [source_port, source_port + 5000] {
                let seen = look(&router, v6, port);
                assert_eq!(seen.denied, [false; 3], "`flush {what}` opens: {seen:?}");
                let is_hook = what.starts_with("table") || what.contains("chain") && what.contains("forward_");
                assert!(seen.strangers || is_hook, "`flush {what}` closes strangers: {seen:?}");
            }
        }
        apply(&program.whole(|_| (0, 0)));
        apply(&format!("flush map {family} {} inbound_network", nft::TABLE));
        look(&router, v6, source_port + 10_000);
        let counted = run("nft", &["list", "counter", family, nft::TABLE, "unjudged"]);
        assert!(!counted.contains("packets 0 "), "{counted}");
    }
}

/// Sets, maps and hooks in a table of ours, as nft's commands name them.
fn parts_of(family: &str) -> Vec<String> {
    let listed = run("nft", &["list", "table", family, nft::TABLE]);
    let named = listed.lines().filter_map(|line| {
        let (kind, name) = line.strip_prefix('\t')?.strip_suffix(" {")?.split_once(' ')?;
        let is_meant = kind == "set" || kind == "map" || name.starts_with("forward_");
        is_meant.then(|| format!("{kind} {family} {} {name}", nft::TABLE))
    });
    named.collect()
}

/// A workload that denies the client of [`one_allowed`] UDP at port 80 and, where it proves who it is, all TCP; an address that
/// two pods claim.
fn some_denied() -> RuleSet {
    let mut rules = one_allowed();
    let chain = rules.chains.values_mut().next().expect("one chain");
    let stage = &mut Arc::make_mut(chain).network[0];
    let mut by_address = stage.rules[0].clone();
    by_address.peers[0].proof = Proof::Needed;
    let ranges = vec![PortRange { protocol: Protocol::Tcp, first: 0, last: u16::MAX }];
    by_address.ports = Ports::Listed { ranges, other_protocols: false };
    stage.rules.push(by_address);
    stage.rules.iter_mut().for_each(|rule| rule.action = Action::Deny);
    stage.otherwise = Otherwise::Pass;
    rules.contested = [false, true].map(|v6| addresses(v6)[9]).into();
    rules
}

/// What the model denies stays denied whichever set, map or hook is emptied, also where it is a DENY that asks the set.
fn emptied_at_random() {
    const ROUNDS: usize = 6;
    const PARTS: usize = 10;
    let router = Router::new();
    let dice = &mut Dice(0x5eed_0014_2026_1122);
    let both = [addresses(false), addresses(true)];
    let members: BTreeSet<IpAddr> = both.iter().flat_map(|family| family[..6].iter().copied()).collect();
    let mut emptied = Emptied::default();
    let probe = |all: &[IpAddr], client: usize, protocol: u8| Probe {
        source: all[client],
        destination: all[0],
        protocol,
        source_port: 5000,
        port: 80,
        member: true,
    };
    let probes: Vec<_> = both.iter().flat_map(|all| [probe(all, 4, 17), probe(all, 4, 6), probe(all, 9, 17)]).collect();
    emptied.each(&router, &some_denied(), &members, &probes, |parts| parts);
    assert!(emptied.flushes > 20 && emptied.held == 3 * emptied.flushes, "{emptied:?}");
    for round in 0..ROUNDS {
        let rules = if round % 2 == 0 { policy_random::rule_set(dice) } else { policy_random::compiled(dice, &both) };
        // its own node reaches a pod always, also one whose address another pod claims, while the set of these is empty
        let of_node = |probe: &Probe| both.iter().any(|all| [probe.source, probe.destination].contains(&all[8]));
        let probes: Vec<_> = std::iter::repeat_with(|| random_probe(dice)).filter(|p| !of_node(p)).take(200).collect();
        emptied.each(&router, &rules, &members, &probes, |mut parts| {
            std::iter::repeat_with(|| parts.swap_remove(dice.below(parts.len()))).take(PARTS).collect()
        });
    }
    println!("{emptied:?}");
    assert!(emptied.flushes > 80 && emptied.held > 1000 && emptied.unjudged > 100, "{emptied:?}");
}

/// What was emptied, and what came of it.
#[derive(Debug, Default)]
struct Emptied {
    flushes: usize,
    /// Probes that stayed denied.
    held: usize,
    /// Packets that were dropped because somebody had emptied something.
    unjudged: u64,
}

impl Emptied {
    /// Empties those parts of the rules' tables that are chosen, one by one, and looks whether the probes of them that the model
    /// denies come through.
    fn each(
        &mut self,
        router: &Router,
        rules: &RuleSet,
        members: &BTreeSet<IpAddr>,
        probes: &[Probe],
        choose: impl FnOnce(Vec<String>) -> Vec<String>,
    ) {
        let whole = nft::Program::of(rules, &nft::Here { node: NODE, members }).whole(|_| (0, 0));
        let because = |probe: &Probe| rules.judge(&flow(rules, members, probe));
        let denied: Vec<_> = probes.iter().filter(|probe| !because(probe).is_allowed()).collect();
        apply(&whole);
        for part in choose([parts_of("ip"), parts_of("ip6")].concat()) {
            apply(&format!("{whole}\nflush {part}"));
            for probe in denied.iter().filter(|probe| probe.source.is_ipv6() == part.contains(" ip6 ")) {
                let passes = router.passes(&probe.packet(false));
                assert!(!passes, "`flush {part}` opens {probe:?}: {}\n{whole}", because(probe).because());
                self.held += 1;
            }
            self.flushes += 1;
            self.unjudged += counted("unjudged");
        }
    }
}

fn flushed() {
    let lab = five("nodes: 2");
    let mut agents = Agents::start(&lab, &FIVE);
    lab.put("policy.yaml", &network_policy("demo", "closed", CLOSED));
    until(&mut agents, false, "demo/a", "demo/far", "TCP", 80);
    until(&mut agents, false, "plain/c", "demo/a", "TCP", 80);
    for flush in [
        &["flush", "ruleset"][..],
        &["delete", "table", "ip", "weft_policy"],
        &["flush", "table", "ip6", "weft_policy"],
    ] {
        let closed = |agents: &mut Agents| {
            let seen = agents.probe(&all_pairs(&["demo/a", "demo/b", "plain/c"]), &BTreeSet::new(), "UDP", 80, 0.1);
            seen.arrived.iter().all(|pair| pair.from.starts_with("plain") && pair.to.starts_with("plain"))
        };
        repaired(&format!("{flush:?}"), || {
            lab.must("node/n1", &[&["nft"], flush].concat());
            // the guard and emptied hooks close it at once, outsiders too: that those pass says that all is back
            let passes = |agents: &mut Agents| {
                let pairs: Vec<_> = all_pairs(&["plain/c", "plain/out"]);
                let seen = agents.probe(&pairs, &pairs.iter().cloned().collect(), "UDP", 80, 0.1);
                seen.answered.len() == pairs.len()
            };
            eventually("it is as before", SOON, || (closed(&mut agents) && passes(&mut agents)).then_some(()));
        });
    }
    elements(&lab);
    standing(&lab, &mut agents);
    lab.remove("policy.yaml");
    modes(&lab, &mut agents);
}

/// What is broken and put right within [`REPAIR`], or on a busy machine at least once of three times.
fn repaired(what: &str, mut broken: impl FnMut()) {
    let mut slow = Vec::new();
    for _ in 0..3 {
        let begin = Instant::now();
        broken();
        if begin.elapsed() < REPAIR {
            return;
        }
        slow.push(begin.elapsed());
    }
    panic!("{what} was repaired within {slow:?}");
}

/// What nobody puts back, because the daemon is stopped: the guard, a table that only its owner can take away, closes what other
/// tables of ours have closed. Without its owner all of it is open, so that nothing else closed it.
fn standing(lab: &Lab, agents: &mut Agents) {
    const REMOVALS: [&str; 4] = [
        "delete chain ip weft_policy forward_outbound; delete chain ip6 weft_policy forward_outbound",
        "delete chain ip weft_policy forward_inbound; delete chain ip6 weft_policy forward_inbound",
        "delete table ip weft_policy; delete table ip6 weft_policy",
        "flush ruleset",
    ];
    let probe = |agents: &mut Agents| {
        let seen = agents.probe(&all_pairs(&["demo/a", "plain/c"]), &BTreeSet::new(), "UDP", 80, 0.1);
        seen.arrived.iter().filter(|pair| pair.from != pair.to).count()
    };
    let list = || lab.must("node/n1", &["nft", "list", "ruleset"]);
    for (removal, with_owner) in REMOVALS.into_iter().flat_map(|removal| [(removal, true), (removal, false)]) {
        eventually("all tables are there", SOON, || (list().matches("table ").count() >= 5).then_some(()));
        let pid = lab.node("n1")["pid"].to_string();
        run("kill", &["-STOP", &pid]);
        if !with_owner {
            run("pkill", &["-P", &pid, "-f", "^nft -i"]);
            eventually("the guard is gone", SOON, || (!list().contains("weft_guard")).then_some(()));
        }
        lab.must("node/n1", &["nft", removal]);
        let arrived = probe(agents);
        assert_eq!(arrived == 0, with_owner, "after `{removal}`, guarded {with_owner}: {arrived} arrived");
        if with_owner {
            let refused = lab.exec("node/n1", &["nft", "delete", "table", "inet", "weft_guard"]);
            assert!(!refused.status.success(), "anybody can take the guard away");
            let counted = lab.must("node/n1", &["nft", "list", "counter", "inet", "weft_guard", "rules_missing"]);
            assert!(!counted.contains("packets 0 "), "{counted}");
        }
        run("kill", &["-CONT", &pid]);
        eventually("it is as before", SOON, || (probe(agents) == 0 && list().contains("weft_guard")).then_some(()));
    }
}

/// The mesh's own filter, while its daemon is stopped: a STRICT workload takes no clear text whatever is emptied, and what would
/// ask an emptied set that keeps something closed is closed.
fn modes(lab: &Lab, agents: &mut Agents) {
    until(agents, true, "plain/c", "demo/a", "TCP", 80);
    lab.put("modes.yaml", &peer_authentication("demo", "STRICT"));
    until(agents, false, "plain/c", "demo/a", "TCP", 80);
    let strict = ["set inet weft enrolled4", "set inet weft strict4", "set inet weft local4", "chain inet weft judge4"];
    let chains = ["chain inet weft deny4", "chain inet weft forward"];
    let all = strict.into_iter().chain(chains).map(|what| (what, "plain/c", "demo/a"));
    stays_closed(lab, agents, all, false);
    lab.remove("modes.yaml");
    until(agents, true, "plain/c", "demo/a", "TCP", 80);
    until(agents, true, "demo/a", "plain/out", "TCP", 80);
    let clear = [
        ("set inet weft closed_ports4", "plain/c", "demo/a"),
        ("set inet weft keyed_enforced4", "plain/c", "demo/a"),
        ("set inet weft enrolled_enforced4", "plain/c", "demo/a"),
        ("set inet weft guarded_ranges4", "plain/c", "plain/out"),
        ("set inet weft closed_ports4", "demo/a", "plain/out"),
        ("set inet weft strict4", "demo/a", "plain/out"),
        ("set inet weft require_mesh4", "demo/a", "plain/out"),
    ];
    stays_closed(lab, agents, clear, true);
    until(agents, true, "plain/c", "demo/a", "TCP", 80);
}

/// While the daemon of n1 is stopped, nobody reaches whom they might reach (`before`) or not once something is emptied.
fn stays_closed<'a>(
    lab: &Lab,
    agents: &mut Agents,
    flushes: impl IntoIterator<Item = (&'a str, &'a str, &'a str)>,
    before: bool,
) {
    let whole = lab.must("node/n1", &["nft", "list", "table", "inet", "weft"]);
    let pid = lab.node("n1")["pid"].to_string();
    run("kill", &["-STOP", &pid]);
    for (what, from, to) in flushes {
        assert_eq!(agents.reaches(from, to, false, "TCP", 80), before, "before `flush {what}`");
        lab.must("node/n1", &["nft", &format!("flush {what}")]);
        assert!(!agents.reaches(from, to, false, "TCP", 80), "`flush {what}` opens {to} to {from}");
        let replaced = format!("table inet weft\ndelete table inet weft\n{whole}");
        lab.must("node/n1", &["sh", "-c", &format!("nft -f - <<'END'\n{replaced}\nEND")]);
    }
    run("kill", &["-CONT", &pid]);
}

/// Single elements and whole sets that somebody takes out by hand, in every table of ours, and one that somebody puts in.
fn elements(lab: &Lab) {
    let [a, a6] = lab.ips("demo/a");
    let far = lab.ip("demo/far", false);
    for (change, table, set) in [
        ("flush set inet weft keyed4".to_owned(), "inet weft", "keyed4"),
        ("flush set inet weft enrolled6".to_owned(), "inet weft", "enrolled6"),
        (format!("delete element inet weft local4 {{ {a} }}"), "inet weft", "local4"),
        ("flush set inet weft pod_cidrs4".to_owned(), "inet weft", "pod_cidrs4"),
        (format!("add element inet weft clear4 {{ {far} }}"), "inet weft", "clear4"),
        ("flush map ip weft_policy inbound_network".to_owned(), "ip weft_policy", "inbound_network"),
        (format!("delete element ip6 weft_policy outbound_network {{ {a6} }}"), "ip6 weft_policy", "outbound_network"),
        ("flush set ip weft_policy judged".to_owned(), "ip weft_policy", "judged"),
    ] {
        let what = if set.ends_with("network") { "map" } else { "set" };
        let list = || {
            let words = [&["nft", "-n", "list", what][..], &table.split(' ').collect::<Vec<_>>(), &[set]].concat();
            let text = String::from_utf8_lossy(&lab.exec("node/n1", &words).stdout).into_owned();
            text.split_once("elements = ").map(|(_, held)| held.to_owned())
        };
        let before = list();
        repaired(&change, || {
            lab.must("node/n1", &["nft", &change]);
            eventually(&format!("`{change}` is put back"), SOON, || (list() == before).then_some(()));
        });
    }
}
