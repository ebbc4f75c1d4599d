//! What the supervisor tells of a running lab: programs and pods as they are now.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::overlay::Phase;

/// The supervisor's answer to `state`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LiveState {
    /// The supervisor's process id.
    pub(super) supervisor: i32,
    /// The controller; absent in a lab without mesh.
    pub(super) controller: Option<DaemonStatus>,
    /// Node daemons by node; empty in a lab without mesh.
    pub(super) nodes: BTreeMap<String, DaemonStatus>,
    /// All pods, by namespace and name.
    pub(super) pods: Vec<PodStatus>,
    /// Manifests that the lab could not use: where and why.
    pub(super) refusals: Vec<String>,
}

/// A supervised program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DaemonStatus {
    /// Its process id, while it runs.
    pub(super) pid: Option<i32>,
    /// How often it was started again.
    pub(super) restarts: u32,
    /// When it was started, RFC 3339.
    pub(super) started_at: Option<String>,
    /// How it ended last, or why it cannot be started.
    pub(super) last_exit: Option<String>,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodStatus {
    /// Its namespace.
    pub(super) namespace: String,
    /// Its name.
    pub(super) name: String,
    /// Its UID.
    pub(super) uid: String,
    /// Where it runs.
    pub(super) node: String,
    /// Its service account.
    pub(super) service_account: String,
    /// Whether it shares its node's network.
    pub(super) host_network: bool,
    /// Where in its life it is.
    pub(super) phase: Phase,
    /// Why it is not further on; empty when all is well.
    pub(super) reason: String,
    /// The name of its network namespace.
    pub(super) netns: String,
    /// The path of its network namespace.
    pub(super) netns_path: PathBuf,
    /// What the plugins call it.
    pub(super) container_id: String,
    /// Its interface.
    pub(super) link: String,
    /// The other end of its interface, on the node.
    pub(super) host_link: Option<String>,
    /// Its addresses.
    pub(super) addresses: Vec<String>,
    /// How long the whole chain took for the ADD that worked, in microseconds.
    pub(super) add_micros: u64,
    /// How many ADDs it took.
    pub(super) add_tries: u32,
    /// Its processes.
    pub(super) pids: Vec<i32>,
    /// How often processes were started again.
    pub(super) restarts: u32,
    /// When it first ran, RFC 3339.
    pub(super) started_at: Option<String>,
    /// What its processes print.
    pub(super) log: PathBuf,
}
