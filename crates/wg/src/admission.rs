//! Who may make us compute a handshake: the measure of load, and limits per source and per peer.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Handshake messages with a right `mac1` in one second above which senders must prove their address first. The Linux
/// kernel's figure is 512 queued ones (`drivers/net/wireguard/queueing.c`); at about 0.25 ms each this is an eighth of a core.
const HANDSHAKES_PER_SECOND_MAX: u32 = 512;
/// How long the engine stays under load after it was last over the limit (Linux `wg_receive_handshake_packet`: 1 s).
const LOAD_LASTS: Duration = Duration::from_secs(1);
/// Under load: handshakes per second of one source (Linux `ratelimiter.c`, `PACKETS_PER_SECOND`).
const SOURCE_RATE: Rate = Rate { interval: Duration::from_millis(50), burst: 5 };
/// How many keys are tried on initiations in one second: at 0.45 µs each this is a fifth of a core. 400 keys are tried
/// on 1,000 initiations then.
const TRIALS_PER_SECOND_MAX: usize = 400_000;
/// Sources remembered at most; further ones are refused while they all are recent.
const SOURCES_MAX: usize = 4096;
/// Handshake messages of one peer (Linux `messages.h`, `INITIATIONS_PER_SECOND` 50).
const PEER_RATE: Rate = Rate { interval: Duration::from_millis(20), burst: 50 };

/// Renewals of keys that have a minute left: so many begin in a second, so that a thousand keys of one age are not renewed
/// in one moment. Half of what puts the other side under load.
const RENEWAL_RATE: Rate = Rate { interval: Duration::from_millis(4), burst: 25 };

/// One event per `interval`, after at most `burst` at once.
#[derive(Clone, Copy)]
struct Rate {
    interval: Duration,
    burst: u32,
}

/// What one sender may still do. A bucket begins full.
#[derive(Clone, Copy)]
struct Bucket {
    credit: Duration,
    updated: Instant,
}

impl Bucket {
    fn full(rate: Rate, now: Instant) -> Self {
        Self { credit: rate.interval * rate.burst, updated: now }
    }

    fn refill(&mut self, rate: Rate, now: Instant) {
        let earned = now.saturating_duration_since(self.updated);
        self.credit = (self.credit + earned).min(rate.interval * rate.burst);
        self.updated = now;
    }

    fn has(&mut self, rate: Rate, now: Instant) -> bool {
        self.refill(rate, now);
        self.credit >= rate.interval
    }

    fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let has = self.has(rate, now);
        if has {
            self.credit -= rate.interval;
        }
        has
    }
}

/// A peer's allowance of handshake messages.
pub(crate) struct Allowance(Bucket);

impl Allowance {
    pub(crate) fn new(now: Instant) -> Self {
        Self(Bucket::full(PEER_RATE, now))
    }

    /// Whether another one may be looked at.
    pub(crate) fn has(&mut self, now: Instant) -> bool {
        self.0.has(PEER_RATE, now)
    }

    /// One is used up.
    pub(crate) fn spend(&mut self, now: Instant) {
        self.0.take(PEER_RATE, now);
    }
}

/// Load and sources of all handshakes of the engine.
pub(crate) struct Admission {
    second_began: Instant,
    trials: usize,
    initiations: u32,
    loaded_until: Option<Instant>,
    sources: BTreeMap<IpAddr, Bucket>,
    renewals: Bucket,
}

