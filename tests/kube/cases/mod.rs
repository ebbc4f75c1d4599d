//! The cases in their order; each leaves the cluster as it found it, but the first installs Weft and the last removes it.

mod faults;
mod modes;
mod objects;
mod people;
mod services;
mod start;
mod traffic;
mod trust;
mod uninstall;

use crate::cluster::Cluster;

/// One case.
pub type Case = fn(&Cluster);

/// Every case by its name.
pub fn all() -> Vec<(&'static str, Case)> {
    [
        traffic::CASES,
        modes::CASES,
        objects::CASES,
        trust::CASES,
        people::CASES,
        services::CASES,
        start::CASES,
        faults::CASES,
        uninstall::CASES,
    ]
    .concat()
}
