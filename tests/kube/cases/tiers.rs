//! The administrator's tiers around NetworkPolicy on a real API server, and what is told of a policy that is not read whole.

use std::time::Duration;

use super::Case;
use crate::cluster::Cluster;
use crate::pod::Pod;
use crate::shell::eventually;

/// The cases of this file.
pub const CASES: &[(&str, Case)] =
    &[("f7_the_administrators_tiers_come_before_and_after_network_policy", tiers_around_network_policy)];

/// A kind that is not there is asked for every half a minute.
const INSTALLED: Duration = Duration::from_secs(150);
const SOON: Duration = Duration::from_secs(90);
/// The kinds: name, version, plural.
pub const KINDS: [(&str, &str, &str); 3] = [
    ("ClusterNetworkPolicy", "v1alpha2", "clusternetworkpolicies"),
    ("AdminNetworkPolicy", "v1alpha1", "adminnetworkpolicies"),
    ("BaselineAdminNetworkPolicy", "v1alpha1", "baselineadminnetworkpolicies"),
];

/// The kinds of network-policy-api as it serves them: group, versions, names, scope and the fields of a spec. Written by hand: the
/// schemas of what peers and ports hold are left open, so that the server takes whatever a later version of the API may say.
pub fn definition((kind, version, plural): (&str, &str, &str)) -> String {
    let open = "{type: array, items: {type: object, x-kubernetes-preserve-unknown-fields: true}}";
    let singular = kind.to_lowercase();
    format!(
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n\
         metadata: {{name: {plural}.policy.networking.k8s.io, annotations: {{api-approved.kubernetes.io: \
         'https://github.com/kubernetes-sigs/network-policy-api/pull/30'}}}}\n\
         spec: {{group: policy.networking.k8s.io, scope: Cluster, names: {{kind: {kind}, listKind: {kind}List, plural: {plural}, \
         singular: {singular}}}, versions: [{{name: {version}, served: true, storage: true, subresources: {{status: {{}}}}, schema: \
         {{openAPIV3Schema: {{type: object, required: [metadata, spec], properties: {{spec: {{type: object, required: [subject], \
         properties: {{tier: {{type: string, enum: [Admin, Baseline]}}, priority: {{type: integer, minimum: 0, maximum: 1000}}, \
         subject: {{type: object, x-kubernetes-preserve-unknown-fields: true}}, ingress: {open}, egress: {open}}}}}, \
         status: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}}}}}}}]}}\n---\n"
    )
}

const SERVER: &str = "{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: tiers}}, podSelector: {matchLabels: {app: server}}}}";
const OF_PLAIN: &str = "from: [{namespaces: {matchLabels: {kubernetes.io/metadata.name: tiers-plain}}}]";

fn cluster_policy(name: &str, priority: u16, action: &str) -> String {
    format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: {name}}}\n\
         spec: {{tier: Admin, priority: {priority}, subject: {SERVER}, ingress: [{{action: {action}, {OF_PLAIN}}}]}}\n---\n"
    )
}

fn network_policy(ingress: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: own, namespace: tiers}}\n\
         spec: {{podSelector: {{matchLabels: {{app: server}}}}, ingress: {ingress}}}\n---\n"
    )
}

/// Waits until each of these reaches the server, or does not, over both families.
fn expect(why: &str, server: &Pod, pods: [(&Pod, bool); 3], within: Duration) {
    Pod::all_get(why, &pods, server, 8080, within);
}

