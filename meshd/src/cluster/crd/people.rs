//! Schemas of the kinds that people write: what cannot be meant is refused with the sentence that the parser has for it.

use policy::manifest::{OPERATION_REFUSED, RULE_REFUSED, SOURCE_REFUSED, SPEC_REFUSED};
use serde_json::{Map, Value, json};

use super::{NAME_MAX, SPIFFE_ID_MAX, list, mode, number, object, outbound, rules, text, with};

/// Rules of one policy, and elements of `from` and `to`; the API server bounds the cost of the checks by them.
const RULES_MAX: u32 = 128;
const ELEMENTS_MAX: u32 = 64;
/// Ports in one list.
const PORTS_MAX: u32 = 32;

/// Which workloads of the namespace.
fn selector(description: &str) -> Value {
    let requirement = with(
        object(
            "One demand on the labels.",
            &["key", "operator"],
            json!({
                "key": text("The label.", 317),
                "operator": {"description": "What is demanded of it.", "type": "string", "enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
                "values": list("For In and NotIn: among these.", 64, text("A value.", 63)),
            }),
        ),
        json!({"x-kubernetes-validations": rules(&[
            ("self.operator in ['In', 'NotIn'] == (has(self.values) && size(self.values) > 0)",
             "In and NotIn need values; Exists and DoesNotExist take none"),
        ])}),
    );
    object(
        description,
        &[],
        json!({
            "matchLabels": {"description": "Labels that the pod must have.", "type": "object", "maxProperties": 64, "additionalProperties": text("The value.", 63)},
            "matchExpressions": list("Demands that all must be met.", 64, requirement),
        }),
    )
}

pub(super) fn peer_authentication() -> Value {
    let mtls = object(
        "What is accepted.",
        &[],
        json!({"mode": mode("UNSET inherits from the next wider scope; nowhere set is PERMISSIVE.")}),
    );
    let ports = with(
        json!({"description": "Modes of single ports, by number (1 to 65535); needs a selector that names labels.", "type": "object",
            "maxProperties": 64, "additionalProperties": mtls.clone()}),
        json!({"x-kubernetes-validations": rules(&[
            ("self.all(port, port.matches('^[1-9][0-9]{0,4}$') && int(port) <= 65535)", "a port is a number from 1 to 65535"),
        ])}),
    );
    let spec = object(
        "Whom it is about, and what they accept.",
        &[],
        json!({
            "selector": selector("Which workloads of the namespace; without it all of them, and in the root namespace all of the mesh."),
            "mtls": mtls,
            "portLevelMtls": ports,
            "outbound": outbound("What the selected workloads may send outside the mesh: Opportunistic (anything, the default) or RequireMesh (nothing in clear text)."),
        }),
    );
    with(
        spec,
        json!({"x-kubernetes-validations": rules(&[
            ("!has(self.portLevelMtls) || size(self.portLevelMtls) == 0 || (has(self.selector) && ((has(self.selector.matchLabels) && size(self.selector.matchLabels) > 0) || (has(self.selector.matchExpressions) && size(self.selector.matchExpressions) > 0)))",
             "portLevelMtls needs a selector that names labels: ports are a workload's"),
        ])}),
    )
}

/// An object whose unknown fields are kept: dropped, a slip of the pen would make a policy wider than it was meant; kept,
/// the daemons find it, close what it is about, and the status tells.
fn kept(mut object: Value, refused: &[(&str, &'static str)], more: &[(&str, &str)]) -> Value {
    let mut validations: Vec<Value> = Vec::new();
    let mut fields = Map::new();
    for (field, reason) in refused {
        let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let form = match *field {
            "targetRef" | "provider" => any,
            "targetRefs" | "when" => json!({"type": "array", "maxItems": ELEMENTS_MAX, "items": any}),
            _ => json!({"type": "array", "maxItems": ELEMENTS_MAX, "items": {"type": "string"}}),
        };
        fields.insert((*field).to_owned(), with(json!({"description": format!("Refused: {reason}.")}), form));
        validations.push(json!({"rule": format!("!has(self.{field})"), "message": format!("{field}: {reason}"),
            "fieldPath": format!(".{field}"), "reason": "FieldValueForbidden"}));
    }
    validations.extend(more.iter().map(|(rule, message)| json!({"rule": rule, "message": message})));
    if let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) {
        properties.extend(fields);
    }
    let mut more = json!({"x-kubernetes-preserve-unknown-fields": true});
    if let (false, Value::Object(more)) = (validations.is_empty(), &mut more) {
        more.insert("x-kubernetes-validations".to_owned(), Value::Array(validations));
    }
    with(object, more)
}

/// A list of names that are compared exactly.
fn names(description: &str, longest: u32) -> Value {
    with(
        list(description, ELEMENTS_MAX, text("A name.", longest)),
        json!({"x-kubernetes-validations": rules(&[
            ("self.all(name, !name.startsWith('*') && !name.endsWith('*'))",
             "names match exactly: list them, or leave the field out to mean anybody"),
        ])}),
    )
}

fn blocks(description: &str) -> Value {
    // the longest prefix in the text form of IPv6
    list(description, ELEMENTS_MAX, text("A prefix, such as 10.0.0.0/8, or an address.", 49))
}

fn ports(description: &str) -> Value {
    let port = json!({"description": "A port, 1 to 65535.", "x-kubernetes-int-or-string": true, "maxLength": 5});
    with(
        list(description, PORTS_MAX, port),
        json!({"x-kubernetes-validations": rules(&[
            ("self.all(port, type(port) == int ? port > 0 && port <= 65535 : port.matches('^[1-9][0-9]{0,4}$') && int(port) <= 65535)",
             "a port is a number from 1 to 65535"),
        ])}),
    )
}

/// The other end of a connection.
fn peer_terms(description: &str) -> Value {
    let principal = "<trust domain>/ns/<namespace>/sa/<service account>";
    let terms = object(
        description,
        &[],
        json!({
            "principals": names(&format!("Identities, proved by key: {principal}."), SPIFFE_ID_MAX),
            "notPrincipals": names("None of these identities.", SPIFFE_ID_MAX),
            "namespaces": names("Namespaces of the identity, proved by key.", NAME_MAX),
            "notNamespaces": names("None of these namespaces.", NAME_MAX),
            "ipBlocks": blocks("Prefixes or addresses."),
            "notIpBlocks": blocks("None of these prefixes."),
        }),
    );
    let any = ["principals", "notPrincipals", "namespaces", "notNamespaces", "ipBlocks", "notIpBlocks"];
    let any = any.map(|field| format!("has(self.{field})")).join(" || ");
    kept(terms, &SOURCE_REFUSED, &[(&any, "principals, namespaces or ipBlocks are needed: nobody is meant so far")])
}

pub(super) fn authorization_policy() -> Value {
    let operation = object(
        "Ports of the serving side.",
        &[],
        json!({"ports": ports("Ports, as numbers or texts."), "notPorts": ports("None of these ports.")}),
    );
    let operation = kept(
        operation,
        &OPERATION_REFUSED,
        &[("has(self.ports) || has(self.notPorts)", "ports or notPorts are needed: nothing is meant so far")],
    );
    let from = object(
        "One of those who begin a connection.",
        &["source"],
        json!({"source": peer_terms("Who: every field that is there must fit.")}),
    );
    let to = object(
        "What is reached.",
        &[],
        json!({"operation": operation, "destination": peer_terms("With direction Outbound, who is reached: every field that is there must fit.")}),
    );
    let to = kept(
        to,
        &[],
        &[("has(self.operation) || has(self.destination)", "an element of `to` has an operation or a destination")],
    );
    let rule = object(
        "Matches where one of `from` and one of `to` do; what is not there matches everything.",
        &[],
        json!({
            "from": list("Those who begin the connection, any of them.", ELEMENTS_MAX, kept(from, &[], &[])),
            "to": list("What they reach, any of it.", ELEMENTS_MAX, to),
        }),
    );
    let spec = object(
        "Whom it is about, and who may talk to them.",
        &[],
        json!({
            "selector": kept(selector("Which workloads of the namespace; without it all of them, and in the root namespace all of the mesh."), &[], &[]),
            "action": {"description": "What happens to what the rules match: ALLOW (the default: whatever no ALLOW policy matches is refused then), DENY (first of all), AUDIT (counted only).",
                "type": "string", "enum": ["ALLOW", "DENY", "AUDIT"]},
            "direction": {"description": "Inbound (the default): who may reach the selected workloads. Outbound: whom they may reach.", "type": "string", "enum": ["Inbound", "Outbound"]},
            "rules": list("Any of them matches; none of them there: nothing matches.", RULES_MAX, kept(rule, &RULE_REFUSED, &[])),
        }),
    );
    let ways = [
        (
            "!has(self.direction) || self.direction == 'Inbound' || !has(self.rules) || self.rules.all(rule, !has(rule.from))",
            "an outbound policy says whom its workloads reach: `to[].destination`, not `from`",
        ),
        (
            "(has(self.direction) && self.direction == 'Outbound') || !has(self.rules) || self.rules.all(rule, !has(rule.to) || rule.to.all(to, !has(to.destination)))",
            "who the workloads reach is said by a policy of `direction: Outbound`",
        ),
    ];
    kept(spec, &SPEC_REFUSED, &ways)
}

/// What the controller says of an object that people wrote.
pub(super) fn status() -> Value {
    let kind = "Accepted: every part of the object is read and in force (reason Read); PartsUnreadable: the rest of it is; Refused: what was known before stays.";
    object("What the controller says of it.", &[], json!({"conditions": conditions(kind)}))
}

/// The same, with the counts of whom it governs.
pub(super) fn peer_authentication_status() -> Value {
    let mut status = status();
    let counts = json!({
        "observedGeneration": number("The generation of the object that the counts below are of. They are written a second after it was created or changed, and at most half a minute after they became other ones."),
        "workloads": number("Live workloads whose mode is this object's: pods that are in the mesh by label and have not ended, among them those that are still to start. A workload counts under one object only: workload before namespace before mesh, the oldest of each; under none where all are UNSET."),
        "enforcedWorkloads": number("How many of these workloads are published to every node as enforced. Where the object says DISABLE: as outside the mesh."),
        "enforced": text("enforcedWorkloads and workloads as one text, such as 2/3; 0/0 where the object governs nobody.", 41),
    });
    if let (Some(Value::Object(fields)), Value::Object(counts)) = (status.get_mut("properties"), counts) {
        fields.extend(counts);
    }
    status
}

/// Conditions as Kubernetes has them; `kind` says which types there are.
pub(super) fn conditions(kind: &str) -> Value {
    let condition = object(
        "One thing that holds or does not.",
        &["type", "status", "reason", "message", "lastTransitionTime"],
        json!({
            "type": text(kind, 316),
            "status": {"description": "Whether it holds.", "type": "string", "enum": ["True", "False", "Unknown"]},
            "reason": text("Why, in one word.", 1_024),
            "message": text("What is meant, and what follows from it.", 32_768),
            "observedGeneration": {"description": "Of which generation of the object this is said.", "type": "integer", "format": "int64", "minimum": 0},
            "lastTransitionTime": {"description": "Since when.", "type": "string", "format": "date-time"},
        }),
    );
    with(
        list("What holds of this object.", 8, condition),
        json!({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
    )
}
