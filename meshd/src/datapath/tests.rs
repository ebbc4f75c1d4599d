//! Two data paths in two namespaces, with a real kernel on both sides of each and an ear on the wire between them.

mod mtu;
mod refused;
mod threads;
mod underlay;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command as Process;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use identity::SpiffeId;
use linux::netns::Netns;
use plan::PeerName;
use tokio::sync::mpsc::Receiver;
use wg::{LocalConfig, LocalKey, PeerConfig, Suite};
use x25519_dalek::{PublicKey, StaticSecret};

use super::{ClassPolicy, Config, Event, Handle, Order, SessionSnapshot, Snapshot, spawn};
use underlay::{Capture, contains, ip, own, two_nodes, udp_payloads};

/// The UDP port of every test's engines; each test has its own namespaces.
const PORT: u16 = 51_840;

/// What no packet on the wire may contain; 16 bytes, the most that `ping -p` takes.
const MARKER: &[u8; 16] = b"weft-clear-text!";

/// How long anything may take before the test fails; never waited for when all is well.
const PATIENCE: Duration = Duration::from_secs(10);

/// What these data paths are made with, unless a test says otherwise.
fn config() -> Config {
    Config {
        tun: "mesh0".to_owned(),
        port: PORT,
        mark: 0,
        mtu: 1420,
        offload: true,
        class: ClassPolicy::Fixed(0),
        probes: false,
        threads: 1,
    }
}

/// A node: namespace, data path, and one workload with an address of each family on loopback.
struct Node {
    netns: Netns,
    handle: Handle,
    events: Receiver<Event>,
    n: u8,
}

impl Node {
    fn start(netns: Netns, n: u8) -> Self {
        Self::start_with(netns, n, 1)
    }

    fn start_with(netns: Netns, n: u8, threads: usize) -> Self {
        Self::start_from(netns, n, &Config { threads, ..config() })
    }

    fn start_from(netns: Netns, n: u8, config: &Config) -> Self {
        let (handle, events) = netns.within(|| spawn(config)).unwrap().unwrap();
        for address in Self::addresses(n) {
            own(&netns, address);
        }
        let node = Self { netns, handle, events, n };
        node.set_routes();
        node
    }

    /// What the kernel shell does for the device.
    fn set_routes(&self) {
        ip(&self.netns, "link set mesh0 mtu 1420 up");
        let n = self.n;
        ip(&self.netns, &format!("route add 10.0.0.0/16 dev mesh0 src 10.0.{n}.1"));
        ip(&self.netns, &format!("route add fd00::/16 dev mesh0 src fd00:{n}::1"));
    }

    fn identity(n: u8) -> SpiffeId {
        format!("spiffe://test.example/ns/default/sa/workload-{n}").parse().unwrap()
    }

    fn secret(n: u8) -> StaticSecret {
        StaticSecret::from([n; 32])
    }

    fn addresses(n: u8) -> [IpAddr; 2] {
        [format!("10.0.{n}.1").parse().unwrap(), format!("fd00:{n}::1").parse().unwrap()]
    }

    /// Where node `n` is on the underlay.
    fn endpoint(n: u8, v6: bool) -> SocketAddr {
        let address = if v6 { format!("2001:db8::{n}") } else { format!("192.0.2.{n}") };
        SocketAddr::new(address.parse().unwrap(), PORT)
    }

    fn peer_name(n: u8) -> PeerName {
        PeerName { node: format!("n{n}").parse().unwrap(), identity: Self::identity(n) }
    }

    /// Gives the node its own identity and, at `endpoint`, the other's.
    fn introduce(&self, other: u8, endpoint: Option<SocketAddr>) {
        let keys = vec![LocalKey { epoch: 1, secret: Self::secret(self.n), suite: Suite::default() }];
        let local = LocalConfig { keys, addresses: Self::addresses(self.n).into() };
        self.handle.send(Order::SetLocals(BTreeMap::from([(Self::identity(self.n), local)]))).unwrap();
        let peer = PeerConfig {
            keys: BTreeMap::from([(1, PublicKey::from(&Self::secret(other)))]),
            endpoints: endpoint.into_iter().collect(),
            allowed_ips: Self::addresses(other).map(Into::into).into(),
            suites: BTreeMap::new(),
            preshared_key: None,
        };
        self.handle.send(Order::SetPeers(BTreeMap::from([(Self::peer_name(other), peer)]))).unwrap();
    }

