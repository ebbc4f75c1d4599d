//! The keys of one session over time: one to send with, one that waits to be proven, and those that still may receive.
//!
//! ```text
//!  our initiation is answered ───────────────────────────────▶ current ──▶ receives only ──▶ gone at 180 s
//!  we answer an initiation ──▶ next ──(data comes under it)──▶    │
//!                               └──(another initiation comes)──▶ gone
//! ```

use std::time::{Duration, Instant};

use crate::cipher::Suite;
use crate::drop::DropReason;
use crate::noise::TransportKeys;
use crate::transport::{Opener, REJECT_AFTER_TIME, Sealer};

/// At this age the initiator renews a key that it sends with (WireGuard paper §6.1, `REKEY_AFTER_TIME`).
const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// At this age the initiator renews a key that it only receives with (§6.2: `REJECT_AFTER_TIME` less
/// `KEEPALIVE_TIMEOUT` and `REKEY_TIMEOUT`).
const REKEY_ON_RECEIVE: Duration = Duration::from_secs(165);
/// A key that still seals at this age is renewed by whoever uses it. The initiator should have done so at 120 s; after
/// two handshakes that crossed, both sides may take the other one for it.
const REKEY_AT_LAST: Duration = Duration::from_secs(170);
/// How many keys that were proven may receive: the current one, and two more for what is late.
const PROVEN_MAX: usize = 3;

/// Which key a handshake made: everything about it but the secrets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyFacts {
    /// The index by which we know it.
    pub(crate) local_index: u32,
    /// The index by which the other side knows it.
    pub(crate) remote_index: u32,
    /// What seals and opens.
    pub(crate) suite: Suite,
    /// Whether we began.
    pub(crate) is_initiator: bool,
    /// A key is born, on both sides, no later than it can be on the other: for the initiator when its initiation left.
    pub(crate) born: Instant,
}

/// How much a key should be renewed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Renewal {
    /// Not at all.
    #[default]
    No,
    /// There is a minute left.
    Due,
    /// There are seconds left, or the key has sealed too much.
    Urgent,
}

/// What an opened message says of its key and its sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// No message with a greater counter came before under this key.
    pub(crate) newest: bool,
    /// It is the first under this key, which it has thereby proven.
    pub(crate) proves: bool,
    /// Whether the key we send with should be renewed.
    pub(crate) renewal: Renewal,
}

/// The key to send with.
struct Sending {
    sealer: Box<Sealer>,
    facts: KeyFacts,
}

/// The keys of one session.
#[derive(Default)]
pub(crate) struct SessionKeys {
    /// Oldest first: at most [`PROVEN_MAX`] that were proven, and one that was not.
    #[expect(clippy::vec_box, reason = "a vector that grows would leave copies of the keys behind")]
    openers: Vec<Box<Opener>>,
    current: Option<Sending>,
    next: Option<Sending>,
    /// Spreads renewals: added to [`REKEY_AFTER_TIME`].
    jitter: Duration,
    /// Indices of keys that are gone, for the table of indices.
    freed: Vec<u32>,
}

impl SessionKeys {
    /// A handshake made a key. As the initiator we know that the other side has it; as the responder we do not yet.
    pub(crate) fn add(&mut self, keys: &TransportKeys, facts: KeyFacts, jitter: Duration) -> Option<()> {
        let suite = facts.suite;
        let sealer = Box::new(Sealer::new(suite, &keys.sending, facts.remote_index, facts.born)?);
        let opener = Box::new(Opener::new(suite, &keys.receiving, facts.local_index, facts.is_initiator, facts.born)?);
        self.jitter = jitter;
        if facts.is_initiator {
            // what the other side sends under the key that waited may still come; we have a better one
            self.next = None;
            self.openers.iter_mut().for_each(|opener| opener.is_proven = true);
            self.current = Some(Sending { sealer, facts });
        } else {
            self.remove_openers(|opener| !opener.is_proven);
            self.next = Some(Sending { sealer, facts });
        }
        self.openers.push(opener);
        while self.openers.iter().filter(|opener| opener.is_proven).count() > PROVEN_MAX {
            self.freed.push(self.openers.remove(0).local_index);
        }
        Some(())
    }

    /// Forgets keys that are too old: their places are overwritten.
    pub(crate) fn prune(&mut self, now: Instant) {
        let is_old = |born: Instant| now.saturating_duration_since(born) >= REJECT_AFTER_TIME;
        self.remove_openers(|opener| is_old(opener.born()));
        for sending in [&mut self.current, &mut self.next] {
            if sending.as_ref().is_some_and(|sending| is_old(sending.facts.born)) {
                *sending = None;
            }
        }
    }

