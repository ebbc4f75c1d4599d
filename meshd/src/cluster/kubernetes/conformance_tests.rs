//! The same manifests through both back ends, and through the file of the last known view: what comes out is the same, and so
//! is what is told of what cannot be used.

use std::path::Path;

use serde_json::{Value, json};

use super::super::Manifest;
use super::super::collection::{Change, Collection};
use super::cache;
use super::gather::Heard;
use super::object::{KindName, Raw, WATCHED};
use super::watch;

/// What one manifest comes to: the object, or why there is none; and what of it is not used.
#[derive(Debug, PartialEq)]
struct Outcome {
    object: Option<Manifest>,
    told: Vec<String>,
}

fn by_folder(manifest: &Value) -> Outcome {
    let mut folder = Collection::default();
    folder.handle_file(Path::new("all.yaml"), &serde_saphyr::to_string(manifest).unwrap(), 0);
    let mut changes = folder.poll_changes();
    let object = changes.pop().map(|change| match change {
        Change::Apply(manifest) => manifest,
        Change::Delete(key) => panic!("{key:?} was never there"),
    });
    let mut told: Vec<_> = folder.refusals().into_iter().map(|refusal| refusal.reason).collect();
    told.sort();
    Outcome { object, told }
}

fn by_server(kind: &KindName, manifest: &Value) -> (Outcome, Option<String>) {
    let raw: Raw = serde_json::from_value(manifest.clone()).unwrap();
    let heard = watch::apply(kind, raw, true, true).pop().unwrap();
    let Heard::Apply { manifest, told, .. } = heard else { panic!("an object is applied") };
    let (object, mut words) = match manifest {
        Ok(manifest) => (Some(*manifest), told.parts.clone()),
        Err(reason) => (None, vec![reason]),
    };
    words.sort();
    (Outcome { object, told: words }, told.line)
}

/// Kind, `spec`, `status`.
type Case = (&'static str, Value, Value);

fn of_kubernetes() -> Vec<Case> {
    let none = Value::Null;
    vec![
        ("Namespace", none.clone(), none.clone()),
        (
            "Node",
            json!({"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00:1::/64"]}),
            json!({"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "n1"}]}),
        ),
        ("Node", json!({"podCIDRs": null}), json!({"addresses": null})),
        ("Node", json!({"podCIDR": "10.1.0.0/33"}), none.clone()),
        ("Node", none.clone(), json!({"addresses": [{"type": "InternalIP", "address": "n1"}]})),
        (
            "Pod",
            json!({"nodeName": "n1", "serviceAccountName": "s", "containers": [{"ports": [{"name": "web", "containerPort": 80}]}]}),
            json!({"phase": "Running", "podIP": "10.1.0.2", "podIPs": [{"ip": "10.1.0.2"}, {"ip": "fd00:1::2"}]}),
        ),
        (
            "Pod",
            json!({"nodeName": "", "serviceAccountName": "", "hostNetwork": true}),
            json!({"phase": "Succeeded", "podIPs": null}),
        ),
        ("Pod", json!({}), json!({"podIP": "10.1.0"})),
        ("Pod", json!({"serviceAccountName": "No/Name"}), none.clone()),
        (
            "NetworkPolicy",
            json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [{"from": [{"podSelector": {"matchLabels": {"a": "b"}}}]}]}),
            none.clone(),
        ),
        (
            "NetworkPolicy",
            json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["x"]}}], "ports": [{"port": "9x9-"}]}]}),
            none.clone(),
        ),
    ]
}

