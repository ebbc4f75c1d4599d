//! From the network: who a datagram is for, whether it may cost us anything, and whether its inside belongs to its key.

use std::fmt::Debug;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use packet::IpPacket;
use x25519_dalek::PublicKey;

use super::{DATAGRAM_MAX, Engine, Handled};
use crate::drop::DropReason;
use crate::event::Event;
use crate::index::{Pair, Slot};
use crate::key::is_low_order;
use crate::local::LocalAt;
use crate::message::{COOKIE_REPLY, INITIATION, Message};
use crate::parked::ParkedInitiation;
use crate::peer::PeerAt;
use crate::session::{Epochs, Session, TICK};

/// What came of a datagram, before names are given.
enum Received {
    Consumed,
    Opened { length: usize, pair: Pair },
}

impl<L: Clone + Ord + Debug, P: Clone + Ord + Debug> Engine<L, P> {
    /// Takes a datagram from the UDP port.
    ///
    /// # Errors
    /// Why it was dropped; counted already. Nothing is ever sent in answer to what does not authenticate, but a cookie
    /// under load.
    pub fn handle_datagram(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Result<Handled<'_, L, P>, DropReason> {
        match self.receive(from, datagram, now) {
            Ok(Received::Consumed) => Ok(Handled::Consumed),
            Ok(Received::Opened { length, pair }) => {
                match (self.locals.local(pair.local), self.peers.peer(pair.peer), self.inner.get(..length)) {
                    (Some(local), Some(peer), Some(packet)) => {
                        Ok(Handled::Opened { packet, local: &local.id, peer: &peer.id })
                    }
                    _ => Ok(Handled::Consumed),
                }
            }
            Err(reason) => {
                self.drops.count(reason);
                Err(reason)
            }
        }
    }

    fn receive(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) -> Result<Received, DropReason> {
        if datagram.len() > DATAGRAM_MAX {
            return Err(DropReason::TooLong);
        }
        match Message::parse(datagram).ok_or(DropReason::Malformed)? {
            Message::Initiation { ephemeral } => {
                self.receive_initiation(from, datagram, &ephemeral, now)?;
                Ok(Received::Consumed)
            }
            Message::Response { receiver, ephemeral } => {
                self.receive_response(from, datagram, (receiver, &ephemeral), now)?;
                Ok(Received::Consumed)
            }
            Message::CookieReply { receiver } => {
                let session = self.sessions.get_mut(Slot::of(receiver)).ok_or(DropReason::UnknownIndex)?;
                session.accept_cookie(datagram, &mut self.inner)?;
                Ok(Received::Consumed)
            }
            Message::Data { receiver, counter } => self.receive_data(from, datagram, (receiver, counter), now),
        }
    }

    fn receive_data(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        (receiver, counter): (u32, u64),
        now: Instant,
    ) -> Result<Received, DropReason> {
        let slot = Slot::of(receiver);
        self.tick_if_stale(slot, now);
        let session = self.sessions.get_mut(slot).ok_or(DropReason::UnknownIndex)?;
        let opened = session.open(datagram, (receiver, counter), &mut self.inner, now)?;
        let pair = session.pair();
        // from here on the sender is known
        if opened.progress.newest {
            self.prove_endpoint(pair.peer, from);
        }
        if opened.progress.proves {
            self.completed(slot, from, now);
        }
        let length = opened.length?;
        if length == 0 {
            return Ok(Received::Consumed);
        }
        let inner = IpPacket::parse(self.inner.get(..length).unwrap_or_default())
            .map_err(|_malformed| DropReason::Malformed)?;
        if self.peers.allowed_ips.owner(inner.source()) != Some(pair.peer) {
            return Err(DropReason::SourceMismatch);
        }
        if self.locals.owner(inner.destination()) != Some(pair.local) {
            return Err(DropReason::NotOurDestination);
        }
        let length = inner.total_length();
        if let Some(session) = self.sessions.get_mut(slot) {
            session.traffic.rx_packets += 1;
        }
        Ok(Received::Opened { length, pair })
    }

