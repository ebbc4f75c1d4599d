//! The door to the underlay: the UDP port, what is sent by it and from which of our addresses.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use linux::fault::{BatchRefusal, Fault};
use linux::udp::{Batch, Family, Sent, Transmit, Udp};

use super::counters::Counters;
use super::outbox::Heading;
use super::source::Sources;

/// First byte of a handshake initiation (WireGuard paper, section 5.4.2).
pub(super) const INITIATION: u8 = 1;

/// How long a socket rests that is said to be readable and cannot be read, so that it is not asked for ever. Decision
/// 0007.
pub(super) const READ_PAUSE: Duration = Duration::from_millis(10);

/// How long datagrams of a family go singly after a link has refused a batch of them for what it is (`EIO`): links come
/// and go, and are asked again.
const BATCH_PAUSE: Duration = Duration::from_secs(60);

/// How long the kernel's word on a path is believed before it is asked again: paths get wider, too (RFC 1191 §6.3 asks
/// for no less than a minute or so between tries).
const PATH_PAUSE: Duration = Duration::from_secs(60);

/// What every path carries, in bytes: the least MTU of IPv6 (RFC 8200 §5), which IPv4's paths have, too.
const LEAST_MTU: usize = 1280;

/// How long a path is spared long datagrams that has swallowed some (RFC 4821 §7.3, RFC 8899 `PMTU_RAISE_TIMER`).
const SWALLOW_PAUSE: Duration = Duration::from_secs(600);

/// How many narrow paths are remembered. Beyond it all are forgotten and learned again.
const PATHS_MAX: usize = 4_096;

/// Header and tag of a data message in bytes (WireGuard paper, section 5.4.6).
const WIREGUARD_BYTES: usize = 16 + 16;

/// What a datagram holds beside the inner packet in bytes: WireGuard's header and tag, UDP's and IP's headers.
const fn overhead(family: Family) -> usize {
    let ip = match family {
        Family::V4 => 20,
        Family::V6 => 40,
    };
    WIREGUARD_BYTES + 8 + ip
}

/// The longest inner packet in bytes that a path of this MTU carries: padding fills up to a multiple of 16 and must not reach
/// beyond.
fn limit_of(to: SocketAddr, mtu: usize) -> usize {
    mtu.saturating_sub(overhead(Family::of(to.ip()))) & !15
}

/// What is known of a path that is narrower than the link.
struct Narrow {
    /// The longest inner packet in bytes.
    limit: usize,
    /// Until when that is believed.
    until: Instant,
    /// Whether it was found out by what was lost, and not told by the kernel.
    swallows: bool,
}

/// The UDP port.
pub(super) struct Outer {
    udp: Udp,
    sources: Sources,
    counters: Arc<Counters>,
    /// Until when a family rests, IPv4 first.
    resting: [Option<Instant>; 2],
    /// Until when datagrams of a family go singly, IPv4 first; `None` while they go in batches.
    singly: [Option<Instant>; 2],
    /// Whether the kernel can at all.
    has_gso: [bool; 2],
    /// Paths that are narrower than the link.
    narrow: HashMap<IpAddr, Narrow>,
    /// The present turn.
    now: Instant,
}

