//! What pods see of their start: init containers, probes, and nothing of ours in them (F23 to F25).

use std::net::IpAddr;
use std::time::Duration;

use super::Case;
use crate::cluster::Cluster;
use crate::pod::{MARKER, Pod, at, namespace, peer_authentication};
use crate::promise::keeps;
use crate::shell::eventually;

/// The cases of this file.
pub const CASES: &[(&str, Case)] = &[
    ("f25_from_the_first_packet_of_an_init_container", from_the_first_packet),
    ("f24_a_restricted_pod_and_probes_under_strict", restricted_and_probed),
];

/// Datagrams of an init container, one every 2 ms.
const DATAGRAMS: u64 = 1000;
const EVERY: f64 = 0.002;
/// Those that may be lost while the first handshake is under way, by the time that they take in seconds.
const LOST_MAX: f64 = 0.25;

fn from_the_first_packet(cluster: &Cluster) {
    let pods = cluster.pods("init", true, &[("server", "n2")]);
    cluster.apply(&peer_authentication("init", "STRICT"));
    let capture = cluster.capture();
    for (family, ip) in [("early4", pods[0].ip(false)), ("early6", pods[0].ip(true))] {
        let mut names = (1..).map(|n| format!("{family}-{n}"));
        keeps(&format!("what an init container's datagrams to {ip} lose, by their time"), LOST_MAX, || {
            // each of an identity that nobody has shaken hands with
            lost(cluster, &pods[0], &names.next().expect("there is always another"), ip)
        });
    }
    assert_eq!(capture.markers(), 0, "clear text from an init container");
    cluster.delete_namespaces(&["init"]);
}

/// How much of a pod's first datagrams does not arrive, by the time that it took to send, in seconds.
fn lost(cluster: &Cluster, server: &Pod, name: &str, ip: IpAddr) -> f64 {
    let arrived = server.load(include_str!("../load/arrived.py"), &["9999", MARKER]);
    // the very first thing that the pod does, many times over: a socket for each datagram, then connections
    let datagrams = format!(
        "import socket,time; f=socket.AF_INET6 if \":\" in \"{ip}\" else socket.AF_INET; \
         [(socket.socket(f,socket.SOCK_DGRAM).sendto(b\"{MARKER} %d\"%n,(\"{ip}\",9999)),time.sleep({EVERY})) for n in range({DATAGRAMS})]"
    );
    let connections =
        format!("for i in $(seq 20); do echo {MARKER} | nc -w 20 {ip} 9000 | grep -q {MARKER} || exit 1; done");
    cluster.apply(&format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}, namespace: init}}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: init}}\nspec: {{nodeName: n1, restartPolicy: Never, \
         serviceAccountName: {name}, automountServiceAccountToken: false, \
         terminationGracePeriodSeconds: 0, initContainers: [{{name: first, image: 'localhost/pod:1', imagePullPolicy: Never, \
         command: [/usr/bin/python3, -c, '{datagrams}'], volumeMounts: [{{name: usr, mountPath: /usr}}, {{name: lib, mountPath: /lib}}, \
         {{name: lib64, mountPath: /lib64}}]}}, {{name: second, image: 'localhost/pod:1', imagePullPolicy: Never, \
         command: [/bin/sh, -c, '{connections}']}}], containers: [{{name: main, image: 'localhost/pod:1', imagePullPolicy: Never, \
         command: [/bin/sleep, '1000']}}], volumes: [{{name: usr, hostPath: {{path: /usr}}}}, {{name: lib, hostPath: {{path: /usr/lib}}}}, \
         {{name: lib64, hostPath: {{path: /usr/lib64}}}}]}}\n"
    ));
    cluster.pod(&format!("init/{name}"));
    let (count, first) = arrived.enough();
    eprintln!("of {DATAGRAMS} datagrams of an init container {count} arrived, the first of them number {first}");
    u32::try_from(DATAGRAMS.saturating_sub(count)).map(f64::from).expect("a thousand at most") * EVERY
}

fn restricted_and_probed(cluster: &Cluster) {
    cluster.apply(&namespace("probed", true));
    cluster.apply(&peer_authentication("probed", "STRICT"));
    cluster.kubectl(&["label", "namespace", "probed", "pod-security.kubernetes.io/enforce=restricted"]);
    let probe = "{httpGet: {path: /index.html, port: 8080}, periodSeconds: 1, timeoutSeconds: 5, failureThreshold: 3}";
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: probed, labels: {{app: web}}}}\nspec: {{nodeName: n2, \
         terminationGracePeriodSeconds: 0, automountServiceAccountToken: false, \
         securityContext: {{runAsNonRoot: true, runAsUser: 1000, seccompProfile: {{type: RuntimeDefault}}}}, containers: [{{name: main, \
         image: 'localhost/pod:1', imagePullPolicy: Never, command: [/bin/httpd, -f, -p, '8080', -h, /www], readinessProbe: {probe}, \
         livenessProbe: {probe}, securityContext: {{readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, \
         capabilities: {{drop: [ALL]}}}}}}]}}\n"
    );
    cluster.apply(&manifest);
    let web = cluster.pod("probed/web");
    let facts = cluster.json(&["-n", "probed", "get", "pod", "web"]);
    assert_eq!(facts["spec"]["containers"].as_array().map(Vec::len), Some(1), "nothing is added to the pod");
    assert!(facts["spec"]["initContainers"].is_null() && facts["metadata"]["annotations"]["weft.dev"].is_null());
    let plain = cluster.pods("probed-plain", false, &[("stranger", "n1")]);
    let url = format!("http://{}/index.html", at(web.ip(false), 8080));
    let reaches = || plain[0].exec(&["curl", "-sf", "--noproxy", "*", "-m", "1", &url]).status.success();
    eventually("STRICT refuses a stranger", Duration::from_secs(90), || (!reaches()).then_some(()));
    cluster.await_probe("n2", "probed/web");
    let facts = cluster.json(&["-n", "probed", "get", "pod", "web"]);
    assert_eq!(facts["status"]["containerStatuses"][0]["restartCount"], 0);
    assert_eq!(facts["status"]["containerStatuses"][0]["ready"], true, "the kubelet's probes pass under STRICT");
    cluster.delete_namespaces(&["probed", "probed-plain"]);
}
