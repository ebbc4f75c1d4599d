//! Figures of the cluster, each said beside its goal: `scripts/measure kubernetes` runs these, the tests do not.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Case;
use super::people::must;
use super::trust::as_admin;
use crate::cluster::{Cluster, NODES};
use crate::pod::{namespace, peer_authentication, pod};
use crate::promise::epoch_seconds;
use crate::shell::eventually;
use crate::weft;

/// Before Weft comes.
pub const WITHOUT: &[(&str, Case)] = &[("figure_pods_ready_without_weft", pods_ready_without)];
/// With it; the second takes it away for its time.
pub const WITH: &[(&str, Case)] = &[
    ("figure_pods_ready_with_weft", pods_ready_with),
    ("figure_pods_ready_compared", pods_ready_compared),
    ("figure_from_a_write_to_its_effect", from_write_to_effect),
];

/// Pods of each sweep of the comparison, half on each node.
const PODS: usize = 100;
/// How many pods are started at once; each has sweeps of its own.
const AT_A_TIME: [usize; 2] = [1, 2];
/// Writes of each kind whose effect is timed.
const WRITES: usize = 40;

/// The value below which a share of them are.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len() - 1;
    sorted[((last as f64) * share).round() as usize]
}

fn say(what: &str, unit: &str, goal: &str, values: &[f64]) {
    let (half, most) = (quantile(values, 0.5), quantile(values, 0.99));
    eprintln!("figure: {what}, of {}: p50 {half:.3} {unit}, p99 {most:.3} {unit} (goal {goal})", values.len());
}

/// From the object in the API server to its Ready condition, both as a watch of ours sees them; the nodes by turns.
fn pods_ready(cluster: &Cluster, in_namespace: &str, enrolled: bool, at_a_time: usize) -> Vec<f64> {
    cluster.apply(
        &(namespace(in_namespace, enrolled)
            + "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: one, namespace: "
            + in_namespace
            + "}\n"),
    );
    let form = "jsonpath={.metadata.name} {.status.conditions[?(@.type==\"Ready\")].status}{\"\\n\"}";
    let mut watch = Command::new(cluster.tools.join("kubectl"))
        .arg("--kubeconfig")
        .arg(cluster.dir.join("pki/admin.kubeconfig"))
        .args(["-n", in_namespace, "get", "pods", "-w", "-o", form])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("kubectl runs");
    let lines = BufReader::new(watch.stdout.take().expect("it is piped")).lines();
    let (sender, seen) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if sender.send((line, Instant::now())).is_err() {
                return;
            }
        }
    });
    // it watches once it has shown something
    let manifest = |name: &str, node: &str| {
        pod(in_namespace, name, node, "").replace(&format!("serviceAccountName: {name}"), "serviceAccountName: one")
    };
    let mut made: BTreeMap<String, Instant> = BTreeMap::new();
    let mut took = Vec::new();
    // the first pod of a node starts what is started once
    let all: Vec<_> = (0..PODS + NODES.len()).map(|i| (NODES[i % NODES.len()], format!("p{i}"))).collect();
    for round in all.chunks(at_a_time) {
        cluster.apply(&round.iter().map(|(node, name)| manifest(name, node)).collect::<String>());
        let mut waiting: Vec<_> = round.iter().map(|(_, name)| name.clone()).collect();
        while !waiting.is_empty() {
            let (line, at) = seen.recv_timeout(Duration::from_secs(60)).expect("the pod becomes Ready");
            let (name, ready) = line.split_once(' ').unwrap_or((&line, ""));
            let since = *made.entry(name.to_owned()).or_insert(at);
            if ready == "True" && waiting.iter().any(|wanted| wanted == name) {
                waiting.retain(|wanted| wanted != name);
                took.push(at.duration_since(since).as_secs_f64());
            }
        }
    }
    watch.kill().and_then(|()| watch.wait()).expect("kubectl ends");
    reader.join().expect("the reader ends");
    cluster.kubectl(&["delete", "namespace", in_namespace, "--timeout=180s"]);
    await_swept(cluster, in_namespace);
    took.split_off(NODES.len())
}

