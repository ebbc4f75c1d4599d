//! What can be read is read; what cannot opens nothing, is told of by its path, and leaves the rest working.

use serde_json::{Value, json};

use super::*;
use crate::authorization_policy::AuthorizationAction;
use crate::network_policy::{NetworkPeer, NetworkPort};
use crate::selector::Selector;
use crate::verdict::Direction;
use crate::workload::Protocol;

fn network(spec: Value) -> Parsed<crate::NetworkPolicy> {
    network_policy("shop", "p", &json!({ "spec": spec }))
}

fn authorization(spec: Value) -> Parsed<crate::AuthorizationPolicy> {
    authorization_policy("shop", "p", &json!({ "spec": spec }))
}

fn paths<T>(parsed: &Parsed<T>) -> Vec<&str> {
    parsed.refusals.iter().map(|refusal| refusal.path.as_str()).collect()
}

#[test]
fn directions_are_what_the_types_say_or_what_there_are_rules_for() {
    for (spec, ingress, egress) in [
        (json!({"podSelector": {}}), true, false),
        (json!({"podSelector": {}, "egress": [{}]}), true, true),
        (json!({"podSelector": {}, "egress": []}), true, false),
        (json!({"podSelector": {}, "policyTypes": ["Egress"]}), false, true),
        (json!({"podSelector": {}, "policyTypes": []}), true, false),
        (json!({"podSelector": {}, "ingress": null, "policyTypes": ["Ingress", "Egress"]}), true, true),
        (json!(null), true, false),
    ] {
        let read = network(spec.clone());
        assert_eq!((read.value.ingress.is_some(), read.value.egress.is_some()), (ingress, egress), "{spec}");
        assert!(read.refusals.is_empty(), "{spec}: {:?}", read.refusals);
    }
    // a type that is not known is taken for both: closed rather than open
    let read = network(json!({"podSelector": {}, "policyTypes": ["Inbound"]}));
    assert_eq!((read.value.ingress, read.value.egress), (Some(vec![]), Some(vec![])));
    assert_eq!(paths(&network(json!({"policyTypes": ["Inbound"]}))), ["spec.policyTypes[0]"]);
}

#[test]
fn an_empty_list_of_peers_or_ports_is_any_as_the_api_says() {
    let read = network(json!({"podSelector": {}, "ingress": [{"from": [], "ports": []}, {}, {"from": null}]}));
    let rules = read.value.ingress.unwrap();
    assert!(rules.iter().all(|rule| rule.peers.is_none() && rule.ports.is_none()), "{rules:?}");
}

/// S14, NP-15.
#[test]
fn a_peer_that_cannot_be_read_matches_nobody_and_the_others_work() {
    let good = json!({"podSelector": {"matchLabels": {"app": "b"}}});
    for (bad, path) in [
        (json!({}), ""),
        (json!({"podSelectr": {}}), ".podSelectr"),
        (json!({"ipBlock": {"cidr": "10.0.0.0/33"}}), ".ipBlock.cidr"),
        (json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/99"]}}), ".ipBlock.except[0]"),
        (json!({"ipBlock": {}}), ".ipBlock"),
        (json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}), ""),
        (json!({"podSelector": {"matchLabels": {"app": 5}}}), ".podSelector.matchLabels.app"),
        (
            json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}}),
            ".podSelector.matchExpressions[0]",
        ),
        (
            json!({"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
            ".namespaceSelector.matchExpressions[0]",
        ),
        (json!("everybody"), ""),
    ] {
        let read = network(json!({"podSelector": {}, "ingress": [{"from": [bad, good]}]}));
        let peers = read.value.ingress.as_ref().unwrap()[0].peers.clone().unwrap();
        assert!(matches!(peers.as_slice(), [NetworkPeer::Pods { namespaces: None, .. }]), "{bad}: {peers:?}");
        assert!(
            paths(&read).contains(&format!("spec.ingress[0].from[0]{path}").as_str()),
            "{bad}: {:?}",
            read.refusals
        );
    }
    // none is left: nobody, which is not anybody
    let read = network(json!({"podSelector": {}, "ingress": [{"from": [{}]}]}));
    assert_eq!(read.value.ingress.unwrap()[0].peers, Some(vec![]));
}

#[test]
fn a_port_that_cannot_be_read_matches_nothing() {
    for (port, expected) in [
        (json!({"port": 80}), Some(NetworkPort::Range(Protocol::Tcp, 80, 80))),
        (json!({"port": 80, "endPort": 90, "protocol": "UDP"}), Some(NetworkPort::Range(Protocol::Udp, 80, 90))),
        (json!({"port": "web", "protocol": "SCTP"}), Some(NetworkPort::Named(Protocol::Sctp, "web".to_owned()))),
        (json!({"protocol": "UDP"}), Some(NetworkPort::Every(Protocol::Udp))),
        (json!({}), Some(NetworkPort::Every(Protocol::Tcp))),
        (json!({"port": 0}), None),
        (json!({"port": 65_536}), None),
        (json!({"port": "80"}), None),
        (json!({"port": 80, "endPort": 79}), None),
        (json!({"port": "web", "endPort": 90}), None),
        (json!({"endPort": 90}), None),
        (json!({"port": 80, "protocol": "ICMP"}), None),
        (json!({"prot": 80}), None),
    ] {
        let read = network(json!({"podSelector": {}, "ingress": [{"ports": [port]}]}));
        let ports = read.value.ingress.unwrap()[0].ports.clone();
        assert_eq!(ports, Some(expected.iter().cloned().collect()), "{port}");
        assert_eq!(read.refusals.is_empty(), expected.is_some(), "{port}");
    }
}

