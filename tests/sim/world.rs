//! The world: a virtual clock, what happens next, and everybody who takes part.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use identity::{SpiffeId, TrustDomain, UnixTime};
use plan::PeerName;
use wg::Handled;

use crate::checks::Ledger;
use crate::controller::Controller;
use crate::dice::Dice;
use crate::directory::{CONTROLLER, Directory, Entry, Reader};
use crate::faults::Heal;
use crate::net::{Datagram, Net};
use crate::node::Node;
use crate::pods::Workload;
use crate::reference::Heard;

/// How often a node looks after what nobody announces, and its kubelet after its pods.
const ROUND: Duration = Duration::from_millis(500);
/// How late a node may notice that a binding has ended.
const ROUND_SECONDS: u64 = 1;
/// How often the controller does.
const CONTROLLER_ROUND: Duration = Duration::from_secs(10);

/// Something that will happen.
pub enum Happening {
    Arrive(Datagram),
    News {
        reader: Reader,
        life: u64,
        entry: Entry,
    },
    /// A daemon comes up and reads everything.
    List {
        reader: Reader,
        life: u64,
    },
    Round(usize),
    ControllerRound,
    Traffic,
    Misfortune,
    Eve,
    Heal(Heal),
}

pub struct World {
    pub dice: Dice,
    pub at: Duration,
    pub net: Net,
    pub directory: Directory,
    pub nodes: Vec<Node>,
    pub controller: Controller,
    pub workloads: Vec<Workload>,
    pub ledger: Ledger,
    pub heard: Vec<Heard>,
    pub trust_domain: TrustDomain,
    /// How often traffic is sent; `None` is never.
    pub traffic: Option<Duration>,
    /// Whether things go wrong.
    pub trouble: bool,
    pub period: Duration,
    /// Slices as they were once published.
    pub history: Vec<Entry>,
    /// How often each reader has come up.
    lives: Vec<u64>,
    start: Instant,
    epoch: UnixTime,
    due: Option<Instant>,
    queue: BTreeMap<(Duration, u64), Happening>,
    number: u64,
    /// The last number given to a workload or a packet.
    pub ids: u64,
}

impl World {
    /// A world with nodes and no workloads.
    pub fn new(seed: u64, nodes: u8, period: Duration) -> Self {
        let mut dice = Dice::new(seed);
        let trust_domain: TrustDomain = "sim.weft".parse().unwrap();
        let controller = Controller::new(trust_domain.clone(), period);
        let proof = || (trust_domain.clone(), controller.verifier());
        let nodes: Vec<Node> = (1..=nodes).map(|n| Node::new(n, proof(), dice.bytes(), period)).collect();
        let phase = dice.draw() % period.as_secs();
        let mut world = Self {
            at: Duration::ZERO,
            net: Net::new(),
            directory: Directory::new(nodes.len()),
            heard: (0..=nodes.len()).map(|_| Heard::default()).collect(),
            lives: vec![0; nodes.len() + 1],
            workloads: Vec::new(),
            ledger: Ledger::default(),
            traffic: None,
            trouble: false,
            history: Vec::new(),
            start: Instant::now(),
            epoch: UnixTime(1_800_000_000 / period.as_secs() * period.as_secs() + phase),
            due: None,
            queue: BTreeMap::new(),
            number: 0,
            ids: 0,
            nodes,
            controller,
            trust_domain,
            period,
            dice,
        };
        world.make_cluster();
        for reader in 0..world.lives.len() {
            world.come_up(reader, Duration::from_millis(1));
        }
        for index in 0..world.nodes.len() {
            world.after(ROUND, Happening::Round(index));
        }
        world.after(Duration::ZERO, Happening::ControllerRound);
        world
    }

    pub fn truth(&self) -> UnixTime {
        self.epoch.after(self.at)
    }

    pub fn now(&self) -> Instant {
        self.start + self.at
    }

    pub fn after(&mut self, wait: Duration, happening: Happening) {
        self.number += 1;
        self.queue.insert((self.at + wait, self.number), happening);
    }

