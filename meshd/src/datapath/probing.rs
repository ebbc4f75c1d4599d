//! Finds out that a path swallows long datagrams without a word, whatever is inside: the other node is asked.
//!
//! While packets are sent that not every path carries, two probes go along every 0.7 s: one as long as the longest
//! datagram, and a short one. Where the short ones are answered and the long ones are not, the path swallows. Where
//! neither is, the peer is away or does not know probes, and nothing follows (RFC 8899 §5.2, in this much).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Time between two rounds of probes; an answer that takes longer does not count. With [`LOST_MAX`] a path is found out
/// within 5 s of becoming narrow.
const ROUND: Duration = Duration::from_millis(700);
/// So many long probes in a row have to be lost beside short ones that were not. RFC 8899 §5.1.2 has `MAX_PROBES` 3; where a
/// tenth of everything is lost, five are lost by chance once a day, and the price is shorter packets for a while.
const LOST_MAX: u8 = 5;
/// How many paths are asked. Beyond it all are forgotten and asked anew.
const PATHS_MAX: usize = 4_096;

/// One probe: its number, and whether it was answered.
#[derive(Clone, Copy)]
struct Asked {
    number: u64,
    is_answered: bool,
}

/// The last round on one path, and how many rounds in a row have lost the long probe alone.
struct Round {
    begun: Instant,
    short: Asked,
    long: Asked,
    lost: u8,
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
    rounds: HashMap<IpAddr, Round>,
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
        let Some(round) = self.rounds.get_mut(&to) else { return Step::Ask };
        let until = round.begun + ROUND;
        if now < until {
            self.last = Some((to, until));
            return Step::Go;
        }
        if round.long.is_answered {
            round.lost = 0;
        } else if round.short.is_answered {
            round.lost += 1;
        }
        if round.lost < LOST_MAX {
            return Step::Ask;
        }
        self.rounds.remove(&to);
        Step::Swallows
    }

    /// Both probes were sent, the short one and the long one, under these numbers.
    pub(super) fn asked(&mut self, to: SocketAddr, [short, long]: [u64; 2], now: Instant) {
        if self.rounds.len() >= PATHS_MAX && !self.rounds.contains_key(&to.ip()) {
            self.rounds.clear();
        }
        let [short, long] = [short, long].map(|number| Asked { number, is_answered: false });
        let lost = self.rounds.get(&to.ip()).map_or(0, |round| round.lost);
        self.rounds.insert(to.ip(), Round { begun: now, short, long, lost });
    }

    /// The peer at `from` has answered the probe with this number.
    pub(super) fn answered(&mut self, from: SocketAddr, number: u64) {
        let Some(round) = self.rounds.get_mut(&from.ip()) else { return };
        for asked in [&mut round.short, &mut round.long] {
            asked.is_answered |= asked.number == number;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One round after the other: what is answered of each, the short one and the long one; in which round the path was
    /// found to swallow.
    fn found(rounds: &[[bool; 2]]) -> Option<usize> {
        let (to, mut now) = ("192.0.2.1:51820".parse().unwrap(), Instant::now());
        let mut probing = Probing::default();
        for (number, answers) in rounds.iter().enumerate() {
            match probing.notes(to, now) {
                Step::Swallows => return Some(number),
                step @ (Step::Go | Step::Ask) => assert_eq!(step, Step::Ask, "round {number}"),
            }
            let numbers = [number as u64 * 2, number as u64 * 2 + 1];
            probing.asked(to, numbers, now);
            assert_eq!(probing.notes(to, now + ROUND - Duration::from_millis(1)), Step::Go);
            for (is_answered, number) in answers.iter().zip(numbers) {
                if *is_answered {
                    probing.answered(SocketAddr::new(to.ip(), 9), number);
                }
            }
            now += ROUND;
        }
        (probing.notes(to, now) == Step::Swallows).then_some(rounds.len())
    }

    const BOTH: [bool; 2] = [true, true];
    const SHORT: [bool; 2] = [true, false];
    const NONE: [bool; 2] = [false, false];

    #[test]
    fn long_probes_that_are_lost_alone_five_times_in_a_row_find_it_out() {
        assert_eq!(found(&[SHORT; 5]), Some(5));
        assert_eq!(found(&[BOTH, SHORT, SHORT, SHORT, SHORT, SHORT]), Some(6));
        assert_eq!(found(&[[SHORT; 4].as_slice(), &[BOTH], &[SHORT; 4]].concat()), None, "loss, and not the length");
        let with_gaps = [[SHORT; 3].as_slice(), &[NONE; 3], &[SHORT; 2]].concat();
        assert_eq!(found(&with_gaps), Some(8), "where both are lost nothing is learned");
    }

    #[test]
    fn who_does_not_answer_is_not_taken_for_a_path() {
        assert_eq!(found(&[NONE; 20]), None);
        assert_eq!(found(&[BOTH; 20]), None);
        assert_eq!(found(&[[false, true]; 20]), None);
    }

    #[test]
    fn answers_to_other_numbers_and_of_other_peers_do_not_count() {
        let (to, now) = ("192.0.2.1:51820".parse().unwrap(), Instant::now());
        let mut probing = Probing::default();
        probing.asked(to, [1, 2], now);
        probing.answered(to, 3);
        probing.answered("192.0.2.2:51820".parse().unwrap(), 2);
        let round = &probing.rounds[&to.ip()];
        assert!(!round.short.is_answered && !round.long.is_answered);
    }

    #[test]
    fn so_many_paths_are_asked_and_no_more() {
        let (now, mut probing) = (Instant::now(), Probing::default());
        for n in 0..u32::try_from(PATHS_MAX).unwrap() + 1 {
            probing.asked(SocketAddr::new(std::net::Ipv4Addr::from_bits(n).into(), 1), [0, 1], now);
        }
        assert_eq!(probing.rounds.len(), 1);
    }
}
