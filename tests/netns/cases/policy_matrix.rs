//! NP-01: the cases of `network_policy.jsonl` by the real binaries, on one node and across nodes, with and without keys, of
//! both families and of one alone (underlay and pods).
//!
//! Not every one of {one node, three} x {IPv4, IPv6, both} x {STRICT, PERMISSIVE}: in a lab of both families each case is
//! judged over both, and three nodes hold pairs of one node as well. What is left out is one family alone on one node, and with
//! each the other mode.
//!
//! A line is a case: `pods`, and `steps` that `do` something and then `probe`. A policy has `n`ame, `ns` (namespace), `sel`
//! (podSelector), `in` and `eg` (rules; a key that is present puts its direction into policyTypes). A rule has `peers` and
//! `ports`, missing is any; a peer `pod` and `nsl` (selectors; an absent namespace is the policy's own) or `ip` with `except`; a
//! selector is `{"k":"v"}` or `{"k":["In","v"]}`; a port has `p`rotocol and `port`. `@x/b/4` is the /4 around that pod's
//! address, `/32` exactly it. `want` says from everything allowed, in order: `-src>dst` denied, `+src>dst` allowed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::agent::{Agents, Pair, matches};
use crate::lab::Lab;

pub const CASES: &[(&str, fn())] = &[
    ("np_01_f15_u01_to_u48_on_one_node_as_permissive_members", || {
        matrix("nodes: 1", Placing::OneNode, true, "PERMISSIVE")
    }),
    ("np_01_f15_u01_to_u48_on_three_nodes_as_strict_members", || matrix("nodes: 3", Placing::Spread, true, "STRICT")),
    ("np_01_f15_u01_to_u48_on_three_nodes_with_no_member", || matrix("nodes: 3", Placing::Spread, false, "PERMISSIVE")),
    ("np_01_f15_u01_to_u48_of_ipv4_alone_as_permissive_members", || {
        matrix("nodes: 3\nfamilies: [ipv4]", Placing::Spread, true, "PERMISSIVE")
    }),
    ("np_01_f15_u01_to_u48_of_ipv6_alone_as_strict_members", || {
        matrix("nodes: 3\nfamilies: [ipv6]", Placing::Spread, true, "STRICT")
    }),
];

const DATA: &str = include_str!("../network_policy.jsonl");
const PODS: [&str; 8] = ["x/a", "x/b", "x/c", "y/a", "y/b", "y/c", "z/a", "z/b"];
/// From a written manifest to its effect everywhere, on a machine that does other things as well.
const SOON: Duration = Duration::from_secs(5);
/// Seconds that an answer may take.
const WAIT: f64 = 0.25;

#[derive(Clone, Copy)]
enum Placing {
    OneNode,
    Spread,
}

struct Matrix {
    lab: Lab,
    directory: String,
    agents: Agents,
    members: bool,
    placing: Placing,
}

fn namespace(name: &str, is_member: bool, more: &Value) -> Value {
    let mesh = if is_member { "enabled" } else { "disabled" };
    let mut labels = json!({"name": name, "weft.dev/mesh": mesh});
    extend(&mut labels, more);
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

fn pod(id: &str, node: &str, more: &Value) -> Value {
    let (namespace, name) = id.split_once('/').expect("namespace/name");
    let mut labels = json!({"pod": name});
    extend(&mut labels, more);
    let port = |number: u16, protocol: &str| json!({"name": format!("serve-{number}-{}", protocol.to_lowercase()), "containerPort": number, "protocol": protocol});
    let ports: Vec<_> = (80..84).flat_map(|number| ["TCP", "UDP", "SCTP"].map(|p| port(number, p))).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"nodeName": node, "serviceAccountName": name, "containers": [{"name": "main", "command": ["sleep", "infinity"], "ports": ports}]},
    })
}

fn extend(object: &mut Value, more: &Value) {
    object.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
}

fn node_of(id: &str, placing: Placing) -> &'static str {
    match (placing, PODS.iter().position(|pod| *pod == id).expect("a pod") % 3) {
        (Placing::OneNode, _) | (_, 0) => "n1",
        (Placing::Spread, 1) => "n2",
        (Placing::Spread, _) => "n3",
    }
}

fn documents(all: &[Value]) -> String {
    all.iter().map(|value| format!("{value}\n---\n")).collect()
}