    /// Lets everything happen that is to happen within this time.
    pub fn run(&mut self, time: Duration) {
        let end = self.at + time;
        while let Some(next) = self.next_time().filter(|next| *next <= end) {
            self.advance(next);
            for index in 0..self.nodes.len() {
                self.tick(index);
            }
            if self.due.is_some_and(|due| due <= self.now()) {
                self.controller_publishes();
            }
            while let Some(first) = self.queue.first_entry().filter(|first| first.key().0 <= self.at) {
                let happening = first.remove();
                self.happen(happening);
            }
        }
        self.advance(end);
    }

    fn next_time(&self) -> Option<Duration> {
        let soon = self.at + Duration::from_millis(1);
        let since = |instant: Instant| instant.saturating_duration_since(self.start).max(soon);
        let daemons = self.nodes.iter().filter_map(|node| node.daemon.as_ref());
        let wakes = daemons.filter_map(|daemon| daemon.engine.poll_timeout()).map(since);
        let queued = self.queue.first_key_value().map(|((at, _), _)| (*at).max(self.at));
        wakes.chain(self.due.map(since)).chain(queued).min()
    }

    fn advance(&mut self, to: Duration) {
        self.at = to;
    }

    fn tick(&mut self, index: usize) {
        let now = self.now();
        if let Some(daemon) = &mut self.nodes[index].daemon {
            daemon.engine.handle_timeout(now);
            self.drain(index);
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrive(datagram) => self.arrive(&datagram),
            Happening::News { reader, life, entry } if self.lives[reader] == life => self.hear(reader, entry),
            Happening::List { reader, life } if self.lives[reader] == life => self.list(reader),
            Happening::News { .. } | Happening::List { .. } => {}
            Happening::Round(index) => {
                self.after(ROUND, Happening::Round(index));
                let (truth, now) = (self.truth(), self.now());
                self.kubelet(index);
                self.nodes[index].go_round(truth, now);
                self.reconcile(index);
            }
            Happening::ControllerRound => {
                self.after(CONTROLLER_ROUND, Happening::ControllerRound);
                self.controller_publishes();
            }
            Happening::Traffic => {
                if let Some(every) = self.traffic {
                    self.after(every, Happening::Traffic);
                    self.chatter();
                }
            }
            Happening::Misfortune if self.trouble => self.misfortune(),
            Happening::Eve if self.trouble => {
                let wait = self.dice.millis(1, 300);
                self.after(wait, Happening::Eve);
                if let Some(forged) = self.net.forge(&mut self.dice, self.at) {
                    self.arrive(&forged);
                }
            }
            Happening::Misfortune | Happening::Eve => {}
            Happening::Heal(heal) => self.heal(heal),
        }
    }

    /// Writes something into the directory.
    pub fn put(&mut self, entry: Entry) {
        if matches!(entry, Entry::Slice(..)) && self.history.len() < 256 {
            self.history.push(entry.clone());
        }
        for (reader, time) in self.directory.put(&entry, &mut self.dice, self.at) {
            let news = Happening::News { reader, life: self.lives[reader], entry: entry.clone() };
            self.after(time - self.at, news);
        }
    }

    /// Tells one reader something out of the ordinary.
    pub fn whisper(&mut self, reader: Reader, entry: Entry) {
        let news = Happening::News { reader, life: self.lives[reader], entry };
        self.after(Duration::ZERO, news);
    }

    pub fn go_down(&mut self, reader: Reader) {
        self.lives[reader] += 1;
        match reader {
            CONTROLLER => self.controller.leave(),
            node => self.nodes[node - 1].daemon = None,
        }
    }

    pub fn come_up(&mut self, reader: Reader, wait: Duration) {
        let life = self.lives[reader];
        self.after(wait, Happening::List { reader, life });
    }

    fn list(&mut self, reader: Reader) {
        let entries = self.directory.list();
        // what is under way to it already is in the list
        self.lives[reader] += 1;
        let mut heard = Heard::default();
        entries.iter().for_each(|entry| heard.hear(entry));
        self.heard[reader] = heard;
        if reader == CONTROLLER {
            self.controller.list(entries);
            self.controller_publishes();
            return;
        }
        let (truth, now, seed) = (self.truth(), self.now(), self.dice.bytes());
        let fraction = Duration::from_nanos(self.at.subsec_nanos().into());
        self.nodes[reader - 1].start(seed, entries, truth, (fraction, now));
        self.reconcile(reader - 1);
    }

