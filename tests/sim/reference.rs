//! Who may deliver what, naively: from nothing but what a node has heard, by looking through all of it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use identity::{Binding, NodeName, SignedBinding, UnixTime};
use plan::PeerName;
use plan::view::EndpointSlice;

use crate::directory::Entry;

/// What one reader has heard from the controller.
#[derive(Default)]
pub struct Heard {
    slices: Vec<EndpointSlice>,
    bindings: BTreeMap<NodeName, Vec<Binding>>,
}

impl Heard {
    pub fn hear(&mut self, entry: &Entry) {
        match entry {
            Entry::Slice(slice, _) => self.slices.push(slice.clone()),
            Entry::Status(node, texts) => {
                let bindings = texts.iter().map(|text| SignedBinding::decode(text).unwrap().binding);
                self.bindings.insert(node.clone(), bindings.collect());
            }
            Entry::Plain(_) | Entry::Gone(_) | Entry::Spec(_) => {}
        }
    }

    /// Whose address this is: the newest word of each node counts, and among nodes the newest.
    pub fn owner(&self, ip: IpAddr) -> Option<PeerName> {
        let newest_of_node = |slice: &&EndpointSlice| {
            self.slices.iter().all(|other| other.node != slice.node || other.revision <= slice.revision)
        };
        let mut speaking: Vec<_> = self.slices.iter().filter(newest_of_node).collect();
        speaking.retain(|slice| slice.endpoints.contains_key(&ip));
        let slice = speaking.into_iter().max_by_key(|slice| slice.revision)?;
        let identity = slice.endpoints[&ip].identity.clone()?;
        Some(PeerName { node: slice.node.clone(), identity })
    }

    /// Whether some key of this peer is bound at this time.
    pub fn is_bound(&self, peer: &PeerName, wall: UnixTime) -> bool {
        let bindings = self.bindings.get(&peer.node).map(Vec::as_slice).unwrap_or_default();
        bindings.iter().any(|binding| binding.spiffe_id == peer.identity && binding.not_after >= wall)
    }
}
