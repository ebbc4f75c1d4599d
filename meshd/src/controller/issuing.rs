//! What was signed and published already: nothing is signed twice, and nothing unchanged is written again.

use std::collections::BTreeMap;
use std::time::Duration;

use identity::key_ring::{requestable, validity};
use identity::{Binding, CLOCK_SKEW, NodeName, SignedBinding, UnixTime};
use plan::view::{EndpointSlice, RequestedKey};

use super::issuer::Issuer;
use crate::cluster::api::{IssuedBinding, MeshNodeStatus};

/// Most bytes of bindings in one slice with their SVIDs: an API server takes objects of 1.5 MiB (etcd's `--max-request-bytes`), and the
/// endpoints are in there too. Two epochs of 300 identities are as large.
const BINDING_BYTES_MAX: usize = 1 << 20;

/// Signatures and answers as last published, by node.
#[derive(Default)]
pub(super) struct Issued {
    signed: BTreeMap<NodeName, BTreeMap<RequestedKey, IssuedBinding>>,
    /// With the keys whose bindings went with it.
    slices: BTreeMap<NodeName, (EndpointSlice, Vec<RequestedKey>)>,
    answers: BTreeMap<NodeName, MeshNodeStatus>,
}

impl Issued {
    /// Signs bindings and SVIDs of these keys where they are new, and forgets those that are not asked for any more.
    /// Keys of epochs that no honest clock asks for yet, or any more, are left out, and so is a key that cannot be signed.
    pub(super) fn follow(
        &mut self,
        issuer: &dyn Issuer,
        (node, uid): (&NodeName, &str),
        keys: &[RequestedKey],
        period: Duration,
        wall: UnixTime,
    ) {
        let signed = self.signed.entry(node.clone()).or_default();
        signed.retain(|key, _| keys.contains(key));
        let epochs = requestable(period, wall, CLOCK_SKEW);
        for key in keys.iter().filter(|key| epochs.contains(&key.epoch)) {
            if signed.contains_key(key) {
                continue;
            }
            match sign(issuer, (node, uid), key, period) {
                Ok(binding) => drop(signed.insert(key.clone(), binding)),
                Err(error) => {
                    let (identity, error) = (&key.identity, format!("{error:#}"));
                    tracing::error!(%node, %identity, error, "A key cannot be bound");
                }
            }
        }
    }

    /// What was signed for a node; of too much the SVIDs are left out, which no node needs.
    pub(super) fn bindings(&self, node: &NodeName) -> Vec<IssuedBinding> {
        let mut all: Vec<_> = self.signed.get(node).into_iter().flat_map(BTreeMap::values).cloned().collect();
        if all.iter().map(|issued| issued.binding.len() + issued.svid.len()).sum::<usize>() > BINDING_BYTES_MAX {
            all.iter_mut().for_each(|issued| issued.svid.clear());
        }
        all
    }

    /// Whether this slice was published with the bindings that its node has now.
    pub(super) fn is_published(&self, slice: &EndpointSlice) -> bool {
        let published = self.slices.get(&slice.node);
        published.is_some_and(|(held, keys)| held == slice && keys.iter().eq(self.keys(&slice.node)))
    }

    pub(super) fn note_published(&mut self, slice: &EndpointSlice) {
        let keys = self.keys(&slice.node).cloned().collect();
        self.slices.insert(slice.node.clone(), (slice.clone(), keys));
    }

