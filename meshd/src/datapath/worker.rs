//! The loop of a data thread: wait, feed the engine, send what it wants sent, again.

use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use identity::SpiffeId;
use linux::poll::{Poll, Woken};
use linux::udp::{Batch, Family, MESSAGES_MAX};
use packet::Offload;
use plan::PeerName;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use wg::{Engine, Foreign};

use super::command::{Command, Event, Offloads, Order, SessionSnapshot, Snapshot};
use super::counters::Counters;
use super::exchange::{Exchange, Handed};
use super::inbound;
use super::inner::Inner;
use super::outbound::Outbound;
use super::outbox::Heading;
use super::outer::{Outer, READ_PAUSE};
use super::train::Train;

/// Packets read from the TUN in one turn, so that the other direction is never far. Decision 0007.
const BURST_MAX: usize = 64;

/// Bytes read from the TUN after which a turn reads no more: four super packets. Decision 0007.
const BURST_BYTES: usize = 256 << 10;

/// Traffic class of handshake messages: AF41, as kernel WireGuard's (`HANDSHAKE_DSCP` of drivers/net/wireguard/messages.h).
const HANDSHAKE_CLASS: u8 = 0x88;

/// The shortest time between two turns that are made for the engine's timers alone, whatever it asks for.
const TIMER_PAUSE: Duration = Duration::from_millis(1);

/// How long the thread looks for the next packet before it sleeps, while traffic is brisk: about what it takes to wake a
/// processor and a thread. Decision 0005.
const VIGIL_MAX: Duration = Duration::from_micros(50);

/// Traffic is brisk while no wait is longer. Where two sides that sleep answer each other, a wait is two such wake-ups.
const BRISK_WAIT: Duration = Duration::from_micros(150);

/// After so many turns in a row that found nothing but datagrams to refuse the thread lets some gather.
const REFUSALS_MAX: u8 = 8;

/// For how long, at least: as much again, the kernel's own slack for such a sleep (`PR_SET_TIMERSLACK` of prctl(2)), is rather what it
/// takes. Decision 0005.
const GATHER: Duration = Duration::from_micros(50);

/// What the thread waits for: the TUN queue, UDP over IPv4, UDP over IPv6.
pub(super) const SOURCES: usize = 3;

/// Where the TUN queue is among them.
const TUN: usize = 0;

/// Everything a data thread owns.
pub(super) struct Worker {
    engine: Engine<SpiffeId, PeerName>,
    inner: Inner,
    outer: Outer,
    outbound: Outbound,
    batch: Batch,
    commands: Receiver<Command>,
    poll: Poll<SOURCES>,
    exchange: Exchange,
    events: mpsc::Sender<Event>,
    counters: Arc<Counters>,
    /// Whether control knows that the TUN device is gone.
    loss_told: bool,
    /// When the engine's timers last ran.
    timers_ran: Instant,
    /// Whether the last wait was shorter than [`BRISK_WAIT`].
    is_brisk: bool,
    /// Whether the last turn found no more than one packet at the TUN.
    is_single: bool,
    /// Turns in a row in which datagrams came and all were refused.
    refusals: u8,
    /// Whether the last receive call found less than it has room for: there was no more then.
    is_drained: bool,
}

