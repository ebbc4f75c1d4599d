//! What differs from one installation to another: the image, where the runtime's network lists and plugins are, and which list.
//! Whoever takes Weft away has to look where it was put.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::kubectl::ClusterChoice;

/// What the overlay `uninstall` says itself.
const OWN_ENV: [&str; 3] = ["WEFT_STAY", "WEFT_STATE_DIR", "WEFT_RUN_DIR"];
/// The node's folders that another overlay may have named otherwise.
const FOLDERS: [&str; 3] = ["cni-conf", "cni-bin", "cni-cache"];

/// A kustomization in a folder beside `overlay` that is the same with another image, and for nodes that come with the start-up taint.
pub(crate) fn own(overlay: &str, image: Option<&str>, is_tainted: bool) -> String {
    let patches = image.map(|image| {
        let patch = json!([{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": image}]);
        let of = |kind: &str, name: &str| json!({"target": {"kind": kind, "name": name}, "patch": patch.to_string()});
        vec![of("Deployment", "weft-controller"), of("DaemonSet", "weft-node")]
    });
    kustomization(overlay, &patches.unwrap_or_default(), is_tainted.then_some("../../components/startup-taint"))
}

/// A kustomization in a folder beside `uninstall` that takes away what this DaemonSet has put on the nodes.
///
/// # Errors
/// It is not Weft's.
pub(crate) fn taken_away(daemons: &Value) -> anyhow::Result<String> {
    let list = |path: &str| daemons.pointer(path).and_then(Value::as_array).cloned().unwrap_or_default();
    let name_of = |item: &Value| item.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let containers = list("/spec/template/spec/containers");
    let node = containers.iter().find(|container| name_of(container) == "node");
    let node = node.context("the DaemonSet weft-node has no container `node`: it is not Weft's")?;
    let env = node.get("env").and_then(Value::as_array).cloned().unwrap_or_default();
    let env: Vec<_> = env.into_iter().filter(|variable| !OWN_ENV.contains(&name_of(variable).as_str())).collect();
    let volumes = list("/spec/template/spec/volumes");
    let volumes: Vec<_> = volumes.into_iter().filter(|volume| FOLDERS.contains(&name_of(volume).as_str())).collect();
    let patch = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "weft-node", "namespace": "weft-system"},
        "spec": {"template": {"spec": {
            "imagePullSecrets": list("/spec/template/spec/imagePullSecrets"),
            "containers": [{"name": "node", "image": node.get("image"), "imagePullPolicy": node.get("imagePullPolicy"), "env": env}],
            "volumes": volumes,
        }}},
    });
    let patch = json!({"target": {"kind": "DaemonSet", "name": "weft-node"}, "patch": patch.to_string()});
    Ok(kustomization("uninstall", &[patch], None))
}

/// JSON, which is YAML too.
fn kustomization(overlay: &str, patches: &[Value], component: Option<&str>) -> String {
    json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
        "resources": [format!("../{overlay}")], "components": component.as_slice(), "patches": patches,
    })
    .to_string()
}

/// The node daemons' DaemonSet.
///
/// # Errors
/// There is none, or the cluster does not answer.
pub(crate) fn daemons(cluster: &ClusterChoice) -> anyhow::Result<Value> {
    let namespace = cluster.namespace();
    let text = cluster.run(&["-n", namespace, "get", "daemonset", "weft-node", "--ignore-not-found", "-o", "json"])?;
    ensure!(
        !text.trim().is_empty(),
        "Weft's DaemonSet weft-node is not in namespace {namespace}, so no node can be cleaned; if Weft was taken away already, \
         `meshctl install --dry-run | kubectl delete --ignore-not-found -f -` deletes what objects are left"
    );
    serde_json::from_str(&text).context("kubectl printed something else than JSON")
}

/// Why Weft's pods are not there yet, a line each reason.
pub(crate) fn waiting(pods: &Value) -> Vec<String> {
    let array = |value: &Value, path: &str| value.pointer(path).and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |value: &Value, path: &str| value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut lines = Vec::new();
    for pod in array(pods, "/items") {
        let name = text(&pod, "/metadata/name");
        for container in array(&pod, "/status/containerStatuses") {
            let reason = text(&container, "/state/waiting/reason");
            if !reason.is_empty() {
                lines.push(format!("{name}: {reason} {}", text(&container, "/state/waiting/message")));
            }
        }
        for condition in array(&pod, "/status/conditions") {
            let is_unscheduled = text(&condition, "/type") == "PodScheduled" && text(&condition, "/status") == "False";
            if is_unscheduled {
                lines.push(format!("{name}: {} {}", text(&condition, "/reason"), text(&condition, "/message")));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_away_is_looked_for_where_it_was_put() {
        let daemons = json!({"spec": {"template": {"spec": {
            "containers": [{"name": "node", "image": "r.example/weft:1", "imagePullPolicy": "Always", "env": [
                {"name": "WEFT_CNI_CONFLIST", "value": "10-canal.conflist"}, {"name": "WEFT_STATE_DIR", "value": "/elsewhere"}]}],
            "volumes": [{"name": "cni-conf", "hostPath": {"path": "/k3s/net.d"}}, {"name": "state", "hostPath": {"path": "/s"}}],
        }}}});
        let text = taken_away(&daemons).unwrap();
        for held in ["../uninstall", "r.example/weft:1", "10-canal.conflist", "/k3s/net.d"] {
            assert!(text.contains(held), "{held}: {text}");
        }
        assert!(!text.contains("/elsewhere") && !text.contains("\"/s\""), "what the overlay says itself: {text}");
        assert!(taken_away(&json!({})).is_err());
    }

    #[test]
    fn a_pod_that_waits_says_why() {
        let pods = json!({"items": [
            {"metadata": {"name": "a"}, "status": {"containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull", "message": "no"}}}]}},
            {"metadata": {"name": "b"}, "status": {"containerStatuses": [{"state": {"running": {}}}]}},
            {"metadata": {"name": "c"}, "status": {"conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}]}}]});
        assert_eq!(waiting(&pods), ["a: ErrImagePull no", "c: Unschedulable 0/1 nodes"]);
    }
}
