//! What this node believes: the bundle behind its pinned root, bindings and slices that the bundle's key signed.

use std::collections::BTreeMap;
use std::sync::Arc;

use identity::{
    CLOCK_SKEW, Epoch, Fingerprint, NodeName, SignedBinding, SpiffeId, Suite, TrustBundle, TrustDomain, UnixTime,
    Verifier,
};
use plan::{BoundKey, BoundKeys, PeerName};
use ring::digest::{self, Digest, SHA256};

use crate::cluster::api;
use crate::store::FloorStore;

/// A verified public key and the time until which it stands.
#[derive(Clone, Copy)]
struct Known {
    key: BoundKey,
    not_after: UnixTime,
    /// Of the node's UID and the text that was verified: the same text is not verified again with each change of its node.
    digest: Digest,
}

/// The keys of all bindings that stand from one time until another.
struct Standing {
    keys: Arc<BoundKeys>,
    from: UnixTime,
    until: UnixTime,
}

impl Standing {
    fn is_for(&self, wall: UnixTime) -> bool {
        (self.from..=self.until).contains(&wall)
    }
}

/// Verified statements of the issuer, and why others were not believed.
pub(super) struct Trust {
    /// The root that is believed; `None` until the API server names it, where that vouches for its objects.
    pinned: Option<Fingerprint>,
    bundle: Option<(TrustBundle, Verifier)>,
    floor: FloorStore,
    bindings: BTreeMap<PeerName, BTreeMap<Epoch, Known>>,
    /// What follows from the bindings, as far as it was asked for since they changed.
    standing: Option<Standing>,
    refusals: BTreeMap<NodeName, Vec<String>>,
}

impl Trust {
    pub(super) fn new(pinned: Option<Fingerprint>, floor: FloorStore) -> Self {
        Self { pinned, bundle: None, floor, bindings: BTreeMap::new(), standing: None, refusals: BTreeMap::new() }
    }

    /// Takes a bundle if its root is the pinned one, or the first one where none is pinned yet; true when another one is
    /// believed than before.
    pub(super) fn handle_bundle(&mut self, trust: &api::MeshTrust, wall: UnixTime) -> anyhow::Result<bool> {
        let spec = &trust.spec;
        let bundle = TrustBundle::from_pem(spec.trust_domain.parse()?, &spec.root, &spec.intermediate)?;
        let root = self.pinned.unwrap_or_else(|| bundle.root_fingerprint());
        let verifier = bundle.verify(root, wall)?;
        self.pinned = Some(root);
        let changed = self.bundle.as_ref().is_none_or(|(held, _)| *held != bundle);
        if changed {
            // what another bundle proved is to be proved by this one
            self.bindings.clear();
            self.standing = None;
        }
        self.bundle = Some((bundle, verifier));
        Ok(changed)
    }

    /// Replaces what is known of one node's keys by these bindings, each verified; `uid` is the node's own word.
    pub(super) fn handle_bindings(&mut self, (node, uid): (&NodeName, &str), texts: &[&str], wall: UnixTime) {
        let Some((_, verifier)) = &self.bundle else { return };
        self.standing = None;
        let mut refused = Vec::new();
        let own = |peer: &PeerName| peer.node == *node;
        let before: BTreeMap<_, _> = self.bindings.extract_if(.., |peer, _| own(peer)).collect();
        for text in texts {
            let digest = digest(uid, text);
            let believed = SignedBinding::decode(text).map_err(anyhow::Error::from).and_then(|signed| {
                let peer = PeerName { node: node.clone(), identity: signed.binding.spiffe_id.clone() };
                let held = before.get(&peer).and_then(|epochs| epochs.get(&signed.binding.epoch));
                if held.is_none_or(|held| held.digest.as_ref() != digest.as_ref() || held.not_after < wall) {
                    verifier.verify_binding_of((node, uid), &signed, wall, CLOCK_SKEW)?;
                }
                self.floor.admit(&signed.binding, wall)?;
                Ok((peer, signed.binding))
            });
            match believed {
                Ok((peer, binding)) => {
                    let key = BoundKey { public_key: binding.public_key, suite: binding.suite };
                    let known = Known { key, not_after: binding.not_after, digest };
                    self.bindings.entry(peer).or_default().insert(binding.epoch, known);
                }
                Err(error) => refused.push(format!("{error:#}")),
            }
        }
        if self.refusals.get(node) != Some(&refused) {
            for reason in &refused {
                tracing::warn!(%node, reason, "A binding is not believed");
            }
        }
        self.refusals.insert(node.clone(), refused);
    }