    /// Keys of a node that a binding was signed for.
    fn keys(&self, node: &NodeName) -> impl Iterator<Item = &RequestedKey> {
        self.signed.get(node).into_iter().flat_map(BTreeMap::keys)
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

/// Of the bindings that an earlier controller wrote into a node's status those that are still granted: nodes that look for
/// them nowhere else go on with them until they are rolled (decision 0024).
pub(super) fn still_granted(former: &[IssuedBinding], keys: &[RequestedKey]) -> Vec<IssuedBinding> {
    let is_granted = |issued: &&IssuedBinding| {
        SignedBinding::decode(&issued.binding).is_ok_and(|SignedBinding { binding, .. }| {
            let same = |key: &RequestedKey| key.identity == binding.spiffe_id && key.epoch == binding.epoch;
            keys.iter().any(|key| same(key) && key.public_key == binding.public_key)
        })
    };
    former.iter().filter(is_granted).cloned().collect()
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

#[cfg(test)]
mod tests {
    use identity::{Epoch, Suite};

    use super::*;
    use crate::controller::ca::EmbeddedCa;

    const NOW: UnixTime = UnixTime(1_800_000_000);
    const PERIOD: Duration = Duration::from_secs(3_600);

    fn key(account: &str, byte: u8) -> RequestedKey {
        let identity = format!("spiffe://td/ns/a/sa/{account}").parse().unwrap();
        let epoch = Epoch::at(NOW, PERIOD);
        RequestedKey { identity, epoch, public_key: [byte; 32], svid_key: [byte; 32], suite: Suite::default() }
    }

    #[test]
    fn a_slice_goes_out_again_when_its_node_has_other_bindings_and_then_only() {
        let dir = tempfile::tempdir().unwrap();
        let ca = EmbeddedCa::open(&dir.path().join("ca"), &"td".parse().unwrap(), NOW).unwrap();
        let node = NodeName("n1".to_owned());
        let slice =
            EndpointSlice { node: node.clone(), node_uid: "u".to_owned(), revision: 1, endpoints: BTreeMap::new() };
        let mut issued = Issued::default();
        let follow = |issued: &mut Issued, keys: &[RequestedKey]| {
            issued.follow(&ca, (&node, "u"), keys, PERIOD, NOW);
            let due = !issued.is_published(&slice);
            issued.note_published(&slice);
            (due, issued.bindings(&node).len())
        };
        assert_eq!(follow(&mut issued, &[]), (true, 0));
        assert_eq!(follow(&mut issued, &[]), (false, 0));
        assert_eq!(follow(&mut issued, &[key("a", 9)]), (true, 1));
        assert_eq!(follow(&mut issued, &[key("a", 9)]), (false, 1));
        assert_eq!(follow(&mut issued, &[key("a", 8)]), (true, 1), "the node has another key");
        // a key that can never be bound (no secret comes of it) does not keep the others back
        assert_eq!(follow(&mut issued, &[key("a", 0), key("b", 9)]), (true, 1));
        assert_eq!(follow(&mut issued, &[]), (true, 0));
        issued.forget_slice(&node);
        assert_eq!(follow(&mut issued, &[]), (true, 0));
    }

    #[test]
    fn a_nodes_bindings_fit_an_object_whatever_it_asks_for() {
        let dir = tempfile::tempdir().unwrap();
        let ca = EmbeddedCa::open(&dir.path().join("ca"), &"td".parse().unwrap(), NOW).unwrap();
        let node = NodeName("n1".to_owned());
        let mut issued = Issued::default();
        let signed = sign(&ca, (&node, "u"), &key("a", 9), PERIOD).unwrap();
        let size = |issued: &Issued| serde_json::to_vec(&issued.bindings(&node)).unwrap().len();
        let mut all = BTreeMap::new();
        for number in 0..2_000 {
            all.insert(key(&format!("a{number}"), 9), signed.clone());
        }
        let few = all.iter().take(600).map(|(key, signed)| (key.clone(), signed.clone())).collect();
        issued.signed.insert(node.clone(), few);
        assert!(issued.bindings(&node).iter().all(|issued| issued.svid == signed.svid));
        assert!(size(&issued) < 1_200_000);
        issued.signed.insert(node.clone(), all);
        let left = issued.bindings(&node);
        assert!(
            left.len() == 2_000 && left.iter().all(|issued| issued.svid.is_empty() && issued.binding == signed.binding)
        );
        assert!(size(&issued) < 1_200_000, "{}", size(&issued));
    }

    #[test]
    fn an_earlier_controllers_bindings_stand_while_they_are_granted() {
        let dir = tempfile::tempdir().unwrap();
        let ca = EmbeddedCa::open(&dir.path().join("ca"), &"td".parse().unwrap(), NOW).unwrap();
        let node = NodeName("n1".to_owned());
        let mut earlier = Issued::default();
        earlier.follow(&ca, (&node, "u"), &[key("a", 9), key("b", 7)], PERIOD, NOW);
        let mut former = earlier.bindings(&node);
        let unread = IssuedBinding { binding: "x".to_owned(), ..former[0].clone() };
        former.push(unread);
        let left = |keys: &[RequestedKey]| -> Vec<String> {
            still_granted(&former, keys).iter().map(|b| b.identity.to_string()).collect()
        };
        assert_eq!(left(&[key("a", 9), key("b", 7)]), ["spiffe://td/ns/a/sa/a", "spiffe://td/ns/a/sa/b"]);
        assert_eq!(left(&[key("b", 7)]), ["spiffe://td/ns/a/sa/b"]);
        assert_eq!(left(&[key("a", 8)]), [""; 0], "the same identity with another key is another binding");
        assert_eq!(left(&[]), [""; 0]);
    }
}
