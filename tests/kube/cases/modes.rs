//! F8 to F13: modes and enrolment by labels, on real pods that are never restarted.

use std::time::Duration;

use super::Case;
use super::people::{meshctl, must};
use crate::cluster::Cluster;
use crate::pod::{MARKER, Pod, at, peer_authentication, pod};
use crate::shell::eventually;

/// The cases of this file.
pub const CASES: &[(&str, Case)] = &[
    ("f8_f9_f10_f11_modes_by_scope", modes_by_scope),
    ("f14_who_talks_in_clear_text_is_named_before_strict", named_before_strict),
    ("f12_f13_a_workload_leaves_and_comes_back_without_a_restart", a_workload_leaves_and_comes_back),
];

/// Longest wait for what comes within seconds on a machine that is slow.
const SOON: Duration = Duration::from_secs(90);

/// Waits until what a pod sends to another is encrypted (true) or clear (false) on the wire.
fn is_encrypted(cluster: &Cluster, from: &Pod, to: &Pod, wanted: bool) {
    for ip in &to.ips {
        let what = format!("{} to {ip} is {}", from.name, if wanted { "encrypted" } else { "clear" });
        eventually(&what, SOON, || {
            let capture = cluster.capture();
            let echoed = from.echo(*ip, MARKER).is_some_and(|text| text == MARKER);
            let markers = capture.markers();
            (echoed && (markers == 0) == wanted).then_some(())
        });
    }
}

fn modes_by_scope(cluster: &Cluster) {
    let plain = cluster.pods("modes-plain", false, &[("stranger", "n1")]);
    let pods = cluster.pods("modes", true, &[("client", "n1"), ("server", "n2"), ("other", "n2")]);
    let (client, server, other, stranger) = (&pods[0], &pods[1], &pods[2], &plain[0]);
    let http = |pod: &Pod| at(pod.ip(false), 8080);
    is_encrypted(cluster, client, server, true);
    stranger.gets(&http(server), true);

    // mesh-wide, then a namespace's own, then a workload's: the narrower counts
    cluster.apply(&peer_authentication("weft-system", "STRICT"));
    stranger.gets(&http(server), false);
    stranger.gets(&http(other), false);
    assert_eq!(client.get(&http(server)).as_deref(), Some("server"));
    cluster.apply(&peer_authentication("modes", "PERMISSIVE"));
    stranger.gets(&http(server), true);
    cluster.await_enforced("modes", "PERMISSIVE", "3/3");
    cluster.apply(
        "apiVersion: weft.dev/v1alpha1\nkind: PeerAuthentication\nmetadata: {name: server, namespace: modes}\n\
         spec: {selector: {matchLabels: {app: server}}, mtls: {mode: STRICT}, portLevelMtls: {'9000': {mode: PERMISSIVE}}}\n",
    );
    stranger.gets(&http(server), false);
    stranger.gets(&http(other), true);
    assert_eq!(stranger.echo(server.ip(true), "open").as_deref(), Some("open"), "a port of its own mode");
    let shown = cluster.kubectl(&["-n", "modes", "get", "pa"]);
    assert!(shown.contains("STRICT") && shown.contains("PERMISSIVE"), "{shown}");

    // DISABLE: clear text only
    cluster.kubectl(&["-n", "modes", "delete", "pa", "server"]);
    cluster.apply(&peer_authentication("modes", "DISABLE"));
    is_encrypted(cluster, client, server, false);
    // all as it says: out of the mesh
    cluster.await_enforced("modes", "DISABLE", "3/3");
    cluster.kubectl(&["delete", "pa", "-n", "modes", "default"]);
    cluster.kubectl(&["delete", "pa", "-n", "weft-system", "default"]);
    is_encrypted(cluster, client, server, true);
    stranger.gets(&http(server), true);
    cluster.delete_namespaces(&["modes", "modes-plain"]);
}

