//! To the network: which session a packet goes through, and what happens while there is none.

use std::fmt::Debug;
use std::net::IpAddr;
use std::time::Instant;

use packet::IpPacket;
use x25519_dalek::PublicKey;

use super::Engine;
use crate::drop::DropReason;
use crate::index::{Pair, Slot};
use crate::message::DATA_OVERHEAD;
use crate::session::{Epochs, TICK};
use crate::waiting::Entry;

/// The longest packet that fits into a UDP datagram over IPv4: 65,535 less the IP and UDP headers and our own.
const PACKET_MAX: usize = 65_535 - 20 - 8 - DATA_OVERHEAD;
/// Data is padded to a multiple of this (WireGuard paper §5.4.6).
const PADDING: usize = 16;

impl<L: Clone + Ord + Debug, P: Clone + Ord + Debug> Engine<L, P> {
    /// Takes a packet from the TUN. It is sent, or it waits (for a handshake at most 90 s, for news of its destination
    /// at most 1 s; what is then dropped is counted).
    ///
    /// # Errors
    /// Why it was dropped at once; counted already.
    pub fn handle_packet(&mut self, packet: &[u8], now: Instant) -> Result<(), DropReason> {
        self.route_and_send(packet, now).inspect_err(|reason| self.drops.count(*reason))
    }

    /// Begins a handshake without a packet, if there is no session yet: after a restart, so that peers who still send
    /// under forgotten keys learn of it at once. The caller spreads its greetings.
    ///
    /// # Errors
    /// One of the two is unknown or has no key, or the peer has no endpoint; not counted as a drop.
    pub fn greet(&mut self, local: &L, peer: &P, now: Instant) -> Result<(), DropReason> {
        let local = self.locals.at(local).ok_or(DropReason::NotLocalSource)?;
        let pair = Pair { local, peer: self.peers.at(peer).ok_or(DropReason::NoPeer)? };
        if !self.has_keys(pair) {
            return Err(DropReason::NoBinding);
        }
        if self.peers.peer(pair.peer).and_then(|peer| peer.candidate(0)).is_none() {
            return Err(DropReason::NoEndpoint);
        }
        if self.best(pair, now).is_none() {
            self.start_handshakes(pair, now);
        }
        Ok(())
    }

    fn route_and_send(&mut self, bytes: &[u8], now: Instant) -> Result<(), DropReason> {
        let packet = IpPacket::parse(bytes).map_err(|_malformed| DropReason::Malformed)?;
        if packet.total_length() > PACKET_MAX {
            return Err(DropReason::TooLong);
        }
        match self.route(&packet) {
            Ok(pair) => self.send(pair, packet.bytes(), now),
            Err(reason) => {
                self.wake_by(now + TICK);
                let entry = Entry { packet: packet.bytes().to_vec(), since: now, reason };
                self.held.push(packet.destination(), entry, &mut self.drops)
            }
        }
    }

    /// Whose packet this is and for whom.
    fn route(&self, packet: &IpPacket<'_>) -> Result<Pair, DropReason> {
        let local = self.locals.owner(packet.source()).ok_or(DropReason::NotLocalSource)?;
        let peer = self.peers.allowed_ips.owner(packet.destination()).ok_or(DropReason::NoPeer)?;
        let pair = Pair { local, peer };
        if self.has_keys(pair) { Ok(pair) } else { Err(DropReason::NoBinding) }
    }

    pub(super) fn has_keys(&self, pair: Pair) -> bool {
        self.locals.local(pair.local).is_some_and(|local| !local.keys.is_empty())
            && self.peer_keys(pair).next().is_some()
    }

    /// The peer's keys that count, oldest first: not our own, and not claimed by another peer before.
    pub(super) fn peer_keys(&self, pair: Pair) -> impl DoubleEndedIterator<Item = (u64, &PublicKey)> {
        self.peers.keys(pair.peer).filter(|(_, key)| !self.locals.has_public_key(key.as_bytes()))
    }

    /// The newest session of a pair that has a key to send with.
    pub(super) fn best(&self, pair: Pair, now: Instant) -> Option<Slot> {
        self.sessions
            .of_pair(pair)
            .filter(|(_, session)| session.is_established(now))
            .max_by_key(|(_, session)| session.epochs().rank())
            .map(|(slot, _)| slot)
    }

    fn send(&mut self, pair: Pair, packet: &[u8], now: Instant) -> Result<(), DropReason> {
        if let Some(slot) = self.best(pair, now) {
            match self.seal(slot, packet, now) {
                Err(DropReason::KeyExpired) => {}
                result => {
                    if self.is_outdated(slot) {
                        self.start_handshakes(pair, now);
                    }
                    return result;
                }
            }
        }
        let reason = match self.peers.peer(pair.peer).and_then(|peer| peer.candidate(0)) {
            Some(_) => DropReason::HandshakeTimeout,
            None => DropReason::NoEndpoint,
        };
        let entry = Entry { packet: packet.to_vec(), since: now, reason };
        self.staged.push(pair, entry, &mut self.drops)?;
        self.wake_by(now + TICK);
        self.start_handshakes(pair, now);
        Ok(())
    }

    /// What a malicious peer can do and we never do: seals any bytes with the first session.
    #[cfg(test)]
    pub(crate) fn seal_anything(&mut self, bytes: &[u8], now: Instant) -> Result<(), DropReason> {
        let slot = self.sessions.iter().next().map(|(slot, _)| slot).ok_or(DropReason::KeyExpired)?;
        self.seal(slot, bytes, now)
    }

