//! Our kinds as manifests spell them (group `weft.dev`), and the bytes that their signatures cover.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use identity::{Epoch, NodeName, SpiffeId, Suite};
use jiff::Timestamp;
use plan::{Governed, view};
use policy::{Mode, Outbound};
use serde::{Deserialize, Serialize};

#[cfg(test)]
pub(crate) use self::slice::MeshEndpointSliceSpec;
pub(crate) use self::slice::{ADDRESSES_MAX, MeshEndpointSlice};

mod slice;

/// `apiVersion` of what Weft writes.
pub(crate) const API_VERSION: &str = "weft.dev/v1alpha1";

/// The part of `metadata` that Weft reads and writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata {
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) namespace: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) uid: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) creation_timestamp: Option<String>,
}

/// `labels:` with nothing behind it is null in YAML.
pub(super) fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// What a node says of itself (`spec`, written and signed by that node) and the controller's answer (`status`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MeshNode {
    pub(crate) metadata: Metadata,
    pub(crate) spec: MeshNodeSpec,
    #[serde(default, skip_serializing_if = "MeshNodeStatus::is_empty")]
    pub(crate) status: MeshNodeStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MeshNodeSpec {
    #[serde(rename = "nodeUID")]
    pub(crate) node_uid: String,
    /// Ed25519 public key of the node credential, base64.
    pub(crate) credential: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) join: Option<Join>,
    #[serde(default)]
    pub(crate) endpoints: Vec<SocketAddr>,
    #[serde(default)]
    pub(crate) addresses: BTreeSet<IpAddr>,
    #[serde(default)]
    pub(crate) keys: Vec<RequestedKey>,
    #[serde(default)]
    pub(crate) attachments: Vec<ReportedAttachment>,
    #[serde(default)]
    pub(crate) observed_revision: u64,
    /// Rises with every report of this node.
    #[serde(default)]
    pub(crate) sequence: u64,
    /// Ed25519 over the spec without this field, base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) signature: String,
}

/// Proof that the node holds the one-time token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Join {
    #[serde(rename = "tokenID")]
    pub(crate) token_id: String,
    /// Base64.
    pub(crate) proof: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RequestedKey {
    pub(crate) identity: SpiffeId,
    pub(crate) epoch: Epoch,
    /// X25519, base64.
    pub(crate) public_key: String,
    /// Ed25519, base64.
    pub(crate) svid_key: String,
    /// The best data cipher that the node speaks with this key; left out for WireGuard's own.
    #[serde(default, skip_serializing_if = "Suite::is_default")]
    pub(crate) suite: Suite,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReportedAttachment {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) uid: String,
    pub(crate) ips: BTreeSet<IpAddr>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MeshNodeStatus {
    #[serde(default)]
    pub(crate) joined: bool,
    /// Where controllers wrote bindings before they wrote them into the slice (decision 0024); read, and kept while they
    /// are granted, but nothing is added.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) bindings: Vec<IssuedBinding>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) refused: Vec<Refused>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) conditions: Vec<Condition>,
}

impl MeshNodeStatus {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A binding as the controller hands it out, with the X.509-SVID of the same identity and epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IssuedBinding {
    pub(crate) identity: SpiffeId,
    pub(crate) epoch: Epoch,
    /// `identity::SignedBinding::encode`.
    pub(crate) binding: String,
    /// PEM, leaf first.
    pub(crate) svid: String,
}

/// Something that the controller did not believe or grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Refused {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) identity: Option<SpiffeId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) epoch: Option<Epoch>,
    pub(crate) reason: String,
}

/// The trust domain's certificates, as the controller publishes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MeshTrust {
    pub(crate) metadata: Metadata,
    pub(crate) spec: MeshTrustSpec,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MeshTrustSpec {
    pub(crate) trust_domain: String,
    /// PEM.
    pub(crate) root: String,
    /// PEM.
    pub(crate) intermediate: String,
}

/// One thing that holds of an object or does not, as Kubernetes' API conventions have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Condition {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// True, False or Unknown.
    pub(crate) status: String,
    pub(crate) reason: String,
    #[serde(default)]
    pub(crate) message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) observed_generation: Option<i64>,
    /// RFC 3339.
    pub(crate) last_transition_time: String,
}

impl Condition {
    /// A condition of this type that holds or does not, and why: one word, and a sentence.
    pub(crate) fn new(kind: &str, holds: bool, (reason, message): (&str, String), now: Timestamp) -> Self {
        Self {
            kind: kind.to_owned(),
            status: if holds { "True" } else { "False" }.to_owned(),
            reason: reason.to_owned(),
            message,
            observed_generation: None,
            last_transition_time: now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }
    }

