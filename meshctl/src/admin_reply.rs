//! What meshd's admin socket answers, as typed values: the other half of `meshd/src/node/answers.rs`.

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
    /// How the runtime comes to call mesh-cni; none where meshd does not install it.
    pub(crate) chain: Option<Chain>,
    /// The workloads attached here.
    pub(crate) attachments: Vec<Attachment>,
    /// How many remote identities are known, and how many have a session.
    pub(crate) peers: PeerCount,
    /// What went through the tunnel device.
    pub(crate) traffic: Traffic,
    /// Packets given up, by reason.
    pub(crate) drops: BTreeMap<String, u64>,
    /// Manifests that could not be used.
    pub(crate) refusals: Vec<Refusal>,
    /// Pods that are labelled into the mesh and not protected by it.
    pub(crate) outside: Vec<OutsidePod>,
    /// Clear text refused lately by a STRICT workload.
    pub(crate) denied: Vec<SeenFlow>,
    /// Clear text accepted lately by a PERMISSIVE workload.
    pub(crate) clear_seen: Vec<SeenFlow>,
    /// What the kernel takes off the data path: TSO, USO, GSO, GRO.
    pub(crate) offloads: Vec<String>,
    /// Packets that policies refused, by reason.
    pub(crate) policy_denied_by_reason: BTreeMap<String, u64>,
    /// Flows that policies refused lately, the newest first.
    pub(crate) policy_denied: Vec<RefusedFlow>,
}

/// Where mesh-cni stands in the runtime's network list (decision 0025).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Chain {
    /// The list's path, as meshd sees it.
    pub(crate) list: Option<String>,
    /// Whether the runtime reads the file beside it: `read`, `declared`, `unread`, `unknown` until a pod starts, `lost`, `none`.
    pub(crate) beside: String,
}

impl Chain {
    /// Why a list that somebody rewrites would be without mesh-cni until the daemon puts it back; none where it would not, or
    /// where that is not known yet.
    pub(crate) fn gap(&self) -> Option<&'static str> {
        match self.beside.as_str() {
            "unread" => Some("the runtime reads no files beside it (libcni before 1.3)"),
            "lost" => Some("somebody keeps taking the file beside it away"),
            "none" => Some("it says that it takes no files from beside it"),
            _ => None,
        }
    }
}

/// Traffic of one source to one port that a policy refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RefusedFlow {
    /// From which address.
    pub(crate) source: String,
    /// Whose it is, `namespace/name`.
    pub(crate) source_workload: Option<String>,
    /// The SPIFFE ID that has a key there.
    pub(crate) source_identity: Option<String>,
    /// To which address.
    pub(crate) destination: String,
    /// Whose it is, `namespace/name`.
    pub(crate) destination_workload: Option<String>,
    /// The SPIFFE ID that has a key there.
    pub(crate) destination_identity: Option<String>,
    /// `tcp`, `udp`, `icmp`, `icmpv6` or a number.
    pub(crate) protocol: String,
    /// The destination's port; 0 where the protocol has none.
    pub(crate) port: u16,
    /// Packets.
    pub(crate) count: u64,
    /// Seconds since the last of them.
    pub(crate) last_seen_s: u64,
    /// `outbound` where the sender's policies refused it, `inbound` where the receiver's did.
    pub(crate) direction: Option<String>,
    /// The verdict's reason.
    pub(crate) reason: Option<String>,
    /// Which policy, with its kind.
    pub(crate) policy: Option<String>,
    /// Which rule of it, from 0; none where the policy closes what it does not open.
    pub(crate) rule: Option<u64>,
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
    /// Where a change of mode is: `Enforced` when all nodes have switched, `Outside` when not enrolled.
    pub(crate) phase: Option<String>,
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

/// A pod of the node that should be in the mesh and is not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct OutsidePod {
    /// `namespace/name`.
    pub(crate) pod: String,
    /// Why, and what to do.
    pub(crate) reason: String,
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
    /// Whose it is, `namespace/name`.
    pub(crate) source_workload: Option<String>,
    /// To.
    pub(crate) destination: String,
    /// Whose it is, `namespace/name`.
    pub(crate) destination_workload: Option<String>,
    /// `tcp`, `udp`, `icmp` or a number.
    pub(crate) protocol: String,
    /// The destination's port; 0 where the protocol has none.
    pub(crate) port: u16,
    /// Packets.
    pub(crate) count: u64,
    /// Seconds since the last of them.
    pub(crate) last_seen_s: u64,
}

/// Inner packets, in plain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Traffic {
    /// From workloads here.
    pub(crate) sent_packets: u64,
    /// From workloads here.
    pub(crate) sent_bytes: u64,
    /// To workloads here.
    pub(crate) received_packets: u64,
    /// To workloads here.
    pub(crate) received_bytes: u64,
}

/// A row of the answer to `peers`: a remote (node, identity).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Peer {
    /// Its node.
    pub(crate) node: String,
    /// Its SPIFFE ID.
    pub(crate) identity: String,
    /// `session`, `idle` or `no-binding`.
    pub(crate) state: String,
    /// Its inner addresses.
    pub(crate) addresses: Vec<String>,
    /// Its outer UDP address.
    pub(crate) endpoint: Option<String>,
    /// The generation of the key in use.
    pub(crate) epoch: Option<u64>,
    /// What seals the data that goes there.
    pub(crate) cipher: Option<String>,
    /// Seconds since the last handshake.
    pub(crate) last_handshake_s: Option<u64>,
    /// Bytes sealed for it.
    pub(crate) tx_bytes: u64,
    /// Bytes opened from it.
    pub(crate) rx_bytes: u64,
    /// The identities here that it has sessions with.
    pub(crate) local_identities: Vec<String>,
}

/// A row of the answer to `identity`: an identity that lives on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LocalIdentity {
    /// Its SPIFFE ID.
    pub(crate) spiffe_id: String,
    /// The node.
    pub(crate) node: String,
    /// The pods that have it there; none for the node's own.
    pub(crate) pods: Vec<String>,
    /// Its WireGuard public keys.
    pub(crate) fingerprints: Vec<KeyPrint>,
    /// Its X.509-SVID with the chain, in PEM.
    pub(crate) svid: Option<String>,
    /// Its newest signed binding.
    pub(crate) binding: Option<String>,
}

/// A WireGuard public key of an identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct KeyPrint {
    /// The key, hexadecimal.
    pub(crate) key: String,
    /// Its generation.
    pub(crate) epoch: u64,
    /// Whether the issuer has signed a binding for it.
    pub(crate) bound: bool,
}
