//! Rounds by hand, and ordinary loss for years: how often it is taken for a path that swallows.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::*;

const BOTH: [bool; 2] = [true, true];
const SHORT: [bool; 2] = [true, false];
const LONG: [bool; 2] = [false, true];
const NONE: [bool; 2] = [false, false];

fn to() -> SocketAddr {
    "192.0.2.1:51820".parse().unwrap()
}

/// One round after the other: what is answered of each, the short one and the long one; in which round, and after what time,
/// the path was found to swallow.
fn found(rounds: &[[bool; 2]]) -> Option<(usize, Duration)> {
    let begun = Instant::now();
    let mut now = begun;
    let mut probing = Probing::default();
    for (number, answers) in rounds.iter().enumerate() {
        match probing.notes(to(), now) {
            Step::Swallows => return Some((number, now - begun)),
            step @ (Step::Go | Step::Ask) => assert_eq!(step, Step::Ask, "round {number}"),
        }
        let numbers = [number as u64 * 2, number as u64 * 2 + 1];
        probing.asked(to(), numbers, now);
        for (is_answered, number) in answers.iter().zip(numbers) {
            if *is_answered {
                assert!(!probing.answered(SocketAddr::new(to().ip(), 9), number));
            }
        }
        let pause = if answers[1] { ROUND } else { DOUBT };
        if number + 1 < rounds.len() {
            assert!(matches!(probing.notes(to(), now + pause - Duration::from_millis(1)), Step::Go | Step::Swallows));
        }
        now += pause;
    }
    (probing.notes(to(), now) == Step::Swallows).then_some((rounds.len(), now - begun))
}

#[test]
fn long_probes_that_are_lost_alone_twelve_times_find_it_out() {
    assert_eq!(found(&[SHORT; 12]), Some((12, Duration::from_secs(3))));
    assert_eq!(found(&[[BOTH].as_slice(), &[SHORT; 12]].concat()).map(|(round, _)| round), Some(13));
    assert_eq!(found(&[[SHORT; 11].as_slice(), &[BOTH], &[SHORT; 11]].concat()), None, "loss, and not the length");
    assert_eq!(found(&[[SHORT; 11].as_slice(), &[LONG], &[SHORT; 11]].concat()), None, "loss, and not the length");
    let with_gaps = [[SHORT; 6].as_slice(), &[NONE; 12], &[SHORT; 6]].concat();
    assert_eq!(found(&with_gaps).map(|(round, _)| round), Some(24), "where both are lost nothing is learned");
    let with_more = [[SHORT; 6].as_slice(), &[NONE; 13], &[SHORT; 6]].concat();
    assert_eq!(found(&with_more), None, "what was long ago is forgotten");
}

#[test]
fn who_does_not_answer_is_not_taken_for_a_path() {
    for answers in [NONE, BOTH, LONG] {
        assert_eq!(found(&[answers; 60]), None);
    }
}

#[test]
fn answers_to_other_numbers_and_of_other_peers_do_not_count() {
    let (now, mut probing) = (Instant::now(), Probing::default());
    probing.asked(to(), [1, 2], now);
    assert!(!probing.answered(to(), 3));
    assert!(!probing.answered("192.0.2.2:51820".parse().unwrap(), 2));
    let rounds = &probing.paths[&to().ip()].rounds;
    assert!(rounds.len() == 1 && !rounds[0].is_short_answered);
}

#[test]
fn an_answer_may_be_late() {
    let (mut now, mut probing) = (Instant::now(), Probing::default());
    for number in 0..100 {
        assert_eq!(probing.notes(to(), now), Step::Ask, "round {number}");
        probing.asked(to(), [number * 2, number * 2 + 1], now);
        // the short one comes after four rounds, the long one after eleven
        for late in
            [number.checked_sub(4).map(|number| number * 2), number.checked_sub(11).map(|number| number * 2 + 1)]
        {
            late.map(|late| probing.answered(to(), late));
        }
        now += DOUBT;
    }
}

#[test]
fn so_many_paths_are_asked_and_no_more() {
    let (now, mut probing) = (Instant::now(), Probing::default());
    for n in 0..u32::try_from(PATHS_MAX).unwrap() + 1 {
        probing.asked(SocketAddr::new(std::net::Ipv4Addr::from_bits(n).into(), 1), [0, 1], now);
    }
    assert_eq!(probing.paths.len(), 1);
}

#[test]
fn a_path_that_swallows_is_asked_now_and_then_and_one_answer_is_enough() {
    let (begun, mut probing) = (Instant::now(), Probing::default());
    assert!(!probing.may_carry_again(to(), begun), "it was found by a stream just now");
    assert!(probing.may_carry_again(to(), begun + RAISE));
    probing.asked_again(to(), 7, begun + RAISE);
    assert!(!probing.may_carry_again(to(), begun + RAISE * 2 - Duration::from_millis(1)));
    assert!(!probing.answered(to(), 6));
    assert!(probing.answered(to(), 7));
    assert!(!probing.answered(to(), 7), "once");
    // a probe that was sent before it was known to swallow says nothing
    probing.asked(to(), [8, 9], begun + RAISE * 2);
    probing.asked_again(to(), 10, begun + RAISE * 3);
    assert!(!probing.answered(to(), 9));
}

/// Chance that repeats (SplitMix64).
struct Dice(u64);

impl Dice {
    /// True once in so many times.
    fn once_in(&mut self, times: f64) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        #[expect(clippy::cast_precision_loss, reason = "53 bits are kept")]
        let uniform = ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64;
        uniform * times < 1.0
    }
}

