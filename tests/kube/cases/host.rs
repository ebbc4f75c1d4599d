//! PL-22, PL-23 and ID-15: nodes and pods, what the system itself listens on, and what a user of one namespace can do to the mesh.

use std::net::IpAddr;
use std::time::Duration;

use super::Case;
use crate::cluster::{Cluster, NODES};
use crate::pod::{MARKER, at, namespace, peer_authentication};
use crate::shell::eventually;
use crate::weft;

/// The cases of this file.
pub const CASES: &[(&str, Case)] = &[
    ("pl_22_pl_23_between_nodes_and_pods_and_the_systems_own_endpoints", nodes_and_pods),
    ("id_15_a_user_of_one_namespace_changes_nothing_else", a_user_of_one_namespace),
];

/// Answers every line with the line, on all addresses of the node.
const ECHO: &str = "import socket,threading\n\
    s=socket.create_server(('::',9100),family=socket.AF_INET6,dualstack_ipv6=True)\n\
    def serve(c):\n while True:\n  d=c.recv(65536)\n  if not d: return\n  c.sendall(d)\n\
    while True: threading.Thread(target=serve,args=(s.accept()[0],),daemon=True).start()\n";

/// Says the marker to a port and returns what comes back.
fn say(to: IpAddr, port: u16) -> String {
    format!(
        "python3 -c \"import socket; s=socket.create_connection(('{to}',{port}),10); s.sendall(b'{MARKER}'); print(s.recv(100).decode())\""
    )
}

fn nodes_and_pods(cluster: &Cluster) {
    let pods = cluster.pods("host", true, &[("one", "n1"), ("two", "n2")]);
    cluster.apply(&peer_authentication("host", "STRICT"));
    cluster.must_on("n2", &format!("setsid python3 -c \"{ECHO}\" >/dev/null 2>&1 & echo $! > /run/echo.pid"));
    let node: [IpAddr; 2] = ["10.77.0.12", "fd77::12"].map(|ip| ip.parse().expect("an address"));
    let reach = |ip: IpAddr| {
        let answered =
            || pods[0].exec(&["sh", "-c", &say(ip, 9100)]).stdout.starts_with(MARKER.as_bytes()).then_some(());
        eventually("a pod reaches the other node", Duration::from_secs(90), answered);
    };
    for ip in pods[1].ips.iter().chain(&pods[0].ips) {
        pods[0].pings_within(*ip, Duration::from_secs(90));
    }
    let capture = cluster.capture();
    for index in [0, 1] {
        // pod to the other node, and its reply
        reach(node[index]);
        // the other node's own programs to the pod, and the reply
        let said = cluster.must_on("n2", &say(pods[0].ips[index], 9000));
        assert_eq!(said.trim(), MARKER);
        // the pod's own node, over no wire
        let said = cluster.must_on("n1", &say(pods[0].ips[index], 9000));
        assert_eq!(said.trim(), MARKER);
    }
    assert_eq!(capture.markers(), 0, "clear text between a node and a pod");
    cluster.must_on("n2", "kill $(cat /run/echo.pid)");

    // what our programs listen on: the port of the sessions, and nothing else that a pod could reach
    for node in NODES {
        let listening = cluster.must_on(node, "ss -Hlntup | grep -E 'meshd|meshctl|mesh-cni' || true");
        let others: Vec<_> =
            listening.lines().filter(|line| !(line.starts_with("udp") && line.contains(":51840 "))).collect();
        assert!(others.is_empty() && listening.contains("51840"), "{node}: {listening}");
        let sockets = cluster.must_on(node, "find /run/weft -type s -printf '%m %u %p\\n'");
        assert!(sockets.lines().count() >= 2 && sockets.lines().all(|line| line.starts_with("600 root ")), "{sockets}");
    }
    cluster.delete_namespaces(&["host"]);
}

