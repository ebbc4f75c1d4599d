//! The timestamps of initiations: TAI64N, coarse, and never earlier than the one before.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The label of TAI64N's second 0 of 1970 (<https://cr.yp.to/libtai/tai64.html>), leap seconds left out as others do.
const TAI64_BASE: u64 = 0x4000_0000_0000_000a;
/// Stamps are cut down to multiples of this, so that they say little about our clock: no peer may begin more than 50
/// handshakes a second (Linux `noise.c` `tai64n_now`). Stamps of the same 20 ms are counted by nanoseconds, so that all
/// of them differ.
const GRAIN: Duration = Duration::from_millis(20);

/// A timestamp as it is sent: seconds and nanoseconds, big end first, so that bytes compare as times do.
pub(crate) type Stamp = [u8; 12];

/// The wall clock, as far as the engine knows it: one reading of it, and `now` since then.
pub(crate) struct WallClock {
    anchor: Duration,
    at: Instant,
    last: Stamp,
}

impl WallClock {
    pub(crate) fn new(wall: SystemTime, now: Instant) -> Self {
        Self { anchor: wall.duration_since(UNIX_EPOCH).unwrap_or_default(), at: now, last: [0; 12] }
    }

    /// Takes another reading. A clock that was put back does not put the stamps back: peers would refuse them.
    pub(crate) fn set(&mut self, wall: SystemTime, now: Instant) {
        let reading = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.anchor = reading.max(self.time(now));
        self.at = now;
    }

    /// The next stamp: greater than all before.
    pub(crate) fn stamp(&mut self, now: Instant) -> Stamp {
        let time = self.time(now);
        let nanos = time.subsec_nanos() - time.subsec_nanos() % GRAIN.subsec_nanos();
        let coarse = joined(TAI64_BASE.wrapping_add(time.as_secs()), nanos);
        self.last = if coarse > self.last { coarse } else { next(self.last) };
        self.last
    }

    fn time(&self, now: Instant) -> Duration {
        self.anchor + now.saturating_duration_since(self.at)
    }
}

fn joined(seconds: u64, nanos: u32) -> Stamp {
    let mut stamp = [0; 12];
    let (high, low) = stamp.split_at_mut(8);
    high.copy_from_slice(&seconds.to_be_bytes());
    low.copy_from_slice(&nanos.to_be_bytes());
    stamp
}

/// One nanosecond later; within 20 ms there is room for twenty million of them.
fn next(stamp: Stamp) -> Stamp {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = stamp;
    joined(u64::from_be_bytes([a, b, c, d, e, f, g, h]), u32::from_be_bytes([i, j, k, l]).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::epoch;

    /// PC-30: stamps rise, in steps of 20 ms, also across a restart; a clock put back does not put them back.
    #[test]
    fn pc_30_stamps_are_coarse_and_rise() {
        let wall = UNIX_EPOCH + Duration::from_millis(1_700_000_000_010);
        let mut clock = WallClock::new(wall, epoch());
        let first = clock.stamp(epoch());
        assert_eq!(first[..8], 0x4000_0000_6553_f10a_u64.to_be_bytes());
        assert_eq!(first[8..], [0; 4]);
        let second = clock.stamp(epoch() + Duration::from_millis(9));
        assert_eq!(second[8..], [0, 0, 0, 1], "the same 20 ms");
        assert!(second > first);
        let third = clock.stamp(epoch() + Duration::from_millis(10));
        assert_eq!(third[8..], GRAIN.subsec_nanos().to_be_bytes());
        let mut restarted = WallClock::new(wall + Duration::from_millis(40), epoch() + Duration::from_millis(40));
        let fourth = restarted.stamp(epoch() + Duration::from_millis(40));
        assert!(fourth > third);
        restarted.set(UNIX_EPOCH, epoch() + Duration::from_secs(2));
        assert!(restarted.stamp(epoch() + Duration::from_secs(2)) > fourth);
        restarted.set(wall + Duration::from_secs(3600), epoch() + Duration::from_secs(2));
        assert_eq!(restarted.stamp(epoch() + Duration::from_secs(2))[..8], 0x4000_0000_6553_ff1a_u64.to_be_bytes());
    }
}
