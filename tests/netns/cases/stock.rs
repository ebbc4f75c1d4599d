//! Stock peers: what wireguard-go and the Linux kernel's WireGuard make of us, and we of them.

use std::time::Duration;

use crate::shell::{eventually, run};
use crate::stock::{Kind, Link, PATIENCE, Setup, Stock};

pub const CASES: &[(&str, fn())] = &[
    ("pc_02_wireguard_go_both_roles_families_and_preshared_keys", || every_way(Kind::Go)),
    ("pc_02_kernel_wireguard_both_roles_families_and_preshared_keys", || every_way(Kind::Kernel)),
    ("ks_02_ks_03_wireguard_go_udp_at_any_rate_and_many_streams", || loads(Kind::Go)),
    ("ks_02_ks_03_kernel_wireguard_udp_at_any_rate_and_many_streams", || loads(Kind::Kernel)),
    ("ks_12_wireguard_go_a_tunnel_inside_the_tunnel", || nested(Kind::Go)),
    ("ks_12_kernel_wireguard_a_tunnel_inside_the_tunnel", || nested(Kind::Kernel)),
    ("ks_23_ks_24_our_source_is_what_was_addressed_until_nobody_answers_it", sources),
    ("pc_12_stock_peers_and_we_renew_keys_without_loss", renewals),
    ("pc_16_pc_17_ks_04_ks_15_wireguard_go_counters_and_keepalives", || counters(Kind::Go)),
    ("pc_16_pc_17_ks_04_ks_15_kernel_wireguard_counters_and_keepalives", || counters(Kind::Kernel)),
    ("pc_24_ks_08_ks_09_wireguard_go_roams_and_follows", || roaming(Kind::Go)),
    ("pc_24_ks_08_ks_09_kernel_wireguard_roams_and_follows", || roaming(Kind::Kernel)),
];

/// Two seconds of UDP as fast as its sender can are at least so many datagrams that arrive, on an emulated machine too.
const FLOOD_MIN: u32 = 200;

/// Lines `1` to this number are what is sent by TCP: 1.04 MB.
const LINES: u32 = 164_000;

const ONE: Setup = Setup { number: 0, we_begin: true, outer_v6: false, preshared: false, through: None };

/// Both roles, both outer families, with and without a preshared key: ping both ways in both inner families, and TCP.
fn every_way(kind: Kind) {
    let mut stock = Stock::start(kind);
    write_lines(&mut stock);
    for combination in 0..8 {
        let [we_begin, outer_v6, preshared] = [1, 2, 4].map(|bit| combination & bit != 0);
        let link = Link::up(&mut stock, Setup { we_begin, outer_v6, preshared, ..ONE });
        for v6 in [false, true] {
            link.ping(&mut stock, we_begin, v6);
            link.ping(&mut stock, !we_begin, v6);
        }
        // the whole 100 MB once each way
        let times = if combination == 7 { 100 } else { 2 };
        from_us(&mut stock, 0, outer_v6, times);
        to_us(&mut stock, 0, !outer_v6, times);
        link.down(&mut stock);
    }
}

/// The inner address of a host, 1 or 2, on a link.
fn address(number: u8, v6: bool, host: u8) -> String {
    if v6 { format!("fd07:{number}::{host}") } else { format!("10.7.{number}.{host}") }
}

/// The file so many times by TCP, to the stock peer.
fn from_us(stock: &mut Stock, number: u8, v6: bool, times: u32) {
    let to = address(number, v6, 2);
    stock.must("rm -f /run/sum; (busybox nc -l -p 5001 <>/run/never | md5sum >/run/sum.new; mv /run/sum.new /run/sum) >/dev/null 2>&1 &");
    eventually("it listens", PATIENCE, || stock.ask("busybox netstat -ltn | grep -q :5001").0.then_some(()));
    stock.here(&format!("{} | busybox nc {to} 5001", lines(times)));
    let (sum, _) = eventually("it has all", PATIENCE, || Some(stock.ask("cat /run/sum")).filter(|answer| answer.0));
    assert_eq!(sum.1.split_whitespace().next(), wanted(times).split_whitespace().next(), "to the stock peer");
}

