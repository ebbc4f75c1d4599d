//! S11, S12, ID-17, PL-11, MF-05: whose labels and names count, and what holds while manifests are gone.

use std::time::Duration;

use crate::agent::Agents;
use crate::lab::{namespace, pod, program};
use crate::shell::{eventually, run};

use super::policy::{FIVE, SOON, five, network_policy, reaches_from, until};
use super::policy_exceptions::stranger_address;

pub const CASES: &[(&str, fn())] = &[
    ("s11_s12_id_17_only_live_pods_present_labels_and_exact_names_count", labels),
    ("pl_11_mf_05_policies_stay_while_their_folder_is_gone", folder_gone),
];

/// A pod that only its manifest knows, with an address of somebody else.
pub(super) fn ghost(name: &str, app: &str, phase: &str, ip: std::net::IpAddr) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: plain, labels: {{app: {app}}}}}\n\
         spec: {{nodeName: nowhere, containers: [{{name: main}}]}}\nstatus: {{phase: {phase}, podIPs: [{{ip: '{ip}'}}]}}\n---\n"
    )
}

/// Lets pods of any namespace with this label in, and nobody else.
fn only(app: &str) -> String {
    let spec = format!(
        "podSelector: {{matchLabels: {{app: a}}}}, ingress: [{{from: [{{namespaceSelector: {{}}, podSelector: {{matchLabels: {{app: '{app}'}}}}}}]}}]"
    );
    network_policy("demo", "a", &spec)
}

fn labels() {
    let lab = five("nodes: 2");
    let mut agents = Agents::start(&lab, &FIVE);
    // S11: of an address only its live pod counts, whether a node speaks for that pod or a manifest alone
    let stranger = stranger_address(&lab, false);
    let a = lab.ip("demo/a", false);
    let ghosts = |phase: &str| {
        [
            ghost("old-c", "friend", phase, lab.ip("plain/c", false)),
            ghost("old-out", "friend", phase, lab.ip("plain/out", false)),
            ghost("old-stranger", "friend", phase, stranger),
            ghost("stranger", "other", "Running", stranger),
        ]
        .concat()
    };
    for phase in ["Succeeded", "Failed"] {
        lab.put("ghosts.yaml", &ghosts(phase));
        lab.put("policy.yaml", &only("other"));
        eventually("the live pod of an address gets in", SOON, || reaches_from(&lab, "stranger", a, 80).then_some(()));
        lab.put("policy.yaml", &only("friend"));
        eventually("its label is another", SOON, || (!reaches_from(&lab, "stranger", a, 80)).then_some(()));
        for from in ["plain/c", "plain/out"] {
            assert!(
                !agents.reaches(from, "demo/a", false, "UDP", 80),
                "{from} got in by a label of a dead pod, {phase}"
            );
        }
    }
    // and one that calls itself running: who is attached here has the address to himself
    lab.put("ghosts.yaml", &ghost("like-c", "friend", "Running", lab.ip("plain/c", false)));
    lab.put("policy.yaml", &only("c"));
    let mut open = || agents.reaches("plain/c", "demo/a", false, "UDP", 80);
    eventually("plain/c gets in by its own label", SOON, || open().then_some(()));
    lab.put("policy.yaml", &only("friend"));
    eventually("plain/c has nobody else's label", SOON, || (!open()).then_some(()));
    lab.remove("ghosts.yaml");
    // ID-17: dots, stars and brackets are themselves, in labels and in names of policies
    let labelled = |name: &str, ns: &str, node: &str, app: &str| {
        let containers = "containers: [{name: main, command: [sleep, infinity]}]";
        pod(ns, name, node, name, &format!("app: '{app}'")).replace("containers: [{name: main}]", containers)
    };
    lab.apply(
        &[
            labelled("b", "demo", "n1", "x.y"),
            labelled("c", "plain", "n1", "xzy"),
            labelled("out", "plain", "n2", "x-y"),
        ]
        .concat(),
    );
    lab.put("policy.yaml", &only("x.y"));
    until(&mut agents, true, "demo/b", "demo/a", "UDP", 80);
    for from in ["plain/c", "plain/out"] {
        assert!(!agents.reaches(from, "demo/a", false, "UDP", 80), "{from}: a dot matched something else");
    }
    for pattern in ["x*", "*", "x[.z]y", "x?y"] {
        lab.put("policy.yaml", &only(pattern));
        until(&mut agents, false, "demo/b", "demo/a", "UDP", 80);
        assert!(!agents.reaches("plain/c", "demo/a", false, "UDP", 80), "{pattern} is no pattern");
    }
    // of two policies whose names differ by such a character each is one of its own
    let by_name = |name: &str, app: &str| only(app).replace("name: a,", &format!("name: '{name}',"));
    lab.put("policy.yaml", &by_name("p.q", "x.y"));
    lab.put("other.yaml", &by_name("p-q", "xzy"));
    until(&mut agents, true, "plain/c", "demo/a", "UDP", 80);
    until(&mut agents, true, "demo/b", "demo/a", "UDP", 80);
    lab.remove("other.yaml");
    until(&mut agents, false, "plain/c", "demo/a", "UDP", 80);
    assert!(agents.reaches("demo/b", "demo/a", false, "UDP", 80), "the other policy went too");
    // S12: a namespace that comes back without the label
    let team = namespace("plain", false).replace("weft.dev/mesh: disabled", "weft.dev/mesh: disabled, team: good");
    let spec =
        "podSelector: {matchLabels: {app: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: good}}}]}]";
    lab.put("policy.yaml", &network_policy("demo", "a", spec));
    until(&mut agents, false, "plain/c", "demo/a", "UDP", 80);
    lab.apply(&team);
    until(&mut agents, true, "plain/c", "demo/a", "UDP", 80);
    // its pods go with it, and others of their names come
    run(&program("meshctl"), &["lab", "delete", "namespace/plain"]);
    lab.apply(&[namespace("plain", false), labelled("c", "plain", "n1", "xzy")].concat());
    let reaches = || {
        let status = lab.status();
        let mut pods = status["pods"].as_array().into_iter().flatten();
        let runs = pods.any(|pod| pod["namespace"] == "plain" && pod["name"] == "c" && pod["phase"] == "Running");
        runs && reaches_from(&lab, "plain/c", a, 80)
    };
    let by_name = spec.replace("team: good", "kubernetes.io/metadata.name: plain");
    lab.put("policy.yaml", &network_policy("demo", "a", &by_name));
    eventually("the new namespace's pod gets in by its name", Duration::from_secs(15), || reaches().then_some(()));
    lab.put("policy.yaml", &network_policy("demo", "a", spec));
    eventually("the old label does not count", SOON, || (!reaches()).then_some(()));
}

