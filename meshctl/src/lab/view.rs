//! What the node daemons say of themselves and of their pods, as far as they answer.

use std::collections::BTreeMap;

use super::live::{LiveState, PodStatus};
use super::pick::Lab;
use crate::admin_reply::{Attachment, Status};
use crate::rpc;

/// One daemon's answer to `status`.
pub(super) struct NodeView {
    status: Status,
}

/// Asks every node daemon that runs; those that do not answer are left out.
pub(super) fn of_nodes(lab: &Lab, live: &LiveState) -> BTreeMap<String, NodeView> {
    let ask = |name: &String| {
        let status: Status = rpc::ask_for(&lab.layout.admin_socket(name), "status").ok()?;
        Some((name.clone(), NodeView { status }))
    };
    live.nodes.iter().filter(|(_, d)| d.pid.is_some()).filter_map(|(name, _)| ask(name)).collect()
}

impl NodeView {
    /// Whether the daemon says that nothing is missing.
    pub(super) fn is_ready(&self) -> bool {
        self.status.ready
    }

    /// What is missing.
    pub(super) fn blocked_on(&self) -> &[String] {
        &self.status.blocked_on
    }

    /// What the daemon knows of a pod.
    pub(super) fn attachment(&self, pod: &PodStatus) -> Option<Attachment> {
        let name = format!("{}/{}", pod.namespace, pod.name);
        self.status.attachments.iter().find(|a| a.pod == name).cloned()
    }
}