/// The file so many times by TCP, from the stock peer.
fn to_us(stock: &mut Stock, number: u8, v6: bool, times: u32) {
    let to = address(number, v6, 1);
    let listener = stock.beside("busybox nc -l -p 5002 <>/run/never | md5sum");
    eventually("we listen", PATIENCE, || stock.succeeds_here("busybox netstat -ltn | grep -q :5002").then_some(()));
    stock.must(&format!("{} | busybox nc {to} 5002", lines(times)));
    let output = listener.wait_with_output().expect("it ends");
    let sum = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(sum.split_whitespace().next(), wanted(times).split_whitespace().next(), "from the stock peer");
}

/// Makes the file on both sides, and an input that never ends: a server whose own input ends would hang up.
fn write_lines(stock: &mut Stock) {
    let write = format!("seq 1 {LINES} >/run/lines; test -p /run/never || mkfifo /run/never");
    run("sh", &["-c", &write]);
    stock.must(&write);
}

fn lines(times: u32) -> String {
    format!("(n=0; while [ $n -lt {times} ]; do cat /run/lines; n=$((n+1)); done)")
}

fn wanted(times: u32) -> String {
    run("sh", &["-c", &format!("{} | md5sum", lines(times))])
}

/// 130 s of traffic over four links: whoever began renews the key at 120 s, and not one ping is lost. What gets lost of a
/// handshake costs nothing: the former key has a minute left.
fn renewals() {
    let mut stocks = [Kind::Go, Kind::Kernel].map(Stock::start);
    let mut pings = Vec::new();
    let mut links = Vec::new();
    for stock in &mut stocks {
        for we_begin in [true, false] {
            let number = u8::from(we_begin);
            let link = Link::up(stock, Setup { number, we_begin, ..ONE });
            link.ping(stock, we_begin, false);
            let first: u64 = link.shown(stock, "latest-handshakes")[0].parse().expect("a time");
            assert!(first > 0);
            pings.push(stock.beside(&format!("ping -q -i 0.2 -w 132 -W 3 10.7.{number}.2")));
            links.push((link, first));
        }
    }
    for ping in pings {
        let output = ping.wait_with_output().expect("ping ends");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lost = text.split(", ").find_map(|part| part.split_once("% packet loss")).map(|(lost, _)| lost.to_owned());
        // the one that is under way when the time is over does not count
        let counts: Vec<u32> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        assert!(counts[0] >= 600 && counts[0] - counts[1] <= 1, "lost {lost:?} %: {text}");
    }
    let mut renewed = Vec::new();
    for (stock, pair) in stocks.iter_mut().zip(links.chunks(2)) {
        for (link, first) in pair {
            let now: u64 = link.shown(stock, "latest-handshakes")[0].parse().expect("a time");
            renewed.push((if link.number == 1 { "we" } else { "it" }, now - first));
        }
    }
    println!("who began, and after how many seconds keys were renewed: {renewed:?}");
    // a stock peer may have shaken hands again 5 s after its first or its second one was answered (see `counters`). We do not; but
    // what a machine with two busy cores drops of ours comes again after as long
    assert!(renewed.iter().all(|(_, after)| (119..=131).contains(after)), "{renewed:?}");
    assert!(renewed.iter().any(|(who, after)| *who == "we" && *after <= 124), "{renewed:?}");
}

