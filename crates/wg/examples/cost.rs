//! What a packet, a handshake and an idle peer cost: the engine beside boringtun's `Tunn`, in one run.
//!
//! `cargo run --release -p wg --example cost`. Medians of nine rounds, one thread; nothing is sent.

#![expect(clippy::print_stdout, reason = "it prints a table")]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a measurement that fails may say so loudly")]
#![expect(clippy::disallowed_methods, reason = "it measures time, and reads its own memory")]

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use boringtun::noise::{Tunn, TunnResult};
use wg::{Engine, HEADROOM, LocalConfig, LocalKey, PeerConfig, PublicKey, StaticSecret};

const ROUNDS: usize = 9;
const PACKETS: u32 = 20_000;

fn secret(number: u32) -> StaticSecret {
    let mut bytes = [7; 32];
    bytes[4..8].copy_from_slice(&number.to_be_bytes());
    StaticSecret::from(bytes)
}

fn inner(number: u32) -> IpAddr {
    let [_, a, b, c] = number.to_be_bytes();
    IpAddr::from([10, a, b, c])
}

fn outer(number: u32) -> SocketAddr {
    let [_, a, b, c] = number.to_be_bytes();
    SocketAddr::from(([172, a, b, c], 51840))
}

fn local(number: u32) -> BTreeMap<u32, LocalConfig> {
    let keys = vec![LocalKey { epoch: 1, secret: secret(number), suite: Default::default() }];
    BTreeMap::from([(number, LocalConfig { keys, addresses: BTreeSet::from([inner(number)]) })])
}

fn peer(number: u32) -> PeerConfig {
    PeerConfig {
        keys: BTreeMap::from([(1, PublicKey::from(&secret(number)))]),
        endpoints: vec![outer(number)],
        allowed_ips: vec![inner(number).into()],
        suites: BTreeMap::new(),
        preshared_key: None,
    }
}

/// An IPv4 packet of so many bytes.
fn packet(from: u32, to: u32, length: usize) -> Vec<u8> {
    let mut bytes = vec![0x5a; length];
    bytes[..20].fill(0);
    bytes[0] = 0x45;
    bytes[2..4].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
    bytes[8..10].copy_from_slice(&[64, 17]);
    if let (IpAddr::V4(from), IpAddr::V4(to)) = (inner(from), inner(to)) {
        bytes[12..16].copy_from_slice(&from.octets());
        bytes[16..20].copy_from_slice(&to.octets());
    }
    bytes
}

fn median(mut round: impl FnMut() -> f64) -> f64 {
    let mut all: Vec<f64> = (0..ROUNDS).map(|_| round()).collect();
    all.sort_by(f64::total_cmp);
    all[ROUNDS / 2]
}

/// Nanoseconds of each of `count`.
fn each(begin: Instant, count: u32) -> f64 {
    begin.elapsed().as_secs_f64() * 1e9 / f64::from(count)
}

/// Two engines, the first with `peers` peers; they have shaken hands.
fn engines(peers: u32, now: Instant) -> [Engine<u32, u32>; 2] {
    let wall = SystemTime::now();
    let (mut one, mut two) = (Engine::new([1; 32], wall, now), Engine::new([2; 32], wall, now));
    one.set_locals(local(1), now);
    two.set_locals(local(2), now);
    one.set_peers((2..2 + peers).map(|number| (number, peer(number))).collect(), now);
    two.set_peers(BTreeMap::from([(1, peer(1))]), now);
    one.greet(&1, &2, now).unwrap();
    carry(&mut one, &mut two, now);
    [one, two]
}

fn carry(one: &mut Engine<u32, u32>, two: &mut Engine<u32, u32>, now: Instant) {
    loop {
        let mut idle = true;
        for turn in 0..2 {
            let (from, to, address) = if turn == 0 { (&mut *one, &mut *two, 1) } else { (&mut *two, &mut *one, 2) };
            while let Some(transmit) = from.poll_transmit() {
                idle = false;
                to.handle_datagram(outer(address), transmit.datagram, now).unwrap();
            }
        }
        if idle {
            return;
        }
    }
}

fn ours(length: usize, peers: u32) -> (f64, f64) {
    let now = Instant::now();
    let [mut one, mut two] = engines(peers, now);
    let inside = packet(1, 2, length);
    let sealed = one.sealed_length(length);
    let mut buffers = vec![vec![0u8; sealed]; usize::try_from(PACKETS).unwrap()];
    let (mut seals, mut opens) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for buffer in &mut buffers {
            buffer[HEADROOM..HEADROOM + length].copy_from_slice(&inside);
        }
        let path = one.path(&inside, now).unwrap();
        let begin = Instant::now();
        for buffer in &mut buffers {
            black_box(one.seal_in_place(&path, buffer, length, now).unwrap());
        }
        seals.push(each(begin, PACKETS));
        let begin = Instant::now();
        for buffer in &mut buffers {
            black_box(two.open_in_place(outer(1), buffer, now).unwrap().unwrap());
        }
        opens.push(each(begin, PACKETS));
    }
    let (mut seals, mut opens) = (seals.into_iter(), opens.into_iter());
    (median(|| seals.next().unwrap()), median(|| opens.next().unwrap()))
}

