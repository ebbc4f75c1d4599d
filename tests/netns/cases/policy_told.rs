//! What is told of policies while they work: the trace of a connection, the table of refused flows, the line in the log.

use std::process::Child;

use serde_json::Value;

use super::policy::{FIVE, SOON, five, log_of, network_policy, until};
use crate::agent::Agents;
use crate::lab::{Lab, program};
use crate::shell::{attempt, eventually};

pub const CASES: &[(&str, fn())] = &[
    ("policy_trace_names_policy_rule_and_reason_and_its_counters_move", trace),
    ("policy_refused_flows_are_listed_and_logged_with_both_identities", refused),
];

/// Who may send to `demo/far`: `demo/a`, to UDP port 80, by the second rule.
fn only_a() -> String {
    let spec = "podSelector: {matchLabels: {app: far}}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24}}]}, \
                {from: [{podSelector: {matchLabels: {app: a}}}], ports: [{port: 80, protocol: UDP}]}]";
    network_policy("demo", "only-a", spec)
}

/// Sends a datagram to port 80 of both addresses of a pod a hundred times a second.
fn sender(lab: &Lab, from: &str, to: &str) -> Child {
    let [v4, v6] = lab.ips(to);
    let script = format!(
        "import socket,time\nss=[(socket.socket(socket.AF_INET,socket.SOCK_DGRAM),'{v4}'),(socket.socket(socket.AF_INET6,socket.SOCK_DGRAM),'{v6}')]\n\
         while True:\n for s,d in ss: s.sendto(b'0badcafe',(d,80))\n time.sleep(0.01)"
    );
    lab.spawn(from, &["python3", "-c", &script])
}

fn end(mut child: Child) {
    child.kill().expect("it runs");
    child.wait().expect("it ends");
}

