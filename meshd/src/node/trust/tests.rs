//! Bindings as they come with each change of a node's objects: believed once, and never for what was verified of another.

use std::path::Path;

use identity::Binding;

use super::*;
use crate::controller::ca::EmbeddedCa;
use crate::controller::issuer::Issuer as _;

const NOW: UnixTime = UnixTime(1_800_000_000);

fn node() -> NodeName {
    NodeName("n2".to_owned())
}

fn ca(dir: &Path) -> EmbeddedCa {
    EmbeddedCa::open(dir, &"td".parse().unwrap(), NOW).unwrap()
}

/// Signed by this CA: the key of byte `key` is an identity's on the node.
fn signed(ca: &EmbeddedCa, key: u8) -> String {
    let binding = Binding {
        trust_domain: "td".parse().unwrap(),
        spiffe_id: "spiffe://td/ns/a/sa/b".parse().unwrap(),
        public_key: [key; 32],
        node: node(),
        node_uid: "u2".to_owned(),
        epoch: Epoch(7),
        not_before: NOW,
        not_after: UnixTime(NOW.0 + 100),
        suite: Suite::default(),
    };
    ca.sign_binding(binding).unwrap().encode()
}

fn trust(dir: &Path, ca: &EmbeddedCa) -> Trust {
    let (floor, _) = FloorStore::open(dir, "u1", Epoch(0));
    let mut trust = Trust::new(None, floor);
    assert!(trust.handle_bundle(&bundle(ca), NOW).unwrap());
    trust
}

fn bundle(ca: &EmbeddedCa) -> api::MeshTrust {
    let (root, intermediate) = (ca.bundle().root_pem(), ca.bundle().intermediate_pem());
    let spec = api::MeshTrustSpec { trust_domain: "td".to_owned(), root, intermediate };
    api::MeshTrust { metadata: api::Metadata::default(), spec }
}

/// First bytes of the keys that are believed, whether or not they are remembered.
fn believed(trust: &mut Trust, wall: UnixTime) -> Vec<u8> {
    let fresh = trust.keys(wall);
    trust.remember_keys(wall);
    assert_eq!(fresh, trust.keys(wall));
    fresh.values().flat_map(BTreeMap::values).map(|bound| bound.public_key[0]).collect()
}

#[test]
fn what_was_verified_stays_believed_and_goes_with_what_carried_it() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ca(&dir.path().join("ca"));
    let (mut trust, text) = (trust(dir.path(), &ca), signed(&ca, 9));
    for _ in 0..2 {
        trust.handle_bindings((&node(), "u2"), &[&text], NOW);
        assert_eq!(believed(&mut trust, NOW), [9]);
        assert_eq!(trust.refusals().count(), 0);
    }
    assert_eq!(believed(&mut trust, UnixTime(NOW.0 + 101)), Vec::<u8>::new());
    trust.handle_bindings((&node(), "u2"), &[&text], UnixTime(NOW.0 + 101));
    assert_eq!(trust.refusals().count(), 1, "it has ended");
    trust.handle_bindings((&node(), "u2"), &[], NOW);
    assert_eq!((believed(&mut trust, NOW), trust.refusals().count()), (vec![], 0));
}

#[test]
fn keys_are_made_out_of_bindings_again_when_one_comes_or_ends_and_then_only() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ca(&dir.path().join("ca"));
    let (mut trust, text) = (trust(dir.path(), &ca), signed(&ca, 9));
    let is_same = |trust: &mut Trust, before: &Arc<BoundKeys>, second: u64| {
        trust.remember_keys(UnixTime(NOW.0 + second));
        Arc::ptr_eq(before, &trust.keys(UnixTime(NOW.0 + second)))
    };
    trust.handle_bindings((&node(), "u2"), &[&text], NOW);
    trust.remember_keys(NOW);
    let first = trust.keys(NOW);
    assert_eq!(first.len(), 1);
    assert!(is_same(&mut trust, &first, 100), "its last second");
    assert!(!is_same(&mut trust, &first, 101) && trust.keys(UnixTime(NOW.0 + 101)).is_empty(), "it has ended");
    assert_eq!(believed(&mut trust, NOW), [9], "the clock was put back");
    trust.handle_node_gone(&node());
    assert_eq!(believed(&mut trust, NOW), [0; 0]);
}

#[test]
fn id_08_a_verified_binding_vouches_for_no_other_text_node_or_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let ours = ca(&dir.path().join("ours"));
    let other = ca(&dir.path().join("other"));
    let mut trust = trust(dir.path(), &ours);
    let (text, foreign) = (signed(&ours, 9), signed(&other, 8));
    let begin = |trust: &mut Trust| {
        trust.handle_bindings((&node(), "u2"), &[&text], NOW);
        assert_eq!(believed(trust, NOW), [9]);
    };
    // the same words with a signature that is not the issuer's over them
    let stranger = format!("{}.{}", text.rsplit_once('.').unwrap().0, foreign.rsplit_once('.').unwrap().1);
    for bad in [foreign.as_str(), &stranger] {
        begin(&mut trust);
        trust.handle_bindings((&node(), "u2"), &[bad], NOW);
        assert_eq!((believed(&mut trust, NOW), trust.refusals().count()), (vec![], 1));
    }
    // the node was rebuilt, or another node's object carries it
    begin(&mut trust);
    trust.handle_bindings((&node(), "u3"), &[&text], NOW);
    assert_eq!((believed(&mut trust, NOW), trust.refusals().count()), (vec![], 1));
    begin(&mut trust);
    trust.handle_bindings((&NodeName("n3".to_owned()), "u2"), &[&text], NOW);
    assert_eq!((believed(&mut trust, NOW), trust.refusals().count()), (vec![9], 1), "only where it belongs");
    // another intermediate of the same name: what the first one signed is to be proved again
    let (floor, _) = FloorStore::open(dir.path(), "u1", Epoch(0));
    let unpinned = Trust { pinned: None, floor, ..trust };
    let mut trust = unpinned;
    assert!(trust.handle_bundle(&bundle(&other), NOW).unwrap());
    trust.handle_bindings((&node(), "u2"), &[&text], NOW);
    assert_eq!(believed(&mut trust, NOW), Vec::<u8>::new());
}