fn tiers_around_network_policy(cluster: &Cluster) {
    cluster.apply(&KINDS.map(definition).concat());
    let plain = cluster.pods("tiers-plain", false, &[("stranger", "n1")]);
    let pods = cluster.pods("tiers", true, &[("client", "n1"), ("near", "n2"), ("server", "n2")]);
    let (client, near, server, stranger) = (&pods[0], &pods[1], &pods[2], &plain[0]);
    let all = |members: bool, outsider: bool| [(client, members), (near, members), (stranger, outsider)];
    for (_, _, plural) in KINDS {
        let kind = format!("{plural}.policy.networking.k8s.io");
        cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=120s", "crd", &kind]);
    }
    expect("without policies", server, all(true, true), SOON);

    cluster.apply(&(network_policy("[{}]") + &cluster_policy("not-plain", 10, "Deny")));
    expect("a Deny beats the NetworkPolicy that allows", server, all(true, false), INSTALLED);
    cluster.apply(&cluster_policy("a-pass", 5, "Pass"));
    expect("Pass leaves it to the NetworkPolicy, which allows", server, all(true, true), SOON);
    cluster.apply(&network_policy("[]"));
    expect("and which closes", server, all(false, false), SOON);
    cluster.kubectl(&["delete", "clusternetworkpolicy", "a-pass", "not-plain"]);
    cluster.apply(&format!(
        "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {{name: plain}}\n\
         spec: {{priority: 7, subject: {SERVER}, ingress: [{{action: Allow, {OF_PLAIN}}}]}}\n"
    ));
    expect("an Allow beats the NetworkPolicy that closes", server, all(false, true), INSTALLED);
    cluster.kubectl(&["delete", "adminnetworkpolicy", "plain"]);
    cluster.kubectl(&["-n", "tiers", "delete", "networkpolicy", "own"]);
    expect("without policies", server, all(true, true), SOON);

    cluster.apply(&format!(
        "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: BaselineAdminNetworkPolicy\nmetadata: {{name: default}}\n\
         spec: {{subject: {SERVER}, ingress: [{{action: Deny, from: [{{namespaces: {{}}}}]}}]}}\n"
    ));
    expect("the baseline denies where no NetworkPolicy selects", server, all(false, false), INSTALLED);
    cluster.apply(&network_policy("[{from: [{podSelector: {}}]}]"));
    expect("and nothing where one does", server, all(true, false), SOON);
    cluster.kubectl(&["delete", "baselineadminnetworkpolicy", "default"]);
    told_of(cluster, server, all(false, false));
    // with the kinds their policies go
    cluster.kubectl(&["-n", "tiers", "delete", "networkpolicy", "own"]);
    forget_kinds(cluster);
    expect("without the kinds", server, all(true, true), INSTALLED);
    cluster.delete_namespaces(&["tiers", "tiers-plain"]);
}

/// Takes the kinds away, and with them every policy of theirs.
pub fn forget_kinds(cluster: &Cluster) {
    let plurals = KINDS.map(|(_, _, plural)| format!("{plural}.policy.networking.k8s.io"));
    cluster.kubectl(&[&["delete", "crd", "--timeout=240s"][..], &plurals.each_ref().map(String::as_str)].concat());
}

/// What the server takes and Weft does not read closes where it denies, and is told by an Event about the policy. This server
/// takes no NetworkPolicy of which Weft does not read everything, so that it is shown of an administrator's.
fn told_of(cluster: &Cluster, server: &Pod, none: [(&Pod, bool); 3]) {
    cluster.apply(&cluster_policy("later", 3, "Deny").replace(OF_PLAIN, "from: [{colour: blue}]"));
    expect("a Deny of whom nobody knows is one of everybody", server, none, SOON);
    let selector = "involvedObject.kind=ClusterNetworkPolicy,involvedObject.name=later,reason=PartsUnreadable";
    eventually("there is an Event about the policy", SOON, || {
        let events = cluster.json(&["-n", "default", "get", "events", "--field-selector", selector]);
        let mut items = events["items"].as_array()?.iter();
        let part = "spec.ingress[0].from[0]";
        items.any(|event| event["message"].as_str().is_some_and(|text| text.contains(part))).then_some(())
    });
    let shown = cluster.kubectl(&["describe", "clusternetworkpolicy", "later"]);
    assert!(shown.contains("PartsUnreadable"), "{shown}");
    cluster.kubectl(&["delete", "clusternetworkpolicy", "later"]);
}
