//! To the network: which session a packet goes through, and what happens while there is none.

use std::fmt::Debug;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use packet::IpPacket;
use x25519_dalek::PublicKey;

use super::Engine;
use crate::drop::DropReason;
use crate::hash::scrub_stack;
use crate::index::Slot;
use crate::interrupted::{GREETED_AT_ONCE, GREETING_PAUSE};
use crate::message::{DATA_OVERHEAD, HEADROOM};
use crate::pair::Pair;
use crate::session::{Epochs, Session};
use crate::session_key::Renewal;
use crate::shard::Foreign;
use crate::transmit::TRANSMITS_MAX;
use crate::waiting::Entry;

/// The longest packet that fits into a UDP datagram over IPv4: 65,535 less the IP and UDP headers and our own.
const PACKET_MAX: usize = 65_535 - 20 - 8 - DATA_OVERHEAD;
/// Data is padded to a multiple of this (WireGuard paper §5.4.6).
const PADDING: usize = 16;

/// The way that the packets of one flow take right now; good for one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    pub(super) slot: Slot,
    endpoint: SocketAddr,
}

impl Path {
    /// Where the datagrams go.
    #[must_use]
    pub const fn endpoint(&self) -> SocketAddr {
        self.endpoint
    }
}

impl<L: Clone + Ord + Debug, P: Clone + Ord + Hash + Debug> Engine<L, P> {
    /// The way of a packet from the TUN, and of every other one with the same source and destination. `None` while there
    /// is no session for it: [`handle_packet`](Self::handle_packet) lets such packets wait, or says what is wrong with
    /// them.
    pub fn path(&mut self, packet: &[u8], now: Instant) -> Option<Path> {
        let pair = self.route(&IpPacket::parse(packet).ok()?).ok()?;
        let slot = self.best(pair, now)?;
        if self.is_outdated(slot) {
            self.start_handshakes(pair, now);
        }
        Some(Path { slot, endpoint: self.peers.peer(pair.peer)?.endpoint()? })
    }

    /// The length of the datagram that a packet of so many bytes becomes: header, the packet padded to a multiple of 16
    /// (never beyond the MTU), tag.
    #[must_use]
    pub const fn sealed_length(&self, length: usize) -> usize {
        let padded = length.next_multiple_of(PADDING);
        let padded = if padded > self.mtu { self.mtu } else { padded };
        DATA_OVERHEAD + if padded < length { length } else { padded }
    }

    /// Makes a datagram of a packet in place. `buffer[16..16 + length]` is the packet; `buffer[..n]` is the datagram
    /// afterwards, and n is [`sealed_length`](Self::sealed_length). Nothing is copied, allocated or queued.
    ///
    /// # Errors
    /// [`DropReason::KeyExpired`]: the path is over, and the buffer as it was; give the packet to
    /// [`handle_packet`](Self::handle_packet). [`DropReason::TooLong`]: the buffer is shorter than the datagram, or the
    /// datagram longer than UDP carries. Neither is counted.
    pub fn seal_in_place(
        &mut self,
        path: &Path,
        buffer: &mut [u8],
        length: usize,
        now: Instant,
    ) -> Result<usize, DropReason> {
        let end = self.sealed_length(length);
        let padding = (HEADROOM + length).min(end)..end - (DATA_OVERHEAD - HEADROOM);
        let message = buffer.get_mut(..end).filter(|_| length <= PACKET_MAX).ok_or(DropReason::TooLong)?;
        let session = self.sessions.get_mut(path.slot).ok_or(DropReason::KeyExpired)?;
        message.get_mut(padding).ok_or(DropReason::TooLong)?.fill(0);
        let renewal = session.seal(message, now)?;
        if session.take_armed() {
            self.sessions.schedule(path.slot);
        }
        if renewal != Renewal::No {
            self.renew(path.slot, renewal, now);
        }
        Ok(end)
    }

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
        if self.foreigner(pair.peer).is_some() {
            return Err(DropReason::NoPeer);
        }
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

    /// An address of ours went: whoever has a session learns where we are by an empty message, and not only by our next packet.
    /// Of more than [`TRANSMITS_MAX`] the others wait for that, or for whoever tells them our endpoints.
    pub fn handle_move(&mut self, now: Instant) {
        let live = self.sessions.iter().filter(|(_, session)| session.is_established(now)).map(|(slot, _)| slot);
        for slot in live.take(TRANSMITS_MAX).collect::<Vec<_>>() {
            self.send_keepalive(slot, now);
        }
    }

    /// Remembers a session that worked and ends because one of its two names goes, as opposed to a key of several.
    pub(super) fn note_interrupted(&mut self, slot: Slot, now: Instant) {
        let Some(pair) = self.sessions.get(slot).filter(|s| s.is_established(now)).map(Session::pair) else { return };
        if !self.has_keys(pair)
            && let Some((local, peer)) = self.names(pair)
        {
            self.interrupted.push(local, peer, now);
        }
    }

    /// Shakes hands with those whose names are back, some at a time.
    pub(super) fn greet_interrupted(&mut self, now: Instant) {
        self.interrupted.due = None;
        let mut greeted = 0;
        for pair in self.interrupted.current(now) {
            if greeted == GREETED_AT_ONCE {
                self.interrupted.due = Some(now + GREETING_PAUSE);
                break;
            }
            if self.greet(&pair.0, &pair.1, now).is_ok() {
                self.interrupted.remove(&pair);
                greeted += 1;
            }
        }
    }