fn named_before_strict(cluster: &Cluster) {
    let plain = cluster.pods("ready-plain", false, &[("stranger", "n1")]);
    let pods = cluster.pods("ready", true, &[("client", "n1"), ("server", "n2")]);
    let (client, server, stranger) = (&pods[0], &pods[1], &plain[0]);
    let web = at(server.ip(false), 8080);
    is_encrypted(cluster, client, server, true);
    // the ten minutes for which clear text is remembered
    let pass = || drop(cluster.must_on("n2", "nft 'flush set inet weft clear_seen4; flush set inet weft clear_seen6'"));
    let asks = || meshctl(cluster, "meshctl", &["check", "--strict", "ready"]);
    // the last words of a connection that is over may come after its end
    let finds_nobody = || {
        pass();
        client.gets(&web, true);
        let output = asks();
        let said = String::from_utf8_lossy(&output.stdout).contains("2 of 2");
        (output.status.success() && said).then_some(())
    };
    eventually("nobody talks in clear text", SOON, finds_nobody);
    eventually("who does is named", SOON, || {
        stranger.gets(&web, true);
        let output = asks();
        let named = "ready-plain/stranger to ready/server tcp port 8080";
        (!output.status.success() && String::from_utf8_lossy(&output.stdout).contains(named)).then_some(())
    });
    eventually("nobody does any more", SOON, finds_nobody);
    let talk = client.talk(server.ip(false), 900);
    // one more, for which there is no node
    let late = pod("ready", "late", "n1", "").replace("nodeName: n1", "nodeSelector: {there: is-none}");
    cluster.apply(&(late + &peer_authentication("ready", "STRICT")));
    stranger.gets(&web, false);
    cluster.await_enforced("ready", "STRICT", "2/3");
    // it is let out of the mesh; what only pods change is told late, what people write of the object soon
    cluster.kubectl(&["-n", "ready", "label", "pod", "late", "weft.dev/mesh=disabled"]);
    cluster.kubectl(&[
        "-n",
        "ready",
        "patch",
        "pa",
        "default",
        "--type=merge",
        "-p",
        r#"{"spec":{"outbound":"Opportunistic"}}"#,
    ]);
    cluster.await_enforced("ready", "STRICT", "2/2");
    client.gets(&web, true);
    eventually("who was refused is named", SOON, || {
        let shown = must(cluster, "meshctl", &["status", "--node", "n2"]);
        shown.split("Clear text refused").nth(1)?.split("\n  ").nth(1)?.contains("ready-plain/stranger").then_some(())
    });
    let (lines, gap) = talk.enough();
    eprintln!("PERMISSIVE to STRICT: {lines} lines, none lost, longest wait {gap:.2} s");
    cluster.delete_namespaces(&["ready", "ready-plain"]);
}

fn a_workload_leaves_and_comes_back(cluster: &Cluster) {
    let pods = cluster.pods("leave", false, &[("client", "n1"), ("server", "n2")]);
    let (client, server) = (&pods[0], &pods[1]);
    let of = |path: &str| cluster.kubectl(&["-n", "leave", "get", "pods", "-o", path]);
    let life = "jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}\n{end}";
    let before = of(life);
    is_encrypted(cluster, client, server, false);
    let talk = client.talk(server.ip(false), 900);
    cluster.kubectl(&["label", "namespace", "leave", "weft.dev/mesh=enabled", "--overwrite"]);
    is_encrypted(cluster, client, server, true);
    cluster.kubectl(&["-n", "leave", "label", "pod", "server", "weft.dev/mesh=disabled"]);
    is_encrypted(cluster, client, server, false);
    cluster.kubectl(&["-n", "leave", "label", "pod", "server", "weft.dev/mesh-"]);
    is_encrypted(cluster, client, server, true);
    cluster.kubectl(&["label", "namespace", "leave", "weft.dev/mesh-"]);
    is_encrypted(cluster, client, server, false);
    cluster.kubectl(&["label", "namespace", "leave", "weft.dev/mesh=enabled"]);
    is_encrypted(cluster, client, server, true);
    let (lines, gap) = talk.enough();
    eprintln!("a connection through five changes: {lines} lines, none lost, longest wait {gap:.2} s");
    assert_eq!(before, of(life), "no pod was restarted");
    cluster.delete_namespaces(&["leave"]);
}
