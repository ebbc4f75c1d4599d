//! The three functions that the handshake is made of: hash, keyed hash and key derivation, all of BLAKE2s.
//!
//! The primitives are those of the crates `blake2` and `hmac`; here is only how the WireGuard paper (§5.4) puts them
//! together.

use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, KeyInit, Mac, Update};
use blake2::{Blake2s256, Blake2sMac, Digest};
use hmac::SimpleHmac;
use zeroize::{Zeroize, Zeroizing};

/// How deep a handshake's calls go, and twice that, in bytes.
const SCRUBBED: usize = 32 << 10;

/// 32 bytes that are zeroed when they are dropped. No `Debug`.
pub(crate) type Secret = Zeroizing<[u8; 32]>;

/// Overwrites the part of the stack that the calls before have left: keys are moved through it, and only the place where
/// they end up is zeroed on drop. To be called where those calls were, and only after them: it takes about 2 µs.
#[inline(never)]
pub(crate) fn scrub_stack() {
    // in words: each is written singly
    let mut below = [0u64; SCRUBBED / size_of::<u64>()];
    below.zeroize();
    std::hint::black_box(&below);
}

/// `Hash` of the paper: BLAKE2s-256 over all parts.
pub(crate) fn hash(parts: &[&[u8]]) -> [u8; 32] {
    parts.iter().fold(Blake2s256::new(), |hasher, part| hasher.chain_update(part)).finalize().into()
}

/// `Hmac` of the paper: RFC 2104 with BLAKE2s, not BLAKE2s's own keyed mode.
pub(crate) fn hmac(key: &[u8], parts: &[&[u8]]) -> Secret {
    let mut mac = match <SimpleHmac<Blake2s256> as KeyInit>::new_from_slice(key) {
        Ok(mac) => mac,
        // RFC 2104 takes keys of any length
        Err(_length) => return Secret::default(),
    };
    for part in parts {
        Update::update(&mut mac, part);
    }
    Zeroizing::new(mac.finalize_fixed().into())
}

/// `Kdf` of the paper, as many outputs as are asked for.
pub(crate) fn kdf<const N: usize>(chain: &[u8], input: &[u8]) -> [Secret; N] {
    let key = hmac(chain, &[input]);
    let mut last: Option<Secret> = None;
    let mut number = 0u8;
    std::array::from_fn(|_| {
        number = number.wrapping_add(1);
        let output = match &last {
            None => hmac(&*key, &[&[number]]),
            Some(before) => hmac(&*key, &[&**before, &[number]]),
        };
        last = Some(output.clone());
        output
    })
}

/// `Mac` of the paper: BLAKE2s's own keyed mode, 16 bytes. The key is of 16 or 32 bytes.
pub(crate) fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    keyed(key, parts).map(|mac| mac.finalize().into_bytes().into()).unwrap_or_default()
}

/// Whether `tag` is the `Mac` of these parts, in constant time.
pub(crate) fn has_mac(key: &[u8], parts: &[&[u8]], tag: &[u8]) -> bool {
    keyed(key, parts).is_some_and(|mac| mac.verify_slice(tag).is_ok())
}

fn keyed(key: &[u8], parts: &[&[u8]]) -> Option<Blake2sMac<U16>> {
    let mut mac = <Blake2sMac<U16> as KeyInit>::new_from_slice(key).ok()?;
    for part in parts {
        Mac::update(&mut mac, part);
    }
    Some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    /// PC-01: BLAKE2s of RFC 7693 appendix B.
    #[test]
    fn pc_01_blake2s() {
        let abc = bytes("508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982");
        assert_eq!(hash(&[b"a", b"bc"]).to_vec(), abc);
    }

    /// PC-01: the key derivation of wireguard-go's `device/kdf_test.go`.
    #[test]
    fn pc_01_hmac_and_kdf() {
        for (key, input, outputs) in [
            (
                "746573742d6b6579",
                "746573742d696e707574",
                [
                    "6f0e5ad38daba1bea8a0d213688736f19763239305e0f58aba697f9ffc41c633",
                    "df1194df20802a4fe594cde27e92991c8cae66c366e8106aaa937a55fa371e8a",
                    "fac6e2745a325f5dc5d11a5b165aad08b0ada28e7b4e666b7c077934a4d76c24",
                ],
            ),
            (
                "776972656775617264",
                "776972656775617264",
                [
                    "491d43bbfdaa8750aaf535e334ecbfe5129967cd64635101c566d4caefda96e8",
                    "1e71a379baefd8a79aa4662212fcafe19a23e2b609a3db7d6bcba8f560e3d25f",
                    "31e1ae48bddfbe5de38f295e5452b1909a1b4e38e183926af3780b0c1e1f0160",
                ],
            ),
            (
                "",
                "",
                [
                    "8387b46bf43eccfcf349552a095d8315c4055beb90208fb1be23b894bc2ed5d0",
                    "58a0e5f6faefccf4807bff1f05fa8a9217945762040bcec2f4b4a62bdfe0e86e",
                    "0ce6ea98ec548f8e281e93e32db65621c45eb18dc6f0a7ad94178610a2f7338e",
                ],
            ),
        ] {
            let derived = kdf::<3>(&bytes(key), &bytes(input)).map(|output| output.to_vec());
            assert_eq!(derived.to_vec(), outputs.map(bytes).to_vec());
            let [first] = kdf::<1>(&bytes(key), &bytes(input));
            assert_eq!(first.to_vec(), bytes(outputs[0]), "fewer outputs are the first ones");
        }
    }

    #[test]
    fn a_mac_fits_its_key_and_its_parts_only() {
        let tag = mac(&[7; 32], &[b"a", b"b"]);
        assert!(has_mac(&[7; 32], &[b"ab"], &tag));
        assert!(!has_mac(&[7; 16], &[b"ab"], &tag));
        assert!(!has_mac(&[7; 32], &[b"abc"], &tag));
        assert!(!has_mac(&[7; 32], &[b"ab"], &tag[..15]));
    }
}
