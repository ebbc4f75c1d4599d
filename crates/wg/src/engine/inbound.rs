//! From the network: who a datagram is for, whether it may cost us anything, and whether its inside belongs to its key.

use std::fmt::Debug;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Instant;

use packet::IpPacket;
use x25519_dalek::PublicKey;

use super::{DATAGRAM_MAX, Engine, Handled, STAMPS_MAX};
use crate::drop::DropReason;
use crate::event::Event;
use crate::hash::scrub_stack;
use crate::index::Slot;
use crate::key::is_low_order;
use crate::local::LocalAt;
use crate::message::{COOKIE_REPLY, HEADROOM, INITIATION, Message, TAG};
use crate::noise::Claim;
use crate::pair::Pair;
use crate::parked::{PARKED_AGE, ParkedInitiation};
use crate::peer::{PeerAt, Peers};
use crate::probe::Probe;
use crate::session::{Epochs, Session};
use crate::session_key::Renewal;
use crate::shard::Foreign;

/// What came of a datagram, before names are given.
enum Received {
    Consumed,
    Opened { packet: Range<usize>, pair: Pair },
}

/// An initiation that we look into: for which key it was made, and whether its sender had to prove its address.
pub(super) struct Admitted {
    pub(super) local: LocalAt,
    pub(super) epoch: u64,
    pub(super) is_loaded: bool,
    /// Whether another engine has it from there: it is not handed on again.
    pub(super) is_handed_on: bool,
}

