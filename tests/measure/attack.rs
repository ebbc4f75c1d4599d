//! One node with very many peers, and one that is flooded while a flow goes on: `meshd tunnel`, its friend, and Eve on a wire of her own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use linux::netns::Netns;
use wg::{Engine, Event, HEADROOM, LocalConfig, LocalKey, PeerConfig, PublicKey, StaticSecret};

use crate::lab::program;
use crate::report::Report;
use crate::shell::{attempt, eventually, run};

const PATIENCE: Duration = Duration::from_secs(60);
/// How long a flow is looked at.
const WHILE: Duration = Duration::from_secs(5);
/// A flow of 100 Mbit/s: datagrams of so many bytes, so many a second.
const FLOW: (usize, u64) = (1200, 10_417);
/// First byte of a cookie reply (WireGuard paper, section 5.4.7).
const COOKIE_REPLY: u8 = 3;
/// More than one core can send.
const FASTEST: u64 = 10_000_000;
/// The node under attack, as Eve reaches it.
const HUB: &str = "10.99.2.1:51840";

/// Sends one datagram of a flood; how many there are to be a second at most.
type Flood<'a> = (&'a mut (dyn FnMut() + Send), u64);

/// `meshd tunnel` in the namespace `hub` with 10,000 idle peers, and one in `friend` that talks to it.
struct Siege {
    hub: Child,
    friend: Child,
    hub_key: PublicKey,
    places: [Netns; 3],
}

impl Siege {
    fn start() -> Self {
        let places = ["hub", "friend", "eve"].map(|name| Netns::create_named(name).expect("a namespace"));
        for (number, name) in [(1, "friend"), (2, "eve")] {
            run("ip", &["link", "add", name, "netns", "hub", "type", "veth", "peer", "name", "eth0", "netns", name]);
            run("ip", &["-n", "hub", "addr", "add", &format!("10.99.{number}.1/24"), "dev", name]);
            run("ip", &["-n", name, "addr", "add", &format!("10.99.{number}.2/24"), "dev", "eth0"]);
            run("ip", &["-n", "hub", "link", "set", name, "up"]);
            run("ip", &["-n", name, "link", "set", "eth0", "up"]);
        }
        let keys = [[0x11; 32], [0x22; 32]].map(StaticSecret::from);
        let publics = [0, 1].map(|side: usize| base64(PublicKey::from(&keys[side]).as_bytes()));
        let tunnel = |place: &str, side: usize, more: &[&str]| {
            let file = crate::lab::scratch(&format!("key-{place}"));
            std::fs::write(&file, base64(keys[side].as_bytes())).expect("the folder takes files");
            let (own, other) = (format!("10.7.0.{}", side + 1), format!("10.7.0.{}", 2 - side));
            let child = Command::new("ip")
                .args([
                    "netns",
                    "exec",
                    place,
                    &program("meshd"),
                    "tunnel",
                    "--key-file",
                    &file,
                    "--peer-key",
                    &publics[1 - side],
                ])
                .args(["--address", &own, "--peer-address", &other])
                .args(more)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("ip runs");
            eventually("the device is there", PATIENCE, || {
                attempt("ip", &["-n", place, "link", "show", "mesh0"]).status.success().then_some(())
            });
            run("ip", &["-n", place, "addr", "add", &format!("{own}/24"), "dev", "mesh0"]);
            run("ip", &["-n", place, "link", "set", "mesh0", "mtu", "1420", "up"]);
            child
        };
        let hub = tunnel("hub", 0, &["--idle-peers", "10000"]);
        let friend = tunnel("friend", 1, &["--endpoint", "10.99.1.1:51840"]);
        eventually("the two talk", PATIENCE, || {
            attempt("ip", &["netns", "exec", "friend", "ping", "-c1", "-W1", "10.7.0.1"]).status.success().then_some(())
        });
        Self { hub, friend, hub_key: PublicKey::from(&keys[0]), places }
    }

