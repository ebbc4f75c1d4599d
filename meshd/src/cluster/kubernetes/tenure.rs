//! Who may hold a lease, by what is written in it and by when that was seen; asks nobody and reads no clock.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

/// How long a lease holds without being renewed; the times are client-go's (leaderelection).
pub(super) const DURATION: Duration = Duration::from_secs(15);
/// When a holder that could not renew stops working.
pub(super) const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often it is renewed, or asked for; and how long a renewal may take.
pub(super) const RETRY: Duration = Duration::from_secs(2);

// who notices at the end of the last try that it is over has ended before anybody else begins
const _: () = assert!(RENEW_DEADLINE.as_secs() + 2 * RETRY.as_secs() < DURATION.as_secs());

/// What is to be done about a lease that is wanted.
#[derive(Debug, PartialEq)]
pub(super) enum Claim {
    /// It is to be had: this makes it ours.
    Take(LeaseSpec),
    /// This holder has it.
    Wait(String),
}

/// One who wants a lease.
pub(super) struct Claimant {
    holder: String,
    /// When it was renewed last, as it says itself, and when that was first seen.
    seen: Option<(Option<MicroTime>, Instant)>,
}

impl Claimant {
    pub(super) fn new(holder: String) -> Self {
        Self { holder, seen: None }
    }

    /// What is written in the lease, if there is one, as it was read at `now`.
    ///
    /// Whether another's lease has ended is measured by our own clock since it last changed: clocks may differ.
    pub(super) fn claim(&mut self, found: Option<&LeaseSpec>, now: Instant, wall: Timestamp) -> Claim {
        let Some(spec) = found else { return Claim::Take(self.written(None, wall)) };
        let since = match &self.seen {
            Some((time, since)) if *time == spec.renew_time => *since,
            _ => {
                self.seen = Some((spec.renew_time.clone(), now));
                now
            }
        };
        let holder = holder_of(spec);
        if holder != self.holder && !holder.is_empty() && now.saturating_duration_since(since) < DURATION {
            return Claim::Wait(holder.to_owned());
        }
        Claim::Take(self.written(Some(spec), wall))
    }

    /// The lease as it is renewed.
    ///
    /// # Errors
    /// Who has it, where that is somebody else; an empty name where it was given back.
    pub(super) fn renewed(&self, found: &LeaseSpec, wall: Timestamp) -> Result<LeaseSpec, String> {
        let holder = holder_of(found);
        if holder == self.holder { Ok(self.written(Some(found), wall)) } else { Err(holder.to_owned()) }
    }

    /// The lease as it is given back, as client-go's ReleaseOnCancel leaves it; `None` where it is not ours.
    pub(super) fn released(&self, found: &LeaseSpec, wall: Timestamp) -> Option<LeaseSpec> {
        let held = self.renewed(found, wall).ok()?;
        Some(LeaseSpec { holder_identity: Some(String::new()), lease_duration_seconds: Some(1), ..held })
    }

    /// The lease as ours from now on, after what it was: since when, and how often it has changed hands.
    fn written(&self, before: Option<&LeaseSpec>, wall: Timestamp) -> LeaseSpec {
        let now = MicroTime(wall);
        let ours = before.filter(|spec| holder_of(spec) == self.holder);
        let transitions = before.map(|spec| spec.lease_transitions.unwrap_or_default());
        LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: Some(i32::try_from(DURATION.as_secs()).unwrap_or(i32::MAX)),
            acquire_time: ours.and_then(|spec| spec.acquire_time.clone()).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: transitions.map(|count| if ours.is_some() { count } else { count.saturating_add(1) }),
            ..LeaseSpec::default()
        }
    }
}

fn holder_of(spec: &LeaseSpec) -> &str {
    spec.holder_identity.as_deref().unwrap_or_default()
}

/// Since when a lease is ours for certain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tenure {
    since: Instant,
}

impl Tenure {
    /// From when it was asked for, and not from when the answer came: others count from when it was written.
    pub(super) const fn asked_at(since: Instant) -> Self {
        Self { since }
    }

    /// Whether somebody else may have it before another renewal succeeds: then whoever held it ends.
    pub(super) fn is_over(self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) > RENEW_DEADLINE
    }
}

#[cfg(test)]
#[path = "tenure_tests.rs"]
mod tests;