/// Until the kubelets, which look once a minute, have had the last of a namespace's pods thrown away. It costs two processes of
/// every plugin for each of them, at the expense of whatever is measured meanwhile.
fn await_swept(cluster: &Cluster, namespace: &str) {
    let ctr = cluster.tools.join("ctr").display().to_string();
    let of_namespace = format!("labels.\"io.kubernetes.pod.namespace\"=={namespace}");
    for node in NODES {
        eventually("the kubelet sweeps up", Duration::from_secs(300), || {
            let left = cluster.on_node(node, &[&ctr, "-n", "k8s.io", "containers", "ls", "-q", &of_namespace]);
            (left.status.success() && left.stdout.is_empty()).then_some(())
        });
    }
}

/// Where the times of a sweep are kept for the comparison.
fn kept(cluster: &Cluster, which: &str, at_a_time: usize) -> PathBuf {
    cluster.dir.join(format!("{which}.{at_a_time}"))
}

fn sweep(cluster: &Cluster, which: &str, enrolled: bool, at_a_time: usize) {
    let took = pods_ready(cluster, which, enrolled, at_a_time);
    say(&format!("a pod is Ready, {which} Weft, {at_a_time} at a time"), "s", "below", &took);
    let text: Vec<_> = took.iter().map(f64::to_string).collect();
    std::fs::write(kept(cluster, which, at_a_time), text.join("\n")).expect("the run's folder takes files");
}

fn pods_ready_without(cluster: &Cluster) {
    for at_a_time in AT_A_TIME {
        sweep(cluster, "without", false, at_a_time);
    }
}

fn pods_ready_with(cluster: &Cluster) {
    let writes = || {
        let text = std::fs::read_to_string(cluster.dir.join("audit.log")).expect("the API server writes it");
        text.lines()
            .filter(|line| {
                ["patch", "create", "update"].iter().any(|v| line.contains(&format!("\"verb\":\"{v}\"")))
                    && !line.contains("\"resource\":\"leases\"")
            })
            .count()
    };
    for at_a_time in AT_A_TIME {
        let before = writes();
        sweep(cluster, "with", true, at_a_time);
        // as many removals as starts, and the namespace's own
        let a_pod = (writes() - before) as f64 / (PODS + NODES.len()) as f64;
        eprintln!("figure: writes of ours to the API server, a pod started and ended: {a_pod:.2} (goal 2 a start)");
    }
}

/// The machine may have become another meanwhile: what Weft costs is counted from the middle of a sweep before it and a sweep after
/// it, and how far these are apart is said beside it.
fn pods_ready_compared(cluster: &Cluster) {
    must(cluster, "meshctl", &["uninstall", "--yes"]);
    for at_a_time in AT_A_TIME {
        sweep(cluster, "again-without", false, at_a_time);
        let [without, with, again] = ["without", "with", "again-without"].map(|which| {
            let text = std::fs::read_to_string(kept(cluster, which, at_a_time)).unwrap_or_default();
            text.lines().map(|line| line.parse().expect("a number")).collect::<Vec<f64>>()
        });
        if without.is_empty() || with.is_empty() {
            eprintln!("figure: nothing to compare with: all of figure_pods are needed");
            continue;
        }
        let compare = |what: &str, pods: std::ops::Range<usize>, share| {
            let of = |all: &[f64]| quantile(&all[pods.clone()], share) * 1000.0;
            let (before, after) = (of(&without), of(&again));
            let more = of(&with) - (before + after) / 2.0;
            let apart = after - before;
            eprintln!(
                "figure: {at_a_time} at a time, {what}: {more:.0} ms more than without (after it {apart:+.0} ms against before)"
            );
        };
        compare("p50 (goal 50 ms)", 0..PODS, 0.5);
        compare("p99 (goal 200 ms)", 0..PODS, 0.99);
        // each pod stays: what it costs may grow with those that are there
        compare("p50 of the first quarter of the pods", 0..PODS / 4, 0.5);
        compare("p50 of the last", PODS - PODS / 4..PODS, 0.5);
    }
    weft::install(cluster, "default");
}

