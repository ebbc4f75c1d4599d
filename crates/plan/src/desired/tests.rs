//! The sender-by-receiver matrix and what must never be wished for.

use super::*;
use crate::view::{Endpoint, EndpointSlice, Event, MeshNode, Namespace, Node, Object};
use policy::{Labels, Mode, PeerAuthentication};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn node(name: &str) -> NodeName {
    NodeName(name.to_owned())
}

fn web() -> SpiffeId {
    "spiffe://td/ns/shop/sa/web".parse().unwrap()
}

fn mesh_label(value: &str) -> Labels {
    BTreeMap::from([("weft.dev/mesh".to_owned(), value.to_owned())])
}

fn pod(name: &str, on: &str) -> Pod {
    Pod {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        labels: Labels::new(),
        node: Some(node(on)),
        service_account: "web".to_owned(),
        host_network: false,
        finished: false,
        ips: BTreeSet::new(),
    }
}

fn endpoint(identity: Option<SpiffeId>, enforced: bool) -> Endpoint {
    let mode = identity.as_ref().map(|_| EffectiveMode::default());
    Endpoint { identity, mode, enforced, namespace: "shop".into(), name: "b".into(), uid: "uid-b".into() }
}

/// Node n1 with pod a (10.1.0.5) attached, node n2 with 10.2.0.7 as the slice says.
fn world(mode: Mode, remote: Endpoint) -> (ClusterView, Here) {
    let mut view = ClusterView::default();
    let policy = PeerAuthentication {
        namespace: "shop".into(),
        name: "default".into(),
        created: 1,
        selector: None,
        mode: Some(mode),
        ports: BTreeMap::new(),
        outbound: None,
    };
    let range =
        |name: &str, cidr: &str| Node { name: node(name), pod_cidrs: vec![cidr.parse().unwrap()], addresses: vec![] };
    let endpoints = BTreeMap::from([(ip("10.2.0.7"), remote)]);
    let slice = EndpointSlice { node: node("n2"), node_uid: "u2".into(), revision: 4, endpoints };
    let report = MeshNode {
        name: node("n2"),
        uid: "u2".into(),
        endpoints: vec!["192.0.2.2:51840".parse().unwrap()],
        addresses: BTreeSet::new(),
        keys: vec![],
        attachments: vec![],
        observed_revision: 0,
        bindings: vec![],
    };
    for object in [
        Object::Namespace(Namespace { name: "shop".into(), labels: mesh_label("enabled") }),
        Object::PeerAuthentication(policy),
        Object::Node(range("n1", "10.1.0.0/16")),
        Object::Node(range("n2", "10.2.0.0/16")),
        Object::MeshNode(Box::new(report)),
        Object::MeshEndpointSlice(slice),
    ] {
        view.handle(Event::Apply(object)).unwrap();
    }
    let attachment = LocalAttachment {
        pod: Some(pod("a", "n1")),
        link: "veth0".into(),
        mac: [2, 0, 0, 0, 0, 1],
        ips: BTreeSet::from([ip("10.1.0.5")]),
        patient: false,
    };
    let peer = PeerName { node: node("n2"), identity: web() };
    let here = Here {
        node: node("n1"),
        trust_domain: "td".parse().unwrap(),
        root_namespace: "weft-system".into(),
        addresses: BTreeSet::from([ip("192.0.2.1")]),
        attachments: vec![attachment],
        keys: BTreeMap::from([(peer, BTreeMap::from([(Epoch(1), [9; 32])]))]),
    };
    (view, here)
}

fn target(desired: &Desired, address: &str) -> Option<RouteTarget> {
    let exact: IpNet = ip(address).into();
    desired.routes.iter().find(|r| r.table == RouteTable::Pods && r.prefix == exact).map(|r| r.target)
}

