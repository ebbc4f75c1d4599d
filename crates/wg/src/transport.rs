//! The two halves of a session key, which share nothing: one seals and counts, the other opens and remembers.
//!
//! Both work in place, in buffers of the caller: 16 bytes in front of the packet for the header, 16 behind it for the
//! tag. How old a key is, is asked at every use.

use std::time::{Duration, Instant};

use crate::cipher::{Cipher, Suite};
use crate::drop::DropReason;
use crate::hash::Secret;
use crate::message::{DATA_OVERHEAD, HEADROOM, TAG};
use crate::replay::Window;

/// At this age a key neither seals nor opens any more (WireGuard paper §6.1, `REJECT_AFTER_TIME`).
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);

/// The half of a session key that sends.
pub(crate) struct Sealer {
    cipher: Cipher,
    /// The index by which the other side knows the key.
    remote_index: u32,
    counter: u64,
    born: Instant,
}

impl Sealer {
    pub(crate) fn new(suite: Suite, key: &Secret, remote_index: u32, born: Instant) -> Option<Self> {
        Some(Self { cipher: Cipher::new(suite, key)?, remote_index, counter: 0, born })
    }

    pub(crate) const fn born(&self) -> Instant {
        self.born
    }

    /// How many messages it has sealed.
    pub(crate) const fn counter(&self) -> u64 {
        self.counter
    }

    pub(crate) fn is_usable(&self, now: Instant) -> bool {
        is_young(self.born, now) && self.cipher.allows(self.counter)
    }

    /// Makes a data message of `message`, whose 16 first bytes are free for the header, whose 16 last for the tag, and
    /// which holds the (padded) packet in between.
    ///
    /// # Errors
    /// The key is too old or has sealed too much.
    pub(crate) fn seal(&mut self, message: &mut [u8], now: Instant) -> Result<(), DropReason> {
        if !self.is_usable(now) {
            return Err(DropReason::KeyExpired);
        }
        let Some((header, rest)) = message.split_first_chunk_mut::<HEADROOM>() else {
            return Err(DropReason::Malformed);
        };
        let Some((packet, tag)) = rest.split_last_chunk_mut::<TAG>() else {
            return Err(DropReason::Malformed);
        };
        let counter = self.counter;
        // counted before it is used: no failure can use it twice
        self.counter += 1;
        header[..4].copy_from_slice(&4u32.to_le_bytes());
        header[4..8].copy_from_slice(&self.remote_index.to_le_bytes());
        header[8..].copy_from_slice(&counter.to_le_bytes());
        *tag = self.cipher.seal(counter, &[], packet).ok_or(DropReason::TooLong)?;
        Ok(())
    }

    #[cfg(test)]
    pub(crate) const fn count_to(&mut self, counter: u64) {
        self.counter = counter;
    }
}

/// The half of a session key that receives.
pub(crate) struct Opener {
    cipher: Cipher,
    /// The index by which we know the key.
    pub(crate) local_index: u32,
    born: Instant,
    /// The other side has shown that it has this key.
    pub(crate) is_proven: bool,
    window: Window,
}

impl Opener {
    pub(crate) fn new(suite: Suite, key: &Secret, local_index: u32, is_proven: bool, born: Instant) -> Option<Self> {
        Some(Self { cipher: Cipher::new(suite, key)?, local_index, born, is_proven, window: Window::new() })
    }

    pub(crate) const fn born(&self) -> Instant {
        self.born
    }

    /// Opens a data message with this counter in place: what was sealed is at `16..len - 16` afterwards. Says whether no
    /// message with a greater counter came before.
    ///
    /// # Errors
    /// The key is too old, the counter was seen or is too old, or the message does not authenticate.
    pub(crate) fn open(&mut self, counter: u64, message: &mut [u8], now: Instant) -> Result<bool, DropReason> {
        if !is_young(self.born, now) || !self.cipher.allows(counter) {
            return Err(DropReason::KeyExpired);
        }
        if !self.window.admits(counter) {
            return Err(DropReason::Replay);
        }
        let sealed = message.get_mut(HEADROOM..).filter(|sealed| sealed.len() >= DATA_OVERHEAD - HEADROOM);
        self.cipher.open(counter, &[], sealed.ok_or(DropReason::Malformed)?).ok_or(DropReason::AeadFailure)?;
        self.window.note(counter).ok_or(DropReason::Replay)
    }
}