    fn socket(&self, place: usize, bind: &str) -> UdpSocket {
        let socket = self.places[place].within(|| UdpSocket::bind(bind)).expect("a namespace").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        socket
    }

    /// Resident set of the node under attack, in MiB.
    fn resident(&self) -> f64 {
        memory(self.hub.id())
    }

    /// Seconds of processor time that it has used.
    fn busy(&self) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.hub.id())).expect("the daemon runs");
        let after = text.rsplit(") ").next().expect("fields");
        after.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<f64>().expect("ticks")).sum::<f64>() / 100.0
    }

    /// A socket of Eve's that sends to the node.
    fn eve(&self) -> UdpSocket {
        let eve = self.socket(2, "10.99.2.2:0");
        eve.connect(HUB).expect("an address");
        eve
    }

    /// Runs the flow, and beside it a flood of at most so many a second. Says how much of the flow was lost in percent,
    /// how many datagrams the flood had, and the processor time that all cost.
    fn flow(&self, flood: Option<Flood<'_>>) -> (f64, u64, f64) {
        let (sender, receiver) = (self.socket(1, "10.7.0.2:0"), self.socket(0, "10.7.0.1:9000"));
        let (over, arrived, flooded) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        let before = self.busy();
        let sent = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut buffer = [0; 2048];
                while !over.load(Ordering::Relaxed) {
                    arrived.fetch_add(u64::from(receiver.recv(&mut buffer).is_ok()), Ordering::Relaxed);
                }
            });
            if let Some((send, rate)) = flood {
                let flooded = &flooded;
                scope.spawn(move || flooded.store(pace(rate, send), Ordering::Relaxed));
            }
            let payload = vec![0x5a; FLOW.0];
            let sent = pace(FLOW.1, || drop(sender.send_to(&payload, "10.7.0.1:9000")));
            std::thread::sleep(Duration::from_millis(300));
            over.store(true, Ordering::Relaxed);
            sent
        });
        let lost = sent.saturating_sub(arrived.load(Ordering::Relaxed));
        (percent(lost, sent), flooded.load(Ordering::Relaxed), self.busy() - before)
    }

    /// An engine that is so many of the hub's idle peers.
    fn idle_peers(&self, count: u32) -> Engine<u32, u8> {
        let now = Instant::now();
        let mut engine = Engine::new([9; 32], SystemTime::now(), now);
        let local = |number: u32| {
            let mut secret = [0x55; 32];
            secret[..4].copy_from_slice(&number.to_be_bytes());
            let keys = vec![LocalKey { epoch: 1, secret: StaticSecret::from(secret), suite: Default::default() }];
            (number, LocalConfig { keys, addresses: BTreeSet::from([idle_address(number)]) })
        };
        engine.set_locals((1..=count).map(local).collect(), now);
        let hub = PeerConfig {
            keys: BTreeMap::from([(1, self.hub_key)]),
            endpoints: vec![HUB.parse().expect("an address")],
            allowed_ips: vec![IpAddr::from([10, 7, 0, 1]).into()],
            suites: BTreeMap::new(),
            preshared_key: None,
        };
        engine.set_peers(BTreeMap::from([(0, hub)]), now);
        engine
    }

    /// Shakes hands with all of them; how long that took, and how often the node asked for a cookie instead of answering.
    fn shake(&self, engine: &mut Engine<u32, u8>, socket: &UdpSocket, count: u32) -> (Duration, u32) {
        let (begin, mut cookies) = (Instant::now(), 0);
        let (mut done, mut next, mut buffer) = (BTreeSet::new(), 1, [0; 2048]);
        socket.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
        while done.len() < usize::try_from(count).expect("a few") {
            assert!(begin.elapsed() < PATIENCE, "only {} of {count} handshakes", done.len());
            let until = (next + 16).min(count + 1);
            for number in next..until {
                engine.greet(&number, &0, Instant::now()).expect("both are known");
            }
            next = until;
            engine.handle_timeout(Instant::now());
            while let Some(transmit) = engine.poll_transmit() {
                socket.send_to(transmit.datagram, transmit.to).expect("the wire is there");
            }
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                cookies += u32::from(buffer[0] == COOKIE_REPLY);
                drop(engine.handle_datagram(from, &buffer[..length], Instant::now()));
                while let Some(transmit) = engine.poll_transmit() {
                    socket.send_to(transmit.datagram, transmit.to).expect("the wire is there");
                }
            }
            while let Some(event) = engine.poll_event() {
                if let Event::HandshakeCompleted { local, .. } = event {
                    done.insert(local);
                }
            }
        }
        (begin.elapsed(), cookies)
    }
}

