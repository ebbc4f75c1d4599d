//! Pods as the mesh counts them: one that no daemon protects is found, a tainted node waits for its daemon, and what a pod's
//! start costs the API server.

use std::time::{Duration, Instant};

use super::Case;
use crate::cluster::{Cluster, ROOT};
use crate::pod::{namespace, pod};
use crate::promise::keeps;
use crate::shell::eventually;
use crate::weft;

/// The cases of this file.
pub const CASES: &[(&str, Case)] = &[
    ("a_pod_outside_the_mesh_is_found_and_told_of", a_pod_outside_is_found),
    ("a_node_that_comes_with_the_taint_waits_for_its_daemon", a_tainted_node_waits),
    ("a_pods_start_costs_few_writes_and_no_list", a_start_costs_few_writes),
];

/// Longest wait for what comes within seconds on a machine that is slow.
const SOON: Duration = Duration::from_secs(90);
/// When a pod outside the mesh is told of, in seconds.
const FOUND_MAX: f64 = 10.0;

/// Status and message of the condition that tells of pods outside.
fn attached(cluster: &Cluster, node: &str) -> String {
    let path = "jsonpath={range .status.conditions[?(@.type=='PodsAttached')]}{.status} {.message}{end}";
    cluster.kubectl(&["get", "meshnode", node, "-o", path])
}

/// When the daemon of a node wrote down that it is ready, by its own clock.
fn ready_since(cluster: &Cluster, node: &str) -> f64 {
    let file = format!("stat -c %.3Y /proc/$({} | head -n 1)/root/run/weft-ready/file", weft::DAEMON);
    cluster.must_on(node, &file).trim().parse().expect("a time")
}

/// The end of the second in which the controller saw that a node has pods outside, by its own clock.
fn told_at(cluster: &Cluster, node: &str) -> f64 {
    let path = "jsonpath={.status.conditions[?(@.type=='PodsAttached')].lastTransitionTime}";
    let time = cluster.kubectl(&["get", "meshnode", node, "-o", path]);
    crate::shell::run("date", &["-d", &time, "+%s"]).trim().parse::<f64>().expect("a time") + 1.0
}

/// How long it takes until a pod whose sandbox nobody knows is told of, from when its daemon was ready.
fn found_after(cluster: &Cluster) -> f64 {
    cluster.pods("outside", true, &[("lost", "n1"), ("found", "n1")]);
    eventually("nothing is outside", SOON, || attached(cluster, "n1").starts_with("True").then_some(()));
    // the daemon and libcni forget the sandbox of one pod: nobody can tell which link is its
    let uid = cluster.kubectl(&["-n", "outside", "get", "pod", "lost", "-o", "jsonpath={.metadata.uid}"]);
    let forget = format!(
        "for note in $(grep -l {uid} /var/lib/cni/results/*); do\n\
         id=$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))[\"containerId\"])' $note)\n\
         rm $note; rm -f /var/lib/weft/attachments/$id@*; done"
    );
    cluster.must_on("n1", &forget);
    cluster.kubectl(&["-n", "weft-system", "delete", "pod", &weft::daemon_pod(cluster, "n1")]);
    weft::await_ready(cluster);
    eventually("the pod outside is told of", SOON, || {
        let said = attached(cluster, "n1");
        (said.starts_with("False") && said.contains("outside/lost") && !said.contains("outside/found")).then_some(())
    });
    let after = told_at(cluster, "n1") - ready_since(cluster, "n1");
    let shown =
        cluster.kubectl(&["-n", "weft-system", "exec", &weft::daemon_pod(cluster, "n1"), "--", "meshctl", "status"]);
    assert!(shown.contains("outside/lost") && shown.contains("libcni has no note of it"), "{shown}");
    let asked = "python3 -c \"import socket; s=socket.socket(socket.AF_UNIX); s.connect('/run/weft/admin.sock'); \
                 s.sendall(b'{\\\"verb\\\":\\\"metrics\\\"}\\n'); print(s.makefile().readline())\"";
    let told = cluster.must_on("n1", asked);
    assert!(told.contains("mesh_pods_outside 1\\n"), "{told}");
    assert!(cluster.kubectl(&["get", "mn", "n1"]).contains("False"), "the column says it too");
    cluster.kubectl(&["-n", "outside", "delete", "pods", "--all", "--timeout=240s"]);
    eventually("nothing is outside any more", SOON, || attached(cluster, "n1").starts_with("True").then_some(()));
    after
}

