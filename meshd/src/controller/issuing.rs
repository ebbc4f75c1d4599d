//! What was signed and published already: nothing is signed twice, and nothing unchanged is written again.

use std::collections::BTreeMap;
use std::time::Duration;

use identity::key_ring::{requestable, validity};
use identity::{Binding, CLOCK_SKEW, NodeName, UnixTime};
use plan::view::{EndpointSlice, RequestedKey};

use super::issuer::Issuer;
use crate::cluster::api::{IssuedBinding, MeshNodeStatus};

/// Signatures and answers as last published, by node.
#[derive(Default)]
pub(super) struct Issued {
    signed: BTreeMap<NodeName, BTreeMap<RequestedKey, IssuedBinding>>,
    slices: BTreeMap<NodeName, EndpointSlice>,
    answers: BTreeMap<NodeName, MeshNodeStatus>,
}

impl Issued {
    /// Bindings and SVIDs of these keys: signed where they are new, forgotten where they are not asked for any more.
    /// Keys of epochs that no honest clock asks for yet, or any more, are left out.
    pub(super) fn bindings(
        &mut self,
        issuer: &dyn Issuer,
        (node, uid): (&NodeName, &str),
        keys: &[RequestedKey],
        period: Duration,
        wall: UnixTime,
    ) -> anyhow::Result<Vec<IssuedBinding>> {
        let signed = self.signed.entry(node.clone()).or_default();
        signed.retain(|key, _| keys.contains(key));
        let epochs = requestable(period, wall, CLOCK_SKEW);
        for key in keys.iter().filter(|key| epochs.contains(&key.epoch)) {
            if !signed.contains_key(key) {
                signed.insert(key.clone(), sign(issuer, (node, uid), key, period)?);
            }
        }
        Ok(signed.values().cloned().collect())
    }

    pub(super) fn is_published(&self, slice: &EndpointSlice) -> bool {
        self.slices.get(&slice.node) == Some(slice)
    }

    pub(super) fn note_published(&mut self, slice: &EndpointSlice) {
        self.slices.insert(slice.node.clone(), slice.clone());
    }

    /// A slice is gone from the cluster.
    pub(super) fn forget_slice(&mut self, node: &NodeName) {
        self.slices.remove(node);
    }

    /// A MeshNode is gone from the cluster, and our answer with it.
    pub(super) fn forget_answer(&mut self, node: &NodeName) {
        self.answers.remove(node);
    }

    /// What a node was last answered.
    pub(super) fn answer(&self, node: &NodeName) -> Option<&MeshNodeStatus> {
        self.answers.get(node)
    }

    pub(super) fn is_answered(&self, node: &NodeName, status: &MeshNodeStatus) -> bool {
        self.answers.get(node) == Some(status)
    }

    pub(super) fn note_answered(&mut self, node: &NodeName, status: MeshNodeStatus) {
        self.answers.insert(node.clone(), status);
    }
}

fn sign(
    issuer: &dyn Issuer,
    (node, uid): (&NodeName, &str),
    key: &RequestedKey,
    period: Duration,
) -> anyhow::Result<IssuedBinding> {
    let (not_before, not_after) = validity(key.epoch, period);
    let binding = issuer.sign_binding(Binding {
        trust_domain: key.identity.trust_domain().clone(),
        spiffe_id: key.identity.clone(),
        public_key: key.public_key,
        node: node.clone(),
        node_uid: uid.to_owned(),
        epoch: key.epoch,
        not_before,
        not_after,
        suite: key.suite,
    })?;
    let svid = issuer.issue_svid(&key.identity, &key.svid_key, not_before, not_after)?;
    Ok(IssuedBinding { identity: key.identity.clone(), epoch: key.epoch, binding: binding.encode(), svid })
}
