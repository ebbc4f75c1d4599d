//! U01 to U48 and the S rules that a model can show, from manifests to verdicts, by both judges.

mod script;

use serde_json::{Value, json};

use self::script::{CASES, address, stages};
use super::*;
use crate::compile::tests::naive;
use crate::{Compiler, End, Flow, Reason, RuleSet, Verdict, WorkloadId};

/// Manifests as read and compiled; all of them must be good.
fn good(manifests: &[Value]) -> (Gathered, RuleSet) {
    let mut gatherer = Gatherer::new("td", "root");
    for manifest in manifests {
        assert_eq!(gatherer.add(manifest), [], "{manifest}");
    }
    let gathered = gatherer.finish();
    let rules = Compiler::default().compile(&gathered.policies, &gathered.world, None);
    (gathered, rules)
}

/// The verdict of both judges, which must be one.
fn judge((gathered, rules): &(Gathered, RuleSet), flow: &Flow) -> Verdict {
    let verdict = rules.judge(flow);
    let naive = naive::is_allowed(&gathered.policies, &gathered.world, flow);
    assert_eq!(verdict.is_allowed(), naive, "the judges differ: {flow:?} {verdict:?}");
    verdict
}

fn flow(rules: &RuleSet, from: &str, to: &str, protocol: u8, port: Option<u16>) -> Flow {
    let end = |text: &str| rules.end(text.parse().unwrap());
    Flow { source: end(from), destination: end(to), protocol, port, proven: true }
}

fn tcp(read: &(Gathered, RuleSet), from: &str, to: &str) -> Verdict {
    judge(read, &flow(&read.1, from, to, 6, Some(80)))
}

#[test]
fn np_01_the_cases_of_kubernetes_in_both_families() {
    let mut count = 0;
    for line in CASES.lines() {
        for is_v6 in [false, true] {
            for stage in stages(line, is_v6) {
                let read = good(&stage.manifests);
                for probe in &stage.probes {
                    let protocol = crate::Protocol::of_name(&probe.protocol).unwrap().number();
                    for (from, to, expected) in &probe.cells {
                        let (source, destination) = (address(from, is_v6), address(to, is_v6));
                        let flow = flow(&read.1, &source, &destination, protocol, Some(probe.port));
                        let verdict = judge(&read, &flow);
                        assert_eq!(verdict.is_allowed(), *expected, "{}: {from} -> {to}: {verdict:?}", stage.title);
                        count += 1;
                    }
                }
            }
        }
    }
    assert!(CASES.lines().count() == 48 && count > 900, "only {count} cells were judged");
}

fn namespace(name: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

fn pod(id: &str, ip: &str, more: Value) -> Value {
    let (namespace, name) = id.split_once('/').unwrap();
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": {"pod": name, "weft.dev/mesh": "enabled"}},
        "spec": {"nodeName": "n1", "serviceAccountName": name}, "status": {"podIP": ip},
    });
    for (pointer, value) in more.as_object().into_iter().flatten() {
        let (at, key) = pointer.split_once('.').unwrap();
        pod[at][key] = value.clone();
    }
    pod
}

fn policy(namespace: &str, name: &str, spec: Value) -> Value {
    let metadata = json!({"namespace": namespace, "name": name});
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec})
}

fn authorization(name: &str, spec: Value) -> Value {
    let metadata = json!({"namespace": "x", "name": name});
    json!({"apiVersion": "weft.dev/v1alpha1", "kind": "AuthorizationPolicy", "metadata": metadata, "spec": spec})
}

fn node(name: &str, ip: &str) -> Value {
    let status = json!({"addresses": [{"type": "InternalIP", "address": ip}]});
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": status})
}

fn closed() -> Value {
    json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})
}

#[test]
fn s1_a_reply_is_its_connections_and_the_way_back_is_not_open() {
    let out = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [],
        "egress": [{"to": [{"namespaceSelector": {}}], "ports": [{"port": 80}]}]});
    let read = good(&[pod("x/a", "10.0.0.1", json!({})), pod("y/a", "10.0.0.2", json!({})), policy("x", "p", out)]);
    assert!(tcp(&read, "10.0.0.1", "10.0.0.2").is_allowed());
    assert_eq!(tcp(&read, "10.0.0.2", "10.0.0.1").reason, Reason::Isolated);
}

#[test]
fn s2_s3_a_pod_keeps_itself_and_its_own_node_and_no_other_node() {
    let read = good(&[
        pod("x/a", "10.0.0.1", json!({})),
        node("n1", "192.0.2.1"),
        node("n2", "192.0.2.2"),
        policy("x", "p", closed()),
    ]);
    assert_eq!(tcp(&read, "10.0.0.1", "10.0.0.1").reason, Reason::Itself);
    assert_eq!(tcp(&read, "192.0.2.1", "10.0.0.1").reason, Reason::OwnNode);
    assert_eq!(tcp(&read, "10.0.0.1", "192.0.2.1").reason, Reason::OwnNode);
    assert_eq!(tcp(&read, "192.0.2.2", "10.0.0.1").reason, Reason::Isolated);
}

