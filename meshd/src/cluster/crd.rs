//! The CustomResourceDefinitions of our kinds: structural schemas with a sentence on every field, and CEL rules.
//!
//! `manifests/base/crds.yaml` is what [`manifest`] prints (`meshd crds`); a test holds the two together, and another holds
//! the schemas against the Rust types.

mod people;

use serde_json::{Map, Value, json};

use super::api;

/// What one kind is, beside its schema.
struct Kind {
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    namespaced: bool,
    status: bool,
    description: &'static str,
    /// Name, JSON path, type, what it says.
    columns: &'static [(&'static str, &'static str, &'static str, &'static str)],
}

/// Whether every part of what people wrote is used.
const ACCEPTED: (&str, &str, &str, &str) = (
    "Accepted",
    ".status.conditions[?(@.type==\"Accepted\")].status",
    "string",
    "Whether every part of it is read and in force; the condition's message names those that are not.",
);

const KINDS: [Kind; 5] = [
    Kind {
        kind: "PeerAuthentication",
        plural: "peerauthentications",
        short: &["pa"],
        namespaced: true,
        status: true,
        description: "How workloads take connections: only by the mesh (STRICT), both ways (PERMISSIVE), or not by the mesh (DISABLE). The fields are Istio's.",
        columns: &[
            ("Mode", ".spec.mtls.mode", "string", "What the selected workloads accept."),
            ("Outbound", ".spec.outbound", "string", "What they may send outside the mesh."),
            ACCEPTED,
            (
                "Enforced",
                ".status.enforced",
                "string",
                "Of the live workloads whose mode is this object's, how many are as it says; told up to half a minute late.",
            ),
            ("Age", ".metadata.creationTimestamp", "date", "Among two of one scope the older counts."),
        ],
    },
    Kind {
        kind: "AuthorizationPolicy",
        plural: "authorizationpolicies",
        short: &["ap"],
        namespaced: true,
        status: true,
        description: "Who may talk to the selected workloads, by identity, namespace, prefix and port. The fields are Istio's, as far as packets show them.",
        columns: &[
            ("Action", ".spec.action", "string", "What happens to what the rules match; ALLOW where it is not set."),
            (
                "Direction",
                ".spec.direction",
                "string",
                "Which side's workloads are selected; Inbound where it is not set.",
            ),
            ACCEPTED,
            ("Age", ".metadata.creationTimestamp", "date", "Since when it is in force."),
        ],
    },
    Kind {
        kind: "MeshNode",
        plural: "meshnodes",
        short: &["mn"],
        namespaced: false,
        status: true,
        description: "What a node says of itself, written and signed by that node alone, and the controller's answer. Not for people to edit.",
        columns: &[
            ("Joined", ".status.joined", "boolean", "The controller believes this node."),
            ("Endpoint", ".spec.endpoints[0]", "string", "Where its peers reach it."),
            (
                "Attached",
                ".status.conditions[?(@.type==\"PodsAttached\")].status",
                "string",
                "Every pod there that is labelled into the mesh is protected by it.",
            ),
            (
                "Observed",
                ".spec.observedRevision",
                "integer",
                "The newest endpoint slices in its kernel, when a change last waited for it.",
            ),
            ("Age", ".metadata.creationTimestamp", "date", "Since when it is in the mesh."),
        ],
    },
    Kind {
        kind: "MeshEndpointSlice",
        plural: "meshendpointslices",
        short: &["mes"],
        namespaced: false,
        status: false,
        description: "The controller's signed word on one node: which address is whose, in which mode, and by which keys. Not for people to edit.",
        columns: &[
            ("Revision", ".spec.revision", "integer", "Rises with every change of any slice."),
            ("Age", ".metadata.creationTimestamp", "date", "Since when the node is known."),
        ],
    },
    Kind {
        kind: "MeshTrust",
        plural: "meshtrusts",
        short: &["mt"],
        namespaced: false,
        status: false,
        description: "The certificates by which everybody verifies bindings and slices; `local` is this cluster's, by the controller.",
        columns: &[
            ("Trust Domain", ".spec.trustDomain", "string", "The domain of every identity here."),
            ("Age", ".metadata.creationTimestamp", "date", "Since when there is a trust root."),
        ],
    },
];

/// Every definition, as one YAML file.
pub(crate) fn manifest() -> anyhow::Result<String> {
    let mut text = String::from("# Printed by `meshd crds`; do not edit.\n");
    for kind in &KINDS {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(&definition(kind))?);
    }
    Ok(text)
}

