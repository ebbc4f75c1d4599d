//! One remote (node, identity): keys, endpoint and roaming, allowed IPs.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::SocketAddr;
use std::time::Instant;

use x25519_dalek::PublicKey;

use crate::admission::Allowance;
use crate::allowed_ips::AllowedIps;
use crate::cipher::Suite;
use crate::claims::Claims;
use crate::key::{PeerConfig, PresharedKey, is_low_order};
use crate::noise::NO_PRESHARED_KEY;
use crate::shard::Shard;

/// A peer inside the engine. Numbers are never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PeerAt(pub(crate) u32);

/// One peer.
pub(crate) struct Peer<P> {
    pub(crate) id: P,
    /// Without keys of low order.
    config: PeerConfig,
    endpoint: Option<SocketAddr>,
    /// Which engine owns it.
    pub(crate) shard: usize,
    /// Valid initiations. Invalid ones cost nothing here: whoever replays captured initiations must not use up the
    /// honest peer's allowance.
    pub(crate) initiations: Allowance,
    /// Invalid responses. Their receiver index must be right, so that only somebody on this peer's path can send many.
    pub(crate) bad_responses: Allowance,
}

impl<P> Peer<P> {
    fn new(id: P, shard: usize, now: Instant) -> Self {
        Self {
            id,
            shard,
            config: PeerConfig::default(),
            endpoint: None,
            initiations: Allowance::new(now),
            bad_responses: Allowance::new(now),
        }
    }

    /// Where packets go.
    pub(crate) const fn endpoint(&self) -> Option<SocketAddr> {
        self.endpoint
    }

    /// What is mixed into its handshakes; zeros where nothing was agreed on.
    pub(crate) fn preshared_key(&self) -> &[u8; 32] {
        self.config.preshared_key.as_ref().map_or(&NO_PRESHARED_KEY, PresharedKey::bytes)
    }

    /// The best cipher that the holder of its key of this epoch speaks.
    pub(crate) fn suite(&self, epoch: u64) -> Suite {
        self.config.suites.get(&epoch).copied().unwrap_or_default()
    }

    /// Where to send the `attempt`th initiation: to the endpoint first, then to each other known one in turn, so that a
    /// peer which moved while it was silent is found.
    pub(crate) fn candidate(&self, attempt: u32) -> Option<SocketAddr> {
        let others = self.config.endpoints.iter().copied().filter(|seed| Some(*seed) != self.endpoint);
        let count = others.clone().count() + usize::from(self.endpoint.is_some());
        let turn = usize::try_from(attempt).unwrap_or_default().checked_rem(count)?;
        self.endpoint.into_iter().chain(others).nth(turn)
    }

    fn prove(&mut self, from: SocketAddr) -> Option<Option<SocketAddr>> {
        (self.endpoint != Some(from)).then(|| self.endpoint.replace(from))
    }

    /// Every address where it may be expected.
    fn endpoints(&self) -> Vec<SocketAddr> {
        self.config.endpoints.iter().copied().chain(self.endpoint).collect()
    }

    fn reseed(&mut self, endpoints: &[SocketAddr]) {
        let is_withdrawn =
            |endpoint: &SocketAddr| self.config.endpoints.contains(endpoint) && !endpoints.contains(endpoint);
        if self.endpoint.as_ref().is_none_or(is_withdrawn) {
            self.endpoint = endpoints.first().copied();
        }
    }
}

/// All peers, with the table of their allowed IPs.
pub(crate) struct Peers<P> {
    shard: Shard,
    by_id: BTreeMap<P, PeerAt>,
    all: BTreeMap<PeerAt, Peer<P>>,
    by_key: HashMap<[u8; 32], Claims<PeerAt>>,
    /// How often each address is an endpoint of a peer, configured or proven.
    endpoints: HashMap<SocketAddr, usize>,
    /// How often an endpoint changed.
    moves: u64,
    pub(crate) allowed_ips: AllowedIps<PeerAt>,
    /// Names of those that the last replacement removed, until [`Peers::forget_gone`].
    gone: BTreeMap<PeerAt, P>,
    next: u32,
}

impl<P: Clone + Ord + Hash + std::fmt::Debug> Peers<P> {
    pub(crate) fn new(shard: Shard) -> Self {
        Self {
            shard,
            by_id: BTreeMap::new(),
            all: BTreeMap::new(),
            by_key: HashMap::new(),
            endpoints: HashMap::new(),
            moves: 0,
            allowed_ips: AllowedIps::new(),
            gone: BTreeMap::new(),
            next: 0,
        }
    }

    pub(crate) fn at(&self, id: &P) -> Option<PeerAt> {
        self.by_id.get(id).copied()
    }

    pub(crate) fn peer(&self, at: PeerAt) -> Option<&Peer<P>> {
        self.all.get(&at)
    }

