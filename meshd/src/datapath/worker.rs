//! The loop of the data thread: wait, feed the engine, send what it wants sent, again.

use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use identity::SpiffeId;
use linux::poll::{Waker, Woken};
use linux::udp::{Batch, Family};
use plan::PeerName;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use wg::{Engine, Handled};

use super::command::{Command, Event, SessionSnapshot, Snapshot};
use super::counters::Counters;
use super::inner::Inner;
use super::outer::{Outer, READ_PAUSE};

/// Packets read from the TUN in one turn, so that the other direction is never far. Decision 0007.
const BURST_MAX: usize = 64;

/// The shortest time between two turns that are made for the engine's timers alone, whatever it asks for.
const TIMER_PAUSE: Duration = Duration::from_millis(1);

/// First byte of a handshake initiation (WireGuard paper, section 5.4.2).
const INITIATION: u8 = 1;

/// Everything the data thread owns.
pub(super) struct Worker {
    engine: Engine<SpiffeId, PeerName>,
    inner: Inner,
    outer: Outer,
    batch: Batch,
    commands: Receiver<Command>,
    waker: Waker,
    events: mpsc::Sender<Event>,
    counters: Arc<Counters>,
    /// Whether control knows that the TUN device is gone.
    loss_told: bool,
    /// When the engine's timers last ran.
    timers_ran: Instant,
}

impl Worker {
    /// A worker that has not begun.
    pub(super) fn new(
        engine: Engine<SpiffeId, PeerName>,
        inner: Inner,
        outer: Outer,
        commands: Receiver<Command>,
        waker: Waker,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let counters = inner.counters();
        let timers_ran = Instant::now();
        let batch = Batch::new();
        Self { engine, inner, outer, batch, commands, waker, events, counters, loss_told: false, timers_ran }
    }

    /// Works until [`Command::Stop`], or until control is gone.
    pub(super) fn run(mut self) {
        loop {
            let woken = match self.wait() {
                Ok(woken) => woken,
                Err(error) => {
                    tracing::error!(%error, "The data thread cannot wait for packets and ends");
                    return;
                }
            };
            let now = Instant::now();
            if woken.called && self.obey(now).is_break() {
                self.flush(None);
                return;
            }
            self.run_timers(now);
            let [tun, v4, v6] = woken.ready;
            if v4 {
                self.receive(Family::V4, now);
            }
            if v6 {
                self.receive(Family::V6, now);
            }
            if tun {
                self.read_tun(now);
            }
            self.report();
        }
    }

    /// Waits for a packet at either door, a call, or the next deadline.
    fn wait(&self) -> std::io::Result<Woken<3>> {
        let timers = self.engine.poll_timeout().map(|due| due.max(self.timers_ran + TIMER_PAUSE));
        let untold = (!self.inner.is_open() && !self.loss_told).then(|| Instant::now() + READ_PAUSE);
        let deadline = [timers, self.outer.rest_ends(), untold].into_iter().flatten().min();
        let sources = [self.inner.source(), self.outer.source(Family::V4), self.outer.source(Family::V6)];
        self.waker.wait(sources, deadline)
    }

    /// Does what control has asked for.
    fn obey(&mut self, now: Instant) -> ControlFlow<()> {
        loop {
            match self.commands.try_recv() {
                Ok(Command::SetLocals(locals)) => self.engine.set_locals(locals, now),
                Ok(Command::SetPeers(peers)) => self.engine.set_peers(peers, now),
                Ok(Command::SetMtu(mtu)) => self.engine.set_mtu(mtu),
                Ok(Command::Greet { local, peer }) => {
                    if let Err(reason) = self.engine.greet(&local, &peer, now) {
                        tracing::debug!(%local, peer = %peer.identity, reason = reason.as_str(), "Cannot greet a peer");
                    }
                }
                // whoever asked may have gone meanwhile
                Ok(Command::Snapshot(reply)) => drop(reply.send(self.snapshot(now))),
                Ok(Command::OpenTun(reply)) => {
                    let opened = self.inner.reopen();
                    self.loss_told &= opened.is_err();
                    drop(reply.send(opened));
                }
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return ControlFlow::Break(()),
                Err(TryRecvError::Empty) => return ControlFlow::Continue(()),
            }
            self.flush(None);
        }
    }

