//! The manifests, which this program carries.

use std::fs;

use anyhow::Context as _;

/// Every file below `manifests/` but the chart, which is made of these.
const MANIFESTS: [(&str, &str); 18] = [
    ("base/admission.yaml", include_str!("../../manifests/base/admission.yaml")),
    ("base/controller.yaml", include_str!("../../manifests/base/controller.yaml")),
    ("base/crds.yaml", include_str!("../../manifests/base/crds.yaml")),
    ("base/kustomization.yaml", include_str!("../../manifests/base/kustomization.yaml")),
    ("base/namespace.yaml", include_str!("../../manifests/base/namespace.yaml")),
    ("base/node.yaml", include_str!("../../manifests/base/node.yaml")),
    ("base/rbac.yaml", include_str!("../../manifests/base/rbac.yaml")),
    (
        "components/startup-taint/admission.yaml",
        include_str!("../../manifests/components/startup-taint/admission.yaml"),
    ),
    (
        "components/startup-taint/kustomization.yaml",
        include_str!("../../manifests/components/startup-taint/kustomization.yaml"),
    ),
    ("components/startup-taint/rbac.yaml", include_str!("../../manifests/components/startup-taint/rbac.yaml")),
    ("overlays/default/kustomization.yaml", include_str!("../../manifests/overlays/default/kustomization.yaml")),
    ("overlays/dual-stack/kustomization.yaml", include_str!("../../manifests/overlays/dual-stack/kustomization.yaml")),
    ("overlays/harvester/kustomization.yaml", include_str!("../../manifests/overlays/harvester/kustomization.yaml")),
    ("overlays/k3s/kustomization.yaml", include_str!("../../manifests/overlays/k3s/kustomization.yaml")),
    ("overlays/no-policy/kustomization.yaml", include_str!("../../manifests/overlays/no-policy/kustomization.yaml")),
    ("overlays/strict/kustomization.yaml", include_str!("../../manifests/overlays/strict/kustomization.yaml")),
    ("overlays/strict/strict.yaml", include_str!("../../manifests/overlays/strict/strict.yaml")),
    ("overlays/uninstall/kustomization.yaml", include_str!("../../manifests/overlays/uninstall/kustomization.yaml")),
];

/// One manifest by its path below `manifests/`.
///
/// # Errors
/// There is none of that name.
pub(crate) fn manifest(name: &str) -> anyhow::Result<&'static str> {
    let found = MANIFESTS.iter().find(|(path, _)| *path == name);
    found.map(|(_, text)| *text).with_context(|| format!("there is no manifest {name}"))
}

