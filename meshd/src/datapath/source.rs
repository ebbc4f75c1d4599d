//! Remembers which of our addresses each endpoint addressed, so that replies leave from there.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// How many endpoints are remembered. Beyond it all are forgotten and learned again from the next datagram of each;
/// meanwhile the kernel chooses. Decision 0007.
pub(super) const SOURCES_MAX: usize = 4_096;

/// When an initiation has not been answered for so long, the next one leaves from wherever the kernel likes: our address may
/// be the trouble (WireGuard's `REKEY_TIMEOUT`; Linux: `wg_expired_retransmit_handshake`).
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Our address as one endpoint knows it.
#[derive(Debug)]
struct Source {
    ours: IpAddr,
    /// Since when an initiation from there is not answered.
    asked: Option<Instant>,
}

/// Our address by endpoint. Only what the engine has accepted is learned, so that a forged datagram cannot move a reply.
#[derive(Debug, Default)]
pub(super) struct Sources {
    by_endpoint: HashMap<SocketAddr, Source>,
    /// What was learned last: datagrams come in trains, and a train costs one look-up.
    last: Option<(SocketAddr, IpAddr)>,
}

impl Sources {
    /// An authentic datagram of `endpoint` was addressed to `ours`.
    pub(super) fn learn(&mut self, endpoint: SocketAddr, ours: IpAddr) {
        if self.last == Some((endpoint, ours)) {
            return;
        }
        if self.by_endpoint.len() >= SOURCES_MAX && !self.by_endpoint.contains_key(&endpoint) {
            self.by_endpoint.clear();
        }
        self.by_endpoint.insert(endpoint, Source { ours, asked: None });
        self.last = Some((endpoint, ours));
    }

    /// Which of our addresses to send from.
    pub(super) fn of(&self, endpoint: SocketAddr) -> Option<IpAddr> {
        self.by_endpoint.get(&endpoint).map(|source| source.ours)
    }

    /// An initiation is about to be sent to `endpoint`. If one before it is still not answered, our address is forgotten.
    pub(super) fn ask(&mut self, endpoint: SocketAddr, now: Instant) {
        let Some(source) = self.by_endpoint.get_mut(&endpoint) else { return };
        let since = *source.asked.get_or_insert(now);
        // whatever comes next is an answer, from whomever the last train was
        self.last = None;
        if now.saturating_duration_since(since) >= ANSWER_WITHIN {
            self.by_endpoint.remove(&endpoint);
        }
    }

    /// The address is not ours any more, or leads nowhere.
    pub(super) fn forget(&mut self, endpoint: SocketAddr) {
        self.by_endpoint.remove(&endpoint);
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(n: usize) -> SocketAddr {
        SocketAddr::new([10, 0, 0, 1].into(), u16::try_from(n).unwrap())
    }

    #[test]
    fn the_newest_is_remembered_and_can_be_forgotten() {
        let mut sources = Sources::default();
        let (a, b): (IpAddr, IpAddr) = ([10, 0, 0, 2].into(), [10, 0, 0, 3].into());
        sources.learn(endpoint(1), a);
        sources.learn(endpoint(1), b);
        assert_eq!(sources.of(endpoint(1)), Some(b));
        sources.forget(endpoint(1));
        assert_eq!(sources.of(endpoint(1)), None);
        sources.learn(endpoint(1), b);
        assert_eq!(sources.of(endpoint(1)), Some(b), "also when it was the last one before");
    }

    #[test]
    fn ks_24_a_source_that_gets_no_answers_is_given_up() {
        let mut sources = Sources::default();
        let (ours, start): (IpAddr, _) = ([10, 0, 0, 2].into(), Instant::now());
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        sources.learn(endpoint(1), ours);
        // many identities may call one node in one moment
        for time in [0, 1, 2, 4_999] {
            sources.ask(endpoint(1), at(time));
            assert_eq!(sources.of(endpoint(1)), Some(ours), "{time} ms");
        }
        sources.learn(endpoint(1), ours);
        sources.ask(endpoint(1), at(5_300));
        assert_eq!(sources.of(endpoint(1)), Some(ours), "it was answered meanwhile");
        sources.ask(endpoint(1), at(10_300));
        assert_eq!(sources.of(endpoint(1)), None);
        sources.ask(endpoint(1), at(10_301));
        sources.learn(endpoint(1), ours);
        assert_eq!(sources.of(endpoint(1)), Some(ours));
    }

    #[test]
    fn many_endpoints_do_not_grow_it_beyond_its_bound() {
        let mut sources = Sources::default();
        for n in 0..3 * SOURCES_MAX {
            sources.learn(endpoint(n), [10, 0, 0, 2].into());
            assert!(sources.by_endpoint.len() <= SOURCES_MAX);
            assert!(sources.of(endpoint(n)).is_some());
        }
    }
}