    fn hear(&mut self, reader: Reader, entry: Entry) {
        self.heard[reader].hear(&entry);
        if reader == CONTROLLER {
            self.controller.hear(entry);
            self.controller_publishes();
        } else {
            let truth = self.truth();
            self.nodes[reader - 1].hear(entry, truth);
            self.reconcile(reader - 1);
        }
    }

    fn controller_publishes(&mut self) {
        let (entries, due) = self.controller.publish(self.now(), self.truth());
        self.due = due;
        entries.into_iter().for_each(|entry| self.put(entry));
    }

    pub fn reconcile(&mut self, index: usize) {
        let (truth, now) = (self.truth(), self.now());
        if let Some(report) = self.nodes[index].reconcile(truth, now) {
            self.put(report);
        }
        self.drain(index);
    }

    fn arrive(&mut self, datagram: &Datagram) {
        let Some(index) = self.nodes.iter().position(|node| node.at == datagram.to) else { return };
        let now = self.now();
        let Some(daemon) = &mut self.nodes[index].daemon else { return };
        let opened = match daemon.engine.handle_datagram(datagram.from, &datagram.bytes, now) {
            Ok(Handled::Opened { packet, local, peer }) => Some((packet.to_vec(), local.clone(), peer.clone())),
            Ok(Handled::Consumed) => None,
            Err(reason) => {
                *self.ledger.drops.entry(reason.as_str()).or_default() += 1;
                None
            }
        };
        if let Some((packet, local, peer)) = opened {
            self.deliver(index, &packet, &local, &peer);
        }
        self.drain(index);
    }

    /// i2, and that the destination is this identity's.
    fn deliver(&mut self, index: usize, packet: &[u8], local: &SpiffeId, peer: &PeerName) {
        let sent = self.ledger.delivery(packet, peer);
        let parsed = ::packet::IpPacket::parse(packet).unwrap();
        let (source, destination) = (parsed.source(), parsed.destination());
        let (node, heard) = (&self.nodes[index], &self.heard[index + 1]);
        let owner = heard.owner(source);
        assert_eq!(owner.as_ref(), Some(peer), "i2: {source} is delivered as of another than the controller says");
        let wall = node.wall(self.truth());
        let bound = heard.is_bound(peer, UnixTime(wall.0 - ROUND_SECONDS));
        assert!(bound, "i2: {peer:?} has no binding that counts, and its packet from {:?} is delivered", sent.at);
        let holder = node.attachments.iter().rev().find(|attached| attached.ips.contains(&destination));
        let holder = holder.unwrap_or_else(|| panic!("{destination} is nobody's on {}", node.name));
        let owner = self.identity_of(&holder.pod);
        assert_eq!(*local, owner, "ID-07: {destination} is opened with another identity's key");
        self.ledger.arrived(&sent, self.at);
    }

    /// Takes what an engine has to send and to tell.
    pub fn drain(&mut self, index: usize) {
        let at: SocketAddr = self.nodes[index].at;
        let Some(daemon) = &mut self.nodes[index].daemon else { return };
        let mut out = Vec::new();
        while let Some(transmit) = daemon.engine.poll_transmit() {
            out.push(Datagram { from: at, to: transmit.to, bytes: transmit.datagram.to_vec() });
        }
        let events = std::iter::from_fn(|| daemon.engine.poll_event()).count();
        Ledger::occupancy(&daemon.engine.occupancy(), events);
        assert_eq!(daemon.engine.events_dropped(), 0, "i5: events are lost");
        for datagram in out {
            self.ledger.wire(&datagram, self.at);
            for way in self.net.carry(&datagram, &mut self.dice, self.at) {
                self.after(way, Happening::Arrive(datagram.clone()));
            }
        }
    }

    /// Which node an address leads to, as IP knows it.
    pub fn ip_of(&self, index: usize) -> IpAddr {
        self.nodes[index].at.ip()
    }
}
