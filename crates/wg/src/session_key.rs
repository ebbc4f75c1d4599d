//! The keys of one session: how old each is, whether the other side has shown that it has it, and how far it counted.
//!
//! boringtun holds the secrets; this is what it does not tell or does not check (decision 0002).

use std::time::{Duration, Instant};

use crate::drop::DropReason;

/// At this age a key neither seals nor opens any more (WireGuard paper §6.1, `REJECT_AFTER_TIME`).
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// A key that still seals at this age is renewed by whoever uses it. The initiator should have done so at 120 s; after two
/// handshakes that crossed, both sides may take the other one for it.
const REKEY_AT_LAST: Duration = Duration::from_secs(170);
/// A key that has sealed this many messages is renewed (§6.1 `REKEY_AFTER_MESSAGES`).
const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// A key that has sealed this many messages is used no more (§6.1 `REJECT_AFTER_MESSAGES`).
const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
/// How many keys `Tunn` keeps, by local index modulo this (boringtun `noise/mod.rs`, `N_SESSIONS`).
const RING: u32 = 8;

/// One key.
struct Key {
    /// The receiver index of what we get under it.
    local_index: u32,
    /// The receiver index of what we send under it.
    remote_index: u32,
    born: Instant,
    /// The other side has shown that it has this key.
    proven: bool,
    newest_counter: Option<u64>,
}

impl Key {
    fn is_alive(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.born) < REJECT_AFTER_TIME
    }
}

/// What an opened message says of its key and its sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// No message with a greater counter came before under this key.
    pub(crate) newest: bool,
    /// It is the first under this key, which it has thereby proven.
    pub(crate) proves: bool,
}

/// The keys of one session, oldest first, at most eight.
#[derive(Default)]
pub(crate) struct SessionKeys(Vec<Key>);

impl SessionKeys {
    /// A handshake made a key. The one whose place it takes in `Tunn` is gone. A key is born, on both sides, no later
    /// than it can be on the other: for the initiator when its initiation left.
    pub(crate) fn add(&mut self, (local_index, remote_index): (u32, u32), proven: bool, born: Instant) {
        self.0.retain(|old| old.local_index % RING != local_index % RING);
        self.0.push(Key { local_index, remote_index, born, proven, newest_counter: None });
    }

    /// Forgets keys that are too old.
    pub(crate) fn prune(&mut self, now: Instant) {
        self.0.retain(|key| key.is_alive(now));
    }

    /// Whether there is a key to send with.
    pub(crate) fn can_send(&self, now: Instant) -> bool {
        self.0.iter().any(|key| key.proven && key.is_alive(now))
    }

    /// Whether a message to this receiver index with this counter may be looked at. The limit on counters also keeps
    /// boringtun's window arithmetic from overflowing.
    pub(crate) fn admit(&self, receiver: u32, counter: u64, now: Instant) -> Result<(), DropReason> {
        let key = self.0.iter().find(|key| key.local_index == receiver).ok_or(DropReason::UnknownIndex)?;
        if key.is_alive(now) && counter < REJECT_AFTER_MESSAGES { Ok(()) } else { Err(DropReason::KeyExpired) }
    }

    /// A message to this receiver index has been opened.
    pub(crate) fn opened(&mut self, receiver: u32, counter: u64) -> Progress {
        let Some(key) = self.0.iter_mut().find(|key| key.local_index == receiver) else { return Progress::default() };
        let newest = key.newest_counter.is_none_or(|newest| counter > newest);
        if newest {
            key.newest_counter = Some(counter);
        }
        Progress { newest, proves: !std::mem::replace(&mut key.proven, true) }
    }

    /// A message with this counter has been sealed to the other side's index. Says whether the key should be renewed.
    ///
    /// # Errors
    /// The key may not be used (any more): the message must not leave, and the key is forgotten.
    pub(crate) fn sealed(&mut self, remote_index: u32, counter: u64, now: Instant) -> Result<bool, DropReason> {
        let may_send = |key: &&Key| key.remote_index == remote_index && key.proven && key.is_alive(now);
        match self.0.iter().find(may_send) {
            Some(key) if counter < REJECT_AFTER_MESSAGES => {
                Ok(counter >= REKEY_AFTER_MESSAGES || now.saturating_duration_since(key.born) >= REKEY_AT_LAST)
            }
            Some(_) | None => {
                self.0.retain(|key| key.remote_index != remote_index);
                Err(DropReason::KeyExpired)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::epoch;

    fn keys() -> SessionKeys {
        let mut keys = SessionKeys::default();
        keys.add((0x100, 7), true, epoch());
        keys
    }

    /// PC-11, KS counter.c: around both limits. (boringtun has neither; no test can make it count that far.)
    #[test]
    fn pc_11_message_limits() {
        for (counter, sealed) in [
            (0, Ok(false)),
            ((1 << 60) - 1, Ok(false)),
            (1 << 60, Ok(true)),
            (REJECT_AFTER_MESSAGES - 1, Ok(true)),
            (REJECT_AFTER_MESSAGES, Err(DropReason::KeyExpired)),
            (u64::MAX, Err(DropReason::KeyExpired)),
        ] {
            assert_eq!(keys().sealed(7, counter, epoch()), sealed, "{counter}");
            let admitted = keys().admit(0x100, counter, epoch());
            assert_eq!(admitted.is_ok(), counter < REJECT_AFTER_MESSAGES, "{counter}");
        }
        let mut spent = keys();
        assert!(spent.sealed(7, REJECT_AFTER_MESSAGES, epoch()).is_err());
        assert!(!spent.can_send(epoch()));
    }

    #[test]
    fn a_key_lives_exactly_180_seconds() {
        let (before, at) = (epoch() + REJECT_AFTER_TIME - Duration::from_nanos(1), epoch() + REJECT_AFTER_TIME);
        assert!(keys().can_send(before) && keys().admit(0x100, 0, before).is_ok());
        assert_eq!(keys().sealed(7, 0, epoch() + Duration::from_secs(169)), Ok(false));
        assert_eq!(keys().sealed(7, 0, epoch() + Duration::from_secs(170)), Ok(true));
        assert!(!keys().can_send(at));
        assert_eq!(keys().admit(0x100, 0, at), Err(DropReason::KeyExpired));
        assert_eq!(keys().sealed(7, 0, at), Err(DropReason::KeyExpired));
        let mut pruned = keys();
        pruned.prune(at);
        assert_eq!(pruned.admit(0x100, 0, epoch()), Err(DropReason::UnknownIndex));
    }

    /// PC-19: a responder sends nothing on a key before it has received on it.
    #[test]
    fn pc_19_an_unproven_key_opens_but_does_not_seal() {
        let mut keys = SessionKeys::default();
        keys.add((0x101, 9), false, epoch());
        assert!(!keys.can_send(epoch()));
        assert_eq!(keys.admit(0x101, 0, epoch()), Ok(()));
        assert_eq!(keys.opened(0x101, 0), Progress { newest: true, proves: true });
        assert!(keys.can_send(epoch()));
        assert_eq!(keys.opened(0x101, 5), Progress { newest: true, proves: false });
        assert_eq!(keys.opened(0x101, 4), Progress { newest: false, proves: false });
    }

    #[test]
    fn a_ninth_key_takes_the_place_of_the_first() {
        let mut keys = SessionKeys::default();
        for number in 0..9 {
            keys.add((0x100 + number, number), true, epoch());
        }
        assert_eq!(keys.admit(0x100, 0, epoch()), Err(DropReason::UnknownIndex));
        assert_eq!(keys.admit(0x108, 0, epoch()), Ok(()));
    }
}