    fn socket(&self, v6: bool) -> UdpSocket {
        let [v4_address, v6_address] = Self::addresses(self.n);
        let address = SocketAddr::new(if v6 { v6_address } else { v4_address }, 0);
        let socket = self.netns.within(|| UdpSocket::bind(address)).unwrap().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    fn drops(&self, label: &str) -> u64 {
        self.handle.counters().drops().find(|(shown, _)| *shown == label).unwrap().1
    }

    /// What came and went, was dropped and is agreed on, for a test that fails.
    fn account(&self) -> String {
        let counters = self.handle.counters();
        let drops: Vec<_> = counters.drops().filter(|(_, count)| *count > 0).collect();
        let (read, written, sent) = (counters.tun_read(), counters.tun_written(), counters.udp_sent());
        let sessions = self.snapshot().sessions;
        format!("node {}: read {read:?} written {written:?} sent {sent:?} dropped {drops:?} {sessions:#?}", self.n)
    }

    fn snapshot(&self) -> Snapshot {
        block_on(self.handle.snapshot()).unwrap()
    }

    /// Whether no packet came out of the TUN during a whole turn.
    fn is_quiet(&self) -> bool {
        let before = self.handle.counters().tun_read();
        self.snapshot();
        before == self.handle.counters().tun_read()
    }

    /// Lets the data thread go on until it is so; each question waits for a turn of it.
    fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(Instant::now() < deadline, "not so: {what}");
            self.snapshot();
        }
    }

    /// Lets the data thread go on until it reports this.
    fn wait_for(&mut self, what: &str, is_it: impl Fn(&Event) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.events.try_recv() {
                Ok(event) if is_it(&event) => return,
                Ok(_) => {}
                Err(_) => drop(self.snapshot()),
            }
            assert!(Instant::now() < deadline, "not reported: {what}");
        }
    }
}

/// Two nodes that know each other, by way of the underlay's IPv4 or IPv6.
fn pair(v6: bool) -> [Node; 2] {
    pair_of(v6, &config())
}

/// Two that are made with this.
fn pair_of(v6: bool, config: &Config) -> [Node; 2] {
    let [a, b] = two_nodes();
    let nodes = [Node::start_from(a, 1, config), Node::start_from(b, 2, config)];
    nodes[0].introduce(2, Some(Node::endpoint(2, v6)));
    nodes[1].introduce(1, Some(Node::endpoint(1, v6)));
    nodes
}

/// Sends the marker, `times` in a row, from one workload to the other; it has to arrive whole.
fn send(from: &Node, to: &Node, v6: bool, times: usize) {
    let (sender, receiver) = (from.socket(v6), to.socket(v6));
    let message = MARKER.repeat(times);
    sender.send_to(&message, receiver.local_addr().unwrap()).unwrap();
    assert_eq!(receive([from, to], &receiver), (message, sender.local_addr().unwrap()));
}

/// Waits for one message and its sender. If none comes, the two nodes say what they have dropped.
fn receive(nodes: [&Node; 2], socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut received = vec![0; 65_536];
    loop {
        match socket.recv_from(&mut received) {
            Ok((length, from)) => {
                received.truncate(length);
                return (received, from);
            }
            // a child of another test that ends interrupts the wait: a receive with a timeout is not restarted (signal(7))
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => panic!("no message arrives: {error}; {:#?}", nodes.map(Node::account)),
        }
    }
}

fn established(snapshot: &Snapshot) -> Vec<SessionSnapshot> {
    snapshot.sessions.iter().filter(|session| session.established).cloned().collect()
}

