//! Whether the runtime reads the files beside its network list: told by who calls us.
//!
//! Nothing on the node says which libcni its runtime was built with. Where our entry is in the list and a spare one beside it, a runtime
//! that reads both calls us twice for each pod, and one that does not calls us once. Where the spare one stands alone, a runtime
//! that stopped reading it does not call us at all.

use std::time::{Duration, Instant};

/// How long after an ADD the spare entry's may come: the runtime calls one plugin after the other.
const SECOND_CALL: Duration = Duration::from_secs(10);
/// How long after the spare entry was put in place a runtime may still go by the list as it was.
const RELOAD: Duration = Duration::from_secs(5);

/// What is known of the runtime.
#[derive(Default)]
pub(super) struct Canary {
    put_at: Option<Instant>,
    awaited: Option<Instant>,
    is_read: Option<bool>,
    /// It was passed over, or somebody took it away.
    is_doubted: bool,
}

impl Canary {
    /// A spare entry is in place from now on, or was put there anew.
    pub(super) fn handle_put(&mut self, now: Instant) {
        (self.put_at, self.awaited) = (Some(now), None);
    }

    /// The runtime has called us for a pod, by the spare entry or by the one in the list.
    pub(super) fn handle_add(&mut self, is_spare: bool, now: Instant) {
        if is_spare {
            (self.awaited, self.is_read) = (None, Some(true));
        } else if self.put_at.is_some_and(|at| now.duration_since(at) >= RELOAD) {
            self.awaited.get_or_insert(now);
        }
    }

    /// A daemon before this one has seen that it is read.
    pub(super) fn handle_given_back(&mut self) {
        self.is_read = Some(true);
    }

    /// A pod was started without us while the spare entry stood alone.
    pub(super) fn handle_missed(&mut self) {
        (self.awaited, self.is_read, self.is_doubted) = (None, Some(false), true);
    }

    /// Somebody else's hands were on the spare entry.
    pub(super) fn handle_taken_away(&mut self) {
        self.is_doubted = true;
    }

    /// Whether the spare entry may stand alone. Once it was passed over or taken away it may not again while this daemon runs.
    pub(super) fn is_trusted(&self, now: Instant) -> bool {
        !self.is_doubted && self.is_read(now) == Some(true)
    }

    /// `None` until a pod was started.
    pub(super) fn is_read(&self, now: Instant) -> Option<bool> {
        let is_late = self.awaited.is_some_and(|at| now.duration_since(at) >= SECOND_CALL);
        if is_late { Some(false) } else { self.is_read }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_that_calls_twice_reads_both_and_one_that_calls_once_does_not() {
        let (mut canary, begin) = (Canary::default(), Instant::now());
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        canary.handle_add(false, begin);
        assert_eq!(canary.is_read(at(60)), None, "there is no spare entry");
        canary.handle_put(at(60));
        canary.handle_add(false, at(61));
        assert_eq!(canary.is_read(at(80)), None, "the runtime may not have seen it yet");
        canary.handle_add(false, at(80));
        assert_eq!(canary.is_read(at(89)), None);
        assert_eq!(canary.is_read(at(90)), Some(false));
        canary.handle_add(false, at(100));
        canary.handle_add(true, at(101));
        assert_eq!(canary.is_read(at(200)), Some(true));
        // it was replaced by an older one meanwhile
        canary.handle_add(false, at(300));
        canary.handle_add(false, at(305));
        assert_eq!((canary.is_read(at(309)), canary.is_read(at(310))), (Some(true), Some(false)));
        assert!(canary.is_trusted(at(309)) && !canary.is_trusted(at(310)));
    }

    #[test]
    fn a_runtime_that_passed_the_spare_entry_over_once_is_not_trusted_with_it_alone_again() {
        let (mut canary, now) = (Canary::default(), Instant::now());
        assert!(!canary.is_trusted(now));
        canary.handle_given_back();
        assert!(canary.is_trusted(now));
        canary.handle_missed();
        assert_eq!((canary.is_trusted(now), canary.is_read(now)), (false, Some(false)));
        canary.handle_add(true, now);
        assert_eq!((canary.is_trusted(now), canary.is_read(now)), (false, Some(true)));
    }
}
