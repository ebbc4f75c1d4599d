//! The cases of `network_policy.jsonl` as manifests: a set of namespaces that all of them can be written for.
//!
//! A line is a case: `pods`, and `steps` that `do` something and then `probe`. A policy has `n`ame, `ns` (namespace), `sel`
//! (podSelector), `in` and `eg` (rules; a key that is present puts its direction into policyTypes). A rule has `peers` and
//! `ports`, missing is any; a peer `pod` and `nsl` (selectors; an absent namespace is the policy's own) or `ip` with `except`; a
//! selector is `{"k":"v"}` or `{"k":["In","v"]}`; a port has `p`rotocol and `port`. `@x/b/4` is the /4 around that pod's
//! address, `/32` exactly it. `want` says from everything allowed, in order: `-src>dst` denied, `+src>dst` allowed.

use serde_json::{Map, Value, json};

use crate::agent::{Agents, Pair, matches};

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
pub(super) const PODS: [&str; 8] = ["x/a", "x/b", "x/c", "y/a", "y/b", "y/c", "z/a", "z/b"];

/// Where the pods of a case are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Placing {
    OneNode,
    Spread,
}

impl Placing {
    fn node_of(self, id: &str) -> &'static str {
        match (self, PODS.iter().position(|pod| *pod == id).expect("a pod") % 3) {
            (Self::OneNode, _) | (_, 0) => "n1",
            (Self::Spread, 1) => "n2",
            (Self::Spread, _) => "n3",
        }
    }
}

/// Namespaces x, y and z of a mode, or of no members; each is called after the set in the cluster.
#[derive(Clone, Copy)]
pub(super) struct Set {
    pub name: &'static str,
    /// The mode of its members; without one there are none.
    pub mode: Option<&'static str>,
    pub placing: Placing,
}

impl Set {
    /// What the cluster calls a pod or a namespace of a case.
    pub fn called(&self, name: &str) -> String {
        format!("{}-{name}", self.name)
    }

    /// Everything that is there before any case.
    pub fn manifests(&self) -> Vec<Value> {
        let mode = |name: &str| {
            let namespace = self.called(name);
            json!({
                "apiVersion": "weft.dev/v1alpha1", "kind": "PeerAuthentication",
                "metadata": {"name": "default", "namespace": namespace}, "spec": {"mtls": {"mode": self.mode}},
            })
        };
        let modes = NAMESPACES.iter().filter(|_| self.mode.is_some()).map(|name| mode(name));
        self.labels().into_iter().chain(modes).collect()
    }

    /// Namespaces and pods with the labels that cases begin with.
    pub fn labels(&self) -> Vec<Value> {
        let namespaces = NAMESPACES.iter().map(|name| self.namespace(name, &json!({})));
        namespaces.chain(PODS.iter().map(|id| self.pod(id, &json!({})))).collect()
    }

    pub fn namespace(&self, name: &str, more: &Value) -> Value {
        let mesh = if self.mode.is_some() { "enabled" } else { "disabled" };
        let mut labels = json!({"name": name, "weft.dev/mesh": mesh});
        extend(&mut labels, more);
        let metadata = json!({"name": self.called(name), "labels": labels});
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    }

    pub fn pod(&self, id: &str, more: &Value) -> Value {
        let (namespace, name) = id.split_once('/').expect("namespace/name");
        let mut labels = json!({"pod": name});
        extend(&mut labels, more);
        let port = |number: u16, protocol: &str| json!({"name": format!("serve-{number}-{}", protocol.to_lowercase()), "containerPort": number, "protocol": protocol});
        let ports: Vec<_> = (80..84).flat_map(|number| ["TCP", "UDP", "SCTP"].map(|p| port(number, p))).collect();
        let containers = json!([{"name": "main", "command": ["sleep", "infinity"], "ports": ports}]);
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": self.called(namespace), "labels": labels},
            "spec": {"nodeName": self.placing.node_of(id), "serviceAccountName": name, "containers": containers},
        })
    }

    /// Whether a pair of this set is to be open, by a list of `want`.
    pub fn is_open(&self, pair: &Pair, want: &[&str]) -> bool {
        let own = |name: &str| name[self.name.len() + 1..].to_owned();
        let (source, destination) = (own(&pair.from), own(&pair.to));
        let last = want.iter().rev().find(|entry| {
            let (from, to) = entry[1..].split_once('>').expect("src>dst");
            matches(from, &source) && matches(to, &destination)
        });
        last.is_none_or(|entry| entry.starts_with('+'))
    }

    /// The policy that is written short.
    pub fn policy(&self, short: &Value, agents: &Agents) -> Value {
        let mut spec = json!({"podSelector": selector(&short["sel"])});
        let mut types = Vec::new();
        for (key, field, peers, name) in [("in", "ingress", "from", "Ingress"), ("eg", "egress", "to", "Egress")] {
            let Some(rules) = short.get(key).and_then(Value::as_array) else { continue };
            types.push(name);
            spec[field] = rules.iter().map(|rule| self.rule(rule, peers, agents)).collect();
        }
        spec["policyTypes"] = short.get("types").cloned().unwrap_or_else(|| json!(types));
        let namespace = self.called(short["ns"].as_str().expect("ns"));
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": short["n"], "namespace": namespace}, "spec": spec,
        })
    }

    fn rule(&self, rule: &Value, peers_field: &str, agents: &Agents) -> Value {
        let mut out = Map::new();
        if let Some(peers) = rule.get("peers").and_then(Value::as_array) {
            out.insert(peers_field.to_owned(), peers.iter().flat_map(|peer| self.peers(peer, agents)).collect());
        }
        if let Some(ports) = rule.get("ports").and_then(Value::as_array) {
            out.insert("ports".to_owned(), ports.iter().map(port).collect());
        }
        Value::Object(out)
    }

    /// A peer; an ipBlock is written for each family that there is.
    fn peers(&self, peer: &Value, agents: &Agents) -> Vec<Value> {
        if let Some(cidr) = peer.get("ip").and_then(Value::as_str) {
            let except = peer.get("except").and_then(Value::as_array).cloned().unwrap_or_default();
            let block = |v6: bool| {
                let range = |text: &str| self.cidr(text, v6, agents);
                let except: Vec<_> = except.iter().map(|e| range(e.as_str().expect("a range"))).collect();
                json!({"ipBlock": {"cidr": range(cidr), "except": except}})
            };
            return agents.families().map(block).collect();
        }
        let mut out = Map::new();
        for (key, field) in [("pod", "podSelector"), ("nsl", "namespaceSelector")] {
            if let Some(short) = peer.get(key) {
                out.insert(field.to_owned(), selector(short));
            }
        }
        vec![Value::Object(out)]
    }

    fn cidr(&self, text: &str, v6: bool, agents: &Agents) -> String {
        let (pod, length) = text.trim_start_matches('@').rsplit_once('/').expect("a length");
        let length = if length == "32" && v6 { "128" } else { length };
        let net: ipnet::IpNet = format!("{}/{length}", agents.ip(&self.called(pod), v6)).parse().expect("a range");
        net.trunc().to_string()
    }
}

fn extend(object: &mut Value, more: &Value) {
    object.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
}

fn port(short: &Value) -> Value {
    let mut port = json!({"protocol": short.get("p").unwrap_or(&json!("TCP"))});
    for (key, field) in [("port", "port"), ("end", "endPort")] {
        if let Some(value) = short.get(key) {
            port[field] = value.clone();
        }
    }
    port
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
