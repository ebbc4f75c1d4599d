//! The directory that controller and nodes read and write: everybody hears of a change in his own time, and of changes
//! of one kind in the order they were made.

use std::collections::BTreeMap;
use std::time::Duration;

use identity::NodeName;
use plan::view::{EndpointSlice, MeshNode, Object, ObjectKey};

use crate::dice::Dice;

/// Who reads: the controller is the first, nodes follow.
pub type Reader = usize;
pub const CONTROLLER: Reader = 0;

#[derive(Clone, Debug)]
pub enum Entry {
    /// A user's object.
    Plain(Object),
    Gone(ObjectKey),
    /// What a node says of itself.
    Spec(Box<MeshNode>),
    /// What the controller answers a node: its encoded bindings. They travel in the node's slice; here they come apart from
    /// it, sooner or later, because any order of the two has to be safe.
    Status(NodeName, Vec<String>),
    /// A slice and the issuer's signature over it.
    Slice(EndpointSlice, Vec<u8>),
}

impl Entry {
    fn key(&self) -> (u8, String) {
        match self {
            Self::Plain(Object::Namespace(it)) => (0, it.name.clone()),
            Self::Plain(Object::Node(it)) => (1, it.name.to_string()),
            Self::Plain(Object::Pod(it)) => (2, format!("{}/{}", it.namespace, it.name)),
            Self::Gone(key) => (2, format!("{}/{}", key.namespace, key.name)),
            Self::Spec(it) => (3, it.name.to_string()),
            Self::Status(node, _) => (4, node.to_string()),
            Self::Slice(it, _) => (5, it.node.to_string()),
            Self::Plain(other) => panic!("nobody writes {other:?}"),
        }
    }
}

/// What a slice's signature covers, in this simulation.
pub fn slice_bytes(slice: &EndpointSlice) -> Vec<u8> {
    format!("{slice:?}").into_bytes()
}

pub struct Directory {
    now: BTreeMap<(u8, String), Entry>,
    /// When a reader hears the last change so far of one kind.
    heard: BTreeMap<(Reader, u8), Duration>,
    readers: usize,
    /// The longest delay, in milliseconds.
    pub slowest: u64,
}

impl Directory {
    pub fn new(nodes: usize) -> Self {
        Self { now: BTreeMap::new(), heard: BTreeMap::new(), readers: nodes + 1, slowest: 100 }
    }

    /// Takes a change in; says when each reader hears of it.
    pub fn put(&mut self, entry: &Entry, dice: &mut Dice, at: Duration) -> Vec<(Reader, Duration)> {
        let key = entry.key();
        let kind = key.0.max(2);
        if matches!(entry, Entry::Gone(_)) {
            self.now.remove(&key);
        } else {
            self.now.insert(key, entry.clone());
        }
        let mut times = Vec::new();
        for reader in 0..self.readers {
            let heard = self.heard.entry((reader, kind)).or_default();
            *heard = (at + dice.millis(1, self.slowest)).max(*heard);
            times.push((reader, *heard));
        }
        times
    }

    /// Everything as it is.
    pub fn list(&self) -> Vec<Entry> {
        self.now.values().cloned().collect()
    }
}