    fn run_timers(&mut self, now: Instant) {
        self.outer.wake_up(now);
        if self.engine.poll_timeout().is_some_and(|due| due <= now) {
            self.timers_ran = now;
            self.engine.handle_timeout(now);
            self.flush(None);
        }
    }

    /// Opens one batch of datagrams of one family and hands on what was inside.
    fn receive(&mut self, family: Family, now: Instant) {
        if !self.outer.receive(family, &mut self.batch, now) {
            return;
        }
        for datagram in self.batch.datagrams() {
            self.outer.count_received(datagram.bytes.len());
            match self.engine.handle_datagram(datagram.from, datagram.bytes, now) {
                Ok(Handled::Opened { packet, .. }) => {
                    self.outer.learn(datagram.from, datagram.to);
                    self.inner.write(packet);
                }
                Ok(Handled::Consumed) if proves_sender(datagram.bytes) => {
                    self.outer.learn(datagram.from, datagram.to);
                }
                Ok(Handled::Consumed) => {}
                Err(reason) => {
                    tracing::trace!(endpoint = %datagram.from, reason = reason.as_str(), "Dropped a datagram")
                }
            }
            let answers = datagram.to.map(|ours| (datagram.from, ours));
            flush(&mut self.engine, &mut self.outer, answers);
        }
    }

    /// Seals what workloads send, at most [`BURST_MAX`] packets.
    fn read_tun(&mut self, now: Instant) {
        for _ in 0..BURST_MAX {
            let Some(packet) = self.inner.read() else { return };
            if let Err(reason) = self.engine.handle_packet(packet, now) {
                tracing::trace!(reason = reason.as_str(), "Dropped a packet");
            }
            flush(&mut self.engine, &mut self.outer, None);
        }
    }

    fn flush(&mut self, answers: Option<(SocketAddr, IpAddr)>) {
        flush(&mut self.engine, &mut self.outer, answers);
    }

    /// Tells control what happened in this turn.
    fn report(&mut self) {
        self.counters.show_engine(self.engine.counters());
        while let Some(event) = self.engine.poll_event() {
            if let Err(TrySendError::Full(_)) = self.events.try_send(Event::Engine(event)) {
                self.counters.event_lost();
            }
        }
        if !self.inner.is_open() && !self.loss_told {
            // a full channel: again at the next turn; a closed one: nobody will ever want to know
            self.loss_told = !matches!(self.events.try_send(Event::TunGone), Err(TrySendError::Full(_)));
        }
    }

    fn snapshot(&self, now: Instant) -> Snapshot {
        let sessions = self.engine.sessions(now).map(|session| SessionSnapshot {
            local: session.local.clone(),
            peer: session.peer.clone(),
            local_epoch: session.local_epoch,
            peer_epoch: session.peer_epoch,
            endpoint: session.endpoint,
            established: session.established,
            initiator: session.initiator,
            last_handshake: session.last_handshake.map(|then| now.saturating_duration_since(then)),
            tx_bytes: session.tx_bytes,
            rx_bytes: session.rx_bytes,
            tx_packets: session.tx_packets,
            rx_packets: session.rx_packets,
        });
        Snapshot { sessions: sessions.collect(), occupancy: self.engine.occupancy(), has_tun: self.inner.is_open() }
    }
}

/// Whether what the engine consumed tells who is at the endpoint it came from. An initiation does not: it may be one of a
/// key that nobody knows, kept unread, or one that was recorded and is played again from elsewhere.
fn proves_sender(datagram: &[u8]) -> bool {
    datagram.first() != Some(&INITIATION)
}

/// Sends everything that the engine wants sent.
fn flush(engine: &mut Engine<SpiffeId, PeerName>, outer: &mut Outer, answers: Option<(SocketAddr, IpAddr)>) {
    while let Some(transmit) = engine.poll_transmit() {
        outer.send(transmit.to, transmit.datagram, answers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_initiation_does_not_tell_who_is_at_its_endpoint() {
        assert!(!proves_sender(&[1, 0, 0, 0]));
        for kind in [2, 3, 4] {
            assert!(proves_sender(&[kind, 0, 0, 0]), "message type {kind}");
        }
    }
}