    fn receive_response(
        &mut self,
        from: SocketAddr,
        message: &[u8],
        (receiver, ephemeral): (u32, &[u8; 32]),
        now: Instant,
    ) -> Result<(), DropReason> {
        let slot = Slot::of(receiver);
        self.tick_if_stale(slot, now);
        let session = self.sessions.get_mut(slot).ok_or(DropReason::UnknownIndex)?;
        let peer = self.peers.peer_mut(session.pair().peer).ok_or(DropReason::UnknownIndex)?;
        if !peer.bad_responses.has(now) {
            return Err(DropReason::RateLimited);
        }
        if is_low_order(ephemeral) {
            return Err(DropReason::LowOrderKey);
        }
        let mut buffer = self.transmits.take(0).ok_or(DropReason::QueueFull)?;
        let keepalive = match session.accept_response(message, buffer.bytes(), now) {
            Ok(keepalive) => keepalive,
            Err(reason) => {
                self.transmits.give_back(buffer);
                peer.bad_responses.spend(now);
                return Err(reason);
            }
        };
        let pair = session.pair();
        self.prove_endpoint(pair.peer, from);
        self.transmits.push(from, buffer, keepalive);
        self.completed(slot, from, now);
        Ok(())
    }

    /// An initiation, cheapest checks first: `mac1`, load, and only then curve operations.
    fn receive_initiation(
        &mut self,
        from: SocketAddr,
        message: &[u8],
        ephemeral: &[u8; 32],
        now: Instant,
    ) -> Result<(), DropReason> {
        if is_low_order(ephemeral) {
            return Err(DropReason::LowOrderKey);
        }
        if !self.admission.admits_trial(self.locals.key_count(), now) {
            return Err(DropReason::RateLimited);
        }
        let (local, local_epoch) = self.locals.recognise(message).ok_or(DropReason::BadMac1)?;
        let is_loaded = self.admission.is_under_load(now);
        if is_loaded {
            self.demand_proof(from, message, (local, local_epoch), now)?;
        }
        let gate = self.locals.local(local).and_then(|local| local.keys.get(&local_epoch));
        let claimed = gate.and_then(|gate| gate.claimed_key(message)).ok_or(DropReason::HandshakeInvalid)?;
        match self.peers.by_key(&claimed) {
            Some((peer, peer_epoch)) if !self.locals.has_public_key(&claimed) => {
                let epochs = Epochs { local: local_epoch, peer: peer_epoch };
                self.answer(from, message, (Pair { local, peer }, epochs, &PublicKey::from(claimed)), now)
            }
            None if !is_loaded => self.park(from, message, now),
            Some(_) | None => Err(DropReason::UnknownKey),
        }
    }

    /// Under load: the sender must have a cookie for its address and port, and may not come too often.
    fn demand_proof(
        &mut self,
        from: SocketAddr,
        message: &[u8],
        (local, epoch): (LocalAt, u64),
        now: Instant,
    ) -> Result<(), DropReason> {
        let source = self.cookie_source(from);
        let gate = self.locals.local(local).and_then(|local| local.keys.get(&epoch)).ok_or(DropReason::BadMac1)?;
        let mut buffer = self.transmits.take(COOKIE_REPLY).ok_or(DropReason::QueueFull)?;
        if let Some(length) = gate.demand_cookie(source, message, buffer.bytes()) {
            self.transmits.push(from, buffer, length);
            return Err(DropReason::UnderLoad);
        }
        self.transmits.give_back(buffer);
        if self.admission.admits_source(from.ip(), now) { Ok(()) } else { Err(DropReason::RateLimited) }
    }

    /// boringtun binds cookies to an IP address only (B7). This address stands for address and port together.
    fn cookie_source(&self, from: SocketAddr) -> IpAddr {
        let halves = [("cookie", 0, from), ("cookie", 1, from)].map(|half| self.random.digest(&half));
        let [high, low] = halves.map(u128::from);
        IpAddr::V6(Ipv6Addr::from_bits(high << 64 | low))
    }

