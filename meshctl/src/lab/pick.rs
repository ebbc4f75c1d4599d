//! Which lab is meant: by name, by folder, or the only one there is; and whether we may touch it.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustix::fs::FlockOperation;
use serde_json::json;

use super::facts::Facts;
use super::layout::{LABS, Layout};
use super::live::LiveState;
use crate::rpc;

/// The name of a lab that was given none.
pub(super) const DEFAULT_NAME: &str = "weft";

/// The longest path of a lab's folder, so that the sockets below it fit into the kernel's 108 bytes (unix(7)).
const DIR_BYTES_MAX: usize = 70;

/// Which lab.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct LabChoice {
    /// The lab's name [default: weft]
    #[arg(long, value_name = "NAME", value_parser = lab_name)]
    pub(super) name: Option<String>,
    /// The lab's folder [default: /run/weft-lab/NAME]
    #[arg(long, value_name = "DIR")]
    pub(super) dir: Option<PathBuf>,
}

impl LabChoice {
    /// A lab by its name, in the usual place.
    pub(crate) fn named(name: &str) -> Self {
        Self { name: Some(name.to_owned()), dir: None }
    }

    /// Its name, which a folder given alone may know better.
    pub(super) fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| DEFAULT_NAME.to_owned())
    }

    /// Its folder.
    ///
    /// # Errors
    /// The path is too long for sockets, or the current folder is gone.
    pub(super) fn layout(&self) -> anyhow::Result<Layout> {
        let dir = match &self.dir {
            Some(dir) => std::path::absolute(dir).with_context(|| format!("cannot follow {}", dir.display()))?,
            None => PathBuf::from(LABS).join(self.name()),
        };
        ensure!(
            dir.as_os_str().len() <= DIR_BYTES_MAX,
            "--dir {} is too long for the sockets in it: at most {DIR_BYTES_MAX} bytes",
            dir.display()
        );
        Ok(Layout::new(dir))
    }

    /// The lab as built.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn open(&self) -> anyhow::Result<Lab> {
        let layout = self.layout()?;
        if !layout.facts().exists() {
            let others = all();
            let hint = if others.is_empty() {
                "there is none: meshctl lab up".to_owned()
            } else {
                format!("there is: {} (choose with --name)", others.join(", "))
            };
            bail!("no lab at {}; {hint}", layout.root().display());
        }
        Ok(Lab { facts: Facts::read(&layout)?, layout })
    }
}

/// A lab that was built.
pub(crate) struct Lab {
    /// What was built.
    pub(super) facts: Facts,
    /// Where its files are.
    pub(super) layout: Layout,
}

impl Lab {
    /// What its supervisor says.
    ///
    /// # Errors
    /// It does not answer.
    pub(super) fn live(&self) -> anyhow::Result<LiveState> {
        let state = rpc::ask(&self.layout.supervisor_socket(), &json!({ "verb": "state" }), Duration::from_secs(15))
            .with_context(|| format!("lab {} has no supervisor; meshctl lab down, then up again", self.facts.name))?;
        serde_json::from_value(state).context("the supervisor is of another version: meshctl lab down, then up again")
    }
}

impl Lab {
    /// Where the node daemons answer: all, or that of one node.
    pub(crate) fn admin_sockets(&self, node: Option<&str>) -> Vec<PathBuf> {
        let is_meant = |name: &str| node.is_none_or(|n| n == name);
        self.facts.nodes.iter().filter(|n| is_meant(&n.name)).map(|n| self.layout.admin_socket(&n.name)).collect()
    }

    /// Where the controller answers.
    pub(crate) fn controller_socket(&self) -> PathBuf {
        self.layout.controller_socket()
    }

    /// The folder of manifests.
    pub(crate) fn directory(&self) -> PathBuf {
        self.layout.directory()
    }
}

/// The names of the labs in the usual place.
pub(crate) fn all() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(LABS) else { return Vec::new() };
    let name = |e: std::io::Result<std::fs::DirEntry>| e.ok()?.file_name().into_string().ok();
    let mut names: Vec<String> = entries.filter_map(name).filter(|n| !n.starts_with('.')).collect();
    names.sort();
    names
}

/// Holds a lab's folder, so that two commands do not build and take it down at the same time.
///
/// # Errors
/// There is no such folder, or it cannot be locked.
pub(super) fn hold(layout: &Layout) -> anyhow::Result<File> {
    let folder = File::open(layout.root()).with_context(|| format!("cannot open {}", layout.root().display()))?;
    rustix::fs::flock(&folder, FlockOperation::LockExclusive).context("cannot lock the lab's folder")?;
    Ok(folder)
}

/// Whether we may make namespaces at all.
///
/// # Errors
/// We are not root.
pub(super) fn ensure_root() -> anyhow::Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "a lab is made of network namespaces and needs root: run it with sudo, or as root"
    );
    Ok(())
}

fn lab_name(text: &str) -> Result<String, String> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if text.is_empty() || text.len() > 32 || !text.bytes().all(good) || text.starts_with('-') {
        return Err("a lab's name is 1 to 32 of a-z, 0-9 and '-', and does not begin with '-'".to_owned());
    }
    Ok(text.to_owned())
}
