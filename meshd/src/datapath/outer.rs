//! The door to the underlay: the UDP port, what is sent by it and from which of our addresses.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use linux::fault::Fault;
use linux::udp::{Batch, Family, Sent, Udp};

use super::counters::Counters;
use super::source::Sources;

/// How long a socket rests that is said to be readable and cannot be read, so that it is not asked for ever. Decision
/// 0007.
pub(super) const READ_PAUSE: Duration = Duration::from_millis(10);

/// The UDP port.
pub(super) struct Outer {
    udp: Udp,
    sources: Sources,
    counters: Arc<Counters>,
    /// Until when a family rests, IPv4 first.
    resting: [Option<Instant>; 2],
}

impl Outer {
    pub(super) fn new(udp: Udp, counters: Arc<Counters>) -> Self {
        Self { udp, sources: Sources::default(), counters, resting: [None; 2] }
    }

    /// What to wait on for one family; nothing while it rests.
    pub(super) fn source(&self, family: Family) -> Option<BorrowedFd<'_>> {
        let [v4, v6] = self.resting;
        let resting = match family {
            Family::V4 => v4,
            Family::V6 => v6,
        };
        if resting.is_some() { None } else { self.udp.source(family) }
    }

    /// When the first rest ends.
    pub(super) fn rest_ends(&self) -> Option<Instant> {
        self.resting.into_iter().flatten().min()
    }

    /// Ends the rests that are over.
    pub(super) fn wake_up(&mut self, now: Instant) {
        for resting in &mut self.resting {
            resting.take_if(|end| *end <= now);
        }
    }

    /// Fills `batch` with what has arrived; whether there was anything.
    pub(super) fn receive(&mut self, family: Family, batch: &mut Batch, now: Instant) -> bool {
        match self.udp.recv(family, batch) {
            Ok(any) => any,
            Err(error) => {
                self.counters.udp_fault(Fault::of(&error));
                let [v4, v6] = &mut self.resting;
                *match family {
                    Family::V4 => v4,
                    Family::V6 => v6,
                } = Some(now + READ_PAUSE);
                false
            }
        }
    }

    /// The engine has accepted a datagram of `from` that was addressed to `ours`.
    pub(super) fn learn(&mut self, from: SocketAddr, ours: Option<IpAddr>) {
        if let Some(ours) = ours {
            self.sources.learn(from, ours);
        }
    }

    /// Sends one datagram from the address that `to` knows us by. `answers` is the datagram that is being answered, for
    /// whose sender nothing may be known yet.
    pub(super) fn send(&mut self, to: SocketAddr, datagram: &[u8], answers: Option<(SocketAddr, IpAddr)>) {
        let addressed = answers.and_then(|(from, ours)| (from == to).then_some(ours));
        let source = self.sources.of(to).or(addressed);
        match self.udp.send(to, source, datagram) {
            Ok(sent) => {
                self.counters.udp_sent.count(datagram.len());
                if sent == Sent::SourceGone {
                    self.sources.forget(to);
                }
            }
            Err(error) => self.counters.udp_fault(Fault::of(&error)),
        }
    }

    /// Counts a datagram that has arrived.
    pub(super) fn count_received(&self, length: usize) {
        self.counters.udp_received.count(length);
    }
}
