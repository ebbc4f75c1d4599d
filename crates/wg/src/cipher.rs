//! The cipher of data and handshakes: `ring`'s, in place, under keys that are overwritten when they are dropped.

use ring::aead::{AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroize;

use crate::hash::{Secret, hash};
use crate::message::TAG;

/// What a handshake with [`Suite::Aes256Gcm`] mixes in beside the preshared key, so that its transport keys are nobody
/// else's.
const AES_LABEL: &[u8] = b"weft data aes-256-gcm v1";

/// Which cipher seals the data of a session. Whoever speaks one speaks those before it, too. Handshakes are WireGuard's in
/// any case.
///
/// WireGuard has one. The other is spoken only between two keys whose holders are both known beforehand to speak it:
/// nothing on the wire names it, so that nobody on the path can choose it away or in. Decision 0020.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Suite {
    /// WireGuard's own (paper §5.4.6, RFC 8439): the only one that a stock peer speaks.
    #[default]
    ChaCha20Poly1305,
    /// AES-256-GCM (NIST SP 800-38D) with WireGuard's framing and counters: three times as fast where the processor has
    /// instructions for it.
    Aes256Gcm,
}

impl Suite {
    const fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            Self::Aes256Gcm => &AES_256_GCM,
        }
    }

    /// A key that has sealed this many messages is renewed. WireGuard's number (paper §6.1, `REKEY_AFTER_MESSAGES`); for AES
    /// a quarter of [`reject_after_messages`](Self::reject_after_messages).
    pub(crate) const fn rekey_after_messages(self) -> u64 {
        match self {
            Self::ChaCha20Poly1305 => 1 << 60,
            Self::Aes256Gcm => 1 << 26,
        }
    }

    /// A key that has sealed this many messages is used no more. WireGuard's number (§6.1, `REJECT_AFTER_MESSAGES`); for AES
    /// what RFC 9001 appendix B.1.1 allows AEAD_AES_256_GCM for packets of up to 2 KiB: an attacker gains no more than
    /// 2^-57. At 9 KiB a packet it is 2^-53.
    pub(crate) const fn reject_after_messages(self) -> u64 {
        match self {
            Self::ChaCha20Poly1305 => u64::MAX - (1 << 13),
            Self::Aes256Gcm => 1 << 28,
        }
    }

    /// The preshared key of a handshake whose data this suite will seal: two sides that do not mean the same suite cannot
    /// complete one.
    pub(crate) fn preshared(self, preshared: &[u8; 32]) -> Secret {
        match self {
            Self::ChaCha20Poly1305 => Secret::new(*preshared),
            Self::Aes256Gcm => Secret::new(hash(&[AES_LABEL, preshared])),
        }
    }
}

/// A key that can seal and open. It has no `Debug`, and is overwritten when dropped.
pub(crate) struct Cipher {
    key: LessSafeKey,
    /// Counters from here on are used no more.
    limit: u64,
}

impl Cipher {
    /// `None` only if the suite's keys were not of 32 bytes.
    pub(crate) fn new(suite: Suite, key: &Secret) -> Option<Self> {
        #[cfg(test)]
        watch::note(key);
        let key = LessSafeKey::new(UnboundKey::new(suite.algorithm(), &**key).ok()?);
        Some(Self { key, limit: suite.reject_after_messages() })
    }

    /// Whether a message with this counter may be sealed and opened.
    pub(crate) const fn allows(&self, counter: u64) -> bool {
        counter < self.limit
    }

    /// Seals `bytes` in place. A counter must not be used twice under one key.
    pub(crate) fn seal(&self, counter: u64, bound: &[u8], bytes: &mut [u8]) -> Option<[u8; TAG]> {
        let tag = self.key.seal_in_place_separate_tag(nonce(counter), Aad::from(bound), bytes).ok()?;
        tag.as_ref().try_into().ok()
    }

    /// Opens `sealed` in place, the tag at its end; what was sealed begins where `sealed` begins. `None`: it does not
    /// authenticate, and the bytes are worth nothing.
    pub(crate) fn open<'a>(&self, counter: u64, bound: &[u8], sealed: &'a mut [u8]) -> Option<&'a mut [u8]> {
        self.key.open_in_place(nonce(counter), Aad::from(bound), sealed).ok()
    }
}

/// `ring` does not overwrite its keys. The place of this one is filled with another key before it is given back.
impl Drop for Cipher {
    fn drop(&mut self) {
        let mut blank = [0; 32];
        if let Ok(blank) = UnboundKey::new(self.key.algorithm(), &blank) {
            self.key = LessSafeKey::new(blank);
            // seen by nobody, and therefore not left out
            std::hint::black_box(&self.key);
        }
        blank.zeroize();
    }
}

/// Four zeros and the counter, little end first (§5.4.6).
fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    let (_, low) = nonce.split_at_mut(4);
    low.copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(suite: Suite, length: usize) -> Vec<u8> {
        let cipher = Cipher::new(suite, &Secret::new([0; 32])).unwrap();
        let mut bytes = vec![0; length];
        let tag = cipher.seal(0, &[], &mut bytes).unwrap();
        bytes.extend(tag);
        bytes
    }

    /// Test cases 13 and 14 of the GCM specification (McGrew and Viega, appendix B): key, nonce and text all zeros.
    #[test]
    fn aes_gives_the_known_answers() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(&sealed(Suite::Aes256Gcm, 0)), "530f8afbc74536b9a963b4f1c4cb738b");
        let expected = "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919";
        assert_eq!(hex(&sealed(Suite::Aes256Gcm, 16)), expected);
    }

    #[test]
    fn suites_do_not_open_each_other_and_are_mixed_in_apart() {
        let chacha = Cipher::new(Suite::ChaCha20Poly1305, &Secret::new([0; 32])).unwrap();
        assert!(chacha.open(0, &[], &mut sealed(Suite::Aes256Gcm, 16)).is_none());
        assert_eq!(*Suite::ChaCha20Poly1305.preshared(&[7; 32]), [7; 32], "WireGuard's own is as it is");
        let mixed = [[0; 32], [7; 32]].map(|preshared| *Suite::Aes256Gcm.preshared(&preshared));
        assert!(mixed[0] != mixed[1] && !mixed.contains(&[0; 32]));
    }
}

/// Remembers, masked, every key that this thread made a cipher of: for the test that looks for them in memory.
#[cfg(test)]
pub(crate) mod watch {
    use std::cell::RefCell;

    use super::Secret;

    /// Every byte is masked with this.
    pub(crate) const MASK: u8 = 0xa5;

    thread_local! {
        static NOTED: RefCell<Vec<[u8; 32]>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn note(key: &Secret) {
        let mut masked = [MASK; 32];
        masked.iter_mut().zip(key.iter()).for_each(|(place, byte)| *place ^= byte);
        NOTED.with_borrow_mut(|noted| noted.push(masked));
    }

    /// What was noted until now.
    pub(crate) fn noted() -> Vec<[u8; 32]> {
        NOTED.with_borrow(Clone::clone)
    }
}
