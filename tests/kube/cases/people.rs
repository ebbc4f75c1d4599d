//! `meshctl` in the cluster: it finds everything by the kubeconfig.

use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use super::Case;
use crate::cluster::{Cluster, NODES};
use crate::shell::eventually;
use crate::weft;

/// The cases of this file.
pub const CASES: &[(&str, Case)] = &[
    ("meshctl_by_kubeconfig", meshctl_by_kubeconfig),
    ("f20_the_issuers_health_its_nodes_and_an_identity", issuer_nodes_and_identity),
];

/// Longest wait for what comes within seconds, a new leader after the last one's lease included, on a machine that is slow.
const SOON: Duration = Duration::from_secs(120);

/// Runs meshctl as an administrator at a desk would, under either of its names.
pub fn meshctl(cluster: &Cluster, program: &str, arguments: &[&str]) -> Output {
    let link = cluster.dir.join(program);
    if !link.exists() {
        std::os::unix::fs::symlink(weft::program("meshctl"), &link).expect("the run's folder takes a link");
    }
    let path = format!("{}:{}", cluster.tools.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new(link);
    command.args(arguments).env("PATH", path);
    if program == "kubectl-mesh" {
        command.env("KUBECONFIG", cluster.dir.join("pki/admin.kubeconfig"));
    } else {
        command.arg("--kubeconfig").arg(cluster.dir.join("pki/admin.kubeconfig"));
    }
    command.output().expect("meshctl runs")
}

/// As [`meshctl`], and it must succeed.
pub fn must(cluster: &Cluster, program: &str, arguments: &[&str]) -> String {
    let output = meshctl(cluster, program, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}\n{text}{errors}", arguments.join(" "));
    text
}

fn meshctl_by_kubeconfig(cluster: &Cluster) {
    cluster.pods("people", true, &[("client", "n1"), ("server", "n2")]);
    let nodes: Value = serde_json::from_str(&must(cluster, "meshctl", &["status", "-o", "json"])).expect("JSON");
    assert_eq!(nodes.as_array().map(Vec::len), Some(NODES.len()));
    let one = must(cluster, "kubectl-mesh", &["status", "--node", "n2"]);
    assert!(one.contains("n2") && one.contains("people/server") && !one.contains("people/client"), "{one}");
    let listed = must(cluster, "meshctl", &["node", "list"]);
    assert_eq!(listed.split_whitespace().collect::<Vec<_>>(), NODES);
    eventually("its SVID is shown", SOON, || {
        let output = meshctl(cluster, "kubectl-mesh", &["svid", "show", "people/server"]);
        String::from_utf8_lossy(&output.stdout).contains("spiffe://cluster.local/ns/people/sa/server").then_some(())
    });
    for arguments in [&["check"][..], &["check", "--pre"]] {
        eventually(&format!("meshctl {} finds nothing", arguments.join(" ")), SOON, || {
            let output = meshctl(cluster, "meshctl", arguments);
            let said = String::from_utf8_lossy(&output.stdout).contains("Status check results are ok");
            (output.status.success() && said).then_some(())
        });
    }
    let printed = must(cluster, "meshctl", &["install", "--dry-run", "--overlay", "strict"]);
    assert!(printed.contains("kind: DaemonSet") && printed.contains("mode: STRICT"), "{printed}");
    wrong_words(cluster);
    // somebody who may nothing is told so
    let output = Command::new(cluster.dir.join("meshctl"))
        .args(["check", "--pre", "--kubeconfig"])
        .arg(cluster.dir.join("pki/proxy.kubeconfig"))
        .env("PATH", format!("{}:{}", cluster.tools.display(), std::env::var("PATH").unwrap_or_default()))
        .output()
        .expect("meshctl runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && said.contains("you may not create customresourcedefinitions"), "{said}");
    cluster.delete_namespaces(&["people"]);
}

/// What is told where the question is not quite right, and what to do.
fn wrong_words(cluster: &Cluster) {
    let path = format!("{}:{}", cluster.tools.display(), std::env::var("PATH").unwrap_or_default());
    let as_user = |user: &str, words: &[&str]| {
        let mut command = Command::new(cluster.dir.join("meshctl"));
        command.args(words).env("PATH", &path).env("KUBECONFIG", cluster.dir.join(format!("pki/{user}.kubeconfig")));
        command.output().expect("meshctl runs")
    };
    for (user, words, sentence) in [
        ("admin", &["status", "--context", "nowhere"][..], "name one with --kubeconfig file or --context name"),
        ("admin", &["status", "-n", "nowhere"], "name another with -n name"),
        ("admin", &["status", "--node", "n9"], "there are daemons on: n1, n2"),
        ("admin", &["install", "-n", "elsewhere"], "for the namespace weft-system"),
        ("admin", &["identity", "show", "nobody/here"], "no identity nobody/here lives there"),
        ("proxy", &["status", "-n", "weft-system"], "the user of this context may not do that"),
        ("nobody", &["status", "-n", "weft-system"], "name one with --kubeconfig file or --context name"),
    ] {
        let output = as_user(user, words);
        let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
        assert!(!output.status.success() && said.contains(sentence), "{words:?} of {user}: {said}");
    }
    // nothing of Weft on this machine: kubectl's own choice counts, and is named
    let output = as_user("admin", &["status", "--node", "n1"]);
    let (text, note) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("people/client"), "{text}{note}");
    assert!(note.contains("kubectl's current context"), "{note}");
    let shown = must(cluster, "meshctl", &["identity", "show", "-l", "app=server", "-o", "json"]);
    assert!(shown.contains("people/server") && !shown.contains("people/client"), "{shown}");
    let checks: Value = serde_json::from_str(&must(cluster, "meshctl", &["check", "-o", "json"])).expect("JSON");
    let checks = checks.as_array().expect("a list");
    assert!(checks.len() >= 6 && checks.iter().all(|check| check["ok"] == true), "{checks:?}");
}

fn issuer_nodes_and_identity(cluster: &Cluster) {
    cluster.pods("lookup", true, &[("one", "n1"), ("two", "n2")]);
    eventually("the issuer is healthy", SOON, || {
        let output = meshctl(cluster, "meshctl", &["ca", "healthcheck"]);
        let healthy = b"Server is healthy\ntrust domain cluster.local, 2 nodes have joined, 0 ";
        output.stdout.starts_with(healthy).then_some(())
    });
    let listed = must(cluster, "meshctl", &["node", "list"]);
    assert_eq!(listed.split_whitespace().collect::<Vec<_>>(), NODES);
    let shown = must(cluster, "meshctl", &["identity", "show", "lookup/two"]);
    assert!(shown.contains("spiffe://cluster.local/ns/lookup/sa/two") && shown.contains("lookup/two"), "{shown}");
    // the issuer that leads is gone for a moment: that is said, and nothing is made up
    cluster.kubectl(&["-n", "weft-system", "scale", "deployment/weft-controller", "--replicas=0"]);
    let controllers =
        ["-n", "weft-system", "get", "pods", "-l", "app.kubernetes.io/name=weft-controller", "-o", "name"];
    eventually("no controller is left", SOON, || cluster.kubectl(&controllers).trim().is_empty().then_some(()));
    let output = meshctl(cluster, "meshctl", &["ca", "healthcheck"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("controller"), "{error}");
    cluster.kubectl(&["-n", "weft-system", "scale", "deployment/weft-controller", "--replicas=2"]);
    crate::weft::await_ready(cluster);
    let healthy = || meshctl(cluster, "meshctl", &["ca", "healthcheck"]).status.success().then_some(());
    eventually("the issuer is back", SOON, healthy);
    cluster.delete_namespaces(&["lookup"]);
}
