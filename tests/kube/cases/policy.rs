//! F15: a NetworkPolicy counts at once, for connections that are there already too.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Case;
use crate::cluster::Cluster;
use crate::pod::{Pod, at};

/// The cases of this file.
pub const CASES: &[(&str, Case)] = &[("f15_a_policy_cuts_what_is_established_and_lets_it_come_again", a_policy_cuts)];

/// The longest time from the API server's answer to the last byte. The catalogue's F15 and NP-05 say a second, which is what
/// `scripts/measure kubernetes` shows; this is for a machine that is slow and busy.
const CUT_MAX: Duration = Duration::from_secs(10);

fn policy(rest: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: deny, namespace: cut}}\n\
         spec: {{podSelector: {{matchLabels: {{app: server}}}}, policyTypes: [Ingress], ingress: [{rest}]}}\n"
    )
}

fn epoch_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs_f64()
}

fn a_policy_cuts(cluster: &Cluster) {
    let pods = cluster.pods("cut", true, &[("remote", "n1"), ("neighbour", "n2"), ("server", "n2")]);
    let server = &pods[2];
    let callers: [&Pod; 2] = [&pods[0], &pods[1]];
    for caller in callers {
        caller.pings_within(server.ip(false), Duration::from_secs(90));
    }
    let loads: Vec<_> =
        callers.iter().flat_map(|caller| server.ips.iter().map(|ip| caller.until_cut(*ip, 60))).collect();
    cluster.apply(&policy(""));
    let written = epoch_seconds();
    for load in loads {
        let (lines, last) = load.finish();
        let after = last - written;
        eprintln!(
            "a denied stream of {lines} lines heard its last {after:.2} s after the policy was written (goal 1 s)"
        );
        assert!(after < CUT_MAX.as_secs_f64(), "the stream went on for {after:.2} s");
    }
    for caller in callers {
        assert!(caller.is_refused_by(&at(server.ip(false), 8080)), "denied");
    }
    // who is named is let in, and nobody else
    cluster.apply(&policy("{from: [{podSelector: {matchLabels: {app: remote}}}]}"));
    callers[0].gets(&at(server.ip(true), 8080), true);
    assert!(callers[1].is_refused_by(&at(server.ip(true), 8080)), "not named");
    cluster.kubectl(&["-n", "cut", "delete", "networkpolicy", "deny"]);
    for caller in callers {
        caller.gets(&at(server.ip(false), 8080), true);
    }
    // its kubelet's probes went on all the while
    let facts = cluster.json(&["-n", "cut", "get", "pod", "server"]);
    assert_eq!(facts["status"]["containerStatuses"][0]["ready"], true, "{}", facts["status"]);
    cluster.delete_namespaces(&["cut"]);
}
