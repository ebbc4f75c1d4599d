//! What an engine is given that another one of the same port has to deal with.

use std::fmt::Debug;
use std::hash::Hash;
use std::net::SocketAddr;
use std::time::Instant;

use packet::IpPacket;

use super::Engine;
use super::inbound::Admitted;
use crate::drop::DropReason;
use crate::key::is_low_order;
use crate::message::Message;
use crate::peer::PeerAt;
use crate::shard::Foreign;

/// What waits for [`Engine::poll_foreign`] at most: all packets that may be held and all initiations that may be parked,
/// which a change of tables sends on at once.
const FOREIGN_MAX: usize = super::HELD.packets + crate::parked::PARKED_MAX;

impl<L: Clone + Ord + Debug, P: Clone + Ord + Hash + Debug> Engine<L, P> {
    /// Which other engine a packet from the TUN is for; `None` where it is this one, and where no peer is known for it. A
    /// packet that is given to the wrong engine waits there for another table, and is never sent by it.
    #[must_use]
    pub fn other_owner(&self, packet: &[u8]) -> Option<usize> {
        if !self.shard.has_others() {
            return None;
        }
        let destination = IpPacket::parse(packet).ok()?.destination();
        self.foreigner(self.peers.allowed_ips.owner(destination)?)
    }

    /// What another engine has to deal with, and which; call until `None`, as for transmits.
    pub fn poll_foreign(&mut self) -> Option<(usize, Foreign)> {
        self.foreign.pop_front()
    }

    /// Takes an initiation that another engine has admitted and handed on. What is not for this engine either, because
    /// the two have tables of different moments, is dropped: the sender tries again.
    ///
    /// # Errors
    /// Why it was dropped; counted already.
    pub fn take_initiation(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) -> Result<(), DropReason> {
        let result = match Message::parse(datagram) {
            Some(Message::Initiation { ephemeral }) if !is_low_order(&ephemeral) => {
                self.take_admitted(from, datagram, now)
            }
            _ => Err(DropReason::Malformed),
        };
        result.inspect_err(|reason| self.drops.count(*reason))
    }

    fn take_admitted(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) -> Result<(), DropReason> {
        let (local, epoch) = self.locals.recognise(datagram).0.ok_or(DropReason::BadMac1)?;
        let admitted = Admitted { local, epoch, is_loaded: false, is_handed_on: true };
        self.look_into(from, datagram, admitted, now)
    }

    /// Which other engine owns a peer.
    pub(super) fn foreigner(&self, at: PeerAt) -> Option<usize> {
        if !self.shard.has_others() {
            return None;
        }
        self.peers.peer(at).map(|peer| peer.shard).filter(|shard| *shard != self.shard.at())
    }

    /// Hands something on, as far as there is room.
    pub(super) fn hand_on(&mut self, to: usize, what: Foreign) -> Result<(), DropReason> {
        if self.foreign.len() >= FOREIGN_MAX {
            return Err(DropReason::QueueFull);
        }
        self.foreign.push_back((to, what));
        Ok(())
    }
}
