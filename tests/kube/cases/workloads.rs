//! F23: workloads as people write them, without a word of Weft; rolled, and their node drained, under requests that may not fail.

use std::time::Duration;

use super::Case;
use crate::cluster::Cluster;
use crate::pod::{namespace, peer_authentication};
use crate::shell::eventually;
use crate::weft;

/// The cases of this file.
pub const CASES: &[(&str, Case)] =
    &[("f23_a_deployment_is_rolled_and_its_node_drained_under_requests", rolled_and_drained)];

/// The shape of the usual samples: a service account, a Deployment of a web server with a port by name, a Service on another
/// port, and a client that sleeps, with a Secret that may be missing. Nothing in it knows of a mesh.
const SAMPLE: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: shop}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {app: web}}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
  ports: [{name: http, port: 8000, targetPort: http}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web, namespace: shop}
spec: {minAvailable: 1, selector: {matchLabels: {app: web}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  selector: {matchLabels: {app: web, version: v1}}
  template:
    metadata: {labels: {app: web, version: v1}}
    spec:
      serviceAccountName: web
      terminationGracePeriodSeconds: 20
      topologySpreadConstraints:
        - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: web}}}
      containers:
        - name: web
          image: localhost/pod:1
          imagePullPolicy: IfNotPresent
          command: [/bin/sh, -c, 'hostname > /www/name; exec httpd -f -p 80 -h /www']
          ports: [{name: http, containerPort: 80}]
          readinessProbe: {httpGet: {path: /name, port: http}, periodSeconds: 1, timeoutSeconds: 5}
          # the last requests come until every node knows that this pod ends
          lifecycle: {preStop: {exec: {command: [/bin/sleep, '10']}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: sleep, namespace: shop}
spec:
  replicas: 1
  selector: {matchLabels: {app: sleep}}
  template:
    metadata: {labels: {app: sleep}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - name: sleep
          image: localhost/pod:1
          command: [/bin/sleep, infinity]
          imagePullPolicy: IfNotPresent
          volumeMounts: [{mountPath: /etc/sleep/tls, name: secret-volume}]
      volumes: [{name: secret-volume, secret: {secretName: sleep-secret, optional: true}}]
";

fn rolled_and_drained(cluster: &Cluster) {
    cluster.apply(&(namespace("shop", true) + &peer_authentication("shop", "STRICT") + SAMPLE));
    for name in ["web", "sleep"] {
        cluster.kubectl(&["-n", "shop", "rollout", "status", &format!("deployment/{name}"), "--timeout=300s"]);
    }
    let service = cluster.json(&["-n", "shop", "get", "service", "web"]);
    let address = |index: usize| -> std::net::IpAddr {
        let text = service["spec"]["clusterIPs"][index].as_str().expect("an address of each family");
        text.parse().expect("an address")
    };
    // from inside the client's own container
    eventually("the client reaches the Service", Duration::from_secs(90), || {
        let said = cluster.get_inside("shop", "deployment/sleep", &address(0).to_string(), 8000);
        said.starts_with("web-").then_some(())
    });
    let template = cluster.kubectl(&["-n", "shop", "get", "pods", "-l", "app=web", "-o", "yaml"]);
    assert!(!template.contains("weft"), "something of ours is in a pod: {template}");

    let caller = &cluster.pods("shop", true, &[("caller", "n1")])[0];
    let capture = cluster.capture();
    let loads = [0, 1].map(|index| caller.requests(address(index), 8000, 900));
    cluster.kubectl(&["-n", "shop", "rollout", "restart", "deployment/web"]);
    cluster.kubectl(&["-n", "shop", "rollout", "status", "deployment/web", "--timeout=300s"]);
    cluster.kubectl(&["drain", "n2", "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=300s"]);
    let placed =
        cluster.kubectl(&["-n", "shop", "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].spec.nodeName}"]);
    assert!(!placed.contains("n2"), "{placed}");
    cluster.kubectl(&["-n", "shop", "rollout", "status", "deployment/web", "--timeout=300s"]);
    cluster.kubectl(&["uncordon", "n2"]);
    // and back to both nodes
    cluster.kubectl(&["-n", "shop", "rollout", "restart", "deployment/web"]);
    cluster.kubectl(&["-n", "shop", "rollout", "status", "deployment/web", "--timeout=300s"]);
    for load in loads {
        let (requests, slowest) = load.enough();
        eprintln!("rolled, drained and rolled: {requests} requests, none lost, the slowest {slowest:.2} s");
    }
    assert_eq!(capture.markers(), 0, "clear text while pods came and went");
    // the second controller goes back to the node that was drained
    let controllers = ["-n", "weft-system", "get", "pods", "-l", "app.kubernetes.io/name=weft-controller"];
    let path = "jsonpath={.items[?(@.spec.nodeName=='n1')].metadata.name}";
    let on_first = cluster.kubectl(&[&controllers[..], &["-o", path]].concat());
    if let Some((_, second)) = on_first.trim().split_once(' ') {
        cluster.kubectl(&["-n", "weft-system", "delete", "pod", second]);
    }
    weft::await_ready(cluster);
    cluster.delete_namespaces(&["shop"]);
}
