//! The administrator's tiers around NetworkPolicy: Deny and Accept before it, Pass through to it, Baseline where none selects.

use super::policy::{SOON, idle_pod, network_policy, until};
use crate::agent::Agents;
use crate::lab::{Lab, namespace};
use crate::shell::eventually;

pub const CASES: &[(&str, fn())] = &[
    ("policy_tiers_on_one_node", || tiers(["n1", "n1", "n1"], "nodes: 1")),
    ("policy_tiers_over_three_nodes", || tiers(["n1", "n2", "n3"], "nodes: 3")),
];

const PODS: [&str; 3] = ["demo/server", "demo/client", "plain/out"];
/// `from` of a whole namespace.
const PLAIN: &str = "{namespaces: {matchLabels: {kubernetes.io/metadata.name: plain}}}";
const SERVER: &str = "{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: demo}}, podSelector: {matchLabels: {app: server}}}}";

/// A ClusterNetworkPolicy about the server whose `ingress` is written as a flow list's inside.
fn admin(name: &str, priority: u16, ingress: &str) -> String {
    format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: {name}}}\n\
         spec: {{tier: Admin, priority: {priority}, subject: {SERVER}, ingress: [{ingress}]}}\n---\n"
    )
}

/// A rule about everybody of namespace `plain`.
fn of_plain(action: &str) -> String {
    format!("{{action: {action}, from: [{PLAIN}]}}")
}

fn tiers(nodes: [&str; 3], config: &str) {
    let pods: Vec<_> = PODS
        .iter()
        .zip(nodes)
        .map(|(name, node)| {
            let (namespace, name) = name.split_once('/').expect("a name");
            idle_pod(namespace, name, node)
        })
        .collect();
    let lab = Lab::up(config, &[namespace("demo", true), namespace("plain", false), pods.concat()].concat());
    let mut agents = Agents::start(&lab, &PODS);
    let [member, outsider] = ["demo/client", "plain/out"];
    let server = "demo/server";
    let mut expect = |open: [bool; 2], protocol: &str| {
        for (from, open) in [member, outsider].into_iter().zip(open) {
            until(&mut agents, open, from, server, protocol, 80);
        }
    };
    let own = |ingress: &str| {
        let spec = format!("podSelector: {{matchLabels: {{app: server}}}}, ingress: {ingress}");
        network_policy("demo", "own", &spec)
    };
    expect([true, true], "UDP");
    // Deny beats a NetworkPolicy that allows
    lab.put("own.yaml", &own("[{}]"));
    lab.put("admin.yaml", &admin("not-plain", 10, &of_plain("Deny")));
    expect([true, false], "UDP");
    expect([true, false], "TCP");
    told(&lab, "ClusterNetworkPolicy not-plain", nodes[0]);
    // Accept beats one that closes
    lab.put("own.yaml", &own("[]"));
    lab.put("admin.yaml", &admin("plain", 10, &of_plain("Accept")));
    expect([false, true], "UDP");
    expect([false, true], "TCP");
    // Pass, by a lower priority, leaves it to NetworkPolicy: what closes, and then what allows
    let passed = [admin("a-pass", 5, &of_plain("Pass")), admin("plain", 10, &of_plain("Accept"))].concat();
    lab.put("admin.yaml", &passed);
    expect([false, false], "UDP");
    lab.put("own.yaml", &own("[{}]"));
    let passed = [admin("a-pass", 5, &of_plain("Pass")), admin("not-plain", 10, &of_plain("Deny"))].concat();
    lab.put("admin.yaml", &passed);
    expect([true, true], "UDP");
    // the lower number comes first, whatever the names
    let ordered = |accept: u16, deny: u16| {
        [admin("z-accept", accept, &of_plain("Accept")), admin("a-deny", deny, &of_plain("Deny"))].concat()
    };
    lab.put("admin.yaml", &ordered(30, 20));
    expect([true, false], "UDP");
    lab.put("admin.yaml", &ordered(20, 30));
    expect([true, true], "UDP");
    predecessors(&lab, &mut expect, &own);
    unreadable(&lab, &mut expect);
}

/// AdminNetworkPolicy and BaselineAdminNetworkPolicy: Baseline counts where no NetworkPolicy selects, and only there.
fn predecessors(lab: &Lab, expect: &mut impl FnMut([bool; 2], &str), own: &impl Fn(&str) -> String) {
    let baseline = "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: BaselineAdminNetworkPolicy\nmetadata: {name: default}\n\
         spec: {subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}\n---\n";
    lab.remove("own.yaml");
    lab.put("admin.yaml", baseline);
    expect([false, false], "UDP");
    expect([false, false], "TCP");
    lab.put("own.yaml", &own("[{from: [{podSelector: {matchLabels: {app: client}}}]}]"));
    expect([true, false], "UDP");
    lab.remove("own.yaml");
    expect([false, false], "UDP");
    let allow = format!(
        "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {{name: plain}}\n\
         spec: {{priority: 7, subject: {SERVER}, ingress: [{{action: Allow, from: [{PLAIN}], ports: [{{portNumber: {{protocol: UDP, port: 80}}}}]}}]}}\n---\n"
    );
    lab.put("admin.yaml", &[baseline, &allow].concat());
    expect([false, true], "UDP");
    expect([false, false], "TCP");
    // on the way out: the sender's node refuses
    let egress = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: out}\n\
         spec: {tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: plain}}}, \
         egress: [{action: Deny, to: [{namespaces: {}}], protocols: [{udp: {destinationPort: {number: 80}}}]}]}\n";
    lab.put("admin.yaml", egress);
    expect([true, false], "UDP");
    expect([true, true], "TCP");
    lab.remove("admin.yaml");
    expect([true, true], "UDP");
}

/// A policy of which nothing can be read closes, and is told of.
fn unreadable(lab: &Lab, expect: &mut impl FnMut([bool; 2], &str)) {
    for (spec, path) in
        [("7", "spec: "), ("{tier: Admin, priority: 3, subject: {namespaces: {}}, ingres: []}", "spec.ingres: ")]
    {
        let text = format!(
            "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: broken}}\nspec: {spec}\n"
        );
        lab.put("admin.yaml", &text);
        expect([false, false], "UDP");
        let title = format!("ClusterNetworkPolicy broken: {path}");
        eventually("it is told of", SOON, || {
            let refusals = lab.ask("n1", "status")["refusals"].clone();
            let reasons = refusals.as_array()?.iter().filter_map(|refusal| refusal["reason"].as_str());
            reasons.into_iter().any(|reason| reason.starts_with(&title)).then_some(())
        });
        lab.remove("admin.yaml");
        expect([true, true], "UDP");
    }
    // somebody else's kind of the same name is none of ours
    let foreign = "apiVersion: crd.antrea.io/v1beta1\nkind: ClusterNetworkPolicy\nmetadata: {name: foreign}\nspec: {tier: Emergency}\n";
    lab.put("admin.yaml", &[foreign, &admin("none", 1, &of_plain("Deny"))].join("---\n"));
    expect([true, false], "UDP");
}

/// The refusal names the administrator's policy.
fn told(lab: &Lab, policy: &str, node: &str) {
    eventually("the policy is named", SOON, || {
        let rows = lab.ask(node, "status")["policy_denied"].clone();
        let mut named = rows.as_array()?.iter().filter(|row| row["policy"] == policy && row["reason"] == "rule");
        named.next().filter(|row| row["rule"] == 0).map(|_| ())
    });
}