#[test]
fn f1_two_nodes_talk_and_the_wire_sees_ciphertext_only() {
    for outer_v6 in [false, true] {
        let [a, b] = pair(outer_v6);
        let capture = Capture::start(&a.netns);
        for inner_v6 in [false, true] {
            send(&a, &b, inner_v6, 1);
            send(&b, &a, inner_v6, 1);
            // longer than the device's MTU: fragments inside
            send(&a, &b, inner_v6, 200);
            let hex: String = MARKER.iter().map(|byte| format!("{byte:02x}")).collect();
            let target = Node::addresses(2)[usize::from(inner_v6)].to_string();
            let mut ping = Process::new("ping");
            ping.args(["-c", "3", "-i", "0.01", "-w", "10", "-p", &hex, &target]);
            let pinged = a.netns.within(|| ping.output().unwrap()).unwrap();
            assert!(pinged.status.success(), "{}", String::from_utf8_lossy(&pinged.stdout));
        }
        let to = if outer_v6 { "[2001:db8::2]:9" } else { "192.0.2.2:9" };
        let frames = capture.finish(&a.netns, to);
        assert!(!frames.iter().any(|frame| contains(frame, &MARKER[..])), "clear text on the wire");
        let messages = udp_payloads(&frames, PORT);
        let data = messages.iter().filter(|message| message[0] == 4).count();
        // fragments of one packet leave as one batch, which the wire here shows as one frame
        assert!(data >= 16, "only {data} data messages of {} frames", frames.len());
        assert!(messages.iter().all(|message| (1..=4).contains(&message[0])), "only WireGuard's four messages");

        let session = established(&a.snapshot()).remove(0);
        assert_eq!((session.local, session.peer), (Node::identity(1), Node::peer_name(2)));
        assert_eq!(session.endpoint, Some(Node::endpoint(2, outer_v6)));
        let ((read, _), (sent, bytes)) = (a.handle.counters().tun_read(), a.handle.counters().udp_sent());
        assert!(read >= 10 && sent >= read && bytes > 0);
    }
}

#[test]
fn the_first_packet_waits_for_the_handshake_and_arrives() {
    let [mut a, mut b] = pair(false);
    send(&a, &b, false, 1);
    for node in [&mut a, &mut b] {
        node.wait_for("a handshake", |event| matches!(event, Event::Engine(wg::Event::HandshakeCompleted { .. })));
    }
}

#[test]
fn id_a_withdrawn_peer_is_cut_off_at_once_and_nothing_clear_leaves() {
    let [a, b] = pair(false);
    send(&a, &b, false, 1);
    let capture = Capture::start(&a.netns);
    a.handle.send(Order::SetPeers(BTreeMap::new())).unwrap();
    assert!(a.snapshot().sessions.is_empty(), "the answer comes after the withdrawal");
    let (ours, theirs) = (a.socket(false), b.socket(false));
    let read = a.handle.counters().tun_read().0;
    ours.send_to(&MARKER[..], theirs.local_addr().unwrap()).unwrap();
    theirs.send_to(b"still there?", ours.local_addr().unwrap()).unwrap();
    a.until("the other side's packet was refused", || a.drops("unknown_index") >= 1);
    a.until("our own reached the engine", || a.handle.counters().tun_read().0 > read);
    ours.set_nonblocking(true).unwrap();
    assert!(ours.recv(&mut [0; 64]).is_err(), "opened with a withdrawn key");
    let frames = capture.finish(&a.netns, "192.0.2.2:9");
    assert!(!frames.iter().any(|frame| contains(frame, &MARKER[..])), "clear text on the wire");
}

#[test]
fn a_greeting_makes_a_session_without_a_packet() {
    let [mut a, b] = pair(false);
    let greeting = |peer| Order::Greet { local: Node::identity(1), peer: Node::peer_name(peer) };
    a.handle.send(greeting(7)).unwrap();
    a.handle.send(greeting(2)).unwrap();
    a.wait_for("a handshake", |event| matches!(event, Event::Engine(wg::Event::HandshakeCompleted { .. })));
    assert_eq!(established(&a.snapshot()).len(), 1);
    assert_eq!(b.handle.counters().tun_written(), (0, 0));
}

