//! ID-14 with a real token: what a node says that is not its own is not believed, told of in its status, and changes nothing.

use std::time::Duration;

use serde_json::Value;

use super::Case;
use super::people::meshctl;
use super::trust::{OURS, send, token};
use crate::cluster::{Cluster, ROOT};
use crate::report::{Reporter, attachment, key};
use crate::shell::eventually;
use crate::weft::{DAEMON, daemon_pod};

/// The cases of this file.
pub const CASES: &[(&str, Case)] = &[
    ("id_14_a_node_that_lies_with_its_own_token_is_told_and_gets_nothing", a_node_that_lies),
    ("a_controller_whose_server_vouches_no_more_believes_no_other_credential", nobody_vouches),
];

const SOON: Duration = Duration::from_secs(120);

/// A node's daemon that says nothing while this lives.
struct Silenced<'a>(&'a Cluster, &'static str);

impl<'a> Silenced<'a> {
    fn begin(cluster: &'a Cluster, node: &'static str) -> Self {
        cluster.must_on(node, &format!("kill -STOP $({DAEMON})"));
        Self(cluster, node)
    }
}

impl Drop for Silenced<'_> {
    fn drop(&mut self) {
        self.0.on_node(self.1, &["sh", "-c", &format!("kill -CONT $({DAEMON})")]);
    }
}

/// Somebody with a node's token and a credential of their own.
struct Thief {
    reporter: Reporter,
    token: String,
}

impl Thief {
    /// One who has the token of a node's daemon.
    fn of(cluster: &Cluster, node: &str) -> Self {
        Self { reporter: Reporter::new(), token: token(cluster, "weft-node", Some(&daemon_pod(cluster, node))) }
    }

