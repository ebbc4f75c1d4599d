//! The policy rules among the filter's: where nobody is judged there are no tables, so that nobody pays for them.

use policy::nft::{self, Program};

use super::filter::Counts;

/// The rules from nothing.
pub(super) fn whole(rules: &Program, counts: &Counts) -> String {
    if rules.is_empty() {
        return nft::nothing();
    }
    rules.whole(|name| counts.get(name).copied().unwrap_or_default())
}

/// From some rules to others.
pub(super) fn change(from: &Program, to: &Program) -> String {
    match (from.is_empty(), to.is_empty()) {
        (true, true) => String::new(),
        (true, false) => whole(to, &Counts::new()),
        (false, true) => nft::nothing(),
        (false, false) => from.difference(to),
    }
}
