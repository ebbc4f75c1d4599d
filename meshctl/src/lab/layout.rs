//! Where a lab keeps its files: one folder, mode 0700, that `down` removes.
//!
//! ```text
//! lab.json                 what was built (facts)
//! supervisor.{lock,sock}   who runs it, and how to ask
//! directory/               the manifests: the directory back end
//! controller/{run,state}   the controller's socket and CA
//! nodes/n1/{run,state,cni} sockets, state, CNI configuration and leases of a node
//! pods/NS.NAME.json        what was made for a pod, written before it is made
//! logs/                    one file a program and pod
//! ```

use std::path::{Path, PathBuf};

/// Where labs are by default, one folder a name.
pub(super) const LABS: &str = "/run/weft-lab";

/// The paths of one lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The lab whose folder is `root`.
    pub(super) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder itself.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// What was built.
    pub(super) fn facts(&self) -> PathBuf {
        self.root.join("lab.json")
    }

    /// The manifests.
    pub(super) fn directory(&self) -> PathBuf {
        self.root.join("directory")
    }

    /// Manifests that `lab apply` wrote, one file an object.
    pub(super) fn applied(&self) -> PathBuf {
        self.directory().join("applied")
    }

    /// What scheduler and kubelet say of pods, merged over the user's manifests.
    pub(super) fn pod_overlays(&self) -> PathBuf {
        self.directory().join("weft.dev/overlays/pods")
    }

    /// Locked while a supervisor lives; holds its process id.
    pub(super) fn supervisor_lock(&self) -> PathBuf {
        self.root.join("supervisor.lock")
    }

    /// Where the supervisor answers.
    pub(super) fn supervisor_socket(&self) -> PathBuf {
        self.root.join("supervisor.sock")
    }

    /// The controller's sockets.
    pub(super) fn controller_run(&self) -> PathBuf {
        self.root.join("controller/run")
    }

    /// The controller's CA and tokens.
    pub(super) fn controller_state(&self) -> PathBuf {
        self.root.join("controller/state")
    }

    /// The controller's admin socket.
    pub(super) fn controller_socket(&self) -> PathBuf {
        self.controller_run().join("controller.sock")
    }

    /// A node's sockets.
    pub(super) fn node_run(&self, node: &str) -> PathBuf {
        self.root.join("nodes").join(node).join("run")
    }

    /// A node's state that outlives its daemon.
    pub(super) fn node_state(&self, node: &str) -> PathBuf {
        self.root.join("nodes").join(node).join("state")
    }

    /// A node's one-time join token.
    pub(super) fn join_token(&self, node: &str) -> PathBuf {
        self.root.join("nodes").join(node).join("join-token")
    }

    /// A node's CNI configuration, leases and cached results.
    pub(super) fn node_cni(&self, node: &str) -> PathBuf {
        self.root.join("nodes").join(node).join("cni")
    }

    /// A node's network configuration list.
    pub(super) fn conflist(&self, node: &str) -> PathBuf {
        self.node_cni(node).join("net.d/10-weft.conflist")
    }

    /// Where the plugin finds the node daemon.
    pub(super) fn cni_socket(&self, node: &str) -> PathBuf {
        self.node_run(node).join("cni.sock")
    }

    /// Where meshctl finds the node daemon.
    pub(super) fn admin_socket(&self, node: &str) -> PathBuf {
        self.node_run(node).join("admin.sock")
    }

    /// What was made for pods.
    pub(super) fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// All logs.
    pub(super) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The log of a program: `supervisor`, `controller`, a node's name.
    pub(super) fn log(&self, who: &str) -> PathBuf {
        self.logs().join(format!("{who}.log"))
    }

    /// The log of a pod's processes.
    pub(super) fn pod_log(&self, namespace: &str, name: &str) -> PathBuf {
        self.logs().join(format!("pod.{namespace}.{name}.log"))
    }
}
