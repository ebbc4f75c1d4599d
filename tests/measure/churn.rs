//! What peers leave behind that come and go, in an engine alone and on a clock that jumps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use wg::{Engine, LocalConfig, LocalKey, PeerConfig, PublicKey, StaticSecret};

use crate::attack::{idle_address, memory};
use crate::report::Report;

/// LD-08: what ten minutes of 200 peers a second that go and as many that come leave behind, on a clock that jumps: a table of a
/// thousand, and a tenth of the newcomers shake hands.
pub fn churn(report: &mut Report) {
    const STEPS: u32 = 600;
    const WHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 99, 2, 1)), 51_840);
    let (mut now, clock) = (Instant::now(), SystemTime::now());
    let secret = |number: u32| {
        let mut secret = [0x66; 32];
        secret[..4].copy_from_slice(&number.to_be_bytes());
        StaticSecret::from(secret)
    };
    let peer = |key: PublicKey, address: IpAddr| PeerConfig {
        keys: BTreeMap::from([(1, key)]),
        endpoints: vec![WHERE],
        allowed_ips: vec![address.into()],
        suites: BTreeMap::new(),
        preshared_key: None,
    };
    let local = |number: u32, address: IpAddr| LocalConfig {
        keys: vec![LocalKey { epoch: 1, secret: secret(number), suite: Default::default() }],
        addresses: BTreeSet::from([address]),
    };
    let (own, ours) = (u32::MAX, IpAddr::from([10, 7, 0, 1]));
    let mut hub: Engine<u32, u32> = Engine::new([1; 32], clock, now);
    hub.set_locals(BTreeMap::from([(own, local(own, ours))]), now);
    let hub_key = PublicKey::from(&secret(own));
    let (mut table, mut settled) = (BTreeMap::new(), 0.0);
    let begin = Instant::now();
    for step in 0..STEPS {
        now += Duration::from_secs(1);
        for number in step * 200..(step + 1) * 200 {
            table.insert(number, peer(PublicKey::from(&secret(number)), idle_address(number)));
        }
        while table.len() > 1000 {
            table.pop_first();
        }
        hub.handle_timeout(now);
        hub.set_peers(table.clone(), now);
        for number in (step * 200..(step + 1) * 200).step_by(10) {
            let mut other: Engine<u32, u32> = Engine::new([2; 32], clock, now);
            other.set_locals(BTreeMap::from([(number, local(number, idle_address(number)))]), now);
            other.set_peers(BTreeMap::from([(own, peer(hub_key, ours))]), now);
            other.greet(&number, &own, now).expect("both are known");
            let initiation = other.poll_transmit().expect("an initiation").datagram.to_vec();
            drop(hub.handle_datagram(WHERE, &initiation, now));
            let Some(response) = hub.poll_transmit().map(|transmit| transmit.datagram.to_vec()) else { continue };
            drop(other.handle_datagram(WHERE, &response, now));
            while let Some(transmit) = other.poll_transmit() {
                drop(hub.handle_datagram(WHERE, transmit.datagram, now));
            }
        }
        while hub.poll_transmit().is_some() {}
        while hub.poll_event().is_some() {}
        if step == STEPS / 6 {
            settled = memory(std::process::id());
        }
    }
    let took = begin.elapsed().as_secs_f64();
    report.figure(
        "120,000 peers come and go: growth of the resident set after 20,000",
        memory(std::process::id()) - settled,
        "MiB",
        Some(1.0),
    );
    report.figure("... sessions at the end", hub.occupancy().sessions as f64, "sessions", None);
    report.figure("... how long that took, the other sides' handshakes included", took, "s", None);
}