#[test]
fn whom_a_policy_is_about_cannot_be_read_so_everybody_is_closed() {
    for spec in [
        json!({"podSelector": {"matchLabels": {"app": 5}}, "ingress": [{}]}),
        json!({"podSelector": [], "ingress": [{}]}),
        json!([]),
    ] {
        let read = network(spec.clone());
        assert_eq!(read.value.selector, Selector::default(), "{spec}");
        assert_eq!(read.value.ingress, Some(vec![]), "{spec}");
        assert!(!read.refusals.is_empty(), "{spec}");
    }
}

#[test]
fn an_authorization_policy_is_read_with_istios_fields() {
    let read = authorization(json!({
        "selector": {"matchLabels": {"app": "cart"}}, "action": "DENY",
        "rules": [{
            "from": [{"source": {"principals": ["td/ns/shop/sa/web"], "notNamespaces": ["dev"], "ipBlocks": ["10.0.0.1"]}}],
            "to": [{"operation": {"ports": ["80", 81], "notPorts": ["82"]}}],
        }],
    }));
    assert!(read.refusals.is_empty(), "{:?}", read.refusals);
    let policy = read.value;
    assert_eq!((policy.action, policy.direction), (AuthorizationAction::Deny, Direction::Inbound));
    let from = &policy.rules[0].from.as_ref().unwrap()[0];
    assert_eq!(from.principals, Some(["spiffe://td/ns/shop/sa/web".to_owned()].into()));
    assert_eq!(from.not_namespaces, ["dev".to_owned()].into());
    let to = &policy.rules[0].to.as_ref().unwrap()[0];
    assert_eq!((to.ports.clone(), to.not_ports.clone()), (Some([80, 81].into()), [82].into()));
}

/// ID-17: names are exact, so that a pattern is refused and never means more than it says.
#[test]
fn what_packets_cannot_show_lets_nobody_in_by_allow_and_keeps_everybody_out_by_deny() {
    for (source, path) in [
        (json!({"principals": ["td/ns/shop/sa/*"]}), "principals[0]"),
        (json!({"principals": ["td/ns/shop/sa/[a-z]"]}), "principals[0]"),
        (json!({"namespaces": ["shop%2f"]}), "namespaces[0]"),
        (json!({"requestPrincipals": ["x"]}), "requestPrincipals"),
        (json!({"ipBlocks": ["10.0.0.0/99"]}), "ipBlocks[0]"),
        (json!({"principal": ["td/ns/shop/sa/a"]}), "principal"),
        (json!({}), ""),
    ] {
        let rule = json!([{"from": [{"source": source}]}]);
        let allow = authorization(json!({"rules": rule}));
        let told = paths(&allow);
        assert!(
            told.iter().any(|told| told.starts_with("spec.rules[0].from[0].source") && told.ends_with(path)),
            "{told:?}"
        );
        let lets_in = allow.value.rules[0].from.as_ref().unwrap().iter().any(|terms| {
            let nobody = terms.principals.as_ref().is_some_and(|all| all.is_empty())
                || terms.namespaces.as_ref().is_some_and(|all| all.is_empty())
                || terms.ip_blocks.as_ref().is_some_and(|all| all.is_empty());
            !nobody
        });
        assert!(!lets_in, "{source}: {:?}", allow.value);
        let deny = authorization(json!({"action": "DENY", "rules": rule}));
        let keeps_out = match &deny.value.rules[0].from {
            None => true,
            Some(all) => all
                .iter()
                .any(|terms| terms.principals.is_none() && terms.namespaces.is_none() && terms.ip_blocks.is_none()),
        };
        assert!(keeps_out, "{source}: {:?}", deny.value);
    }
    for operation in [json!({"methods": ["GET"]}), json!({"ports": ["http"]}), json!({})] {
        let read = authorization(json!({"rules": [{"to": [{"operation": operation}]}]}));
        assert!(!read.refusals.is_empty(), "{operation}");
        let to = read.value.rules[0].to.as_ref().unwrap();
        assert!(to.iter().all(|target| target.ports.as_ref().is_some_and(|all| all.is_empty())), "{operation}: {to:?}");
    }
}

#[test]
fn a_policy_whose_action_or_selector_cannot_be_read_lets_nobody_in() {
    let rules = json!([{"from": [{"source": {"namespaces": ["shop"]}}]}]);
    for spec in [
        json!({"action": "PERMIT", "rules": rules}),
        json!({"action": "CUSTOM", "provider": {"name": "x"}, "rules": rules}),
        json!({"selector": {"matchLabels": []}, "rules": rules}),
        json!({"direction": "Sideways", "rules": rules}),
    ] {
        let read = authorization(spec.clone());
        assert_eq!(read.value.action, AuthorizationAction::Allow, "{spec}");
        assert!(read.value.rules.is_empty(), "{spec}");
        assert!(!read.refusals.is_empty(), "{spec}");
    }
}

#[test]
fn named_ports_are_found_with_their_protocol() {
    let ports = pod_ports(&json!({
        "containers": [{"ports": [{"name": "web", "containerPort": 80}, {"containerPort": 81}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]}],
        "initContainers": [
            {"restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 9}]},
            {"ports": [{"name": "gone", "containerPort": 10}]},
        ],
    }));
    let names: Vec<_> = ports.iter().map(|port| (port.name.as_str(), port.protocol, port.port)).collect();
    assert_eq!(names, [("dns", Protocol::Udp, 53), ("side", Protocol::Tcp, 9), ("web", Protocol::Tcp, 80)]);
}