fn of_ours() -> Vec<Case> {
    let none = Value::Null;
    let good_rule =
        json!({"from": [{"source": {"principals": ["td/ns/a/sa/b"]}}], "to": [{"operation": {"ports": ["80"]}}]});
    let identity = "spiffe://td/ns/a/sa/b";
    vec![
        ("PeerAuthentication", json!({"mtls": {"mode": "STRICT"}}), none.clone()),
        (
            "PeerAuthentication",
            json!({"selector": {"matchLabels": {"a": "b"}}, "portLevelMtls": {"80": {"mode": "DISABLE"}}, "outbound": "RequireMesh"}),
            none.clone(),
        ),
        ("PeerAuthentication", none.clone(), none.clone()),
        ("PeerAuthentication", json!({"mtls": {"mode": "MUTUAL"}}), none.clone()),
        ("PeerAuthentication", json!({"portLevelMtls": {"80": {"mode": "DISABLE"}}}), none.clone()),
        ("AuthorizationPolicy", json!({"action": "DENY", "rules": [good_rule]}), none.clone()),
        (
            "AuthorizationPolicy",
            json!({"rules": [good_rule, {"when": [{"key": "x"}]}, {"from": [{"source": {"princpals": ["x"]}}]}]}),
            none.clone(),
        ),
        ("AuthorizationPolicy", json!({"direction": "Sideways"}), none.clone()),
        (
            "MeshNode",
            json!({"nodeUID": "u", "credential": "c", "endpoints": ["192.0.2.1:51840"], "sequence": 3}),
            json!({"joined": true, "bindings": [{"identity": identity, "epoch": 1, "binding": "b", "svid": ""}]}),
        ),
        (
            "MeshNode",
            json!({"nodeUID": "u", "credential": "c", "keys": [{"identity": identity, "epoch": 1, "publicKey": "no", "svidKey": "no"}]}),
            none.clone(),
        ),
        (
            "MeshEndpointSlice",
            json!({"node": "it", "nodeUID": "u", "revision": 7, "endpoints": [
            {"ip": "10.1.0.2", "identity": identity, "mode": "STRICT", "ports": {"80": "DISABLE"}, "enforced": true, "namespace": "n", "name": "p", "uid": "u"}],
            "bindings": [{"identity": identity, "epoch": 1, "binding": "b", "svid": ""}]}),
            none.clone(),
        ),
        ("MeshEndpointSlice", json!({"node": "it", "nodeUID": "u", "revision": -1}), none.clone()),
        ("MeshTrust", json!({"trustDomain": "td", "root": "r", "intermediate": "i"}), none.clone()),
        ("MeshTrust", json!({"trustDomain": "td"}), none),
    ]
}

#[test]
fn the_same_manifests_are_the_same_objects_by_both_back_ends_and_by_the_file() {
    let (mut good, mut bad, mut told) = (0, 0, 0);
    for (name, spec, status) in [of_kubernetes(), of_ours()].concat() {
        let kind = WATCHED.iter().find(|kind| kind.kind == name && !kind.optional).unwrap();
        let group =
            if kind.group.is_empty() { kind.version.to_owned() } else { format!("{}/{}", kind.group, kind.version) };
        let namespaced = matches!(name, "Pod" | "NetworkPolicy" | "PeerAuthentication" | "AuthorizationPolicy");
        let mut manifest = json!({"apiVersion": group, "kind": name, "metadata": {
            "name": "it", "uid": "uid", "labels": {"weft.dev/mesh": "enabled"}, "creationTimestamp": "2026-01-02T03:04:05Z"}});
        if namespaced {
            manifest["metadata"]["namespace"] = json!("n");
        }
        for (field, part) in [("spec", spec), ("status", status)] {
            if !part.is_null() {
                manifest[field] = part;
            }
        }
        let folder = by_folder(&manifest);
        let (server, line) = by_server(kind, &manifest);
        assert_eq!(folder, server, "the back ends differ: {manifest}");
        let kept = line.map(|line| cache::cached(&line).unwrap().manifest);
        assert_eq!(kept, server.object, "the file differs: {manifest}");
        good += usize::from(server.object.is_some());
        bad += usize::from(server.object.is_none());
        told += usize::from(!server.told.is_empty());
    }
    assert_eq!((good, bad, told), (15, 10, 12), "each case is what it was meant to be");
}
