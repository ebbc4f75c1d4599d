//! Weft comes up by its manifests, and pods on two nodes talk through it.

use std::time::{Duration, Instant};

use super::Case;
use super::uninstall::remember;
use crate::cluster::{Cluster, NODES};
use crate::pod::{MARKER, at, peer_authentication};
use crate::shell::eventually;
use crate::weft;

/// The cases of this file.
pub const CASES: &[(&str, Case)] = &[("f17_from_apply_to_encrypted_traffic", from_apply_to_encrypted_traffic)];

fn from_apply_to_encrypted_traffic(cluster: &Cluster) {
    // a pod that was there before Weft is enrolled too
    let stranger = cluster.pods("plain", false, &[("stranger", "n1")]);
    let pods = cluster.pods("demo", true, &[("client", "n1"), ("server", "n2")]);
    let (client, server, stranger) = (&pods[0], &pods[1], &stranger[0]);
    let capture = cluster.capture();
    for ip in &server.ips {
        let echoed = || client.echo(*ip, MARKER).filter(|text| text == MARKER).map(drop);
        eventually("the network works without Weft", Duration::from_secs(90), echoed);
    }
    assert!(capture.markers() >= 4, "without Weft the capture shows clear text");

    remember(cluster);
    for node in NODES {
        // a kubelet that is younger than the probe's period waits, by chance, for a part of that before its first look (kubelet,
        // prober/worker.go): in a cluster that somebody installs into it is older, and the figure below is of such a one
        let age = || cluster.must_on(node, "ps -o etimes= -C kubelet | sort -n | tail -n 1").trim().parse::<u64>();
        while age().is_ok_and(|seconds| seconds <= 10) {
            std::thread::sleep(Duration::from_millis(500));
        }
    }
    let took = weft::install(cluster, "default");
    eprintln!("from kubectl apply -k to all nodes Ready and joined: {:.1} s", took.as_secs_f64());
    for ip in &server.ips {
        let keyed =
            || cluster.must_on("n1", &format!("ip route get {ip} mark 0x01000000")).contains("mesh0").then_some(());
        eventually("the server's address leads to mesh0", Duration::from_secs(90), keyed);
        client.pings_within(*ip, Duration::from_secs(90));
    }
    let capture = cluster.capture();
    for ip in &server.ips {
        assert_eq!(client.echo(*ip, &MARKER.repeat(100)), Some(MARKER.repeat(100)));
        assert_eq!(client.get(&at(*ip, 8080)).as_deref(), Some("server"));
        assert_eq!(stranger.get(&at(*ip, 8080)).as_deref(), Some("server"), "PERMISSIVE takes a stranger's clear text");
    }
    assert_eq!(capture.markers(), 0, "clear text on the wire between two enrolled pods");

    cluster.apply(&peer_authentication("demo", "STRICT"));
    for ip in &server.ips {
        stranger.gets(&at(*ip, 8080), false);
        let begin = Instant::now();
        assert_eq!(client.get(&at(*ip, 8080)).as_deref(), Some("server"), "STRICT takes an enrolled pod");
        eprintln!("under STRICT a member's request took {:.2} s", begin.elapsed().as_secs_f64());
    }
    cluster.delete_namespaces(&["demo", "plain"]);
}
