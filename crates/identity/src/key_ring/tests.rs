//! Every deadline one tick before, at and after; every clock that jumps; random histories.

use proptest::prelude::*;

use super::*;

/// Bound epochs, the time, held epochs, the epoch that is sent with.
type Case = (&'static [u64], u64, &'static [u64], Option<u64>);

fn epochs(list: &[u64]) -> BTreeSet<Epoch> {
    list.iter().copied().map(Epoch).collect()
}

fn ring(period: u64) -> KeyRing {
    KeyRing::new(Duration::from_secs(period)).unwrap()
}

fn held(ring: &KeyRing) -> Vec<u64> {
    ring.held().iter().map(|e| e.0).collect()
}

#[test]
fn a_period_under_a_minute_is_refused() {
    assert_eq!(KeyRing::new(Duration::from_secs(59)), Err(PeriodError { period: Duration::from_secs(59) }));
    assert!(KeyRing::new(Duration::from_secs(60)).is_ok());
    assert!(KeyRing::new(ROTATION_PERIOD).is_ok());
}

/// (period, seconds, held, sending, next deadline) around the boundaries of epoch 100, all held keys bound.
#[test]
fn f18_every_deadline_one_tick_before_at_and_after() {
    for period in [60, 61, 3_600, 86_400] {
        let (start, half) = (100 * period, period / 2);
        let table = [
            (start - 1, [99, 100], 99, start),
            (start, [99, 100], 100, start + half),
            (start + 1, [99, 100], 100, start + half),
            (start + half - 1, [99, 100], 100, start + half),
            (start + half, [100, 101], 100, start + period),
            (start + half + 1, [100, 101], 100, start + period),
            (start + period - 1, [100, 101], 100, start + period),
            (start + period, [100, 101], 101, start + period + half),
            (start + period + half - 1, [100, 101], 101, start + period + half),
            (start + period + half, [101, 102], 101, start + 2 * period),
        ];
        for (at, expected, sending, deadline) in table {
            // a ring that starts here, and one that lived until here, agree
            let mut fresh = ring(period);
            fresh.handle(Input::Bound(epochs(&expected)), UnixTime(at));
            assert_eq!(held(&fresh), expected, "period {period} at {at}");
            assert_eq!(fresh.sending(UnixTime(at)), Some(Epoch(sending)), "period {period} at {at}");
            assert_eq!(fresh.poll_deadline(UnixTime(at)), UnixTime(deadline), "period {period} at {at}");
        }
        let mut lived = ring(period);
        for (at, expected, ..) in table {
            lived.handle(Input::Tick, UnixTime(at));
            lived.handle(Input::Bound(lived.held().clone()), UnixTime(at));
            assert_eq!(held(&lived), expected, "period {period} at {at}, lived");
        }
    }
}

/// Publish first, then retire; the same input twice asks for nothing.
#[test]
fn f18_a_rotation_publishes_before_it_retires() {
    let mut ring = ring(60);
    assert_eq!(ring.handle(Input::Tick, UnixTime(6_000)), [Output::Publish(Epoch(99)), Output::Publish(Epoch(100))]);
    assert_eq!(ring.handle(Input::Tick, UnixTime(6_000)), []);
    assert_eq!(ring.handle(Input::Bound(epochs(&[99, 100])), UnixTime(6_001)), []);
    assert_eq!(ring.handle(Input::Tick, UnixTime(6_029)), []);
    assert_eq!(ring.handle(Input::Tick, UnixTime(6_030)), [Output::Publish(Epoch(101)), Output::Retire(Epoch(99))]);
    assert_eq!(ring.handle(Input::Tick, UnixTime(6_060)), []);
}

