//! The keys of the identities that live here: which epochs are held, what is asked of the controller.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use identity::key_ring::{Input, KeyRing};
use identity::{Epoch, NodeSecret, SpiffeId, Suite, UnixTime, svid_public_key, svid_seed, wireguard_key};
use plan::view::RequestedKey;
use plan::{Desired, engine_suite};
use wg::{LocalConfig, LocalKey, PublicKey};

/// The key rings of all local identities; the keys themselves are derived when they are needed.
pub(super) struct Keys {
    secret: NodeSecret,
    node_uid: String,
    period: Duration,
    /// What this node speaks.
    suite: Suite,
    rings: BTreeMap<SpiffeId, KeyRing>,
    /// What our own bindings say.
    bound: BTreeMap<SpiffeId, BTreeMap<Epoch, Suite>>,
    public: BTreeMap<(SpiffeId, Epoch), RequestedKey>,
}

impl Keys {
    pub(super) fn new(secret: NodeSecret, node_uid: String, period: Duration, suite: Suite) -> Self {
        let (rings, bound, public) = Default::default();
        Self { secret, node_uid, period, suite, rings, bound, public }
    }

    /// Follows the identities that live here, what of them is bound, and the wall clock; true when a held key
    /// or what is bound of it changed.
    pub(super) fn follow(
        &mut self,
        desired: &Desired,
        bound: BTreeMap<SpiffeId, BTreeMap<Epoch, Suite>>,
        wall: UnixTime,
    ) -> bool {
        let bound_before = std::mem::replace(&mut self.bound, bound);
        let before: Vec<_> = self.public.keys().cloned().collect();
        self.rings.retain(|identity, _| desired.locals.contains_key(identity));
        for identity in desired.locals.keys() {
            if !self.rings.contains_key(identity) {
                // the period was checked with the flags
                let Ok(ring) = KeyRing::new(self.period) else { continue };
                self.rings.insert(identity.clone(), ring);
            }
            if let Some(ring) = self.rings.get_mut(identity) {
                let bound = self.bound.get(identity).into_iter().flat_map(BTreeMap::keys).copied().collect();
                ring.handle(Input::Bound(bound), wall);
                ring.handle(Input::Tick, wall);
            }
        }
        let held: BTreeSet<(SpiffeId, Epoch)> =
            self.rings.iter().flat_map(|(id, ring)| ring.held().iter().map(move |e| (id.clone(), *e))).collect();
        self.public.retain(|key, _| held.contains(key));
        for (identity, epoch) in held {
            if !self.public.contains_key(&(identity.clone(), epoch)) {
                let request = self.request(&identity, epoch);
                self.public.insert((identity, epoch), request);
            }
        }
        !before.iter().eq(self.public.keys()) || bound_before != self.bound
    }

    fn request(&self, identity: &SpiffeId, epoch: Epoch) -> RequestedKey {
        let secret = wireguard_key(&self.secret, identity, &self.node_uid, epoch, self.suite);
        let public_key = PublicKey::from(&secret).to_bytes();
        let svid_key = svid_public_key(&svid_seed(&self.secret, identity, &self.node_uid, epoch));
        RequestedKey { identity: identity.clone(), epoch, public_key, svid_key, suite: self.suite }
    }

    /// What the controller is asked to bind.
    pub(super) fn requested(&self) -> impl Iterator<Item = &RequestedKey> {
        self.public.values()
    }

    /// What is spoken with a key: what its binding says, which is all that the other side knows; before there is one, what it
    /// is going to say.
    fn suite_of(&self, identity: &SpiffeId, epoch: Epoch) -> Suite {
        self.bound.get(identity).and_then(|epochs| epochs.get(&epoch)).copied().unwrap_or(self.suite)
    }

    /// What the engine opens and seals with.
    pub(super) fn engine_locals(&self, desired: &Desired) -> BTreeMap<SpiffeId, LocalConfig> {
        let key = |identity: &SpiffeId, epoch: Epoch| LocalKey {
            epoch: epoch.0,
            secret: wireguard_key(&self.secret, identity, &self.node_uid, epoch, self.suite),
            suite: engine_suite(self.suite_of(identity, epoch)),
        };
        let config = |identity: &SpiffeId| -> Vec<LocalKey> {
            let epochs = self.public.keys().filter(|(id, _)| id == identity);
            epochs.map(|(_, epoch)| key(identity, *epoch)).collect()
        };
        let locals = desired.locals.iter();
        locals
            .map(|(id, local)| (id.clone(), LocalConfig { keys: config(id), addresses: local.addresses.clone() }))
            .collect()
    }
}