#[test]
fn the_kernel_may_choose_the_port_and_control_the_mtu() {
    let netns = Netns::create().unwrap();
    let config = Config { port: 0, mark: 0x0200_0000, ..config() };
    let (handle, _events) = netns.within(|| spawn(&config)).unwrap().unwrap();
    assert_ne!(handle.port(), 0);
    handle.send(Order::SetMtu(8_920)).unwrap();
    block_on(handle.snapshot()).unwrap();
    assert_eq!(handle.counters().events_lost(), 0);
}

#[test]
fn what_cannot_be_opened_is_named() {
    let netns = Netns::create().unwrap();
    let config = |tun: &str, port| Config { tun: tun.to_owned(), port, ..config() };
    let (first, _events) = netns.within(|| spawn(&config("mesh0", 0))).unwrap().unwrap();
    let taken = netns.within(|| spawn(&config("mesh1", first.port()))).unwrap().unwrap_err();
    assert!(format!("{taken:#}").contains(&first.port().to_string()), "{taken:#}");
    ip(&netns, "link add mesh2 type veth peer name other");
    let wrong = netns.within(|| spawn(&config("mesh2", 0))).unwrap().unwrap_err();
    assert!(format!("{wrong:#}").contains("ip link del mesh2"), "{wrong:#}");
}

#[test]
fn a_deleted_device_is_reported_and_opened_again() {
    let [mut a, b] = pair(false);
    send(&a, &b, false, 1);
    ip(&a.netns, "link del mesh0");
    a.wait_for("the device is gone", |event| *event == Event::TunGone);
    assert!(!a.snapshot().has_tun);
    // the other side's packets have nowhere to go, and harm nobody
    let (sender, target) = (b.socket(false), a.socket(false));
    sender.send_to(&MARKER[..], target.local_addr().unwrap()).unwrap();
    block_on(a.handle.open_tun()).unwrap();
    a.set_routes();
    send(&a, &b, true, 1);
    send(&b, &a, false, 1);
}

#[test]
fn kill_and_restart_find_the_device_with_its_routes() {
    let [a, b] = pair(false);
    send(&a, &b, false, 1);
    let Node { netns, handle, .. } = a;
    handle.stop();
    // the port is free again, and the device is still there
    let config = config();
    // another test may have forked just before: its child holds our socket until it has become another program
    let until = Instant::now() + Duration::from_secs(10);
    let (handle, events) = loop {
        match netns.within(|| spawn(&config)).unwrap() {
            Ok(started) => break started,
            Err(error) => assert!(Instant::now() < until, "the port is not free again: {error:#}"),
        }
        std::thread::yield_now();
    };
    let a = Node { netns, handle, events, n: 1 };
    a.introduce(2, Some(Node::endpoint(2, false)));
    send(&a, &b, false, 1);
}

#[test]
fn ks_22_a_reply_leaves_from_the_address_that_was_addressed() {
    for v6 in [false, true] {
        let [a, b] = pair(v6);
        let second: IpAddr = if v6 { "2001:db8::22" } else { "192.0.2.22" }.parse().unwrap();
        let bits = if v6 { "64 dev u0 nodad" } else { "24 dev u0" };
        ip(&b.netns, &format!("addr add {second}/{bits}"));
        a.introduce(2, Some(SocketAddr::new(second, PORT)));
        b.introduce(1, None);
        let capture = Capture::start(&a.netns);
        send(&a, &b, false, 1);
        send(&b, &a, false, 1);
        let session = a.snapshot().sessions.remove(0);
        assert_eq!(session.endpoint, Some(SocketAddr::new(second, PORT)), "nothing came from elsewhere");
        let frames = capture.finish(&a.netns, "192.0.2.2:9");
        let first = Node::endpoint(2, v6).ip();
        let octets = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let udp: Vec<_> = frames.iter().filter(|frame| !udp_payloads(&[frame.to_vec()], PORT).is_empty()).collect();
        assert!(udp.len() >= 4);
        // 14 bytes Ethernet; the source is at 12 of IPv4 and 8 of IPv6
        let start = if v6 { 22 } else { 26 };
        assert!(!udp.iter().any(|frame| frame[start..].starts_with(&octets(first))));
    }
}

