//! Manifests that somebody got wrong: whatever is refused never opens anything (FZ-07), and both judges agree on the rest
//! (FZ-13).

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::compile::tests::naive;
use crate::{Compiler, Flow};

/// The pods, nodes and namespaces that policies are held against here.
fn world() -> Vec<Value> {
    let pod = |namespace: &str, name: &str, ip: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name, "labels": {"app": name, "weft.dev/mesh": "enabled"}},
            "spec": {"serviceAccountName": name, "containers": [{"ports": [{"name": "web", "containerPort": 80}]}]},
            "status": {"podIP": ip},
        })
    };
    vec![
        pod("x", "a", "10.0.0.1"),
        pod("x", "b", "10.0.0.2"),
        pod("y", "a", "10.0.1.1"),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "y", "labels": {"team": "t"}}}),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": {"role": "r"}},
            "status": {"addresses": [{"address": "192.0.2.9"}]}}),
    ]
}

/// Good policies that use every field, each alone.
fn samples() -> Vec<Value> {
    let selector =
        json!({"matchLabels": {"app": "a"}, "matchExpressions": [{"key": "app", "operator": "In", "values": ["a"]}]});
    let source = json!({
        "principals": ["td/ns/x/sa/b", "td/ns/y/sa/a"], "notPrincipals": ["td/ns/x/sa/c"], "namespaces": ["x", "y"],
        "notNamespaces": ["z"], "ipBlocks": ["10.0.0.0/8"], "notIpBlocks": ["10.0.1.1"],
    });
    let rules =
        json!([{"from": [{"source": source}], "to": [{"operation": {"ports": ["80", "81"], "notPorts": ["81"]}}]}]);
    let authorization = |action: &str| {
        json!({"apiVersion": "weft.dev/v1alpha1", "kind": "AuthorizationPolicy", "metadata": {"namespace": "x", "name": "p"},
            "spec": {"selector": selector, "action": action, "rules": rules}})
    };
    let peers = json!([
        {"podSelector": selector}, {"namespaceSelector": {"matchLabels": {"team": "t"}}, "podSelector": {}},
        {"ipBlock": {"cidr": "10.0.0.0/16", "except": ["10.0.0.2/32"]}},
    ]);
    let ports = json!([{"port": 80, "endPort": 81, "protocol": "TCP"}, {"port": "web"}, {"protocol": "UDP"}]);
    let cluster = |action: &str| {
        let subject = json!({"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "a"}}}});
        let protocols =
            json!([{"tcp": {"destinationPort": {"number": 80}}}, {"udp": {}}, {"destinationNamedPort": "web"}]);
        json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": "p"},
            "spec": {"tier": "Admin", "priority": 5, "subject": subject,
                "ingress": [{"action": action, "from": [{"namespaces": {"matchLabels": {"team": "t"}}}], "protocols": protocols}],
                "egress": [{"action": action, "to": [{"networks": ["10.0.0.0/24"]}, {"nodes": {}}]}]}})
    };
    vec![
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": "x", "name": "p"},
            "spec": {"podSelector": selector, "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": peers, "ports": ports}], "egress": [{"to": peers, "ports": ports}]}}),
        authorization("ALLOW"),
        authorization("DENY"),
        authorization("AUDIT"),
        cluster("Accept"),
        cluster("Deny"),
        cluster("Pass"),
    ]
}

/// What is refused of a policy, and which flows of the world pass; both judges are asked.
fn passing(policy: &Value) -> (Vec<Refusal>, Vec<bool>) {
    let mut gatherer = Gatherer::new("td", "root");
    for manifest in world() {
        gatherer.add(&manifest);
    }
    let refusals = gatherer.add(policy);
    let gathered = gatherer.finish();
    let rules = Compiler::default().compile(&gathered.policies, &gathered.world, None);
    let ends =
        ["10.0.0.1", "10.0.0.2", "10.0.1.1", "192.0.2.9", "203.0.113.1"].map(|ip| rules.end(ip.parse().unwrap()));
    let mut passing = Vec::new();
    for source in &ends {
        for destination in &ends {
            for (protocol, port) in [(6, Some(80)), (6, Some(81)), (17, Some(53)), (1, None)] {
                let (source, destination) = (source.clone(), destination.clone());
                let flow = Flow { source, destination, protocol, port, proven: true };
                let is_allowed = rules.judge(&flow).is_allowed();
                let naive = naive::is_allowed(&gathered.policies, &gathered.world, &flow);
                assert_eq!(is_allowed, naive, "the judges differ on {flow:?} under {policy}");
                passing.push(is_allowed);
            }
        }
    }
    (refusals, passing)
}

