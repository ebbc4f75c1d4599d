//! Who talked to whom lately: a restarted daemon shakes hands with them first, before they have to ask.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use identity::{NodeName, SpiffeId};
use serde::{Deserialize, Serialize};

use super::checked::{Kind, load, save};
use super::error::StoreError;

const PAIRS: Kind = Kind { name: "recent-pairs", version: 1, remedy: "it is made anew as workloads talk" };

/// Most pairs remembered; the ones unused for longest are dropped.
pub(crate) const RECENT_PAIRS_MAX: usize = 4096;

/// A session that was in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RecentPair {
    /// The identity on this node.
    pub(crate) local: SpiffeId,
    /// The remote node.
    pub(crate) node: NodeName,
    /// The identity there.
    pub(crate) remote: SpiffeId,
    /// Where it was last heard from.
    pub(crate) endpoint: Option<SocketAddr>,
}

/// The pairs, the one used last at the end, and their file.
pub(crate) struct RecentPairStore {
    path: PathBuf,
    owner: String,
    pairs: Vec<RecentPair>,
}

impl RecentPairStore {
    /// Reads `<state_dir>/recent-pairs`. One that cannot be believed counts as empty; the error says why.
    pub(crate) fn open(state_dir: &Path, node_uid: &str) -> (Self, Option<StoreError>) {
        let path = state_dir.join("recent-pairs");
        let (mut pairs, error) = match load::<Vec<RecentPair>>(&path, PAIRS, node_uid) {
            Ok(pairs) => (pairs.unwrap_or_default(), None),
            Err(error) => (Vec::new(), Some(error)),
        };
        pairs.truncate(RECENT_PAIRS_MAX);
        (Self { path, owner: node_uid.to_owned(), pairs }, error)
    }

    /// The pairs, the one used last at the end.
    pub(crate) fn pairs(&self) -> &[RecentPair] {
        &self.pairs
    }

    /// Replaces the pairs by those in use now, the one used last at the end, and writes them where they changed.
    ///
    /// # Errors
    /// The file cannot be written; the next call tries again.
    pub(crate) fn write(&mut self, mut pairs: Vec<RecentPair>) -> Result<(), StoreError> {
        let over = pairs.len().saturating_sub(RECENT_PAIRS_MAX);
        pairs.drain(..over);
        if pairs != self.pairs {
            save(&self.path, PAIRS, &self.owner, &pairs)?;
            self.pairs = pairs;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(n: usize) -> RecentPair {
        RecentPair {
            local: "spiffe://td/ns/a/sa/b".parse().unwrap(),
            node: NodeName(format!("n{n}")),
            remote: "spiffe://td/ns/a/sa/c".parse().unwrap(),
            endpoint: Some("[2001:db8::1]:51840".parse().unwrap()),
        }
    }

    #[test]
    fn pairs_survive_a_restart_and_the_oldest_are_dropped_first() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, error) = RecentPairStore::open(dir.path(), "u1");
        assert!(error.is_none() && store.pairs().is_empty());
        store.write((0..RECENT_PAIRS_MAX + 2).map(pair).collect()).unwrap();
        let (store, error) = RecentPairStore::open(dir.path(), "u1");
        assert!(error.is_none());
        assert_eq!(store.pairs().len(), RECENT_PAIRS_MAX);
        assert_eq!(store.pairs().first(), Some(&pair(2)));
        assert_eq!(store.pairs().last(), Some(&pair(RECENT_PAIRS_MAX + 1)));
    }

    #[test]
    fn mf_07_a_foreign_or_damaged_file_counts_as_empty_and_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        RecentPairStore::open(dir.path(), "u1").0.write(vec![pair(1)]).unwrap();
        let (mut store, error) = RecentPairStore::open(dir.path(), "u2");
        assert!(matches!(error, Some(StoreError::Foreign { .. })) && store.pairs().is_empty());
        store.write(vec![pair(3)]).unwrap();
        assert_eq!(RecentPairStore::open(dir.path(), "u2").0.pairs(), [pair(3)]);
    }
}