#[test]
fn mf_10_an_endpoint_without_a_route_is_counted_and_others_go_on() {
    let [a, b] = pair(false);
    a.introduce(2, Some("203.0.113.1:1".parse().unwrap()));
    let sender = a.socket(false);
    sender.send_to(&MARKER[..], SocketAddr::new(Node::addresses(2)[0], 9)).unwrap();
    a.until("the error is counted", || a.drops("udp_unreachable") >= 1);
    a.introduce(2, Some(Node::endpoint(2, false)));
    send(&b, &a, false, 1);
}

#[test]
fn an_underlay_without_ipv6_is_enough() {
    let [a, b] = two_nodes();
    for netns in [&a, &b] {
        let path = "/proc/sys/net/ipv6/conf/u0/disable_ipv6";
        netns.within(|| std::fs::write(path, "1")).unwrap().unwrap();
    }
    let nodes = [Node::start(a, 1), Node::start(b, 2)];
    nodes[0].introduce(2, Some(Node::endpoint(2, false)));
    nodes[1].introduce(1, Some(Node::endpoint(1, false)));
    send(&nodes[0], &nodes[1], true, 1);
}

#[test]
fn a_loaded_wire_loses_no_order_and_no_byte() {
    let [a, b] = pair(false);
    send(&a, &b, false, 1);
    // far more than one burst each way at once: both directions finish
    let listen = |node: &Node| {
        let address = SocketAddr::new(Node::addresses(node.n)[0], 4_000);
        node.netns.within(|| std::net::TcpListener::bind(address)).unwrap().unwrap()
    };
    let (at_a, at_b) = (listen(&a), listen(&b));
    let payload: Vec<u8> = (0..4_000_000_u32).map(|n| (n % 251) as u8).collect();
    std::thread::scope(|scope| {
        for listener in [&at_a, &at_b] {
            let payload = &payload;
            scope.spawn(move || {
                let mut received = Vec::new();
                std::io::Read::read_to_end(&mut listener.accept().unwrap().0, &mut received).unwrap();
                assert!(received == *payload, "{} of {} bytes", received.len(), payload.len());
            });
        }
        for (from, to) in [(&a, &at_b), (&b, &at_a)] {
            let (payload, to) = (&payload, to.local_addr().unwrap());
            scope.spawn(move || {
                let mut stream = from.netns.within(|| std::net::TcpStream::connect(to)).unwrap().unwrap();
                std::io::Write::write_all(&mut stream, payload).unwrap();
            });
        }
    });
}

#[test]
fn mf_10_full_queues_drop_and_count_and_then_all_goes_on() {
    let [a, b] = pair(false);
    send(&a, &b, false, 1);
    let tc = |args: &str| {
        let done = a.netns.within(|| Process::new("tc").args(args.split(' ')).output().unwrap()).unwrap();
        assert!(done.status.success(), "tc {args}: {}", String::from_utf8_lossy(&done.stderr));
    };
    // a link so slow that what waits on it fills the socket's send buffer
    tc("qdisc add dev u0 root tbf rate 1mbit burst 1540 limit 1000mb");
    let (sender, target) = (a.socket(false), SocketAddr::new(Node::addresses(2)[0], 9));
    let deadline = Instant::now() + PATIENCE;
    while a.drops("udp_full") == 0 {
        assert!(Instant::now() < deadline, "the send buffer never fills");
        for _ in 0..100 {
            sender.send_to(&[0; 1_300], target).unwrap();
        }
        a.snapshot();
    }
    tc("qdisc del dev u0 root");
    a.until("the device's queue is empty", || a.drops("udp_full") >= 1 && a.is_quiet());
    send(&a, &b, false, 1);
    send(&b, &a, false, 1);
}