/// Exact byte counters; one keepalive for one-way data, whoever sends it; keepalives are not answered by keepalives.
///
/// We begin the handshake, for a stock peer that begins one may begin another 5 s later, although it was answered: it sets that timer
/// only after it has sent (`SendHandshakeInitiation` of wireguard-go's device/send.go, and the kernel's
/// wg_packet_send_handshake_initiation()), and where it has to wait for its processor in between the answer is there before.
fn counters(kind: Kind) {
    let mut stock = Stock::start(kind);
    let link = Link::up(&mut stock, ONE);
    // KS-04 from the stock peer: 148 bytes of initiation and 32 that prove the key, 92 of response, and eleven messages of 128
    stock.here("ping -c 1 -W 5 10.7.0.2");
    stock.must("ping -c 10 -i 0.2 -W 5 10.7.0.1");
    assert_eq!(link.transfer(&mut stock), [148 + 32 + 11 * 128, 92 + 11 * 128]);
    let shown: u64 = link.shown(&mut stock, "latest-handshakes")[0].parse().expect("a time");
    assert!(shown > 0);

    // PC-16: what it sends in vain is answered by one keepalive after 10 s, and by nothing else
    stock.here("echo 1 >/proc/sys/net/ipv4/icmp_echo_ignore_all");
    let before = link.transfer(&mut stock);
    assert!(!stock.ask("ping -c 1 -W 1 10.7.0.1").0);
    let mut seen = before;
    let (_, waited) = eventually("a keepalive comes", PATIENCE, || {
        seen = link.transfer(&mut stock);
        (seen[0] > before[0]).then_some(())
    });
    assert_eq!(seen, [before[0] + 32, before[1] + 128], "what it received and sent since {before:?}");
    assert!((7..25).contains(&waited.as_secs()), "a keepalive after {waited:?}");
    // and the other way round: its keepalive keeps us from a new handshake
    stock.must("echo 1 >/proc/sys/net/ipv4/icmp_echo_ignore_all");
    let before = link.transfer(&mut stock);
    assert!(!stock.succeeds_here("ping -c 1 -W 1 10.7.0.2"));
    eventually("it keeps alive", PATIENCE, || {
        seen = link.transfer(&mut stock);
        (seen[1] > before[1]).then_some(())
    });
    assert_eq!(seen, [before[0] + 128, before[1] + 32], "what it received and sent since {before:?}");

    // PC-17, KS-15: a persistent keepalive of the stock peer, each second; we stay silent
    let before = link.transfer(&mut stock);
    stock.must(&format!("wg set wg0 peer {} persistent-keepalive 1", link.our_key));
    eventually("it says five times that it is there", PATIENCE, || {
        (link.transfer(&mut stock)[1] >= before[1] + 5 * 32).then_some(())
    });
    assert_eq!(link.transfer(&mut stock)[0], before[0], "nothing is said to a keepalive");
}

/// Either side moves, within a family and across; the other follows what is authentic.
fn roaming(kind: Kind) {
    let mut stock = Stock::start(kind);
    let link = Link::up(&mut stock, ONE);
    link.ping(&mut stock, true, false);
    assert_eq!(link.shown(&mut stock, "endpoints"), ["10.99.0.1:51840"]);
    // KS-08: our address changes
    stock.here("ip addr add 10.99.0.11/24 dev wire; ip addr del 10.99.0.1/24 dev wire; ip addr add 10.99.0.11/24 dev wire 2>/dev/null || true");
    link.ping(&mut stock, true, true);
    assert_eq!(link.shown(&mut stock, "endpoints"), ["10.99.0.11:51840"]);
    // its port changes: we follow, since nobody is at the old one
    stock.must("wg set wg0 listen-port 51999");
    link.ping(&mut stock, false, false);
    // wireguard-go sends a datagram to `fd99::` now and then where families change (seen on the wire): it is asked again
    link.ping(&mut stock, true, false);
    // KS-09: it comes by IPv6, and IPv4 is gone
    stock.must(&format!("wg set wg0 peer {} endpoint [fd99::1]:51840", link.our_key));
    link.ping(&mut stock, false, true);
    stock.must("ip addr del 10.99.0.2/24 dev eth0");
    link.ping(&mut stock, true, false);
    assert_eq!(link.shown(&mut stock, "endpoints"), ["[fd99::1]:51840"]);
    // and we move by IPv6
    stock.here("ip addr add fd99::11/64 dev wire; ip addr del fd99::1/64 dev wire");
    link.ping(&mut stock, true, false);
    assert_eq!(link.shown(&mut stock, "endpoints"), ["[fd99::11]:51840"]);
}

/// UDP as fast as each side can, and many TCP streams at once, both ways, in both inner families.
fn loads(kind: Kind) {
    let mut stock = Stock::start(kind);
    write_lines(&mut stock);
    let link = Link::up(&mut stock, ONE);
    for v6 in [false, true] {
        link.ping(&mut stock, true, v6);
        udp_from_us(&mut stock, v6);
        udp_to_us(&mut stock, v6);
        let count = if v6 { 5 } else { 50 };
        streams_from_us(&mut stock, v6, count);
        streams_to_us(&mut stock, v6, count);
        assert!(stock.succeeds_here(&format!("ping -c 3 -W 5 {}", address(0, v6, 2))), "the link does not live on");
    }
}