    /// When the oldest key will be too old.
    pub(crate) fn expiry(&self) -> Option<Instant> {
        self.openers.iter().map(|opener| opener.born() + REJECT_AFTER_TIME).min()
    }

    /// Whether there is a key to send with.
    pub(crate) fn can_send(&self, now: Instant) -> bool {
        self.current.as_ref().is_some_and(|sending| sending.sealer.is_usable(now))
    }

    /// The suite of the key to send with.
    pub(crate) fn suite(&self) -> Option<Suite> {
        self.current.as_ref().map(|sending| sending.facts.suite)
    }

    /// The indices of all keys.
    pub(crate) fn indices(&self) -> impl Iterator<Item = u32> {
        self.openers.iter().map(|opener| opener.local_index)
    }

    /// The indices of keys that are gone since this was last asked.
    pub(crate) fn freed(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.freed)
    }

    /// Seals a message in place, see [`Sealer::seal`]; says whether the key should be renewed.
    pub(crate) fn seal(&mut self, message: &mut [u8], now: Instant) -> Result<Renewal, DropReason> {
        let sending = self.current.as_mut().ok_or(DropReason::KeyExpired)?;
        sending.sealer.seal(message, now)?;
        let age = now.saturating_duration_since(sending.sealer.born());
        Ok(if age >= REKEY_AT_LAST || sending.sealer.counter() > sending.facts.suite.rekey_after_messages() {
            Renewal::Urgent
        } else if sending.facts.is_initiator && age >= REKEY_AFTER_TIME + self.jitter {
            Renewal::Due
        } else {
            Renewal::No
        })
    }

    /// Opens a message in place, see [`Opener::open`].
    pub(crate) fn open(
        &mut self,
        (receiver, counter): (u32, u64),
        message: &mut [u8],
        now: Instant,
    ) -> Result<Progress, DropReason> {
        let opener = self.openers.iter_mut().rev().find(|opener| opener.local_index == receiver);
        let opener = opener.ok_or(DropReason::UnknownIndex)?;
        let newest = opener.open(counter, message, now)?;
        let proves = !std::mem::replace(&mut opener.is_proven, true);
        if proves {
            self.current = self.next.take();
        }
        let is_last_call = self.current.as_ref().is_some_and(|sending| {
            sending.facts.is_initiator && now.saturating_duration_since(sending.facts.born) >= REKEY_ON_RECEIVE
        });
        Ok(Progress { newest, proves, renewal: if is_last_call { Renewal::Urgent } else { Renewal::No } })
    }

    fn remove_openers(&mut self, is_over: impl Fn(&Opener) -> bool) {
        let freed = &mut self.freed;
        self.openers.retain(|opener| {
            let over = is_over(opener);
            if over {
                freed.push(opener.local_index);
            }
            !over
        });
    }

    #[cfg(test)]
    pub(crate) fn count_to(&mut self, counter: u64) {
        if let Some(sending) = &mut self.current {
            sending.sealer.count_to(counter);
        }
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::tests::epoch;

    const SECOND: Duration = Duration::from_secs(1);

    /// Both sides of a key whose secrets are told by `number`, the initiator's first.
    fn keys_of(number: u8) -> [TransportKeys; 2] {
        let secret = |low: u8| Zeroizing::new([number * 2 + low; 32]);
        [
            TransportKeys { sending: secret(0), receiving: secret(1) },
            TransportKeys { sending: secret(1), receiving: secret(0) },
        ]
    }

    fn facts(number: u32, is_initiator: bool, born: Instant) -> KeyFacts {
        KeyFacts { local_index: number, remote_index: number, suite: Suite::default(), is_initiator, born }
    }

    /// A handshake between two sides, known to both as `number`.
    fn shake(ours: &mut SessionKeys, theirs: &mut SessionKeys, number: u8, now: Instant) {
        let [initiator, responder] = keys_of(number);
        theirs.add(&responder, facts(number.into(), false, now), Duration::ZERO).unwrap();
        ours.add(&initiator, facts(number.into(), true, now), Duration::ZERO).unwrap();
    }

    fn pass(from: &mut SessionKeys, to: &mut SessionKeys, now: Instant) -> Result<Progress, DropReason> {
        let mut message = [0; 32];
        from.seal(&mut message, now)?;
        let word = |at: usize| u32::from_le_bytes(*message[at..].first_chunk().unwrap());
        let header = (word(4), u64::from(word(8)));
        to.open(header, &mut message, now)
    }

    /// PC-19: a responder sends nothing on a key before it has received on it.
    #[test]
    fn pc_19_an_unproven_key_opens_but_does_not_seal() {
        let (mut ours, mut theirs) = (SessionKeys::default(), SessionKeys::default());
        shake(&mut ours, &mut theirs, 1, epoch());
        assert!(ours.can_send(epoch()) && !theirs.can_send(epoch()));
        assert_eq!(theirs.seal(&mut [0; 32], epoch()), Err(DropReason::KeyExpired));
        assert!(pass(&mut ours, &mut theirs, epoch()).unwrap().proves);
        assert!(!pass(&mut ours, &mut theirs, epoch()).unwrap().proves);
        assert!(pass(&mut theirs, &mut ours, epoch()).unwrap().newest);
    }

    /// During a renewal both sides go on with the old key until the new one is proven, and late messages still open.
    #[test]
    fn a_renewal_loses_nothing_that_is_under_way() {
        let (mut ours, mut theirs) = (SessionKeys::default(), SessionKeys::default());
        shake(&mut ours, &mut theirs, 1, epoch());
        pass(&mut ours, &mut theirs, epoch()).unwrap();
        let mut late = [0; 32];
        theirs.seal(&mut late, epoch()).unwrap();
        shake(&mut ours, &mut theirs, 2, epoch());
        let mut old = [0; 32];
        theirs.seal(&mut old, epoch()).unwrap();
        assert_eq!(old[4], 1, "the responder still sends under the old key");
        assert!(pass(&mut ours, &mut theirs, epoch()).unwrap().proves);
        assert!(ours.open((1, 0), &mut late, epoch()).is_ok());
        assert!(ours.open((1, 1), &mut old, epoch()).is_ok());
        assert!(pass(&mut theirs, &mut ours, epoch()).is_ok());
    }

    /// Initiations that nobody goes on with push out neither the key in use nor each other's places.
    #[test]
    fn unproven_keys_replace_each_other_and_nothing_else() {
        let (mut ours, mut theirs) = (SessionKeys::default(), SessionKeys::default());
        shake(&mut ours, &mut theirs, 1, epoch());
        pass(&mut ours, &mut theirs, epoch()).unwrap();
        for number in 10..20 {
            let [_, responder] = keys_of(number);
            theirs.add(&responder, facts(number.into(), false, epoch()), Duration::ZERO).unwrap();
        }
        assert_eq!(theirs.indices().collect::<Vec<_>>(), [1, 19]);
        assert_eq!(theirs.freed(), (10..19).collect::<Vec<_>>());
        assert!(pass(&mut ours, &mut theirs, epoch()).is_ok());
        for number in 2..10 {
            shake(&mut ours, &mut theirs, number, epoch());
            pass(&mut ours, &mut theirs, epoch()).unwrap();
        }
        assert_eq!(ours.indices().collect::<Vec<_>>(), [7, 8, 9]);
    }

    #[test]
    fn keys_are_forgotten_at_180_seconds() {
        let (mut ours, mut theirs) = (SessionKeys::default(), SessionKeys::default());
        shake(&mut ours, &mut theirs, 1, epoch());
        assert_eq!(ours.expiry(), Some(epoch() + REJECT_AFTER_TIME));
        ours.prune(epoch() + 179 * SECOND);
        assert_eq!(ours.freed(), []);
        ours.prune(epoch() + 180 * SECOND);
        assert_eq!((ours.freed(), ours.indices().count(), ours.expiry()), (vec![1], 0, None));
        assert!(ours.current.is_none());
        theirs.prune(epoch() + 180 * SECOND);
        assert!(theirs.next.is_none());
    }

    /// Who renews when: the initiator at 120 s sending and 165 s receiving; whoever still sends at 170 s.
    #[test]
    fn renewals_are_the_initiators_matter_until_late() {
        let (mut ours, mut theirs) = (SessionKeys::default(), SessionKeys::default());
        shake(&mut ours, &mut theirs, 1, epoch());
        pass(&mut ours, &mut theirs, epoch()).unwrap();
        let sends = |keys: &mut SessionKeys, at: u32| keys.seal(&mut [0; 32], epoch() + at * SECOND).unwrap();
        for (at, initiator, responder) in [
            (119, Renewal::No, Renewal::No),
            (120, Renewal::Due, Renewal::No),
            (169, Renewal::Due, Renewal::No),
            (170, Renewal::Urgent, Renewal::Urgent),
        ] {
            assert_eq!((sends(&mut ours, at), sends(&mut theirs, at)), (initiator, responder), "at {at} s");
        }
        for (at, expected) in [(164, Renewal::No), (165, Renewal::Urgent)] {
            assert_eq!(pass(&mut theirs, &mut ours, epoch() + at * SECOND).unwrap().renewal, expected);
            assert_eq!(pass(&mut ours, &mut theirs, epoch() + at * SECOND).unwrap().renewal, Renewal::No);
        }
        ours.count_to(Suite::default().rekey_after_messages());
        assert_eq!(sends(&mut ours, 1), Renewal::Urgent);
    }
}