    fn route_and_send(&mut self, bytes: &[u8], now: Instant) -> Result<(), DropReason> {
        let packet = IpPacket::parse(bytes).map_err(|_malformed| DropReason::Malformed)?;
        if packet.total_length() > PACKET_MAX {
            return Err(DropReason::TooLong);
        }
        match self.route(&packet) {
            Ok(pair) => self.send(pair, packet.bytes(), now),
            Err(reason) => {
                let entry = Entry { packet: packet.bytes().to_vec(), since: now, reason };
                self.held.push(packet.destination(), entry, &mut self.drops)?;
                self.wake_by(now + super::HELD.age);
                Ok(())
            }
        }
    }

    /// Whose packet this is and for whom.
    fn route(&self, packet: &IpPacket<'_>) -> Result<Pair, DropReason> {
        let local = self.locals.owner(packet.source()).ok_or(DropReason::NotLocalSource)?;
        let peer = self.peers.allowed_ips.owner(packet.destination()).ok_or(DropReason::NoPeer)?;
        let pair = Pair { local, peer };
        if self.foreigner(peer).is_some() {
            // the tables of two engines are of different moments
            return Err(DropReason::NoPeer);
        }
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
        self.wake_by(now + super::STAGED.age);
        self.start_handshakes(pair, now);
        Ok(())
    }

    /// Seals a packet into a datagram. [`DropReason::KeyExpired`] means: not with this session.
    pub(super) fn seal(&mut self, slot: Slot, packet: &[u8], now: Instant) -> Result<(), DropReason> {
        let session = self.sessions.get(slot).ok_or(DropReason::KeyExpired)?;
        let peer = self.peers.peer(session.pair().peer);
        let path = Path { slot, endpoint: peer.and_then(|peer| peer.endpoint()).ok_or(DropReason::NoEndpoint)? };
        let mut buffer = self.transmits.take(self.sealed_length(packet.len())).ok_or(DropReason::QueueFull)?;
        if let Some(place) = buffer.bytes().get_mut(HEADROOM..HEADROOM + packet.len()) {
            place.copy_from_slice(packet);
        }
        match self.seal_in_place(&path, buffer.bytes(), packet.len(), now) {
            Ok(length) => {
                self.transmits.push(path.endpoint, buffer, length);
                Ok(())
            }
            Err(reason) => {
                self.transmits.give_back(buffer);
                Err(reason)
            }
        }
    }

    /// Begins a handshake if the key should be renewed, and that may be now.
    pub(super) fn renew(&mut self, slot: Slot, renewal: Renewal, now: Instant) {
        let may = self.sessions.get(slot).is_some_and(|session| session.may_initiate(now));
        if may && (renewal == Renewal::Urgent || self.admission.admits_renewal(now)) {
            self.initiate(slot, now);
        }
    }

    /// Tells the other side that we are here: an empty data message.
    pub(super) fn send_keepalive(&mut self, slot: Slot, now: Instant) {
        if let Err(reason) = self.seal(slot, &[], now) {
            tracing::trace!(reason = reason.as_str(), "No keepalive");
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
            let slot = match self.find(pair, epochs) {
                Some(slot) => slot,
                None => {
                    let key = self.peer_keys(pair).find(|(epoch, _)| *epoch == epochs.peer).map(|(_, key)| *key);
                    let Some(Ok(session)) = key.map(|key| self.new_session(pair, epochs, &key, now)) else {
                        self.drops.count(DropReason::SessionLimit);
                        return;
                    };
                    self.sessions.insert(session)
                }
            };
            self.initiate(slot, now);
        }
    }

    /// Begins a handshake, if none is under way.
    pub(super) fn initiate(&mut self, slot: Slot, now: Instant) {
        self.initiate_now(slot, now);
        scrub_stack();
    }

    #[inline(never)]
    fn initiate_now(&mut self, slot: Slot, now: Instant) {
        let Some(attempts) = self.sessions.get(slot).filter(|session| session.may_initiate(now)).map(Session::attempts)
        else {
            return;
        };
        let pair = self.sessions.get(slot).map(Session::pair);
        let peer = pair.and_then(|pair| self.peers.peer(pair.peer));
        // a repeated initiation tries every endpoint in turn
        let Some(endpoint) = peer.and_then(|peer| peer.candidate(attempts)) else { return };
        let (index, stamp) = (self.sessions.free_index(&mut self.random), self.clock.stamp(now));
        self.admission.multiplied(2);
        let Some(session) = self.sessions.get_mut(slot) else { return };
        match self.transmits.take(0) {
            Some(mut buffer) => match session.initiate((index, &stamp), &mut self.random, buffer.bytes(), now) {
                Some(length) => self.transmits.push(endpoint, buffer, length),
                None => self.transmits.give_back(buffer),
            },
            None => session.postpone_initiation(now),
        }
        self.sessions.settle(slot);
    }

    /// Sends what waited for this pair's handshake.
    pub(super) fn release(&mut self, pair: Pair, now: Instant) {
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
            if let Some(owner) = self.other_owner(&entry.packet) {
                if let Err(reason) = self.hand_on(owner, Foreign::Packet(entry.packet)) {
                    self.drops.count(reason);
                }
                continue;
            }
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
