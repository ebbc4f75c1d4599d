//! The cases of Kubernetes' own suite (`tests/netns/network_policy.jsonl`), re-told as manifests and expected cells.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// The data: one case a line.
pub(crate) const CASES: &str = include_str!("../../../../../tests/netns/network_policy.jsonl");

/// What there is after some steps of a case, and what is expected then.
pub(crate) struct Stage {
    /// `U01 default deny … (IPv4)`.
    pub(crate) title: String,
    /// Namespaces, pods and policies.
    pub(crate) manifests: Vec<Value>,
    /// What is asked.
    pub(crate) probes: Vec<Probe>,
}

/// One port, and who may reach it.
pub(crate) struct Probe {
    /// `TCP`, `UDP`, `SCTP`.
    pub(crate) protocol: String,
    /// The port.
    pub(crate) port: u16,
    /// Source, destination, and whether it is allowed. Nobody is asked about himself.
    pub(crate) cells: Vec<(String, String, bool)>,
}

#[derive(Default)]
struct Cluster {
    is_v6: bool,
    pods: BTreeMap<String, BTreeMap<String, String>>,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    policies: BTreeMap<(String, String), Value>,
}

/// The stages of one case on one family.
pub(crate) fn stages(line: &str, is_v6: bool) -> Vec<Stage> {
    let case: Value = serde_json::from_str(line).unwrap();
    let mut cluster = Cluster { is_v6, ..Cluster::default() };
    for pod in text(&case["pods"]).split(' ') {
        let (namespace, name) = pod.split_once('/').unwrap();
        cluster.pods.insert(pod.to_owned(), [("pod".to_owned(), name.to_owned())].into());
        let labels = [("name".to_owned(), namespace.to_owned())];
        cluster.namespaces.insert(namespace.to_owned(), labels.into());
    }
    let family = if is_v6 { "IPv6" } else { "IPv4" };
    let mut stages = Vec::new();
    for (number, step) in case["steps"].as_array().unwrap().iter().enumerate() {
        step["do"].as_array().unwrap().iter().for_each(|verb| cluster.change(verb));
        stages.push(Stage {
            title: format!("{} {}, step {number} ({family})", text(&case["id"]), text(&case["title"])),
            manifests: cluster.manifests(),
            probes: step["probe"].as_array().unwrap().iter().map(|probe| cluster.probe(probe)).collect(),
        });
    }
    stages
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("a text is expected in the data, not {value}"))
}

impl Cluster {
    fn change(&mut self, verb: &Value) {
        let add = |labels: &mut BTreeMap<String, String>, more: &Value| {
            labels.extend(more.as_object().unwrap().iter().map(|(key, value)| (key.clone(), text(value).to_owned())));
        };
        match text(&verb[0]) {
            "create" | "update" => {
                let policy = self.policy(&verb[1]);
                self.policies.insert((text(&verb[1]["ns"]).to_owned(), text(&verb[1]["n"]).to_owned()), policy);
            }
            "delete" => {
                self.policies.remove(&(text(&verb[1]).to_owned(), text(&verb[2]).to_owned())).unwrap();
            }
            "labelpod" => add(self.pods.get_mut(text(&verb[1])).unwrap(), &verb[2]),
            "labelns" => add(self.namespaces.get_mut(text(&verb[1])).unwrap(), &verb[2]),
            other => panic!("the data has a verb that is not known: {other}"),
        }
    }

