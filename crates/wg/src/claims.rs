//! Who claims a thing that only one can have: an address, a prefix, a key.

/// Everyone who claims one thing, first come first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claims<T> {
    first: T,
    others: Vec<T>,
}

impl<T: Copy + PartialEq> Claims<T> {
    pub(crate) const fn new(first: T) -> Self {
        Self { first, others: Vec::new() }
    }

    /// Adds a claim; claiming twice is claiming once.
    pub(crate) fn add(&mut self, claimant: T) {
        if self.first != claimant && !self.others.contains(&claimant) {
            self.others.push(claimant);
        }
    }

    /// What is left without this claim; `None` when nobody is left.
    pub(crate) fn without(mut self, claimant: T) -> Option<Self> {
        if self.first == claimant {
            if self.others.is_empty() {
                return None;
            }
            self.first = self.others.remove(0);
        } else {
            self.others.retain(|other| *other != claimant);
        }
        Some(self)
    }

    /// Who claimed it first.
    pub(crate) const fn first(&self) -> T {
        self.first
    }

    /// The claimant, if there is exactly one.
    pub(crate) fn sole(&self) -> Option<T> {
        self.others.is_empty().then_some(self.first)
    }
}
