//! The epoch floor on disk, so that an old binding cannot come back by a restart.

use std::path::{Path, PathBuf};

use identity::{Binding, Epoch, EpochFloor, FloorError, UnixTime};

use super::checked::{Kind, load, save};
use super::error::StoreError;

const FLOOR: Kind =
    Kind { name: "epoch-floor", version: 1, remedy: "it is made anew, and only current keys are believed" };

/// The floor in memory, which counts, and its file, which follows.
pub(crate) struct FloorStore {
    path: PathBuf,
    owner: String,
    floor: EpochFloor,
    unwritten: bool,
    /// The minute of the wall clock in which was looked for what has ended.
    looked_in: Option<u64>,
}

impl FloorStore {
    /// Reads `<state_dir>/floor`. Where it cannot be believed, a strict floor takes its place, which knows nothing
    /// and believes nothing before the epoch `least` (the one before the current); the error says why.
    pub(crate) fn open(state_dir: &Path, node_uid: &str, least: Epoch) -> (Self, Option<StoreError>) {
        let path = state_dir.join("floor");
        let (floor, error) = match load(&path, FLOOR, node_uid) {
            Ok(floor) => (floor.unwrap_or_default(), None),
            Err(error) => (EpochFloor::rebuilt(least), Some(error)),
        };
        let unwritten = error.is_some();
        (Self { path, owner: node_uid.to_owned(), floor, unwritten, looked_in: None }, error)
    }

    /// Takes note of a verified binding.
    ///
    /// # Errors
    /// It is below the floor, or there is no room: it must not be used.
    pub(crate) fn admit(&mut self, binding: &Binding, wall: UnixTime) -> Result<(), FloorError> {
        self.unwritten |= self.floor.admit(binding, wall)?;
        Ok(())
    }

    /// Forgets what has ended anyway; looks through all that is remembered once a minute, however often it is called.
    pub(crate) fn forget_ended(&mut self, wall: UnixTime) {
        let minute = wall.0 / 60;
        if self.looked_in.replace(minute) != Some(minute) {
            self.unwritten |= self.floor.forget_ended(wall);
        }
    }

    /// Writes the floor where it changed since the last time.
    ///
    /// # Errors
    /// The file cannot be written; the floor in memory goes on, and the next call tries again.
    pub(crate) fn write(&mut self) -> Result<(), StoreError> {
        if self.unwritten {
            save(&self.path, FLOOR, &self.owner, &self.floor)?;
            self.unwritten = false;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use identity::{NodeName, Suite, TrustDomain};

    use super::*;

    fn binding(epoch: u64) -> Binding {
        let trust_domain: TrustDomain = "td".parse().unwrap();
        Binding {
            spiffe_id: "spiffe://td/ns/a/sa/b".parse().unwrap(),
            trust_domain,
            public_key: [9; 32],
            node: NodeName("n2".to_owned()),
            node_uid: "u2".to_owned(),
            epoch: Epoch(epoch),
            not_before: UnixTime(0),
            not_after: UnixTime(1_000),
            suite: Suite::default(),
        }
    }

    #[test]
    fn id_08_an_old_binding_does_not_come_back_by_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, error) = FloorStore::open(dir.path(), "u1", Epoch(0));
        assert!(error.is_none());
        store.admit(&binding(7), UnixTime(1)).unwrap();
        store.write().unwrap();
        let (mut store, error) = FloorStore::open(dir.path(), "u1", Epoch(0));
        assert!(error.is_none());
        assert!(store.admit(&binding(5), UnixTime(1)).is_err());
        store.admit(&binding(6), UnixTime(1)).unwrap();
    }

    #[test]
    fn mf_07_a_damaged_or_foreign_floor_is_rebuilt_strict() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = FloorStore::open(dir.path(), "u1", Epoch(0));
        store.admit(&binding(7), UnixTime(1)).unwrap();
        store.write().unwrap();
        let (mut other, error) = FloorStore::open(dir.path(), "u9", Epoch(6));
        assert!(matches!(error, Some(StoreError::Foreign { .. })), "{error:?}");
        assert!(other.admit(&binding(5), UnixTime(1)).is_err(), "a lost floor is not an open door");
        other.admit(&binding(6), UnixTime(1)).unwrap();
        other.write().unwrap();
        let (_, error) = FloorStore::open(dir.path(), "u9", Epoch(6));
        assert!(error.is_none(), "rebuilt and written, {error:?}");
    }

    #[test]
    fn mf_08_a_floor_that_cannot_be_written_goes_on_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        let (mut store, error) = FloorStore::open(&gone, "u1", Epoch(0));
        assert!(error.is_none());
        store.admit(&binding(7), UnixTime(1)).unwrap();
        assert!(store.write().is_err());
        assert!(store.admit(&binding(5), UnixTime(1)).is_err());
        std::fs::create_dir(&gone).unwrap();
        store.write().unwrap();
        assert!(FloorStore::open(&gone, "u1", Epoch(0)).0.admit(&binding(5), UnixTime(1)).is_err());
    }

    #[test]
    fn what_has_ended_is_forgotten_on_disk_too() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = FloorStore::open(dir.path(), "u1", Epoch(0));
        store.admit(&binding(7), UnixTime(1)).unwrap();
        store.forget_ended(UnixTime(1_000));
        store.forget_ended(UnixTime(1_079));
        store.write().unwrap();
        assert!(FloorStore::open(dir.path(), "u1", Epoch(0)).0.admit(&binding(1), UnixTime(1)).is_ok());
    }
}
