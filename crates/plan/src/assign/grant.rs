//! Which of the keys that nodes ask for deserve a binding.

use std::collections::{BTreeMap, BTreeSet};

use identity::{NodeName, SpiffeId};

use super::refusal::{Refusal, RefusalReason};
use crate::view::{ClusterView, MeshNode, RequestedKey};

/// Most keys of one identity on one node: a rotation has two, a clock that was corrected one or two more.
pub const KEYS_PER_IDENTITY_MAX: usize = 4;

/// Who was granted which public key.
pub(super) type KeyHolders = BTreeMap<[u8; 32], (NodeName, SpiffeId)>;

/// Grants by node, and what was refused.
pub(super) type Granted = (BTreeMap<NodeName, Vec<RequestedKey>>, Vec<Refusal>);

/// Judges every key that is asked for. An identity has to be alive on the node that asks, and not revoked; a public
/// key has one holder, which is whoever had it before and still asks for it.
pub(super) fn grant(
    view: &ClusterView,
    alive: &BTreeMap<NodeName, BTreeSet<SpiffeId>>,
    revoked: &BTreeSet<SpiffeId>,
    holders: &mut KeyHolders,
) -> Granted {
    let (mut grants, mut refusals) = (BTreeMap::new(), Vec::new());
    let nodes = || alive.iter().filter_map(|(name, here)| Some((view.mesh_nodes.get(name)?, here)));
    let lives = |node: (&MeshNode, &BTreeSet<SpiffeId>), key: &RequestedKey| why_not_alive(node.1, revoked, key);
    let mut askers = KeyHolders::new();
    for (node, here) in nodes() {
        for key in node.keys.iter().filter(|key| lives((node, here), key).is_none()) {
            let asker = (node.name.clone(), key.identity.clone());
            let had = holders.get(&key.public_key) == Some(&asker);
            let first = askers.entry(key.public_key).or_insert_with(|| asker.clone());
            if had {
                *first = asker;
            }
        }
    }
    for (node, here) in nodes() {
        let granted: &mut Vec<RequestedKey> = grants.entry(node.name.clone()).or_default();
        for key in &node.keys {
            let why = lives((node, here), key)
                .or_else(|| why_not_held(node, key, askers.get(&key.public_key)))
                .or_else(|| why_too_many(granted, key));
            match why {
                None => granted.push(key.clone()),
                Some(reason) => {
                    let key = Some((key.identity.clone(), key.epoch));
                    refusals.push(Refusal { node: node.name.clone(), key, reason });
                }
            }
        }
    }
    *holders = askers;
    (grants, refusals)
}

fn why_not_alive(here: &BTreeSet<SpiffeId>, revoked: &BTreeSet<SpiffeId>, key: &RequestedKey) -> Option<RefusalReason> {
    let identity = key.identity.clone();
    match (revoked.contains(&identity), here.contains(&identity)) {
        (true, _) => Some(RefusalReason::Revoked { identity }),
        (false, false) => Some(RefusalReason::NoWorkload { identity }),
        (false, true) => None,
    }
}

fn why_not_held(node: &MeshNode, key: &RequestedKey, holder: Option<&(NodeName, SpiffeId)>) -> Option<RefusalReason> {
    let (holder_node, holder) = holder?;
    let own = *holder_node == node.name && *holder == key.identity;
    (!own).then(|| RefusalReason::KeyHeld { node: holder_node.clone(), holder: holder.clone() })
}

fn why_too_many(granted: &[RequestedKey], key: &RequestedKey) -> Option<RefusalReason> {
    let mut epochs = granted.iter().filter(|other| other.identity == key.identity).map(|other| other.epoch);
    let too_many = epochs.clone().count() >= KEYS_PER_IDENTITY_MAX || epochs.any(|epoch| epoch == key.epoch);
    let (identity, max) = (key.identity.clone(), KEYS_PER_IDENTITY_MAX);
    too_many.then_some(RefusalReason::TooManyKeys { identity, max })
}