/// Denied stays denied and allowed stays allowed, also for a daemon that starts while there is nothing to read.
fn folder_gone() {
    let lab = five("nodes: 2");
    let mut agents = Agents::start(&lab, &FIVE);
    lab.put("policy.yaml", &only("b"));
    until(&mut agents, false, "plain/c", "demo/a", "UDP", 80);
    let check = |agents: &mut Agents, when: &str| {
        for v6 in [false, true] {
            assert!(agents.reaches("demo/b", "demo/a", v6, "UDP", 80), "{when}: allowed is cut");
            assert!(!agents.reaches("plain/c", "demo/a", v6, "UDP", 80), "{when}: denied is open");
            assert!(!agents.reaches("demo/far", "demo/a", v6, "TCP", 80), "{when}: denied is open");
        }
    };
    check(&mut agents, "before");
    // what is not to be read changes nothing
    lab.put(
        "policy.yaml",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a, namespace: demo}\nspec: [",
    );
    eventually("the refusal is told", SOON, || {
        let refusals = lab.ask("n1", "status")["refusals"].clone();
        refusals.as_array()?.iter().any(|r| r["file"].as_str().is_some_and(|f| f.contains("policy.yaml"))).then_some(())
    });
    check(&mut agents, "unreadable");
    lab.put("policy.yaml", &only("b"));
    let directory = lab.directory();
    let aside = format!("{directory}.aside");
    std::fs::rename(&directory, &aside).expect("a rename");
    eventually("the missing folder is told", SOON, || {
        let refusals = lab.ask("n1", "status")["refusals"].clone();
        refusals
            .as_array()?
            .iter()
            .any(|r| r["reason"].as_str().is_some_and(|t| t.contains("last state stays")))
            .then_some(())
    });
    check(&mut agents, "without a folder");
    std::fs::rename(&aside, &directory).expect("a rename");
    lab.put("policy.yaml", &only("nobody"));
    until(&mut agents, false, "demo/b", "demo/a", "UDP", 80);
}
