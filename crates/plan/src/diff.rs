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

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use crate::desired::{Desired, Route, RouteTable, RouteTarget};
use crate::step::Step;

/// Table and destination, which make a route one route.
pub type RouteKey = (RouteTable, IpNet);

/// What is to be done to routes, on both sides of the filter's change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteSteps {
    /// To be put before the filter changes: they lead into the mesh.
    pub before: Vec<Route>,
    /// To be put once it has: they lead out of the mesh.
    pub after: Vec<Route>,
    /// To be taken away at the end; a route that led somewhere else is named as one into the mesh.
    pub gone: Vec<Route>,
}

/// What leads from the routes that are held to those that are wanted. A held route without a target is in our tables and leads
/// elsewhere than either of ours would.
#[must_use]
pub fn route_steps(wanted: &BTreeSet<Route>, held: &BTreeMap<RouteKey, Option<RouteTarget>>) -> RouteSteps {
    let new = wanted.iter().filter(|route| held.get(&(route.table, route.prefix)) != Some(&Some(route.target)));
    let (before, after) = new.copied().partition(|route| route.target == RouteTarget::Mesh);
    let kept: BTreeSet<RouteKey> = wanted.iter().map(|route| (route.table, route.prefix)).collect();
    let gone = held.iter().filter(|(key, _)| !kept.contains(key));
    let gone = gone.map(|((table, prefix), target)| Route {
        table: *table,
        prefix: *prefix,
        target: target.unwrap_or(RouteTarget::Mesh),
    });
    RouteSteps { before, after, gone: gone.collect() }
}

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
    let held = actual.routes.iter().map(|route| ((route.table, route.prefix), Some(route.target))).collect();
    let routes = route_steps(&desired.routes, &held);
    steps.extend(routes.before.into_iter().map(Step::SetRoute));
    if desired.filter != actual.filter {
        steps.push(Step::SetFilter(Box::new(desired.filter.clone())));
    }
    steps.extend(routes.after.into_iter().map(Step::SetRoute));
    steps.extend(routes.gone.into_iter().map(Step::DelRoute));
    steps
}

#[cfg(test)]
mod tests;