/// Sends datagrams without a pause for two seconds, to a port that nobody has.
fn pour(to: &str) -> String {
    let family = if to.contains(':') { "AF_INET6" } else { "AF_INET" };
    format!(
        "python3 -c 'import socket,time\ns=socket.socket(socket.{family},socket.SOCK_DGRAM)\nend=time.monotonic()+2\nwhile time.monotonic()<end:\n for n in range(100):\n  s.sendto(bytes(n*13),(\"{to}\",5003))'"
    )
}

/// How many datagrams came for ports that nobody has.
const STRAY: [&str; 2] =
    ["sed -n 's/^Udp: [0-9]* \\([0-9]*\\) .*/\\1/p' /proc/net/snmp", "sed -n 's/^Udp6NoPorts *//p' /proc/net/snmp6"];

fn udp_from_us(stock: &mut Stock, v6: bool) {
    let stray = |stock: &mut Stock| stock.must(STRAY[usize::from(v6)]).trim().parse::<u32>().expect("a number");
    let before = stray(stock);
    stock.here(&pour(&address(0, v6, 2)));
    let count = stray(stock) - before;
    assert!(count >= FLOOD_MIN, "{count} datagrams came to the stock peer, IPv6: {v6}");
}

/// Prints how many datagrams of 1,200 zeros came until there was silence for two seconds.
const COUNT: &str = "import socket\n\
     s=socket.socket(socket.AF_INET6,socket.SOCK_DGRAM); s.bind((\"::\",5004)); n=0\n\
     try:\n\
     \x20while True: n+=s.recv(2000)==bytes(1200); s.settimeout(2)\n\
     except TimeoutError: print(n)";

/// The virtual machine's only program for this is bash, whose socket has one receiver, and takes its refusal for an error.
fn udp_to_us(stock: &mut Stock, v6: bool) {
    let counter = stock.beside(&format!("python3 -c '{COUNT}'"));
    eventually("we listen", PATIENCE, || stock.succeeds_here("busybox netstat -lun | grep -q :5004").then_some(()));
    let to = address(0, v6, 1);
    stock.ask(&format!("bash -c 'exec timeout 2 dd if=/dev/zero bs=1200 >/dev/udp/{to}/5004'"));
    let output = counter.wait_with_output().expect("it ends");
    let count: u32 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number");
    assert!(count >= FLOOD_MIN, "{count} datagrams came from the stock peer, IPv6: {v6}");
}

/// Servers for so many streams; each writes the sum of what it got.
fn servers(count: u32) -> String {
    format!(
        "for n in $(seq 1 {count}); do (busybox nc -l -p $((6000+n)) <>/run/never | md5sum >/run/sum-$n.new; mv /run/sum-$n.new /run/sum-$n) >/dev/null 2>&1 & done"
    )
}

fn clients(to: &str, count: u32) -> String {
    format!("for n in $(seq 1 {count}); do busybox nc {to} $((6000+n)) </run/lines >/dev/null & done; wait")
}

/// How many servers listen; how many sums there are; the different ones.
const LISTENING: &str = "busybox netstat -ltn | grep -c ':60[0-9][0-9] '";
const SUMS: &str = "ls /run/sum-* 2>/dev/null | grep -vc new; cat /run/sum-* | sort -u";

fn assert_sums(count: u32, ask: impl FnMut() -> String, what: &str) {
    let mut ask = ask;
    let (text, _) = eventually(what, PATIENCE, || Some(ask()).filter(|text| text.starts_with(&format!("{count}\n"))));
    let sums: Vec<&str> = text.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(sums, [wanted(1).split_whitespace().next().expect("a sum")], "{what}");
}

fn streams_from_us(stock: &mut Stock, v6: bool, count: u32) {
    stock.must(&format!("rm -f /run/sum-*; {}", servers(count)));
    eventually("it listens", PATIENCE, || stock.ask(LISTENING).1.trim().parse().ok().filter(|n: &u32| *n >= count));
    stock.here(&clients(&address(0, v6, 2), count));
    assert_sums(count, || stock.ask(SUMS).1, &format!("{count} streams to the stock peer, IPv6: {v6}"));
}

