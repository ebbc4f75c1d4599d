//! The invariants: what was sent, what came out, and what was on the wire. A breach panics.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use plan::PeerName;
use wg::{EVENTS_MAX, Occupancy, SESSIONS_MAX};

use crate::net::Datagram;
use crate::payload::{MARKER, id_of};

/// `REJECT_AFTER_TIME` of WireGuard (180 s): no key seals longer. The key is born when its handshake ends, which the
/// wire does not show; its first data message is at most that late.
const KEY_LIFE: Duration = Duration::from_secs(180);

/// A packet that a workload gave to its node.
#[derive(Clone)]
pub struct Sent {
    pub at: Duration,
    pub packet: Vec<u8>,
    /// Who really sent it.
    pub by: PeerName,
    /// UIDs of the two workloads.
    pub pair: (String, String),
    /// It pretends to come from somebody else.
    pub forged: bool,
    pub delivered: bool,
}

#[derive(Default)]
pub struct Ledger {
    pub sent: BTreeMap<u64, Sent>,
    nonces: BTreeSet<(SocketAddr, u32, u64)>,
    keys: BTreeMap<(SocketAddr, u32), Duration>,
    pub delivered: u64,
    pub handshakes: u64,
    /// Packets of traitors.
    pub lies: u64,
    /// When each pair of workloads first heard of each other after a moment that is being asked about.
    pub first: BTreeMap<(String, String), Duration>,
    /// Why engines dropped datagrams.
    pub drops: BTreeMap<&'static str, u64>,
    /// Everything that happened, folded into one number.
    pub trace: u64,
}

impl Ledger {
    pub fn note(&mut self, what: u64) {
        self.trace = (self.trace.rotate_left(7) ^ what).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// i1, i4: a node sends nothing but WireGuard messages, seals under each key and counter once, and under no old key.
    pub fn wire(&mut self, datagram: &Datagram, at: Duration) {
        let bytes = &datagram.bytes;
        assert!(
            !bytes.windows(MARKER.len()).any(|window| window == MARKER),
            "i1: clear text on the wire: {datagram:?}"
        );
        let word = |from: usize| u32::from_le_bytes(bytes[from..from + 4].try_into().unwrap());
        let length = bytes.len();
        match (word(0), length) {
            (1, 148) => self.handshakes += 1,
            (2, 92) | (3, 64) => {}
            (4, 32..) => {
                let counter = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
                let key = (datagram.from, word(4));
                assert!(self.nonces.insert((key.0, key.1, counter)), "i4: counter {counter} of {key:?} is used twice");
                let born = *self.keys.entry(key).or_insert(at);
                assert!(at <= born + KEY_LIFE, "i4: the key {key:?} of {born:?} is still used at {at:?}");
            }
            other => panic!("i1: not a WireGuard message: (type, length) is {other:?}"),
        }
        self.note(u64::from(word(0)) << 32 | u64::try_from(length).unwrap());
        self.note(u64::try_from(at.as_micros()).unwrap());
    }

    /// What came out of a tunnel was put in, once, and by whom the receiver believes it was.
    pub fn delivery(&mut self, packet: &[u8], peer: &PeerName) -> Sent {
        let id = id_of(packet).unwrap_or_else(|| panic!("delivered, and nobody sent it: {packet:02x?}"));
        let sent = self.sent.get_mut(&id).unwrap_or_else(|| panic!("delivered, and nobody sent it: number {id}"));
        assert_eq!(sent.packet, packet, "packet {id} was changed on its way");
        assert!(!sent.delivered, "packet {id} was delivered twice");
        assert_eq!(&sent.by, peer, "i2: packet {id} is taken for another sender's");
        sent.delivered = true;
        self.delivered += 1;
        sent.clone()
    }

    /// Notes who heard of whom.
    pub fn arrived(&mut self, sent: &Sent, at: Duration) {
        if !sent.forged {
            self.first.entry(sent.pair.clone()).or_insert(at);
        }
    }

    /// i5, step by step: nothing is over its bound.
    pub fn occupancy(now: &Occupancy, events: usize) {
        assert!(now.held <= 256 && now.staged <= 4096 && now.parked <= 64, "i5: {now:?}");
        assert!(now.sessions <= SESSIONS_MAX && events <= EVENTS_MAX, "i5: {now:?}");
    }
}
