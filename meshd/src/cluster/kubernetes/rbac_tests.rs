//! What the manifests let the programs do is what they do: every kind that is watched and every object that is written, and
//! nothing else.

use std::collections::BTreeSet;

use serde_json::Value;

use super::object::{
    AUTHORIZATION_POLICY, EVENT, KindName, MESH_ENDPOINT_SLICE, MESH_NODE, MESH_TRUST, PEER_AUTHENTICATION, WATCHED,
};

/// Group, resource, verb; and the name, where it is about one object.
type Right = (String, String, String, String);

fn right(group: &str, resource: &str, verb: &str, name: &str) -> Right {
    (group.to_owned(), resource.to_owned(), verb.to_owned(), name.to_owned())
}

fn rights(kind: &KindName, part: &str, verbs: &[&str]) -> impl Iterator<Item = Right> {
    verbs.iter().map(move |verb| right(kind.group, &format!("{}{part}", kind.plural), verb, ""))
}

/// What a Role or ClusterRole of the manifests grants.
fn granted(kind: &str, name: &str) -> BTreeSet<Right> {
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/base/rbac.yaml"));
    let all = text.split("\n---\n").map(|document| serde_saphyr::from_str::<Value>(document).unwrap());
    let role = all.filter(|it| it["kind"] == kind && it["metadata"]["name"] == name).collect::<Vec<_>>();
    assert_eq!(role.len(), 1, "{kind} {name}");
    let words = |rule: &Value, field: &str| -> Vec<String> {
        let list = rule[field].as_array().into_iter().flatten();
        list.map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    let mut granted = BTreeSet::new();
    for rule in role[0]["rules"].as_array().unwrap() {
        let mut names = words(rule, "resourceNames");
        names.extend(names.is_empty().then(String::new));
        for group in words(rule, "apiGroups") {
            for resource in words(rule, "resources") {
                for verb in words(rule, "verbs") {
                    names.iter().for_each(|name| assert!(granted.insert(right(&group, &resource, &verb, name))));
                }
            }
        }
    }
    granted
}

fn watched() -> BTreeSet<Right> {
    WATCHED.iter().flat_map(|kind| rights(kind, "", &["list", "watch"])).collect()
}

/// Server-side apply of what may not be there takes both.
const APPLY: [&str; 2] = ["create", "patch"];

#[test]
fn a_node_may_watch_what_it_reads_and_write_its_report() {
    let mut used = watched();
    used.extend(rights(&MESH_NODE, "", &APPLY));
    assert_eq!(granted("ClusterRole", "weft-node"), used);
}

#[test]
fn a_controller_may_watch_what_it_reads_and_write_what_is_its_word() {
    let mut used = watched();
    used.extend(rights(&MESH_ENDPOINT_SLICE, "", &APPLY));
    used.extend(rights(&MESH_ENDPOINT_SLICE, "", &["delete"]));
    used.extend(rights(&MESH_TRUST, "", &APPLY));
    used.extend(rights(&EVENT, "", &APPLY));
    for kind in [MESH_NODE, PEER_AUTHENTICATION, AUTHORIZATION_POLICY] {
        used.extend(rights(&kind, "/status", &["patch"]));
    }
    for resource in ["validatingadmissionpolicies", "validatingadmissionpolicybindings"] {
        used.insert(right("admissionregistration.k8s.io", resource, "get", super::admission::NAME));
    }
    assert_eq!(granted("ClusterRole", "weft-controller"), used);
    let mut used = BTreeSet::new();
    for (group, resource) in [("", "secrets"), ("coordination.k8s.io", "leases")] {
        used.insert(right(group, resource, "create", ""));
        for verb in ["get", "update"] {
            used.insert(right(group, resource, verb, super::CONTROLLER));
        }
    }
    assert_eq!(granted("Role", "weft-controller"), used);
}
