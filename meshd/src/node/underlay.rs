//! Follows the link that peers reach this node at: what of a change is believed, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::anyhow;

use super::Node;
use crate::datapath::Order;
use crate::kernel::{Seen, Underlay};

/// How long an address stays this node's that went while another of its family is there, and for how long something may be wrong
/// before anybody is told.
const GONE_AFTER: Duration = Duration::from_secs(1);
/// The same for the last one of its family: a lease is renewed, or a link was down and a router has not spoken yet (RFC 4861
/// section 6.3.7: three questions, four seconds apart).
const FAMILY_GONE_AFTER: Duration = Duration::from_secs(12);
/// How often is looked although nobody told of a change: notifications can be lost, and routes are not listened to.
const RARE_LOOK: Duration = Duration::from_secs(10);

/// What is known of changes that are not followed yet.
pub(super) struct Following {
    /// Addresses that were not there any more, and since when.
    gone: BTreeMap<IpAddr, Instant>,
    /// Since when something is wrong.
    wrong: Option<Instant>,
    looked: Instant,
}

impl Following {
    pub(super) fn new(now: Instant) -> Self {
        Self { gone: BTreeMap::new(), wrong: None, looked: now }
    }

    /// Whether it is time to look although nobody told of a change.
    fn is_due(&self, now: Instant) -> bool {
        self.wrong.is_some() || !self.gone.is_empty() || now.duration_since(self.looked) >= RARE_LOOK
    }

    /// What peers reach the node at from now on, after a look; and what is wrong with it once it has been so for a moment.
    /// As long as something is, all stays as it was: a node without an address is nobody's peer.
    fn follow(&mut self, held: &Underlay, seen: Result<Seen, String>, now: Instant) -> (Underlay, Option<String>) {
        self.looked = now;
        let wrong = match seen {
            Ok(seen) if !seen.is_running => format!("{} is down or has no carrier", seen.link),
            Ok(seen) if seen.addresses.is_empty() => format!("{} has no address that peers could reach", seen.link),
            Ok(seen) => {
                self.wrong = None;
                let stay = self.still_ours(&held.addresses, &seen.addresses, now);
                return (Underlay::of(&seen, seen.addresses.union(&stay).copied().collect()), None);
            }
            Err(error) => error,
        };
        self.gone.clear();
        let since = *self.wrong.get_or_insert(now);
        let is_told = now.duration_since(since) >= GONE_AFTER;
        let known = || held.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        (held.clone(), is_told.then(|| format!("{wrong}: peers are told of {} still", known())))
    }

    /// Those of the addresses that are not there any more and may come back.
    fn still_ours(&mut self, held: &BTreeSet<IpAddr>, there: &BTreeSet<IpAddr>, now: Instant) -> BTreeSet<IpAddr> {
        self.gone.retain(|ip, _| held.contains(ip) && !there.contains(ip));
        let mut stay = BTreeSet::new();
        for ip in held.difference(there) {
            let since = *self.gone.entry(*ip).or_insert(now);
            let has_family = there.iter().any(|other| other.is_ipv4() == ip.is_ipv4());
            let grace = if has_family { GONE_AFTER } else { FAMILY_GONE_AFTER };
            if now.duration_since(since) < grace {
                stay.insert(*ip);
            }
        }
        self.gone.retain(|ip, _| stay.contains(ip));
        stay
    }
}

impl Node {
    /// Looks at the underlay's link where somebody told of a change or it is time, and has all that follows from it follow;
    /// the report and the engine's tables do with the reconcile that comes next.
    pub(super) async fn follow_underlay(&mut self, is_told: bool) {
        const WHAT: &str = "underlay";
        let now = Instant::now();
        if !is_told && !self.following.is_due(now) && !self.trouble.contains_key(WHAT) {
            return;
        }
        let seen = self.kernel.see_underlay(self.config.underlay_link.as_deref(), &self.underlay.link).await;
        let seen = seen.map_err(|error| format!("{error:#}"));
        let (next, wrong) = self.following.follow(&self.underlay, seen, now);
        match wrong {
            Some(wrong) => self.note_trouble(WHAT, &anyhow!(wrong)),
            None => drop(self.trouble.remove(WHAT)),
        }
        if next != self.underlay
            && let Err(error) = self.move_to(next).await
        {
            self.note_trouble(WHAT, &error);
        }
    }

