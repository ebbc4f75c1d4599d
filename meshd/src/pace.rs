//! When what is known is worked through: at once, or a moment later where it can wait for more of it.

use std::time::{Duration, Instant};

/// How long a pod's change, or a node's report on another node, may wait for what comes with it. A pod that starts is told
/// of several times within half a second, its report is followed by a slice, and each time all pods of a node are gone
/// through.
pub(crate) const GATHER: Duration = Duration::from_millis(50);

/// Waits until then; for ever where nothing is due.
pub(crate) async fn await_due(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// When all that was heard is worked through; pure.
#[derive(Default)]
pub(crate) struct Pace {
    due: Option<Instant>,
}

impl Pace {
    /// Something was heard that may wait so long. What is due earlier stays so.
    pub(crate) fn hear(&mut self, wait: Duration, now: Instant) {
        let due = now + wait;
        self.due = Some(self.due.map_or(due, |held| held.min(due)));
    }

    /// When to call [`Self::take_due`]; `None` while nothing waits.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Whether it is time. Then all that was heard counts as worked through.
    pub(crate) fn take_due(&mut self, now: Instant) -> bool {
        self.due.take_if(|due| *due <= now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_wait_takes_all_that_waits_with_it_and_nothing_waits_longer_than_it_may() {
        let (mut pace, begin) = (Pace::default(), Instant::now());
        assert!(pace.poll_timeout().is_none() && !pace.take_due(begin));
        pace.hear(GATHER, begin);
        pace.hear(GATHER, begin + GATHER / 2);
        assert_eq!(pace.poll_timeout(), Some(begin + GATHER), "the first one's time counts");
        assert!(!pace.take_due(begin + GATHER / 2) && pace.take_due(begin + GATHER));
        assert!(pace.poll_timeout().is_none() && !pace.take_due(begin + GATHER));
        pace.hear(GATHER, begin);
        pace.hear(Duration::ZERO, begin);
        assert!(pace.take_due(begin) && !pace.take_due(begin + GATHER), "it was taken with the other");
    }
}