/// What a direction of a path does to datagrams.
#[derive(Clone, Copy, Debug)]
enum Loss {
    /// Each is lost by itself, in percent.
    Single(f64),
    /// Losses come in bursts (Gilbert, 1960): percent on the whole, datagrams of a burst in the mean, and how many of other
    /// people's go between two rounds of ours.
    Bursts(f64, f64, u32),
    /// Long ones alone, in percent: a queue that is full to the last few bytes.
    Long(f64),
}

/// A direction with its state.
struct Direction {
    loss: Loss,
    is_in_burst: bool,
}

impl Direction {
    fn takes(&mut self, is_long: bool, dice: &mut Dice) -> bool {
        match self.loss {
            Loss::Single(percent) => !dice.once_in(100.0 / percent),
            Loss::Long(percent) => !(is_long && dice.once_in(100.0 / percent)),
            Loss::Bursts(percent, length, _) => {
                let share = percent / 100.0;
                self.is_in_burst =
                    if self.is_in_burst { !dice.once_in(length) } else { dice.once_in(length * (1.0 - share) / share) };
                !self.is_in_burst
            }
        }
    }

    fn others_pass(&mut self, dice: &mut Dice) {
        if let Loss::Bursts(_, _, others) = self.loss {
            for _ in 0..others {
                self.takes(false, dice);
            }
        }
    }
}

/// How often in so much time of uninterrupted long packets the path is found to swallow, where it only loses, and for how long
/// it is spared long datagrams then, in all. Answers take `way`.
fn falls(loss: Loss, way: Duration, time: Duration) -> (u32, Duration) {
    let (begun, mut dice, mut probing) = (Instant::now(), Dice(1), Probing::default());
    let mut ways = [loss; 2].map(|loss| Direction { loss, is_in_burst: false });
    let mut answers: BinaryHeap<Reverse<(Instant, u64)>> = BinaryHeap::new();
    let (mut falls, mut spared, mut fallen, mut number) = (0, Duration::ZERO, None, 0);
    let mut now = begun;
    while now < begun + time {
        while let Some(Reverse((at, answer))) = answers.peek().copied().filter(|Reverse((at, _))| *at <= now) {
            answers.pop();
            if probing.answered(to(), answer) {
                spared += fallen.take().map_or(Duration::ZERO, |since| at - since);
            }
        }
        let mut probe = |is_long: bool, dice: &mut Dice| {
            number += 1;
            // the answer to either is short
            if ways[0].takes(is_long, dice) && ways[1].takes(false, dice) {
                answers.push(Reverse((now + way, number)));
            }
            number
        };
        if fallen.is_some() {
            if probing.may_carry_again(to(), now) {
                let long = probe(true, &mut dice);
                probing.asked_again(to(), long, now);
            }
        } else {
            match probing.notes(to(), now) {
                Step::Go => {}
                Step::Ask => {
                    let numbers = [probe(false, &mut dice), probe(true, &mut dice)];
                    probing.asked(to(), numbers, now);
                    ways.iter_mut().for_each(|way| way.others_pass(&mut dice));
                }
                Step::Swallows => {
                    falls += 1;
                    fallen = Some(now);
                }
            }
        }
        now += Duration::from_millis(if fallen.is_some() { 1_000 } else { 50 });
    }
    (falls, spared)
}

/// MF-12: a path that only loses is not to be taken for one that swallows. docs/packet-path.md says what whole days gave.
#[test]
#[expect(clippy::print_stdout, reason = "docs/packet-path.md has what is said")]
fn mf_12_loss_alone_is_hardly_ever_taken_for_a_narrow_path() {
    let hours = Duration::from_secs(3 * 3_600);
    let rows = [
        (Loss::Single(1.0), 0),
        (Loss::Single(5.0), 0),
        (Loss::Single(10.0), 0),
        (Loss::Single(20.0), 0),
        (Loss::Bursts(1.0, 10.0, 20), 0),
        (Loss::Bursts(5.0, 10.0, 20), 0),
        (Loss::Bursts(5.0, 100.0, 20), 0),
        (Loss::Long(5.0), 0),
        (Loss::Long(20.0), 1),
        (Loss::Long(50.0), 30),
    ];
    for way in [Duration::from_millis(20), Duration::from_millis(600)] {
        for (loss, most) in rows {
            let (falls, spared) = falls(loss, way, hours);
            println!("{loss:?}, answers after {way:?}: {falls} times in three hours, {spared:?} in all");
            assert!(falls <= most, "{loss:?}: {falls} times in three hours");
            assert!(spared <= (RAISE * 4) * falls, "{loss:?}: for {spared:?}");
        }
    }
}

/// And one that swallows is found out, whatever else it loses; how long that takes.
#[test]
#[expect(clippy::print_stdout, reason = "docs/packet-path.md has what is said")]
fn mf_12_a_path_that_swallows_and_loses_is_found_out() {
    for percent in [0.001, 1.0, 5.0, 10.0] {
        let mut longest = Duration::ZERO;
        for seed in 0..1_000 {
            let (begun, mut dice, mut probing) = (Instant::now(), Dice(seed), Probing::default());
            let mut way = Direction { loss: Loss::Single(percent), is_in_burst: false };
            let (mut now, mut number) = (begun, 0);
            let took = loop {
                match probing.notes(to(), now) {
                    Step::Go => {}
                    Step::Swallows => break now - begun,
                    Step::Ask => {
                        number += 2;
                        probing.asked(to(), [number, number + 1], now);
                        if way.takes(false, &mut dice) && way.takes(false, &mut dice) {
                            probing.answered(to(), number);
                        }
                    }
                }
                now += Duration::from_millis(10);
            };
            longest = longest.max(took);
        }
        println!("{percent} % lost each way: at the latest after {longest:?} of a thousand times");
        assert!(longest <= Duration::from_secs(if percent < 6.0 { 7 } else { 12 }), "{percent}: {longest:?}");
    }
}
