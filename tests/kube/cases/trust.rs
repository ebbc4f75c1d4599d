//! A stolen node credential acts as that node and nothing else, with the real token of a running daemon.

use std::process::Output;

use super::Case;
use crate::cluster::Cluster;
use crate::control_plane::ADDRESS;

/// The cases of this file.
pub const CASES: &[(&str, Case)] = &[
    ("a_stolen_node_token_writes_its_own_meshnode_only", a_stolen_node_token),
    ("a_controller_token_reads_no_other_secret", a_controller_token),
];

/// A token of a service account, bound to a pod or to nothing.
pub(super) fn token(cluster: &Cluster, account: &str, pod: Option<&str>) -> String {
    let bound = pod.map(|pod| ["--bound-object-kind", "Pod", "--bound-object-name", pod]);
    let arguments = ["-n", "weft-system", "create", "token", account];
    cluster.kubectl(&[&arguments[..], bound.as_ref().map_or(&[], |b| &b[..])].concat()).trim().to_owned()
}

/// Runs kubectl with nothing but a token.
pub(super) fn with(cluster: &Cluster, token: &str, arguments: &[&str]) -> Output {
    let (server, authority) = (format!("--server=https://{ADDRESS}:6443"), cluster.dir.join("pki/ca.crt"));
    let authority = format!("--certificate-authority={}", authority.display());
    let token = format!("--token={token}");
    cluster.kubectl_as("nobody", &[&[server.as_str(), &authority, &token], arguments].concat())
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Everything that the token may write, as `kubectl auth can-i --list` tells it.
fn writable(cluster: &Cluster, token: &str) -> Vec<String> {
    let listed = said(&with(cluster, token, &["auth", "can-i", "--list", "-n", "weft-system"]));
    let rows = listed.lines().filter(|row| {
        let verbs = row.rsplit_once('[').map_or("", |(_, verbs)| verbs);
        ["create", "patch", "update", "delete", "*"].iter().any(|verb| verbs.contains(verb))
    });
    let rows = rows.filter_map(|row| row.split_whitespace().next());
    // everybody may ask who they are
    rows.filter(|resource| !resource.starts_with("selfsubject")).map(str::to_owned).collect()
}

fn a_stolen_node_token(cluster: &Cluster) {
    let pod = crate::weft::daemon_pod(cluster, "n1");
    let stolen = token(cluster, "weft-node", Some(&pod));
    assert_eq!(writable(cluster, &stolen), ["meshnodes.weft.dev"], "all that a node may write");

    let own = request(cluster, &stolen, "PATCH", &format!("{OURS}/meshnodes/n1"));
    assert_eq!(own.0, 200, "its own: {}", own.1);
    let other = request(cluster, &stolen, "PATCH", &format!("{OURS}/meshnodes/n2"));
    assert!(other.1.contains("the daemon of node n1 may not write the MeshNode of n2"), "{}", other.1);
    // nobody else may, whatever their role
    let admin = request(cluster, "admin-token", "PATCH", &format!("{OURS}/meshnodes/n1"));
    assert!(admin.0 == 422 && admin.1.contains("by the daemon of its node and by nobody else"), "{admin:?}");
    let unbound = request(cluster, &token(cluster, "weft-node", None), "PATCH", &format!("{OURS}/meshnodes/n1"));
    assert!(unbound.1.contains("bound to no pod"), "{}", unbound.1);
    let refusals = [
        ("POST", "/meshnodes"),
        ("DELETE", "/meshnodes/n1"),
        ("PATCH", "/meshnodes/n1/status"),
        ("PATCH", "/meshendpointslices/n1"),
        ("DELETE", "/meshendpointslices/n2"),
        ("PATCH", "/meshtrusts/local"),
        ("POST", "/namespaces/weft-system/peerauthentications"),
        ("PATCH", "api/v1/nodes/n1"),
        ("PATCH", "api/v1/namespaces/weft-system"),
        ("PATCH", &format!("api/v1/namespaces/weft-system/pods/{pod}")),
        ("POST", "api/v1/namespaces/weft-system/pods"),
        ("POST", "api/v1/namespaces/weft-system/serviceaccounts/weft-controller/token"),
        ("GET", "api/v1/namespaces/weft-system/secrets"),
        ("GET", "api/v1/namespaces/weft-system/secrets/weft-controller"),
        ("PATCH", "apis/coordination.k8s.io/v1/namespaces/weft-system/leases/weft-controller"),
    ];
    for (method, path) in refusals {
        let path = if path.starts_with('/') { format!("{OURS}{path}") } else { path.to_owned() };
        let (code, text) = request(cluster, &stolen, method, &path);
        let by_policy = code == 422 && text.contains("may not write");
        assert!(code == 403 || by_policy, "{method} {path}: {code} {text}");
    }
}

/// Where our kinds are.
pub(super) const OURS: &str = "apis/weft.dev/v1alpha1";

/// As [`send`], with an annotation, or an object of no meaning.
fn request(cluster: &Cluster, token: &str, method: &str, path: &str) -> (u16, String) {
    let body = if method == "PATCH" { r#"{"metadata":{"annotations":{"test":"was here"}}}"# } else { BODY };
    send(cluster, token, method, path, body)
}

/// One request of the administrator, which must be taken; quicker than kubectl.
pub fn as_admin(cluster: &Cluster, method: &str, path: &str, body: &str) {
    let (code, text) = send(cluster, "admin-token", method, path, body);
    assert!((200..300).contains(&code), "{method} {path}: {code} {text}");
}

const BODY: &str = r#"{"apiVersion":"weft.dev/v1alpha1","kind":"MeshNode","metadata":{"name":"n9","annotations":{"test":"was here"}},
    "spec":{"nodeUID":"u","credential":"c","sequence":1,"signature":"s"}}"#;

/// One request with a token and nothing else: the answer's code and text.
pub(super) fn send(cluster: &Cluster, token: &str, method: &str, path: &str, body: &str) -> (u16, String) {
    send_with(cluster, token, (method, path), body, &[])
}

/// As [`send`], with more headers.
pub(super) fn send_with(
    cluster: &Cluster,
    token: &str,
    (method, path): (&str, &str),
    body: &str,
    headers: &[String],
) -> (u16, String) {
    let kind = if method == "PATCH" { "merge-patch+json" } else { "json" };
    let (authority, url) = (cluster.dir.join("pki/ca.crt"), format!("https://{ADDRESS}:6443/{path}"));
    let own = [format!("Authorization: Bearer {token}"), format!("Content-Type: application/{kind}")];
    let mut arguments = vec!["-s", "--noproxy", "*", "-w", "\n%{http_code}", "-X", method];
    arguments.extend(own.iter().chain(headers).flat_map(|header| ["-H", header]));
    let authority = authority.display().to_string();
    arguments.extend(["--cacert", &authority, &url]);
    if method != "GET" && method != "DELETE" {
        arguments.extend(["-d", body]);
    }
    let text = crate::shell::run("curl", &arguments);
    let (text, code) = text.rsplit_once('\n').expect("curl writes the code last");
    (code.parse().expect("a code"), text.to_owned())
}

fn a_controller_token(cluster: &Cluster) {
    cluster.kubectl(&["-n", "weft-system", "create", "secret", "generic", "other", "--from-literal=a=b"]);
    let stolen = token(cluster, "weft-controller", None);
    let writable = writable(cluster, &stolen);
    for resource in &writable {
        let known = [
            "meshnodes.weft.dev/status",
            "peerauthentications.weft.dev/status",
            "authorizationpolicies.weft.dev/status",
            "meshendpointslices.weft.dev",
            "meshtrusts.weft.dev",
            "secrets",
            "leases.coordination.k8s.io",
            // about policies of which something is not used; written, never read or taken away
            "events",
        ];
        assert!(known.contains(&resource.as_str()), "the controller may write {resource}: {writable:?}");
    }
    let refusals = [
        ("GET", "api/v1/namespaces/weft-system/secrets/other"),
        ("GET", "api/v1/secrets"),
        ("GET", "api/v1/events"),
        ("DELETE", "api/v1/namespaces/weft-system/events/any"),
        ("DELETE", "api/v1/namespaces/weft-system/secrets/weft-controller"),
        ("PATCH", "apis/weft.dev/v1alpha1/meshnodes/n1"),
        ("PATCH", "api/v1/nodes/n1"),
    ];
    for (method, path) in refusals {
        let (code, text) = request(cluster, &stolen, method, path);
        assert_eq!(code, 403, "{method} {path}: {text}");
    }
    cluster.kubectl(&["-n", "weft-system", "delete", "secret", "other"]);
}
