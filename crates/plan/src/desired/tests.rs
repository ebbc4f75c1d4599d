//! What a node is to look like, and what must never be wished for.

use policy::{Labels, Mode};
use proptest::prelude::*;

use super::*;
use crate::view::{Endpoint, EndpointSlice, Event, MeshNode, Node, Object, Phase};
use crate::world::{self, bound, ip, mesh_label, mesh_node, node};

fn web() -> SpiffeId {
    world::spiffe("web")
}

/// A pod of service account `web`.
fn pod(name: &str, on: &str) -> Pod {
    Pod { service_account: "web".to_owned(), ..world::pod(name, on) }
}

fn endpoint(identity: Option<SpiffeId>, enforced: bool) -> Endpoint {
    let mode = identity.as_ref().map(|_| EffectiveMode::default());
    Endpoint { identity, mode, enforced, namespace: "shop".into(), name: "b".into(), uid: "uid-b".into() }
}

fn in_phase(phase: Phase) -> Endpoint {
    let disabled = EffectiveMode { mode: Mode::Disable, ..EffectiveMode::default() };
    match phase {
        Phase::Outside => endpoint(None, true),
        Phase::Ready => Endpoint { mode: Some(disabled), ..endpoint(Some(web()), false) },
        Phase::Switched => endpoint(Some(web()), false),
        Phase::Enforced => endpoint(Some(web()), true),
    }
}

fn slice(on: &str, revision: u64, endpoints: impl IntoIterator<Item = (IpAddr, Endpoint)>) -> Event {
    let (node, node_uid) = (node(on), format!("uid-{on}"));
    let endpoints = endpoints.into_iter().collect();
    Event::Apply(Object::MeshEndpointSlice(EndpointSlice { node, node_uid, revision, endpoints }))
}

fn range(name: &str, cidr: &str) -> Event {
    let pod_cidrs = vec![cidr.parse().unwrap()];
    Event::Apply(Object::Node(Node {
        name: node(name),
        uid: String::new(),
        labels: Labels::new(),
        pod_cidrs,
        addresses: vec![],
    }))
}

