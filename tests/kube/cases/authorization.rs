//! Who may talk to whom: NetworkPolicy and AuthorizationPolicy from the API server cut and open real traffic, what cannot be
//! judged by packets is refused at the door, and what slips through is told of in the status.

use std::time::Duration;

use super::Case;
use crate::cluster::Cluster;
use crate::pod::{Pod, at};
use crate::shell::eventually;

/// The cases of this file.
pub const CASES: &[(&str, Case)] = &[
    ("f7_network_policy_and_authorization_policy_cut_and_open", policies_cut_and_open),
    ("authorization_policies_are_checked_at_the_door_and_judged_in_their_status", policies_are_checked),
];

fn network_policy(namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: to-server, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

fn authorization_policy(namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: to-server, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

/// Who gets through to the server in both families, and nobody else.
fn only(allowed: &[&Pod], refused: &[&Pod], server: &Pod) {
    let pods: Vec<_> = refused.iter().map(|pod| (*pod, false)).chain(allowed.iter().map(|pod| (*pod, true))).collect();
    Pod::all_get("by policy", &pods, server, 8080, Duration::from_secs(90));
}

fn policies_cut_and_open(cluster: &Cluster) {
    let plain = cluster.pods("policy-plain", false, &[("stranger", "n1")]);
    let pods = cluster.pods("policy", true, &[("client", "n1"), ("other", "n1"), ("near", "n2"), ("server", "n2")]);
    let (client, other, near, server, stranger) = (&pods[0], &pods[1], &pods[2], &pods[3], &plain[0]);
    only(&[client, other, near, stranger], &[], server);

    // by labels and port: the other port is closed to the same pod
    let selected = "podSelector: {matchLabels: {app: server}}";
    let from = "{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 8080}]}";
    cluster.apply(&network_policy("policy", &format!("{{{selected}, ingress: [{from}]}}")));
    only(&[client], &[other, near, stranger], server);
    assert!(client.is_not_echoed_by(server.ip(false)), "a port that no rule names");
    cluster.kubectl(&["-n", "policy", "delete", "networkpolicy", "to-server"]);
    only(&[client, other, near, stranger], &[], server);

    // by identity: a live connection is cut, and goes on when it is allowed again
    let selected = "selector: {matchLabels: {app: server}}";
    let principals = |names: &str| format!("rules: [{{from: [{{source: {{principals: [{names}]}}}}]}}]");
    let near_only = principals("cluster.local/ns/policy/sa/near");
    let talk = client.talk(server.ip(false), 900);
    cluster.apply(&authorization_policy("policy", &format!("{{{selected}, action: ALLOW, {near_only}}}")));
    only(&[near], &[client, other, stranger], server);
    let both = principals("cluster.local/ns/policy/sa/client, cluster.local/ns/policy/sa/near");
    cluster.apply(&authorization_policy("policy", &format!("{{{selected}, action: ALLOW, {both}}}")));
    only(&[client, near], &[other, stranger], server);
    let (lines, gap) = talk.enough();
    eprintln!("a connection that was cut and opened again: {lines} lines, none lost, longest wait {gap:.2} s");
    assert!(gap > 0.2, "the live connection was not cut: longest wait {gap:.2} s");

    // a denial of one, and all others as before
    let denied = principals("cluster.local/ns/policy/sa/client");
    cluster.apply(&authorization_policy("policy", &format!("{{{selected}, action: DENY, {denied}}}")));
    only(&[other, near, stranger], &[client], server);
    let shown = cluster.kubectl(&["-n", "policy", "get", "ap", "to-server"]);
    assert!(shown.contains("DENY"), "{shown}");
    cluster.kubectl(&["-n", "policy", "delete", "ap", "to-server"]);
    only(&[client, other, near, stranger], &[], server);
    cluster.delete_namespaces(&["policy", "policy-plain"]);
}

/// Status, reason, message and generation of the condition Accepted.
fn accepted(cluster: &Cluster, kind: &str, name: &str) -> String {
    let path = "jsonpath={range .status.conditions[?(@.type=='Accepted')]}{.status} {.reason} {.observedGeneration} {.message}{end}";
    cluster.kubectl(&["-n", "judged", "get", kind, name, "-o", path])
}

fn policies_are_checked(cluster: &Cluster) {
    let refused = [
        (
            "{rules: [{to: [{operation: {methods: [GET]}}]}]}",
            "methods: it would take reading HTTP inside the connection",
        ),
        ("{rules: [{to: [{operation: {paths: [/a], ports: ['80']}}]}]}", "paths: it would take reading HTTP"),
        ("{rules: [{to: [{operation: {notHosts: [a]}}]}]}", "notHosts: it would take reading HTTP"),
        ("{rules: [{when: [{key: 'request.headers[x]', values: [y]}]}]}", "when: conditions are about requests"),
        ("{rules: [{from: [{source: {requestPrincipals: [a]}}]}]}", "requestPrincipals: it is about a JSON web token"),
        ("{rules: [{from: [{source: {remoteIpBlocks: [10.0.0.0/8]}}]}]}", "remoteIpBlocks: it is about an HTTP header"),
        ("{targetRefs: [{kind: Gateway, name: a}]}", "targetRefs: gateways and waypoints are proxies"),
        ("{provider: {name: a}}", "provider: asking an external authorizer"),
        ("{action: CUSTOM}", "supported values: \"ALLOW\", \"DENY\", \"AUDIT\""),
        ("{rules: [{from: [{source: {principals: ['*']}}]}]}", "names match exactly"),
        ("{rules: [{from: [{source: {}}]}]}", "nobody is meant so far"),
        ("{rules: [{to: [{operation: {ports: ['70000']}}]}]}", "a port is a number from 1 to 65535"),
        ("{rules: [{to: [{operation: {ports: [0]}}]}]}", "a port is a number from 1 to 65535"),
        ("{direction: Outbound, rules: [{from: [{source: {namespaces: [a]}}]}]}", "an outbound policy says whom"),
        ("{rules: [{to: [{destination: {namespaces: [a]}}]}]}", "is said by a policy of `direction: Outbound`"),
    ];
    for (spec, sentence) in refused {
        let output = cluster.try_apply("admin", &authorization_policy("default", spec));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(sentence), "{spec}: {said}");
    }
    let is_accepted = |kind: &str, name: &str, wanted: &str| {
        let what = format!("the status of {name} says {wanted}");
        eventually(&what, Duration::from_secs(90), || accepted(cluster, kind, name).starts_with(wanted).then_some(()));
    };
    // a slip of the pen is kept, closes what it is about, and is told of
    let pods = cluster.pods("judged", true, &[("client", "n1"), ("server", "n2")]);
    let (client, url) = (&pods[0], at(pods[1].ip(false), 8080));
    let source = "principals: [cluster.local/ns/judged/sa/client]";
    cluster.apply(&authorization_policy(
        "judged",
        &format!("{{rules: [{{from: [{{source: {{{source}, notIpBlock: [10.0.0.0/8]}}}}]}}]}}"),
    ));
    is_accepted(
        "ap",
        "to-server",
        "False PartsUnreadable 1 spec.rules[0].from[0].source.notIpBlock: this field is not known",
    );
    client.gets(&url, false);
    cluster.apply(&authorization_policy("judged", &format!("{{rules: [{{from: [{{source: {{{source}}}}}]}}]}}")));
    is_accepted("ap", "to-server", "True Read 2");
    client.gets(&url, true);
    let version =
        || cluster.kubectl(&["-n", "judged", "get", "ap", "to-server", "-o", "jsonpath={.metadata.resourceVersion}"]);
    let before = version();
    // it is said once: another policy is judged meanwhile, and this one is not written again
    cluster.apply(&crate::pod::peer_authentication("judged", "STRICT"));
    is_accepted("pa", "default", "True Read 1");
    assert_eq!(version(), before, "the status is written again although nothing changed");
    let explained = cluster.kubectl(&["explain", "authorizationpolicy.spec.rules.from.source.principals"]);
    assert!(explained.contains("proved by key"), "{explained}");
    cluster.delete_namespaces(&["judged"]);
}