#[test]
fn a_keyed_remote_is_tunnelled_to_and_guarded() {
    let (view, here) = world(Mode::Permissive, endpoint(Some(web()), true));
    let desired = Desired::of(&view, &here);
    assert_eq!(target(&desired, "10.2.0.7"), Some(RouteTarget::Mesh));
    assert!(desired.filter.keyed.contains(&ip("10.2.0.7")) && desired.filter.keyed_enforced.contains(&ip("10.2.0.7")));
    let peer = &desired.peers[&PeerName { node: node("n2"), identity: web() }];
    assert_eq!(peer.addresses, BTreeSet::from([ip("10.2.0.7")]));
    assert_eq!(peer.keys.len(), 1);
    assert_eq!(desired.locals[&web()].addresses, BTreeSet::from([ip("10.1.0.5")]));
    assert_eq!(desired.locals[&"spiffe://td/node/n1".parse().unwrap()].addresses, here.addresses);
}

#[test]
fn senders_switch_before_receivers_reject() {
    let (view, here) = world(Mode::Permissive, endpoint(Some(web()), false));
    let desired = Desired::of(&view, &here);
    assert_eq!(target(&desired, "10.2.0.7"), Some(RouteTarget::Mesh));
    assert!(desired.filter.keyed.contains(&ip("10.2.0.7")) && desired.filter.keyed_enforced.is_empty());
}

#[test]
fn a_remote_outside_the_mesh_is_known_to_be_clear() {
    let (view, here) = world(Mode::Permissive, endpoint(None, true));
    let desired = Desired::of(&view, &here);
    assert_eq!(target(&desired, "10.2.0.7"), Some(RouteTarget::Main));
    assert!(desired.filter.clear.contains(&ip("10.2.0.7")) && desired.filter.keyed.is_empty());
}

#[test]
fn an_address_nobody_speaks_for_is_not_sent_to_in_clear() {
    let (mut view, here) = world(Mode::Permissive, endpoint(Some(web()), true));
    view.slices.clear();
    let desired = Desired::of(&view, &here);
    let range = Route { table: RouteTable::Pods, prefix: "10.2.0.0/16".parse().unwrap(), target: RouteTarget::Mesh };
    assert!(desired.routes.contains(&range) && desired.filter.pod_cidrs.contains(&range.prefix));
    assert!(desired.filter.clear.is_empty() && desired.peers.is_empty());
    let mut other = pod("c", "n2");
    other.ips = BTreeSet::from([ip("10.2.0.9")]);
    view.handle(Event::Apply(Object::Pod(other.clone()))).unwrap();
    assert_eq!(
        target(&Desired::of(&view, &here), "10.2.0.9"),
        Some(RouteTarget::Mesh),
        "enrolled by label, so never clear"
    );
    other.labels = mesh_label("disabled");
    view.handle(Event::Apply(Object::Pod(other))).unwrap();
    assert_eq!(target(&Desired::of(&view, &here), "10.2.0.9"), Some(RouteTarget::Main));
}

#[test]
fn f2_without_a_binding_the_peer_stays_and_has_no_key() {
    let (view, mut here) = world(Mode::Permissive, endpoint(Some(web()), true));
    here.keys.clear();
    let desired = Desired::of(&view, &here);
    assert_eq!(target(&desired, "10.2.0.7"), Some(RouteTarget::Mesh), "clear text is no answer to a missing key");
    assert!(desired.peers[&PeerName { node: node("n2"), identity: web() }].keys.is_empty());
}

#[test]
fn f8_f9_f10_local_modes() {
    let remote = endpoint(None, true);
    let desired = |mode| {
        let (view, here) = world(mode, remote.clone());
        Desired::of(&view, &here)
    };
    let strict = desired(Mode::Strict);
    assert!(strict.filter.strict.contains(&ip("10.1.0.5")) && strict.filter.pins["veth0"].enrolled);
    let permissive = desired(Mode::Permissive);
    assert!(permissive.filter.strict.is_empty() && permissive.filter.enrolled.contains(&ip("10.1.0.5")));
    let disabled = desired(Mode::Disable);
    assert!(!disabled.filter.pins["veth0"].enrolled && disabled.filter.enrolled.is_empty());
    assert!(!disabled.locals.contains_key(&web()), "tunnelled packets to it must be refused");
    assert!(disabled.filter.local.contains(&ip("10.1.0.5")));
}

