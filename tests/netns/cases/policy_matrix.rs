//! NP-01: the cases of `network_policy.jsonl` by the real binaries: {one node, three} x {IPv4, IPv6, both} x {STRICT, PERMISSIVE},
//! and pods without keys beside them where there are both families.
//!
//! A lab is of one placing and of one choice of families; in it each case runs in two or three sets of namespaces at once, one of
//! each mode and one of no members. A step is written as one file, whose last policy is about pods that are in no case: one of two
//! ports is open to them, in turn. When the port that was closed is open on every node, the step counts everywhere, and from then
//! on nothing may arrive where the step lets nobody: not even later than the probe waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::policy_cases::{PODS, Placing, Set};
use crate::agent::{Agents, Pair};
use crate::lab::Lab;

pub const CASES: &[(&str, fn())] = &[
    ("np_01_f15_u01_to_u48_on_one_node_of_both_families", || matrix("", Placing::OneNode)),
    ("np_01_f15_u01_to_u48_on_one_node_of_ipv4_alone", || matrix("families: [ipv4]", Placing::OneNode)),
    ("np_01_f15_u01_to_u48_on_one_node_of_ipv6_alone", || matrix("families: [ipv6]", Placing::OneNode)),
    ("np_01_f15_u01_to_u48_on_three_nodes_of_both_families", || matrix("", Placing::Spread)),
    ("np_01_f15_u01_to_u48_on_three_nodes_of_ipv4_alone", || matrix("families: [ipv4]", Placing::Spread)),
    ("np_01_f15_u01_to_u48_on_three_nodes_of_ipv6_alone", || matrix("families: [ipv6]", Placing::Spread)),
];

const DATA: &str = include_str!("../network_policy.jsonl");
/// From a written manifest to its effect everywhere, on a machine that does other things as well.
const SOON: Duration = Duration::from_secs(30);
/// Seconds that an answer may take at first, and at last where one was missing.
const WAIT: [f64; 2] = [0.25, 4.0];
/// In no case: one on each of three nodes, or all on one. They come last in whatever order a node takes policies in.
const WITNESSES: [(&str, &str); 3] = [("zz/1", "n1"), ("zz/2", "n2"), ("zz/3", "n3")];
/// The ports of them that are open in turn.
const TURNS: [u16; 2] = [82, 83];

struct Matrix {
    lab: Lab,
    directory: String,
    agents: Agents,
    sets: Vec<Set>,
    placing: Placing,
    steps: usize,
}

fn documents(all: &[Value]) -> String {
    all.iter().map(|value| format!("{value}\n---\n")).collect()
}

fn matrix(families: &str, placing: Placing) {
    let sets = [("strict", Some("STRICT")), ("open", Some("PERMISSIVE")), ("out", None)];
    let count = if families.is_empty() { 3 } else { 2 };
    let sets: Vec<_> = sets.into_iter().take(count).map(|(name, mode)| Set { name, mode, placing }).collect();
    let witness = |(id, node): (&str, &str)| {
        let node = if placing == Placing::OneNode { "n1" } else { node };
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "zz", "name": &id[3..]},
            "spec": {"nodeName": node, "containers": [{"name": "main", "command": ["sleep", "infinity"]}]},
        })
    };
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "zz"}});
    let all = sets.iter().flat_map(Set::manifests).chain([namespace]).chain(WITNESSES.map(witness));
    let nodes = if placing == Placing::OneNode { 1 } else { 3 };
    let lab = Lab::up(&format!("nodes: {nodes}\n{families}"), &documents(&all.collect::<Vec<_>>()));
    let pods: Vec<_> = sets.iter().flat_map(|set| PODS.map(|pod| set.called(pod))).collect();
    let agents: Vec<_> = pods.iter().map(String::as_str).chain(WITNESSES.map(|(id, _)| id)).collect();
    let agents = Agents::start(&lab, &agents);
    let mut matrix = Matrix { directory: lab.directory(), lab, agents, sets, placing, steps: 0 };
    matrix.modes();
    for protocol in ["TCP", "UDP", "SCTP"] {
        matrix.settles("without policies", &PODS, protocol, 80, &[], false);
    }
    matrix.first_turn();
    for line in DATA.lines().filter(|line| line.contains("\"id\":\"U")) {
        matrix.case(&serde_json::from_str(line).expect("a case is JSON"));
    }
    let late = matrix.agents.late_anywhere();
    assert!(late.is_empty(), "these came through in the end, where nothing may: {late:?}");
}