    pub(crate) fn peer_mut(&mut self, at: PeerAt) -> Option<&mut Peer<P>> {
        self.all.get_mut(&at)
    }

    /// The name of a peer, even if it was just removed.
    pub(crate) fn id(&self, at: PeerAt) -> Option<&P> {
        self.all.get(&at).map(|peer| &peer.id).or_else(|| self.gone.get(&at))
    }

    pub(crate) fn forget_gone(&mut self) {
        self.gone.clear();
    }

    /// Whether a peer may be expected at this address.
    pub(crate) fn is_endpoint(&self, address: SocketAddr) -> bool {
        self.endpoints.contains_key(&address)
    }

    /// The peer has proven to be at `from`. Returns where it was before, if it moved.
    pub(crate) fn prove(&mut self, at: PeerAt, from: SocketAddr) -> Option<Option<SocketAddr>> {
        let before = self.all.get_mut(&at)?.prove(from)?;
        self.change_endpoints(before.into_iter().collect(), vec![from]);
        Some(before)
    }

    /// A number that is another one whenever an endpoint of any peer has changed.
    pub(crate) const fn moves(&self) -> u64 {
        self.moves
    }

    fn change_endpoints(&mut self, old: Vec<SocketAddr>, new: Vec<SocketAddr>) {
        self.moves += 1;
        for address in new {
            *self.endpoints.entry(address).or_default() += 1;
        }
        for address in old {
            if let Some(count) = self.endpoints.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    self.endpoints.remove(&address);
                }
            }
        }
    }

    /// Whose static key this is, and of which epoch.
    pub(crate) fn by_key(&self, key: &[u8; 32]) -> Option<(PeerAt, u64)> {
        let at = self.by_key.get(key)?.first();
        let (epoch, _) = self.all.get(&at)?.config.keys.iter().rev().find(|(_, public)| public.as_bytes() == key)?;
        Some((at, *epoch))
    }

    /// The keys of a peer that nobody claimed before it, oldest first.
    pub(crate) fn keys(&self, at: PeerAt) -> impl DoubleEndedIterator<Item = (u64, &PublicKey)> {
        let keys = self.all.get(&at).map(|peer| peer.config.keys.iter()).unwrap_or_default();
        keys.map(|(epoch, key)| (*epoch, key))
            .filter(move |(_, key)| self.by_key.get(key.as_bytes()).is_some_and(|claims| claims.first() == at))
    }

    /// Replaces the table. Peers that stay keep their place and the endpoint they have proven.
    pub(crate) fn replace(&mut self, table: BTreeMap<P, PeerConfig>, now: Instant) {
        let gone: Vec<PeerAt> =
            self.by_id.iter().filter(|(id, _)| !table.contains_key(id)).map(|(_, at)| *at).collect();
        for at in gone {
            self.configure(at, PeerConfig::default());
            if let Some(peer) = self.all.remove(&at) {
                self.change_endpoints(peer.endpoints(), Vec::new());
                self.by_id.remove(&peer.id);
                self.gone.insert(at, peer.id);
            }
        }
        for (id, config) in table {
            let at = self.by_id.get(&id).copied().unwrap_or_else(|| {
                self.next += 1;
                let at = PeerAt(self.next);
                self.all.insert(at, Peer::new(id.clone(), self.shard.of_peer(&id), now));
                self.by_id.insert(id, at);
                at
            });
            self.configure(at, config);
        }
    }

    fn configure(&mut self, at: PeerAt, mut config: PeerConfig) {
        let Some(peer) = self.all.get_mut(&at) else { return };
        config.keys.retain(|epoch, key| {
            let low = is_low_order(key.as_bytes());
            if low {
                tracing::warn!(peer = ?peer.id, epoch, "A peer's public key is of low order: ignored");
            }
            !low
        });
        if peer.config == config {
            return;
        }
        let old_endpoints = peer.endpoints();
        peer.reseed(&config.endpoints);
        for prefix in &peer.config.allowed_ips {
            self.allowed_ips.remove(*prefix, at);
        }
        for prefix in &config.allowed_ips {
            self.allowed_ips.add(*prefix, at);
        }
        for old in peer.config.keys.values().filter(|key| !config.keys.values().any(|new| new == *key)) {
            if let Some(claims) = self.by_key.remove(old.as_bytes()).and_then(|claims| claims.without(at)) {
                self.by_key.insert(*old.as_bytes(), claims);
            }
        }
        for (epoch, key) in &config.keys {
            let claims = self.by_key.entry(*key.as_bytes()).or_insert_with(|| Claims::new(at));
            claims.add(at);
            if claims.first() != at {
                tracing::warn!(peer = ?peer.id, epoch, "Another peer has this public key already: ignored");
            }
        }
        peer.config = config;
        let new_endpoints = peer.endpoints();
        self.change_endpoints(old_endpoints, new_endpoints);
    }
}
