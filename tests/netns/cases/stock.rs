//! Stock peers: what wireguard-go and the Linux kernel's WireGuard make of us, and we of them.

use std::time::Duration;

use crate::shell::{eventually, run};
use crate::stock::{Kind, Link, PATIENCE, Setup, Stock};

pub const CASES: &[(&str, fn())] = &[
    ("pc_02_wireguard_go_both_roles_families_and_preshared_keys", || every_way(Kind::Go)),
    ("pc_02_kernel_wireguard_both_roles_families_and_preshared_keys", || every_way(Kind::Kernel)),
    ("pc_12_stock_peers_and_we_renew_keys_without_loss", renewals),
    ("pc_16_pc_17_ks_04_ks_15_wireguard_go_counters_and_keepalives", || counters(Kind::Go)),
    ("pc_16_pc_17_ks_04_ks_15_kernel_wireguard_counters_and_keepalives", || counters(Kind::Kernel)),
    ("pc_24_ks_08_ks_09_wireguard_go_roams_and_follows", || roaming(Kind::Go)),
    ("pc_24_ks_08_ks_09_kernel_wireguard_roams_and_follows", || roaming(Kind::Kernel)),
];

/// Lines `1` to this number are what is sent by TCP: 1.04 MB.
const LINES: u32 = 164_000;

const ONE: Setup = Setup { number: 0, we_begin: true, outer_v6: false, preshared: false };

/// Both roles, both outer families, with and without a preshared key: ping both ways in both inner families, and TCP.
fn every_way(kind: Kind) {
    let mut stock = Stock::start(kind);
    // a server whose own input ends would hang up
    let write = format!("seq 1 {LINES} >/run/lines; mkfifo /run/never");
    run("sh", &["-c", &write]);
    stock.must(&write.replace("mkfifo", "test -p /run/never || mkfifo"));
    for combination in 0..8 {
        let [we_begin, outer_v6, preshared] = [1, 2, 4].map(|bit| combination & bit != 0);
        let link = Link::up(&mut stock, Setup { number: 0, we_begin, outer_v6, preshared });
        for v6 in [false, true] {
            link.ping(&mut stock, we_begin, v6);
            link.ping(&mut stock, !we_begin, v6);
        }
        // the whole 100 MB once each way
        let times = if combination == 7 { 100 } else { 2 };
        from_us(&mut stock, outer_v6, times);
        to_us(&mut stock, !outer_v6, times);
        link.down(&mut stock);
    }
}

/// The file so many times by TCP, to the stock peer.
fn from_us(stock: &mut Stock, v6: bool, times: u32) {
    let to = if v6 { "fd07:0::2" } else { "10.7.0.2" };
    stock.must("rm -f /run/sum; (busybox nc -l -p 5001 <>/run/never | md5sum >/run/sum.new; mv /run/sum.new /run/sum) >/dev/null 2>&1 &");
    eventually("it listens", PATIENCE, || stock.ask("busybox netstat -ltn | grep -q :5001").0.then_some(()));
    stock.here(&format!("{} | busybox nc {to} 5001", lines(times)));
    let (sum, _) = eventually("it has all", PATIENCE, || Some(stock.ask("cat /run/sum")).filter(|answer| answer.0));
    assert_eq!(sum.1.split_whitespace().next(), wanted(times).split_whitespace().next(), "to the stock peer");
}

/// The file so many times by TCP, from the stock peer.
fn to_us(stock: &mut Stock, v6: bool, times: u32) {
    let to = if v6 { "fd07:0::1" } else { "10.7.0.1" };
    let listener = stock.beside("busybox nc -l -p 5002 <>/run/never | md5sum");
    eventually("we listen", PATIENCE, || stock.succeeds_here("busybox netstat -ltn | grep -q :5002").then_some(()));
    stock.must(&format!("{} | busybox nc {to} 5002", lines(times)));
    let output = listener.wait_with_output().expect("it ends");
    let sum = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(sum.split_whitespace().next(), wanted(times).split_whitespace().next(), "from the stock peer");
}

