//! The cases by subject. A name carries the identifiers of what it shows.

mod identity;
mod leaks;
mod modes;
mod policy_kernel;

/// Every case by name.
pub fn all() -> Vec<(&'static str, fn())> {
    [leaks::CASES, modes::CASES, identity::CASES, policy_kernel::CASES].concat()
}
