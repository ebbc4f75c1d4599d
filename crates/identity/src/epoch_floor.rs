//! The lowest epoch that is still believed of each (node, identity), so that an old binding cannot come back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::binding::Binding;
use crate::name::{Epoch, NodeName, UnixTime};
use crate::spiffe::SpiffeId;

/// How many epochs below the highest are still accepted: while keys change, the previous one is live too.
pub const EPOCH_OVERLAP: u64 = 1;

/// Most (node, node UID, identity) remembered. About 200 bytes each, so at most some 13 MB.
pub const FLOOR_ENTRIES_MAX: usize = 65_536;

/// The highest epoch accepted of each (node, node UID, identity).
///
/// Bindings are admitted after they were verified. What was admitted is forgotten once the longest-lived binding of
/// it has ended: then all older ones have ended as well and their own `notAfter` keeps them out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct EpochFloor {
    /// Below this, what is not remembered is not believed either: see [`EpochFloor::rebuilt`].
    least: Epoch,
    entries: BTreeMap<Key, Highest>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    node: NodeName,
    node_uid: String,
    identity: SpiffeId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Highest {
    epoch: Epoch,
    not_after: UnixTime,
}

/// The written form.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    least: Epoch,
    rows: Vec<Row>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Row {
    node: NodeName,
    node_uid: String,
    identity: SpiffeId,
    epoch: Epoch,
    not_after: UnixTime,
}

/// Why a verified binding is refused all the same.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FloorError {
    /// A newer one was accepted before.
    #[error(
        "binding of {identity} on {node} is of epoch {epoch}, but {highest} was accepted already: an old binding came back"
    )]
    Below {
        /// The node.
        node: NodeName,
        /// The identity.
        identity: SpiffeId,
        /// What came.
        epoch: Epoch,
        /// The highest accepted.
        highest: Epoch,
    },
    /// Nothing can be remembered any more, so nothing new is believed.
    #[error("{max} identities of nodes are remembered, there is no room for {identity} on {node}", max = FLOOR_ENTRIES_MAX)]
    Full {
        /// The node.
        node: NodeName,
        /// The identity.
        identity: SpiffeId,
    },
    /// The written form has more rows than may be remembered.
    #[error("an epoch floor of {rows} rows is over the limit of {max}", max = FLOOR_ENTRIES_MAX)]
    TooLong {
        /// How many.
        rows: usize,
    },
}

impl EpochFloor {
    /// A floor for when the remembered one is lost: of what is unknown, only `least` and later is believed. The epoch
    /// before the one whose turn it is lets every current key in and every older one out.
    #[must_use]
    pub fn rebuilt(least: Epoch) -> Self {
        Self { least, entries: BTreeMap::new() }
    }

    /// Takes note of a verified binding. `Ok(true)` says that something changed which is worth writing down.
    ///
    /// # Errors
    /// Its epoch is below the floor, or there is no room.
    pub fn admit(&mut self, binding: &Binding, wall: UnixTime) -> Result<bool, FloorError> {
        let (node, identity) = (binding.node.clone(), binding.spiffe_id.clone());
        let key = Key { node, node_uid: binding.node_uid.clone(), identity };
        let Some(highest) = self.entries.get_mut(&key) else {
            if binding.epoch < self.least {
                let (epoch, highest) = (binding.epoch, self.least);
                return Err(FloorError::Below { node: key.node, identity: key.identity, epoch, highest });
            }
            if self.entries.len() >= FLOOR_ENTRIES_MAX && !self.forget_ended(wall) {
                return Err(FloorError::Full { node: key.node, identity: key.identity });
            }
            self.entries.insert(key, Highest { epoch: binding.epoch, not_after: binding.not_after });
            return Ok(true);
        };
        if binding.epoch.0.saturating_add(EPOCH_OVERLAP) < highest.epoch.0 {
            let (epoch, highest) = (binding.epoch, highest.epoch);
            return Err(FloorError::Below { node: key.node, identity: key.identity, epoch, highest });
        }
        let raised =
            Highest { epoch: highest.epoch.max(binding.epoch), not_after: highest.not_after.max(binding.not_after) };
        Ok(std::mem::replace(highest, raised) != raised)
    }

    /// Forgets what no binding can bring back, because all that were accepted have ended. Says whether any was.
    pub fn forget_ended(&mut self, wall: UnixTime) -> bool {
        let before = self.entries.len();
        self.entries.retain(|_, highest| highest.not_after >= wall);
        self.entries.len() < before
    }

    /// How many (node, node UID, identity) are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl TryFrom<Written> for EpochFloor {
    type Error = FloorError;

    fn try_from(written: Written) -> Result<Self, FloorError> {
        if written.rows.len() > FLOOR_ENTRIES_MAX {
            return Err(FloorError::TooLong { rows: written.rows.len() });
        }
        let entry = |row: Row| {
            let key = Key { node: row.node, node_uid: row.node_uid, identity: row.identity };
            (key, Highest { epoch: row.epoch, not_after: row.not_after })
        };
        Ok(Self { least: written.least, entries: written.rows.into_iter().map(entry).collect() })
    }
}

