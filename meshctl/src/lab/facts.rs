//! lab.json: what was built. Written before it is built, so that `down` finds a half-made lab too.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::address;
use super::config::LabConfig;
use super::layout::Layout;

/// The nodes' UDP port for all sessions.
pub(super) const MESH_PORT: u16 = 51840;

/// Everything about a lab that does not change while it is up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Facts {
    /// `--name`.
    pub(super) name: String,
    /// lab.yaml, with every default filled in.
    pub(super) config: LabConfig,
    /// False for a lab without meshd and mesh-cni: only the primary plugin.
    pub(super) mesh: bool,
    /// The programs in use.
    pub(super) programs: Programs,
    /// The wire between the nodes.
    pub(super) underlay: Host,
    /// The nodes, n1 first.
    pub(super) nodes: Vec<Node>,
    /// Somebody on the underlay who is no node.
    pub(super) stranger: Host,
}

/// Where the real programs are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Programs {
    /// This program.
    pub(super) meshctl: PathBuf,
    /// Node daemon and controller; empty in a lab without mesh.
    pub(super) meshd: PathBuf,
    /// The folder of mesh-cni; empty in a lab without mesh.
    pub(super) mesh_cni_dir: PathBuf,
    /// The folder of the CNI project's plugins.
    pub(super) cni_bin_dir: PathBuf,
}

/// A network namespace with its link to the underlay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Host {
    /// As `ip netns` shows it.
    pub(super) namespace: String,
    /// The link inside: `eth0`, `br0` for the underlay itself.
    pub(super) link: String,
    /// Its addresses.
    pub(super) addresses: Vec<IpNet>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Node {
    /// n1 to nN; also the name of its port on the underlay bridge.
    pub(super) name: String,
    /// Its namespace.
    #[serde(flatten)]
    pub(super) host: Host,
    /// Where its pods' addresses come from.
    #[serde(rename = "podCIDRs")]
    pub(super) pod_cidrs: Vec<IpNet>,
}

impl Facts {
    /// What the lab called `name` will be.
    pub(super) fn plan(name: &str, config: LabConfig, mesh: bool, programs: Programs) -> Self {
        let host = |suffix: &str, link: &str, addresses| Host {
            namespace: format!("{name}-{suffix}"),
            link: link.to_owned(),
            addresses,
        };
        let node = |index: u8| Node {
            name: format!("n{index}"),
            host: host(&format!("n{index}"), "eth0", address::node(&config, index)),
            pod_cidrs: address::pod_cidrs(&config, index),
        };
        Self {
            name: name.to_owned(),
            mesh,
            programs,
            underlay: host("underlay", "br0", address::bridge(&config)),
            nodes: (1..=config.nodes).map(node).collect(),
            stranger: host("stranger", "eth0", address::stranger(&config)),
            config,
        }
    }

    /// Reads lab.json.
    ///
    /// # Errors
    /// It is not there or not ours.
    pub(super) fn read(layout: &Layout) -> anyhow::Result<Self> {
        let path = layout.facts();
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    /// Writes lab.json.
    ///
    /// # Errors
    /// The folder does not take it.
    pub(super) fn write(&self, layout: &Layout) -> anyhow::Result<()> {
        write_whole(&layout.facts(), &serde_json::to_vec_pretty(self)?)
    }

    /// The node of this name.
    pub(super) fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|n| n.name == name)
    }

    /// Every namespace but those of pods.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = &str> {
        [&self.underlay, &self.stranger]
            .into_iter()
            .chain(self.nodes.iter().map(|n| &n.host))
            .map(|h| h.namespace.as_str())
    }
}

/// Writes a file so that readers see the old or the new one, never half: new file, sync, rename, sync the folder.
///
/// # Errors
/// The folder does not take it; the old file stays then.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let folder = path.parent().context("a file has a folder")?;
    let shown = || format!("cannot write {}", path.display());
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .tempfile_in(folder)
        .with_context(shown)?;
    file.write_all(bytes).with_context(shown)?;
    file.as_file().sync_all().with_context(shown)?;
    file.persist(path).with_context(shown)?;
    fs::File::open(folder).and_then(|f| f.sync_all()).with_context(shown)
}