#[test]
fn s7_default_deny_is_about_every_protocol() {
    let read =
        good(&[pod("x/a", "10.0.0.1", json!({})), pod("y/a", "10.0.0.2", json!({})), policy("x", "p", closed())]);
    for protocol in [1, 2, 6, 17, 47, 50, 132, 253] {
        let flow = flow(&read.1, "10.0.0.2", "10.0.0.1", protocol, None);
        assert!(!judge(&read, &flow).is_allowed(), "{protocol}");
    }
}

#[test]
fn s10_s11_a_host_network_pod_is_its_node_and_an_ended_one_is_nobody() {
    let only_b = json!({"podSelector": {"matchLabels": {"pod": "a"}}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"pod": "b"}}}]}]});
    for (more, expected) in [
        (json!({}), true),
        (json!({"spec.hostNetwork": true}), false),
        (json!({"status.phase": "Succeeded"}), false),
        (json!({"status.phase": "Failed"}), false),
    ] {
        let read = good(&[
            pod("x/a", "10.0.0.1", json!({})),
            pod("x/b", "10.0.0.2", more.clone()),
            policy("x", "p", only_b.clone()),
        ]);
        assert_eq!(tcp(&read, "10.0.0.2", "10.0.0.1").is_allowed(), expected, "{more}");
    }
    // its address is somebody else's now: only the live pod's labels count
    let read = good(&[
        pod("x/a", "10.0.0.1", json!({})),
        pod("x/b", "10.0.0.2", json!({"status.phase": "Succeeded"})),
        pod("x/c", "10.0.0.2", json!({})),
        policy("x", "p", only_b),
    ]);
    assert!(!tcp(&read, "10.0.0.2", "10.0.0.1").is_allowed());
}

#[test]
fn s12_a_namespace_that_comes_back_without_its_label_is_another() {
    let from =
        |label| json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {"matchLabels": label}}]}]});
    let pods = [pod("x/a", "10.0.0.1", json!({})), pod("y/a", "10.0.0.2", json!({}))];
    for (labels, expected) in [(json!({"team": "t"}), true), (json!({}), false)] {
        let more = [namespace("y", labels), policy("x", "p", from(json!({"team": "t"})))];
        assert_eq!(tcp(&good(&[pods.clone(), more].concat()), "10.0.0.2", "10.0.0.1").is_allowed(), expected);
    }
}

#[test]
fn s13_two_of_one_name_in_two_namespaces_are_two() {
    let pods = [pod("x/a", "10.0.0.1", json!({})), pod("y/a", "10.0.0.2", json!({}))];
    let both = [policy("x", "p", closed()), policy("y", "p", closed())];
    assert!(!tcp(&good(&[pods.clone(), both.clone()].concat()), "10.0.0.2", "10.0.0.1").is_allowed());
    let one: Vec<_> = pods.iter().chain(&both[..1]).cloned().collect();
    let verdict = tcp(&good(&one), "10.0.0.2", "10.0.0.1");
    assert_eq!(verdict.policy.unwrap().to_string(), "NetworkPolicy x/p");
}

#[test]
fn s14_np_15_one_peer_that_cannot_be_read_leaves_the_others_working() {
    let peers = json!([
        {"ipBlock": {"cidr": "10.0.0.300/32"}},
        {"podSelector": {"matchLabels": {"pod": "b"}}},
        {"podSelector": {"matchLabels": 7}},
        {"ipBlock": {"cidr": "10.0.0.4/32", "exept": []}},
    ]);
    let manifest = policy("x", "p", json!({"podSelector": {}, "ingress": [{"from": peers}]}));
    let mut gatherer = Gatherer::new("td", "root");
    let told: Vec<_> = gatherer.add(&manifest).iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 3, "{told:#?}");
    assert!(told.iter().all(|line| line.ends_with("this peer matches nobody")), "{told:#?}");
    for (name, ip) in [("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.3"), ("d", "10.0.0.4")] {
        gatherer.add(&pod(&format!("x/{name}"), ip, json!({})));
    }
    let gathered = gatherer.finish();
    let rules = Compiler::default().compile(&gathered.policies, &gathered.world, None);
    let read = (gathered, rules);
    for (from, expected) in [("10.0.0.2", true), ("10.0.0.3", false), ("10.0.0.4", false), ("10.9.9.9", false)] {
        assert_eq!(tcp(&read, from, "10.0.0.1").is_allowed(), expected, "{from}");
    }
}