fn tunns() -> [Tunn; 2] {
    let public = |number| PublicKey::from(&secret(number));
    let mut one = Tunn::new(secret(1), public(2), None, None, 1, None);
    let mut two = Tunn::new(secret(2), public(1), None, None, 2, None);
    let (mut a, mut b) = ([0; 2048], [0; 2048]);
    let TunnResult::WriteToNetwork(initiation) = one.encapsulate(&[], &mut a) else { unreachable!() };
    let TunnResult::WriteToNetwork(response) = two.decapsulate(None, initiation, &mut b) else { unreachable!() };
    let mut c = [0; 2048];
    let TunnResult::WriteToNetwork(keepalive) = one.decapsulate(None, response, &mut c) else { unreachable!() };
    two.decapsulate(None, keepalive, &mut b);
    [one, two]
}

fn theirs(length: usize) -> (f64, f64) {
    let [mut one, mut two] = tunns();
    let inside = packet(1, 2, length);
    let mut buffers = vec![vec![0u8; length + 160]; usize::try_from(PACKETS).unwrap()];
    let mut out = vec![0; length + 160];
    let (mut seals, mut opens) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        for buffer in &mut buffers {
            black_box(one.encapsulate(&inside, buffer));
        }
        seals.push(each(begin, PACKETS));
        let begin = Instant::now();
        for buffer in &buffers {
            let opened = two.decapsulate(None, &buffer[..length + 32], &mut out);
            assert!(matches!(opened, TunnResult::WriteToTunnelV4(..)));
        }
        opens.push(each(begin, PACKETS));
    }
    let (mut seals, mut opens) = (seals.into_iter(), opens.into_iter());
    (median(|| seals.next().unwrap()), median(|| opens.next().unwrap()))
}

/// Microseconds of a whole handshake, both sides and the keepalive.
fn handshakes() -> (f64, f64) {
    let ours = median(|| {
        let now = Instant::now();
        let begin = Instant::now();
        for _ in 0..50 {
            black_box(engines(1, now));
        }
        each(begin, 50) / 1e3
    });
    let theirs = median(|| {
        let begin = Instant::now();
        for _ in 0..50 {
            black_box(tunns());
        }
        each(begin, 50) / 1e3
    });
    (ours, theirs)
}

/// Resident memory of this process in bytes.
fn resident() -> f64 {
    let statm = std::fs::read("/proc/self/statm").unwrap();
    let pages = String::from_utf8(statm).unwrap().split(' ').nth(1).unwrap().parse::<f64>().unwrap();
    pages * 4096.0
}

/// Bytes of a peer that was only configured, of one with a fresh session, and of boringtun's `Tunn`; and the share of a core
/// that all of them take while nobody speaks.
fn memory(count: u32) -> (f64, f64, f64, f64) {
    let now = Instant::now();
    let before = resident();
    let mut engine = Engine::new([1; 32], SystemTime::now(), now);
    engine.set_locals(local(1), now);
    engine.set_peers((2..2 + count).map(|number| (number, peer(number))).collect(), now);
    let configured = (resident() - before) / f64::from(count);
    let before = resident();
    let mut shaken = 0;
    for number in 2..2 + count {
        let mut other = Engine::new([3; 32], SystemTime::now(), now);
        other.set_locals(local(number), now);
        other.set_peers(BTreeMap::from([(1, peer(1))]), now);
        engine.greet(&1, &number, now).unwrap();
        for turn in 0..3 {
            let (from, to, address) =
                if turn % 2 == 0 { (&mut engine, &mut other, 1) } else { (&mut other, &mut engine, number) };
            while let Some(transmit) = from.poll_transmit() {
                shaken += u32::from(to.handle_datagram(outer(address), transmit.datagram, now).is_ok());
            }
        }
        while engine.poll_event().is_some() {}
    }
    assert_eq!(shaken, count * 3);
    let with_session = (resident() - before) / f64::from(count);
    // the last keepalives, and then a minute in which nobody speaks: as many wakes as it asks for
    let mut pass = |until: Duration| {
        let begin = Instant::now();
        while let Some(due) = engine.poll_timeout().filter(|due| *due < now + until) {
            engine.handle_timeout(due);
            while engine.poll_transmit().is_some() {}
        }
        begin.elapsed().as_secs_f64()
    };
    pass(Duration::from_secs(60));
    let idle = pass(Duration::from_secs(120)) / 60.0;
    let before = resident();
    let tunns: Vec<[Tunn; 2]> = (0..count / 2).map(|_| tunns()).collect();
    let theirs = (resident() - before) / f64::from(count);
    drop(tunns);
    (configured, with_session, theirs, idle)
}

fn main() {
    // first, while nothing was allocated and freed that resident memory would be made of
    let (configured, with_session, tunn, idle) = memory(10_000);
    println!(
        "10,000 peers: {configured:.0} bytes each, {with_session:.0} more with a session and its keys; a Tunn {tunn:.0}"
    );
    println!("10,000 sessions without traffic: {:.4} % of a core", idle * 100.0);
    println!("ns per packet             seal   open");
    for length in [64, 200, 1420] {
        let ((seal, open), (their_seal, their_open)) = (ours(length, 1), theirs(length));
        println!("{length:5} B  engine           {seal:6.0} {open:6.0}");
        println!("{length:5} B  boringtun's Tunn {their_seal:6.0} {their_open:6.0}");
    }
    let (seal, open) = ours(1420, 1000);
    println!(" 1420 B  engine, 1000 peers {seal:4.0} {open:6.0}");
    let (ours, theirs) = handshakes();
    println!("handshake, both sides, with the tables of two new engines: {ours:.0} µs; boringtun {theirs:.0} µs");
}
