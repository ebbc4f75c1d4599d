//! The boot guard: what is closed while the kernel knows nothing of the mesh yet.

use std::collections::BTreeSet;

use ipnet::IpNet;
use plan::Filter;

use super::Kernel;
use super::filter::{self, Counts};
use super::listing::Listing;

impl Kernel {
    /// Closes these ranges where no filter of ours is there: after a boot nothing passes between a pod and anybody else until
    /// the first [`Self::apply`]. Returns whether it was needed.
    ///
    /// # Errors
    /// nft refuses; nothing is closed then.
    pub(crate) async fn guard(&mut self, ranges: &BTreeSet<IpNet>) -> anyhow::Result<bool> {
        if ranges.is_empty() || Listing::of(&["inet weft"]).await.has_some_mesh() {
            return Ok(false);
        }
        let closed = Filter { guarded_ranges: ranges.clone(), ..Filter::default() };
        self.apply_own(&filter::whole(&closed, &self.fixed, &Counts::new())).await?;
        Ok(true)
    }
}
