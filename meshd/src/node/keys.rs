//! The keys of the identities that live here: which epochs are held, what is asked of the controller.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use identity::key_ring::{Input, KeyRing};
use identity::{Epoch, NodeSecret, SpiffeId, UnixTime, svid_public_key, svid_seed, wireguard_key};
use plan::Desired;
use plan::view::RequestedKey;
use wg::{LocalConfig, LocalKey, PublicKey};

/// The key rings of all local identities; the keys themselves are derived when they are needed.
pub(super) struct Keys {
    secret: NodeSecret,
    node_uid: String,
    period: Duration,
    rings: BTreeMap<SpiffeId, KeyRing>,
    public: BTreeMap<(SpiffeId, Epoch), RequestedKey>,
}

impl Keys {
    pub(super) fn new(secret: NodeSecret, node_uid: String, period: Duration) -> Self {
        Self { secret, node_uid, period, rings: BTreeMap::new(), public: BTreeMap::new() }
    }

    /// Follows the identities that live here, what of them is bound, and the wall clock; true when a held key changed.
    pub(super) fn follow(
        &mut self,
        desired: &Desired,
        bound: &BTreeMap<SpiffeId, BTreeSet<Epoch>>,
        wall: UnixTime,
    ) -> bool {
        let before: Vec<_> = self.public.keys().cloned().collect();
        self.rings.retain(|identity, _| desired.locals.contains_key(identity));
        for identity in desired.locals.keys() {
            if !self.rings.contains_key(identity) {
                // the period was checked with the flags
                let Ok(ring) = KeyRing::new(self.period) else { continue };
                self.rings.insert(identity.clone(), ring);
            }
            if let Some(ring) = self.rings.get_mut(identity) {
                ring.handle(Input::Bound(bound.get(identity).cloned().unwrap_or_default()), wall);
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
        !before.iter().eq(self.public.keys())
    }

    fn request(&self, identity: &SpiffeId, epoch: Epoch) -> RequestedKey {
        let secret = wireguard_key(&self.secret, identity, &self.node_uid, epoch);
        let public_key = PublicKey::from(&secret).to_bytes();
        let svid_key = svid_public_key(&svid_seed(&self.secret, identity, &self.node_uid, epoch));
        RequestedKey { identity: identity.clone(), epoch, public_key, svid_key }
    }

    /// What the controller is asked to bind.
    pub(super) fn requested(&self) -> impl Iterator<Item = &RequestedKey> {
        self.public.values()
    }

    /// What the engine opens and seals with.
    pub(super) fn engine_locals(&self, desired: &Desired) -> BTreeMap<SpiffeId, LocalConfig> {
        let key = |identity: &SpiffeId, epoch: Epoch| LocalKey {
            epoch: epoch.0,
            secret: wireguard_key(&self.secret, identity, &self.node_uid, epoch),
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
