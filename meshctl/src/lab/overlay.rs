//! What scheduler and kubelet say of a pod, written beside the user's manifests, which stay as they are.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::json;

use super::facts::{Facts, write_whole};
use super::layout::Layout;
use super::pod_spec::PodKey;

/// Where in its life a pod is, as Kubernetes calls it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) enum Phase {
    /// Not all of its processes have started.
    #[default]
    Pending,
    /// They run.
    Running,
    /// They ended well, for good.
    Succeeded,
    /// They ended, for good.
    Failed,
}

/// The overlay of one pod.
pub(super) struct PodOverlay<'a> {
    /// Namespace and name.
    pub(super) key: &'a PodKey,
    /// Its UID.
    pub(super) uid: &'a str,
    /// Where it runs.
    pub(super) node: &'a str,
    /// Its addresses, once it has any.
    pub(super) addresses: &'a [String],
    /// Where in its life it is.
    pub(super) phase: Phase,
}

fn path(layout: &Layout, (namespace, name): &PodKey) -> PathBuf {
    layout.pod_overlays().join(format!("{namespace}.{name}.yaml"))
}

impl PodOverlay<'_> {
    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// The directory does not take it.
    pub(super) fn write(&self, facts: &Facts, layout: &Layout) -> anyhow::Result<()> {
        let host = facts.node(self.node).and_then(|n| n.host.addresses.first()).map(|a| a.addr());
        let object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "namespace": self.key.0, "name": self.key.1, "uid": self.uid },
            "spec": { "nodeName": self.node },
            "status": {
                "phase": self.phase,
                "hostIP": host,
                "podIP": self.addresses.first(),
                "podIPs": self.addresses.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<_>>(),
            },
        });
        write_whole(&path(layout, self.key), &serde_json::to_vec_pretty(&object)?)
    }
}

/// Removes the overlay of a pod that is gone.
///
/// # Errors
/// It is there and cannot be removed.
pub(super) fn remove(layout: &Layout, key: &PodKey) -> anyhow::Result<()> {
    let path = path(layout, key);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
