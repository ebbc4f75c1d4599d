//! The ranges of addresses that this node gives to pods: what is closed after a boot until the daemon knows who is who.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::checked::{Kind, load, save};
use super::error::StoreError;

const RANGES: Kind =
    Kind { name: "guarded-ranges", version: 1, remedy: "it is made anew once the daemon has its view" };

/// The ranges and their file.
pub(crate) struct GuardStore {
    path: PathBuf,
    owner: String,
    ranges: BTreeSet<IpNet>,
}

impl GuardStore {
    /// Reads `<state_dir>/guarded-ranges`. One that cannot be believed counts as empty; the error says why.
    pub(crate) fn open(state_dir: &Path, node_uid: &str) -> (Self, Option<StoreError>) {
        let path = state_dir.join("guarded-ranges");
        let (ranges, error) = match load(&path, RANGES, node_uid) {
            Ok(ranges) => (ranges.unwrap_or_default(), None),
            Err(error) => (BTreeSet::new(), Some(error)),
        };
        (Self { path, owner: node_uid.to_owned(), ranges }, error)
    }

    /// The ranges as they were last known.
    pub(crate) fn ranges(&self) -> &BTreeSet<IpNet> {
        &self.ranges
    }

    /// Writes them down where they changed.
    ///
    /// # Errors
    /// The file cannot be written; the next call tries again.
    pub(crate) fn write(&mut self, ranges: &BTreeSet<IpNet>) -> Result<(), StoreError> {
        if *ranges != self.ranges {
            save(&self.path, RANGES, &self.owner, ranges)?;
            self.ranges.clone_from(ranges);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_survive_a_restart_and_a_file_of_another_node_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let ranges: BTreeSet<IpNet> = ["10.1.0.0/24", "fd01::/64"].map(|r| r.parse().unwrap()).into();
        let (mut store, error) = GuardStore::open(dir.path(), "u1");
        assert!(error.is_none() && store.ranges().is_empty());
        store.write(&ranges).unwrap();
        assert_eq!(*GuardStore::open(dir.path(), "u1").0.ranges(), ranges);
        let (store, error) = GuardStore::open(dir.path(), "u2");
        assert!(matches!(error, Some(StoreError::Foreign { .. })) && store.ranges().is_empty());
    }
}
