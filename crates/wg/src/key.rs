//! Keys as the engine is given them, and the public keys that nobody may have.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use x25519_dalek::{PublicKey, StaticSecret};

use crate::cipher::Suite;
use crate::hash::Secret;

/// A private key of a local identity. It has no `Debug`: it reaches no log.
#[derive(Clone)]
pub struct LocalKey {
    /// Rises with each rotation; the newest key has the greatest.
    pub epoch: u64,
    /// The private key itself.
    pub secret: StaticSecret,
    /// The best cipher that this key's binding says we speak.
    pub suite: Suite,
}

/// A local identity: who we are, with which keys, at which inner addresses.
#[derive(Clone, Default)]
pub struct LocalConfig {
    /// Live keys, newest last; empty while no binding is known. During rotation there are two.
    pub keys: Vec<LocalKey>,
    /// Inner addresses of this identity's workloads here. An address that two identities claim belongs to neither.
    pub addresses: BTreeSet<IpAddr>,
}

/// A secret that both sides of a peer's sessions mix into every handshake (WireGuard paper §5.2). Zeroed when it is dropped; it has
/// no `Debug`: it reaches no log.
#[derive(Clone, PartialEq, Eq)]
pub struct PresharedKey(Secret);

impl PresharedKey {
    /// These 32 bytes. All zeros are the same as no preshared key.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Secret::new(bytes))
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A remote (node, identity).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PeerConfig {
    /// Verified public keys by epoch; empty while no binding is known. Low-order keys and our own are ignored, and a key
    /// that two peers claim is the one's who claimed it first.
    pub keys: BTreeMap<u64, PublicKey>,
    /// By epoch, the best cipher that the key's binding says its holder speaks; WireGuard's own where nothing is said. A
    /// change counts from the next handshake on.
    pub suites: BTreeMap<u64, Suite>,
    /// Where to begin, best first. An endpoint from which the peer has proven itself is kept, until this list changes
    /// from naming it to not naming it.
    pub endpoints: Vec<SocketAddr>,
    /// Inner prefixes of this peer. A prefix that two peers claim belongs to neither.
    pub allowed_ips: Vec<IpNet>,
    /// The secret shared with this peer beforehand, if there is one. A new one counts from the next handshake on.
    pub preshared_key: Option<PresharedKey>,
}

impl fmt::Debug for PeerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerConfig")
            .field("keys", &self.keys)
            .field("suites", &self.suites)
            .field("endpoints", &self.endpoints)
            .field("allowed_ips", &self.allowed_ips)
            .finish_non_exhaustive()
    }
}

/// The encodings of Curve25519 points of small order, as X25519 reads them (top bit cleared, RFC 7748 §5):
/// <https://cr.yp.to/ecdh.html#validate>.
const LOW_ORDER: [[u8; 32]; 7] = [
    [0; 32],
    little(1, 0, 0),
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
        0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44,
        0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ],
    little(0xec, 0xff, 0x7f),
    little(0xed, 0xff, 0x7f),
    little(0xee, 0xff, 0x7f),
];

/// A number of 32 bytes, little end first: its first byte, all the middle ones, its last.
const fn little(first: u8, middle: u8, last: u8) -> [u8; 32] {
    let mut bytes = [middle; 32];
    let [low, .., high] = &mut bytes;
    *low = first;
    *high = last;
    bytes
}

/// Whether a shared secret with this public key would be the same for everybody.
#[must_use]
pub fn is_low_order(key: &[u8; 32]) -> bool {
    let mut canonical = *key;
    let [.., high] = &mut canonical;
    *high &= 0x7f;
    LOW_ORDER.contains(&canonical)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const POINTS: [[u8; 32]; 7] = LOW_ORDER;

    #[test]
    fn the_table_is_exactly_of_low_order() {
        let secret = StaticSecret::from([7; 32]);
        for point in POINTS {
            assert!(!secret.diffie_hellman(&PublicKey::from(point)).was_contributory(), "{point:02x?}");
            assert!(is_low_order(&point));
            let mut high_bit = point;
            high_bit[31] |= 0x80;
            assert!(!secret.diffie_hellman(&PublicKey::from(high_bit)).was_contributory());
            assert!(is_low_order(&high_bit));
        }
        assert!(!is_low_order(PublicKey::from(&secret).as_bytes()));
        assert!(!is_low_order(&little(9, 0, 0)), "the base point");
    }
}
