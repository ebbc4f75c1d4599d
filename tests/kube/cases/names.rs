//! PL-21: names. CoreDNS as a cluster has it, a member of the mesh, asked through its Service.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Case;
use crate::cluster::{Cluster, ROOT};
use crate::pod::{MARKER, Pod, at, namespace, peer_authentication};
use crate::shell::eventually;

/// The cases of this file.
pub const CASES: &[(&str, Case)] = &[("pl_21_names_by_coredns_headless_services_and_hairpins", names_and_hairpins)];

/// The addresses of the Service `kube-dns`; the first is in every pod's resolv.conf.
const DNS: [&str; 2] = ["10.96.0.10", "fd96::a"];

/// CoreDNS as its project's manifests have it, on n2, with what a cluster needs of it.
const CORE_DNS: &str = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: coredns, namespace: names-dns}\n---\n\
    apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: names-dns}\nrules:\n\
    - {apiGroups: [''], resources: [services, pods, namespaces], verbs: [list, watch]}\n\
    - {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}\n---\n\
    apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: names-dns}\n\
    roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: names-dns}\n\
    subjects: [{kind: ServiceAccount, name: coredns, namespace: names-dns}]\n---\n\
    apiVersion: v1\nkind: ConfigMap\nmetadata: {name: coredns, namespace: names-dns}\n\
    data: {Corefile: \".:53 {\\n errors\\n ready\\n kubernetes cluster.local\\n cache 5\\n}\\n\"}\n---\n\
    apiVersion: v1\nkind: Service\nmetadata: {name: kube-dns, namespace: names-dns}\n\
    spec: {clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10, 'fd96::a'], ipFamilyPolicy: RequireDualStack, selector: {app: coredns}, \
    ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]}\n---\n\
    apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: coredns, namespace: names-dns}\nspec:\n  selector: {matchLabels: {app: coredns}}\n  \
    template:\n    metadata: {labels: {app: coredns}}\n    spec:\n      serviceAccountName: coredns\n      nodeSelector: {kubernetes.io/hostname: n2}\n      \
    terminationGracePeriodSeconds: 0\n      dnsPolicy: Default\n      containers:\n      - {name: coredns, image: 'localhost/pod:1', imagePullPolicy: Never, \
    command: [/coredns, -conf, /etc/coredns/Corefile], readinessProbe: {httpGet: {path: /ready, port: 8181}, periodSeconds: 1}, \
    volumeMounts: [{name: program, mountPath: /coredns}, {name: config, mountPath: /etc/coredns}]}\n      \
    volumes:\n      - {name: program, hostPath: {path: PROGRAM, type: File}}\n      - {name: config, configMap: {name: coredns}}\n";

/// A Service without an address of its own, one of the pod that calls it, and one whose name is on no other wire.
const SERVICES: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: headless, namespace: names}\n\
    spec: {clusterIP: None, ipFamilyPolicy: RequireDualStack, selector: {app: server}, ports: [{port: 8080}]}\n---\n\
    apiVersion: v1\nkind: Service\nmetadata: {name: own, namespace: names}\n\
    spec: {ipFamilyPolicy: RequireDualStack, selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}\n---\n\
    apiVersion: v1\nkind: Service\nmetadata: {name: weft-marker-7f3a, namespace: names}\n\
    spec: {ipFamilyPolicy: RequireDualStack, selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}\n";

/// What the name server says of a name below the namespace of the case; `None` when it does not answer.
fn ask(pod: &Pod, how: &str, server: &str, name: &str) -> Option<Vec<IpAddr>> {
    let name = format!("{name}.names.svc.cluster.local");
    let output = pod.exec(&["python3", "-c", include_str!("../load/ask.py"), how, server, &name]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then(|| text.lines().map(|line| line.parse().expect("an address")).collect())
}

fn names_and_hairpins(cluster: &Cluster) {
    let program = PathBuf::from(ROOT).join(".tools/kubernetes/bin/coredns").canonicalize();
    let program = program.expect("CoreDNS is not built: run scripts/setup kubernetes");
    let pods = cluster.pods("names", true, &[("client", "n1"), ("server", "n2")]);
    let plain = cluster.pods("names-plain", false, &[("stranger", "n1")]);
    let core_dns = namespace("names-dns", true) + &CORE_DNS.replace("PROGRAM", &program.display().to_string());
    cluster.apply(&(core_dns + "---\n" + SERVICES));
    cluster.kubectl(&["-n", "names-dns", "rollout", "status", "deployment/coredns", "--timeout=240s"]);
    let (client, server, stranger) = (&pods[0], &pods[1], &plain[0]);
    let addresses = |name: &str| -> Vec<IpAddr> {
        let service = cluster.json(&["-n", "names", "get", "service", name]);
        let ips = service["spec"]["clusterIPs"].as_array().expect("cluster addresses").clone();
        ips.iter().map(|ip| ip.as_str().expect("text").parse().expect("an address")).collect()
    };
    let marked = addresses("weft-marker-7f3a");
    let answers = |pod: &Pod, how: &str, at: &str| ask(pod, how, at, MARKER).is_some_and(|ips| ips == marked);
    // the control: who is not in the mesh asks in clear text, and is answered while that is let in
    let capture = cluster.capture();
    eventually("a stranger is answered", Duration::from_secs(90), || answers(stranger, "udp", DNS[0]).then_some(()));
    assert!(capture.markers() > 0, "the capture cannot see a question");
    cluster.apply(&(peer_authentication("names", "STRICT") + "---\n" + &peer_authentication("names-dns", "STRICT")));
    for at in DNS {
        eventually("STRICT holds", Duration::from_secs(90), || ask(stranger, "udp", at, "own").is_none().then_some(()));
        assert_eq!(ask(stranger, "tcp", at, "own"), None, "a stranger is answered by TCP");
    }
    let capture = cluster.capture();
    for (how, at) in [("udp", DNS[0]), ("tcp", DNS[0]), ("udp", DNS[1]), ("tcp", DNS[1])] {
        eventually(&format!("an answer over {how} at {at}"), Duration::from_secs(90), || {
            answers(client, how, at).then_some(())
        });
        eventually(&format!("a headless Service's addresses, {how} at {at}"), Duration::from_secs(90), || {
            (ask(client, how, at, "headless")? == server.ips).then_some(())
        });
        eventually(&format!("the name server's own node, {how} at {at}"), Duration::from_secs(90), || {
            answers(server, how, at).then_some(())
        });
    }
    // by the pod's own resolv.conf
    let by_name = |name: &str, port: u16| {
        let find = format!("$(nslookup {name}.names.svc.cluster.local | awk '/^Address: /{{print $2; exit}}')");
        cluster.get_inside("names", "client", &find, port).starts_with("server").then_some(())
    };
    eventually("a headless Service by its name", Duration::from_secs(90), || by_name("headless", 8080));
    eventually("a Service by its name", Duration::from_secs(90), || by_name("own", 80));
    assert_eq!(capture.markers(), 0, "a question to the name server in clear text");
    // a pod that calls its own Service: translated there and back on its own node
    for ip in addresses("own") {
        eventually(&format!("a hairpin over {ip}"), Duration::from_secs(90), || {
            server.get(&at(ip, 80)).filter(|name| name == "server")
        });
    }
    cluster.kubectl(&["delete", "clusterrole,clusterrolebinding", "names-dns"]);
    cluster.delete_namespaces(&["names", "names-dns", "names-plain"]);
}