#[test]
fn a_workload_that_was_reachable_in_clear_waits_for_its_senders() {
    let (mut view, mut here) = world(Mode::Strict, endpoint(None, true));
    here.attachments[0].patient = true;
    assert!(Desired::of(&view, &here).filter.strict.is_empty());
    let own = Endpoint { uid: "uid-a".into(), ..endpoint(Some(web()), true) };
    let endpoints = BTreeMap::from([(ip("10.1.0.5"), own)]);
    let slice = EndpointSlice { node: node("n1"), node_uid: "u1".into(), revision: 9, endpoints };
    view.handle(Event::Apply(Object::MeshEndpointSlice(slice))).unwrap();
    assert!(Desired::of(&view, &here).filter.strict.contains(&ip("10.1.0.5")));
}

#[test]
fn f11_port_exceptions_both_ways() {
    let (mut view, here) = world(Mode::Strict, endpoint(None, true));
    let mut workload = view.peer_authentications[&("shop".to_owned(), "default".to_owned())].clone();
    workload.name = "web".into();
    workload.selector = Some(policy::Selector::default());
    workload.mode = None;
    workload.ports = BTreeMap::from([(80, Some(Mode::Permissive))]);
    view.handle(Event::Apply(Object::PeerAuthentication(workload.clone()))).unwrap();
    let desired = Desired::of(&view, &here);
    assert_eq!(desired.filter.open_ports, BTreeSet::from([(ip("10.1.0.5"), 80)]));
    workload.mode = Some(Mode::Permissive);
    workload.ports = BTreeMap::from([(443, Some(Mode::Strict))]);
    view.handle(Event::Apply(Object::PeerAuthentication(workload))).unwrap();
    let desired = Desired::of(&view, &here);
    assert_eq!(desired.filter.closed_ports, BTreeSet::from([(ip("10.1.0.5"), 443)]));
    assert!(desired.filter.strict.is_empty());
}

#[test]
fn an_address_in_two_slices_goes_to_the_newer_and_a_local_one_never_leaves() {
    let (mut view, here) = world(Mode::Permissive, endpoint(Some(web()), true));
    let other: SpiffeId = "spiffe://td/ns/shop/sa/other".parse().unwrap();
    let moved = endpoint(Some(other.clone()), true);
    let endpoints = BTreeMap::from([(ip("10.2.0.7"), moved.clone()), (ip("10.1.0.5"), moved)]);
    let slice = EndpointSlice { node: node("n3"), node_uid: "u3".into(), revision: 5, endpoints };
    view.handle(Event::Apply(Object::MeshEndpointSlice(slice))).unwrap();
    let desired = Desired::of(&view, &here);
    assert_eq!(desired.peers.keys().collect::<Vec<_>>(), [&PeerName { node: node("n3"), identity: other }]);
    assert_eq!(target(&desired, "10.1.0.5"), None);
}

#[test]
fn a_remote_nodes_own_address_is_for_enrolled_workloads_and_needs_its_key() {
    let own: SpiffeId = "spiffe://td/node/n2".parse().unwrap();
    let (mut view, mut here) = world(Mode::Permissive, Endpoint { mode: None, ..endpoint(Some(own.clone()), true) });
    let desired = Desired::of(&view, &here);
    assert!(!desired.routes.iter().any(|r| r.table == RouteTable::Nodes), "routed without a binding");
    here.keys.insert(PeerName { node: node("n2"), identity: own }, BTreeMap::from([(Epoch(1), [3; 32])]));
    let desired = Desired::of(&view, &here);
    assert!(desired.routes.iter().any(|r| r.table == RouteTable::Nodes && r.prefix == ip("10.2.0.7").into()));
    assert!(desired.filter.keyed.is_empty() && desired.filter.keyed_nodes.contains(&ip("10.2.0.7")));
    view.slices.clear();
    assert!(Desired::of(&view, &here).filter.keyed_nodes.is_empty());
}
