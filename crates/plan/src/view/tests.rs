//! Lists replace, old slices do not come back, sizes are bounded.

use std::collections::BTreeMap;

use policy::{EffectiveMode, Labels};
use proptest::prelude::*;

use super::*;

fn namespace(name: &str) -> Event {
    Event::Apply(Object::Namespace(Namespace { name: name.to_owned(), labels: Labels::new() }))
}

fn node() -> NodeName {
    NodeName("n1".to_owned())
}

fn slice(revision: u64, node_uid: &str) -> EndpointSlice {
    EndpointSlice { node: node(), node_uid: node_uid.to_owned(), revision, endpoints: BTreeMap::new() }
}

fn slice_event(revision: u64) -> Event {
    Event::Apply(Object::MeshEndpointSlice(slice(revision, "u")))
}

fn gone(kind: &'static str, name: &str) -> Event {
    Event::Delete(ObjectKey { kind, namespace: String::new(), name: name.to_owned() })
}

fn names(view: &ClusterView) -> Vec<&str> {
    view.namespaces.keys().map(String::as_str).collect()
}

#[test]
fn a_relist_replaces_everything_at_once() {
    let mut view = ClusterView::default();
    for event in [Event::Init, namespace("a"), namespace("b")] {
        assert_eq!(view.handle(event), Ok(false));
    }
    assert!(!view.is_synced() && view.namespaces.is_empty());
    assert_eq!(view.handle(Event::InitDone), Ok(true));
    assert!(view.is_synced());
    for event in [Event::Init, namespace("b"), namespace("c"), namespace("d"), gone("Namespace", "d")] {
        assert_eq!(view.handle(event), Ok(false));
    }
    assert_eq!(names(&view), ["a", "b"], "a half list shows");
    assert_eq!(view.handle(Event::InitDone), Ok(true));
    assert_eq!(names(&view), ["b", "c"]);
    assert_eq!(view.handle(gone("Namespace", "b")), Ok(true));
    assert_eq!(view.handle(gone("Namespace", "b")), Ok(false));
    assert_eq!(names(&view), ["c"]);
}

#[test]
fn a_list_that_is_begun_again_forgets_the_first_half_and_an_end_without_a_beginning_is_nothing() {
    let mut view = ClusterView::default();
    assert_eq!(view.handle(Event::InitDone), Ok(false));
    assert!(!view.is_synced());
    for event in [Event::Init, namespace("a"), Event::Init, namespace("b"), Event::InitDone] {
        view.handle(event).unwrap();
    }
    assert_eq!(names(&view), ["b"]);
}

#[test]
fn t11_a_rolled_back_slice_is_refused_by_apply_by_list_and_after_a_delete() {
    let mut view = ClusterView::default();
    view.handle(slice_event(7)).unwrap();
    let rolled_back = |revision| Err(ViewError::RolledBack { node: node(), revision, kept: 7 });
    assert_eq!(view.handle(slice_event(6)), rolled_back(6));
    let rebuilt = Event::Apply(Object::MeshEndpointSlice(slice(6, "another")));
    assert_eq!(view.handle(rebuilt), rolled_back(6), "another node UID is no way around");
    view.handle(Event::Init).unwrap();
    assert_eq!(view.handle(slice_event(5)), rolled_back(5));
    view.handle(Event::InitDone).unwrap();
    assert_eq!(view.slices[&node()].revision, 7, "the newer one stays");
    view.handle(gone("MeshEndpointSlice", "n1")).unwrap();
    assert!(view.slices.is_empty());
    assert_eq!(view.handle(slice_event(6)), rolled_back(6));
    view.handle(slice_event(7)).unwrap();
    view.handle(slice_event(8)).unwrap();
    assert_eq!(view.revision(), 8);
}

#[test]
fn t11_two_slices_of_one_revision_that_differ_are_not_both_believed() {
    let mut view = ClusterView::default();
    view.handle(slice_event(7)).unwrap();
    assert_eq!(view.handle(slice_event(7)), Ok(false));
    let other = Event::Apply(Object::MeshEndpointSlice(slice(7, "another")));
    assert_eq!(view.handle(other), Err(ViewError::Contradictory { node: node(), revision: 7 }));
    assert_eq!(view.slices[&node()].node_uid, "u");
}