/// Node n1 with pod a (10.1.0.5) attached, node n2 with 10.2.0.7 as the slice says.
fn world(mode: Mode, remote: Endpoint) -> (ClusterView, Here) {
    let mut view = ClusterView::default();
    let report = MeshNode { endpoints: vec!["192.0.2.2:51840".parse().unwrap()], ..mesh_node("n2") };
    for event in [
        Event::Apply(world::namespace("enabled")),
        Event::Apply(Object::PeerAuthentication(world::policy(None, Some(mode)))),
        range("n1", "10.1.0.0/16"),
        range("n2", "10.2.0.0/16"),
        Event::Apply(Object::MeshNode(Box::new(report))),
        slice("n2", 4, [(ip("10.2.0.7"), remote)]),
    ] {
        view.handle(event).unwrap();
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
        root_namespace: world::ROOT.into(),
        addresses: BTreeSet::from([ip("192.0.2.1")]),
        attachments: vec![attachment],
        keys: BTreeMap::from([(peer, BTreeMap::from([(Epoch(1), bound([9; 32]))]))]).into(),
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
    here.keys = Arc::default();
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

/// What the node does for its own workload, for everything its manifests, the controller and its past can say.
#[test]
fn a_local_workload_follows_its_manifests_its_published_phase_and_its_past() {
    use Phase::{Enforced, Outside, Ready, Switched};
    // member by manifests, patient, published; then: takes the tunnel, sends by it, refuses clear text, patient after
    for (member, patient, published, [takes, sends, refuses, patient_after]) in [
        (true, false, None, [true, true, true, false]),
        (true, false, Some(Outside), [true, true, true, false]),
        (true, false, Some(Ready), [true, true, true, false]),
        (true, false, Some(Switched), [true, true, true, false]),
        (true, false, Some(Enforced), [true, true, true, false]),
        (true, true, None, [true, false, false, true]),
        (true, true, Some(Outside), [true, false, false, true]),
        (true, true, Some(Ready), [true, false, false, true]),
        (true, true, Some(Switched), [true, true, false, true]),
        (true, true, Some(Enforced), [true, true, true, false]),
        (false, false, None, [false, false, false, true]),
        (false, false, Some(Outside), [false, false, false, true]),
        (false, false, Some(Ready), [true, false, false, true]),
        (false, false, Some(Switched), [true, true, false, false]),
        (false, false, Some(Enforced), [true, true, false, false]),
        (false, true, None, [false, false, false, true]),
        (false, true, Some(Outside), [false, false, false, true]),
        (false, true, Some(Ready), [true, false, false, true]),
        (false, true, Some(Switched), [true, true, false, true]),
        (false, true, Some(Enforced), [true, true, false, true]),
    ] {
        let (mut view, mut here) = world(Mode::Strict, endpoint(None, true));
        view.handle(Event::Apply(world::namespace(if member { "enabled" } else { "disabled" }))).unwrap();
        here.attachments[0].patient = patient;
        if let Some(phase) = published {
            let own = Endpoint { uid: "uid-a".into(), ..in_phase(phase) };
            view.handle(slice("n1", 9, [(ip("10.1.0.5"), own)])).unwrap();
        }
        let desired = Desired::of(&view, &here);
        let (own, filter) = (ip("10.1.0.5"), &desired.filter);
        let found = [
            desired.locals.get(&web()).is_some_and(|local| local.addresses.contains(&own)),
            filter.pins["veth0"].enrolled,
            filter.strict.contains(&own),
            Standing::of(&view, &here, &here.attachments[0]).is_patient_after(),
        ];
        assert_eq!(found, [takes, sends, refuses, patient_after], "{member} {patient} {published:?}");
        assert_eq!(filter.enrolled.contains(&own), sends);
        assert_eq!(filter.enrolled_enforced.contains(&own), refuses);
        assert!(filter.local.contains(&own) && filter.pins["veth0"].addresses.contains(&own));
    }
}

#[test]
fn what_is_published_of_a_former_holder_of_the_address_counts_for_nothing() {
    let (mut view, mut here) = world(Mode::Strict, endpoint(None, true));
    here.attachments[0].patient = true;
    let former = Endpoint { uid: "former".into(), ..in_phase(Phase::Enforced) };
    view.handle(slice("n1", 9, [(ip("10.1.0.5"), former)])).unwrap();
    let standing = Standing::of(&view, &here, &here.attachments[0]);
    assert_eq!((standing.phase, standing.is_switched), (None, false));
}

/// PL-11: a slice that is gone, or that a controller publishes wrongly, opens nothing that manifests hold closed.
#[test]
fn pl_11_nothing_published_opens_a_strict_workload_that_was_enforced() {
    for published in [None, Some(Phase::Outside), Some(Phase::Ready), Some(Phase::Switched)] {
        let (mut view, here) = world(Mode::Strict, endpoint(None, true));
        let own = published.map(|phase| (ip("10.1.0.5"), Endpoint { uid: "uid-a".into(), ..in_phase(phase) }));
        view.handle(slice("n1", 9, own)).unwrap();
        assert!(Desired::of(&view, &here).filter.strict.contains(&ip("10.1.0.5")), "{published:?}");
    }
}

#[test]
fn a_remote_workload_follows_its_phase() {
    use Phase::{Enforced, Outside, Ready, Switched};
    for (phase, [peer, clear, keyed, refused]) in [
        (Outside, [false, true, false, false]),
        (Ready, [true, true, false, false]),
        (Switched, [true, false, true, false]),
        (Enforced, [true, false, true, true]),
    ] {
        let (view, here) = world(Mode::Permissive, in_phase(phase));
        let (desired, there) = (Desired::of(&view, &here), ip("10.2.0.7"));
        let filter = &desired.filter;
        let found = [
            desired.peers.values().any(|peer| peer.addresses.contains(&there) && !peer.keys.is_empty()),
            filter.clear.contains(&there),
            filter.keyed.contains(&there),
            filter.keyed_enforced.contains(&there),
        ];
        assert_eq!(found, [peer, clear, keyed, refused], "{phase:?}");
        let expected = if keyed { RouteTarget::Mesh } else { RouteTarget::Main };
        assert_eq!(target(&desired, "10.2.0.7"), Some(expected), "{phase:?}");
    }
}

#[test]
fn a_node_that_was_rebuilt_has_no_keys_for_what_was_there_before() {
    let (mut view, here) = world(Mode::Permissive, endpoint(Some(web()), true));
    let rebuilt = MeshNode { uid: "rebuilt".into(), ..mesh_node("n2") };
    view.handle(Event::Apply(Object::MeshNode(Box::new(rebuilt)))).unwrap();
    let desired = Desired::of(&view, &here);
    assert!(desired.peers.values().all(|peer| peer.keys.is_empty()));
    assert_eq!(target(&desired, "10.2.0.7"), Some(RouteTarget::Mesh), "closed, not clear");
}

#[test]
fn of_two_attachments_with_one_address_the_younger_has_it() {
    let (view, mut here) = world(Mode::Permissive, endpoint(None, true));
    let mut younger = here.attachments[0].clone();
    younger.link = "veth1".into();
    younger.pod = Some(Pod { service_account: "other".into(), ..pod("c", "n1") });
    here.attachments.push(younger);
    let desired = Desired::of(&view, &here);
    assert!(desired.filter.pins["veth0"].addresses.is_empty());
    assert_eq!(desired.filter.pins["veth1"].addresses, BTreeSet::from([ip("10.1.0.5")]));
    assert!(desired.locals[&web()].addresses.is_empty(), "two identities would share an address");
    assert_eq!(desired.locals[&world::spiffe("other")].addresses, BTreeSet::from([ip("10.1.0.5")]));
}

#[test]
fn a_workload_does_not_get_the_nodes_own_address() {
    let (view, mut here) = world(Mode::Permissive, endpoint(None, true));
    here.attachments[0].ips.insert(ip("192.0.2.1"));
    let desired = Desired::of(&view, &here);
    assert_eq!(desired.locals[&web()].addresses, BTreeSet::from([ip("10.1.0.5")]));
    assert_eq!(desired.filter.pins["veth0"].addresses, BTreeSet::from([ip("10.1.0.5")]));
}

#[test]
fn a_range_that_swallows_this_nodes_workloads_or_a_nodes_address_does_not_capture_them() {
    let (mut view, here) = world(Mode::Permissive, endpoint(Some(web()), true));
    let swallowing = Node {
        labels: Labels::new(),
        name: node("n2"),
        uid: String::new(),
        pod_cidrs: vec!["10.0.0.0/8".parse().unwrap(), "192.0.2.0/24".parse().unwrap()],
        addresses: vec![ip("192.0.2.2")],
    };
    view.handle(Event::Apply(Object::Node(swallowing))).unwrap();
    let desired = Desired::of(&view, &here);
    assert_eq!(target(&desired, "10.1.0.5"), Some(RouteTarget::Main));
    assert_eq!(target(&desired, "192.0.2.2"), Some(RouteTarget::Main));
    assert_eq!(target(&desired, "10.2.0.7"), Some(RouteTarget::Mesh));
    assert!(!desired.filter.clear.contains(&ip("192.0.2.2")), "a node cannot open an address by naming it its own");
    let ranges: Vec<String> = desired.filter.pod_cidrs.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["10.0.0.0/8", "192.0.2.0/24"], "no two overlap");
}

#[test]
fn a_range_that_cannot_be_one_leads_nothing_astray() {
    for wrong in ["0.0.0.0/0", "::/0", "10.0.0.0/7", "127.0.0.0/8", "224.0.0.0/8", "fe80::/64", "ff00::/16", "2000::/3"]
    {
        let (mut view, here) = world(Mode::Permissive, endpoint(None, true));
        view.handle(range("n2", wrong)).unwrap();
        let desired = Desired::of(&view, &here);
        assert_eq!(desired.routes.len(), 1, "{wrong}: {:?}", desired.routes);
        assert_eq!(desired.filter.pod_cidrs.len(), 1, "{wrong}");
    }
}

#[test]
fn a_range_of_one_address_and_that_address_have_one_route() {
    let (mut view, here) = world(Mode::Permissive, endpoint(None, true));
    view.handle(range("n2", "10.2.0.7/32")).unwrap();
    let desired = Desired::of(&view, &here);
    assert_eq!(desired.routes.len(), 1);
    assert_eq!(target(&desired, "10.2.0.7"), Some(RouteTarget::Main));
}

#[test]
fn a_range_that_holds_the_underlay_is_not_taken_for_pods_only() {
    let (mut view, mut here) = world(Mode::Permissive, endpoint(None, true));
    assert_eq!(Desired::of(&view, &here).filter.own_ranges.len(), 1);
    here.addresses.insert(ip("10.1.0.1"));
    assert_eq!(Desired::of(&view, &here).filter.own_ranges.len(), 0);
    view.handle(range("n1", "10.3.0.0/16")).unwrap();
    assert_eq!(Desired::of(&view, &here).filter.own_ranges.len(), 1);
}

#[test]
fn a_pods_status_speaks_only_where_no_slice_does_and_never_into_another_nodes_range() {
    let mut outside = pod("c", "n3");
    outside.labels.extend(mesh_label("disabled"));
    outside.ips = BTreeSet::from([ip("10.3.0.9"), ip("10.2.0.9"), ip("10.2.0.7"), ip("10.1.0.5"), ip("127.0.0.1")]);
    let (mut view, here) = world(Mode::Permissive, endpoint(Some(web()), true));
    view.handle(Event::Apply(Object::Pod(outside.clone()))).unwrap();
    assert_eq!(Desired::of(&view, &here).filter.clear, BTreeSet::from([ip("10.3.0.9")]));
    let mut enrolled = pod("d", "n4");
    enrolled.ips = BTreeSet::from([ip("10.3.0.9")]);
    view.handle(Event::Apply(Object::Pod(enrolled))).unwrap();
    let desired = Desired::of(&view, &here);
    assert!(desired.filter.clear.is_empty(), "somebody in the mesh says that it is his");
    assert!(desired.filter.pod_cidrs.contains(&ip("10.3.0.9").into()), "so it is waited for");
    view.handle(slice("n3", 5, [])).unwrap();
    assert!(Desired::of(&view, &here).filter.clear.is_empty(), "the controller speaks for n3 and says nothing of it");
}

#[test]
fn mf_07_a_member_whose_attachment_was_lost_is_closed_and_has_no_identity_here() {
    let (mut view, mut here) = world(Mode::Strict, endpoint(None, true));
    let lost = Pod { ips: BTreeSet::from([ip("10.1.0.5"), ip("10.2.0.9")]), ..pod("a", "n1") };
    view.handle(Event::Apply(Object::Pod(lost))).unwrap();
    here.attachments.clear();
    let desired = Desired::of(&view, &here);
    let closed = BTreeSet::from([ip("10.1.0.5")]);
    assert_eq!((&desired.filter.strict, &desired.filter.enrolled), (&closed, &closed), "and not in another's range");
    assert!(desired.filter.pins.is_empty() && !desired.locals.contains_key(&web()));
    assert!(!desired.filter.local.contains(&ip("10.1.0.5")), "what it sends counts as coming from nowhere");
}

#[test]
fn f11_port_exceptions_both_ways() {
    let (mut view, here) = world(Mode::Strict, endpoint(None, true));
    let mut workload = view.peer_authentications[&("shop".to_owned(), "default".to_owned())].clone();
    workload.name = "web".into();
    workload.selector = world::policy(Some("a"), None).selector;
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
    view.handle(slice("n3", 5, [(ip("10.2.0.7"), moved.clone()), (ip("10.1.0.5"), moved)])).unwrap();
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
    Arc::make_mut(&mut here.keys)
        .insert(PeerName { node: node("n2"), identity: own }, BTreeMap::from([(Epoch(1), bound([3; 32]))]));
    let desired = Desired::of(&view, &here);
    assert!(desired.routes.iter().any(|r| r.table == RouteTable::Nodes && r.prefix == ip("10.2.0.7").into()));
    assert!(desired.filter.keyed.is_empty() && desired.filter.keyed_nodes.contains(&ip("10.2.0.7")));
    view.slices.clear();
    assert!(Desired::of(&view, &here).filter.keyed_nodes.is_empty());
}

/// One remote address as two slices may have it, and whether its pod is known.
fn phases() -> impl Strategy<Value = Option<Phase>> {
    prop_oneof![
        Just(None),
        Just(Some(Phase::Outside)),
        Just(Some(Phase::Ready)),
        Just(Some(Phase::Switched)),
        Just(Some(Phase::Enforced)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whatever is published: an address is keyed or clear and not both; keyed ones are led into the mesh and belong to
    /// one peer; enforced ones are keyed; local ones are none of it; a prefix has one target.
    #[test]
    fn a_wish_does_not_contradict_itself(
        second in proptest::collection::vec(phases(), 6),
        third in proptest::collection::vec(phases(), 6),
        newer in any::<bool>(),
        patient in any::<bool>(),
        member in any::<bool>(),
    ) {
        let (mut view, mut here) = world(Mode::Strict, endpoint(None, true));
        view.handle(Event::Apply(world::namespace(if member { "enabled" } else { "disabled" }))).unwrap();
        here.attachments[0].patient = patient;
        let addresses = ["10.2.0.7", "10.2.0.8", "10.3.0.7", "198.51.100.7", "10.1.0.5", "192.0.2.1"].map(ip);
        let said = |phases: &[Option<Phase>]| -> Vec<(IpAddr, Endpoint)> {
            addresses.iter().zip(phases).filter_map(|(ip, phase)| Some((*ip, in_phase((*phase)?)))).collect()
        };
        view.handle(slice("n2", 10, said(&second))).unwrap();
        view.handle(slice("n3", if newer { 11 } else { 9 }, said(&third))).unwrap();
        let desired = Desired::of(&view, &here);
        let filter = &desired.filter;
        let mesh: BTreeSet<IpNet> =
            desired.routes.iter().filter(|r| r.target == RouteTarget::Mesh).map(|r| r.prefix).collect();
        for address in addresses {
            let keyed = filter.keyed.contains(&address);
            prop_assert!(!(keyed && filter.clear.contains(&address)), "{address} is keyed and clear");
            prop_assert_eq!(keyed, mesh.contains(&address.into()), "{}", address);
            let peers = desired.peers.values().filter(|peer| peer.addresses.contains(&address)).count();
            prop_assert!(peers <= 1 && (!keyed || peers == 1), "{address} has {peers} peers");
            prop_assert!(keyed || !filter.keyed_enforced.contains(&address));
        }
        for local in ["10.1.0.5", "192.0.2.1"].map(ip) {
            prop_assert!(!mesh.contains(&local.into()) && !filter.clear.contains(&local));
            prop_assert!(desired.peers.values().all(|peer| !peer.addresses.contains(&local)));
        }
        prop_assert!(filter.strict.is_subset(&filter.enrolled_enforced));
        prop_assert!(filter.enrolled_enforced.is_subset(&filter.enrolled) && filter.enrolled.is_subset(&filter.local));
        let prefixes: BTreeSet<_> = desired.routes.iter().map(|route| (route.table, route.prefix)).collect();
        prop_assert_eq!(prefixes.len(), desired.routes.len());
    }
}
