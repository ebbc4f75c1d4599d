//! Remembers which of our addresses each endpoint addressed, so that replies leave from there.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

/// How many endpoints are remembered. Beyond it all are forgotten and learned again from the next datagram of each;
/// meanwhile the kernel chooses. Decision 0007.
pub(super) const SOURCES_MAX: usize = 4_096;

/// Our address by endpoint. Only what the engine has accepted is learned, so that a forged datagram cannot move a reply.
#[derive(Debug, Default)]
pub(super) struct Sources {
    by_endpoint: HashMap<SocketAddr, IpAddr>,
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
        self.by_endpoint.insert(endpoint, ours);
        self.last = Some((endpoint, ours));
    }

    /// Which of our addresses to send from.
    pub(super) fn of(&self, endpoint: SocketAddr) -> Option<IpAddr> {
        self.by_endpoint.get(&endpoint).copied()
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
    fn many_endpoints_do_not_grow_it_beyond_its_bound() {
        let mut sources = Sources::default();
        for n in 0..3 * SOURCES_MAX {
            sources.learn(endpoint(n), [10, 0, 0, 2].into());
            assert!(sources.by_endpoint.len() <= SOURCES_MAX);
            assert!(sources.of(endpoint(n)).is_some());
        }
    }
}