fn lines(times: u32) -> String {
    format!("(n=0; while [ $n -lt {times} ]; do cat /run/lines; n=$((n+1)); done)")
}

fn wanted(times: u32) -> String {
    run("sh", &["-c", &format!("{} | md5sum", lines(times))])
}

/// 130 s of traffic over four links: whoever began renews the key at 120 s, and not one ping is lost.
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
            pings.push(stock.beside(&format!("ping -q -i 0.2 -w 130 -W 3 10.7.{number}.2")));
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
    for (stock, pair) in stocks.iter_mut().zip(links.chunks(2)) {
        for (link, first) in pair {
            let now: u64 = link.shown(stock, "latest-handshakes")[0].parse().expect("a time");
            let began = if link.number == 1 { "we" } else { "it" };
            assert!((119..=124).contains(&(now - first)), "{began} began: renewed after {} s", now - first);
        }
    }
}

/// Exact byte counters; one keepalive for one-way data, whoever sends it; keepalives are not answered by keepalives.
fn counters(kind: Kind) {
    let mut stock = Stock::start(kind);
    let link = Link::up(&mut stock, Setup { we_begin: false, ..ONE });
    // KS-04 from the stock peer: 148 bytes of initiation and ten messages of 128; 92 of response and ten messages
    stock.must("ping -c 10 -i 0.2 -W 5 10.7.0.1");
    assert_eq!(link.transfer(&mut stock), [92 + 10 * 128, 148 + 10 * 128]);
    let shown: u64 = link.shown(&mut stock, "latest-handshakes")[0].parse().expect("a time");
    assert!(shown > 0);

    // PC-16: what it sends in vain is answered by one keepalive after 10 s, and by nothing else
    stock.here("echo 1 >/proc/sys/net/ipv4/icmp_echo_ignore_all");
    let before = link.transfer(&mut stock);
    assert!(!stock.ask("ping -c 1 -W 1 10.7.0.1").0);
    let (_, waited) = eventually("a keepalive comes", Duration::from_secs(14), || {
        (link.transfer(&mut stock) == [before[0] + 32, before[1] + 128]).then_some(())
    });
    assert!(waited > Duration::from_secs(7), "a keepalive after {waited:?}");
    // and the other way round: its keepalive keeps us from a new handshake
    stock.must("echo 1 >/proc/sys/net/ipv4/icmp_echo_ignore_all");
    let before = link.transfer(&mut stock);
    assert!(!stock.succeeds_here("ping -c 1 -W 1 10.7.0.2"));
    eventually("it keeps alive", Duration::from_secs(14), || {
        (link.transfer(&mut stock) == [before[0] + 128, before[1] + 32]).then_some(())
    });

    // PC-17, KS-15: a persistent keepalive of the stock peer, each second; we stay silent
    let before = link.transfer(&mut stock);
    stock.must(&format!("wg set wg0 peer {} persistent-keepalive 1", link.our_key));
    eventually("it says five times that it is there", Duration::from_secs(12), || {
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
    assert!(stock.succeeds_here("ping -c 1 -W 2 10.7.0.2"), "we do not follow its port");
    // KS-09: it comes by IPv6, and IPv4 is gone
    stock.must(&format!("wg set wg0 peer {} endpoint [fd99::1]:51840", link.our_key));
    link.ping(&mut stock, false, true);
    stock.must("ip addr del 10.99.0.2/24 dev eth0");
    assert!(stock.succeeds_here("ping -c 1 -W 2 10.7.0.2"), "we do not follow it to IPv6");
    assert_eq!(link.shown(&mut stock, "endpoints"), ["[fd99::1]:51840"]);
    // and we move by IPv6
    stock.here("ip addr add fd99::11/64 dev wire; ip addr del fd99::1/64 dev wire");
    link.ping(&mut stock, true, false);
    assert_eq!(link.shown(&mut stock, "endpoints"), ["[fd99::11]:51840"]);
}
