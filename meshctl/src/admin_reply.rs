//! What meshd's admin socket answers, as typed values: the other half of `meshd/src/admin.rs`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The answer to `status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    /// The node's name.
    pub(crate) node: String,
    /// meshd's version.
    pub(crate) version: String,
    /// Whether nothing is missing.
    pub(crate) ready: bool,
    /// What is missing, by name.
    pub(crate) blocked_on: Vec<String>,
    /// The trust domain.
    pub(crate) trust_domain: String,
    /// Seconds since the daemon started.
    pub(crate) uptime_s: u64,
    /// The workloads attached here.
    pub(crate) attachments: Vec<Attachment>,
    /// How many remote identities are known, and how many have a session.
    pub(crate) peers: PeerCount,
    /// Packets given up, by reason.
    pub(crate) drops: BTreeMap<String, u64>,
    /// Manifests that could not be used.
    pub(crate) refusals: Vec<Refusal>,
    /// Clear text refused lately by a STRICT workload.
    pub(crate) denied: Vec<SeenFlow>,
    /// Clear text accepted lately by a PERMISSIVE workload.
    pub(crate) clear_seen: Vec<SeenFlow>,
    /// What the kernel takes off the data path: TSO, USO, GSO, GRO.
    pub(crate) offloads: Vec<String>,
}

/// A workload on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Attachment {
    /// `namespace/name`.
    pub(crate) pod: String,
    /// Its addresses.
    pub(crate) ips: Vec<String>,
    /// Its link at the node's end.
    pub(crate) link: String,
    /// Its SPIFFE ID, when enrolled.
    pub(crate) identity: Option<String>,
    /// STRICT, PERMISSIVE or DISABLE, when enrolled.
    pub(crate) mode: Option<String>,
    /// Whether it is in the mesh.
    pub(crate) enrolled: bool,
}

/// How many peers there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PeerCount {
    /// Remote (node, identity) pairs with a verified binding.
    pub(crate) known: u64,
    /// Those with a live session.
    pub(crate) sessions: u64,
}

/// A manifest that could not be used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Refusal {
    /// Which file.
    pub(crate) file: String,
    /// Where in it, counted from 1.
    pub(crate) line: u64,
    /// Why.
    pub(crate) reason: String,
}

/// Clear-text traffic of one source to one port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SeenFlow {
    /// From.
    pub(crate) source: String,
    /// To.
    pub(crate) destination: String,
    /// `tcp`, `udp`, `icmp` or a number.
    pub(crate) protocol: String,
    /// The destination's port; 0 where the protocol has none.
    pub(crate) port: u16,
    /// Packets.
    pub(crate) count: u64,
}