    /// Seals a packet into a datagram. [`DropReason::KeyExpired`] means: not with this session.
    fn seal(&mut self, slot: Slot, packet: &[u8], now: Instant) -> Result<(), DropReason> {
        self.tick_if_stale(slot, now);
        let session = self.sessions.get_mut(slot).ok_or(DropReason::KeyExpired)?;
        let peer = session.pair().peer;
        let endpoint = self.peers.peer(peer).and_then(|peer| peer.endpoint()).ok_or(DropReason::NoEndpoint)?;
        // padding hides the length, but does not make a packet longer than the path carries
        let length = packet.len().next_multiple_of(PADDING).min(self.mtu).max(packet.len());
        self.padded.clear();
        self.padded.extend_from_slice(packet);
        self.padded.resize(length, 0);
        let mut buffer = self.transmits.take(length + DATA_OVERHEAD).ok_or(DropReason::QueueFull)?;
        match session.seal(&self.padded, buffer.bytes(), &mut self.random, now) {
            Ok(sealed) => {
                if sealed.length > 0 {
                    self.transmits.push(endpoint, buffer, sealed.length);
                } else {
                    self.transmits.give_back(buffer);
                }
                if sealed.rekey {
                    self.initiate(slot, now);
                }
                Ok(())
            }
            Err(reason) => {
                self.transmits.give_back(buffer);
                Err(reason)
            }
        }
    }

    /// Whether both or either side has a newer key than this session's.
    fn is_outdated(&self, slot: Slot) -> bool {
        let Some(session) = self.sessions.get(slot) else { return false };
        self.newest(session.pair()).is_some_and(|newest| newest != session.epochs())
    }

    fn newest(&self, pair: Pair) -> Option<Epochs> {
        let (local, _) = self.locals.local(pair.local)?.keys.last_key_value()?;
        let (peer, _) = self.peer_keys(pair).next_back()?;
        Some(Epochs { local: *local, peer })
    }

    fn oldest(&self, pair: Pair) -> Option<Epochs> {
        let (local, _) = self.locals.local(pair.local)?.keys.first_key_value()?;
        let (peer, _) = self.peer_keys(pair).next()?;
        Some(Epochs { local: *local, peer })
    }

    /// Begins a handshake between the newest keys. Where no session works yet also between the oldest: during rotation
    /// the other side may not have heard of our newest key, and a first packet should not wait for that.
    pub(super) fn start_handshakes(&mut self, pair: Pair, now: Instant) {
        let newest = self.newest(pair);
        let oldest = self.oldest(pair).filter(|oldest| Some(*oldest) != newest && self.best(pair, now).is_none());
        for epochs in newest.into_iter().chain(oldest) {
            if self.peers.peer(pair.peer).and_then(|peer| peer.candidate(0)).is_none() {
                return;
            }
            if let Some(slot) = self.find(pair, epochs) {
                self.tick_if_stale(slot, now);
            }
            let slot = match self.find(pair, epochs) {
                Some(slot) => slot,
                None => {
                    let key = self.peer_keys(pair).find(|(epoch, _)| *epoch == epochs.peer).map(|(_, key)| *key);
                    let Some(Ok((slot, session))) = key.map(|key| self.new_session(pair, epochs, &key, now)) else {
                        self.drops.count(DropReason::SessionLimit);
                        return;
                    };
                    self.sessions.insert(slot, session);
                    slot
                }
            };
            self.initiate(slot, now);
        }
    }

    fn initiate(&mut self, slot: Slot, now: Instant) {
        let Some(session) = self.sessions.get_mut(slot) else { return };
        let candidate = self.peers.peer(session.pair().peer).and_then(|peer| peer.candidate(session.attempts()));
        let (Some(endpoint), Some(mut buffer)) = (candidate, self.transmits.take(0)) else { return };
        match session.initiate(buffer.bytes(), &mut self.random, now) {
            Some(length) => self.transmits.push(endpoint, buffer, length),
            None => self.transmits.give_back(buffer),
        }
        self.wake_by(now + TICK);
    }

    /// Sends what waited for this pair's handshake, first what `Tunn` kept itself.
    pub(super) fn release(&mut self, slot: Slot, pair: Pair, now: Instant) {
        while let Some(session) = self.sessions.get_mut(slot).filter(|session| session.has_kept()) {
            // what it kept is one of our padded packets, or nothing: a whole datagram must fit
            let Some(mut buffer) = self.transmits.take(super::DATAGRAM_MAX + DATA_OVERHEAD) else { break };
            let Some(length) = session.flush(buffer.bytes(), &mut self.random, now) else {
                self.transmits.give_back(buffer);
                break;
            };
            match self.peers.peer(pair.peer).and_then(|peer| peer.endpoint()) {
                Some(endpoint) => self.transmits.push(endpoint, buffer, length),
                None => self.transmits.give_back(buffer),
            }
        }
        while self.staged.has(pair) {
            let Some(best) = self.best(pair, now) else { return };
            let Some(entry) = self.staged.pop(pair) else { return };
            if let Err(reason) = self.seal(best, &entry.packet, now) {
                self.drops.count(reason);
            }
        }
    }

    /// The news that a held packet waited for may have come. What still waits keeps its age.
    pub(super) fn retry_held(&mut self, now: Instant) {
        for (destination, mut entry) in self.held.take_all() {
            let pair = IpPacket::parse(&entry.packet).map_err(|_malformed| DropReason::Malformed);
            match pair.and_then(|packet| self.route(&packet)) {
                Ok(pair) => {
                    if let Err(reason) = self.send(pair, &entry.packet, now) {
                        self.drops.count(reason);
                    }
                }
                Err(reason) => {
                    entry.reason = reason;
                    self.hold_again(destination, entry);
                }
            }
        }
    }

    fn hold_again(&mut self, destination: IpAddr, entry: Entry) {
        if let Err(reason) = self.held.push(destination, entry, &mut self.drops) {
            self.drops.count(reason);
        }
    }
}
