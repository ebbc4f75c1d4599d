//! A thousand peers at once: found in time, renewed one after the other, silent when nobody speaks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use super::world::{epoch, udp};
use crate::session::Session;
use crate::session_key::SessionKeys;
use crate::transport::{Opener, Sealer};
use crate::{Engine, Event, Handled, LocalConfig, LocalKey, PeerConfig, PublicKey, StaticSecret};

const PEERS: u16 = 1000;
const HUB: u16 = u16::MAX;

/// One engine with a thousand peers, and one with the thousand identities of those.
struct Storm {
    hub: Engine<u16, u16>,
    others: Engine<u16, u16>,
    now: Instant,
    delivered: usize,
    initiations: BTreeMap<Duration, usize>,
}

fn secret(number: u16) -> StaticSecret {
    let mut bytes = [9; 32];
    // not the first byte: of that three bits do not count
    bytes[1..3].copy_from_slice(&number.to_be_bytes());
    StaticSecret::from(bytes)
}

fn inner(number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    IpAddr::from([10, 1, high, low])
}

fn outer(number: u16) -> SocketAddr {
    let address = if number == HUB { [192, 0, 2, 1] } else { [192, 0, 2, 2] };
    SocketAddr::from((address, 51840))
}

fn local(number: u16) -> LocalConfig {
    LocalConfig {
        keys: vec![LocalKey { epoch: 1, secret: secret(number), suite: Default::default() }],
        addresses: BTreeSet::from([inner(number)]),
    }
}

fn peer(number: u16) -> PeerConfig {
    PeerConfig {
        keys: BTreeMap::from([(1, PublicKey::from(&secret(number)))]),
        endpoints: vec![outer(number)],
        allowed_ips: vec![inner(number).into()],
        suites: BTreeMap::new(),
        preshared_key: None,
    }
}

impl Storm {
    fn new() -> Self {
        let now = epoch();
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let (mut hub, mut others) = (Engine::new([1; 32], wall, now), Engine::new([2; 32], wall, now));
        hub.set_locals(BTreeMap::from([(HUB, local(HUB))]), now);
        hub.set_peers((0..PEERS).map(|number| (number, peer(number))).collect(), now);
        others.set_locals((0..PEERS).map(|number| (number, local(number))).collect(), now);
        others.set_peers(BTreeMap::from([(HUB, peer(HUB))]), now);
        Self { hub, others, now, delivered: 0, initiations: BTreeMap::new() }
    }

    /// Everybody says something to the hub, one after the other in so much time.
    fn say(&mut self, time: Duration) {
        for number in 0..PEERS {
            self.others.handle_packet(&udp(inner(number), inner(HUB), b"x"), self.now).unwrap();
            self.exchange();
            self.now += time / u32::from(PEERS);
        }
    }

    /// Whatever is to be sent arrives, until nothing is.
    fn exchange(&mut self) {
        let mut wire = Vec::new();
        loop {
            for (engine, from) in [(&mut self.hub, HUB), (&mut self.others, 0)] {
                while let Some(transmit) = engine.poll_transmit() {
                    if from != HUB && transmit.datagram[0] == 1 {
                        *self.initiations.entry(self.now - epoch()).or_default() += 1;
                    }
                    wire.push((from, transmit.datagram.to_vec()));
                }
            }
            if wire.is_empty() {
                return;
            }
            for (from, datagram) in wire.drain(..) {
                let to = if from == HUB { &mut self.others } else { &mut self.hub };
                let handled = to.handle_datagram(outer(from), &datagram, self.now).unwrap();
                self.delivered += usize::from(matches!(handled, Handled::Opened { .. }));
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        // as often as they want: each time they fill the queue of what is to be sent
        for _ in 0..4 {
            self.hub.handle_timeout(self.now);
            self.others.handle_timeout(self.now);
            self.exchange();
        }
    }
}

/// LD-01: a thousand identities shake hands with one in two seconds, and all are answered; then all their keys want to be
/// renewed at once, and it is spread: never more than 50 in a tenth of a second.
#[test]
fn ld_01_a_thousand_handshakes_and_a_spread_renewal() {
    let mut storm = Storm::new();
    storm.say(Duration::from_secs(2));
    assert_eq!((storm.delivered, storm.hub.occupancy().sessions), (1000, 1000));
    let (called, calling) = (*storm.hub.work(), *storm.others.work());
    assert_eq!((called.mac_trials, called.curve_operations, called.cookies), (1000, 5 * 1000, 0));
    assert_eq!(calling.curve_operations, 5 * 1000);
    storm.initiations.clear();
    for _ in 0..10 {
        storm.pass(Duration::from_secs(11));
        storm.say(Duration::ZERO);
    }
    assert!(storm.initiations.is_empty(), "{:?}", storm.initiations);
    storm.pass(epoch() + Duration::from_secs(125) - storm.now);
    for _ in 0..60 {
        storm.say(Duration::ZERO);
        storm.pass(Duration::from_millis(100));
    }
    assert_eq!(storm.initiations.values().sum::<usize>(), 1000, "each renewed once");
    assert!(storm.initiations.values().all(|count| *count <= 50), "{:?}", storm.initiations);
    assert!(*storm.initiations.last_key_value().unwrap().0 < Duration::from_secs(130));
    assert_eq!(storm.delivered, 1000 * (1 + 10 + 60), "and nothing was lost");
}

/// Sessions that nobody uses want to be woken twice: for the last keepalive, and for the end. Peers without a session
/// never.
#[test]
fn ld_01_idle_peers_cost_nothing() {
    let mut storm = Storm::new();
    assert_eq!((storm.hub.poll_timeout(), storm.others.poll_timeout()), (None, None));
    storm.say(Duration::from_secs(2));
    while storm.hub.poll_event().is_some() {}
    let mut wakes = 0;
    while let Some(next) = [storm.hub.poll_timeout(), storm.others.poll_timeout()].into_iter().flatten().min() {
        storm.pass(next - storm.now);
        wakes += 1;
    }
    assert!(wakes <= 3 * 2 * 1000, "{wakes} wakes of 2,000 sessions in three minutes");
    assert_eq!((storm.hub.occupancy().sessions, storm.others.occupancy().sessions), (0, 0));
    assert!(matches!(storm.hub.poll_event(), Some(Event::SessionRetired { .. })));
    assert!(storm.now - epoch() <= Duration::from_secs(200));
}

/// What a peer costs in bytes: a session without keys, and each key.
#[test]
fn sizes_are_what_the_documents_say() {
    let session = size_of::<Session>();
    assert!(session <= 640, "{session}");
    let (sealer, opener) = (size_of::<Sealer>(), size_of::<Opener>());
    assert!(sealer <= 640 && opener <= 664, "{sealer} {opener}");
    assert!(size_of::<SessionKeys>() <= 256);
    // and 850 bytes for the peer itself, and some for the tables: `cargo run --release -p wg --example cost`
    assert!(
        session + sealer + opener <= 1920,
        "{session} {sealer} {opener}: an idle peer that still has a key has 3 KB"
    );
}
