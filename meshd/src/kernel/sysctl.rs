//! Settings of the node's network that are files: those of our own device, and those that make a bridge's packets meet the filter.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::store::atomic_write;

/// Where manifests/base/node.yaml mounts the node's `/proc/sys/net`.
const HOST: &str = "/host/proc/sys/net";
/// Without these the packets of a pod on a bridge pass the filter by (Linux, Documentation/networking/ip-sysctl.rst).
const BRIDGE: [&str; 2] = ["bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"];
/// What they are then.
const ON: &str = "1";

/// In a container /proc/sys is read-only, and the node's is mounted beside it.
fn root() -> PathBuf {
    PathBuf::from(if Path::new(HOST).exists() { HOST } else { "/proc/sys/net" })
}

/// Sets one of our own device's.
pub(super) fn set(key: &str, value: &str) -> anyhow::Result<()> {
    set_in(&root(), key, value)
}

fn set_in(root: &Path, key: &str, value: &str) -> anyhow::Result<()> {
    let path = root.join(key);
    if held(root, key).is_ok_and(|held| held == value) {
        return Ok(());
    }
    std::fs::write(&path, value).with_context(|| format!("cannot set {} to {value}", path.display()))
}

fn held(root: &Path, key: &str) -> std::io::Result<String> {
    Ok(std::fs::read_to_string(root.join(key))?.trim().to_owned())
}

/// The node's bridges: their settings as they were are written down before the first change.
#[derive(Default)]
pub(super) struct Bridges {
    former: Option<PathBuf>,
    is_wanted: bool,
}

impl Bridges {
    /// Writes down in this file; one that is there says that the settings were wanted before.
    pub(super) fn kept_in(former: PathBuf) -> Self {
        Self { is_wanted: former.exists(), former: Some(former) }
    }

    /// A pod is on a bridge: its packets meet the filter from now on.
    pub(super) fn want(&mut self) -> anyhow::Result<()> {
        self.want_in(&root())
    }

    fn want_in(&mut self, root: &Path) -> anyhow::Result<()> {
        const MISSING: &str =
            "the pod is on a bridge and its packets would pass the filter by: load the kernel module br_netfilter";
        if let Some(former) = self.former.as_ref().filter(|path| !path.exists()) {
            let held: BTreeMap<_, _> = BRIDGE.iter().filter_map(|key| Some((*key, held(root, key).ok()?))).collect();
            atomic_write(former, serde_json::to_string(&held)?.as_bytes(), 0o600)?;
        }
        self.is_wanted = true;
        BRIDGE.iter().try_for_each(|key| set_in(root, key, ON).context(MISSING))
    }

    /// Sets again what somebody else has changed since; whether there was something.
    pub(super) fn repair(&mut self) -> anyhow::Result<bool> {
        self.repair_in(&root())
    }

    fn repair_in(&mut self, root: &Path) -> anyhow::Result<bool> {
        let is_off = |key: &str| held(root, key).is_ok_and(|held| held != ON);
        if !self.is_wanted || !BRIDGE.iter().any(|key| is_off(key)) {
            return Ok(false);
        }
        self.want_in(root).map(|()| true)
    }
}

/// Puts the settings of a node's bridges back as they were before Weft; without the file nothing was changed.
pub(crate) fn put_back(former: &Path) -> anyhow::Result<()> {
    put_back_in(&root(), former)
}

fn put_back_in(root: &Path, former: &Path) -> anyhow::Result<()> {
    let text = match std::fs::read_to_string(former) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        text => text.with_context(|| format!("cannot read {}", former.display()))?,
    };
    let held: BTreeMap<String, String> = serde_json::from_str(&text).unwrap_or_default();
    held.iter().filter(|(key, _)| BRIDGE.contains(&key.as_str())).try_for_each(|(key, value)| set_in(root, key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridges_settings_are_kept_and_go_back_to_what_they_were() {
        let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let former = state.path().join("sysctls");
        let root = root.path();
        let of = |key: &str| held(root, key).unwrap();
        std::fs::create_dir(root.join("bridge")).unwrap();
        for (key, value) in BRIDGE.iter().zip(["0\n", "1\n"]) {
            std::fs::write(root.join(key), value).unwrap();
        }
        let mut bridges = Bridges::kept_in(former.clone());
        assert!(!bridges.repair_in(root).unwrap(), "no pod is on a bridge");
        bridges.want_in(root).unwrap();
        bridges.want_in(root).unwrap();
        assert_eq!(BRIDGE.map(of), ["1", "1"]);
        // somebody changes it, and another daemon goes on
        std::fs::write(root.join(BRIDGE[1]), "0").unwrap();
        let mut bridges = Bridges::kept_in(former.clone());
        assert!(bridges.repair_in(root).unwrap() && !bridges.repair_in(root).unwrap());
        assert_eq!(BRIDGE.map(of), ["1", "1"]);
        put_back_in(root, &former).unwrap();
        assert_eq!(BRIDGE.map(of), ["0", "1"], "as they were before the first change");
        put_back_in(root, Path::new("/nowhere/sysctls")).unwrap();
    }

    #[test]
    fn without_the_module_it_is_said_what_to_do() {
        let root = tempfile::tempdir().unwrap();
        let error = Bridges::default().want_in(root.path()).unwrap_err();
        assert!(format!("{error:#}").contains("br_netfilter"), "{error:#}");
    }
}