fn from_write_to_effect(cluster: &Cluster) {
    let plain = cluster.pods("effect-plain", false, &[("s1", "n1"), ("s2", "n2")]);
    let pods = cluster.pods("effect", true, &[("p1", "n1"), ("p2", "n2")]);
    cluster.apply(&peer_authentication("effect", "PERMISSIVE"));
    // strangers of each node call the pod on the other
    let logs: Vec<_> = ["1", "2"].iter().map(|n| cluster.dir.join(format!("prober{n}"))).collect();
    let _probers: Vec<_> =
        (0..2).map(|i| plain[i].prober(&logs[i].display().to_string(), pods[1 - i].ip(false), 8080)).collect();
    let last = |log: &std::path::Path| {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let line = text.lines().last().unwrap_or_default().to_owned();
        let (time, answer) = line.split_once(' ')?;
        Some((time.parse::<f64>().ok()?, answer == "ok"))
    };
    let flip = |write: &dyn Fn(), wanted: bool| {
        write();
        let written = epoch_seconds();
        let effects = logs.iter().map(|log| {
            let answered = || last(log).filter(|(_, ok)| *ok == wanted).map(|(time, _)| time);
            eventually("the write has its effect", Duration::from_secs(20), answered).0
        });
        let effect = effects.fold(0.0, f64::max);
        // it may be there before the server's answer has come
        (effect - written).max(0.0)
    };
    let mode = |mode: &str| {
        let path = "apis/weft.dev/v1alpha1/namespaces/effect/peerauthentications/default";
        as_admin(cluster, "PATCH", path, &format!("{{\"spec\":{{\"mtls\":{{\"mode\":\"{mode}\"}}}}}}"));
    };
    let (mut modes, mut labels, mut policies) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..WRITES / 2 {
        modes.push(flip(&|| mode("STRICT"), false));
        modes.push(flip(&|| mode("PERMISSIVE"), true));
    }
    say("mode written until it holds on both nodes", "s", "p50 0.2 s, p99 1 s", &modes);
    mode("STRICT");
    flip(&|| {}, false);
    let label = |value: &str| {
        let text = format!("{{\"metadata\":{{\"labels\":{{\"weft.dev/mesh\":\"{value}\"}}}}}}");
        as_admin(cluster, "PATCH", "api/v1/namespaces/effect", &text);
    };
    for _ in 0..WRITES / 2 {
        labels.push(flip(&|| label("disabled"), true));
        labels.push(flip(&|| label("enabled"), false));
    }
    say("label written until it holds on both nodes", "s", "p50 0.2 s, p99 1 s", &labels);
    mode("PERMISSIVE");
    flip(&|| {}, true);
    let base = "apis/networking.k8s.io/v1/namespaces/effect/networkpolicies";
    let deny = "{\"apiVersion\":\"networking.k8s.io/v1\",\"kind\":\"NetworkPolicy\",\"metadata\":{\"name\":\"deny\"},\
                \"spec\":{\"podSelector\":{},\"policyTypes\":[\"Ingress\"]}}";
    for _ in 0..WRITES / 2 {
        policies.push(flip(&|| as_admin(cluster, "POST", base, deny), false));
        policies.push(flip(&|| as_admin(cluster, "DELETE", &format!("{base}/deny"), "{}"), true));
    }
    say("NetworkPolicy written until it holds on both nodes", "s", "p50 0.2 s, p99 1 s", &policies);
    cluster.delete_namespaces(&["effect", "effect-plain"]);
}

/// Lists that Weft's programs were given since the API server began, and those of kinds that are not installed.
pub fn lists(cluster: &Cluster) -> (usize, usize) {
    let text = std::fs::read_to_string(cluster.dir.join("audit.log")).expect("the API server writes it");
    let all = text.lines().filter(|line| line.contains("\"verb\":\"list\""));
    let (absent, given): (Vec<_>, Vec<_>) = all.partition(|line| line.contains("\"code\":404"));
    (given.len(), absent.len())
}

impl crate::pod::Pod {
    /// Tries to connect all the time and writes to a log when the answer changes.
    fn prober(&self, log: &str, to: IpAddr, port: u16) -> crate::load::Load {
        self.load(include_str!("../load/prober.py"), &[log, &to.to_string(), &port.to_string()])
    }
}