fn at(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

impl Outer {
    pub(super) fn new(udp: Udp, wants_batches: bool, counters: Arc<Counters>, now: Instant) -> Self {
        let has_gso = [Family::V4, Family::V6].map(|family| wants_batches && udp.has_gso(family));
        Self {
            udp,
            sources: Sources::default(),
            counters,
            resting: [None; 2],
            singly: [None; 2],
            has_gso,
            narrow: HashMap::new(),
            now,
        }
    }

    /// Whether many datagrams go, and come, with one call: of IPv4, and of IPv6.
    pub(super) fn offloads(&self) -> [(bool, bool); 2] {
        [Family::V4, Family::V6].map(|family| (self.sends_batches(family), self.udp.has_gro(family)))
    }

    fn sends_batches(&self, family: Family) -> bool {
        let ([gso_v4, gso_v6], [singly_v4, singly_v6]) = (self.has_gso, self.singly);
        match family {
            Family::V4 => gso_v4 && singly_v4.is_none(),
            Family::V6 => gso_v6 && singly_v6.is_none(),
        }
    }

    /// What to wait on for one family; nothing while it rests.
    pub(super) fn source(&self, family: Family) -> Option<BorrowedFd<'_>> {
        if self.resting.get(at(family)).is_some_and(Option::is_some) { None } else { self.udp.source(family) }
    }

    /// When the first rest ends.
    pub(super) fn rest_ends(&self) -> Option<Instant> {
        self.resting.into_iter().flatten().min()
    }

    /// Ends the rests that are over.
    pub(super) fn wake_up(&mut self, now: Instant) {
        self.now = now;
        for pause in self.resting.iter_mut().chain(&mut self.singly) {
            pause.take_if(|end| *end <= now);
        }
    }

    /// Fills `batch` with what has arrived; whether there was anything.
    pub(super) fn receive(&mut self, family: Family, batch: &mut Batch, now: Instant) -> bool {
        match self.udp.recv(family, batch) {
            Ok(any) => any,
            Err(error) => {
                self.counters.udp_faults(Fault::of(&error), 1);
                if let Some(resting) = self.resting.get_mut(at(family)) {
                    *resting = Some(now + READ_PAUSE);
                }
                false
            }
        }
    }

    /// The engine has accepted a datagram of `from` that was addressed to `ours`.
    pub(super) fn learn(&mut self, from: SocketAddr, ours: Option<IpAddr>) {
        if let Some(ours) = ours {
            self.sources.learn(from, ours);
        }
    }

    /// Our addresses changed: from where each peer is sent to is learned again.
    pub(super) fn forget_sources(&mut self) {
        self.sources = Sources::default();
    }

    /// The longest inner packet in bytes that the path to `to` is known to carry; `None`: nothing is known.
    pub(super) fn limit(&self, to: SocketAddr) -> Option<usize> {
        if self.narrow.is_empty() {
            return None;
        }
        self.known(to).map(|narrow| narrow.limit)
    }

    fn known(&self, to: SocketAddr) -> Option<&Narrow> {
        self.narrow.get(&to.ip()).filter(|narrow| narrow.until > self.now)
    }

    /// A batch was refused as if a datagram were longer than the path. If one is, from now on they are made to fit what the
    /// kernel knows of the path, and what was made already goes in fragments; whether that is so.
    fn narrow(&mut self, to: SocketAddr, length: usize) -> bool {
        // no way there at all: there is nothing to learn
        let Ok(mtu) = self.udp.path_mtu(to) else { return true };
        let is_narrow = length + overhead(Family::of(to.ip())) - WIREGUARD_BYTES > mtu;
        if is_narrow {
            self.remember(to, mtu, (PATH_PAUSE, false));
            tracing::debug!(peer = %to, mtu, "The path is narrower than the link");
        }
        is_narrow
    }

    /// The longest inner packet in bytes that every path carries.
    pub(super) fn least(&self, to: SocketAddr) -> usize {
        limit_of(to, LEAST_MTU)
    }

    /// Long datagrams to `to` are lost on the way, and nobody says so.
    pub(super) fn swallows(&mut self, to: SocketAddr) {
        if self.limit(to).is_some_and(|limit| limit <= self.least(to)) {
            return;
        }
        self.remember(to, LEAST_MTU, (SWALLOW_PAUSE, true));
        tracing::info!(peer = %to, "The path swallows long datagrams: packets are made shorter for a while");
    }

    /// Whether the path to `to` has swallowed long datagrams and is spared them now.
    pub(super) fn is_swallowing(&self, to: SocketAddr) -> bool {
        !self.narrow.is_empty() && self.known(to).is_some_and(|narrow| narrow.swallows)
    }

    /// A long datagram has arrived on the way to `to`, which swallowed some.
    pub(super) fn carries_again(&mut self, to: SocketAddr) {
        if self.is_swallowing(to) {
            self.narrow.remove(&to.ip());
            tracing::info!(peer = %to, "The path carries long datagrams again");
        }
    }

    fn remember(&mut self, to: SocketAddr, mtu: usize, (pause, swallows): (Duration, bool)) {
        if self.narrow.len() >= PATHS_MAX && !self.narrow.contains_key(&to.ip()) {
            self.narrow.clear();
        }
        self.narrow.insert(to.ip(), Narrow { limit: limit_of(to, mtu), until: self.now + pause, swallows });
    }

    /// Sends `count` datagrams from the address that their receiver knows us by. `answers` is the datagram that is being
    /// answered, for whose sender nothing may be known yet.
    pub(super) fn send(
        &mut self,
        heading: Heading,
        datagrams: &[u8],
        count: usize,
        answers: Option<(SocketAddr, IpAddr)>,
    ) {
        let Heading { to, class, length } = heading;
        if count == 1 && datagrams.first() == Some(&INITIATION) {
            self.sources.ask(to, self.now);
        }
        let addressed = answers.and_then(|(from, ours)| (from == to).then_some(ours));
        let from = self.sources.of(to).or(addressed);
        let transmit = Transmit { to, from, class, datagrams, segment_bytes: length };
        let family = Family::of(to.ip());
        if count > 1 {
            if !self.sends_batches(family) {
                return self.send_singly(&transmit);
            }
            match self.udp.send(&transmit) {
                Err(error) if let Some(refusal) = BatchRefusal::of(&error) => {
                    self.fall_back(to, length, (refusal, &error));
                    self.send_singly(&transmit);
                }
                result => self.sent(&transmit, count, result),
            }
        } else {
            let result = self.udp.send(&transmit);
            self.sent(&transmit, 1, result);
        }
    }

    fn send_singly(&mut self, transmit: &Transmit<'_>) {
        for datagram in transmit.datagrams.chunks(transmit.segment_bytes.max(1)) {
            let single = Transmit { datagrams: datagram, ..*transmit };
            let result = self.udp.send(&single);
            self.sent(&single, 1, result);
        }
    }

    fn sent(&mut self, transmit: &Transmit<'_>, count: usize, result: io::Result<Sent>) {
        match result {
            Ok(sent) => {
                self.counters.udp_sent.add(count, transmit.datagrams.len());
                if sent == Sent::SourceGone {
                    self.sources.forget(transmit.to);
                }
            }
            Err(error) => self.counters.udp_faults(Fault::of(&error), count),
        }
    }

    /// A batch of datagrams of this length was refused.
    fn fall_back(&mut self, to: SocketAddr, length: usize, (refusal, error): (BatchRefusal, &io::Error)) {
        self.counters.fell_back();
        // some kernels have only EINVAL for a link that cannot: then each datagram fits, and batches never pass
        if refusal == BatchRefusal::Path && self.narrow(to, length) {
            return;
        }
        let family = Family::of(to.ip());
        if let Some(singly) = self.singly.get_mut(at(family)) {
            *singly = Some(self.now + BATCH_PAUSE);
        }
        tracing::warn!(%family, %error, "The underlay's link refuses batches of datagrams: they go singly for a while");
    }

    /// Counts datagrams that have arrived.
    pub(super) fn count_received(&self, count: usize, bytes: usize) {
        self.counters.udp_received.add(count, bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use linux::netns::Netns;

    use super::*;
    use crate::datapath::counters::Totals;

    /// A node's port, and where it is.
    fn outer(start: Instant, counters: &Arc<Counters>) -> (Outer, SocketAddr) {
        let netns = Netns::create().expect("these tests need root: run them under `unshare -rnm`");
        let up = || Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip runs");
        assert!(netns.within(up).expect("a namespace").success());
        let udp = netns.within(|| Udp::bind(0, 0)).expect("a namespace").expect("a port");
        let to = SocketAddr::new([127, 0, 0, 1].into(), udp.port());
        (Outer::new(udp, true, Arc::clone(counters), start), to)
    }

    #[test]
    fn what_a_path_swallowed_is_believed_for_a_while_and_no_longer_than_it_does() {
        let start = Instant::now();
        let (mut outer, to) = outer(start, &Arc::default());
        assert!(outer.limit(to).is_none() && !outer.is_swallowing(to));
        outer.swallows(to);
        assert_eq!((outer.limit(to), outer.is_swallowing(to)), (Some(1216), true));
        outer.carries_again(to);
        assert_eq!((outer.limit(to), outer.is_swallowing(to)), (None, false));
        outer.swallows(to);
        outer.wake_up(start + SWALLOW_PAUSE);
        assert_eq!((outer.limit(to), outer.is_swallowing(to)), (None, false));
        // what the kernel says of a path no probe takes back
        outer.remember(to, 1300, (PATH_PAUSE, false));
        outer.carries_again(to);
        assert_eq!((outer.limit(to), outer.is_swallowing(to)), (Some(1232), false));
    }

    /// An IPsec transformation on the way is what makes Linux 6.18 say EIO, and the kernel of the tests has none: so its answer is
    /// put in here. What EINVAL does, a kernel shows in the case `mf_10_offloads_that_a_kernel_refuses_are_left_off`.
    #[test]
    fn a_family_whose_link_refuses_batches_goes_singly_for_a_while() {
        let start = Instant::now();
        let counters = Arc::new(Counters::default());
        let (mut outer, to) = outer(start, &counters);
        assert!(outer.sends_batches(Family::V4));
        let error = io::Error::from_raw_os_error(5);
        let refusal = BatchRefusal::of(&error).expect("EIO is a refusal");
        outer.fall_back(to, 1452, (refusal, &error));
        assert_eq!((outer.sends_batches(Family::V4), outer.sends_batches(Family::V6)), (false, true));
        // three datagrams, the last one shorter: each alone
        outer.send(Heading { to, class: 0, length: 1000 }, &[4; 2500], 3, None);
        let shown = Totals::new(vec![counters]);
        assert_eq!((shown.udp_sent(), shown.fallbacks()), ((3, 2500), 1));
        outer.wake_up(start + BATCH_PAUSE - Duration::from_millis(1));
        assert!(!outer.sends_batches(Family::V4));
        outer.wake_up(start + BATCH_PAUSE);
        assert!(outer.sends_batches(Family::V4), "links come and go: it is tried again");
    }
}