fn a_user_of_one_namespace(cluster: &Cluster) {
    let victims = cluster.pods("victim", true, &[("server", "n2")]);
    cluster.apply(&peer_authentication("victim", "STRICT"));
    // everything that the role `admin` gives, in a namespace of their own
    cluster.apply(&(namespace("tenant", true) + "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\n\
        metadata: {name: tenant, namespace: tenant}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: admin}\n\
        subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: tenant}]\n"));
    let tenant = |arguments: &[&str]| cluster.try_kubectl(&[&["--as=tenant"], arguments].concat());
    let foreign = |kind: &str, namespace: &str, name: &str, rest: &str| {
        let version = if kind == "Pod" { "v1" } else { "weft.dev/v1alpha1" };
        let text = format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\n{rest}\n"
        );
        let file = cluster.dir.join("foreign.yaml");
        std::fs::write(&file, text).expect("the run's folder takes files");
        tenant(&["apply", "-f", &file.display().to_string()])
    };
    let spec = "spec: {mtls: {mode: DISABLE}}";
    let trust = "spec: {trustDomain: cluster.local, root: x, intermediate: x}";
    for output in [
        foreign("PeerAuthentication", "victim", "default", spec),
        foreign("PeerAuthentication", "weft-system", "default", spec),
        foreign("MeshTrust", "tenant", "local", trust),
        foreign("MeshNode", "tenant", "n1", "spec: {nodeUID: u, credential: c, sequence: 99, signature: s}"),
        tenant(&["label", "namespace", "victim", "weft.dev/mesh=disabled", "--overwrite"]),
        tenant(&["label", "namespace", "tenant", "weft.dev/mesh=disabled", "--overwrite"]),
        tenant(&["-n", "victim", "label", "pod", "server", "weft.dev/mesh=disabled"]),
        tenant(&["label", "node", "n1", "weft.dev/x=y"]),
        tenant(&["-n", "weft-system", "get", "secrets"]),
        tenant(&["-n", "weft-system", "create", "token", "weft-node"]),
        tenant(&["-n", "weft-system", "exec", "daemonset/weft-node", "--", "meshctl", "status"]),
    ] {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains("orbidden"),
            "{said}{}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
    // a pod of theirs with everything on it that somebody might believe
    let ip = victims[0].ip(false);
    let lies = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: liar, namespace: tenant, labels: {{app: server, weft.dev/identity: server, \
         namespace: victim, kubernetes.io/metadata.name: victim, serviceAccountName: server}}, annotations: {{\
         weft.dev/identity: 'spiffe://cluster.local/ns/victim/sa/server', weft.dev/ips: '{ip}', weft.dev/mode: DISABLE, \
         cni.projectcalico.org/ipAddrs: '[\"{ip}\"]', cni.projectcalico.org/floatingIPs: '[\"{ip}\"]', \
         k8s.v1.cni.cncf.io/networks: victim, mesh.weft.dev/public-key: AAAA}}}}\n\
         spec: {{nodeName: n1, hostname: server, subdomain: server, terminationGracePeriodSeconds: 0, containers: [{{name: main, \
         image: 'localhost/pod:1', imagePullPolicy: Never, command: [/bin/sh, -c, '{}']}}]}}\n",
        crate::pod::SERVE
    );
    let file = cluster.dir.join("liar.yaml");
    std::fs::write(&file, lies).expect("the run's folder takes files");
    // their role, and the namespace's default account, may be a moment late
    eventually("a user makes a pod of their own", Duration::from_secs(60), || {
        let made = tenant(&["apply", "-f", &file.display().to_string()]);
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success() || said.contains("orbidden"), "{said}");
        made.status.success().then_some(())
    });
    let liar = cluster.pod("tenant/liar");
    let status = tenant(&[
        "-n",
        "tenant",
        "patch",
        "pod",
        "liar",
        "--subresource=status",
        "--type=merge",
        "-p",
        "{\"status\":{\"podIP\":\"10.88.2.2\"}}",
    ]);
    assert!(!status.status.success(), "a user sets a pod's address");
    liar.pings_within(ip, Duration::from_secs(90));
    // its name is what the API server says of its account, and its address is its own
    let peers = cluster.json(&["get", "meshendpointslice", "n1"]);
    let endpoints = peers["spec"]["endpoints"].as_array().expect("endpoints").clone();
    let own: Vec<_> = endpoints.iter().filter(|e| e["namespace"] == "tenant").collect();
    assert_eq!(own.len(), 1, "one, with both families' addresses: {own:?}");
    assert_eq!(own[0]["identity"], "spiffe://cluster.local/ns/tenant/sa/default", "{own:?}");
    let addresses: Vec<IpAddr> = weft::addresses(own[0]).map(|ip| ip.parse().expect("an address")).collect();
    assert!(addresses.len() == 2 && addresses.iter().all(|ip| liar.ips.contains(ip)), "{own:?}");
    // who it claimed to be is untouched
    let plain = cluster.pods("tenant-plain", false, &[("stranger", "n1")]);
    assert!(plain[0].is_refused_by(&at(ip, 8080)), "STRICT as before");
    assert_eq!(liar.get(&at(ip, 8080)).as_deref(), Some("server"));
    cluster.delete_namespaces(&["tenant", "victim", "tenant-plain"]);
}
