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
}