impl Drop for Siege {
    fn drop(&mut self) {
        for child in [&mut self.hub, &mut self.friend] {
            drop((child.kill(), child.wait()));
        }
        for name in ["hub", "friend", "eve"] {
            drop(Netns::delete_named(name));
        }
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64 * 100.0
}

pub fn idle_address(number: u32) -> IpAddr {
    let [_, _, high, low] = number.to_be_bytes();
    IpAddr::from([10, 77, high, low])
}

/// Does it so often a second, for [`WHILE`], or as often as it can; how often that was.
fn pace(rate: u64, mut act: impl FnMut()) -> u64 {
    let begin = Instant::now();
    let mut count = 0;
    while begin.elapsed() < WHILE {
        let due = (begin.elapsed().as_secs_f64() * rate as f64) as u64;
        if count >= due {
            std::thread::sleep(Duration::from_micros(200));
        }
        // in small bursts, so that a slow sender ends in time
        let burst = due.saturating_sub(count).min(64);
        (0..burst).for_each(|_| act());
        count += burst;
    }
    count
}

fn base64(bytes: &[u8]) -> String {
    let text = bytes.iter().map(|byte| format!("\\{byte:03o}")).collect::<String>();
    run("sh", &["-c", &format!("printf '{text}' | base64 -w0")])
}

/// LD-01: 10,000 peers of which 1,000 become active.
pub fn peers(report: &mut Report) {
    let siege = Siege::start();
    report.figure("10,000 configured peers: resident set", siege.resident(), "MiB", Some(150.0));
    let before = siege.busy();
    std::thread::sleep(Duration::from_secs(10));
    report.figure("... idle: share of a core", (siege.busy() - before) * 10.0, "%", Some(0.1));
    let (mut engine, socket) = (siege.idle_peers(1000), siege.socket(2, "10.99.2.2:0"));
    let (took, cookies) = siege.shake(&mut engine, &socket, 1000);
    report.figure("... 1,000 of them shake hands", took.as_secs_f64(), "s", Some(10.0));
    report.figure("... how many were asked for a cookie", f64::from(cookies), "replies", None);
    report.figure("... with 1,000 active: resident set", siege.resident(), "MiB", Some(150.0));
}

/// LD-04, LD-05, LD-06, the handshake flood, and LD-07: a paced flow of 100 Mbit/s beside each.
pub fn floods(report: &mut Report) {
    let siege = Siege::start();
    let (lost, _, busy) = siege.flow(None);
    report.figure("100 Mbit/s alone: lost", lost, "%", Some(1.0));
    let (mut eve, socket) = (siege.idle_peers(1), siege.socket(2, "10.99.2.2:0"));
    siege.shake(&mut eve, &socket, 1);
    let mut garbage = [7; 148];
    garbage[..4].copy_from_slice(&1u32.to_le_bytes());
    let mut unknown = vec![9; 1400];
    unknown[..4].copy_from_slice(&4u32.to_le_bytes());
    let genuine = sealed(&mut eve);
    let mut bad = sealed(&mut eve);
    if let Some(last) = bad.last_mut() {
        *last ^= 1;
    }
    let mut stranger = siege.idle_peers(2);
    stranger.greet(&2, &0, Instant::now()).expect("both are known");
    let initiation = stranger.poll_transmit().expect("an initiation").datagram.to_vec();
    let begin = siege.resident();
    // an initiation with a right mac1 is answered with a cookie: its cost has no goal
    for (name, datagram, rate, goal, cost_goal) in [
        ("initiations with a wrong mac1", &garbage[..], 200_000, 10.0, Some(2.0)),
        ("data for nobody", &unknown, 200_000, 10.0, Some(2.0)),
        ("data with a known index that does not open", &bad, 200_000, 20.0, Some(2.0)),
        ("one data message again and again", &genuine, 200_000, 20.0, Some(2.0)),
        ("initiations with a wrong mac1, as many as can be", &garbage[..], FASTEST, 30.0, Some(2.0)),
        ("initiations with a right mac1", &initiation, 50_000, 10.0, None),
    ] {
        let eve = siege.eve();
        beside(report, &siege, name, (&mut || drop(eve.send(datagram)), rate), (goal, cost_goal, busy));
    }
    let (took, cookies) = siege.shake(&mut siege.idle_peers(1), &siege.socket(2, "10.99.2.2:0"), 1);
    report.figure("a handshake right after", took.as_secs_f64(), "s", Some(11.0));
    report.figure("... how often it was asked for a cookie", f64::from(cookies), "replies", None);
    // LD-07: a peer with a key of its own that sends what it may, from one port and from another one each time
    let mut mad = siege.idle_peers(1);
    siege.shake(&mut mad, &socket, 1);
    let eyes: Vec<UdpSocket> = (0..64).map(|_| siege.eve()).collect();
    for (name, ports) in [("data of another peer", 1), ("data of another peer that roams with each", 64)] {
        let mut ports = eyes.iter().take(ports).cycle();
        let mut send = || drop(ports.next().expect("a port").send(&sealed(&mut mad)));
        beside(report, &siege, name, (&mut send, 200_000), (10.0, None, busy));
    }
    report.figure("all floods: growth of the resident set", siege.resident() - begin, "MiB", Some(5.0));
}

/// The flow beside one flood; what is more than the flow alone takes of the processor is the flood's.
fn beside(
    report: &mut Report,
    siege: &Siege,
    name: &str,
    flood: Flood<'_>,
    (goal, cost_goal, alone): (f64, Option<f64>, f64),
) {
    let (lost, count, cost) = siege.flow(Some(flood));
    let rate = count as f64 / WHILE.as_secs_f64() / 1000.0;
    report.figure(&format!("{name}: how many came"), rate, "k/s", None);
    report.figure(&format!("{name}: lost of 100 Mbit/s"), lost, "%", Some(goal));
    let each = (cost - alone).max(0.0) / count.max(1) as f64 * 1e6;
    report.figure(&format!("{name}: processor time of each"), each, "µs", cost_goal);
}

/// Resident set of a process in MiB.
pub fn memory(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a resident set");
    line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).expect("a number") / 1024.0
}

/// A data message of an established session.
fn sealed(engine: &mut Engine<u32, u8>) -> Vec<u8> {
    let now = Instant::now();
    let mut packet = vec![0; 1400];
    packet[..4].copy_from_slice(&[0x45, 0, 0x05, 0x78]);
    packet[8..10].copy_from_slice(&[64, 17]);
    packet[12..20].copy_from_slice(&[10, 77, 0, 1, 10, 7, 0, 1]);
    let path = engine.path(&packet, now).expect("they have shaken hands");
    let mut datagram = vec![0; engine.sealed_length(packet.len())];
    datagram[HEADROOM..HEADROOM + packet.len()].copy_from_slice(&packet);
    let end = engine.seal_in_place(&path, &mut datagram, packet.len(), now).expect("it has room");
    datagram.truncate(end);
    datagram
}