    /// An initiation by a key that a peer has: the session answers, a new one if need be.
    fn answer(
        &mut self,
        from: SocketAddr,
        message: &[u8],
        (pair, epochs, peer_key): (Pair, Epochs, &PublicKey),
        now: Instant,
    ) -> Result<(), DropReason> {
        let has_allowance = self.peers.peer_mut(pair.peer).is_some_and(|peer| peer.initiations.has(now));
        if !has_allowance {
            return Err(DropReason::RateLimited);
        }
        if let Some(slot) = self.find(pair, epochs) {
            self.tick_if_stale(slot, now);
        }
        let mut buffer = self.transmits.take(0).ok_or(DropReason::QueueFull)?;
        let result = if let Some(session) = self.find(pair, epochs).and_then(|slot| self.sessions.get_mut(slot)) {
            session.accept_initiation(message, buffer.bytes(), now)
        } else {
            // a session is kept only if the initiation was valid: its static key alone proves nothing
            self.new_session(pair, epochs, peer_key, now).and_then(|(slot, mut session)| {
                let length = session.accept_initiation(message, buffer.bytes(), now)?;
                self.sessions.insert(slot, session);
                Ok(length)
            })
        };
        match result {
            Ok(length) => {
                self.transmits.push(from, buffer, length);
                if let Some(peer) = self.peers.peer_mut(pair.peer) {
                    peer.initiations.spend(now);
                }
                self.wake_by(now + TICK);
                Ok(())
            }
            Err(reason) => {
                self.transmits.give_back(buffer);
                Err(reason)
            }
        }
    }

    pub(super) fn new_session(
        &mut self,
        pair: Pair,
        epochs: Epochs,
        peer_key: &PublicKey,
        now: Instant,
    ) -> Result<(Slot, Session), DropReason> {
        let slot = self.sessions.free_slot(&mut self.random).ok_or(DropReason::SessionLimit)?;
        let local = self.locals.local(pair.local).and_then(|local| local.keys.get(&epochs.local));
        let gate = local.ok_or(DropReason::NoBinding)?;
        Ok((slot, Session::new(pair, epochs, gate, *peer_key, slot, now)))
    }

    pub(super) fn find(&self, pair: Pair, epochs: Epochs) -> Option<Slot> {
        self.sessions.of_pair(pair).find(|(_, session)| session.epochs() == epochs).map(|(slot, _)| slot)
    }

    fn park(&mut self, from: SocketAddr, message: &[u8], now: Instant) -> Result<(), DropReason> {
        let datagram: [u8; INITIATION] = message.try_into().map_err(|_length| DropReason::Malformed)?;
        if !self.parked.push(ParkedInitiation { from, datagram, since: now }) {
            return Err(DropReason::UnknownKey);
        }
        self.wake_by(now + TICK);
        Ok(())
    }

    /// The news that a parked initiation waited for may have come.
    pub(super) fn retry_parked(&mut self, now: Instant) {
        for parked in self.parked.take_all() {
            let claimed = self.locals.recognise(&parked.datagram).and_then(|(local, epoch)| {
                let gate = self.locals.local(local)?.keys.get(&epoch)?;
                let (peer, peer_epoch) = self.peers.by_key(&gate.claimed_key(&parked.datagram)?)?;
                Some((Pair { local, peer }, Epochs { local: epoch, peer: peer_epoch }))
            });
            let key = claimed.and_then(|(pair, epochs)| {
                self.peer_keys(pair).find(|(epoch, _)| *epoch == epochs.peer).map(|(_, key)| (pair, epochs, *key))
            });
            match key {
                Some((pair, epochs, key)) => {
                    if let Err(reason) = self.answer(parked.from, &parked.datagram, (pair, epochs, &key), now) {
                        self.drops.count(reason);
                    }
                }
                // there was room for it before
                None => drop(self.parked.push(parked)),
            }
        }
    }

    /// A key of this session is proven on both sides: tell, and send what waited for it.
    fn completed(&mut self, slot: Slot, from: SocketAddr, now: Instant) {
        let Some(session) = self.sessions.get(slot) else { return };
        let (pair, epochs, initiator) = (session.pair(), session.epochs(), session.is_initiator());
        if let Some((local, peer)) = self.names(pair) {
            tracing::debug!(?local, ?peer, endpoint = %from, initiator, "Handshake completed");
            self.events.push(Event::HandshakeCompleted {
                local,
                peer,
                local_epoch: epochs.local,
                peer_epoch: epochs.peer,
                endpoint: from,
                initiator,
            });
        }
        self.wake_by(now + TICK);
        self.release(slot, pair, now);
    }

    /// Only authenticated messages come here: data that is newer than all before, and answers to our own initiations.
    /// An initiation does not count: a captured one could be replayed to a peer that has forgotten it.
    fn prove_endpoint(&mut self, at: PeerAt, from: SocketAddr) {
        let Some(peer) = self.peers.peer_mut(at) else { return };
        if let Some(before) = peer.prove(from) {
            let peer = peer.id.clone();
            tracing::debug!(?peer, endpoint = %from, "Peer roamed");
            self.events.push(Event::PeerRoamed { peer, from: before, to: from });
        }
    }
}
