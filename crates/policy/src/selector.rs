//! Label selection: which workloads a policy is about.

use std::collections::BTreeMap;

/// The labels of a namespace or a workload.
pub type Labels = BTreeMap<String, String>;

/// Labels that must all be there with exactly these values; no labels at all select everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Key and exact value; there are no patterns.
    pub match_labels: Labels,
}
