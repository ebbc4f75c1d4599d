//! What the API server makes of our kinds: bad objects are refused with a sentence, good ones are shown and explained.

use super::Case;
use crate::cluster::Cluster;

/// The cases of this file.
pub const CASES: &[(&str, Case)] = &[("f41_objects_are_checked_at_the_door", objects_are_checked)];

fn peer_authentication(spec: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: PeerAuthentication\nmetadata: {{name: try, namespace: default}}\nspec: {spec}\n"
    )
}

fn objects_are_checked(cluster: &Cluster) {
    let refused = [
        ("{mtls: {mode: MUTUAL}}", "supported values: \"UNSET\", \"DISABLE\", \"PERMISSIVE\", \"STRICT\""),
        ("{portLevelMtls: {'80': {mode: STRICT}}}", "needs a selector that names labels"),
        (
            "{selector: {matchLabels: {a: b}}, portLevelMtls: {'70000': {mode: STRICT}}}",
            "a port is a number from 1 to 65535",
        ),
        (
            "{selector: {matchLabels: {a: b}}, portLevelMtls: {http: {mode: STRICT}}}",
            "a port is a number from 1 to 65535",
        ),
        ("{selector: {matchExpressions: [{key: a, operator: In}]}}", "In and NotIn need values"),
        ("{mtls: {mode: STRICT}, ports: [1]}", "field not declared in schema"),
        ("{outbound: Never}", "supported values: \"Opportunistic\", \"RequireMesh\""),
    ];
    for (spec, sentence) in refused {
        let output = cluster.try_apply("admin", &peer_authentication(spec));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(sentence), "{spec}: {said}");
    }
    // as Istio's documentation has it, with the group changed
    cluster.apply(&peer_authentication(
        "{selector: {matchLabels: {app: finance}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: DISABLE}}}",
    ));
    let shown = cluster.kubectl(&["get", "pa", "try"]);
    assert!(shown.contains("MODE") && shown.contains("STRICT"), "{shown}");
    let nobody = ["wait", "pa/try", "--for=jsonpath={.status.enforced}=0/0", "--timeout=90s"];
    cluster.kubectl(&nobody);
    cluster.kubectl(&["delete", "pa", "try"]);
    for (field, sentence) in [("spec.portLevelMtls", "needs a selector"), ("status.enforced", "such as 2/3")] {
        let explained = cluster.kubectl(&["explain", &format!("peerauthentication.{field}")]);
        assert!(explained.contains(sentence), "{explained}");
    }
    let all = cluster.kubectl(&["get", "weft", "-A"]);
    for kind in ["meshnode.weft.dev/n1", "meshendpointslice.weft.dev/n2", "meshtrust.weft.dev/local"] {
        assert!(all.contains(kind), "{kind} in {all}");
    }
    // what may change, and in which direction
    let transitions = [
        ("meshtrust", "local", r#"{"spec":{"trustDomain":"other.example"}}"#, "cannot change"),
        ("meshendpointslice", "n1", r#"{"spec":{"revision":1}}"#, "revisions only rise"),
        ("meshendpointslice", "n1", r#"{"spec":{"node":"n2"}}"#, "a slice is named after its node"),
    ];
    for (kind, name, change, sentence) in transitions {
        let output = cluster.try_kubectl(&["patch", kind, name, "--type", "merge", "-p", change]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(sentence), "{kind} {change}: {said}");
    }
}
