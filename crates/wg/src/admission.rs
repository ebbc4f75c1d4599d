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
/// How many keys are tried on initiations of strangers: at 0.45 µs each, 200,000 a second are a tenth of a core.
const STRANGER_TRIALS: Rate = Rate { interval: Duration::from_micros(5), burst: 20_000 };
/// The same for addresses where peers are known to be: strangers' rubbish does not use up what they need. A thousand
/// peers that call a thousand local keys are tried within a second.
const KNOWN_TRIALS: Rate = Rate { interval: Duration::from_micros(2), burst: 100_000 };
/// Sources remembered at most; further ones are refused while they all are recent.
const SOURCES_MAX: usize = 4096;
/// Handshake messages of one peer (Linux `messages.h`, `INITIATIONS_PER_SECOND` 50).
const PEER_RATE: Rate = Rate { interval: Duration::from_millis(20), burst: 50 };

/// Renewals of keys that have a minute left: so many begin in a second, so that a thousand keys of one age are not renewed
/// in one moment. Half of what puts the other side under load.
const RENEWAL_RATE: Rate = Rate { interval: Duration::from_millis(4), burst: 25 };

/// Moves of peers that are told: a peer can move with each of its packets, and an event only says that asking is worth it.
const ROAMING_RATE: Rate = Rate { interval: Duration::from_millis(10), burst: 100 };

/// One event per `interval`, after at most `burst` at once.
#[derive(Clone, Copy)]
struct Rate {
    interval: Duration,
    burst: u32,
}

/// What one sender may still do. A bucket begins full, and may be overdrawn by what turned out to cost more.
#[derive(Clone, Copy)]
struct Bucket {
    /// When it will be full again.
    full_at: Instant,
}

impl Bucket {
    const fn full(now: Instant) -> Self {
        Self { full_at: now }
    }

    fn has(self, rate: Rate, now: Instant) -> bool {
        self.full_at.saturating_duration_since(now) <= rate.interval * rate.burst.saturating_sub(1)
    }

    fn spend(&mut self, rate: Rate, count: usize, now: Instant) {
        let cost = rate.interval.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX));
        self.full_at = self.full_at.max(now) + cost;
    }

    fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let has = self.has(rate, now);
        if has {
            self.spend(rate, 1, now);
        }
        has
    }
}

/// A peer's allowance of handshake messages.
pub(crate) struct Allowance(Bucket);

impl Allowance {
    pub(crate) fn new(now: Instant) -> Self {
        Self(Bucket::full(now))
    }

    /// Whether another one may be looked at.
    pub(crate) fn has(&self, now: Instant) -> bool {
        self.0.has(PEER_RATE, now)
    }

    /// One is used up.
    pub(crate) fn spend(&mut self, now: Instant) {
        self.0.spend(PEER_RATE, 1, now);
    }
}

/// What handshakes have cost since the engine was made: exact, for the bounds under attack to be seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Keys tried on initiations: a keyed hash of 116 bytes each.
    pub mac_trials: u64,
    /// Multiplications on the curve, those for ephemeral keys included.
    pub curve_operations: u64,
    /// Cookies given.
    pub cookies: u64,
    /// How often the stack was overwritten behind secrets: 2 µs each.
    pub wipes: u64,
}

/// Load and sources of all handshakes of the engine.
pub(crate) struct Admission {
    second_began: Instant,
    initiations: u32,
    loaded_until: Option<Instant>,
    sources: BTreeMap<IpAddr, Bucket>,
    renewals: Bucket,
    renewal_rate: Rate,
    strangers: Bucket,
    known: Bucket,
    roams: Bucket,
    pub(crate) work: Work,
}

impl Admission {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            second_began: now,
            initiations: 0,
            loaded_until: None,
            sources: BTreeMap::new(),
            renewals: Bucket::full(now),
            renewal_rate: RENEWAL_RATE,
            strangers: Bucket::full(now),
            known: Bucket::full(now),
            roams: Bucket::full(now),
            work: Work::default(),
        }
    }

    /// The rate of renewals is that of so many engines together.
    pub(crate) fn share_renewals(&mut self, engines: usize) {
        let engines = u32::try_from(engines).unwrap_or(u32::MAX);
        self.renewal_rate.interval = RENEWAL_RATE.interval.saturating_mul(engines);
    }

    /// Whether the shell is told of one more peer that has moved.
    pub(crate) fn tells_roaming(&mut self, now: Instant) -> bool {
        self.roams.take(ROAMING_RATE, now)
    }

    /// Whether one more key may be renewed now that could also wait.
    pub(crate) fn admits_renewal(&mut self, now: Instant) -> bool {
        self.renewals.take(self.renewal_rate, now)
    }

    /// Whether keys may be tried on an initiation from a known endpoint, or from anywhere else. A flood of rubbish must
    /// not take the time that data needs. (Not by source: until `mac2` a source is anybody's word, and blaming it would
    /// let whoever spoofs it silence it.)
    pub(crate) fn admits_trial(&self, is_known: bool, now: Instant) -> bool {
        if is_known { self.known.has(KNOWN_TRIALS, now) } else { self.strangers.has(STRANGER_TRIALS, now) }
    }

    /// So many keys were tried.
    pub(crate) fn tried(&mut self, is_known: bool, count: usize, now: Instant) {
        if is_known {
            self.known.spend(KNOWN_TRIALS, count, now);
        } else {
            self.strangers.spend(STRANGER_TRIALS, count, now);
        }
        self.work.mac_trials += u64::try_from(count).unwrap_or_default();
    }

    /// The stack is about to be overwritten.
    pub(crate) fn wipes(&mut self) {
        self.work.wipes += 1;
    }

    /// So many curve operations were done.
    pub(crate) fn multiplied(&mut self, count: u64) {
        self.work.curve_operations += count;
    }

    /// Counts an initiation with a right `mac1`, after its trial; says whether its sender must prove its address.
    pub(crate) fn is_under_load(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.second_began) >= Duration::from_secs(1) {
            self.second_began = now;
            self.initiations = 0;
        }
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
        self.sources.entry(source).or_insert_with(|| Bucket::full(now)).take(SOURCE_RATE, now)
    }

    /// Forgets sources that have been quiet for long enough to have a full bucket again.
    pub(crate) fn forget_sources(&mut self, now: Instant) {
        self.sources.retain(|_, bucket| bucket.full_at > now);
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
            assert!(!admission.is_under_load(start));
        }
        assert!(admission.is_under_load(start));
        assert!(admission.is_under_load(start + Duration::from_millis(999)));
        assert!(!admission.is_under_load(start + Duration::from_secs(2)));
    }

    #[test]
    fn trials_are_limited_by_their_work_and_strangers_do_not_use_up_the_lane_of_peers() {
        let now = epoch();
        let mut admission = Admission::new(now);
        for _ in 0..50 {
            assert!(admission.admits_trial(false, now));
            admission.tried(false, 400, now);
        }
        assert!(!admission.admits_trial(false, now), "the work of this moment is done");
        assert!(admission.admits_trial(true, now));
        let mut admitted = 0;
        for millisecond in 0..1000 {
            let now = now + Duration::from_millis(millisecond);
            if admission.admits_trial(false, now) {
                admission.tried(false, 400, now);
                admitted += 400;
            }
        }
        assert!((199_000..=201_000).contains(&admitted), "{admitted}");
    }
}
