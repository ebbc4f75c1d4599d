//! F15: a NetworkPolicy counts at once, for connections that are there already too.

use std::time::Duration;

use super::Case;
use super::trust::as_admin;
use crate::cluster::Cluster;
use crate::pod::{Pod, at};
use crate::promise::{epoch_seconds, keeps};

/// The cases of this file.
pub const CASES: &[(&str, Case)] = &[("f15_a_policy_cuts_what_is_established_and_lets_it_come_again", a_policy_cuts)];

/// The longest time from the request to the API server until the last byte (the catalogue's F15 and NP-05), in seconds.
const CUT_MAX: f64 = 1.0;
/// Where the policies of the case are.
const POLICIES: &str = "apis/networking.k8s.io/v1/namespaces/cut/networkpolicies";

fn policy(rest: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: deny, namespace: cut}}\n\
         spec: {{podSelector: {{matchLabels: {{app: server}}}}, policyTypes: [Ingress], ingress: [{rest}]}}\n"
    )
}

/// How long after a policy was asked for the last of the callers' streams heard its last word; the policy stays.
fn last_word(cluster: &Cluster, callers: [&Pod; 2], server: &Pod) -> f64 {
    if cluster.try_kubectl(&["-n", "cut", "get", "networkpolicy", "deny"]).status.success() {
        as_admin(cluster, "DELETE", &format!("{POLICIES}/deny"), "");
    }
    Pod::all_get("without a policy", &callers.map(|caller| (caller, true)), server, 8080, Duration::from_secs(90));
    let loads: Vec<_> =
        callers.iter().flat_map(|caller| server.ips.iter().map(|ip| caller.until_cut(*ip, 60))).collect();
    let deny = "{\"apiVersion\":\"networking.k8s.io/v1\",\"kind\":\"NetworkPolicy\",\"metadata\":{\"name\":\"deny\"},\"spec\":\
                {\"podSelector\":{\"matchLabels\":{\"app\":\"server\"}},\"policyTypes\":[\"Ingress\"]}}";
    // the streams' ends are told by their own clocks; what the request itself takes counts
    let asked = epoch_seconds();
    as_admin(cluster, "POST", POLICIES, deny);
    let after = loads.into_iter().map(|load| {
        let (lines, last) = load.finish();
        assert!(last > asked, "a stream of {lines} lines ended before the policy was there");
        last - asked
    });
    after.fold(0.0, f64::max)
}

fn a_policy_cuts(cluster: &Cluster) {
    let pods = cluster.pods("cut", true, &[("remote", "n1"), ("neighbour", "n2"), ("server", "n2")]);
    let server = &pods[2];
    let callers: [&Pod; 2] = [&pods[0], &pods[1]];
    for caller in callers {
        caller.pings_within(server.ip(false), Duration::from_secs(90));
    }
    let cut = || last_word(cluster, callers, server);
    keeps("from a policy's request until the last of four denied streams heard its last word", CUT_MAX, cut);
    for caller in callers {
        assert!(caller.is_refused_by(&at(server.ip(false), 8080)), "denied");
    }
    // whom no rule lets in are pods: the kubelet of the server's node asks it all the while
    cluster.await_probe("n2", "cut/server");
    // who is named is let in, and nobody else
    cluster.apply(&policy("{from: [{podSelector: {matchLabels: {app: remote}}}]}"));
    callers[0].gets(&at(server.ip(true), 8080), true);
    assert!(callers[1].is_refused_by(&at(server.ip(true), 8080)), "not named");
    cluster.kubectl(&["-n", "cut", "delete", "networkpolicy", "deny"]);
    for caller in callers {
        caller.gets(&at(server.ip(false), 8080), true);
    }
    cluster.delete_namespaces(&["cut"]);
}