fn a_pod_outside_is_found(cluster: &Cluster) {
    let what = "from a daemon's Ready until the condition tells of a pod outside the mesh, to the full second";
    keeps(what, FOUND_MAX, || found_after(cluster));
    cluster.delete_namespaces(&["outside"]);
}

fn a_tainted_node_waits(cluster: &Cluster) {
    let taints = || cluster.kubectl(&["get", "node", "n1", "-o", "jsonpath={.spec.taints[*].key}"]);
    let folder = cluster.dir.join("tainted");
    std::fs::create_dir_all(&folder).expect("the run's folder takes folders");
    let up = "../".repeat(folder.components().count() - 1);
    let manifests = format!("{up}{}/manifests", ROOT.trim_start_matches('/'));
    let text =
        format!("resources: [{manifests}/overlays/default]\ncomponents: [{manifests}/components/startup-taint]\n");
    std::fs::write(folder.join("kustomization.yaml"), text).expect("the folder takes files");
    let folder = folder.display().to_string();
    // another's taint stays, also when ours goes
    cluster.kubectl(&["taint", "node", "n1", "weft.dev/not-ready=:NoSchedule", "example.org/other=:PreferNoSchedule"]);
    cluster.kubectl(&["apply", "-k", &folder]);
    weft::await_ready(cluster);
    eventually("the taint is taken off", SOON, || (taints() == "example.org/other").then_some(()));
    // the token may do that and nothing else
    let pod = weft::daemon_pod(cluster, "n1");
    let stolen = super::trust::token(cluster, "weft-node", Some(&pod));
    let refusals = [
        ("n2", r#"{"spec":{"taints":null}}"#, "touches the node that it runs on and no other"),
        ("n1", r#"{"spec":{"taints":null}}"#, "takes weft.dev/not-ready off and nothing else"),
        (
            "n1",
            r#"{"spec":{"taints":[{"key":"a","effect":"NoSchedule"}]}}"#,
            "takes weft.dev/not-ready off and nothing else",
        ),
        ("n1", r#"{"spec":{"unschedulable":true}}"#, "changes the taints only"),
        ("n1", r#"{"metadata":{"labels":{"a":"b"}}}"#, "changes the taints only"),
        ("n1", r#"{"metadata":{"annotations":{"a":"b"}}}"#, "changes the taints only"),
    ];
    let refused = |(node, patch, sentence): (&str, &str, &str)| {
        let output = super::trust::with(cluster, &stolen, &["patch", "node", node, "--type=merge", "-p", patch]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (!output.status.success() && said.contains(sentence), said)
    };
    // an API server takes up a new policy a second or more after it was written; the first of these changes nothing
    eventually("the policy is in force", SOON, || refused(refusals[0]).0.then_some(()));
    for refusal in refusals {
        let (is_refused, said) = refused(refusal);
        assert!(is_refused, "{refusal:?}: {said}");
    }
    cluster.kubectl(&["taint", "node", "n1", "example.org/other-"]);
    for kind in ["clusterrole", "clusterrolebinding", "validatingadmissionpolicy", "validatingadmissionpolicybinding"] {
        cluster.kubectl(&["delete", kind, "weft-node-taint"]);
    }
    weft::install(cluster, "default");
}

/// Writes of our kinds that the API server has answered since it started.
fn writes(cluster: &Cluster) -> u64 {
    let text = cluster.kubectl(&["get", "--raw", "/metrics"]);
    let ours =
        text.lines().filter(|line| line.starts_with("apiserver_request_total{") && line.contains("group=\"weft.dev\""));
    let is_write = |line: &&str| {
        ["APPLY", "PATCH", "POST", "PUT", "DELETE"].iter().any(|verb| line.contains(&format!("verb=\"{verb}\"")))
    };
    let counts = ours.filter(is_write).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter is a whole number")]
    counts.map(|count| count as u64).sum()
}

/// Waits until nothing has been written for two seconds; what was counted then.
fn settled(cluster: &Cluster) -> u64 {
    let (mut last, mut since) = (writes(cluster), Instant::now());
    eventually("the writes end", Duration::from_secs(240), || {
        let now = writes(cluster);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        (since.elapsed() > Duration::from_secs(2)).then_some(now)
    })
    .0
}

/// How often Weft's programs have begun to watch: the containers that run, by name and how often each was started, and who
/// leads, since a controller watches when it does.
fn begun(cluster: &Cluster) -> std::collections::BTreeSet<String> {
    let each = "{range .items[*]}{.metadata.name} {.status.containerStatuses[*].restartCount}{\"\\n\"}{end}";
    let pods = cluster.kubectl(&["-n", "weft-system", "get", "pods", "-o", &format!("jsonpath={each}")]);
    let holder = "jsonpath={.spec.holderIdentity} {.spec.leaseTransitions}";
    let leader = cluster.kubectl(&["-n", "weft-system", "get", "lease", "weft-controller", "-o", holder]);
    pods.lines().map(str::to_owned).chain([leader]).collect()
}

/// Waits until nobody has looked for a kind that is not installed for three seconds: a program does so when it begins, and then
/// not again. What was counted then, lists and looks.
fn looked(cluster: &Cluster) -> (usize, usize) {
    let (mut last, mut since) = (super::figures::lists(cluster), Instant::now());
    eventually("the looks for kinds that are not installed end", Duration::from_secs(240), || {
        let now = super::figures::lists(cluster);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        (since.elapsed() > Duration::from_secs(3)).then_some(now)
    })
    .0
}

fn a_start_costs_few_writes(cluster: &Cluster) {
    const PODS: u64 = 20;
    cluster.apply(&namespace("writes", true));
    let start = |names: std::ops::Range<u64>| {
        // all of one identity, on both nodes in turn
        let of = |n: u64| {
            let (name, node) = (format!("p{n}"), if n.is_multiple_of(2) { "n1" } else { "n2" });
            pod("writes", &name, node, "").replace(&format!("serviceAccountName: {name}"), "serviceAccountName: p0")
        };
        let before = settled(cluster);
        cluster.apply(&names.clone().map(of).collect::<String>());
        names.for_each(|n| drop(cluster.pod(&format!("writes/p{n}"))));
        settled(cluster) - before
    };
    let (listed, before) = (looked(cluster), begun(cluster));
    let (first, known) = (start(0..1), start(1..2));
    let (alone, together) = (start(2..3), start(3..3 + PODS));
    eprintln!(
        "writes to the API server: {first} and {known} for the first pod of an identity on each node, {alone} for a further one, \
         {together} for {PODS} more at once"
    );
    // a node's report, and the slice, with the binding in it where the identity is new there (decision 0024)
    assert!(first <= 2 && known <= 2 && alone <= 2, "{first}, {known}, {alone} writes for one pod");
    assert!(together <= 2 * PODS, "{together} writes for {PODS} pods");
    let (full, absent) = super::figures::lists(cluster);
    assert_eq!(full, listed.0, "what changes comes by watches, and nothing is listed a second time");
    // Istio's, and the administrator's three: each once by a program that has begun meanwhile
    let most = 4 * begun(cluster).difference(&before).count();
    let absent = absent - listed.1;
    eprintln!("{absent} looks for kinds that are not installed, of {most} at most");
    assert!(absent <= most, "{absent} looks for kinds that are not installed, at most {most}");
    cluster.delete_namespaces(&["writes"]);
}