/// Every place in a value, as a JSON pointer.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(key, value)| pointers(value, &format!("{at}/{key}"), found));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, value)| pointers(value, &format!("{at}/{index}"), found));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// NP-15, FZ-07: each place of each policy, replaced by each kind of nonsense.
#[test]
fn whatever_is_refused_never_opens() {
    let nonsense =
        [json!(7), json!(-1), json!(true), json!("?"), json!("*"), json!([7]), json!({"nonsense": 1}), json!([[]])];
    let mut refused = 0;
    for sample in samples() {
        let (refusals, before) = passing(&sample);
        assert_eq!(refusals, [], "{sample}");
        let mut places = Vec::new();
        pointers(&sample["spec"], "/spec", &mut places);
        for (place, nonsense) in places.iter().flat_map(|place| nonsense.iter().map(move |bad| (place, bad))) {
            let mut broken = sample.clone();
            *broken.pointer_mut(place).unwrap() = nonsense.clone();
            let (refusals, after) = passing(&broken);
            if refusals.is_empty() {
                continue;
            }
            refused += 1;
            assert!(
                before.iter().zip(&after).all(|(before, after)| *before || !after),
                "{place} = {nonsense} opened something: {refusals:?}\n{sample}"
            );
        }
        for place in places.iter().filter(|place| sample.pointer(place).is_some_and(Value::is_object)) {
            let mut broken = sample.clone();
            broken.pointer_mut(place).unwrap()["nonsens"] = json!({});
            let (_, after) = passing(&broken);
            if !place.ends_with("matchLabels") {
                assert!(before.iter().zip(&after).all(|(before, after)| *before || !after), "{place} opened something");
            }
        }
    }
    assert!(refused > 500, "only {refused} were refused");
}

/// Field names of all the kinds.
const WORDS: &str = "ingress egress podSelector namespaceSelector ipBlock cidr except from to ports port protocol endPort matchLabels matchExpressions key operator values policyTypes selector action rules source operation principals notPrincipals namespaces ipBlocks notPorts when methods tier priority subject pods networks protocols tcp destinationPort number direction destination app";

/// Values of all the kinds.
const TEXTS: [&str; 14] = [
    "a",
    "*",
    "TCP",
    "In",
    "Exists",
    "10.0.0.0/8",
    "fd00::/8",
    "Ingress",
    "Deny",
    "DENY",
    "ALLOW",
    "Outbound",
    "td/ns/x/sa/b",
    "",
];

/// JSON of the words that the kinds use, in places where they may or may not belong.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![Just(0i64), Just(80), Just(65_536), any::<i64>()].prop_map(Value::from),
        proptest::sample::select(TEXTS.to_vec()).prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 48, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(
                proptest::sample::select(WORDS.split(' ').collect::<Vec<_>>()),
                inner,
                0..5
            )
            .prop_map(|fields| fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_words_in_any_place_are_read_or_refused_and_judged_alike(
        kind in 0usize..7, place in any::<proptest::sample::Index>(), more in value(),
    ) {
        let mut manifest = samples().swap_remove(kind);
        let mut places = Vec::new();
        pointers(&manifest, "", &mut places);
        places.retain(|place| place.starts_with("/spec"));
        *manifest.pointer_mut(&places[place.index(places.len())]).unwrap() = more;
        let (refusals, _) = passing(&manifest);
        for refusal in refusals {
            prop_assert!(refusal.path.starts_with("spec"), "{refusal}");
            prop_assert!(refusal.to_string().len() < 400, "{refusal}");
        }
    }
}
