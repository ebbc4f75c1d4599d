//! When a lease is taken, waited for, kept and given back, one tick before, at and after its times.

use super::*;

const TICK: Duration = Duration::from_millis(1);

fn wall(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn micro(second: i64) -> Option<MicroTime> {
    Some(MicroTime(wall(second)))
}

/// A lease that somebody has had since second 5 and renewed at another; it has changed hands twice.
fn held_by(holder: &str, renewed: i64) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(holder.to_owned()),
        lease_duration_seconds: Some(15),
        acquire_time: micro(5),
        renew_time: micro(renewed),
        lease_transitions: Some(2),
        ..LeaseSpec::default()
    }
}

fn us() -> Claimant {
    Claimant::new("us".to_owned())
}

fn taken(claim: Claim) -> LeaseSpec {
    match claim {
        Claim::Take(spec) => spec,
        Claim::Wait(holder) => panic!("it is waited for {holder}"),
    }
}

#[test]
fn a_lease_that_nobody_made_is_made() {
    let made = taken(us().claim(None, Instant::now(), wall(100)));
    let expected = LeaseSpec { acquire_time: micro(100), lease_transitions: None, ..held_by("us", 100) };
    assert_eq!(made, expected);
}

#[test]
fn anothers_lease_is_taken_when_it_was_seen_unchanged_for_its_duration_and_not_by_the_others_clock() {
    let begin = Instant::now();
    // renewed long ago or in the future, as the other's clock says: neither counts
    for renewed in [10, 1_000_000] {
        let (mut us, spec) = (us(), held_by("another", renewed));
        let mut claim = |spec: &LeaseSpec, after: Duration| us.claim(Some(spec), begin + after, wall(100));
        let waits = Claim::Wait("another".to_owned());
        assert_eq!(claim(&spec, Duration::ZERO), waits);
        assert_eq!(claim(&spec, DURATION - TICK), waits);
        // a renewal begins it anew
        let again = held_by("another", renewed + 1);
        assert_eq!(claim(&again, DURATION), waits);
        assert_eq!(claim(&again, 2 * DURATION - TICK), waits);
        let spec = taken(claim(&again, 2 * DURATION));
        assert_eq!(spec, LeaseSpec { acquire_time: micro(100), lease_transitions: Some(3), ..held_by("us", 100) });
    }
}

#[test]
fn a_lease_that_was_given_back_or_is_ours_is_taken_at_once() {
    let now = Instant::now();
    let returned = taken(us().claim(Some(&held_by("", 99)), now, wall(100)));
    assert_eq!(returned, LeaseSpec { acquire_time: micro(100), lease_transitions: Some(3), ..held_by("us", 100) });
    let own = taken(us().claim(Some(&held_by("us", 99)), now, wall(100)));
    assert_eq!(own, held_by("us", 100), "since when and how often it changed hands stays");
}

#[test]
fn a_renewal_keeps_since_when_it_is_ours_and_what_another_has_is_lost() {
    assert_eq!(us().renewed(&held_by("us", 99), wall(100)), Ok(held_by("us", 100)));
    assert_eq!(us().renewed(&held_by("another", 99), wall(100)), Err("another".to_owned()));
    assert_eq!(us().renewed(&held_by("", 99), wall(100)), Err(String::new()));
}

#[test]
fn what_is_ours_is_given_back_and_what_is_anothers_is_left() {
    let returned = us().released(&held_by("us", 99), wall(100)).unwrap();
    assert_eq!(returned, LeaseSpec { lease_duration_seconds: Some(1), ..held_by("", 100) });
    assert_eq!(us().released(&held_by("another", 99), wall(100)), None);
    // whoever reads that takes it at once, and counts it
    let next = taken(Claimant::new("next".to_owned()).claim(Some(&returned), Instant::now(), wall(101)));
    assert_eq!(next, LeaseSpec { acquire_time: micro(101), lease_transitions: Some(3), ..held_by("next", 101) });
}

#[test]
fn a_tenure_ends_before_anybody_else_can_take_the_lease() {
    let asked = Instant::now();
    let tenure = Tenure::asked_at(asked);
    assert!(!tenure.is_over(asked));
    assert!(!tenure.is_over(asked + RENEW_DEADLINE));
    assert!(tenure.is_over(asked + RENEW_DEADLINE + TICK));
    // the other saw it written after it was asked for, and waits from then
    let mut other = Claimant::new("another".to_owned());
    let spec = held_by("us", 99);
    assert_eq!(other.claim(Some(&spec), asked, wall(100)), Claim::Wait("us".to_owned()));
    let last_try = RENEW_DEADLINE + 2 * RETRY;
    assert_eq!(other.claim(Some(&spec), asked + last_try, wall(100)), Claim::Wait("us".to_owned()));
}
