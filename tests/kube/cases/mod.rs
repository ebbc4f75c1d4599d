//! The cases in their order; each leaves the cluster as it found it, but the first installs Weft and the last removes it.

mod traffic;

use crate::cluster::Cluster;

/// One case.
pub type Case = fn(&Cluster);

/// Every case by its name.
pub fn all() -> Vec<(&'static str, Case)> {
    [traffic::CASES].concat()
}
