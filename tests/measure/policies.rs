//! A world of many pods and policies, as manifests: what `scripts/measure policy` compiles itself, and gives to a lab.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use policy::{Policies, Workload, World, manifest};
use serde_json::{Value, json};

/// Namespaces that all pods are spread over.
const NAMESPACES: usize = 10;
/// Pods that one policy is about, in its namespace: one here, the others on other nodes.
const SLOTS: usize = 25;
/// Pods that each policy lets in.
pub const MEMBERS_EACH: usize = 10;
/// The node whose workloads are judged.
pub const HERE: &str = "n1";

/// So many pods, 250 of them [`HERE`], and so many policies. Each policy selects one slot of a namespace, and lets ten pods
/// in at a port of its own, by a selector that no other policy has.
#[derive(Clone, Copy)]
pub struct Load {
    pub pods: usize,
    pub policies: usize,
}

impl Load {
    /// Both addresses of a pod.
    pub fn addresses(pod: usize) -> [IpAddr; 2] {
        let number = u16::try_from(pod + 256).expect("a few thousand");
        let [high, low] = number.to_be_bytes();
        [Ipv4Addr::new(10, 200, high, low).into(), Ipv6Addr::new(0xfd00, 200, 0, 0, 0, 0, 0, number).into()]
    }

    fn namespace(number: usize) -> String {
        format!("load{}", number % NAMESPACES)
    }

    fn labels(&self, pod: usize) -> Value {
        let groups = self.pods / MEMBERS_EACH;
        json!({"slot": (pod / NAMESPACES % SLOTS).to_string(), "group": (pod % groups).to_string()})
    }

    fn node(pod: usize) -> String {
        if pod < NAMESPACES * SLOTS { HERE.to_owned() } else { format!("far{}", pod % 3) }
    }

    /// Manifests of namespaces and pods; they are on nodes that nobody runs, except those [`HERE`].
    pub fn world_manifests(&self) -> Vec<Value> {
        let namespaces = (0..NAMESPACES).map(|number| {
            let labels = json!({"weft.dev/mesh": "disabled"});
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": Self::namespace(number), "labels": labels}})
        });
        let pods = (0..self.pods).map(|pod| {
            let ips: Vec<_> = Self::addresses(pod).iter().map(|ip| json!({"ip": ip})).collect();
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": format!("p{pod}"), "namespace": Self::namespace(pod), "labels": self.labels(pod)},
                "spec": {"nodeName": Self::node(pod), "containers": [{"name": "main"}]},
                "status": {"phase": "Running", "podIPs": ips},
            })
        });
        namespaces.chain(pods).collect()
    }

    /// The manifest of a policy; of another `version` it lets another ten in.
    pub fn policy(&self, number: usize, version: usize) -> Value {
        let groups = self.pods / MEMBERS_EACH;
        let (group, slot) = ((number / 250 * 37 + number * 7 + version) % groups, number / NAMESPACES % SLOTS);
        let values = json!([group.to_string(), format!("only-{number}")]);
        let peer = json!({"namespaceSelector": {}, "podSelector": {"matchExpressions": [{"key": "group", "operator": "In", "values": values}]}});
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": format!("policy{number}"), "namespace": Self::namespace(number)},
            "spec": {
                "podSelector": {"matchLabels": {"slot": slot.to_string()}},
                "ingress": [{"from": [peer], "ports": [{"port": 1000 + number % 50_000}]}],
            },
        })
    }

    pub fn policy_manifests(&self) -> Vec<Value> {
        (0..self.policies).map(|number| self.policy(number, 0)).collect()
    }

    /// The same, as the compiler takes it.
    pub fn policies(&self) -> Policies {
        let all = (0..self.policies).map(|number| self.parsed(number, 0).into());
        Policies { network: all.collect(), ..Policies::default() }
    }

    pub fn parsed(&self, number: usize, version: usize) -> policy::NetworkPolicy {
        let text = self.policy(number, version);
        let name = |field: &str| text["metadata"][field].as_str().expect("a name").to_owned();
        let parsed = manifest::network_policy(&name("namespace"), &name("name"), &text);
        assert!(parsed.refusals.is_empty(), "{:?}", parsed.refusals);
        parsed.value
    }

    pub fn world(&self) -> World {
        let workload = |pod: usize| Workload {
            namespace: Self::namespace(pod),
            name: format!("p{pod}"),
            labels: serde_json::from_value(self.labels(pod)).expect("texts"),
            addresses: Self::addresses(pod).into(),
            node: Some(Self::node(pod)),
            ..Workload::default()
        };
        World { workloads: (0..self.pods).map(workload).collect(), ..World::default() }
    }
}

/// Manifests as one file.
pub fn documents(all: &[Value]) -> String {
    all.iter().map(|value| format!("{value}\n---\n")).collect()
}