    fn manifests(&self) -> Vec<Value> {
        let namespace = |(name, labels): (&String, &BTreeMap<String, String>)| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        let ports: Vec<Value> = [80, 81, 82, 83]
            .iter()
            .flat_map(|port| ["TCP", "UDP", "SCTP"].map(|protocol| (port, protocol)))
            .map(|(port, protocol)| {
                let name = format!("serve-{port}-{}", protocol.to_lowercase());
                json!({"name": name, "containerPort": port, "protocol": protocol})
            })
            .collect();
        let pod = |(id, labels): (&String, &BTreeMap<String, String>)| {
            let (namespace, name) = id.split_once('/').unwrap();
            // both, so that the other family is there and must not matter
            let ips = json!([{"ip": address(id, false)}, {"ip": address(id, true)}]);
            json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": name, "labels": labels},
                "spec": {"containers": [{"name": "serve", "ports": ports}]}, "status": {"podIPs": ips},
            })
        };
        let policies = self.policies.values().cloned();
        self.namespaces.iter().map(namespace).chain(self.pods.iter().map(pod)).chain(policies).collect()
    }

    fn policy(&self, told: &Value) -> Value {
        let mut spec = json!({"podSelector": selector(&told["sel"])});
        let mut types = Vec::new();
        for (key, list, peers, name) in [("in", "ingress", "from", "Ingress"), ("eg", "egress", "to", "Egress")] {
            if let Some(rules) = told.get(key) {
                types.push(name);
                spec[list] = rules.as_array().unwrap().iter().map(|rule| self.rule(rule, peers)).collect();
            }
        }
        spec["policyTypes"] = told.get("types").cloned().unwrap_or_else(|| json!(types));
        let metadata = json!({"namespace": told["ns"], "name": told["n"]});
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec})
    }

    fn rule(&self, told: &Value, peers: &str) -> Value {
        let mut rule = json!({});
        if let Some(list) = told["peers"].as_array() {
            rule[peers] = list.iter().map(|peer| self.peer(peer)).collect();
        }
        if let Some(list) = told["ports"].as_array() {
            let names = [("p", "protocol"), ("port", "port"), ("end", "endPort")];
            let port = |told: &Value| {
                let fields = names.iter().filter_map(|(key, name)| Some(((*name).to_owned(), told.get(key)?.clone())));
                Value::Object(fields.collect::<Map<_, _>>())
            };
            rule["ports"] = list.iter().map(port).collect();
        }
        rule
    }

    fn peer(&self, told: &Value) -> Value {
        if let Some(block) = told.get("ip") {
            let except = told["except"].as_array().into_iter().flatten();
            let except: Vec<_> = except.map(|hole| self.cidr(text(hole))).collect();
            return json!({"ipBlock": {"cidr": self.cidr(text(block)), "except": except}});
        }
        let fields = [("pod", "podSelector"), ("nsl", "namespaceSelector")];
        let field = |(key, name): &(&str, &str)| Some(((*name).to_owned(), selector(told.get(key)?)));
        Value::Object(fields.iter().filter_map(field).collect())
    }

    /// `@x/b/4`: the network of this length that the pod is in; one address stays one on IPv6.
    fn cidr(&self, told: &str) -> String {
        let Some((pod, length)) = told.strip_prefix('@').and_then(|rest| rest.rsplit_once('/')) else {
            return told.to_owned();
        };
        let length = if self.is_v6 && length == "32" { "128" } else { length };
        format!("{}/{length}", address(pod, self.is_v6))
    }

    fn probe(&self, told: &Value) -> Probe {
        let mut cells = Vec::new();
        for from in self.pods.keys() {
            for to in self.pods.keys().filter(|to| *to != from) {
                let wants = told["want"].as_array().unwrap().iter().map(text);
                let mut said = wants.filter(|want| {
                    let (source, destination) = want[1..].split_once('>').unwrap();
                    is_meant(source, from) && is_meant(destination, to)
                });
                cells.push((from.clone(), to.clone(), said.next_back().is_none_or(|want| want.starts_with('+'))));
            }
        }
        let port = u16::try_from(told["port"].as_u64().unwrap()).unwrap();
        Probe { protocol: text(&told["p"]).to_owned(), port, cells }
    }
}

/// `*`, `x/*`, `*/a`, `x/a`.
fn is_meant(glob: &str, pod: &str) -> bool {
    if glob == "*" {
        return true;
    }
    let (parts, names) = (glob.split_once('/').unwrap(), pod.split_once('/').unwrap());
    (parts.0 == "*" || parts.0 == names.0) && (parts.1 == "*" || parts.1 == names.1)
}

/// Where a pod of the cases is.
pub(crate) fn address(pod: &str, is_v6: bool) -> String {
    let (namespace, name) = pod.split_once('/').unwrap();
    let network = 1 + "xyzw".find(namespace).unwrap();
    let host = 10 + "abcd".find(name).unwrap();
    if is_v6 { format!("fd00:{network}::{host}") } else { format!("10.{network}.0.{host}") }
}

fn selector(told: &Value) -> Value {
    let (mut labels, mut expressions) = (Map::new(), Vec::new());
    for (key, value) in told.as_object().unwrap() {
        match value.as_array().map(Vec::as_slice) {
            None => {
                labels.insert(key.clone(), value.clone());
            }
            Some([operator]) => expressions.push(json!({"key": key, "operator": operator})),
            Some([operator, values @ ..]) => {
                expressions.push(json!({"key": key, "operator": operator, "values": values}));
            }
            Some([]) => panic!("an expression without an operator"),
        }
    }
    json!({"matchLabels": labels, "matchExpressions": expressions})
}
