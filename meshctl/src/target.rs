//! Whom a question goes to: the node daemon or controller of this machine, or those of a lab or of a cluster.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use crate::door::{Door, each};
use crate::kubectl::ClusterChoice;
use crate::lab::{self, LabChoice};
use crate::screen;

/// Where meshd listens when it is not told otherwise.
const RUN_DIR: &str = "/run/weft";
/// Where the directory back end's bundle is, below the directory.
const TRUST_FILE: &str = "weft.dev/trust.yaml";

/// Which node daemons are asked.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct NodeTarget {
    /// The daemon's socket [default: /run/weft/admin.sock, or the only lab, or kubectl's current context]
    #[arg(long, value_name = "PATH", conflicts_with_all = ["lab", "node"])]
    socket: Option<PathBuf>,
    /// The nodes of this lab.
    #[arg(long, value_name = "NAME")]
    lab: Option<String>,
    /// This node of the lab or the cluster alone.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    #[command(flatten)]
    cluster: ClusterChoice,
}

/// Which controller is asked.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ControllerTarget {
    /// The controller's socket [default: /run/weft/controller.sock, or the only lab's, or kubectl's current context]
    #[arg(long, value_name = "PATH", conflicts_with = "lab")]
    socket: Option<PathBuf>,
    /// The controller of this lab.
    #[arg(long, value_name = "NAME")]
    lab: Option<String>,
    #[command(flatten)]
    cluster: ClusterChoice,
}

impl NodeTarget {
    /// Whom to ask, one a node.
    ///
    /// # Errors
    /// There is none, or several labs to choose from.
    pub(crate) fn doors(&self) -> anyhow::Result<Vec<Door>> {
        if self.in_cluster() {
            self.cluster.says_whose();
            return Ok(self.cluster.nodes(self.node.as_deref())?.into_iter().map(Door::Pod).collect());
        }
        Ok(self.sockets()?.into_iter().map(Door::Socket).collect())
    }

    /// The pods (`namespace/name`) with these labels.
    ///
    /// # Errors
    /// No cluster is asked, or it refuses.
    pub(crate) fn labelled(&self, selector: &str) -> anyhow::Result<BTreeSet<String>> {
        ensure!(
            self.in_cluster(),
            "labels are asked of a cluster: name one (--kubeconfig FILE, --context NAME), or the identity itself"
        );
        let list = self.cluster.json(&["get", "pods", "-A", "-l", selector])?;
        let items = list.get("items").and_then(Value::as_array).into_iter().flatten();
        let of = |pod: &Value, field: &str| Some(pod.pointer(field)?.as_str()?.to_owned());
        let names =
            items.filter_map(|pod| Some(format!("{}/{}", of(pod, "/metadata/namespace")?, of(pod, "/metadata/name")?)));
        Ok(names.collect())
    }

    fn in_cluster(&self) -> bool {
        means_cluster(&self.cluster, self.socket.as_deref(), self.lab.as_deref(), "admin.sock")
    }

    fn sockets(&self) -> anyhow::Result<Vec<PathBuf>> {
        if let Some(socket) = &self.socket {
            return Ok(vec![socket.clone()]);
        }
        let own = Path::new(RUN_DIR).join("admin.sock");
        if self.lab.is_none() && self.node.is_none() && own.exists() {
            return Ok(vec![own]);
        }
        let lab = lab_of(self.lab.as_deref(), &own)?.open()?;
        let sockets = lab.admin_sockets(self.node.as_deref());
        let node = self.node.as_deref().unwrap_or_default();
        ensure!(!sockets.is_empty(), "the lab has no node {node}");
        Ok(sockets)
    }

    /// The issuer's certificates as a manifest: of `directory`, the cluster or the lab.
    ///
    /// # Errors
    /// None of them is known, or it cannot be read.
    pub(crate) fn trust(&self, directory: Option<&Path>) -> anyhow::Result<String> {
        if directory.is_none() && self.in_cluster() {
            return self.cluster.run(&["get", "meshtrust", "local", "-o", "yaml"]);
        }
        let path = self.trust_file(directory)?;
        std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read the issuer's certificates {}", path.display()))
    }

    fn trust_file(&self, directory: Option<&Path>) -> anyhow::Result<PathBuf> {
        if let Some(directory) = directory {
            return Ok(directory.join(TRUST_FILE));
        }
        let own = Path::new(RUN_DIR).join("admin.sock");
        if self.socket.is_some() || (self.lab.is_none() && own.exists()) {
            bail!("say where the manifests are with --directory: the issuer's certificates are read from there");
        }
        Ok(lab_of(self.lab.as_deref(), &own)?.open()?.directory().join(TRUST_FILE))
    }
}

impl ControllerTarget {
    /// Whom to ask.
    ///
    /// # Errors
    /// As [`NodeTarget::doors`].
    pub(crate) fn door(&self) -> anyhow::Result<Door> {
        if means_cluster(&self.cluster, self.socket.as_deref(), self.lab.as_deref(), "controller.sock") {
            self.cluster.says_whose();
            return Ok(Door::Pod(self.cluster.controller()?));
        }
        Ok(Door::Socket(self.socket()?))
    }

    fn socket(&self) -> anyhow::Result<PathBuf> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        let own = Path::new(RUN_DIR).join("controller.sock");
        if self.lab.is_none() && own.exists() {
            return Ok(own);
        }
        Ok(lab_of(self.lab.as_deref(), &own)?.open()?.controller_socket())
    }
}

/// Whether the daemons of a cluster are meant: it is named, or there is nothing else, and kubectl knows one.
fn means_cluster(cluster: &ClusterChoice, socket: Option<&Path>, lab: Option<&str>, own: &str) -> bool {
    if socket.is_some() || lab.is_some() {
        return false;
    }
    let is_alone = || !Path::new(RUN_DIR).join(own).exists() && lab::names().is_empty();
    cluster.is_made() || (is_alone() && ClusterChoice::is_at_hand())
}

/// The lab that is meant; without a name, the only one there is.
fn lab_of(name: Option<&str>, own: &Path) -> anyhow::Result<LabChoice> {
    if let Some(name) = name {
        return Ok(LabChoice::named(name));
    }
    match lab::names().as_slice() {
        [only] => {
            screen::note(&format!("(of lab {only}: nothing listens at {})", own.display()));
            Ok(LabChoice::named(only))
        }
        [] => bail!(
            "nothing listens at {}, and no lab is up: name a cluster (--kubeconfig FILE, --context NAME, -n NAMESPACE), start meshd, or \
             meshctl lab up",
            own.display()
        ),
        several => bail!("nothing listens at {}; choose a lab with --lab: {}", own.display(), several.join(", ")),
    }
}

/// Asks all the same and joins the rows of their answers.
///
/// # Errors
/// One of them does not answer.
pub(crate) fn ask_rows<T: serde::de::DeserializeOwned + Send>(doors: &[Door], verb: &str) -> anyhow::Result<Vec<T>> {
    let mut rows = Vec::new();
    for answered in each(doors, |door| door.ask_for::<Vec<T>>(verb).with_context(|| door.name())) {
        rows.extend(answered?);
    }
    Ok(rows)
}
