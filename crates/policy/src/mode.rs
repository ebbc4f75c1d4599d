//! STRICT, PERMISSIVE, DISABLE: what an enrolled workload accepts, and which policy says so.

use std::collections::BTreeMap;

use crate::selector::{Labels, Selector};

/// What an enrolled workload accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// Which workloads of its namespace; `None`, or empty, for the whole namespace (or mesh).
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

impl Mode {
    /// As manifests spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "DISABLE",
            Self::Permissive => "PERMISSIVE",
            Self::Strict => "STRICT",
        }
    }
}

impl Default for EffectiveMode {
    /// PERMISSIVE and Opportunistic: what holds where nobody said anything.
    fn default() -> Self {
        Self { mode: Mode::Permissive, ports: BTreeMap::new(), outbound: Outbound::Opportunistic }
    }
}

impl EffectiveMode {
    /// Whether the workload has a key and is reached by the tunnel: unless it is DISABLE on every port.
    #[must_use]
    pub fn is_keyed(&self) -> bool {
        self.mode != Mode::Disable || self.ports.values().any(|mode| *mode != Mode::Disable)
    }

    /// Whether clear text is refused at ports that have no exception of their own.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        self.mode == Mode::Strict
    }

    /// Whether clear text from a sender without a key is refused at this port.
    #[must_use]
    pub fn refuses_clear_at(&self, port: u16) -> bool {
        self.ports.get(&port).copied().unwrap_or(self.mode) == Mode::Strict
    }
}

/// The scopes of a PeerAuthentication, widest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Mesh,
    Namespace,
    Workload,
}

fn scope_of(policy: &PeerAuthentication, namespace: &str, labels: &Labels, root_namespace: &str) -> Option<Scope> {
    let here = policy.namespace == namespace;
    // an empty selector is none, as in Istio (`ComposePeerAuthentication`)
    match policy.selector.as_ref().filter(|selector| !selector.is_empty()) {
        Some(selector) if here && selector.matches(labels) => Some(Scope::Workload),
        Some(_) => None,
        None if policy.namespace == root_namespace => Some(Scope::Mesh),
        None if here => Some(Scope::Namespace),
        None => None,
    }
}

/// What holds for an enrolled workload of `namespace` with these labels.
///
/// Workload scope wins over namespace, namespace over mesh; in one scope the oldest policy counts and the others are
/// ignored, a tie goes to the name that sorts first. UNSET is inherited from the wider scope, PERMISSIVE at the end.
/// Ports come from the workload's policy alone, as in Istio; an UNSET port has the workload's mode.
pub fn resolve<'a>(
    policies: impl IntoIterator<Item = &'a PeerAuthentication>,
    namespace: &str,
    labels: &Labels,
    root_namespace: &str,
) -> EffectiveMode {
    resolve_from(policies, namespace, labels, root_namespace).0
}

/// As [`resolve`], with the one policy that the mode is from; `None` where nobody said any.
pub fn resolve_from<'a>(
    policies: impl IntoIterator<Item = &'a PeerAuthentication>,
    namespace: &str,
    labels: &Labels,
    root_namespace: &str,
) -> (EffectiveMode, Option<&'a PeerAuthentication>) {
    let mut chosen: BTreeMap<Scope, &PeerAuthentication> = BTreeMap::new();
    let is_older = |p: &PeerAuthentication, q: &PeerAuthentication| (p.created, &p.name) < (q.created, &q.name);
    for policy in policies {
        let Some(scope) = scope_of(policy, namespace, labels, root_namespace) else { continue };
        let holder = chosen.entry(scope).or_insert(policy);
        if is_older(policy, holder) {
            *holder = policy;
        }
    }
    let mut effective = EffectiveMode::default();
    for policy in chosen.values() {
        effective.mode = policy.mode.unwrap_or(effective.mode);
        effective.outbound = policy.outbound.unwrap_or(effective.outbound);
    }
    if let Some(workload) = chosen.get(&Scope::Workload) {
        let port = |(port, mode): (&u16, &Option<Mode>)| (*port, mode.unwrap_or(effective.mode));
        effective.ports = workload.ports.iter().map(port).filter(|(_, mode)| *mode != effective.mode).collect();
    }
    let source = chosen.into_values().rev().find(|policy| policy.mode.is_some());
    (effective, source)
}

#[cfg(test)]
mod tests;
