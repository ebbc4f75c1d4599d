//! The rotation of one identity's WireGuard keys: which epochs are held, and when that changes.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use thiserror::Error;

use crate::name::{Epoch, ROTATION_PERIOD_MIN_SECONDS, UnixTime};

/// The rotation period where nobody says otherwise: 24 hours.
pub const ROTATION_PERIOD: Duration = Duration::from_secs(86_400);

/// Which keys of an identity live on this node: two at any time, three never.
///
/// An epoch's turn begins when the clock, divided by the period, says so. Its key is published half a period earlier,
/// ready to receive; senders switch when the turn begins; the key is retired half a period after the next turn began.
///
/// ```text
///   time        |<----- epoch e ----->|<---- epoch e+1 ---->|
///   first half   held: e-1, e          held: e, e+1
///   second half            e, e+1                e+1, e+2
///   sends with   e          e          e+1        e+1          (the newest bound one at or before this)
/// ```
///
/// A key that has no binding is of no use to anybody, so the newest bound one is never retired for the sake of one
/// that is not bound yet: when the controller is away, or when this node's clock is wrong, what works goes on.
///
/// | newest bound | held |
/// | --- | --- |
/// | none, or one of the clock's two | the clock's two |
/// | older than both, or newer than both | it, and the epoch whose turn it is by the clock |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRing {
    period: Duration,
    held: BTreeSet<Epoch>,
    bound: BTreeSet<Epoch>,
}

/// What happens to a ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Time passed; also after any jump of the clock.
    Tick,
    /// These epochs have a binding, verified and in its time: all of them, not only what is new.
    Bound(BTreeSet<Epoch>),
}

/// What is to be done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Derive this epoch's key, accept with it, and ask for a binding.
    Publish(Epoch),
    /// Forget this epoch's key and its sessions; ask for no binding any more.
    Retire(Epoch),
}

/// A rotation period that no ring can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a rotation period of {period:?} is under the least of {least} s", least = ROTATION_PERIOD_MIN_SECONDS)]
pub struct PeriodError {
    /// What was asked for.
    pub period: Duration,
}

impl KeyRing {
    /// A ring that holds nothing yet: the first input, whatever it is, publishes.
    ///
    /// # Errors
    /// A period under [`ROTATION_PERIOD_MIN_SECONDS`].
    pub fn new(period: Duration) -> Result<Self, PeriodError> {
        if period.as_secs() < ROTATION_PERIOD_MIN_SECONDS {
            return Err(PeriodError { period });
        }
        Ok(Self { period, held: BTreeSet::new(), bound: BTreeSet::new() })
    }

    /// Takes note of what happened; answers with what is to be done, nothing where nothing changes.
    pub fn handle(&mut self, input: Input, wall: UnixTime) -> Vec<Output> {
        if let Input::Bound(bound) = input {
            self.bound = bound;
        }
        let wanted = self.wanted(wall);
        let published = wanted.difference(&self.held).copied().map(Output::Publish);
        let retired = self.held.difference(&wanted).copied().map(Output::Retire);
        let outputs = published.chain(retired).collect();
        self.held = wanted;
        outputs
    }

    /// The epochs whose keys are held, oldest first.
    #[must_use]
    pub fn held(&self) -> &BTreeSet<Epoch> {
        &self.held
    }

    /// The epoch that new sessions are begun with: the newest held and bound one whose turn has come, else the
    /// oldest held and bound one. `None` while no held key is bound: then nothing can be sent.
    #[must_use]
    pub fn sending(&self, wall: UnixTime) -> Option<Epoch> {
        let turn = Epoch::at(wall, self.period);
        let mut usable = self.held.intersection(&self.bound).copied();
        let oldest = usable.next()?;
        Some(usable.take_while(|epoch| *epoch <= turn).last().unwrap_or(oldest))
    }

    /// When to tick next, for changes that come from time alone.
    #[must_use]
    pub fn poll_deadline(&self, wall: UnixTime) -> UnixTime {
        let turn = Epoch::at(wall, self.period);
        let middle = turn.start(self.period).after(half(self.period));
        if wall < middle { middle } else { turn.next().start(self.period) }
    }

    fn wanted(&self, wall: UnixTime) -> BTreeSet<Epoch> {
        let by_clock = by_clock(self.period, wall);
        match self.bound.last() {
            Some(newest) if !by_clock.contains(newest) => [*newest, Epoch::at(wall, self.period)].into(),
            _ => [*by_clock.start(), *by_clock.end()].into(),
        }
    }
}

/// The two epochs that the clock alone asks for.
fn by_clock(period: Duration, wall: UnixTime) -> RangeInclusive<Epoch> {
    let turn = Epoch::at(wall, period);
    let first_half = wall.since(turn.start(period)) < half(period);
    // the very first epoch has none before it; a machine that starts in 1970 holds two keys all the same
    let older = if first_half { turn.previous() } else { turn };
    older..=older.next()
}

fn half(period: Duration) -> Duration {
    Duration::from_secs(period.as_secs() / 2)
}

/// The epochs that a node whose clock is off by up to `skew` may ask a binding for at `wall`; an issuer refuses all
/// others, so that a wrong clock cannot lift an epoch floor out of reach.
#[must_use]
pub fn requestable(period: Duration, wall: UnixTime, skew: Duration) -> RangeInclusive<Epoch> {
    *by_clock(period, wall.before(skew)).start()..=*by_clock(period, wall.after(skew)).end()
}

/// The validity that an issuer gives a binding of an epoch: from one period before its turn (its key is published
/// half a period before), until two periods after its turn ended (it is retired half a period after; the rest lets
/// what works go on while the issuer is away).
#[must_use]
pub fn validity(epoch: Epoch, period: Duration) -> (UnixTime, UnixTime) {
    let end = epoch.next().start(period);
    (epoch.start(period).before(period), end.after(period.saturating_mul(2)))
}

#[cfg(test)]
mod tests;
