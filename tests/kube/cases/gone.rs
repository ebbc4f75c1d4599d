//! PL-15: a node that is gone from the API server while it and its pods are still there.

use std::time::{Duration, Instant};

use super::Case;
use crate::cluster::{Cluster, NODES};
use crate::pod::MARKER;
use crate::shell::eventually;
use crate::weft::{self, DAEMON};

/// The cases of this file.
pub const CASES: &[(&str, Case)] =
    &[("pl_15_a_node_that_is_deleted_takes_its_keys_along_and_nothing_opens", a_node_is_deleted)];

fn a_node_is_deleted(cluster: &Cluster) {
    let pods = cluster.pods("gone", true, &[("client", "n1"), ("server", "n2")]);
    let (client, server) = (&pods[0], &pods[1]);
    for ip in &server.ips {
        client.pings_within(*ip, Duration::from_secs(60));
    }
    let talk = client.talk(server.ip(true), 300);
    let capture = cluster.capture();
    // its pods stay, and the way to them in clear text: nobody clears away after it, and its daemon does not come back
    cluster.plane.kill("kube-controller-manager");
    cluster.must_on("n2", &format!("kill -STOP $({DAEMON})"));
    cluster.kubectl(&["delete", "node", "n2"]);
    cluster.kubectl(&["delete", "meshnode", "n2", "--ignore-not-found"]);
    eventually("the controller takes its word on the node away", Duration::from_secs(120), || {
        let slice = cluster.try_kubectl(&["get", "meshendpointslice", "n2", "--ignore-not-found", "-o", "name"]);
        (slice.status.success() && slice.stdout.is_empty()).then_some(())
    });
    let refused = || server.ips.iter().all(|ip| client.is_not_echoed_by(*ip)).then_some(());
    eventually("a node that is gone is not reached", Duration::from_secs(90), refused);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(5) {
        for ip in &server.ips {
            assert!(client.is_not_echoed_by(*ip), "a node that is gone is reached");
        }
    }
    // as the kubelet would write it again
    cluster.make_node("n2");
    cluster.must_on("n2", &format!("kill -CONT $({DAEMON})"));
    cluster.plane.start("kube-controller-manager");
    cluster.await_nodes();
    weft::await_ready(cluster);
    for ip in &server.ips {
        client.pings_within(*ip, Duration::from_secs(120));
        eventually("it is reached again", Duration::from_secs(90), || client.echo(*ip, MARKER));
    }
    let (lines, gap) = talk.enough();
    eprintln!("{}'s objects deleted and written again: {lines} lines, none lost, longest wait {gap:.2} s", NODES[1]);
    assert_eq!(capture.markers(), 0, "clear text to the pods of a node that is gone");
    cluster.delete_namespaces(&["gone"]);
}