impl<L: Clone + Ord + Debug, P: Clone + Ord + Hash + Debug> Engine<L, P> {
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
        if datagram.len() > DATAGRAM_MAX {
            self.drops.count(DropReason::TooLong);
            return Err(DropReason::TooLong);
        }
        let mut inner = std::mem::take(&mut self.inner);
        let copy = inner.get_mut(..datagram.len()).unwrap_or_default();
        copy.copy_from_slice(datagram);
        let received = self.receive(from, copy, now);
        self.inner = inner;
        match received {
            Ok(Received::Consumed) => Ok(Handled::Consumed),
            Ok(Received::Opened { packet, pair }) => {
                match (self.locals.local(pair.local), self.peers.peer(pair.peer), self.inner.get(packet)) {
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

    /// Takes a datagram from the UDP port, and opens it where it is. `Some`: there is a packet for a local workload at
    /// this range of it, whose source and destination belong to the two keys. `None`: it was for the engine itself.
    /// Nothing is copied or allocated.
    ///
    /// # Errors
    /// As [`handle_datagram`](Self::handle_datagram). What the datagram held may be lost then.
    pub fn open_in_place(
        &mut self,
        from: SocketAddr,
        datagram: &mut [u8],
        now: Instant,
    ) -> Result<Option<Range<usize>>, DropReason> {
        match self.receive(from, datagram, now) {
            Ok(Received::Consumed) => Ok(None),
            Ok(Received::Opened { packet, .. }) => Ok(Some(packet)),
            Err(reason) => {
                self.drops.count(reason);
                Err(reason)
            }
        }
    }

    fn receive(&mut self, from: SocketAddr, datagram: &mut [u8], now: Instant) -> Result<Received, DropReason> {
        if datagram.len() > DATAGRAM_MAX {
            return Err(DropReason::TooLong);
        }
        match Message::parse(datagram).ok_or(DropReason::Malformed)? {
            Message::Data { receiver, counter } => self.receive_data(from, datagram, (receiver, counter), now),
            Message::Initiation { ephemeral } => {
                let admitted = self.admit_initiation(from, datagram, &ephemeral, now)?;
                self.look_into(from, datagram, admitted, now).map(|()| Received::Consumed)
            }
            Message::Response { receiver, ephemeral } => {
                let slot = self.admit_response((receiver, &ephemeral), now)?;
                let result = self.receive_response(from, datagram, slot, now);
                self.admission.wipes();
                scrub_stack();
                result.map(|()| Received::Consumed)
            }
            Message::CookieReply { receiver } => {
                let session = self.sessions.by_index(receiver).and_then(|slot| self.sessions.get_mut(slot));
                session.ok_or(DropReason::UnknownIndex)?.accept_cookie(datagram, now)?;
                Ok(Received::Consumed)
            }
        }
    }

    fn receive_data(
        &mut self,
        from: SocketAddr,
        datagram: &mut [u8],
        header: (u32, u64),
        now: Instant,
    ) -> Result<Received, DropReason> {
        let slot = self.sessions.by_index(header.0).ok_or(DropReason::UnknownIndex)?;
        let session = self.sessions.get_mut(slot).ok_or(DropReason::UnknownIndex)?;
        let progress = session.open(header, datagram, now)?;
        let pair = session.pair();
        if session.take_armed() {
            self.sessions.schedule(slot);
        }
        // from here on the sender is known
        if progress.newest {
            self.locate(slot, pair.peer, from, now);
        }
        if progress.proves {
            self.sessions.settle(slot);
            self.completed(slot, from, now);
        }
        if progress.renewal != Renewal::No {
            self.renew(slot, progress.renewal, now);
        }
        let end = datagram.len() - TAG;
        let sealed = datagram.get(HEADROOM..end).unwrap_or_default();
        if sealed.is_empty() {
            return Ok(Received::Consumed);
        }
        let Ok(inner) = IpPacket::parse(sealed) else {
            return self.take_probe(slot, from, Probe::parse(sealed), now).map(|()| Received::Consumed);
        };
        self.check(slot, pair, (inner.source(), inner.destination()))?;
        let packet = HEADROOM..HEADROOM + inner.total_length();
        if let Some(session) = self.sessions.get_mut(slot) {
            session.traffic.rx_packets += 1;
        }
        Ok(Received::Opened { packet, pair })
    }

    /// Whether source and destination of an inner packet belong to the two keys of its session: both are looked up over all
    /// peers and identities, unless they are those of the packet before.
    fn check(&mut self, slot: Slot, pair: Pair, (source, destination): (IpAddr, IpAddr)) -> Result<(), DropReason> {
        let checked = Some((source, destination, self.tables));
        let session = self.sessions.get_mut(slot).ok_or(DropReason::UnknownIndex)?;
        if session.checked == checked {
            return Ok(());
        }
        if self.peers.allowed_ips.owner(source) != Some(pair.peer) {
            return Err(DropReason::SourceMismatch);
        }
        if self.locals.owner(destination) != Some(pair.local) {
            return Err(DropReason::NotOurDestination);
        }
        session.checked = checked;
        Ok(())
    }

    /// The peer is where its newest message came from.
    fn locate(&mut self, slot: Slot, peer: PeerAt, from: SocketAddr, now: Instant) {
        let located = |peers: &Peers<P>| Some((from, peers.moves()));
        let before = self.sessions.get(slot).and_then(|session| session.located);
        if before == located(&self.peers) {
            return;
        }
        self.prove_endpoint(peer, from, now);
        if let Some(session) = self.sessions.get_mut(slot) {
            session.located = located(&self.peers);
        }
    }

    /// Whether a response is asked for and may cost us curve operations. Touches no secret, so that nothing has to be
    /// overwritten after what is refused here.
    fn admit_response(&self, (receiver, ephemeral): (u32, &[u8; 32]), now: Instant) -> Result<Slot, DropReason> {
        let slot = self.sessions.by_index(receiver).ok_or(DropReason::UnknownIndex)?;
        let session = self.sessions.get(slot).ok_or(DropReason::UnknownIndex)?;
        let peer = self.peers.peer(session.pair().peer).ok_or(DropReason::UnknownIndex)?;
        if !peer.bad_responses.has(now) {
            return Err(DropReason::RateLimited);
        }
        if is_low_order(ephemeral) { Err(DropReason::LowOrderKey) } else { Ok(slot) }
    }

    #[inline(never)]
    fn receive_response(
        &mut self,
        from: SocketAddr,
        message: &[u8],
        slot: Slot,
        now: Instant,
    ) -> Result<(), DropReason> {
        let session = self.sessions.get_mut(slot).ok_or(DropReason::UnknownIndex)?;
        let (pair, epochs) = (session.pair(), session.epochs());
        let peer = self.peers.peer_mut(pair.peer).ok_or(DropReason::UnknownIndex)?;
        let gate = self.locals.local(pair.local).and_then(|local| local.keys.get(&epochs.local));
        let gate = gate.ok_or(DropReason::NoBinding)?;
        self.admission.multiplied(2);
        let agreed = (gate, peer.preshared_key(), gate.suite().min(peer.suite(epochs.peer)));
        if let Err(reason) = session.accept_response(agreed, message, &mut self.random, now) {
            peer.bad_responses.spend(now);
            return Err(reason);
        }
        self.sessions.settle(slot);
        self.prove_endpoint(pair.peer, from, now);
        self.send_keepalive(slot, now);
        self.completed(slot, from, now);
        Ok(())
    }

    /// For which of our keys an initiation was made, if we are to look into it: cheapest checks first, `mac1`, and under
    /// load the sender's cookie. Touches no key of ours but those of cookies, so that nothing has to be overwritten after
    /// what is refused here: that costs more than all of this.
    fn admit_initiation(
        &mut self,
        from: SocketAddr,
        message: &[u8],
        ephemeral: &[u8; 32],
        now: Instant,
    ) -> Result<Admitted, DropReason> {
        if is_low_order(ephemeral) {
            return Err(DropReason::LowOrderKey);
        }
        let is_known = self.peers.is_endpoint(from);
        if !self.admission.admits_trial(is_known, now) {
            return Err(DropReason::RateLimited);
        }
        let (found, tried) = self.locals.recognise(message);
        self.admission.tried(is_known, tried, now);
        let (local, epoch) = found.ok_or(DropReason::BadMac1)?;
        let is_loaded = self.admission.is_under_load(now);
        if is_loaded {
            self.demand_proof(from, message, (local, epoch), now)?;
        }
        Ok(Admitted { local, epoch, is_loaded, is_handed_on: false })
    }

    /// Opens an initiation that was admitted, and wipes what that leaves behind.
    pub(super) fn look_into(
        &mut self,
        from: SocketAddr,
        message: &[u8],
        admitted: Admitted,
        now: Instant,
    ) -> Result<(), DropReason> {
        let result = self.receive_initiation(from, message, admitted, now);
        self.admission.wipes();
        scrub_stack();
        result
    }

    /// An initiation that may cost us curve operations.
    #[inline(never)]
    fn receive_initiation(
        &mut self,
        from: SocketAddr,
        message: &[u8],
        Admitted { local, epoch: local_epoch, is_loaded, is_handed_on }: Admitted,
        now: Instant,
    ) -> Result<(), DropReason> {
        let gate = self.locals.local(local).and_then(|local| local.keys.get(&local_epoch));
        self.admission.multiplied(1);
        let claim = gate.ok_or(DropReason::BadMac1)?.claim(message)?;
        match self.peers.by_key(&claim.key) {
            Some((peer, peer_epoch)) if !self.locals.has_public_key(&claim.key) => {
                if let Some(owner) = self.foreigner(peer) {
                    let on = Foreign::Initiation { from, datagram: message.to_vec() };
                    return if is_handed_on { Err(DropReason::UnknownKey) } else { self.hand_on(owner, on) };
                }
                let epochs = Epochs { local: local_epoch, peer: peer_epoch };
                self.answer(from, claim, (Pair { local, peer }, epochs), now)
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
        if self.cookies.admits(from, message, now) {
            let admitted = self.admission.admits_source(from.ip(), now);
            return if admitted { Ok(()) } else { Err(DropReason::RateLimited) };
        }
        let gate = self.locals.local(local).and_then(|local| local.keys.get(&epoch)).ok_or(DropReason::BadMac1)?;
        let mut buffer = self.transmits.take(COOKIE_REPLY).ok_or(DropReason::QueueFull)?;
        let reply = self.cookies.reply(gate.macs(), from, message, &mut self.random, now);
        match (reply, buffer.bytes().first_chunk_mut()) {
            (Some(reply), Some(place)) => {
                *place = reply;
                self.admission.work.cookies += 1;
                self.transmits.push(from, buffer, COOKIE_REPLY);
            }
            _ => self.transmits.give_back(buffer),
        }
        Err(DropReason::UnderLoad)
    }

    /// An initiation that claims a key which a peer has: if the claim is true, the session answers, a new one if need be.
    fn answer(
        &mut self,
        from: SocketAddr,
        claim: Claim,
        (pair, epochs): (Pair, Epochs),
        now: Instant,
    ) -> Result<(), DropReason> {
        let has_allowance = self.peers.peer(pair.peer).is_some_and(|peer| peer.initiations.has(now));
        if !has_allowance {
            return Err(DropReason::RateLimited);
        }
        let peer_key = PublicKey::from(claim.key);
        let found = self.find(pair, epochs);
        // a session is kept only if the initiation was valid: its static key alone proves nothing
        let mut fresh = match found {
            Some(_) => None,
            None => Some(self.new_session(pair, epochs, &peer_key, now)?),
        };
        let index = self.sessions.free_index(&mut self.random);
        let session = found.and_then(|slot| self.sessions.get_mut(slot)).or(fresh.as_mut());
        let session = session.ok_or(DropReason::SessionLimit)?;
        let proven = claim.prove(session.shared())?;
        let gate = self.locals.local(pair.local).and_then(|local| local.keys.get(&epochs.local));
        let gate = gate.ok_or(DropReason::NoBinding)?;
        let keys = (*gate.public().as_bytes(), *peer_key.as_bytes());
        if self.stamps.get(&keys).is_some_and(|newest| proven.stamp <= *newest) {
            if session.is_quiet(now) {
                self.initiate_instead(found, fresh, now);
            }
            return Err(DropReason::HandshakeReplay);
        }
        let peer = self.peers.peer(pair.peer).ok_or(DropReason::UnknownKey)?;
        let mut buffer = self.transmits.take(0).ok_or(DropReason::QueueFull)?;
        let stamp = proven.stamp;
        self.admission.multiplied(3);
        let agreed = (peer.preshared_key(), gate.suite().min(peer.suite(epochs.peer)));
        match session.respond((proven, index), agreed, &mut self.random, buffer.bytes(), now) {
            Ok(length) => self.transmits.push(from, buffer, length),
            Err(reason) => {
                self.transmits.give_back(buffer);
                return Err(reason);
            }
        }
        if self.stamps.len() < STAMPS_MAX || self.stamps.contains_key(&keys) {
            self.stamps.insert(keys, stamp);
        }
        match (found, fresh) {
            (Some(slot), _) => self.sessions.settle(slot),
            (None, Some(fresh)) => drop(self.sessions.insert(fresh)),
            (None, None) => {}
        }
        if let Some(peer) = self.peers.peer_mut(pair.peer) {
            peer.initiations.spend(now);
        }
        Ok(())
    }

    /// An authentic initiation that is not newer than the last one was captured by somebody, or its sender's clock was put
    /// back and its sessions lost: we would refuse it for as long as its clock is behind. So we begin a handshake ourselves,
    /// where we know the peer to be, once, and only if we have not heard of it lately.
    fn initiate_instead(&mut self, found: Option<Slot>, fresh: Option<Session>, now: Instant) {
        let slot = found.or_else(|| fresh.map(|session| self.sessions.insert(session)));
        let Some(slot) = slot.filter(|slot| self.sessions.get(*slot).is_some_and(|session| session.may_initiate(now)))
        else {
            return;
        };
        self.initiate(slot, now);
        if let Some(session) = self.sessions.get_mut(slot) {
            session.try_once();
        }
        self.sessions.settle(slot);
    }

    pub(super) fn new_session(
        &mut self,
        pair: Pair,
        epochs: Epochs,
        peer_key: &PublicKey,
        now: Instant,
    ) -> Result<Session, DropReason> {
        if !self.sessions.has_room() {
            return Err(DropReason::SessionLimit);
        }
        let local = self.locals.local(pair.local).and_then(|local| local.keys.get(&epochs.local));
        let gate = local.ok_or(DropReason::NoBinding)?;
        self.admission.multiplied(1);
        Session::new(pair, epochs, gate, *peer_key, now).ok_or(DropReason::LowOrderKey)
    }

    pub(super) fn find(&self, pair: Pair, epochs: Epochs) -> Option<Slot> {
        self.sessions.of_pair(pair).find(|(_, session)| session.epochs() == epochs).map(|(slot, _)| slot)
    }

    fn park(&mut self, from: SocketAddr, message: &[u8], now: Instant) -> Result<(), DropReason> {
        let datagram: [u8; INITIATION] = message.try_into().map_err(|_length| DropReason::Malformed)?;
        if !self.parked.push(ParkedInitiation { from, datagram, since: now }) {
            return Err(DropReason::UnknownKey);
        }
        self.wake_by(now + PARKED_AGE);
        Ok(())
    }

    /// The news that a parked initiation waited for may have come.
    pub(super) fn retry_parked(&mut self, now: Instant) {
        for parked in self.parked.take_all() {
            self.admission.multiplied(1);
            let claimed = self.locals.recognise(&parked.datagram).0.and_then(|(local, epoch)| {
                let claim = self.locals.local(local)?.keys.get(&epoch)?.claim(&parked.datagram).ok()?;
                let (peer, peer_epoch) = self.peers.by_key(&claim.key)?;
                let pair = Pair { local, peer };
                let is_theirs = self.peer_keys(pair).any(|(_, key)| *key.as_bytes() == claim.key);
                is_theirs.then_some((claim, pair, Epochs { local: epoch, peer: peer_epoch }))
            });
            match claimed {
                Some((claim, pair, epochs)) => {
                    let answered = match self.foreigner(pair.peer) {
                        Some(owner) => {
                            let datagram = parked.datagram.to_vec();
                            self.hand_on(owner, Foreign::Initiation { from: parked.from, datagram })
                        }
                        None => self.answer(parked.from, claim, (pair, epochs), now),
                    };
                    if let Err(reason) = answered {
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
        self.release(pair, now);
    }

    /// Only authenticated messages come here: data that is newer than all before, and answers to our own initiations.
    /// An initiation does not count: a captured one could be replayed to a peer that has forgotten it.
    fn prove_endpoint(&mut self, at: PeerAt, from: SocketAddr, now: Instant) {
        if let Some(before) = self.peers.prove(at, from)
            && self.admission.tells_roaming(now)
            && let Some(peer) = self.peers.peer(at)
        {
            let peer = peer.id.clone();
            tracing::debug!(?peer, endpoint = %from, "Peer roamed");
            self.events.push(Event::PeerRoamed { peer, from: before, to: from });
        }
    }
}
