//! How an endpoint goes from phase to phase: to a neighbouring one only, and only once everybody is where it is
//! (decision 0008).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use identity::NodeName;
use policy::{EffectiveMode, Mode};

use super::belief::{Claim, Holder};
use crate::view::{Endpoint, MeshNode, Phase};

/// How long a phase waits for every node to say that it is there: a node that is down must not hold a change up.
/// A live node needs a write, a watch and one nft transaction: tens of milliseconds.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Endpoints that are between outside and enforced, and nodes that are not waited for.
#[derive(Debug, Default)]
pub(super) struct Passage {
    waiting: BTreeMap<(NodeName, IpAddr), Waiting>,
    /// Nodes that once let patience run out, and the revision that they have to reach to be waited for again.
    laggards: BTreeMap<NodeName, u64>,
}

/// One endpoint in [`Phase::Ready`] or [`Phase::Switched`].
#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// The revision at which it came there.
    revision: u64,
    /// `None` once it has passed.
    deadline: Option<Instant>,
}

/// Whether an endpoint may leave the phase that it is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Waited {
    /// Every node that is waited for has it.
    pub(super) observed: bool,
    /// Patience has run out.
    pub(super) over: bool,
}

impl Waited {
    /// Nobody is waited for any more.
    pub(super) const fn is_settled(self) -> bool {
        self.observed || self.over
    }
}

impl Passage {
    /// Follows what the nodes have observed and the clock.
    pub(super) fn follow(&mut self, nodes: &BTreeMap<NodeName, MeshNode>, now: Instant) {
        self.laggards.retain(|name, revision| nodes.get(name).is_some_and(|n| n.observed_revision < *revision));
        for waiting in self.waiting.values_mut().filter(|w| w.deadline.is_some_and(|deadline| deadline <= now)) {
            waiting.deadline = None;
            for node in nodes.values().filter(|node| node.observed_revision < waiting.revision) {
                let least = self.laggards.entry(node.name.clone()).or_default();
                *least = waiting.revision.max(*least);
            }
        }
    }

    /// How far the waiting for an endpoint is. One that a former life of the controller left half-way begins to wait.
    pub(super) fn waited(
        &mut self,
        key: &(NodeName, IpAddr),
        (revision, nodes): (u64, &BTreeMap<NodeName, MeshNode>),
        now: Instant,
    ) -> Waited {
        let deadline = Some(now + PATIENCE);
        self.waiting.entry(key.clone()).or_insert(Waiting { revision, deadline });
        self.look(key, nodes)
    }

    /// How far the waiting for an endpoint is; nothing yet where it has not begun.
    pub(super) fn look(&self, key: &(NodeName, IpAddr), nodes: &BTreeMap<NodeName, MeshNode>) -> Waited {
        let Some(waiting) = self.waiting.get(key) else { return Waited::default() };
        let mut awaited = nodes.values().filter(|node| !self.laggards.contains_key(&node.name));
        let observed = awaited.all(|node| node.observed_revision >= waiting.revision);
        Waited { observed, over: waiting.deadline.is_none() }
    }

    /// An endpoint came into a phase at this revision.
    pub(super) fn arrive(&mut self, key: (NodeName, IpAddr), phase: Phase, revision: u64, now: Instant) {
        match phase {
            Phase::Ready | Phase::Switched => {
                self.waiting.insert(key, Waiting { revision, deadline: Some(now + PATIENCE) });
            }
            Phase::Outside | Phase::Enforced => {
                self.waiting.remove(&key);
            }
        }
    }

    /// Forgets endpoints that are not published any more.
    pub(super) fn retain(&mut self, mut is_published: impl FnMut(&NodeName, IpAddr) -> bool) {
        self.waiting.retain(|(node, ip), _| is_published(node, *ip));
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.waiting.values().filter_map(|waiting| waiting.deadline).min()
    }
}

/// What decides where an endpoint goes next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation {
    /// How long it has been where it is.
    pub(super) waited: Waited,
    /// Its node has asked for a key of its identity, and so can receive.
    pub(super) ready: bool,
    /// Another workload that is on its way in may not send by the tunnel yet: who rejected clear text now would reject
    /// its.
    pub(super) others_behind: bool,
}

/// The phase after `from`; `None` where nothing is published. `from` is `None` for an address that this holder was not
/// published at before.
pub(super) fn next_phase(from: Option<Phase>, wanted: bool, attached: bool, s: Situation) -> Option<Phase> {
    let settled = s.waited.is_settled();
    let next = match (from, wanted) {
        // never reachable in clear text: closed from the start, and unknown until it can receive
        (None, true) => return (s.ready && attached).then_some(Phase::Enforced),
        (None | Some(Phase::Outside), false) => Phase::Outside,
        (Some(Phase::Outside), true) if attached => Phase::Ready,
        (Some(Phase::Outside), true) => Phase::Outside,
        (Some(Phase::Ready), true) if settled && s.ready => Phase::Switched,
        (Some(Phase::Ready), false) if settled => Phase::Outside,
        (Some(Phase::Ready), _) => Phase::Ready,
        (Some(Phase::Switched), true) if s.waited.over || (settled && !s.others_behind) => Phase::Enforced,
        (Some(Phase::Switched), false) if settled => Phase::Ready,
        (Some(Phase::Switched), _) => Phase::Switched,
        (Some(Phase::Enforced), true) => Phase::Enforced,
        (Some(Phase::Enforced), false) => Phase::Switched,
    };
    Some(next)
}

/// The endpoint of a claim in a phase. On its way out it keeps the identity and mode it had.
pub(super) fn endpoint_in(phase: Phase, claim: &Claim, before: Option<&Endpoint>, node: (&NodeName, &str)) -> Endpoint {
    let (namespace, name, uid, mode) = match &claim.holder {
        Holder::Node { .. } => (String::new(), node.0.to_string(), node.1.to_owned(), None),
        Holder::Pod { namespace, name, uid, mode, .. } => (namespace.clone(), name.clone(), uid.clone(), mode.clone()),
    };
    let wanted = claim.holder.wanted();
    let identity = wanted.or(before.and_then(|endpoint| endpoint.identity.as_ref()));
    let kept = before.and_then(|endpoint| endpoint.mode.clone());
    let disabled = EffectiveMode { mode: Mode::Disable, ..EffectiveMode::default() };
    let (identity, mode) = match phase {
        Phase::Outside => (None, mode.filter(|mode| !mode.is_keyed())),
        Phase::Ready => (identity.cloned(), Some(disabled)),
        Phase::Switched | Phase::Enforced if wanted.is_some() => (identity.cloned(), mode),
        Phase::Switched | Phase::Enforced => (identity.cloned(), kept),
    };
    let enforced = matches!(phase, Phase::Outside | Phase::Enforced);
    Endpoint { identity, mode, enforced, namespace, name, uid }
}
