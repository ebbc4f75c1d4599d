//! UP-02, the part with two versions: daemons and controllers of an older build and of this one in one cluster, taking turns.
//!
//! `WEFT_KUBE_OLDER` is the older `meshd`, built from whatever commit is asked about; `WEFT_KUBE_MIXED` is for how many seconds one node's
//! daemon stays older than the other's, beside what the steps take. An upgrade goes the way that
//! docs/upgrade.md says: daemons first, then the controllers; the way back is the other way round.

use std::time::{Duration, Instant};

use super::Case;
use crate::cluster::{Cluster, NODES, ROOT};
use crate::pod::{MARKER, READY, at, peer_authentication, pod};
use crate::shell::{eventually, run};
use crate::weft;

/// It needs another build: `WEFT_KUBE_OLDER=FILE scripts/test kubernetes -- versions`.
pub const LONG: &[(&str, Case)] = &[("versions_of_two_builds_take_turns_in_one_cluster", two_builds)];

/// The image that the older program is in.
const OLDER: &str = "localhost/weft:older";
/// What all others use.
const NEWER: &str = "localhost/weft:dev";

/// Brings an image with the older program to every node.
fn bring(cluster: &Cluster) {
    let older = std::env::var("WEFT_KUBE_OLDER").expect("WEFT_KUBE_OLDER is a meshd of an older build");
    let (tool, root) = (format!("{ROOT}/scripts/image"), cluster.dir.join("older"));
    let (folder, archive) = (root.display().to_string(), cluster.dir.join("older.tar").display().to_string());
    run(&tool, &["root", &folder, "dev"]);
    run("install", &["-m", "755", "-s", &older, &format!("{folder}/usr/local/bin/meshd")]);
    run(&tool, &["pack", &archive, OLDER, &folder, "/usr/local/bin/meshd"]);
    for node in NODES {
        let ctr = cluster.tools.join("ctr");
        cluster.must_on(node, &format!("{} -n k8s.io image import {archive}", ctr.display()));
    }
}

fn controllers(cluster: &Cluster, image: &str) {
    cluster.kubectl(&["-n", "weft-system", "set", "image", "deployment/weft-controller", &format!("*={image}")]);
    cluster.kubectl(&["-n", "weft-system", "rollout", "status", "deployment/weft-controller", "--timeout=120s"]);
    weft::await_ready(cluster);
}

/// One node's daemon; the others follow when their turn is.
fn daemon(cluster: &Cluster, node: &str, image: &str) {
    cluster.kubectl(&["-n", "weft-system", "set", "image", "daemonset/weft-node", &format!("*={image}")]);
    let selector = format!("--field-selector=spec.nodeName={node}");
    let label = "app.kubernetes.io/name=weft-node";
    cluster.kubectl(&["-n", "weft-system", "delete", "pod", "-l", label, &selector, "--timeout=60s"]);
    eventually(&format!("{node}'s daemon is Ready"), Duration::from_secs(60), || {
        let list = cluster.json(&["-n", "weft-system", "get", "pods", "-l", label, &selector]);
        let pod = list["items"].as_array()?.iter().find(|pod| pod["metadata"]["deletionTimestamp"].is_null())?.clone();
        let runs = pod["spec"]["containers"][0]["image"] == image;
        (runs && pod["status"]["containerStatuses"][0]["ready"] == true).then_some(())
    });
}

/// Two pods that nobody knows yet talk with each other and with those that are there, both ways and in both families.
fn new_pods_talk(cluster: &Cluster, step: &str) {
    let name = |side: &str| format!("{side}-{step}");
    let made = NODES.map(|node| {
        let name = name(node);
        cluster.apply(&pod("versions", &name, node, READY));
        cluster.pod(&format!("versions/{name}"))
    });
    let client = cluster.pod("versions/client");
    for (from, to) in [(&made[0], &made[1]), (&made[1], &made[0]), (&made[1], &client), (&client, &made[1])] {
        for ip in &to.ips {
            from.pings_within(*ip, Duration::from_secs(30));
            let what = format!("{step}: {} talks with {ip}", from.name);
            eventually(&what, Duration::from_secs(20), || from.echo(*ip, MARKER));
        }
    }
}

fn two_builds(cluster: &Cluster) {
    bring(cluster);
    let plain = cluster.pods("versions-plain", false, &[("stranger", "n1")]);
    let pods = cluster.pods("versions", true, &[("client", "n1"), ("server", "n2")]);
    cluster.apply(&peer_authentication("versions", "STRICT"));
    let (client, server) = (&pods[0], &pods[1]);
    let mixed = std::env::var("WEFT_KUBE_MIXED").map_or(0, |text| text.parse().expect("WEFT_KUBE_MIXED is a number"));
    let talks: Vec<_> = server.ips.iter().map(|ip| client.talks(*ip, 100, mixed + 600)).collect();
    // new connections, some dozens a second
    let requests: Vec<_> = server.ips.iter().map(|ip| client.requests(*ip, 8080, mixed + 600)).collect();
    let capture = cluster.capture();
    let by_hand = r#"{"spec":{"updateStrategy":{"type":"OnDelete","rollingUpdate":null}}}"#;
    cluster.kubectl(&["-n", "weft-system", "patch", "daemonset", "weft-node", "-p", by_hand]);
    let refused = |step: &str| {
        for ip in &server.ips {
            assert_eq!(plain[0].get(&at(*ip, 8080)), None, "{step}: a stranger");
        }
    };
    let step = |step: &str| {
        new_pods_talk(cluster, step);
        refused(step);
        eprintln!("{step}: as it should be");
    };
    // back to the older one: controllers first
    controllers(cluster, OLDER);
    step("older-controller");
    daemon(cluster, "n1", OLDER);
    step("down-one-older");
    daemon(cluster, "n2", OLDER);
    step("all-older");
    // and the upgrade: daemons first
    daemon(cluster, "n2", NEWER);
    step("up-one-newer");
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(mixed.into()) {
        std::thread::sleep(Duration::from_secs(5));
        refused("while versions are mixed");
    }
    daemon(cluster, "n1", NEWER);
    step("daemons-newer");
    controllers(cluster, NEWER);
    step("all-newer");
    for talk in talks {
        let (lines, gap) = talk.enough();
        eprintln!("two builds by turns: {lines} lines over 100 connections, none broken, longest wait {gap:.2} s");
    }
    for requests in requests {
        let (count, slowest) = requests.enough();
        eprintln!(
            "two builds by turns: {count} new connections, none refused, the slowest answer after {slowest:.2} s"
        );
    }
    // against the order: what an older daemon misses is closed, and comes with the daemon that knows where it is
    daemon(cluster, "n1", OLDER);
    let answers = server.ips.iter().filter(|ip| client.echo(**ip, MARKER).is_some()).count();
    let label = ["-l", "app.kubernetes.io/name=weft-node", "--field-selector=spec.nodeName=n1", "-o", "name"];
    let name = cluster.kubectl(&[&["-n", "weft-system", "get", "pods"], &label[..]].concat());
    let status = cluster.kubectl(&["-n", "weft-system", "exec", name.trim(), "--", "meshctl", "status"]);
    eprintln!("an older daemon under a newer controller reaches {answers} of 2 addresses, and says:\n{status}");
    refused("against the order");
    daemon(cluster, "n1", NEWER);
    step("mended");
    assert_eq!(capture.markers(), 0, "clear text while versions were mixed");
    weft::install(cluster, "default");
    cluster.delete_namespaces(&["versions", "versions-plain"]);
}