fn is_young(born: Instant, now: Instant) -> bool {
    now.saturating_duration_since(born) < REJECT_AFTER_TIME
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::tests::epoch;

    fn halves() -> (Sealer, Opener) {
        halves_of(Suite::default())
    }

    fn halves_of(suite: Suite) -> (Sealer, Opener) {
        let key = Zeroizing::new([9; 32]);
        let sealer = Sealer::new(suite, &key, 7, epoch()).unwrap();
        (sealer, Opener::new(suite, &key, 7, true, epoch()).unwrap())
    }

    fn sealed(sealer: &mut Sealer, now: Instant) -> Result<Vec<u8>, DropReason> {
        let mut message = vec![0x55; 48];
        sealer.seal(&mut message, now)?;
        Ok(message)
    }

    /// PC-11, KS counter.c: around both limits, in both directions; the counter never wraps.
    #[test]
    fn pc_11_message_limits() {
        assert_eq!(Suite::ChaCha20Poly1305.rekey_after_messages(), 1 << 60);
        assert_eq!(Suite::ChaCha20Poly1305.reject_after_messages(), u64::MAX - (1 << 13));
        message_limits(Suite::ChaCha20Poly1305);
    }

    /// RFC 9001 appendix B.1.1.
    #[test]
    fn aes_has_limits_of_its_own() {
        assert_eq!(Suite::Aes256Gcm.reject_after_messages(), 1 << 28);
        assert!(Suite::Aes256Gcm.rekey_after_messages() < Suite::Aes256Gcm.reject_after_messages() / 2);
        message_limits(Suite::Aes256Gcm);
    }

    fn message_limits(suite: Suite) {
        let (renewed, refused) = (suite.rekey_after_messages(), suite.reject_after_messages());
        for (counter, is_sealed) in
            [(0, true), (renewed, true), (refused - 1, true), (refused, false), (refused + 1, false), (u64::MAX, false)]
        {
            let (mut sealer, mut opener) = halves_of(suite);
            sealer.count_to(counter);
            let message = sealed(&mut sealer, epoch());
            assert_eq!(message.is_ok(), is_sealed, "{counter}");
            let mut message = message.unwrap_or_else(|_| vec![0; 48]);
            let opened = opener.open(counter, &mut message, epoch());
            assert_eq!(opened, if is_sealed { Ok(true) } else { Err(DropReason::KeyExpired) }, "{counter}");
        }
        let (mut sealer, _) = halves_of(suite);
        sealer.count_to(refused - 2);
        assert!(sealed(&mut sealer, epoch()).is_ok() && sealed(&mut sealer, epoch()).is_ok());
        assert_eq!(sealed(&mut sealer, epoch()), Err(DropReason::KeyExpired));
        assert!(!sealer.is_usable(epoch()));
    }

    #[test]
    fn a_key_lives_exactly_180_seconds() {
        let (before, at) = (epoch() + REJECT_AFTER_TIME - Duration::from_nanos(1), epoch() + REJECT_AFTER_TIME);
        let (mut sealer, mut opener) = halves();
        let mut early = sealed(&mut sealer, before).unwrap();
        let mut late = sealed(&mut sealer, before).unwrap();
        assert_eq!(sealed(&mut sealer, at), Err(DropReason::KeyExpired));
        assert_eq!(opener.open(0, &mut early, before), Ok(true));
        assert_eq!(opener.open(1, &mut late, at), Err(DropReason::KeyExpired));
    }

    #[test]
    fn what_does_not_authenticate_leaves_the_window_alone() {
        let (mut sealer, mut opener) = halves();
        let message = sealed(&mut sealer, epoch()).unwrap();
        let mut forged = message.clone();
        forged[20] ^= 1;
        assert_eq!(opener.open(0, &mut forged, epoch()), Err(DropReason::AeadFailure));
        assert_eq!(opener.open(9000, &mut message.clone(), epoch()), Err(DropReason::AeadFailure));
        let mut genuine = message.clone();
        assert_eq!(opener.open(0, &mut genuine, epoch()), Ok(true));
        assert_eq!(genuine[16..32], [0x55; 16]);
        assert_eq!(opener.open(0, &mut message.clone(), epoch()), Err(DropReason::Replay));
    }

    /// A message that is too short for its frame is refused, whatever its length.
    #[test]
    fn short_buffers_are_refused_and_use_no_counter() {
        let (mut sealer, mut opener) = halves();
        for length in 0..32 {
            assert!(sealer.seal(&mut vec![0; length], epoch()).is_err());
            assert!(opener.open(0, &mut vec![0; length], epoch()).is_err());
        }
        assert_eq!(sealer.counter(), 0);
    }
}