impl Matrix {
    /// The control: each set has its mode, so that only who is none is refused, and only by STRICT.
    fn modes(&mut self) {
        let ends: Vec<_> = self.sets.iter().map(|set| set.called("x/a")).collect();
        let ends: Vec<_> = ends.iter().map(String::as_str).chain(WITNESSES.map(|(id, _)| id)).collect();
        let pairs = self.agents.pairs(&ends);
        let is_member = |pod: &str| pod.starts_with("strict-") || pod.starts_with("open-");
        let refused = |pair: &&Pair| !is_member(&pair.from) && pair.to.starts_with("strict-");
        let open: BTreeSet<_> = pairs.iter().filter(|pair| !refused(pair)).cloned().collect();
        self.becomes("modes", &pairs, &open, "TCP", 80, false);
    }

    fn case(&mut self, case: &Value) {
        let title = format!("{} {}", case["id"].as_str().unwrap_or_default(), case["title"]);
        let pods: Vec<&str> = case["pods"].as_str().expect("pods").split(' ').collect();
        let mut policies = BTreeMap::new();
        let mut relabelled = false;
        for (number, step) in case["steps"].as_array().expect("steps").iter().enumerate() {
            for verb in step["do"].as_array().into_iter().flatten() {
                relabelled |= self.act(verb, &mut policies);
            }
            self.write(&policies);
            for probe in step["probe"].as_array().expect("probes") {
                let want: Vec<_> = probe["want"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
                let port = u16::try_from(probe["port"].as_u64().expect("a port")).expect("of 16 bits");
                let protocol = probe["p"].as_str().expect("a protocol");
                self.settles(&format!("{title}, step {number}"), &pods, protocol, port, &want, !relabelled);
            }
        }
        if relabelled {
            let all: Vec<_> = self.sets.iter().flat_map(Set::labels).collect();
            self.lab.apply(&documents(&all));
        }
    }

    /// Does what a step says; whether labels are others now. Policies are written with the step.
    fn act(&self, verb: &Value, policies: &mut BTreeMap<[String; 2], Value>) -> bool {
        let text = |index: usize| verb[index].as_str().expect("a name").to_owned();
        let labels = match text(0).as_str() {
            "create" | "update" => {
                let key = ["ns", "n"].map(|key| verb[1][key].as_str().expect("a name").to_owned());
                policies.insert(key, verb[1].clone());
                return false;
            }
            "delete" => {
                policies.remove(&[text(1), text(2)]).expect("it is there");
                return false;
            }
            "labelns" => self.sets.iter().map(|set| set.namespace(&text(1), &verb[2])).collect::<Vec<_>>(),
            "labelpod" => self.sets.iter().map(|set| set.pod(&text(1), &verb[2])).collect(),
            other => panic!("no verb {other}"),
        };
        self.lab.apply(&documents(&labels));
        true
    }

    /// Closes one port of the witnesses, which have all been open until now.
    fn first_turn(&mut self) {
        let port = self.put(&BTreeMap::new());
        let pairs = self.agents.pairs(&WITNESSES.map(|(id, _)| id));
        let begin = Instant::now();
        let closed = TURNS.into_iter().find(|turn| *turn != port).expect("two ports");
        while !self.agents.probe(&pairs, &BTreeSet::new(), "UDP", closed, WAIT[0]).arrived.is_empty() {
            assert!(begin.elapsed() < SOON, "the first policy does not count on every node:\n{}", self.rules());
        }
        // what came through until then was not too late
        self.agents.late_anywhere();
    }

    /// Writes the policies of a step in each set, and waits until they count on every node.
    fn write(&mut self, policies: &BTreeMap<[String; 2], Value>) {
        let port = self.put(policies);
        let pairs = self.agents.pairs(&WITNESSES.map(|(id, _)| id));
        let (begin, mut wait) = (Instant::now(), WAIT[0] / 8.0);
        let all: BTreeSet<_> = pairs.iter().cloned().collect();
        while self.agents.probe(&pairs, &all, "UDP", port, wait).answered != all {
            assert!(begin.elapsed() < SOON, "step {} does not count on every node:\n{}", self.steps, self.rules());
            wait = (wait * 1.5).min(WAIT[1]);
        }
    }

    /// Writes the policies of a step in each set; the port that is open to the witnesses then.
    fn put(&mut self, policies: &BTreeMap<[String; 2], Value>) -> u16 {
        self.steps += 1;
        let port = TURNS[self.steps % TURNS.len()];
        let of_set = |set: &Set| policies.values().map(|short| set.policy(short, &self.agents)).collect::<Vec<_>>();
        let mut all: Vec<_> = self.sets.iter().flat_map(of_set).collect();
        all.push(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "zz", "namespace": "zz"},
            "spec": {"podSelector": {}, "ingress": [{"ports": [{"protocol": "UDP", "port": port}]}]},
        }));
        let beside = format!("{}/.policies", self.directory);
        std::fs::write(&beside, documents(&all)).expect("the directory takes files");
        std::fs::rename(&beside, format!("{}/policies.yaml", self.directory)).expect("a rename within a folder");
        port
    }

    /// The matrix of one probe, in each set.
    fn settles(&mut self, title: &str, pods: &[&str], protocol: &str, port: u16, want: &[&str], at_once: bool) {
        let (mut pairs, mut open) = (Vec::new(), BTreeSet::new());
        for set in &self.sets {
            let pods: Vec<_> = pods.iter().map(|pod| set.called(pod)).collect();
            let own = self.agents.pairs(&pods.iter().map(String::as_str).collect::<Vec<_>>());
            open.extend(own.iter().filter(|pair| set.is_open(pair, want)).cloned());
            pairs.extend(own);
        }
        self.becomes(title, &pairs, &open, protocol, port, at_once);
    }

    /// Waits until what is to be open is. What is not must be closed then, or `at_once`.
    fn becomes(
        &mut self,
        title: &str,
        pairs: &[Pair],
        open: &BTreeSet<Pair>,
        protocol: &str,
        port: u16,
        at_once: bool,
    ) {
        let (begin, mut wait) = (Instant::now(), WAIT[0]);
        loop {
            let seen = self.agents.probe(pairs, open, protocol, port, wait);
            let late = self.agents.late();
            let missing: Vec<_> = open.difference(&seen.answered).chain(open.difference(&seen.arrived)).collect();
            let leaked = seen.answered.union(&seen.arrived).filter(|pair| !open.contains(pair)).chain(&late);
            let leaked: Vec<_> = leaked.collect();
            if missing.is_empty() && leaked.is_empty() {
                return;
            }
            wait = (wait * 2.0).min(WAIT[1]);
            let over = begin.elapsed() > SOON || at_once && !leaked.is_empty();
            assert!(!over, "{title}, {protocol} {port}:\nmissing {missing:?}\nleaked {leaked:?}\n{}", self.rules());
        }
    }

    fn rules(&self) -> String {
        let mut text = String::new();
        for node in ["n1", "n2", "n3"].iter().take(if self.placing == Placing::OneNode { 1 } else { 3 }) {
            let tables = self.lab.exec(&format!("node/{node}"), &["nft", "-n", "list", "ruleset"]);
            text += &format!("{node}:\n{}\n", String::from_utf8_lossy(&tables.stdout));
        }
        text
    }
}
