//! The cases in their order; each leaves the cluster as it found it, but f17 installs Weft and f41 removes it.

mod authorization;
mod both;
mod crowd;
mod elsewhere;
mod faults;
mod figures;
mod gone;
mod host;
mod istio;
mod lies;
mod modes;
mod names;
mod objects;
mod order;
mod outage;
mod packages;
mod people;
mod pods;
mod policy;
mod rest;
mod reuse;
mod runtime;
mod scale;
mod services;
mod start;
mod tiers;
mod told_controller;
mod traffic;
mod trust;
mod uninstall;
mod upgrade;
mod versions;
mod workloads;
mod wrong_answers;

use crate::cluster::Cluster;

/// One case.
pub type Case = fn(&Cluster);

/// Every case by its name.
pub fn all() -> Vec<(&'static str, Case)> {
    [
        figures::WITHOUT,
        traffic::CASES,
        modes::CASES,
        objects::CASES,
        authorization::CASES,
        trust::CASES,
        lies::CASES,
        people::CASES,
        packages::CASES,
        services::CASES,
        names::CASES,
        start::CASES,
        host::CASES,
        policy::CASES,
        tiers::CASES,
        istio::CASES,
        reuse::CASES,
        runtime::CASES,
        workloads::CASES,
        pods::CASES,
        crowd::CASES,
        order::CASES,
        faults::CASES,
        upgrade::CASES,
        gone::CASES,
        wrong_answers::CASES,
        told_controller::CASES,
        outage::CASES,
        outage::LONG,
        versions::LONG,
        figures::WITH,
        rest::CASES,
        // it takes the daemons away and brings them again
        both::CASES,
        uninstall::CASES,
        elsewhere::CASES,
        scale::LAST,
    ]
    .concat()
}
