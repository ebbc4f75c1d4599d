//! The cases by subject. A name carries the identifiers of what it shows.

mod away;
mod cni;
mod identity;
mod leaks;
mod modes;
mod policy_kernel;

/// The cases of each subject.
const SUBJECTS: &[&[(&str, fn())]] =
    &[away::CASES, cni::CASES, identity::CASES, leaks::CASES, modes::CASES, policy_kernel::CASES];

/// Every case by name.
pub fn all() -> Vec<(&'static str, fn())> {
    SUBJECTS.concat()
}
