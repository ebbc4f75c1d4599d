//! Somebody else's hands on what we put in place: it is put back, until that has become a fight.

use std::time::{Duration, Instant};

/// So many restorations within [`WINDOW`] mean that somebody else keeps taking it away.
pub(super) const LOOP_COUNT: usize = 5;
/// The time in which restorations are counted, and the pause between them once there are too many.
const WINDOW: Duration = Duration::from_secs(60);

/// One thing of ours, and when it was put back.
#[derive(Default)]
pub(super) struct Fight {
    restored: Vec<Instant>,
    was_in_place: bool,
}

impl Fight {
    /// It is where it should be.
    pub(super) fn in_place(&mut self) {
        self.was_in_place = true;
    }

    /// Whether it ever was.
    pub(super) fn is_in_place(&self) -> bool {
        self.was_in_place
    }

    /// It is missing: whether that is somebody's doing, or `None` where there is a fight over it, which is not gone on with.
    pub(super) fn handle_missing(&mut self, now: Instant) -> Option<bool> {
        if self.was_in_place {
            self.restored.retain(|at| now.duration_since(*at) < WINDOW);
            if self.restored.len() >= LOOP_COUNT {
                return None;
            }
            self.restored.push(now);
        }
        Some(self.was_in_place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_put_back_so_often_and_then_as_often_as_time_passes() {
        let (mut fight, begin) = (Fight::default(), Instant::now());
        assert_eq!(fight.handle_missing(begin), Some(false), "it was never there");
        fight.in_place();
        for _ in 0..LOOP_COUNT {
            assert_eq!(fight.handle_missing(begin), Some(true));
        }
        assert_eq!(fight.handle_missing(begin + WINDOW - Duration::from_millis(1)), None);
        assert_eq!(fight.handle_missing(begin + WINDOW), Some(true));
    }
}