    /// Writes a report in a node's name.
    fn report(&self, cluster: &Cluster, node: &str, said: &str, sequence: u64) -> (u16, String) {
        let said = format!(r#""endpoints":[],{said},"observedRevision":0"#);
        let spec = self.reporter.spec(node, "thief", &said, sequence);
        self.patch(cluster, node, &format!(r#"{{"spec":{spec}}}"#))
    }

    fn patch(&self, cluster: &Cluster, node: &str, body: &str) -> (u16, String) {
        send(cluster, &self.token, "PATCH", &format!("{OURS}/meshnodes/{node}"), body)
    }
}

/// Status and message of the condition that says whether a node's report is believed.
fn believed(cluster: &Cluster, node: &str) -> String {
    let path = "jsonpath={range .status.conditions[?(@.type=='Believed')]}{.status} {.message}{end}";
    cluster.kubectl(&["get", "meshnode", node, "-o", path])
}

/// What the controller says of a node's own addresses and keys and of those of this file's namespace; what former cases leave
/// goes meanwhile.
fn word_on(cluster: &Cluster, node: &str) -> Value {
    let mut spec = cluster.json(&["get", "meshendpointslice", node])["spec"].clone();
    let mut keep = |list: &str, field: &str, wanted: &dyn Fn(&str) -> bool| {
        let list = spec[list].as_array_mut().into_iter();
        list.for_each(|list| list.retain(|one| wanted(one[field].as_str().unwrap_or_default())));
    };
    keep("endpoints", "namespace", &|namespace| namespace.is_empty() || namespace == "lies");
    keep("bindings", "identity", &|identity| identity.contains("/node/") || identity.contains("/ns/lies/"));
    serde_json::json!({"endpoints": spec["endpoints"], "bindings": spec["bindings"]})
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).expect("it is there and text")
}

fn a_node_that_lies(cluster: &Cluster) {
    let pods = cluster.pods("lies", true, &[("client", "n1"), ("server", "n2")]);
    let (client, server) = (&pods[0], &pods[1]);
    client.pings_within(server.ip(false), SOON);
    let node = cluster.json(&["get", "node", "n1"]);
    let own = cluster.json(&["get", "meshnode", "n1"]);
    let owner = text(&own, "/metadata/ownerReferences/0/uid");
    assert_eq!(owner, text(&node, "/metadata/uid"), "a report goes with its node");
    let sequence = own["spec"]["sequence"].as_u64().expect("a number");
    let (here, there) = (word_on(cluster, "n1"), word_on(cluster, "n2"));
    let identity = "spiffe://cluster.local/ns/lies/sa/server";
    let keys = there["bindings"].as_array().expect("a list").iter().find(|key| key["identity"] == identity);
    let epoch = keys.expect("the server's key is bound")["epoch"].as_u64().expect("a number");
    let uid = |pod: &str| cluster.kubectl(&["-n", "lies", "get", "pod", pod, "-o", "jsonpath={.metadata.uid}"]);

    // whoever has the node keeps its daemon from saying better
    let silenced = Silenced::begin(cluster, "n1");
    let thief = Thief::of(cluster, "n1");
    let (code, said) = thief.patch(cluster, "n1", r#"{"spec":{"sequence":0}}"#);
    assert!(code == 422 && said.contains("a report older than the one that is held"), "{code} {said}");
    let unsigned = format!(r#"{{"spec":{{"sequence":{},"signature":"AAAA"}}}}"#, sequence + 1);
    assert_eq!(thief.patch(cluster, "n1", &unsigned).0, 200);
    eventually("a report that nobody signed is told of", SOON, || {
        let said = believed(cluster, "n1");
        (said.starts_with("False") && said.contains("is not signed by the credential")).then_some(())
    });
    assert_eq!((&word_on(cluster, "n1"), &word_on(cluster, "n2")), (&here, &there), "it changes nothing");

    // a rebuilt node has another credential: that is believed of its own token, and nothing else is
    let (v4, v6) = (server.ip(false), server.ip(true));
    let ips = [v4.to_string(), v6.to_string()];
    let keys = format!(r#""keys":[{}]"#, key(identity, epoch, 1));
    let attached = ["client", "server"].map(|pod| attachment("lies", pod, &uid(pod), &ips)).join(",");
    let said = format!(r#""addresses":["10.77.0.12"],{keys},"attachments":[{attached}]"#);
    assert_eq!(thief.report(cluster, "n1", &said, sequence + 2).0, 200);
    let reasons = [
        format!("no live enrolled workload of {identity} is attached on this node"),
        "pod lies/server with that UID is not scheduled on this node".to_owned(),
        format!("{v4} cannot be lies/client's: the pod's status names other addresses"),
        format!("{v6} cannot be lies/client's: the pod's status names other addresses"),
        "10.77.0.12 cannot be n1's: the Node object does not list it".to_owned(),
    ];
    eventually("every lie is told of", SOON, || {
        let refused = cluster.json(&["get", "meshnode", "n1"])["status"]["refused"].to_string();
        reasons.iter().all(|reason| refused.contains(reason)).then_some(())
    });
    let (given, same) = (word_on(cluster, "n1"), word_on(cluster, "n2"));
    assert_eq!(same["endpoints"], there["endpoints"], "the other node keeps its addresses");
    for lie in [identity, "10.77.0.12", &v4.to_string(), &v6.to_string()] {
        assert!(!given.to_string().contains(&format!("\"{lie}\"")), "{lie} was given away: {given}");
    }

    drop(silenced);
    let back = || cluster.json(&["get", "meshnode", "n1"])["spec"]["nodeUID"] == own["spec"]["nodeUID"];
    eventually("the daemon says what is true", SOON, || back().then_some(()));
    eventually("and is believed", SOON, || believed(cluster, "n1").starts_with("True").then_some(()));
    client.pings_within(server.ip(false), SOON);
    client.pings_within(server.ip(true), SOON);
    cluster.delete_namespaces(&["lies"]);
}

fn nobody_vouches(cluster: &Cluster) {
    let own = cluster.json(&["get", "meshnode", "n2"]);
    let sequence = own["spec"]["sequence"].as_u64().expect("a number");
    let before = word_on(cluster, "n2");
    let thief = Thief::of(cluster, "n1");
    let nothing = r#""addresses":[],"keys":[],"attachments":[]"#;
    let as_another = |sequence: u64| thief.report(cluster, "n2", nothing, sequence);
    let (code, said) = as_another(sequence + 1);
    assert!(code == 422 && said.contains("may not write the MeshNode of n2"), "{code} {said}");
    let healthy = || meshctl(cluster, "meshctl", &["ca", "healthcheck"]).status.success();
    eventually("the issuer is healthy", SOON, || healthy().then_some(()));

    let silenced = Silenced::begin(cluster, "n2");
    cluster.kubectl(&["delete", "validatingadmissionpolicybinding", "weft-meshnodes"]);
    eventually("the issuer says that nobody vouches", SOON, || (!healthy()).then_some(()));
    eventually("the server takes what it refused", SOON, || (as_another(sequence + 1).0 == 200).then_some(()));
    eventually("the controller does not", SOON, || {
        let said = believed(cluster, "n2");
        (said.starts_with("False") && said.contains("while nobody vouches for it")).then_some(())
    });
    assert_eq!(word_on(cluster, "n2"), before, "the node keeps what it has");

    drop(silenced);
    eventually("the daemon's own report counts", SOON, || believed(cluster, "n2").starts_with("True").then_some(()));
    cluster.kubectl(&["apply", "-k", &format!("{ROOT}/manifests/overlays/default")]);
    eventually("the issuer is healthy again", SOON, || healthy().then_some(()));
    eventually("the server refuses again", SOON, || {
        let sequence = cluster.json(&["get", "meshnode", "n2"])["spec"]["sequence"].as_u64()?;
        (as_another(sequence + 1).0 == 422).then_some(())
    });
}