fn streams_to_us(stock: &mut Stock, v6: bool, count: u32) {
    let mut listeners = stock.beside(&format!("rm -f /run/sum-*; {}; wait", servers(count)));
    let listening = format!("test $({LISTENING}) -ge {count}");
    eventually("we listen", PATIENCE, || stock.succeeds_here(&listening).then_some(()));
    stock.must(&clients(&address(0, v6, 1), count));
    listeners.wait().expect("they end");
    assert_sums(count, || stock.here(SUMS), &format!("{count} streams from the stock peer, IPv6: {v6}"));
}

/// A link whose datagrams go through another link of the same two: everything works over it, too.
fn nested(kind: Kind) {
    let mut stock = Stock::start(kind);
    write_lines(&mut stock);
    let outer = Link::up(&mut stock, ONE);
    outer.ping(&mut stock, true, false);
    for outer_v6 in [false, true] {
        let number = 1 + u8::from(outer_v6);
        let inner = Link::up(&mut stock, Setup { number, outer_v6, through: Some(0), ..ONE });
        let before = outer.transfer(&mut stock);
        for v6 in [false, true] {
            inner.ping(&mut stock, true, v6);
            inner.ping(&mut stock, false, v6);
            from_us(&mut stock, number, v6, 2);
            to_us(&mut stock, number, v6, 2);
        }
        let after = outer.transfer(&mut stock);
        for (before, after) in before.into_iter().zip(after) {
            assert!(after > before + 4_000_000, "the inner link does not go through the outer: {before}, {after}");
        }
        inner.down(&mut stock);
    }
}

/// KS-23: an answer leaves from the address that was addressed, of whichever link. KS-24: when a better route appears, datagrams
/// take it; their source stays what the peer knows, until handshakes from there are not answered any more.
fn sources() {
    let mut stock = Stock::start(Kind::Go);
    stock.here("ip link add aside type veth peer name beside; ip link set beside up; ip link set aside up; ip addr add 10.98.0.1/24 dev aside; ip addr add fd98::1/64 dev aside");
    stock.must("ip route add 10.98.0.0/24 via 10.99.0.1; ip route add fd98::/64 via fd99::1");
    for (outer_v6, aside) in [(false, "10.98.0.1:51840"), (true, "[fd98::1]:51840")] {
        let link = Link::up(&mut stock, Setup { we_begin: false, outer_v6, ..ONE });
        stock.must(&format!("wg set wg0 peer {} endpoint {aside}", link.our_key));
        for from_us in [false, true] {
            link.ping(&mut stock, from_us, outer_v6);
            assert_eq!(link.shown(&mut stock, "endpoints"), [aside], "our answer left from another address");
        }
        link.down(&mut stock);
    }

    let link = Link::up(&mut stock, Setup { we_begin: false, ..ONE });
    link.ping(&mut stock, false, false);
    assert_eq!(link.shown(&mut stock, "endpoints"), ["10.99.0.1:51840"]);
    stock.second_wire();
    stock.here("ip route add 10.99.0.2/32 via 10.97.0.2");
    let sent = |stock: &Stock| {
        stock.here("cat /sys/class/net/wire2/statistics/tx_packets").trim().parse::<u32>().expect("a number")
    };
    let before = sent(&stock);
    link.ping(&mut stock, true, false);
    assert!(sent(&stock) > before, "the better route is not taken");
    assert_eq!(link.shown(&mut stock, "endpoints"), ["10.99.0.1:51840"], "what the peer knows still works");
    // now nothing comes back to that address any more, though it is still ours
    stock.must("ip route add blackhole 10.99.0.1/32");
    let (_, took) = eventually("another source is found", PATIENCE, || {
        stock.succeeds_here("ping -c 1 -W 1 10.7.0.2").then_some(())
    });
    assert!(took > Duration::from_secs(5), "it was never away: {took:?}");
    assert_eq!(link.shown(&mut stock, "endpoints"), ["10.97.0.1:51840"]);
}
