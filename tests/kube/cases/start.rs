//! What pods see of their start: init containers, probes, and nothing of ours in them (F23 to F25).

use std::time::Duration;

use super::Case;
use crate::cluster::Cluster;
use crate::pod::{MARKER, at, namespace, peer_authentication, pod};
use crate::shell::eventually;

/// The cases of this file.
pub const CASES: &[(&str, Case)] = &[
    ("f25_from_the_first_packet_of_an_init_container", from_the_first_packet),
    ("f24_a_restricted_pod_and_probes_under_strict", restricted_and_probed),
];

/// Datagrams of an init container, one every 2 ms.
const DATAGRAMS: u64 = 1000;
/// Those that may be lost while the first handshake is under way: a second of them, on a machine that is slow and busy. Elsewhere it is none
/// or few, which is said.
const LOST_MAX: u64 = 500;

fn from_the_first_packet(cluster: &Cluster) {
    let pods = cluster.pods("init", true, &[("server", "n2")]);
    cluster.apply(&peer_authentication("init", "STRICT"));
    let capture = cluster.capture();
    for (name, ip) in [("early4", pods[0].ip(false)), ("early6", pods[0].ip(true))] {
        let arrived = pods[0].load(include_str!("../load/arrived.py"), &["9999", MARKER]);
        // the very first thing that the pod does, many times over: a socket for each datagram, then connections
        let datagrams = format!(
            "import socket,time; f=socket.AF_INET6 if \":\" in \"{ip}\" else socket.AF_INET; \
             [(socket.socket(f,socket.SOCK_DGRAM).sendto(b\"{MARKER} %d\"%n,(\"{ip}\",9999)),time.sleep(0.002)) for n in range({DATAGRAMS})]"
        );
        let connections =
            format!("for i in $(seq 20); do echo {MARKER} | nc -w 20 {ip} 9000 | grep -q {MARKER} || exit 1; done");
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: init}}\nspec: {{nodeName: n1, restartPolicy: Never, \
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
        assert!(count + LOST_MAX >= DATAGRAMS, "{count} of {DATAGRAMS} arrived");
    }
    assert_eq!(capture.markers(), 0, "clear text from an init container");
    cluster.delete_namespaces(&["init"]);
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
    cluster.apply(&pod("probed-plain", "later", "n2", ""));
    // several probe periods later it is still Ready, and was never restarted
    cluster.pod("probed-plain/later");
    eventually("four probes have passed", Duration::from_secs(90), || {
        let log = cluster.kubectl(&["-n", "probed", "get", "pod", "web", "-o", "jsonpath={.status.startTime}"]);
        let age = attempt_age(&log);
        (age >= 4.0).then_some(())
    });
    let facts = cluster.json(&["-n", "probed", "get", "pod", "web"]);
    assert_eq!(facts["status"]["containerStatuses"][0]["restartCount"], 0);
    assert_eq!(facts["status"]["containerStatuses"][0]["ready"], true, "the kubelet's probes pass under STRICT");
    cluster.delete_namespaces(&["probed", "probed-plain"]);
}

/// Seconds since a time as Kubernetes writes it.
fn attempt_age(time: &str) -> f64 {
    let script = "import datetime,sys\nt=datetime.datetime.fromisoformat(sys.argv[1].replace('Z','+00:00'))\n\
                  print((datetime.datetime.now(datetime.timezone.utc)-t).total_seconds())";
    crate::shell::run("python3", &["-c", script, time.trim()]).trim().parse().expect("a number")
}
