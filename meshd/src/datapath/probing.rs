//! Finds out that a path swallows long datagrams without a word, whatever is inside, and when it does no more: the other
//! node is asked.
//!
//! While packets are sent that not every path carries, probes go along in rounds of two: a short one, and one as long as the
//! longest datagram. Where the short ones are answered and not one of the long ones, the path swallows. Where neither are, the
//! peer is away or does not know probes, and nothing follows (RFC 8899 §5.2, in this much). A path that swallows gets a long
//! probe now and then, and is believed to carry long datagrams again as soon as one is answered.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Time between two rounds while long probes are answered.
const ROUND: Duration = Duration::from_millis(700);
/// Time between two rounds while the last long probe is not answered. With [`LOST_MAX`] a path is found out 3 s after its first
/// long probe is lost, and within 5 s of becoming narrow.
const DOUBT: Duration = Duration::from_millis(250);
/// So many rounds whose short probe was answered, and none of their long ones. RFC 8899 §5.1.2 has `MAX_PROBES` 3, which
/// ordinary loss reaches often; how rarely it reaches this is measured by `mf_12_loss_alone_is_hardly_ever_taken_for_a_narrow_path`.
const LOST_MAX: usize = 12;
/// So many rounds are remembered: those in which both were lost say nothing, and an answer may be this many rounds late.
const ROUNDS_MAX: usize = 24;
/// Time between two long probes of a path that swallows. Shorter than RFC 8899's `PMTU_RAISE_TIMER` of 600 s: a probe costs one
/// datagram, and nothing is sent longer before it is answered.
const RAISE: Duration = Duration::from_secs(30);
/// How many paths are asked. Beyond it all are forgotten and asked anew.
const PATHS_MAX: usize = 4_096;

/// The two probes of a round by their numbers; the long one has not been answered.
#[derive(Clone, Copy)]
struct Round {
    short: u64,
    long: u64,
    is_short_answered: bool,
}

/// What is known of one path.
struct Asked {
    /// When the last round began.
    begun: Instant,
    /// The rounds since the last that had its long probe answered.
    rounds: VecDeque<Round>,
    /// The long probe that was sent since the path swallows.
    raise: Option<u64>,
}

/// What is to be done before a long packet is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing: a round is under way.
    Go,
    /// A round begins: send both probes, and say so with [`Probing::asked`].
    Ask,
    /// The path swallows long datagrams.
    Swallows,
}

/// The paths that are asked.
#[derive(Default)]
pub(super) struct Probing {
    paths: HashMap<IpAddr, Asked>,
    /// The path that was looked at last, and until when there is nothing to do on it.
    last: Option<(IpAddr, Instant)>,
}

impl Probing {
    /// A packet is about to be sent to `to` that not every path carries.
    pub(super) fn notes(&mut self, to: SocketAddr, now: Instant) -> Step {
        let to = to.ip();
        if self.last.is_some_and(|(last, until)| last == to && now < until) {
            return Step::Go;
        }
        let Some(path) = self.paths.get_mut(&to) else { return Step::Ask };
        if path.rounds.iter().filter(|round| round.is_short_answered).count() >= LOST_MAX {
            // the first long probe to find out that it is over goes after a while
            (path.begun, path.raise) = (now, None);
            path.rounds.clear();
            return Step::Swallows;
        }
        let pause = if path.rounds.is_empty() { ROUND } else { DOUBT };
        let until = path.begun + pause;
        if now < until {
            self.last = Some((to, until));
            return Step::Go;
        }
        Step::Ask
    }

    /// Both probes were sent, the short one and the long one, under these numbers.
    pub(super) fn asked(&mut self, to: SocketAddr, [short, long]: [u64; 2], now: Instant) {
        let path = self.path(to.ip(), now);
        (path.begun, path.raise) = (now, None);
        if path.rounds.len() >= ROUNDS_MAX {
            path.rounds.pop_front();
        }
        path.rounds.push_back(Round { short, long, is_short_answered: false });
    }

    /// A packet is about to be sent to `to`, which swallows long datagrams: whether a long probe is to go along, to be told of
    /// with [`asked_again`](Self::asked_again).
    pub(super) fn may_carry_again(&mut self, to: SocketAddr, now: Instant) -> bool {
        now >= self.path(to.ip(), now).begun + RAISE
    }

    /// The long probe was sent under this number.
    pub(super) fn asked_again(&mut self, to: SocketAddr, long: u64, now: Instant) {
        let path = self.path(to.ip(), now);
        path.rounds.clear();
        (path.begun, path.raise) = (now, Some(long));
    }

    /// The peer at `from` has answered the probe with this number; whether its path swallows no more.
    pub(super) fn answered(&mut self, from: SocketAddr, number: u64) -> bool {
        let Some(path) = self.paths.get_mut(&from.ip()) else { return false };
        if path.raise == Some(number) {
            path.raise = None;
            return true;
        }
        if let Some(round) = path.rounds.iter_mut().find(|round| round.short == number) {
            round.is_short_answered = true;
        } else if let Some(at) = path.rounds.iter().position(|round| round.long == number) {
            path.rounds.drain(..=at);
        }
        false
    }

    fn path(&mut self, to: IpAddr, now: Instant) -> &mut Asked {
        if self.paths.len() >= PATHS_MAX && !self.paths.contains_key(&to) {
            self.paths.clear();
        }
        self.paths.entry(to).or_insert_with(|| Asked { begun: now, rounds: VecDeque::new(), raise: None })
    }
}

#[cfg(test)]
mod tests;