#[test]
fn a_slice_that_a_list_leaves_out_is_gone() {
    let mut view = ClusterView::default();
    for event in [slice_event(7), Event::Init, Event::InitDone] {
        view.handle(event).unwrap();
    }
    assert!(view.slices.is_empty());
}

#[test]
fn one_object_more_than_there_is_room_for_is_refused_and_known_ones_still_change() {
    let mut view = ClusterView::default();
    for index in 0..NODES_MAX {
        let name = NodeName(format!("n{index}"));
        view.handle(Event::Apply(Object::Node(Node {
            name,
            uid: String::new(),
            labels: Labels::new(),
            pod_cidrs: vec![],
            addresses: vec![],
        })))
        .unwrap();
    }
    let node = |name: &str, addresses| {
        Event::Apply(Object::Node(Node {
            name: NodeName(name.to_owned()),
            uid: String::new(),
            labels: Labels::new(),
            pod_cidrs: vec![],
            addresses,
        }))
    };
    assert!(matches!(view.handle(node("one-more", vec![])), Err(ViewError::Full { kind: "Node", .. })));
    assert_eq!(view.handle(node("n0", vec!["192.0.2.1".parse().unwrap()])), Ok(true));
}

#[test]
fn phases_are_read_off_an_endpoint() {
    let disabled = EffectiveMode { mode: policy::Mode::Disable, ..EffectiveMode::default() };
    let web = || Some("spiffe://td/ns/shop/sa/web".parse().unwrap());
    let endpoint = |identity, mode, enforced| Endpoint {
        identity,
        mode,
        enforced,
        namespace: String::new(),
        name: String::new(),
        uid: String::new(),
    };
    let keyed = || Some(EffectiveMode::default());
    for (endpoint, phase) in [
        (endpoint(None, None, true), Phase::Outside),
        (endpoint(None, Some(disabled.clone()), true), Phase::Outside),
        (endpoint(web(), Some(disabled), false), Phase::Ready),
        (endpoint(web(), keyed(), false), Phase::Switched),
        (endpoint(web(), keyed(), true), Phase::Enforced),
        (endpoint(web(), None, true), Phase::Enforced),
    ] {
        assert_eq!(endpoint.phase(), phase, "{endpoint:?}");
    }
}

proptest! {
    /// Whatever comes, a node's slice never goes back, and a finished list is all there is.
    #[test]
    fn t11_no_sequence_of_events_takes_a_slice_back(events in proptest::collection::vec((0_u8..4, 0_u64..9), 0..40)) {
        let mut view = ClusterView::default();
        let mut newest = 0;
        for (kind, revision) in events {
            let event = match kind {
                0 => Event::Init,
                1 => Event::InitDone,
                2 => gone("MeshEndpointSlice", "n1"),
                _ => slice_event(revision),
            };
            let taken = view.handle(event).is_ok();
            if kind == 3 {
                prop_assert_eq!(taken, revision >= newest);
                newest = newest.max(revision);
            }
            prop_assert!(view.slices.values().all(|slice| slice.revision <= newest));
        }
    }

    #[test]
    fn a_list_is_the_view_whatever_came_before(before in "[a-e]{0,6}", list in "[a-e]{0,6}") {
        let mut view = ClusterView::default();
        for name in before.chars() {
            view.handle(namespace(&name.to_string())).unwrap();
        }
        view.handle(Event::Init).unwrap();
        for name in list.chars() {
            view.handle(namespace(&name.to_string())).unwrap();
        }
        view.handle(Event::InitDone).unwrap();
        let expected: std::collections::BTreeSet<_> = list.chars().map(|c| c.to_string()).collect();
        prop_assert_eq!(view.namespaces.into_keys().collect::<std::collections::BTreeSet<_>>(), expected);
    }
}
