//! Node secret + identity + epoch -> keys: the same after every restart, others on every other node.

use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

use crate::frame::Writer;
use crate::name::Epoch;
use crate::spiffe::SpiffeId;
use crate::suite::Suite;

/// Size of a node secret, in bytes.
pub const NODE_SECRET_LENGTH: usize = 32;

/// What all keys of one node come from: 32 random bytes that are made on the node and never leave it.
///
/// Has neither `Debug` nor `Clone`, and is wiped when dropped.
pub struct NodeSecret(Zeroizing<[u8; NODE_SECRET_LENGTH]>);

impl NodeSecret {
    /// Takes bytes that were made by [`NodeSecret::generate`] before.
    #[must_use]
    pub fn from_bytes(bytes: [u8; NODE_SECRET_LENGTH]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Makes a secret; `fill` overwrites all bytes with cryptographic randomness.
    ///
    /// # Errors
    /// What `fill` answers.
    pub fn generate<E>(fill: impl FnOnce(&mut [u8; NODE_SECRET_LENGTH]) -> Result<(), E>) -> Result<Self, E> {
        let mut bytes = Zeroizing::new([0; NODE_SECRET_LENGTH]);
        fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// The secret itself, for the one file that keeps it.
    #[must_use]
    pub fn expose(&self) -> &[u8; NODE_SECRET_LENGTH] {
        &self.0
    }
}

/// Derives the WireGuard key of an identity on this node in an epoch. A node that speaks another suite has another key: what
/// its binding says of a key never changes.
#[must_use]
pub fn wireguard_key(
    secret: &NodeSecret,
    identity: &SpiffeId,
    node_uid: &str,
    epoch: Epoch,
    suite: Suite,
) -> StaticSecret {
    let label = match suite {
        Suite::ChaCha20Poly1305 => "weft wireguard v1",
        Suite::Aes256Gcm => "weft wireguard aes-256-gcm v1",
    };
    StaticSecret::from(*derive(secret, label, identity, node_uid, epoch))
}

/// Derives the seed of the Ed25519 key that an identity's X.509-SVID on this node speaks of.
#[must_use]
pub fn svid_seed(secret: &NodeSecret, identity: &SpiffeId, node_uid: &str, epoch: Epoch) -> Zeroizing<[u8; 32]> {
    derive(secret, "weft svid v1", identity, node_uid, epoch)
}

/// The Ed25519 public key of a seed.
///
/// # Panics
/// Never: every 32 bytes are a seed.
#[must_use]
pub fn svid_public_key(seed: &[u8; 32]) -> [u8; 32] {
    #[expect(clippy::expect_used, reason = "a seed of 32 bytes is the only condition, and the type has it")]
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("every 32 bytes are an Ed25519 seed");
    let mut public = [0; 32];
    public.copy_from_slice(pair.public_key().as_ref());
    public
}

/// The length of every derived key, as `ring` wants to be told.
struct KeyLength;

impl KeyType for KeyLength {
    fn len(&self) -> usize {
        32
    }
}

/// HKDF-SHA256 (RFC 5869) without salt: the secret is uniformly random. `info` is the five fields, length-prefixed.
fn derive(secret: &NodeSecret, label: &str, identity: &SpiffeId, node_uid: &str, epoch: Epoch) -> Zeroizing<[u8; 32]> {
    let info = Writer::new(label)
        .field(identity.trust_domain().as_str().as_bytes())
        .field(identity.to_string().as_bytes())
        .field(node_uid.as_bytes())
        .number(epoch.0)
        .into_bytes();
    let mut key = Zeroizing::new([0; 32]);
    let prk = Salt::new(HKDF_SHA256, &[]).extract(secret.expose());
    #[expect(clippy::expect_used, reason = "HKDF-SHA256 gives up to 255 * 32 bytes; 32 are asked for")]
    prk.expand(&[&info], KeyLength).and_then(|okm| okm.fill(&mut *key)).expect("32 bytes are within HKDF's limit");
    key
}

#[cfg(test)]
mod tests {
    use x25519_dalek::PublicKey;

    use super::*;

    fn secret() -> NodeSecret {
        NodeSecret::from_bytes(std::array::from_fn(|i| u8::try_from(i).unwrap()))
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The figures come from an independent computation: HMAC of Python's standard library as RFC 5869 says, and
    /// OpenSSL for the public keys. They may never change: a change is a new label.
    #[test]
    fn derived_keys_are_the_known_answers() {
        let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
        let uid = "2f0f4c7e-9a8d-4c52-8f5b-2f1f6a1a9c11";
        let key = wireguard_key(&secret(), &id, uid, Epoch(20_000), Suite::ChaCha20Poly1305);
        assert_eq!(hex(key.as_bytes()), "784e429292860168e65f5349f0de8527a8dd2cb886ba2a6ff1cf717a240f2c17");
        assert_eq!(
            hex(PublicKey::from(&key).as_bytes()),
            "324765601f15a6971060f533139dfa724ea1ee1f8ede68a43c868088740c5937"
        );
        let seed = svid_seed(&secret(), &id, uid, Epoch(20_000));
        assert_eq!(hex(&*seed), "58c6bfbb324fdf055b86de23ed190131a8f37a256b274c914ee21019d1c51831");
        assert_eq!(hex(&svid_public_key(&seed)), "f231667ebf96b1186d18304dd5037b524b74658679905859bd48b019d78dd233");
    }

    #[test]
    fn every_input_changes_the_key() {
        let of = |secret: &NodeSecret, id: &str, uid: &str, epoch| {
            *wireguard_key(secret, &id.parse().unwrap(), uid, Epoch(epoch), Suite::default()).as_bytes()
        };
        let base = of(&secret(), "spiffe://td/ns/a/sa/b", "u1", 7);
        assert_eq!(base, of(&secret(), "spiffe://td/ns/a/sa/b", "u1", 7));
        let others = [
            of(&NodeSecret::from_bytes([1; 32]), "spiffe://td/ns/a/sa/b", "u1", 7),
            of(&secret(), "spiffe://te/ns/a/sa/b", "u1", 7),
            of(&secret(), "spiffe://td/ns/a/sa/bu", "1", 7),
            of(&secret(), "spiffe://td/ns/a/sa/b", "u2", 7),
            of(&secret(), "spiffe://td/ns/a/sa/b", "u1", 8),
            *svid_seed(&secret(), &"spiffe://td/ns/a/sa/b".parse().unwrap(), "u1", Epoch(7)),
            *wireguard_key(&secret(), &"spiffe://td/ns/a/sa/b".parse().unwrap(), "u1", Epoch(7), Suite::Aes256Gcm)
                .as_bytes(),
        ];
        let distinct: std::collections::BTreeSet<_> = others.iter().chain([&base]).collect();
        assert_eq!(distinct.len(), 8);
    }

    #[test]
    fn a_failing_generator_makes_no_secret() {
        assert!(NodeSecret::generate(|_| Err("no entropy")).is_err());
        assert_eq!(
            NodeSecret::generate::<()>(|b| {
                b.fill(9);
                Ok(())
            })
            .map(|s| *s.expose()),
            Ok([9; 32])
        );
    }
}