impl Worker {
    /// A worker that has not begun.
    pub(super) fn new(
        engine: Engine<SpiffeId, PeerName>,
        (inner, outer): (Inner, Outer),
        outbound: Outbound,
        commands: Receiver<Command>,
        (poll, exchange): (Poll<SOURCES>, Exchange),
        events: mpsc::Sender<Event>,
    ) -> Self {
        Self {
            engine,
            counters: inner.counters(),
            inner,
            outer,
            outbound,
            batch: Batch::new(),
            commands,
            poll,
            exchange,
            events,
            loss_told: false,
            timers_ran: Instant::now(),
            is_brisk: false,
            is_single: true,
            refusals: 0,
            is_drained: true,
        }
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
            if woken.called {
                self.take_handed(now);
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
                self.refusals = 0;
                self.read_tun(now);
            }
            self.hand_on(None);
            self.exchange.wake();
            self.report();
        }
    }

    /// Waits for a packet at either door, a call, or the next deadline.
    fn wait(&mut self) -> std::io::Result<Woken<SOURCES>> {
        let timers = self.engine.poll_timeout().map(|due| due.max(self.timers_ran + TIMER_PAUSE));
        let begun = Instant::now();
        let untold = (!self.inner.is_open() && !self.loss_told).then(|| begun + READ_PAUSE);
        let deadline = [timers, self.outer.rest_ends(), untold].into_iter().flatten().min();
        let sources = [self.inner.source(), self.outer.source(Family::V4), self.outer.source(Family::V6)];
        for (at, source) in sources.into_iter().enumerate() {
            self.poll.watch(at, source)?;
        }
        if self.is_drained && self.refusals >= REFUSALS_MAX {
            // one look at many costs less than many looks, and nobody who is known waits for this one
            thread::sleep(GATHER);
        }
        let woken = match self.keep_vigil(begun)? {
            Some(woken) => woken,
            None => self.poll.wait(deadline)?,
        };
        self.is_brisk = begun.elapsed() < BRISK_WAIT;
        Ok(woken)
    }

    /// Looks for packets without sleeping while they come so fast that waking up again would take as long.
    fn keep_vigil(&mut self, begun: Instant) -> std::io::Result<Option<Woken<SOURCES>>> {
        while self.is_brisk && begun.elapsed() < VIGIL_MAX {
            let woken = self.poll.ready()?;
            if woken.called || woken.ready.contains(&true) {
                return Ok(Some(woken));
            }
            // whoever else wants this processor gets it
            thread::yield_now();
        }
        Ok(None)
    }

    /// Does what control has asked for.
    fn obey(&mut self, now: Instant) -> ControlFlow<()> {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Order(order)) => self.follow(order, now),
                // whoever asked may have gone meanwhile
                Ok(Command::Snapshot(reply)) => drop(reply.send(self.snapshot(now))),
                Ok(Command::OpenTun(reply)) => {
                    let was_open = self.inner.is_open();
                    let opened = self.inner.reopen();
                    if !was_open {
                        // the new queue may have the old one's number
                        let _unwatched = self.poll.watch(TUN, None);
                    }
                    self.loss_told &= opened.is_err();
                    drop(reply.send(opened));
                }
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return ControlFlow::Break(()),
                Err(TryRecvError::Empty) => return ControlFlow::Continue(()),
            }
            self.flush(None);
        }
    }

    fn follow(&mut self, order: Order, now: Instant) {
        match order {
            Order::SetLocals(locals) => self.engine.set_locals(locals, now),
            Order::SetPeers(peers) => self.engine.set_peers(peers, now),
            Order::SetMtu(mtu) => {
                self.engine.set_mtu(mtu);
                self.outbound.set_mtu(mtu);
            }
            Order::Moved => {
                self.outer.forget_sources();
                self.engine.handle_move(now);
            }
            Order::Greet { peer, .. } if self.exchange.shard().of_peer(&peer) != self.exchange.shard().at() => {}
            Order::Greet { local, peer } => {
                if let Err(reason) = self.engine.greet(&local, &peer, now) {
                    tracing::debug!(%local, peer = %peer.identity, reason = reason.as_str(), "Cannot greet a peer");
                }
            }
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
        let mut train = Train::new();
        let (mut count, mut is_any_taken) = (0, false);
        for message in self.batch.messages() {
            count += 1;
            let Some(message) = self.exchange.sort(message) else {
                is_any_taken = true;
                continue;
            };
            let answers = message.to.map(|ours| (message.from, ours));
            let doors = (&mut self.inner, &mut self.outer);
            is_any_taken |= inbound::receive(&mut self.engine, doors, &mut train, message, now);
            flush(&mut self.engine, &mut self.outer, answers);
            hand_on(&mut self.engine, &mut self.exchange, answers);
        }
        self.inner.write_train(&mut train);
        self.refusals = if is_any_taken { 0 } else { self.refusals.saturating_add(1) };
        self.is_drained = count < MESSAGES_MAX;
    }

    /// Seals what workloads send, at most [`BURST_MAX`] packets or about [`BURST_BYTES`].
    fn read_tun(&mut self, now: Instant) {
        let (mut count, mut bytes) = (0, 0);
        while count < BURST_MAX && bytes < BURST_BYTES {
            let Some((offload, packet)) = self.inner.read() else { break };
            count += 1;
            bytes += packet.len();
            if let Some(other) = self.engine.other_owner(packet) {
                self.exchange.give(other, Handed::Packet(offload, packet.to_vec()));
                continue;
            }
            let told = self.outbound.send(&mut self.engine, &mut self.outer, (offload, packet), now);
            self.tell(told);
            if self.is_single {
                // there will hardly be another one: it need not wait for that to be certain
                self.outbound.flush(&mut self.outer);
                self.is_single = false;
            }
        }
        self.is_single = count <= 1;
        self.outbound.flush(&mut self.outer);
        self.flush(None);
    }

    /// The sender of a packet that is longer than its path is told so.
    fn tell(&mut self, answer: Option<usize>) {
        let Some(length) = answer else { return };
        let mut train = Train::new();
        self.inner.write(&mut train, self.outbound.answer(length));
        self.inner.write_train(&mut train);
    }

    /// Does what other data threads were given and is for this one.
    fn take_handed(&mut self, now: Instant) {
        let mut handed = self.exchange.take();
        let mut train = Train::new();
        for one in &mut handed {
            match one {
                Handed::Packet(offload, packet) => {
                    let told = self.outbound.send(&mut self.engine, &mut self.outer, (*offload, packet), now);
                    self.tell(told);
                }
                Handed::Datagrams(datagrams) => {
                    let doors = (&mut self.inner, &mut self.outer);
                    let _counted = inbound::receive(&mut self.engine, doors, &mut train, datagrams.message(), now);
                    self.flush(None);
                }
                Handed::Initiation(from, ours, datagram) => {
                    let _counted = self.engine.take_initiation(*from, datagram, now);
                    self.flush(ours.map(|ours| (*from, ours)));
                }
            }
        }
        self.inner.write_train(&mut train);
        self.outbound.flush(&mut self.outer);
        self.flush(None);
    }

    fn hand_on(&mut self, answers: Option<(SocketAddr, IpAddr)>) {
        hand_on(&mut self.engine, &mut self.exchange, answers);
    }

    fn flush(&mut self, answers: Option<(SocketAddr, IpAddr)>) {
        flush(&mut self.engine, &mut self.outer, answers);
    }

    /// Tells control what happened in this turn.
    fn report(&mut self) {
        self.counters.show_engine(self.engine.counters());
        while let Some(event) = self.engine.poll_event() {
            if let wg::Event::ProbeAnswered { from, number } = event {
                if self.outbound.answered(from, number) {
                    self.outer.carries_again(from);
                }
                continue;
            }
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
            suite: session.suite,
            initiator: session.initiator,
            last_handshake: session.last_handshake.map(|then| now.saturating_duration_since(then)),
            tx_bytes: session.tx_bytes,
            rx_bytes: session.rx_bytes,
            tx_packets: session.tx_packets,
            rx_packets: session.rx_packets,
        });
        let ((left_to_us, left_to_kernel), [v4, v6]) = (self.inner.offloads(), self.outer.offloads());
        Snapshot {
            sessions: sessions.collect(),
            occupancy: self.engine.occupancy(),
            has_tun: self.inner.is_open(),
            offloads: Offloads { left_to_us, left_to_kernel, v4, v6 },
        }
    }
}

/// Gives other data threads what the engine says is theirs. `answers` is as for [`flush`].
fn hand_on(engine: &mut Engine<SpiffeId, PeerName>, exchange: &mut Exchange, answers: Option<(SocketAddr, IpAddr)>) {
    while let Some((owner, what)) = engine.poll_foreign() {
        let handed = match what {
            Foreign::Packet(packet) => Handed::Packet(Offload::default(), packet),
            Foreign::Initiation { from, datagram } => {
                let ours = answers.and_then(|(asker, ours)| (asker == from).then_some(ours));
                Handed::Initiation(from, ours, datagram)
            }
        };
        exchange.give(owner, handed);
    }
}

/// Sends everything that the engine wants sent.
fn flush(engine: &mut Engine<SpiffeId, PeerName>, outer: &mut Outer, answers: Option<(SocketAddr, IpAddr)>) {
    while let Some(transmit) = engine.poll_transmit() {
        let class = if transmit.datagram.first() == Some(&4) { 0 } else { HANDSHAKE_CLASS };
        let heading = Heading { to: transmit.to, class, length: transmit.datagram.len() };
        outer.send(heading, transmit.datagram, 1, answers);
    }
}
