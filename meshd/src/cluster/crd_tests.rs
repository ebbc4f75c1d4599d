//! The schemas against the Rust types, and the printed file.

use std::collections::BTreeSet;

use super::super::{api, convert};
use super::*;

#[test]
fn the_file_in_the_manifests_is_the_printed_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/base/crds.yaml");
    let held = std::fs::read_to_string(path).unwrap_or_default();
    assert!(held == manifest().unwrap(), "print it anew: meshd crds > manifests/base/crds.yaml");
}

/// The paths of all fields: `.keys[].epoch`.
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

/// Fields whose own fields have free names.
const MAPS: [&str; 3] = [".ports", ".portLevelMtls", ".matchLabels"];

fn paths_of_value(value: &Value, at: &str, out: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) if !MAPS.iter().any(|map| at.ends_with(map)) => {
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

/// Each value of the sample is of the schema's type; what is left of it when a field is taken away is handed to `without`
/// with the field's path and whether the schema lets it be left out.
fn each_field(sample: &Value, schema: &Value, place: &str, without: &mut dyn FnMut(&str, bool)) {
    let kind = match sample {
        Value::Object(_) => "object",
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::Null => "null",
    };
    assert_eq!(schema["type"], kind, "{place}: the type is another one than the schema's");
    for (name, field) in sample.as_object().into_iter().flatten() {
        let place = format!("{place}/{name}");
        let free = &schema["additionalProperties"];
        if free.is_object() {
            each_field(field, free, &place, without);
            continue;
        }
        each_field(field, &schema["properties"][name], &place, without);
        let required = schema["required"].as_array().is_some_and(|all| all.iter().any(|one| one == name));
        without(&place, !required);
    }
    for (index, item) in sample.as_array().into_iter().flatten().enumerate() {
        each_field(item, &schema["items"], &format!("{place}/{index}"), without);
    }
}

/// The type writes exactly the fields of the schema, of the schema's types, and demands none that the schema lets be left out.
fn assert_same<T: serde::Serialize + serde::de::DeserializeOwned>(kind: &str, part: &str, sample: &Value) {
    let kind = KINDS.iter().find(|it| it.kind == kind).unwrap();
    let schema = &schema(kind)["properties"][part];
    let (mut ours, mut theirs) = (BTreeSet::new(), BTreeSet::new());
    let value: T = serde_json::from_value(sample.clone()).unwrap();
    paths_of_value(&serde_json::to_value(value).unwrap(), "", &mut ours);
    paths_of_schema(schema, "", &mut theirs);
    assert_eq!(ours, theirs, "{} {part}: the type and the schema differ", kind.kind);
    each_field(sample, schema, "", &mut |place, may_be_absent| {
        let mut less = sample.clone();
        let (parent, name) = place.rsplit_once('/').unwrap();
        less.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name);
        let is_read = serde_json::from_value::<T>(less).is_ok();
        assert!(is_read || !may_be_absent, "{}: {place} may be left out by the schema, and not by the type", kind.kind);
    });
}

#[test]
fn every_field_that_is_written_is_in_its_schema_and_the_other_way_round() {
    let identity = "spiffe://cluster.local/ns/a/sa/b";
    let binding = json!({"identity": identity, "epoch": 1, "binding": "b", "svid": "s"});
    let condition = json!({
        "type": "Accepted", "status": "True", "reason": "Read", "message": "m", "observedGeneration": 1,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let spec = json!({
        "nodeUID": "u", "credential": "c", "join": {"tokenID": "t", "proof": "p"}, "endpoints": ["10.0.0.1:1"],
        "addresses": ["10.0.0.1"],
        "keys": [{"identity": identity, "epoch": 1, "publicKey": "k", "svidKey": "k", "suite": "aes-256-gcm"}],
        "attachments": [{"namespace": "a", "pod": "b", "uid": "u", "ips": ["10.1.0.1"]}],
        "observedRevision": 1, "sequence": 1, "signature": "s",
    });
    assert_same::<api::MeshNodeSpec>("MeshNode", "spec", &spec);
    let status = json!({
        "joined": true, "bindings": [binding], "refused": [{"identity": identity, "epoch": 1, "reason": "r"}],
        "conditions": [condition],
    });
    assert_same::<api::MeshNodeStatus>("MeshNode", "status", &status);
    let slice = json!({
        "node": "n", "nodeUID": "u", "revision": 1, "signature": "s", "endpoints": [{
            "ip": "10.1.0.1", "ips": ["10.1.0.2"], "identity": identity, "mode": "STRICT", "ports": {"80": "DISABLE"}, "outbound": "RequireMesh",
            "enforced": true, "namespace": "a", "name": "b", "uid": "u",
        }],
        "bindings": [binding],
    });
    assert_same::<api::MeshEndpointSliceSpec>("MeshEndpointSlice", "spec", &slice);
    let trust = json!({"trustDomain": "t", "root": "r", "intermediate": "i"});
    assert_same::<api::MeshTrustSpec>("MeshTrust", "spec", &trust);
    type Status = std::collections::BTreeMap<String, Vec<api::Condition>>;
    assert_same::<Status>("AuthorizationPolicy", "status", &json!({"conditions": [condition]}));
    let status = json!({
        "conditions": [condition], "observedGeneration": 1, "workloads": 3, "enforcedWorkloads": 2, "enforced": "2/3",
    });
    assert_same::<PeerAuthenticationStatus>("PeerAuthentication", "status", &status);
}

/// Both parts of it, which are read and written apart.
#[derive(serde::Serialize, serde::Deserialize)]
struct PeerAuthenticationStatus {
    #[serde(default)]
    conditions: Vec<api::Condition>,
    #[serde(flatten)]
    enforcement: Option<api::Enforcement>,
}

#[test]
fn the_reader_of_peer_authentications_knows_the_fields_of_the_schema_and_no_others() {
    let key = plan::ObjectKey { kind: "PeerAuthentication", namespace: "a".to_owned(), name: "b".to_owned() };
    let read = |spec: &Value| convert::manifest(&key, &json!({"metadata": {}, "spec": spec}), 0);
    let expression = json!({"key": "a", "operator": "In", "values": ["b"]});
    let spec = json!({
        "selector": {"matchLabels": {"a": "b"}, "matchExpressions": [expression]}, "mtls": {"mode": "STRICT"},
        "portLevelMtls": {"80": {"mode": "DISABLE"}}, "outbound": "RequireMesh",
    });
    read(&spec).unwrap();
    let kind = KINDS.iter().find(|it| it.kind == "PeerAuthentication").unwrap();
    let schema = &schema(kind)["properties"]["spec"];
    let (mut ours, mut theirs) = (BTreeSet::new(), BTreeSet::new());
    paths_of_value(&spec, "", &mut ours);
    paths_of_schema(schema, "", &mut theirs);
    assert_eq!(ours, theirs, "the sample has every field");
    each_field(&spec, schema, "", &mut |place, _| {
        let mut more = spec.clone();
        let parent = place.rsplit_once('/').unwrap().0;
        more.pointer_mut(parent).unwrap()["another"] = json!("x");
        let refused = read(&more).unwrap_err();
        let is_label = parent == "/selector/matchLabels";
        assert!(is_label || refused.contains("another"), "beside {place}: {refused}");
    });
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
