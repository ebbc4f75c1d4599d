//! What all targets share: two engines that know each other, a wire between them, and bytes read as decisions.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use wg::{Engine, Handled, LocalConfig, LocalKey, PeerConfig, PublicKey, StaticSecret};

/// A fuzzer's input, read bit by bit; when it is over, everything is zero.
pub struct Choices<'a>(pub &'a [u8]);

impl<'a> Choices<'a> {
    /// Whether there is more.
    #[must_use]
    pub fn has_more(&self) -> bool {
        !self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    /// The next two.
    pub fn word(&mut self) -> usize {
        usize::from(u16::from_be_bytes([self.byte(), self.byte()]))
    }

    /// At most so many bytes.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Changes a datagram as the next bytes say: up to three bytes of it, and its length.
    pub fn change(&mut self, datagram: &mut Vec<u8>) {
        let how = self.byte();
        for _ in 0..how & 3 {
            let (at, value) = (self.word(), self.byte());
            let length = datagram.len();
            if let Some(place) = at.checked_rem(length).and_then(|at| datagram.get_mut(at)) {
                *place ^= value;
            }
        }
        if how & 4 != 0 {
            let length = self.word() % 300;
            datagram.resize(length, 0);
        }
    }
}

/// The private key of a side.
#[must_use]
pub fn secret(side: u8) -> StaticSecret {
    StaticSecret::from([side + 1; 32])
}

/// The inner address of a side.
#[must_use]
pub fn inner(side: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, side + 1])
}

/// The endpoint of a side.
#[must_use]
pub fn outer(side: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, side + 1], 51840))
}

/// An IPv4 packet between the sides, of so many bytes and at least 20, whose payload repeats `payload`.
#[must_use]
pub fn packet(from: u8, length: usize, payload: &[u8]) -> Vec<u8> {
    let length = length.clamp(20, 1500);
    let mut bytes = vec![0; 20];
    bytes[0] = 0x45;
    bytes[2..4].copy_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
    bytes[8..10].copy_from_slice(&[64, 253]);
    for (at, side) in [(12, from), (16, 1 - from)] {
        if let IpAddr::V4(address) = inner(side) {
            bytes[at..at + 4].copy_from_slice(&address.octets());
        }
    }
    bytes.extend(payload.iter().chain(std::iter::repeat(&0)).take(length - 20));
    bytes
}

/// One side's engine, which knows the other.
#[must_use]
pub fn engine(side: u8, now: Instant) -> Engine<u8, u8> {
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let mut engine = Engine::new([side; 32], wall, now);
    let keys = vec![LocalKey { epoch: 1, secret: secret(side), suite: Default::default() }];
    engine.set_locals(BTreeMap::from([(side, LocalConfig { keys, addresses: BTreeSet::from([inner(side)]) })]), now);
    let other = 1 - side;
    let peer = PeerConfig {
        keys: BTreeMap::from([(1, PublicKey::from(&secret(other)))]),
        endpoints: vec![outer(other)],
        allowed_ips: vec![inner(other).into()],
        suites: BTreeMap::new(),
        preshared_key: None,
    };
    engine.set_peers(BTreeMap::from([(other, peer)]), now);
    engine
}

/// Two engines and what is under way between them.
pub struct World {
    /// The clock of both.
    pub now: Instant,
    /// Side 0 and side 1.
    pub engines: [Engine<u8, u8>; 2],
    /// Who a datagram is for, and the datagram.
    pub wire: VecDeque<(u8, Vec<u8>)>,
    /// What came out, at which side.
    pub delivered: Vec<(u8, Vec<u8>)>,
}

impl World {
    /// Two that have not spoken.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "a fuzz target is the shell of the engine")]
    pub fn new() -> Self {
        let now = Instant::now();
        Self { now, engines: [engine(0, now), engine(1, now)], wire: VecDeque::new(), delivered: Vec::new() }
    }

    /// Two that have: side 0 began.
    #[must_use]
    pub fn talking() -> Self {
        let mut world = Self::new();
        world.say(0, b"hello");
        world.run();
        assert_eq!(world.delivered.len(), 1);
        world
    }

    fn side(&mut self, side: u8) -> &mut Engine<u8, u8> {
        let [zero, one] = &mut self.engines;
        if side == 0 { zero } else { one }
    }

    /// A packet leaves.
    pub fn say(&mut self, from: u8, payload: &[u8]) {
        let now = self.now;
        self.side(from).handle_packet(&packet(from, 20 + payload.len(), payload), now).expect("the other is known");
        self.collect();
    }

    /// A datagram arrives.
    pub fn deliver(&mut self, to: u8, datagram: &[u8]) {
        let now = self.now;
        if let Ok(Handled::Opened { packet, local, peer }) = self.side(to).handle_datagram(outer(1 - to), datagram, now)
        {
            assert_eq!((*local, *peer), (to, 1 - to), "delivered under a wrong name");
            let packet = packet.to_vec();
            self.delivered.push((to, packet));
        }
        self.collect();
    }

    /// Time passes, and nobody misses it.
    pub fn wait(&mut self, time: Duration) {
        self.now += time;
        let now = self.now;
        for side in [0, 1] {
            self.side(side).handle_timeout(now);
        }
        self.collect();
    }

    /// Takes what the engines have to send.
    pub fn collect(&mut self) {
        for side in [0, 1] {
            let engine = if side == 0 { &mut self.engines[0] } else { &mut self.engines[1] };
            while let Some(transmit) = engine.poll_transmit() {
                self.wire.push_back((1 - side, transmit.datagram.to_vec()));
            }
            while engine.poll_event().is_some() {}
        }
    }

    /// Everything arrives until it is quiet.
    pub fn run(&mut self) {
        for _ in 0..10_000 {
            let Some((to, datagram)) = self.wire.pop_front() else { return };
            self.deliver(to, &datagram);
        }
        panic!("the wire does not become quiet");
    }

    /// After everything, the two must be able to talk within half a minute.
    pub fn assert_they_talk(&mut self) {
        self.wire.clear();
        for second in 0..30u8 {
            let last = [b'l', b'a', b's', b't', second];
            self.say(0, &last);
            self.wait(Duration::from_secs(1));
            self.run();
            if self.delivered.iter().any(|(to, packet)| *to == 1 && packet[20..] == last) {
                return;
            }
        }
        panic!("they do not find each other again");
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}