/// Every (newest bound epoch, half of the period) pair: what is held, and with which epoch one sends.
#[test]
fn what_is_held_for_every_bound_epoch_in_both_halves() {
    // period 60; epoch 100 begins at 6000
    let table: [Case; 14] = [
        (&[], 6_000, &[99, 100], None),
        (&[], 6_030, &[100, 101], None),
        (&[97], 6_000, &[97, 100], Some(97)),
        (&[97], 6_030, &[97, 100], Some(97)),
        (&[98, 99], 6_000, &[99, 100], Some(99)),
        (&[98, 99], 6_030, &[99, 100], Some(99)),
        (&[99, 100], 6_000, &[99, 100], Some(100)),
        (&[99, 100], 6_030, &[100, 101], Some(100)),
        (&[100, 101], 6_000, &[100, 101], Some(100)),
        (&[100, 101], 6_030, &[100, 101], Some(100)),
        (&[101], 6_000, &[100, 101], Some(101)),
        (&[101], 6_030, &[100, 101], Some(101)),
        (&[500], 6_000, &[100, 500], Some(500)),
        (&[500], 6_030, &[100, 500], Some(500)),
    ];
    for (bound, at, expected, sending) in table {
        let mut ring = ring(60);
        ring.handle(Input::Bound(epochs(bound)), UnixTime(at));
        assert_eq!(held(&ring), expected, "bound {bound:?} at {at}");
        assert_eq!(ring.sending(UnixTime(at)), sending.map(Epoch), "bound {bound:?} at {at}");
    }
}

/// The controller is away: the newest bound key stays until another one is bound, for as long as it takes.
#[test]
fn a_bound_key_is_not_retired_for_one_without_a_binding() {
    let mut ring = ring(60);
    ring.handle(Input::Bound(epochs(&[100])), UnixTime(6_000));
    for at in 6_000..9_000 {
        ring.handle(Input::Tick, UnixTime(at));
        assert!(ring.held().contains(&Epoch(100)), "lost at {at}");
        assert_eq!(ring.sending(UnixTime(at)), Some(Epoch(100)));
    }
    assert_eq!(held(&ring), [100, 149]);
    ring.handle(Input::Bound(epochs(&[100, 149])), UnixTime(8_999));
    assert_eq!(held(&ring), [149, 150]);
}

/// ID-20: whatever the clock does, the key that works stays; when it is right again, nothing is stuck.
#[test]
fn id_20_a_clock_that_goes_back_never_loses_the_current_key() {
    for back_to in [0, 59, 60, 4_000, 5_939, 5_940, 5_999] {
        let mut ring = ring(60);
        ring.handle(Input::Bound(epochs(&[99, 100])), UnixTime(6_010));
        ring.handle(Input::Tick, UnixTime(back_to));
        assert!(ring.held().contains(&Epoch(100)), "lost when the clock went to {back_to}");
        assert!(ring.sending(UnixTime(back_to)).is_some_and(|e| ring.held().contains(&e)));
        ring.handle(Input::Tick, UnixTime(6_011));
        assert_eq!(held(&ring), [99, 100], "not recovered from {back_to}");
    }
    // forward by years and back: what was bound before the jump is still there, what the wrong clock made is gone
    let mut ring = ring(60);
    ring.handle(Input::Bound(epochs(&[99, 100])), UnixTime(6_010));
    ring.handle(Input::Tick, UnixTime(1_000_000_000));
    assert!(ring.held().contains(&Epoch(100)));
    ring.handle(Input::Tick, UnixTime(6_040));
    assert_eq!(held(&ring), [100, 101]);
}

/// Found by the property test below: the first half of the first epoch has no epoch before it.
#[test]
fn a_clock_at_the_beginning_of_time_holds_two_keys() {
    let mut ring = ring(60);
    for (at, expected) in [(0, [0, 1]), (29, [0, 1]), (30, [0, 1]), (60, [0, 1]), (90, [1, 2])] {
        ring.handle(Input::Tick, UnixTime(at));
        assert_eq!(held(&ring), expected, "at {at}");
    }
}

