//! From what a node holds to what it should hold, in an order in which no step opens a gap.
//!
//! **Invariant.** After any number of steps, for every address that is keyed in the state wished for, or was and is
//! while the filter has not changed: packets of marked workloads to it are led into `mesh0`, or the filter drops them.
//! So whatever stops the steps half-way (an error, a kill) leaves a pause behind and never clear text. It holds because
//!
//! 1. routes into the mesh come before the filter: it marks workloads and calls addresses keyed only once every such
//!    route is there, and calls addresses clear only then;
//! 2. the filter comes in one transaction, so closing and opening are one;
//! 3. routes out of the mesh and removals come last: until then what they lead there is held or dropped by the engine.
//!
//! The engine comes before all: what is led into the mesh finds its peer, and a peer that is withdrawn is refused at once.

use std::collections::BTreeMap;

use crate::desired::{Desired, Route, RouteTarget};
use crate::step::Step;

/// The steps from `actual` to `desired`; none where they are equal. Applied in order they make them equal.
#[must_use]
pub fn steps(desired: &Desired, actual: &Desired) -> Vec<Step> {
    let mut steps = Vec::new();
    if desired.locals != actual.locals {
        steps.push(Step::SetLocals(desired.locals.clone()));
    }
    if desired.peers != actual.peers {
        steps.push(Step::SetPeers(desired.peers.clone()));
    }
    let new = || desired.routes.difference(&actual.routes).cloned();
    steps.extend(new().filter(|route| route.target == RouteTarget::Mesh).map(Step::SetRoute));
    if desired.filter != actual.filter {
        steps.push(Step::SetFilter(Box::new(desired.filter.clone())));
    }
    steps.extend(new().filter(|route| route.target == RouteTarget::Main).map(Step::SetRoute));
    let wanted: BTreeMap<_, _> = desired.routes.iter().map(|route| ((route.table, route.prefix), route)).collect();
    let gone = |route: &&Route| !wanted.contains_key(&(route.table, route.prefix));
    steps.extend(actual.routes.iter().filter(gone).cloned().map(Step::DelRoute));
    steps
}

#[cfg(test)]
mod tests;
