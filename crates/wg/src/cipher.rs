//! The cipher of data and handshakes: `ring`'s, in place, under keys that are overwritten when they are dropped.

use ring::aead::{Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroize;

use crate::hash::Secret;
use crate::message::TAG;

/// Which cipher seals the data of a session.
///
/// WireGuard has one. A second one between our own nodes would be a variant here, named in both bindings and in what
/// the transport keys are derived from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Suite {
    /// WireGuard's own (paper §5.4.6, RFC 8439).
    #[default]
    ChaCha20Poly1305,
}

impl Suite {
    const fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        }
    }
}

/// A key that can seal and open. It has no `Debug`, and is overwritten when dropped.
pub(crate) struct Cipher {
    key: LessSafeKey,
}

impl Cipher {
    /// `None` only if the suite's keys were not of 32 bytes.
    pub(crate) fn new(suite: Suite, key: &Secret) -> Option<Self> {
        #[cfg(test)]
        watch::note(key);
        UnboundKey::new(suite.algorithm(), &**key).ok().map(|key| Self { key: LessSafeKey::new(key) })
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