/// The trace's document, and its exit code.
fn traced(source: &str, destination: &str) -> (Value, Option<i32>) {
    let output =
        attempt(&program("meshctl"), &["policy", "trace", source, destination, "--seconds", "1", "-o", "json"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let document = serde_json::from_str(&text).unwrap_or_else(|e| {
        panic!("no JSON: {e}\n{text}{}", String::from_utf8_lossy(&output.stderr));
    });
    (document, output.status.code())
}

/// A node's counter of the trace, before and after.
fn counter(document: &Value, node: &str, name: &str) -> [u64; 2] {
    let nodes = document["nodes"].as_array().expect("nodes");
    let of = nodes.iter().find(|of| of["node"] == node).unwrap_or_else(|| panic!("no {node} in {document:#}"));
    let counters = &of["counters"];
    let pair = if counters[name].is_null() { &counters["node"][name] } else { &counters[name] };
    ["before", "after"].map(|when| pair[when].as_u64().unwrap_or(0))
}

fn trace() {
    let lab = five("nodes: 2");
    let mut agents = Agents::start(&lab, &FIVE);
    // where there is no policy
    let (open, code) = traced("demo/b", "demo/far:80/udp");
    assert_eq!(
        (open["verdict"].as_str(), open["reason"].as_str(), code),
        (Some("allowed"), Some("no_policy"), Some(0))
    );
    lab.put("policy.yaml", &only_a());
    until(&mut agents, false, "demo/b", "demo/far", "UDP", 80);
    until(&mut agents, true, "demo/a", "demo/far", "UDP", 80);
    let senders = [sender(&lab, "demo/a", "demo/far"), sender(&lab, "demo/b", "demo/far")];
    let (denied, code) = traced("demo/b", "demo/far:80/udp");
    assert_eq!(code, Some(1));
    for (field, expected) in [
        ("verdict", "denied"),
        ("policy", "NetworkPolicy demo/only-a"),
        ("reason", "isolated"),
        ("direction", "inbound"),
    ] {
        assert_eq!(denied[field], expected, "{denied:#}");
    }
    assert!(denied["rule"].is_null(), "{denied:#}");
    let [before, after] = counter(&denied, "n2", "refused");
    assert!(after > before, "{denied:#}");
    let [before, after] = counter(&denied, "n2", "denied_isolated");
    assert!(after > before, "{denied:#}");
    assert_eq!(counter(&denied, "n2", "passed"), [0, 0], "{denied:#}");
    let [_, arrived] = counter(&denied, "n2", "arrived");
    assert!(arrived > 20, "both families are counted: {denied:#}");
    // the sender's node lets it go
    let [_, passed] = counter(&denied, "n1", "passed");
    assert!(passed > 20, "{denied:#}");
    let (allowed, code) = traced("demo/a", "demo/far:80/udp");
    assert_eq!(code, Some(0), "{allowed:#}");
    for (field, expected) in [("verdict", "allowed"), ("policy", "NetworkPolicy demo/only-a"), ("reason", "rule")] {
        assert_eq!(allowed[field], expected, "{allowed:#}");
    }
    assert_eq!(allowed["rule"], 1, "{allowed:#}");
    for node in ["n1", "n2"] {
        let [[_, arrived], [_, passed]] = ["arrived", "passed"].map(|name| counter(&allowed, node, name));
        assert!(passed > 20 && passed <= arrived, "{node}: {allowed:#}");
        assert_eq!(counter(&allowed, node, "refused"), [0, 0], "{allowed:#}");
    }
    senders.into_iter().for_each(end);
    for node in ["node/n1", "node/n2"] {
        let tables = lab.must(node, &["nft", "list", "tables"]);
        assert!(!tables.contains("weft_trace"), "counting goes on: {tables}");
    }
    // names that nobody has, and ends that nobody asked judges
    let unknown = attempt(&program("meshctl"), &["policy", "trace", "demo/nobody", "demo/far:80"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("there is no pod demo/nobody"));
}

/// Every field of a node's status is explained in its page.
fn documented(status: &Value) {
    const PAGE: &str = include_str!("../../../docs/status.md");
    // their fields are names that come and go
    const NAMES: [&str; 3] = ["drops", "policy_denied_by_reason", "ports"];
    let mut unknown = Vec::new();
    let mut left = vec![status];
    while let Some(value) = left.pop() {
        left.extend(value.as_array().into_iter().flatten());
        for (name, field) in value.as_object().into_iter().flatten() {
            if !PAGE.contains(&format!("`{name}`")) {
                unknown.push(name.clone());
            }
            if !NAMES.contains(&name.as_str()) {
                left.push(field);
            }
        }
    }
    assert!(unknown.is_empty(), "docs/status.md says nothing of {unknown:?}");
}

fn refused() {
    let lab = five("nodes: 2");
    let mut agents = Agents::start(&lab, &FIVE);
    lab.put("policy.yaml", &only_a());
    until(&mut agents, false, "demo/b", "demo/far", "TCP", 80);
    let [source, destination] = ["demo/b", "demo/far"].map(|pod| lab.ip(pod, true).to_string());
    let find = |status: &Value| {
        let rows = status["policy_denied"].as_array().expect("rows").iter();
        let mut rows = rows.filter(|row| row["source"] == *source && row["destination"] == *destination);
        rows.find(|row| row["port"] == 80).cloned()
    };
    let row = eventually("the flow is listed", SOON, || find(&lab.ask("n2", "status"))).0;
    for (field, expected) in [
        ("source_workload", "demo/b"),
        ("source_identity", "spiffe://weft.lab/ns/demo/sa/b"),
        ("destination_workload", "demo/far"),
        ("destination_identity", "spiffe://weft.lab/ns/demo/sa/far"),
        ("protocol", "tcp"),
        ("policy", "NetworkPolicy demo/only-a"),
        ("reason", "isolated"),
        ("direction", "inbound"),
    ] {
        assert_eq!(row[field], expected, "{row:#}");
    }
    assert!(row["count"].as_u64() > Some(0) && row["last_seen_s"].as_u64() < Some(60), "{row:#}");
    let text = String::from_utf8_lossy(&attempt(&program("meshctl"), &["status", "--node", "n2"]).stdout).into_owned();
    let line = text.lines().find(|line| line.contains(&source) && line.contains("80/tcp"));
    let line = line.unwrap_or_else(|| panic!("no line for people:\n{text}"));
    for part in
        ["demo/b", "spiffe://weft.lab/ns/demo/sa/b", "demo/far", "NetworkPolicy demo/only-a", "isolated", " ago"]
    {
        assert!(line.contains(part), "{line} lacks {part}");
    }
    assert!(text.contains("Refused by policy (packets: isolated "), "{text}");
    // one line in the log, with all of it
    let told = || {
        let log = log_of("n2");
        let lines = log.lines().filter(|line| line.contains("Refused by policy") && line.contains(&source));
        lines
            .filter(|line| line.contains("protocol=tcp") && line.contains("port=80"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let lines = eventually("a line is written", SOON, || Some(told()).filter(|lines| !lines.is_empty())).0;
    for part in ["sa/b", "sa/far", "NetworkPolicy demo/only-a", "isolated", "rule=-"] {
        assert!(lines[0].contains(part), "{} lacks {part}", lines[0]);
    }
    documented(&lab.ask("n2", "status"));
    // the same flow again is counted, and is no other line
    let before = row["count"].as_u64().expect("a count");
    until(&mut agents, false, "demo/b", "demo/far", "TCP", 80);
    eventually("it is counted", SOON, || (find(&lab.ask("n2", "status"))?["count"].as_u64()? > before).then_some(()));
    assert_eq!(told().len(), 1, "{:?}", told());
    // a scan of a thousand ports writes no thousand lines
    let lines_before = log_of("n2").lines().filter(|line| line.contains("Refused by policy")).count();
    let counted = || lab.ask("n2", "status")["policy_denied_by_reason"]["isolated"].as_u64().expect("a count");
    let far = lab.ip("demo/far", false);
    let all = counted() + 1_000;
    // the queue of n1's mesh0 holds 500 packets (`TUN_READQ_SIZE`): half of that at once arrives however busy the machine is
    for first in (1_000..2_000).step_by(250) {
        let awaited = counted() + 250;
        let scan = format!(
            "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\nfor p in range({first},{first}+250): s.sendto(b'x',('{far}',p))"
        );
        lab.must("demo/b", &["python3", "-c", &scan]);
        eventually("a part of the scan is counted", SOON, || (counted() >= awaited).then_some(()));
    }
    assert!(counted() >= all, "the whole scan is counted");
    eventually("what is not told of is counted", SOON, || {
        log_of("n2").contains("More flows were refused by policy").then_some(())
    });
    let lines = log_of("n2").lines().filter(|line| line.contains("Refused by policy")).count() - lines_before;
    assert!(lines <= 100, "{lines} lines of one scan");
    // policies change: the reason of what was refused before stays what it was
    lab.remove("policy.yaml");
    until(&mut agents, true, "demo/b", "demo/far", "TCP", 80);
}
