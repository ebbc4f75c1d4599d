//! The schemas against the Rust types, and the printed file.

use std::collections::BTreeSet;

use super::super::api;
use super::*;

#[test]
fn the_file_in_the_manifests_is_the_printed_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/base/crds.yaml");
    let held = std::fs::read_to_string(path).unwrap_or_default();
    assert!(held == manifest().unwrap(), "print it anew: meshd crds > manifests/base/crds.yaml");
}

/// The paths of all fields: `spec.keys[].epoch`; a free key is `*`.
fn paths_of_schema(schema: &Value, at: &str, out: &mut BTreeSet<String>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{at}.{name}");
        paths_of_schema(field, &path, out);
        out.insert(path);
    }
    if schema["items"].is_object() {
        paths_of_schema(&schema["items"], &format!("{at}[]"), out);
    }
}

fn paths_of_value(value: &Value, at: &str, out: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) if !at.ends_with(".ports") => {
            for (name, field) in fields {
                let path = format!("{at}.{name}");
                paths_of_value(field, &path, out);
                out.insert(path);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| paths_of_value(item, &format!("{at}[]"), out)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {}
    }
}

fn assert_same(kind: &str, part: &str, value: &impl serde::Serialize) {
    let kind = KINDS.iter().find(|it| it.kind == kind).unwrap();
    let (mut ours, mut theirs) = (BTreeSet::new(), BTreeSet::new());
    paths_of_value(&serde_json::to_value(value).unwrap(), "", &mut ours);
    paths_of_schema(&schema(kind)["properties"][part], "", &mut theirs);
    assert_eq!(ours, theirs, "{} {part}: the type and the schema differ", kind.kind);
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

#[test]
fn every_field_that_is_written_is_in_its_schema_and_the_other_way_round() {
    let identity = "spiffe://cluster.local/ns/a/sa/b";
    let spec: api::MeshNodeSpec = read(json!({
        "nodeUID": "u", "credential": "c", "join": {"tokenID": "t", "proof": "p"}, "endpoints": ["10.0.0.1:1"],
        "addresses": ["10.0.0.1"],
        "keys": [{"identity": identity, "epoch": 1, "publicKey": "k", "svidKey": "k", "suite": "aes-256-gcm"}],
        "attachments": [{"namespace": "a", "pod": "b", "uid": "u", "ips": ["10.1.0.1"]}],
        "observedRevision": 1, "sequence": 1, "signature": "s",
    }));
    assert_same("MeshNode", "spec", &spec);
    let status: api::MeshNodeStatus = read(json!({
        "joined": true, "bindings": [{"identity": identity, "epoch": 1, "binding": "b", "svid": "s"}],
        "refused": [{"identity": identity, "epoch": 1, "reason": "r"}], "conditions": [{
            "type": "PodsAttached", "status": "True", "reason": "r", "message": "m", "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
    }));
    assert_same("MeshNode", "status", &status);
    let slice: api::MeshEndpointSliceSpec = read(json!({
        "node": "n", "nodeUID": "u", "revision": 1, "signature": "s", "endpoints": [{
            "ip": "10.1.0.1", "identity": identity, "mode": "STRICT", "ports": {"80": "DISABLE"}, "outbound": "RequireMesh",
            "enforced": true, "namespace": "a", "name": "b", "uid": "u",
        }],
        "bindings": [{"identity": identity, "epoch": 1, "binding": "b", "svid": "s"}],
    }));
    assert_same("MeshEndpointSlice", "spec", &slice);
    let trust: api::MeshTrustSpec = read(json!({"trustDomain": "t", "root": "r", "intermediate": "i"}));
    assert_same("MeshTrust", "spec", &trust);
    let condition: api::Condition = read(json!({
        "type": "Accepted", "status": "True", "reason": "Read", "message": "m", "observedGeneration": 1,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }));
    for kind in ["PeerAuthentication", "AuthorizationPolicy"] {
        assert_same(kind, "status", &json!({"conditions": [condition]}));
    }
}

#[test]
fn the_parser_of_authorization_policies_knows_the_fields_of_the_schema_and_refuses_with_its_sentences() {
    use policy::manifest::{OPERATION_REFUSED, RULE_REFUSED, SOURCE_REFUSED, SPEC_REFUSED, authorization_policy};
    let terms = json!({"principals": ["td/ns/a/sa/b"], "notPrincipals": [], "namespaces": ["a"], "notNamespaces": ["b"],
        "ipBlocks": ["10.0.0.0/8"], "notIpBlocks": ["10.0.0.1"]});
    let operation = json!({"ports": ["80", 81], "notPorts": [82]});
    let spec = |direction: &str, rule: Value| {
        let expression = json!({"key": "a", "operator": "In", "values": ["b"]});
        json!({"selector": {"matchLabels": {}, "matchExpressions": [expression]}, "action": "ALLOW", "direction": direction, "rules": [rule]})
    };
    let inbound = spec("Inbound", json!({"from": [{"source": terms}], "to": [{"operation": operation}]}));
    let outbound = spec("Outbound", json!({"to": [{"operation": operation, "destination": terms}]}));
    let mut known = BTreeSet::new();
    for spec in [&inbound, &outbound] {
        assert_eq!(authorization_policy("a", "b", &json!({"spec": spec})).refusals, [], "{spec}");
        paths_of_value(spec, "", &mut known);
    }
    let places = [
        ("", "", SPEC_REFUSED.as_slice()),
        ("/rules/0", ".rules[]", &RULE_REFUSED),
        ("/rules/0/from/0/source", ".rules[].from[].source", &SOURCE_REFUSED),
        ("/rules/0/to/0/operation", ".rules[].to[].operation", &OPERATION_REFUSED),
    ];
    for (pointer, at, refused) in places {
        for (field, reason) in refused {
            let mut spec = inbound.clone();
            spec.pointer_mut(pointer).unwrap()[field] = json!(["x"]);
            let told = authorization_policy("a", "b", &json!({"spec": spec})).refusals;
            assert!(told.len() == 1 && told[0].to_string().contains(reason), "{field}: {told:?}");
            known.insert(format!("{at}.{field}"));
            if at.ends_with("source") {
                known.insert(format!(".rules[].to[].destination.{field}"));
            }
        }
    }
    let kind = KINDS.iter().find(|it| it.kind == "AuthorizationPolicy").unwrap();
    let mut declared = BTreeSet::new();
    paths_of_schema(&schema(kind)["properties"]["spec"], "", &mut declared);
    assert_eq!(known, declared, "the parser and the schema differ");
}

#[test]
fn every_field_says_what_it_is() {
    fn check(schema: &Value, at: &str) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let said = field["description"].as_str().unwrap_or_default();
            assert!(said.ends_with('.'), "{at}.{name} has no sentence");
            check(field, &format!("{at}.{name}"));
        }
        if schema["items"].is_object() {
            check(&schema["items"], &format!("{at}[]"));
        }
    }
    for kind in &KINDS {
        for (name, part) in schema(kind)["properties"].as_object().unwrap() {
            check(part, &format!("{}.{name}", kind.kind));
        }
    }
}