/// ID-17: names of namespaces and accounts with every character that some language takes for a pattern, and of full length.
#[test]
fn id_17_names_match_exactly() {
    let long = "a".repeat(63);
    let longest = format!("{}.{}", "b".repeat(63), "c".repeat(189));
    for (account, other) in [("a.b", "axb"), ("a-b", "a.b"), (&long[..], &long[..62]), (&longest[..], &longest[..252])]
    {
        let allow = json!({"rules": [{"from": [{"source": {"principals": [format!("td/ns/x/sa/{account}")]}}]}]});
        let by = |account: &str| pod("x/b", "10.0.0.2", json!({"spec.serviceAccountName": account}));
        for (who, expected) in [(account, true), (other, false), ("", false)] {
            let manifests = [pod("x/a", "10.0.0.1", json!({})), by(who), authorization("p", allow.clone())];
            let verdict = tcp(&good(&manifests), "10.0.0.2", "10.0.0.1");
            assert_eq!(verdict.is_allowed(), expected, "{account} as {who}: {verdict:?}");
        }
    }
    for pattern in ["*", "td/ns/x/*", "td/ns/x/sa/[ab]", "td/ns/x/sa/%2f", "td/ns/x/sa/..", "td/ns/x/sa/b/"] {
        let mut gatherer = Gatherer::new("td", "root");
        let spec = json!({"rules": [{"from": [{"source": {"principals": [pattern]}}]}]});
        assert_eq!(gatherer.add(&authorization("p", spec)).len(), 1, "{pattern}");
        gatherer.add(&pod("x/a", "10.0.0.1", json!({})));
        gatherer.add(&pod("x/b", "10.0.0.2", json!({})));
        let gathered = gatherer.finish();
        let rules = Compiler::default().compile(&gathered.policies, &gathered.world, None);
        assert_eq!(tcp(&(gathered, rules), "10.0.0.2", "10.0.0.1").reason, Reason::NoAllowMatched, "{pattern}");
    }
}

/// The key says who it is, and an address alone does not.
#[test]
fn an_allow_by_principal_is_for_who_proves_it() {
    let spec = json!({"rules": [{"from": [{"source": {"principals": ["td/ns/x/sa/b"]}}]}]});
    let read = good(&[pod("x/a", "10.0.0.1", json!({})), pod("x/b", "10.0.0.2", json!({})), authorization("p", spec)]);
    let flow = flow(&read.1, "10.0.0.2", "10.0.0.1", 6, Some(80));
    assert!(judge(&read, &flow).is_allowed());
    assert_eq!(judge(&read, &Flow { proven: false, ..flow }).reason, Reason::NoAllowMatched);
}

/// A workload without an address is judged by its labels.
#[test]
fn a_pod_that_is_not_there_yet_is_judged_by_its_labels() {
    let waiting = pod("x/b", "", json!({}));
    let read = good(&[pod("x/a", "10.0.0.1", json!({})), waiting, policy("x", "p", closed())]);
    let end = |name| End { workload: Some(WorkloadId::new("x", name)), address: None };
    let flow = Flow { source: end("b"), destination: end("a"), protocol: 6, port: Some(80), proven: true };
    assert_eq!(judge(&read, &flow).reason, Reason::Isolated);
}

/// Who or what a rule excepts, or does not list, is not meant, whatever it does.
#[test]
fn what_is_excepted_is_not_meant() {
    let from = |source: Value| json!({"from": [{"source": source}]});
    // of each the excepted one is x/b, and port 80 where it is about ports
    for (rule, other) in [
        (from(json!({"notPrincipals": ["td/ns/x/sa/b"]})), ("10.0.0.3", 80)),
        (from(json!({"notNamespaces": ["x"]})), ("10.0.0.4", 80)),
        (from(json!({"notIpBlocks": ["10.0.0.2/32"]})), ("10.0.0.3", 80)),
        (from(json!({"ipBlocks": ["10.0.0.4/32"]})), ("10.0.0.4", 80)),
        (from(json!({"ipBlocks": ["10.0.0.0/24"], "notIpBlocks": ["10.0.0.2/31"]})), ("10.0.0.4", 80)),
        (json!({"to": [{"operation": {"notPorts": ["80"]}}]}), ("10.0.0.2", 81)),
    ] {
        for (action, is_excepted_allowed) in [("ALLOW", false), ("DENY", true), ("AUDIT", true)] {
            let spec = json!({"selector": {"matchLabels": {"pod": "a"}}, "action": action, "rules": [rule]});
            let read = good(&[
                pod("x/a", "10.0.0.1", json!({})),
                pod("x/b", "10.0.0.2", json!({})),
                pod("x/c", "10.0.0.3", json!({})),
                pod("y/d", "10.0.0.4", json!({})),
                authorization("p", spec),
            ]);
            let allowed =
                |source: &str, port: u16| judge(&read, &flow(&read.1, source, "10.0.0.1", 6, Some(port))).is_allowed();
            assert_eq!(allowed("10.0.0.2", 80), is_excepted_allowed, "{action} {rule}: the excepted");
            assert_eq!(allowed(other.0, other.1), action != "DENY", "{action} {rule}: the others");
        }
    }
}