    /// With the time of the last transition, which is that of the one of its type in `held` where the status is the same.
    pub(crate) fn after(mut self, held: &[Self]) -> Self {
        if let Some(held) = held.iter().find(|held| held.kind == self.kind && held.status == self.status) {
            self.last_transition_time.clone_from(&held.last_transition_time);
        }
        self
    }
}

/// How many workloads a PeerAuthentication governs, and how many of them are as it says: a part of its status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Enforcement {
    /// Of which generation of the object this is said.
    pub(crate) observed_generation: i64,
    pub(crate) workloads: u64,
    pub(crate) enforced_workloads: u64,
    /// Both in one text, for people: `2/3`.
    pub(crate) enforced: String,
}

impl Enforcement {
    pub(crate) fn new(observed_generation: i64, count: Governed) -> Self {
        let Governed { workloads, enforced: enforced_workloads } = count;
        Self {
            observed_generation,
            workloads,
            enforced_workloads,
            enforced: format!("{enforced_workloads}/{workloads}"),
        }
    }
}

/// A mode as manifests spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum ModeName {
    Unset,
    Disable,
    Permissive,
    Strict,
}

impl ModeName {
    /// `None` for UNSET.
    pub(super) fn mode(self) -> Option<Mode> {
        match self {
            Self::Unset => None,
            Self::Disable => Some(Mode::Disable),
            Self::Permissive => Some(Mode::Permissive),
            Self::Strict => Some(Mode::Strict),
        }
    }
}

impl From<Mode> for ModeName {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Disable => Self::Disable,
            Mode::Permissive => Self::Permissive,
            Mode::Strict => Self::Strict,
        }
    }
}

/// What a workload sends outside the mesh, as manifests spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum OutboundName {
    Opportunistic,
    RequireMesh,
}

impl OutboundName {
    pub(super) fn outbound(self) -> Outbound {
        match self {
            Self::Opportunistic => Outbound::Opportunistic,
            Self::RequireMesh => Outbound::RequireMesh,
        }
    }
}

impl MeshNodeSpec {
    /// What the node signs.
    pub(crate) fn signed_bytes(&self) -> Vec<u8> {
        json(&Self { signature: String::new(), ..self.clone() })
    }

    /// The credential's public key, if it is one.
    pub(crate) fn credential_key(&self) -> Option<[u8; 32]> {
        key(&self.credential)
    }
}

impl MeshNode {
    /// As the planner sees it; `None` when a key is not 32 bytes.
    pub(crate) fn to_view(&self) -> Option<view::MeshNode> {
        let requested = |k: &RequestedKey| {
            let (public_key, svid_key) = (key(&k.public_key)?, key(&k.svid_key)?);
            Some(view::RequestedKey {
                identity: k.identity.clone(),
                epoch: k.epoch,
                public_key,
                svid_key,
                suite: k.suite,
            })
        };
        let reported = |a: &ReportedAttachment| view::ReportedAttachment {
            namespace: a.namespace.clone(),
            pod: a.pod.clone(),
            uid: a.uid.clone(),
            ips: a.ips.clone(),
        };
        Some(view::MeshNode {
            name: NodeName(self.metadata.name.clone()),
            uid: self.spec.node_uid.clone(),
            endpoints: self.spec.endpoints.clone(),
            addresses: self.spec.addresses.clone(),
            keys: self.spec.keys.iter().map(requested).collect::<Option<_>>()?,
            attachments: self.spec.attachments.iter().map(reported).collect(),
            observed_revision: self.spec.observed_revision,
        })
    }
}

impl From<&view::RequestedKey> for RequestedKey {
    fn from(key: &view::RequestedKey) -> Self {
        let (public_key, svid_key) = (BASE64.encode(key.public_key), BASE64.encode(key.svid_key));
        Self { identity: key.identity.clone(), epoch: key.epoch, public_key, svid_key, suite: key.suite }
    }
}

fn key(text: &str) -> Option<[u8; 32]> {
    BASE64.decode(text).ok()?.try_into().ok()
}

/// The one JSON form of a value: fields in the order of their declaration, no white space.
fn json<T: Serialize>(value: &T) -> Vec<u8> {
    // these types hold no map with keys other than strings and numbers, and no float
    serde_json::to_vec(value).unwrap_or_default()
}