/// The manifests in a folder of their own.
pub(crate) fn lay_out() -> anyhow::Result<tempfile::TempDir> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    for (name, text) in MANIFESTS {
        let path = folder.path().join(name);
        let parent = path.parent().context("a manifest is in a folder")?;
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn every_manifest_is_carried() {
        fn walk(folder: &std::path::Path, out: &mut Vec<String>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { walk(&path, out) } else { out.push(path.display().to_string()) }
            }
        }
        let top = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/");
        let mut held = Vec::new();
        walk(std::path::Path::new(top), &mut held);
        let mut held: Vec<_> = held.iter().map(|path| path.trim_start_matches(top).to_owned()).collect();
        held.retain(|path| !path.starts_with("chart/"));
        held.sort();
        let mut carried: Vec<_> = MANIFESTS.iter().map(|(name, _)| (*name).to_owned()).collect();
        carried.sort();
        assert_eq!(held, carried);
    }

    /// The objects of a manifest.
    fn objects(name: &str) -> Vec<Value> {
        serde_saphyr::from_multiple(manifest(name).unwrap()).unwrap()
    }

    /// A value that must be there.
    fn at<'a>(object: &'a Value, path: &str) -> &'a Value {
        object.pointer(path).unwrap_or_else(|| panic!("no {path} in {object}"))
    }

    #[test]
    fn the_daemon_shares_its_nodes_network_and_little_else() {
        let daemons = &objects("base/node.yaml")[0];
        let pod = at(daemons, "/spec/template/spec");
        assert_eq!(at(pod, "/hostNetwork"), true);
        assert!(pod.get("hostPID").is_none() && pod.get("hostIPC").is_none(), "{pod}");
        assert_eq!(at(pod, "/tolerations"), &json!([{"operator": "Exists"}]));
        assert_eq!(at(pod, "/priorityClassName"), "system-node-critical");
        assert_eq!(at(pod, "/securityContext/seccompProfile/type"), "RuntimeDefault");
        let container = at(pod, "/containers/0");
        let context = json!({"runAsUser": 0, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "SYS_ADMIN", "DAC_OVERRIDE"]}});
        assert_eq!(at(container, "/securityContext"), &context, "nothing more than the file says why");
        assert!(container.get("ports").is_none(), "no port of the host");
        assert_eq!(at(daemons, "/spec/updateStrategy/rollingUpdate"), &json!({"maxSurge": "10%", "maxUnavailable": 0}));
    }

    #[test]
    fn the_controller_is_nobody_on_its_node_and_not_beside_its_own_kind() {
        let controller = &objects("base/controller.yaml")[0];
        let pod = at(controller, "/spec/template/spec");
        let context = json!({"runAsUser": 65532, "runAsGroup": 65532, "runAsNonRoot": true, "readOnlyRootFilesystem": true,
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
        assert_eq!(at(pod, "/containers/0/securityContext"), &context);
        assert_eq!(at(pod, "/securityContext/seccompProfile/type"), "RuntimeDefault");
        let volumes = at(pod, "/volumes").as_array().unwrap();
        assert!(volumes.iter().all(|volume| volume.get("emptyDir").is_some()), "{volumes:?}");
        let term = "/affinity/podAntiAffinity/preferredDuringSchedulingIgnoredDuringExecution/0/podAffinityTerm";
        let term = at(pod, term);
        assert_eq!(at(term, "/labelSelector/matchLabels"), at(controller, "/spec/selector/matchLabels"));
        // else those of the roll that ends push the new ones together
        assert_eq!(at(term, "/matchLabelKeys"), &json!(["pod-template-hash"]));
    }

    #[test]
    fn what_is_written_twice_is_the_same() {
        // the folders of k3s: in the overlay, and as advice in the chart's values
        let k3s = manifest("overlays/k3s/kustomization.yaml").unwrap();
        let chart = include_str!("../../manifests/chart/values.yaml");
        for folder in ["/var/lib/rancher/k3s/agent/etc/cni/net.d", "/var/lib/rancher/k3s/data/cni"] {
            assert!(k3s.contains(&format!("{{path: {folder},")) && chart.contains(folder), "{folder}");
        }
        assert!(manifest("overlays/harvester/kustomization.yaml").unwrap().contains("value: 10-canal.conflist}"));
        assert!(chart.contains("Harvester: 10-canal.conflist"));
        // what a clean node says, and who waits for it
        let gone = crate::install::GONE;
        assert!(include_str!("../../meshd/src/app.rs").contains(&format!("\"{gone}\"")));
        assert!(manifest("overlays/uninstall/kustomization.yaml").unwrap().contains(&format!("\"{gone}\"")));
        // the oldest Kubernetes
        let minor = crate::install::MINOR_MIN;
        let kubernetes = include_str!("../../manifests/chart/Chart.yaml");
        assert!(kubernetes.contains(&format!("kubeVersion: \">=1.{minor}.0-0\"")), "{kubernetes}");
        assert!(include_str!("../../README.md").contains(&format!("Kubernetes 1.{minor} or newer")));
        // an overlay for each choice of `meshctl install`, and one that takes all away
        let overlays: std::collections::BTreeSet<_> =
            MANIFESTS.iter().filter_map(|(path, _)| path.strip_prefix("overlays/")?.split('/').next()).collect();
        let mut choices: std::collections::BTreeSet<_> = crate::install::overlays().collect();
        choices.insert("uninstall".to_owned());
        assert_eq!(overlays.iter().map(|name| (*name).to_owned()).collect::<std::collections::BTreeSet<_>>(), choices);
    }
}
