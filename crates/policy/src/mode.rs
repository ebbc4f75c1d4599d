//! STRICT, PERMISSIVE, DISABLE: what an enrolled workload accepts, and which policy says so.

use std::collections::BTreeMap;

use crate::selector::Selector;

/// What an enrolled workload accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Clear text only: the workload is out of the mesh.
    Disable,
    /// The tunnel from peers that have a key, clear text from those that have none.
    Permissive,
    /// The tunnel only.
    Strict,
}

/// What an enrolled workload sends to receivers that are not in the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outbound {
    /// Clear text where the receiver has no key.
    #[default]
    Opportunistic,
    /// Nothing leaves in clear text: dropped and reported.
    RequireMesh,
}

/// One PeerAuthentication, free of its wire form. An absent `mode` is UNSET: inherited from the wider scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAuthentication {
    /// The namespace it lives in; the mesh's root namespace makes it mesh-wide when it has no selector.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Seconds since 1970 when it was created: the oldest wins a tie, then the name in alphabetical order.
    pub created: u64,
    /// Which workloads of its namespace; `None` for the whole namespace (or mesh).
    pub selector: Option<Selector>,
    /// `spec.mtls.mode`; `None` is UNSET.
    pub mode: Option<Mode>,
    /// `spec.portLevelMtls`; honoured only together with a selector, as in Istio.
    pub ports: BTreeMap<u16, Option<Mode>>,
    /// `spec.outbound`, ours; `None` is inherited.
    pub outbound: Option<Outbound>,
}

/// What holds for one enrolled workload once all scopes are merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveMode {
    /// The workload's own mode.
    pub mode: Mode,
    /// Ports that differ from `mode`.
    pub ports: BTreeMap<u16, Mode>,
    /// What it sends to receivers outside the mesh.
    pub outbound: Outbound,
}