impl From<EpochFloor> for Written {
    fn from(floor: EpochFloor) -> Self {
        let row = |(key, highest): (Key, Highest)| Row {
            node: key.node,
            node_uid: key.node_uid,
            identity: key.identity,
            epoch: highest.epoch,
            not_after: highest.not_after,
        };
        Self { least: floor.least, rows: floor.entries.into_iter().map(row).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::Suite;

    fn binding(node: &str, uid: &str, account: &str, epoch: u64) -> Binding {
        Binding {
            trust_domain: "td".parse().unwrap(),
            spiffe_id: format!("spiffe://td/ns/a/sa/{account}").parse().unwrap(),
            public_key: [9; 32],
            node: NodeName(node.to_owned()),
            node_uid: uid.to_owned(),
            epoch: Epoch(epoch),
            not_before: UnixTime(0),
            not_after: UnixTime(1_000 * (epoch + 1)),
            suite: Suite::default(),
        }
    }

    #[test]
    fn id_08_an_old_binding_does_not_come_back() {
        let mut floor = EpochFloor::default();
        let now = UnixTime(1);
        assert_eq!(floor.admit(&binding("n1", "u1", "b", 7), now), Ok(true));
        assert_eq!(floor.admit(&binding("n1", "u1", "b", 7), now), Ok(false));
        assert_eq!(
            floor.admit(&binding("n1", "u1", "b", 6), now),
            Ok(false),
            "the previous one is live while keys change"
        );
        assert!(matches!(floor.admit(&binding("n1", "u1", "b", 5), now), Err(FloorError::Below { .. })));
        assert_eq!(floor.admit(&binding("n1", "u1", "b", 8), now), Ok(true));
        assert!(matches!(floor.admit(&binding("n1", "u1", "b", 6), now), Err(FloorError::Below { .. })));
        // a refusal changes nothing
        assert_eq!(floor.admit(&binding("n1", "u1", "b", 7), now), Ok(false));
        // other nodes, rebuilt nodes and other identities have their own floor
        for other in [binding("n2", "u1", "b", 1), binding("n1", "u2", "b", 1), binding("n1", "u1", "c", 1)] {
            assert_eq!(floor.admit(&other, now), Ok(true));
        }
    }

    #[test]
    fn the_floor_survives_being_written_and_read() {
        let mut floor = EpochFloor::default();
        floor.admit(&binding("n1", "u1", "b", 7), UnixTime(1)).unwrap();
        floor.admit(&binding("n2", "u2", "c", 9), UnixTime(1)).unwrap();
        let text = serde_json::to_string(&floor).unwrap();
        let mut read: EpochFloor = serde_json::from_str(&text).unwrap();
        assert_eq!(read, floor);
        assert!(matches!(read.admit(&binding("n1", "u1", "b", 5), UnixTime(1)), Err(FloorError::Below { .. })));
        for bad in ["[]", r#"{"rows":[]}"#, r#"{"least":0,"rows":[{"node":"../x"}]}"#] {
            assert!(serde_json::from_str::<EpochFloor>(bad).is_err(), "{bad} was read");
        }
    }

    /// MF-07: a lost floor is not an open door.
    #[test]
    fn mf_07_a_rebuilt_floor_believes_only_what_is_current() {
        let mut floor = EpochFloor::rebuilt(Epoch(6));
        assert!(matches!(floor.admit(&binding("n1", "u1", "b", 5), UnixTime(1)), Err(FloorError::Below { .. })));
        assert_eq!(floor.admit(&binding("n1", "u1", "b", 6), UnixTime(1)), Ok(true));
        let text = serde_json::to_string(&floor).unwrap();
        let mut read: EpochFloor = serde_json::from_str(&text).unwrap();
        assert!(matches!(read.admit(&binding("n9", "u1", "b", 5), UnixTime(1)), Err(FloorError::Below { .. })));
    }

    /// The entry outlives the last binding that it accepted by exactly nothing.
    #[test]
    fn an_entry_is_forgotten_when_every_binding_it_stands_for_has_ended() {
        let mut floor = EpochFloor::default();
        floor.admit(&binding("n1", "u1", "b", 7), UnixTime(1)).unwrap();
        assert!(!floor.forget_ended(UnixTime(7_999)));
        assert!(!floor.forget_ended(UnixTime(8_000)));
        assert!(floor.forget_ended(UnixTime(8_001)));
        assert!(floor.is_empty());
    }

    #[test]
    fn when_nothing_more_can_be_remembered_nothing_new_is_believed() {
        let mut floor = EpochFloor::default();
        for n in 0..FLOOR_ENTRIES_MAX {
            floor.admit(&binding("n1", "u1", &format!("a{n}"), 7), UnixTime(1)).unwrap();
        }
        assert_eq!(floor.len(), FLOOR_ENTRIES_MAX);
        assert!(matches!(floor.admit(&binding("n1", "u1", "more", 9), UnixTime(1)), Err(FloorError::Full { .. })));
        assert_eq!(floor.admit(&binding("n1", "u1", "a0", 8), UnixTime(1)), Ok(true), "known ones go on");
        assert_eq!(floor.admit(&binding("n1", "u1", "more", 9), UnixTime(8_500)), Ok(true), "ended ones make room");
    }
}