fn definition(kind: &Kind) -> Value {
    let columns = kind.columns.iter().map(
        |(name, path, of, description)| json!({"name": name, "jsonPath": path, "type": of, "description": description}),
    );
    let mut version = json!({
        "name": "v1alpha1",
        "served": true,
        "storage": true,
        "schema": {"openAPIV3Schema": schema(kind)},
        "additionalPrinterColumns": columns.collect::<Vec<_>>(),
    });
    if let (true, Value::Object(version)) = (kind.status, &mut version) {
        version.insert("subresources".to_owned(), json!({"status": {}}));
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{}.weft.dev", kind.plural), "labels": {"app.kubernetes.io/part-of": "weft"}},
        "spec": {
            "group": "weft.dev",
            "names": {
                "kind": kind.kind,
                "listKind": format!("{}List", kind.kind),
                "plural": kind.plural,
                "singular": kind.kind.to_lowercase(),
                "shortNames": kind.short,
                "categories": ["weft"],
            },
            "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
            "versions": [version],
        },
    })
}

fn schema(kind: &Kind) -> Value {
    let (spec, status) = match kind.kind {
        "PeerAuthentication" => (people::peer_authentication(), Some(people::peer_authentication_status())),
        "AuthorizationPolicy" => (people::authorization_policy(), Some(people::status())),
        "MeshNode" => (mesh_node(), Some(mesh_node_status())),
        "MeshEndpointSlice" => (mesh_endpoint_slice(), None),
        _ => (mesh_trust(), None),
    };
    let mut properties = Map::new();
    properties.insert("spec".to_owned(), spec);
    properties.extend(status.map(|status| ("status".to_owned(), status)));
    let mut whole = json!({"description": kind.description, "type": "object", "properties": properties});
    if let Value::Object(whole) = &mut whole {
        if kind.kind != "PeerAuthentication" {
            whole.insert("required".to_owned(), json!(["spec"]));
        }
        if kind.kind == "MeshEndpointSlice" {
            let sentence = "a slice is named after its node";
            whole.insert(
                "x-kubernetes-validations".to_owned(),
                rules(&[("self.metadata.name == self.spec.node", sentence)]),
            );
        }
    }
    whole
}

fn rules(rules: &[(&str, &str)]) -> Value {
    rules.iter().map(|(rule, message)| json!({"rule": rule, "message": message})).collect()
}

/// A map of fields; those that `required` names must be there.
fn object(description: &str, required: &[&str], properties: Value) -> Value {
    let mut object = json!({"description": description, "type": "object", "properties": properties});
    if let (false, Value::Object(object)) = (required.is_empty(), &mut object) {
        object.insert("required".to_owned(), json!(required));
    }
    object
}

fn with(mut schema: Value, more: Value) -> Value {
    if let (Value::Object(schema), Value::Object(more)) = (&mut schema, more) {
        schema.extend(more);
    }
    schema
}

fn text(description: &str, longest: u32) -> Value {
    json!({"description": description, "type": "string", "maxLength": longest})
}

fn number(description: &str) -> Value {
    json!({"description": description, "type": "integer", "format": "int64", "minimum": 0})
}

fn list(description: &str, most: u32, items: Value) -> Value {
    json!({"description": description, "type": "array", "maxItems": most, "items": items})
}

fn mode(description: &str) -> Value {
    json!({"description": description, "type": "string", "enum": ["UNSET", "DISABLE", "PERMISSIVE", "STRICT"]})
}

fn outbound(description: &str) -> Value {
    json!({"description": description, "type": "string", "enum": ["Opportunistic", "RequireMesh"]})
}

/// Longest SPIFFE ID (its specification, 2.3).
const SPIFFE_ID_MAX: u32 = 2_048;
/// Longest RFC 1123 subdomain.
const NAME_MAX: u32 = 253;

fn mesh_node() -> Value {
    let key = object(
        "A key that the node asks a binding for.",
        &["identity", "epoch", "publicKey", "svidKey"],
        json!({
            "identity": text("SPIFFE ID.", SPIFFE_ID_MAX),
            "epoch": number("The rotation period that the key is of."),
            "publicKey": text("X25519 public key, base64.", 44),
            "svidKey": text("Ed25519 public key of the X.509-SVID, base64.", 44),
            "suite": text("The best data cipher that the node speaks with this key; left out for WireGuard's own.", 32),
        }),
    );
    let attachment = object(
        "A workload whose interface is attached on the node.",
        &["namespace", "pod", "uid", "ips"],
        json!({
            "namespace": text("Its namespace.", 63),
            "pod": text("Its pod.", NAME_MAX),
            "uid": text("The pod's UID.", NAME_MAX),
            "ips": list("Its addresses.", 64, text("An IPv4 or IPv6 address.", 45)),
        }),
    );
    let join = object(
        "Proof of the one-time join token, where no API server vouches for the node.",
        &["tokenID", "proof"],
        json!({
            "tokenID": text("Which token.", 64),
            "proof": text("HMAC-SHA256 by the token's secret, base64.", 64),
        }),
    );
    let spec = object(
        "The node's word, signed by its credential.",
        &["nodeUID", "credential", "sequence", "signature"],
        json!({
            "nodeUID": text("A random name made with the node's secret; a rebuilt node has another.", 64),
            "credential": text("Ed25519 public key that signs this report, base64.", 44),
            "join": join,
            "endpoints": list("Outer UDP addresses, `ip:port`.", 64, text("An address and a port.", 53)),
            "addresses": list("The node's own addresses.", 64, text("An IPv4 or IPv6 address.", 45)),
            "keys": list("Keys that ask for a binding.", 16_384, key),
            "attachments": list("The workloads attached there.", 4_096, attachment),
            "observedRevision": number("The newest revision of endpoint slices that is in the node's kernel."),
            "sequence": number("Rises with every report."),
            "signature": text("Ed25519 over the rest of the spec, base64.", 88),
        }),
    );
    with(
        spec,
        json!({"x-kubernetes-validations": rules(&[
            ("self.nodeUID != oldSelf.nodeUID || self.sequence >= oldSelf.sequence", "a report older than the one that is held"),
        ])}),
    )
}

