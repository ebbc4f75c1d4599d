//! The cases by subject. A name carries the identifiers of what it shows.

mod away;
mod boot;
mod cni;
mod identity;
mod install;
mod leaks;
mod modes;
mod mtu;
mod offload;
mod policy;
mod policy_authorization;
mod policy_cases;
mod policy_changes;
mod policy_crafted;
mod policy_emptied;
mod policy_errors;
mod policy_exceptions;
mod policy_flows;
mod policy_kernel;
mod policy_matrix;
mod policy_random;
mod policy_router;
mod policy_tiers;
mod policy_told;
mod policy_world;
mod start;
mod stock;
mod underlay;
mod wire;

/// A case: its name, which carries the identifiers of what it shows, and what it runs.
pub type Case = (&'static str, fn());

/// Every case by name.
pub fn all() -> Vec<Case> {
    let mut all = Vec::new();
    all.extend_from_slice(away::CASES);
    all.extend_from_slice(boot::CASES);
    all.extend_from_slice(cni::CASES);
    all.extend_from_slice(identity::CASES);
    all.extend_from_slice(install::CASES);
    all.extend_from_slice(leaks::CASES);
    all.extend_from_slice(modes::CASES);
    all.extend_from_slice(policy::CASES);
    all.extend_from_slice(policy_authorization::CASES);
    all.extend_from_slice(policy_changes::CASES);
    all.extend_from_slice(policy_crafted::CASES);
    all.extend_from_slice(policy_emptied::CASES);
    all.extend_from_slice(policy_errors::CASES);
    all.extend_from_slice(policy_exceptions::CASES);
    all.extend_from_slice(mtu::CASES);
    all.extend_from_slice(offload::CASES);
    all.extend_from_slice(policy_flows::CASES);
    all.extend_from_slice(policy_kernel::CASES);
    all.extend_from_slice(policy_matrix::CASES);
    all.extend_from_slice(policy_tiers::CASES);
    all.extend_from_slice(policy_told::CASES);
    all.extend_from_slice(policy_world::CASES);
    all.extend_from_slice(start::CASES);
    all.extend_from_slice(stock::CASES);
    all.extend_from_slice(underlay::CASES);
    all.extend_from_slice(wire::CASES);
    all
}
