//! Istio's own PeerAuthentication, in a cluster that has its kind: it counts as ours does, from when it is installed until it is gone.

use std::time::Duration;

use super::Case;
use crate::cluster::Cluster;
use crate::pod::{Pod, at};
use crate::shell::eventually;

/// The cases of this file.
pub const CASES: &[(&str, Case)] = &[("f8_istios_own_kind_counts_where_it_is_installed", istios_kind_counts)];

/// A kind that is not there is looked for every half a minute.
const INSTALLED: Duration = Duration::from_secs(150);
const SOON: Duration = Duration::from_secs(90);

/// The kind as Istio serves it: group, version, names, scope. Written by hand: its schema is left open.
pub const DEFINITION: &str = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n\
    metadata: {name: peerauthentications.security.istio.io}\n\
    spec: {group: security.istio.io, scope: Namespaced, names: {kind: PeerAuthentication, listKind: PeerAuthenticationList, \
    plural: peerauthentications, singular: peerauthentication}, versions: [{name: v1, served: true, storage: true, \
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}\n---\n";

/// As it is in Istio's documentation: STRICT, and one port that is not.
const POLICY: &str = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: server, namespace: istio}\n\
    spec: {selector: {matchLabels: {app: server}}, mtls: {mode: STRICT}, portLevelMtls: {9000: {mode: DISABLE}}}\n---\n";

fn istios_kind_counts(cluster: &Cluster) {
    let plain = cluster.pods("istio-plain", false, &[("stranger", "n1")]);
    let pods = cluster.pods("istio", true, &[("client", "n1"), ("server", "n2")]);
    let (client, server, stranger) = (&pods[0], &pods[1], &plain[0]);
    let all = |pod: &Pod, open: bool| server.ips.iter().all(|ip| pod.reaches(&at(*ip, 8080)) == open);
    let comes_to = |what: &str, within: Duration, open: bool| {
        eventually(what, within, || (all(stranger, open) && all(client, true)).then_some(()));
    };
    comes_to("without the kind strangers are let in", SOON, true);
    cluster.apply(DEFINITION);
    cluster.kubectl(&[
        "wait",
        "--for=condition=Established",
        "--timeout=120s",
        "crd",
        "peerauthentications.security.istio.io",
    ]);
    // the server tells of a kind some time before it takes objects of it
    eventually("an object of the kind is taken", SOON, || {
        cluster.try_apply("admin", POLICY).status.success().then_some(())
    });
    comes_to("Istio's STRICT counts", INSTALLED, false);
    for ip in &server.ips {
        eventually("but on the port that it leaves out", SOON, || stranger.echo(*ip, "hello"));
    }
    cluster.kubectl(&["-n", "istio", "delete", "peerauthentications.security.istio.io", "server"]);
    comes_to("without the object strangers are let in again", SOON, true);
    cluster.apply(POLICY);
    comes_to("it counts again", SOON, false);
    cluster.kubectl(&["delete", "crd", "peerauthentications.security.istio.io"]);
    comes_to("with the kind all that it said is gone", SOON, true);
    cluster.delete_namespaces(&["istio", "istio-plain"]);
}