fn binding() -> Value {
    object(
        "A key that the controller bound to an identity.",
        &["identity", "epoch", "binding", "svid"],
        json!({
            "identity": text("SPIFFE ID.", SPIFFE_ID_MAX),
            "epoch": number("The rotation period that the key is of."),
            "binding": text("The signed statement \"this key is that identity on that node\".", 8_192),
            "svid": text("X.509-SVID of the same identity and epoch: PEM, leaf first.", 16_384),
        }),
    )
}

fn mesh_node_status() -> Value {
    let refused = object(
        "Something that the controller did not believe or grant.",
        &["reason"],
        json!({
            "identity": text("SPIFFE ID, where it is about one.", SPIFFE_ID_MAX),
            "epoch": number("The rotation period, where it is about one."),
            "reason": text("Why, and what to do.", 4_096),
        }),
    );
    object(
        "The controller's answer.",
        &[],
        json!({
            "joined": {"description": "Whether the controller believes this node.", "type": "boolean"},
            "bindings": list("Keys that were bound by a controller that did not write them into the slice yet.", 16_384, binding()),
            "refused": list("What was refused.", 4_096, refused),
            "conditions": people::conditions("Believed: the newest report is the node's own and is taken; PodsAttached: every pod there that is labelled into the mesh is protected by it."),
        }),
    )
}

fn mesh_endpoint_slice() -> Value {
    let endpoint = object(
        "A workload's addresses, or the node's, of which the same is said.",
        &["enforced", "name", "uid"],
        json!({
            "ip": text("The one address, as controllers wrote it before an entry had all of them.", 45),
            "ips": list("The addresses, at most those of one node.", api::ADDRESSES_MAX, text("An address.", 45)),
            "identity": text("SPIFFE ID; absent outside the mesh: clear text is right then.", SPIFFE_ID_MAX),
            "mode": mode("What is accepted there."),
            "ports": {"description": "Modes of single ports.", "type": "object", "maxProperties": 64, "additionalProperties": mode("What is accepted on this port.")},
            "outbound": outbound("What the workload may send outside the mesh."),
            "enforced": {"description": "Every node has switched: receivers reject what the mode does not accept.", "type": "boolean"},
            "namespace": text("Pod namespace; empty for the node's own address.", 63),
            "name": text("Pod or node name.", NAME_MAX),
            "uid": text("Pod or node UID.", NAME_MAX),
        }),
    );
    let spec = object(
        "The controller's word, signed by the issuer.",
        &["node", "nodeUID", "revision", "signature"],
        json!({
            "node": text("The node; also the name of this object.", NAME_MAX),
            "nodeUID": text("The node's UID at that time.", 64),
            "revision": number("Rises with every change of any slice."),
            "endpoints": list("One for each workload, or more where its addresses differ in what is said.", 4_096, endpoint),
            "bindings": list("The node's keys that were bound, each signed by itself.", 16_384, binding()),
            "signature": text("ECDSA P-256 over the rest of the spec without the bindings, base64.", 128),
        }),
    );
    with(
        spec,
        json!({"x-kubernetes-validations": rules(&[
            ("self.revision >= oldSelf.revision", "revisions only rise"),
        ])}),
    )
}

fn mesh_trust() -> Value {
    let domain = with(
        text("The trust domain of every identity; for good.", 255),
        json!({"x-kubernetes-validations": rules(&[("self == oldSelf", "the trust domain of a mesh cannot change")])}),
    );
    object(
        "The issuer's certificates.",
        &["trustDomain", "root", "intermediate"],
        json!({
            "trustDomain": domain,
            "root": text("The root certificate that nodes pin, PEM.", 16_384),
            "intermediate": text("The certificate that signs bindings and slices, PEM.", 16_384),
        }),
    )
}

#[cfg(test)]
#[path = "crd_tests.rs"]
mod tests;
