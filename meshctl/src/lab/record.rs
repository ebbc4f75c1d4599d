//! What was made for a pod, written down before it is made: `down` reads it when the supervisor can no longer tell.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::cni_runtime::Sandbox;
use super::facts::write_whole;
use super::layout::Layout;
use super::pod_spec::PodKey;

/// A pod's namespace and what the plugins know it by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodRecord {
    /// The node whose plugins were called.
    pub(super) node: String,
    /// The name under which `ip netns` shows it.
    pub(super) netns: String,
    /// What the plugins were told.
    pub(super) sandbox: Sandbox,
}

fn path(layout: &Layout, (namespace, name): &PodKey) -> PathBuf {
    layout.pods().join(format!("{namespace}.{name}.json"))
}

impl PodRecord {
    /// Writes it down.
    ///
    /// # Errors
    /// The lab's folder does not take it.
    pub(super) fn write(&self, layout: &Layout, key: &PodKey) -> anyhow::Result<()> {
        write_whole(&path(layout, key), &serde_json::to_vec_pretty(self)?)
    }

    /// What was made for one pod, if anything.
    pub(super) fn of(layout: &Layout, key: &PodKey) -> Option<Self> {
        serde_json::from_slice(&fs::read(path(layout, key)).ok()?).ok()
    }

    /// Every pod that something was made for; damaged records are left out.
    pub(super) fn all(layout: &Layout) -> Vec<Self> {
        let Ok(entries) = fs::read_dir(layout.pods()) else { return Vec::new() };
        let read = |path: PathBuf| serde_json::from_slice(&fs::read(path).ok()?).ok();
        entries.filter_map(|e| read(e.ok()?.path())).collect()
    }
}

/// Forgets a pod.
///
/// # Errors
/// The record is there and cannot be removed.
pub(super) fn remove(layout: &Layout, key: &PodKey) -> anyhow::Result<()> {
    let path = path(layout, key);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