fn matrix(config: &str, placing: Placing, members: bool, mode: &str) {
    let namespaces = ["x", "y", "z"].map(|name| namespace(name, members, &json!({})));
    let pods = PODS.map(|id| pod(id, node_of(id, placing), &json!({})));
    let scope = json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "PeerAuthentication",
        "metadata": {"name": "default", "namespace": "weft-system"}, "spec": {"mtls": {"mode": mode}},
    });
    let all: Vec<_> = namespaces.into_iter().chain(pods).chain([scope]).collect();
    let lab = Lab::up(config, &documents(&all));
    let agents = Agents::start(&lab, &PODS);
    let directory = lab.directory();
    let mut matrix = Matrix { lab, directory, agents, members, placing };
    for protocol in ["TCP", "UDP", "SCTP"] {
        matrix.settles("without policies", &PODS, protocol, 80, &[]);
    }
    for line in DATA.lines().filter(|line| line.contains("\"id\":\"U")) {
        matrix.case(&serde_json::from_str(line).expect("a case is JSON"));
    }
}

impl Matrix {
    fn case(&mut self, case: &Value) {
        let title = format!("{} {}", case["id"].as_str().unwrap_or_default(), case["title"]);
        let pods: Vec<&str> = case["pods"].as_str().expect("pods").split(' ').collect();
        let mut files = BTreeSet::new();
        let mut relabelled = false;
        for (number, step) in case["steps"].as_array().expect("steps").iter().enumerate() {
            for verb in step["do"].as_array().into_iter().flatten() {
                relabelled |= self.act(verb, &mut files);
            }
            for probe in step["probe"].as_array().expect("probes") {
                let want: Vec<_> = probe["want"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
                let port = u16::try_from(probe["port"].as_u64().expect("a port")).expect("of 16 bits");
                let protocol = probe["p"].as_str().expect("a protocol");
                self.settles(&format!("{title}, step {number}"), &pods, protocol, port, &want);
            }
        }
        for file in &files {
            std::fs::remove_file(format!("{}/{file}", self.directory)).expect("it was put there");
        }
        if relabelled {
            let namespaces = ["x", "y", "z"].map(|name| namespace(name, self.members, &json!({})));
            let pods = pods.iter().map(|id| pod(id, node_of(id, self.placing), &json!({})));
            let all: Vec<_> = namespaces.into_iter().chain(pods).collect();
            self.lab.apply(&documents(&all));
        }
    }

    /// Does what a step says; whether labels are others now.
    fn act(&self, verb: &Value, files: &mut BTreeSet<String>) -> bool {
        let text = |index: usize| verb[index].as_str().expect("a name");
        match text(0) {
            "create" | "update" => {
                let policy = self.policy(&verb[1]);
                let file =
                    format!("case-{}-{}.yaml", verb[1]["ns"].as_str().expect("ns"), verb[1]["n"].as_str().expect("n"));
                self.write(&file, &policy.to_string());
                files.insert(file);
            }
            "delete" => {
                let file = format!("case-{}-{}.yaml", text(1), text(2));
                std::fs::remove_file(format!("{}/{file}", self.directory)).expect("it was put there");
                files.remove(&file);
            }
            "labelns" => self.lab.apply(&namespace(text(1), self.members, &verb[2]).to_string()),
            "labelpod" => self.lab.apply(&pod(text(1), node_of(text(1), self.placing), &verb[2]).to_string()),
            other => panic!("no verb {other}"),
        }
        text(0).starts_with("label")
    }

    fn write(&self, file: &str, text: &str) {
        let beside = format!("{}/.{file}", self.directory);
        std::fs::write(&beside, text).expect("the directory takes files");
        std::fs::rename(&beside, format!("{}/{file}", self.directory)).expect("a rename within a folder");
    }

    fn policy(&self, short: &Value) -> Value {
        let mut spec = json!({"podSelector": selector(&short["sel"])});
        let mut types = Vec::new();
        for (key, field, peers, name) in [("in", "ingress", "from", "Ingress"), ("eg", "egress", "to", "Egress")] {
            let Some(rules) = short.get(key).and_then(Value::as_array) else { continue };
            types.push(name);
            spec[field] = rules.iter().map(|rule| self.rule(rule, peers)).collect();
        }
        spec["policyTypes"] = short.get("types").cloned().unwrap_or_else(|| json!(types));
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": short["n"], "namespace": short["ns"]}, "spec": spec,
        })
    }

    fn rule(&self, rule: &Value, peers_field: &str) -> Value {
        let mut out = Map::new();
        if let Some(peers) = rule.get("peers").and_then(Value::as_array) {
            out.insert(peers_field.to_owned(), peers.iter().flat_map(|peer| self.peers(peer)).collect());
        }
        if let Some(ports) = rule.get("ports").and_then(Value::as_array) {
            let port = |short: &Value| {
                let mut port = json!({"protocol": short.get("p").unwrap_or(&json!("TCP"))});
                for (key, field) in [("port", "port"), ("end", "endPort")] {
                    if let Some(value) = short.get(key) {
                        port[field] = value.clone();
                    }
                }
                port
            };
            out.insert("ports".to_owned(), ports.iter().map(port).collect());
        }
        Value::Object(out)
    }

    /// A peer; an ipBlock is written for each family that there is.
    fn peers(&self, peer: &Value) -> Vec<Value> {
        if let Some(cidr) = peer.get("ip").and_then(Value::as_str) {
            let except = peer.get("except").and_then(Value::as_array).cloned().unwrap_or_default();
            let block = |v6: bool| {
                let except: Vec<_> = except.iter().map(|e| self.cidr(e.as_str().expect("a range"), v6)).collect();
                json!({"ipBlock": {"cidr": self.cidr(cidr, v6), "except": except}})
            };
            return self.agents.families().map(block).collect();
        }
        let mut out = Map::new();
        for (key, field) in [("pod", "podSelector"), ("nsl", "namespaceSelector")] {
            if let Some(short) = peer.get(key) {
                out.insert(field.to_owned(), selector(short));
            }
        }
        vec![Value::Object(out)]
    }

    fn cidr(&self, text: &str, v6: bool) -> String {
        let (pod, length) = text.trim_start_matches('@').rsplit_once('/').expect("a length");
        let length = if length == "32" && v6 { "128" } else { length };
        let net: ipnet::IpNet = format!("{}/{length}", self.agents.ip(pod, v6)).parse().expect("a range");
        net.trunc().to_string()
    }

    /// Waits for the matrix that is wanted, and looks once more: it stays, and nothing arrives where nothing may.
    fn settles(&mut self, title: &str, pods: &[&str], protocol: &str, port: u16, want: &[&str]) {
        let pairs = self.agents.pairs(pods);
        let is_open = |pair: &&Pair| {
            let last = want.iter().rev().find(|entry| {
                let (from, to) = entry[1..].split_once('>').expect("src>dst");
                matches(from, &pair.from) && matches(to, &pair.to)
            });
            last.is_none_or(|entry| entry.starts_with('+'))
        };
        let open: BTreeSet<Pair> = pairs.iter().filter(is_open).cloned().collect();
        let begin = Instant::now();
        loop {
            let seen = self.agents.probe(&pairs, &open, protocol, port, WAIT);
            if seen.answered == open && seen.arrived == open {
                return;
            }
            let late = begin.elapsed() > SOON;
            let missing: Vec<_> = open.difference(&seen.answered).collect();
            let leaked: Vec<_> = seen.answered.union(&seen.arrived).filter(|pair| !open.contains(pair)).collect();
            assert!(!late, "{title}, {protocol} {port}:\nmissing {missing:?}\nleaked {leaked:?}\n{}", self.rules());
        }
    }

    fn rules(&self) -> String {
        let mut text = BTreeMap::new();
        for node in ["n1", "n2", "n3"].iter().take(if matches!(self.placing, Placing::OneNode) { 1 } else { 3 }) {
            let tables = self.lab.exec(&format!("node/{node}"), &["nft", "-n", "list", "ruleset"]);
            text.insert(*node, String::from_utf8_lossy(&tables.stdout).into_owned());
        }
        text.into_iter().map(|(node, rules)| format!("{node}:\n{rules}\n")).collect()
    }
}

fn selector(short: &Value) -> Value {
    let (mut labels, mut expressions) = (Map::new(), Vec::new());
    for (key, value) in short.as_object().expect("a selector is a map") {
        match value.as_array().map(Vec::as_slice) {
            None => drop(labels.insert(key.clone(), value.clone())),
            Some([operator, values @ ..]) => {
                let mut expression = json!({"key": key, "operator": operator});
                if !values.is_empty() {
                    expression["values"] = json!(values);
                }
                expressions.push(expression);
            }
            Some([]) => panic!("an expression needs an operator"),
        }
    }
    let mut out = Map::new();
    if !labels.is_empty() {
        out.insert("matchLabels".to_owned(), Value::Object(labels));
    }
    if !expressions.is_empty() {
        out.insert("matchExpressions".to_owned(), Value::Array(expressions));
    }
    Value::Object(out)
}
