//! PC-01: what others have computed before us. BLAKE2s, HMAC and the key derivation are in `hash.rs`.

use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, XChaCha20Poly1305};
use zeroize::Zeroizing;

use crate::cipher::{Cipher, Suite};
use crate::hash::hash;
use crate::noise::agree;
use crate::{PublicKey, StaticSecret};

fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    let all: Vec<u8> = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    all.try_into().unwrap()
}

/// RFC 7748 §5.2.
#[test]
fn pc_01_x25519() {
    for (scalar, point, product) in [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ] {
        let shared = agree(&StaticSecret::from(bytes(scalar)), &PublicKey::from(bytes(point))).unwrap();
        assert_eq!(*shared, bytes::<32>(product));
    }
}

/// KS-32: bits that the curve does not want make no difference, however a key is written down.
#[test]
fn ks_32_keys_are_clamped() {
    let raw = [0xff; 32];
    let mut clamped = raw;
    clamped[0] &= 248;
    clamped[31] = clamped[31] & 127 | 64;
    assert_ne!(raw, clamped);
    assert_eq!(PublicKey::from(&StaticSecret::from(raw)), PublicKey::from(&StaticSecret::from(clamped)));
    let peer = PublicKey::from(&StaticSecret::from([5; 32]));
    assert_eq!(*agree(&StaticSecret::from(raw), &peer).unwrap(), *agree(&StaticSecret::from(clamped), &peer).unwrap());
}

/// RFC 8439 §A.5, the only vector of it whose nonce begins as WireGuard's do: its plaintext gives its tag.
#[test]
fn pc_01_chacha20_poly1305() {
    let key = Zeroizing::new(bytes("1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0"));
    let mut text = "Internet-Drafts are draft documents valid for a maximum of six months and may be updated, replaced, or \
                    obsoleted by other documents at any time. It is inappropriate to use Internet-Drafts as reference material \
                    or to cite them other than as /\u{201c}work in progress./\u{201d}"
        .as_bytes()
        .to_vec();
    let bound: [u8; 12] = bytes("f33388860000000000004e91");
    let tag = Cipher::new(Suite::ChaCha20Poly1305, &key).unwrap().seal(0x0807_0605_0403_0201, &bound, &mut text);
    assert_eq!(text[..8], bytes::<8>("64a0861575861af4"));
    assert_eq!(tag.unwrap(), bytes::<16>("eead9d67890cbb22392336fea1851f38"));
}

/// The cipher against another implementation of it, at every length and far into the counters.
#[test]
fn pc_01_two_implementations_of_the_cipher_agree() {
    let key = Zeroizing::new([9; 32]);
    let (ours, other) = (Cipher::new(Suite::ChaCha20Poly1305, &key).unwrap(), ChaCha20Poly1305::new((&*key).into()));
    for length in (0..300).chain([1420, 1500]) {
        let counter = u64::MAX / 301 * u64::try_from(length % 301).unwrap();
        let mut text = vec![0x42; length];
        let mut copy = text.clone();
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&counter.to_le_bytes());
        let tag = ours.seal(counter, b"bound", &mut text).unwrap();
        let wanted = other.encrypt_in_place_detached((&nonce).into(), b"bound", &mut copy).unwrap();
        assert_eq!((text, tag.to_vec()), (copy, wanted.to_vec()), "{length} bytes");
    }
}

/// The cipher of cookies: draft-irtf-cfrg-xchacha-03 §A.3.1.
#[test]
fn pc_01_xchacha20_poly1305() {
    let key: [u8; 32] = bytes("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f");
    let nonce: [u8; 24] = bytes("404142434445464748494a4b4c4d4e4f5051525354555657");
    let mut text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.".to_vec();
    let bound: [u8; 12] = bytes("50515253c0c1c2c3c4c5c6c7");
    let cipher = XChaCha20Poly1305::new(&key.into());
    let tag = cipher.encrypt_in_place_detached((&nonce).into(), &bound, &mut text).unwrap();
    assert_eq!(text[..8], bytes::<8>("bd6d179d3e83d43b"));
    assert_eq!(tag.to_vec(), bytes::<16>("c0875924c1c7987947deafd8780acf49"));
}

/// Where every handshake begins: the two constants that other implementations have as bytes.
#[test]
fn pc_01_the_handshakes_beginning() {
    let chain = hash(&[b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"]);
    assert_eq!(chain, bytes("60e26daef327efc02ec335e2a025d2d016eb4206f87277f52d38d1988b78cd36"));
    let bound = hash(&[&chain, b"WireGuard v1 zx2c4 Jason@zx2c4.com"]);
    assert_eq!(bound, bytes("2211b361081ac566691243db458ad5322d9c6c662293e8b70ee19c65ba079ef3"));
}