    async fn move_to(&mut self, next: Underlay) -> anyhow::Result<()> {
        self.kernel.follow(&next).await?;
        if next.mesh_mtu != self.underlay.mesh_mtu {
            self.tell_data(Order::SetMtu(usize::try_from(next.mesh_mtu).unwrap_or(usize::MAX)));
        }
        if !self.underlay.addresses.is_subset(&next.addresses) {
            self.tell_data(Order::Moved);
        }
        let (link, addresses, mtu) = (&next.link, &next.addresses, next.mtu);
        tracing::info!(link, ?addresses, mtu, former = ?self.underlay.addresses, "The underlay changed: this node follows");
        self.underlay = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn seen(addresses: &[&str]) -> Seen {
        Seen { link: "eth0".to_owned(), is_running: true, mtu: 1500, addresses: ips(addresses) }
    }

    /// A node with these addresses, and a clock.
    struct World {
        start: Instant,
        held: Underlay,
        following: Following,
    }

    impl World {
        fn new(addresses: &[&str]) -> Self {
            let start = Instant::now();
            let held = Underlay::of(&seen(&[]), ips(addresses));
            Self { start, held, following: Following::new(start) }
        }

        /// What is wrong after a look.
        fn look(&mut self, milliseconds: u64, seen: Result<Seen, &str>) -> Option<String> {
            let now = self.start + Duration::from_millis(milliseconds);
            let (next, wrong) = self.following.follow(&self.held, seen.map_err(str::to_owned), now);
            self.held = next;
            wrong
        }

        fn is_due(&self, milliseconds: u64) -> bool {
            self.following.is_due(self.start + Duration::from_millis(milliseconds))
        }
    }

    #[test]
    fn a_new_address_counts_at_once_and_an_old_one_a_little_longer() {
        let mut world = World::new(&["192.0.2.1", "2001:db8::1"]);
        world.look(0, Ok(seen(&["192.0.2.1", "192.0.2.2", "2001:db8::1"])));
        assert_eq!(world.held.addresses, ips(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]));
        world.look(5_000, Ok(seen(&["192.0.2.2", "2001:db8::1"])));
        assert_eq!(world.held.addresses, ips(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]));
        assert!(world.is_due(5_500));
        world.look(5_999, Ok(seen(&["192.0.2.2", "2001:db8::1"])));
        assert!(world.held.addresses.contains(&"192.0.2.1".parse().unwrap()));
        assert_eq!(world.look(6_000, Ok(seen(&["192.0.2.2", "2001:db8::1"]))), None);
        assert_eq!(world.held.addresses, ips(&["192.0.2.2", "2001:db8::1"]));
        assert!(!world.is_due(6_500), "there is nothing to wait for");
        assert!(world.is_due(16_000), "a notification can be lost");
    }

    #[test]
    fn an_address_that_comes_back_was_never_away() {
        let mut world = World::new(&["192.0.2.1", "192.0.2.2"]);
        for round in 0..5 {
            world.look(round * 900, Ok(seen(&["192.0.2.1"])));
            assert_eq!(world.held.addresses.len(), 2, "round {round}");
            world.look(round * 900 + 800, Ok(seen(&["192.0.2.1", "192.0.2.2"])));
        }
    }

    #[test]
    fn the_last_one_of_a_family_may_come_back_for_longer() {
        let mut world = World::new(&["192.0.2.1", "2001:db8::1"]);
        for time in [0, 11_999] {
            world.look(time, Ok(seen(&["192.0.2.1"])));
            assert_eq!(world.held.addresses, ips(&["192.0.2.1", "2001:db8::1"]), "{time} ms");
        }
        // a new prefix: the old one is not waited for any more
        world.look(11_999, Ok(seen(&["192.0.2.1", "2001:db8:1::1"])));
        assert_eq!(world.held.addresses, ips(&["192.0.2.1", "2001:db8:1::1"]));
        for time in [20_000, 32_000] {
            world.look(time, Ok(seen(&["192.0.2.1"])));
        }
        assert_eq!(world.held.addresses, ips(&["192.0.2.1"]));
    }

    #[test]
    fn where_nothing_is_left_all_stays_and_somebody_is_told() {
        let down = Seen { is_running: false, ..seen(&["192.0.2.1"]) };
        for (wrong, text) in [
            (Ok(seen(&[])), "eth0 has no address"),
            (Ok(down), "eth0 is down"),
            (Err("there is no link eth0"), "there is no link eth0"),
        ] {
            let mut world = World::new(&["192.0.2.1", "2001:db8::1"]);
            let before = world.held.clone();
            assert_eq!(world.look(0, wrong.clone()), None, "a moment is nothing");
            assert!(world.is_due(500));
            let told = world.look(1_000, wrong.clone()).expect("it is told");
            assert!(told.contains(text) && told.contains("192.0.2.1, 2001:db8::1"), "{told}");
            world.look(3_600_000, wrong);
            assert_eq!(world.held, before);
            // IPv6 comes later than the link
            assert_eq!(world.look(3_600_001, Ok(seen(&["192.0.2.1"]))), None);
            assert_eq!(world.held, before);
        }
    }

    #[test]
    fn the_link_and_its_mtu_are_followed() {
        let mut world = World::new(&["192.0.2.1"]);
        world.look(0, Ok(Seen { mtu: 9000, link: "eth1".to_owned(), ..seen(&["192.0.2.1"]) }));
        assert_eq!((world.held.link.as_str(), world.held.mtu, world.held.mesh_mtu), ("eth1", 9000, 8920));
        world.look(0, Ok(Seen { mtu: 1000, ..seen(&["192.0.2.1"]) }));
        assert_eq!((world.held.mtu, world.held.mesh_mtu), (1280, 1280));
    }
}