impl Admission {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            second_began: now,
            trials: 0,
            initiations: 0,
            loaded_until: None,
            sources: BTreeMap::new(),
            renewals: Bucket::full(RENEWAL_RATE, now),
        }
    }

    /// Whether one more key may be renewed now that could also wait.
    pub(crate) fn admits_renewal(&mut self, now: Instant) -> bool {
        self.renewals.take(RENEWAL_RATE, now)
    }

    /// Counts an initiation before its `mac1` is tried with so many keys; says whether it may be. A flood of rubbish must
    /// not take the time that data needs. (Not by source: until `mac2` a source is anybody's word, and blaming it would
    /// let whoever spoofs it silence it.)
    pub(crate) fn admits_trial(&mut self, keys: usize, now: Instant) -> bool {
        if now.saturating_duration_since(self.second_began) >= Duration::from_secs(1) {
            self.second_began = now;
            self.trials = 0;
            self.initiations = 0;
        }
        self.trials = self.trials.saturating_add(keys);
        self.trials <= TRIALS_PER_SECOND_MAX
    }

    /// Counts an initiation with a right `mac1`, after its trial; says whether its sender must prove its address.
    pub(crate) fn is_under_load(&mut self, now: Instant) -> bool {
        self.initiations = self.initiations.saturating_add(1);
        if self.initiations > HANDSHAKES_PER_SECOND_MAX {
            self.loaded_until = Some(now + LOAD_LASTS);
        }
        self.loaded_until.is_some_and(|until| now < until)
    }

    /// Under load, a source that has proven its address: may it start one more?
    pub(crate) fn admits_source(&mut self, source: IpAddr, now: Instant) -> bool {
        let source = match source {
            IpAddr::V4(_) => source,
            // one customer is a /64
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        };
        if self.sources.len() >= SOURCES_MAX && !self.sources.contains_key(&source) {
            self.forget_sources(now);
            if self.sources.len() >= SOURCES_MAX {
                return false;
            }
        }
        self.sources.entry(source).or_insert_with(|| Bucket::full(SOURCE_RATE, now)).take(SOURCE_RATE, now)
    }

    /// Forgets sources that have been quiet for long enough to have a full bucket again.
    pub(crate) fn forget_sources(&mut self, now: Instant) {
        let full = SOURCE_RATE.interval * SOURCE_RATE.burst;
        self.sources.retain(|_, bucket| now.saturating_duration_since(bucket.updated) < full);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::epoch;

    /// The Linux kernel's own table (`selftest/ratelimiter.c`): five pass, the sixth fails, then one per 50 ms.
    #[test]
    fn five_at_once_then_one_per_fifty_milliseconds() {
        for source in ["192.0.2.1", "fd00::1"] {
            let source: IpAddr = source.parse().unwrap();
            let start = epoch();
            let mut admission = Admission::new(start);
            let at = |milliseconds| start + Duration::from_millis(milliseconds);
            for _ in 0..5 {
                assert!(admission.admits_source(source, at(0)));
            }
            assert!(!admission.admits_source(source, at(0)));
            assert!(admission.admits_source(source, at(50)));
            assert!(!admission.admits_source(source, at(50)));
            assert!(admission.admits_source(source, at(150)));
            assert!(admission.admits_source(source, at(150)));
            assert!(!admission.admits_source(source, at(150)));
        }
    }

    #[test]
    fn v6_sources_are_counted_by_their_64_bit_prefix() {
        let now = epoch();
        let mut admission = Admission::new(now);
        for host in 1..=5u16 {
            assert!(admission.admits_source(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host).into(), now));
        }
        assert!(!admission.admits_source(Ipv6Addr::new(0xfd00, 0, 0, 0, 9, 9, 9, 9).into(), now));
        assert!(admission.admits_source(Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 1).into(), now));
    }

    #[test]
    fn a_full_table_of_sources_fails_closed_and_recovers() {
        let start = epoch();
        let mut admission = Admission::new(start);
        for source in 0..u32::try_from(SOURCES_MAX).unwrap() {
            assert!(admission.admits_source(IpAddr::from(source.to_be_bytes()), start));
        }
        assert!(!admission.admits_source("203.0.113.9".parse().unwrap(), start));
        assert!(admission.admits_source("203.0.113.9".parse().unwrap(), start + Duration::from_secs(1)));
    }

    #[test]
    fn load_begins_above_the_limit_and_lasts_a_second() {
        let start = epoch();
        let mut admission = Admission::new(start);
        for _ in 0..HANDSHAKES_PER_SECOND_MAX {
            assert!(admission.admits_trial(1, start));
            assert!(!admission.is_under_load(start));
        }
        assert!(admission.is_under_load(start));
        assert!(admission.is_under_load(start + Duration::from_millis(999)));
        assert!(admission.admits_trial(1, start + Duration::from_secs(2)));
        assert!(!admission.is_under_load(start + Duration::from_secs(2)));
    }

    #[test]
    fn trials_are_limited_by_their_work() {
        let now = epoch();
        let mut admission = Admission::new(now);
        for _ in 0..1000 {
            assert!(admission.admits_trial(400, now));
        }
        assert!(!admission.admits_trial(400, now), "the work of this second is done");
        assert!(admission.admits_trial(400, now + Duration::from_secs(1)));
    }
}