    /// Forgets a node that is gone.
    pub(super) fn handle_node_gone(&mut self, node: &NodeName) {
        self.bindings.retain(|peer, _| peer.node != *node);
        self.standing = None;
        self.refusals.remove(node);
    }

    /// Whether the issuer signed this slice.
    pub(super) fn is_genuine(&self, slice: &api::MeshEndpointSlice) -> bool {
        self.bundle.as_ref().is_some_and(|(_, verifier)| slice.is_signed_by(verifier))
    }

    /// Public keys of every (node, identity) whose binding stands at this time: thousands, but the same while no binding comes
    /// or ends.
    pub(super) fn keys(&self, wall: UnixTime) -> Arc<BoundKeys> {
        match &self.standing {
            Some(held) if held.is_for(wall) => Arc::clone(&held.keys),
            _ => Arc::new(self.keys_at(wall)),
        }
    }

    /// Has [`Self::keys`] cost nothing until a binding comes or ends.
    pub(super) fn remember_keys(&mut self, wall: UnixTime) {
        if self.standing.as_ref().is_some_and(|held| held.is_for(wall)) {
            return;
        }
        let keys = self.keys(wall);
        let ends = self.bindings.values().flat_map(BTreeMap::values).map(|known| known.not_after);
        let until = ends.filter(|end| *end >= wall).min().unwrap_or(UnixTime(u64::MAX));
        self.standing = Some(Standing { keys, from: wall, until });
    }

    fn keys_at(&self, wall: UnixTime) -> BoundKeys {
        let standing = |epochs: &BTreeMap<Epoch, Known>| -> BTreeMap<Epoch, BoundKey> {
            epochs.iter().filter(|(_, k)| k.not_after >= wall).map(|(epoch, k)| (*epoch, k.key)).collect()
        };
        let all = self.bindings.iter().map(|(peer, epochs)| (peer.clone(), standing(epochs)));
        all.filter(|(_, epochs)| !epochs.is_empty()).collect()
    }

    /// The epochs that are bound for each identity of one node, and the suite that each binding names.
    pub(super) fn bound(&self, node: &NodeName, wall: UnixTime) -> BTreeMap<SpiffeId, BTreeMap<Epoch, Suite>> {
        let own = self.bindings.iter().filter(|(peer, _)| peer.node == *node);
        let epochs = |all: &BTreeMap<Epoch, Known>| {
            all.iter().filter(|(_, k)| k.not_after >= wall).map(|(epoch, k)| (*epoch, k.key.suite)).collect()
        };
        own.map(|(peer, all)| (peer.identity.clone(), epochs(all))).collect()
    }

    /// The root that is believed.
    pub(super) fn root(&self) -> Option<Fingerprint> {
        self.pinned
    }

    pub(super) fn trust_domain(&self) -> Option<&TrustDomain> {
        self.bundle.as_ref().map(|(_, verifier)| verifier.trust_domain())
    }

    /// Why bindings were not believed, by node.
    pub(super) fn refusals(&self) -> impl Iterator<Item = (&NodeName, &str)> {
        self.refusals.iter().flat_map(|(node, reasons)| reasons.iter().map(move |reason| (node, reason.as_str())))
    }

    /// Writes the epoch floor where it changed, so that an old binding cannot come back after a restart.
    pub(super) fn write_floor(&mut self, wall: UnixTime) -> anyhow::Result<()> {
        self.floor.forget_ended(wall);
        Ok(self.floor.write()?)
    }
}

/// What tells one binding of a node from any other text.
fn digest(uid: &str, text: &str) -> Digest {
    let mut context = digest::Context::new(&SHA256);
    // a binding has no line break, and neither has a UID that one is verified for
    [uid, "\n", text].iter().for_each(|part| context.update(part.as_bytes()));
    context.finish()
}

#[cfg(test)]
mod tests;