#[test]
fn an_issuer_allows_what_a_clock_off_by_the_tolerance_asks_for() {
    let day = ROTATION_PERIOD;
    let skew = Duration::from_secs(300);
    let noon = |epoch: u64, offset: i64| UnixTime((epoch * 86_400 + 43_200).checked_add_signed(offset).unwrap());
    let range = |epoch, offset| {
        let range = requestable(day, noon(epoch, offset), skew);
        (range.start().0, range.end().0)
    };
    // the change of the clock's pair is at noon; within the tolerance both pairs are allowed
    assert_eq!(range(100, -301), (99, 100));
    assert_eq!(range(100, -300), (99, 101));
    assert_eq!(range(100, 299), (99, 101));
    assert_eq!(range(100, 300), (100, 101));
    for period in [60, 61, 3_600] {
        let period = Duration::from_secs(period);
        for wall in 100_000..100_500 {
            for off in [-300_i64, -1, 0, 1, 300] {
                let mut node = KeyRing::new(period).unwrap();
                node.handle(Input::Tick, UnixTime(wall).after(Duration::ZERO).shifted(off));
                let allowed = requestable(period, UnixTime(wall), skew);
                assert!(node.held().iter().all(|e| allowed.contains(e)), "{wall} {off}");
            }
        }
    }
}

trait Shifted {
    fn shifted(self, by: i64) -> Self;
}

impl Shifted for UnixTime {
    fn shifted(self, by: i64) -> Self {
        Self(self.0.checked_add_signed(by).unwrap())
    }
}

/// A binding outlives its key on every clock within the tolerance, and begins before its key is asked for.
#[test]
fn a_binding_is_valid_for_longer_than_its_key_is_held() {
    for period in [60, 61, 86_400] {
        let period = Duration::from_secs(period);
        let (not_before, not_after) = validity(Epoch(100), period);
        for at in not_before.0.saturating_sub(period.as_secs())..=not_after.0 + period.as_secs() {
            if by_clock(period, UnixTime(at)).contains(&Epoch(100)) {
                assert!((not_before.0..=not_after.0).contains(&at), "held at {at}, valid {not_before} to {not_after}");
            }
            if period > Duration::from_secs(100) {
                break;
            }
        }
    }
    assert_eq!(validity(Epoch(u64::MAX), ROTATION_PERIOD).1, UnixTime(u64::MAX));
}

#[derive(Clone, Debug)]
enum Happening {
    Forward(u64),
    Jump(u64),
    BindAllHeld,
    BindNewest,
    Expire,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0_u64..40).prop_map(Happening::Forward),
        1 => (0_u64..100_000).prop_map(Happening::Jump),
        3 => Just(Happening::BindAllHeld),
        1 => Just(Happening::BindNewest),
        1 => Just(Happening::Expire),
    ]
}

proptest! {
    #[test]
    fn two_keys_at_any_time_and_never_a_bound_one_lost(history in proptest::collection::vec(happening(), 1..60)) {
        let mut ring = ring(60);
        let (mut wall, mut bound) = (UnixTime(50_000), BTreeSet::new());
        ring.handle(Input::Tick, wall);
        for event in history {
            let before = ring.clone();
            let input = match event {
                Happening::Forward(by) => { wall = UnixTime(wall.0 + by); Input::Tick }
                Happening::Jump(to) => { wall = UnixTime(to); Input::Tick }
                Happening::BindAllHeld => { bound.extend(ring.held().iter().copied()); Input::Bound(bound.clone()) }
                Happening::BindNewest => { bound.extend(ring.held().last().copied()); Input::Bound(bound.clone()) }
                Happening::Expire => { bound.pop_first(); Input::Bound(bound.clone()) }
            };
            let outputs = ring.handle(input, wall);
            prop_assert_eq!(ring.held().len(), 2);
            if let Some(newest) = bound.last() {
                prop_assert!(ring.held().contains(newest), "{:?} lost of {:?}", newest, ring.held());
                prop_assert!(ring.sending(wall).is_some_and(|e| bound.contains(&e) && ring.held().contains(&e)));
            }
            let mut applied = before.held().clone();
            for output in outputs {
                match output {
                    Output::Publish(epoch) => prop_assert!(applied.insert(epoch)),
                    Output::Retire(epoch) => prop_assert!(applied.remove(&epoch)),
                }
                prop_assert!(applied.len() <= 4);
            }
            prop_assert_eq!(&applied, ring.held());
            prop_assert!(ring.poll_deadline(wall) > wall);
        }
    }
}
