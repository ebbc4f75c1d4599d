//! Initiations made by hand, from the WireGuard paper's words (§5.4.2) and other libraries than the engine's: what anybody
//! can do who knows public keys, and what a malicious peer can do with its own.

use blake2::digest::consts::U16;
use blake2::digest::{KeyInit, Mac};
use blake2::{Blake2s256, Blake2sMac, Digest};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::world::*;
use crate::key::tests::POINTS;
use crate::{DropReason, PublicKey};

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    parts.iter().fold(Blake2s256::new(), |hasher, part| hasher.chain_update(part)).finalize().into()
}

/// RFC 2104 with BLAKE2s, whose block is 64 bytes.
fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let pad = |with: u8| {
        let mut block = [with; 64];
        block.iter_mut().zip(key).for_each(|(place, byte)| *place ^= byte);
        block
    };
    let mut inner = vec![0; 0];
    inner.extend(pad(0x36));
    parts.iter().for_each(|part| inner.extend(*part));
    hash(&[&pad(0x5c), &hash(&[&inner])])
}

/// The next chaining key, and a key.
fn kdf(chain: &[u8; 32], input: &[u8]) -> ([u8; 32], [u8; 32]) {
    let secret = hmac(chain, &[input]);
    let next = hmac(&secret, &[&[1]]);
    (next, hmac(&secret, &[&next, &[2]]))
}

fn seal(key: &[u8; 32], text: &[u8], bound: &[u8; 32]) -> Vec<u8> {
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).unwrap());
    let mut sealed = text.to_vec();
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key([0; 12]), Aad::from(bound), &mut sealed).unwrap();
    sealed
}

/// An initiation.
struct Forgery {
    to: PublicKey,
    /// The static key that it claims to be from.
    claimed: PublicKey,
    ephemeral: [u8; 32],
    /// What the sender takes for the secret of its ephemeral key and the receiver's static key.
    ephemeral_shared: [u8; 32],
    /// And of both static keys.
    static_shared: [u8; 32],
}

impl Forgery {
    fn datagram(&self) -> Datagram {
        let chain = hash(&[b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"]);
        let bound = hash(&[&chain, b"WireGuard v1 zx2c4 Jason@zx2c4.com"]);
        let bound = hash(&[&hash(&[&bound, self.to.as_bytes()]), &self.ephemeral]);
        let (chain, _) = kdf(&chain, &self.ephemeral);
        let (chain, key) = kdf(&chain, &self.ephemeral_shared);
        let encrypted_static = seal(&key, self.claimed.as_bytes(), &bound);
        let bound = hash(&[&bound, &encrypted_static]);
        let (_, key) = kdf(&chain, &self.static_shared);
        let mut bytes = vec![1, 0, 0, 0, 0x11, 0x22, 0x33, 0x44];
        bytes.extend(self.ephemeral);
        bytes.extend(encrypted_static);
        bytes.extend(seal(&key, &[0x40; 12], &bound));
        let mac_key = hash(&[b"mac1----", self.to.as_bytes()]);
        let mac1 = <Blake2sMac<U16> as KeyInit>::new_from_slice(&mac_key).unwrap().chain_update(&bytes).finalize();
        bytes.extend(mac1.into_bytes());
        bytes.extend([0; 16]);
        Datagram { from: outer("alice"), to: outer("bob"), bytes }
    }

    /// Alice's, as she would make it herself.
    fn honest() -> Self {
        let ephemeral = secret("dave", 7);
        Self {
            to: public("bob", 1),
            claimed: public("alice", 1),
            ephemeral: *PublicKey::from(&ephemeral).as_bytes(),
            ephemeral_shared: ephemeral.diffie_hellman(&public("bob", 1)).to_bytes(),
            static_shared: secret("alice", 1).diffie_hellman(&public("bob", 1)).to_bytes(),
        }
    }
}

/// PC-01, one role: an initiation by another implementation is answered. It also shows that the forgeries below fail
/// for the right reason.
#[test]
fn pc_01_an_initiation_made_by_hand_is_answered() {
    let mut world = World::friends(&["alice", "bob"]);
    world.deliver(&Forgery::honest().datagram());
    let response = world.wire.pop_front().unwrap();
    assert_eq!((response.bytes.len(), &response.bytes[8..12]), (92, &[0x11, 0x22, 0x33, 0x44][..]));
}

/// Public keys are no secret: whoever knows Bob's and Alice's can get as far as Alice's name, and no further.
#[test]
fn claiming_anothers_static_key_leaves_no_trace() {
    let mut world = World::friends(&["alice", "bob"]);
    world.deliver(&Forgery { static_shared: [7; 32], ..Forgery::honest() }.datagram());
    assert_eq!(world.node("bob").drops, [DropReason::HandshakeInvalid]);
    assert_eq!(world.log, []);
    assert_eq!(world.node("bob").engine.occupancy().sessions, 0);
}

/// PC-27: a genuine peer with an ephemeral key of low order makes no session.
#[test]
fn pc_27_a_low_order_ephemeral_of_a_genuine_peer() {
    let mut world = World::friends(&["alice", "bob"]);
    for point in POINTS {
        let weak = Forgery { ephemeral: point, ephemeral_shared: [0; 32], ..Forgery::honest() };
        world.deliver(&weak.datagram());
    }
    assert_eq!(world.node("bob").drops, [DropReason::LowOrderKey; 7]);
    assert_eq!((world.log.len(), world.node("bob").engine.occupancy().sessions), (0, 0));
}

/// KS-31 from outside: our own static key in an initiation from outside is nobody's.
#[test]
fn an_initiation_by_our_own_key_is_nobodys() {
    let mut world = World::friends(&["alice", "bob"]);
    let shared = secret("bob", 1).diffie_hellman(&public("bob", 1)).to_bytes();
    let mut config = peer_config("carol", &[]);
    config.keys.insert(1, public("bob", 1));
    world.set_peer("bob", "carol", config);
    world.deliver(&Forgery { claimed: public("bob", 1), static_shared: shared, ..Forgery::honest() }.datagram());
    assert_eq!(world.node("bob").drops, [DropReason::UnknownKey]);
    assert_eq!(world.log, []);
}
