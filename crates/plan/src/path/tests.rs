//! The sender-by-receiver matrix, spoofed and stray packets, and changes that lose nothing and leak nothing.

use policy::{Mode, Outbound};
use proptest::prelude::*;

use super::*;
use crate::desired::Route;
use crate::view::{Object, Phase};
use crate::world::{Cluster, ip, mesh_label, namespace, node, pod, policy, spiffe};

/// How a pod of the matrix is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setup {
    NotEnrolled,
    Is(Mode),
    RequireMesh,
}

use Setup::{Is, NotEnrolled, RequireMesh};

fn set_up(cluster: &mut Cluster, on: &str, name: &str, address: &str, setup: Setup) {
    let mut it = pod(name, on);
    it.labels.extend(mesh_label(if setup == NotEnrolled { "disabled" } else { "enabled" }));
    let mut auth = policy(Some(name), None);
    match setup {
        NotEnrolled => {}
        Is(mode) => auth.mode = Some(mode),
        RequireMesh => auth.outbound = Some(Outbound::RequireMesh),
    }
    cluster.apply(Object::PeerAuthentication(auth));
    cluster.attach(on, it, address);
}

fn world(sender: Setup, receiver: Setup, on: &str) -> Cluster {
    let mut cluster = Cluster::new(2);
    set_up(&mut cluster, "n1", "a", "10.1.0.5", sender);
    let address = if on == "n1" { "10.1.0.7" } else { "10.2.0.7" };
    set_up(&mut cluster, on, "b", address, receiver);
    cluster.settle();
    cluster
}

fn tunnel(from: &str, to: &str, on: &str) -> Fate {
    Fate::Tunnel { from: spiffe(from), to: PeerName { node: node(on), identity: spiffe(to) } }
}

fn drop(cause: Cause) -> Fate {
    Fate::Dropped(cause)
}

#[test]
fn f8_f9_f10_the_whole_matrix_between_nodes() {
    let tunnel = || tunnel("a", "b", "n2");
    for (sender, receiver, expected) in [
        (Is(Mode::Permissive), NotEnrolled, Fate::Clear),
        (Is(Mode::Permissive), Is(Mode::Disable), Fate::Clear),
        (Is(Mode::Permissive), Is(Mode::Permissive), tunnel()),
        (Is(Mode::Permissive), Is(Mode::Strict), tunnel()),
        (Is(Mode::Strict), NotEnrolled, Fate::Clear),
        (Is(Mode::Strict), Is(Mode::Disable), Fate::Clear),
        (Is(Mode::Strict), Is(Mode::Permissive), tunnel()),
        (Is(Mode::Strict), Is(Mode::Strict), tunnel()),
        (RequireMesh, NotEnrolled, drop(Cause::RequireMesh)),
        (RequireMesh, Is(Mode::Disable), drop(Cause::RequireMesh)),
        (RequireMesh, Is(Mode::Permissive), tunnel()),
        (RequireMesh, Is(Mode::Strict), tunnel()),
        (NotEnrolled, NotEnrolled, Fate::Clear),
        (NotEnrolled, Is(Mode::Disable), Fate::Clear),
        (NotEnrolled, Is(Mode::Permissive), Fate::Clear),
        (NotEnrolled, Is(Mode::Strict), drop(Cause::PlaintextDenied)),
        (Is(Mode::Disable), Is(Mode::Permissive), Fate::Clear),
        (Is(Mode::Disable), Is(Mode::Strict), drop(Cause::PlaintextDenied)),
    ] {
        let cluster = world(sender, receiver, "n2");
        assert_eq!(cluster.fate("a", "b", None, false), expected, "{sender:?} to {receiver:?}");
    }
}

#[test]
fn f8_f9_f10_the_whole_matrix_on_one_node() {
    let modes = [NotEnrolled, Is(Mode::Disable), Is(Mode::Permissive), Is(Mode::Strict)];
    for sender in [NotEnrolled, Is(Mode::Disable), Is(Mode::Permissive), Is(Mode::Strict), RequireMesh] {
        for receiver in modes {
            let cluster = world(sender, receiver, "n1");
            let is_in = |setup| !matches!(setup, NotEnrolled | Is(Mode::Disable));
            let expected = match (is_in(sender), is_in(receiver)) {
                (true, true) => Fate::Local,
                (true, false) if sender == RequireMesh => drop(Cause::RequireMesh),
                (false, true) if receiver == Is(Mode::Strict) => drop(Cause::PlaintextDenied),
                _ => Fate::Clear,
            };
            assert_eq!(cluster.fate("a", "b", None, false), expected, "{sender:?} to {receiver:?}");
        }
    }
}

#[test]
fn replies_pass_where_the_connection_was_let_through_and_die_where_it_no_longer_is() {
    // an enrolled pod asked a stranger: the answer comes in clear
    let cluster = world(NotEnrolled, Is(Mode::Strict), "n2");
    assert_eq!(cluster.fate("a", "b", None, true), Fate::Clear);
    // a stranger had asked a pod that is STRICT now: the answer does not leave
    let cluster = world(Is(Mode::Strict), NotEnrolled, "n2");
    assert_eq!(cluster.fate("a", "b", None, true), drop(Cause::PlaintextDenied));
    // RequireMesh is about what a pod begins
    let cluster = world(RequireMesh, NotEnrolled, "n2");
    assert_eq!(cluster.fate("a", "b", None, true), Fate::Clear);
}

#[test]
fn f11_ports_with_a_mode_of_their_own() {
    for (mode, port_mode, at_port, elsewhere) in [
        (Mode::Strict, Mode::Permissive, Fate::Clear, drop(Cause::PlaintextDenied)),
        (Mode::Strict, Mode::Disable, Fate::Clear, drop(Cause::PlaintextDenied)),
        (Mode::Permissive, Mode::Strict, drop(Cause::PlaintextDenied), Fate::Clear),
        (Mode::Disable, Mode::Strict, drop(Cause::PlaintextDenied), Fate::Clear),
    ] {
        let mut cluster = world(NotEnrolled, Is(mode), "n2");
        let mut auth = policy(Some("b"), Some(mode));
        auth.ports.insert(443, Some(port_mode));
        cluster.apply(Object::PeerAuthentication(auth));
        cluster.settle();
        let at = |destination| Some(Ports { source: 40_000, destination });
        assert_eq!(cluster.fate("a", "b", at(443), false), at_port, "{mode:?} {port_mode:?}");
        assert_eq!(cluster.fate("a", "b", at(80), false), elsewhere, "{mode:?} {port_mode:?}");
        let without_ports = cluster.fate("a", "b", None, false);
        assert_eq!(without_ports, elsewhere, "a protocol without ports has no exception");
    }
}

fn packet(origin: Origin, source: &str, destination: &str) -> Packet {
    Packet { source: ip(source), destination: ip(destination), ports: None, is_reply: false, origin }
}

/// ID-01 to ID-03: another local pod's, a remote pod's, a node's address.
#[test]
fn id_01_02_03_a_spoofed_source_does_not_leave_its_link() {
    let cluster = world(Is(Mode::Permissive), Is(Mode::Strict), "n2");
    for source in ["10.1.0.6", "10.2.0.7", "192.0.2.1", "192.0.2.2", "2001:db8::1"] {
        let forged = packet(Origin::Link("veth-a".to_owned()), source, "10.2.0.7");
        assert_eq!(follow(cluster.site("n1"), cluster.site("n2"), &forged), drop(Cause::SpoofedSource), "{source}");
    }
}

#[test]
fn clear_text_in_the_name_of_who_has_a_key_is_refused() {
    let cluster = world(Is(Mode::Permissive), Is(Mode::Permissive), "n2");
    let forged = packet(Origin::Stranger, "10.1.0.5", "10.2.0.7");
    assert_eq!(follow(cluster.site("n2"), cluster.site("n2"), &forged), drop(Cause::PlaintextFromKeyed));
    let stranger = packet(Origin::Stranger, "198.51.100.1", "10.2.0.7");
    assert_eq!(follow(cluster.site("n2"), cluster.site("n2"), &stranger), Fate::Clear);
}

/// PL-03: the pod runs and sends, its ADD has not come to us.
#[test]
fn pl_03_a_pod_that_is_not_pinned_yet_reaches_nobody_who_has_a_key() {
    let mut cluster = world(Is(Mode::Permissive), Is(Mode::Permissive), "n2");
    let early = |to| packet(Origin::Stranger, "10.1.0.9", to);
    let fate = |cluster: &Cluster, to| follow(cluster.site("n1"), cluster.site("n2"), &early(to));
    assert_eq!(fate(&cluster, "10.2.0.7"), drop(Cause::NotLocalSource), "led into the mesh, where nobody is it");
    assert_eq!(fate(&cluster, "10.2.0.99"), drop(Cause::NotLocalSource), "nobody has spoken for it");
    assert_eq!(fate(&cluster, "198.51.100.1"), Fate::Clear);
    cluster.nodes.get_mut(&node("n1")).unwrap().desired.routes.clear();
    assert_eq!(fate(&cluster, "10.2.0.7"), drop(Cause::Unpinned), "the routes are lost, the filter is not");
    assert_eq!(fate(&cluster, "10.2.0.99"), drop(Cause::Unpinned));
    assert_eq!(fate(&cluster, "198.51.100.1"), Fate::Clear);
    let filter = &mut cluster.nodes.get_mut(&node("n1")).unwrap().desired.filter;
    filter.guarded_ranges.clone_from(&filter.own_ranges);
    assert_eq!(fate(&cluster, "198.51.100.1"), drop(Cause::Unpinned), "S4: where there are policies, nobody at all");
}

/// T12: somebody flushed the filter, pins and marks with it.
#[test]
fn t12_without_filter_a_members_packets_still_lead_into_the_mesh() {
    let mut cluster = world(Is(Mode::Permissive), Is(Mode::Permissive), "n2");
    let kept = cluster.nodes[&node("n1")].desired.filter.clone();
    cluster.nodes.get_mut(&node("n1")).unwrap().desired.filter = Filter::default();
    assert_eq!(cluster.fate("a", "b", None, false), tunnel("a", "b", "n2"));
    let me = cluster.nodes.get_mut(&node("n1")).unwrap();
    (me.desired.filter, me.desired.routes) = (kept, std::collections::BTreeSet::new());
    assert_eq!(cluster.fate("a", "b", None, false), drop(Cause::DowngradePrevented));
}

#[test]
fn pl_13_nobody_has_spoken_for_an_address_means_not_in_clear() {
    let mut cluster = world(Is(Mode::Permissive), NotEnrolled, "n2");
    let to = |cluster: &Cluster, to: &str| {
        let packet = packet(Origin::Link("veth-a".to_owned()), "10.1.0.5", to);
        follow(cluster.site("n1"), cluster.site("n2"), &packet)
    };
    assert_eq!(to(&cluster, "10.2.0.7"), Fate::Clear);
    assert_eq!(to(&cluster, "10.2.0.99"), drop(Cause::UnknownDestination));
    // the pod is gone from its node, its object lingers: whoever gets the address next is not spoken to in clear
    cluster.detach("n2", "b");
    cluster.settle();
    assert_eq!(to(&cluster, "10.2.0.7"), drop(Cause::UnknownDestination));
    set_up(&mut cluster, "n2", "c", "10.2.0.7", Is(Mode::Permissive));
    cluster.settle();
    assert_eq!(to(&cluster, "10.2.0.7"), tunnel("a", "c", "n2"));
}

#[test]
fn pl_15_a_node_that_is_gone_does_not_open_its_pods() {
    let mut cluster = world(Is(Mode::Permissive), Is(Mode::Permissive), "n2");
    let mut gone = pod("b", "n2");
    gone.labels.extend(mesh_label("enabled"));
    gone.ips.insert(ip("10.2.0.7"));
    cluster.apply(Object::Pod(gone));
    cluster.delete("Node", "", "n2");
    let view = &mut cluster.nodes.get_mut(&node("n1")).unwrap().view;
    for key in ["MeshNode", "MeshEndpointSlice"] {
        let key = crate::view::ObjectKey { kind: key, namespace: String::new(), name: "n2".to_owned() };
        view.handle(crate::view::Event::Delete(key)).unwrap();
    }
    cluster.node_reads("n1", 1_000);
    assert_eq!(cluster.fate("a", "b", None, false), drop(Cause::UnknownDestination));
}

#[test]
fn f2_a_withdrawn_binding_stops_traffic_and_does_not_open_it() {
    let mut cluster = world(Is(Mode::Permissive), Is(Mode::Permissive), "n2");
    cluster.revoked.insert(spiffe("b"));
    cluster.settle();
    assert_eq!(cluster.fate("a", "b", None, false), drop(Cause::NoBinding));
    assert_eq!(cluster.fate("b", "a", None, false), drop(Cause::NoBinding));
    cluster.revoked.clear();
    cluster.settle();
    assert_eq!(cluster.fate("a", "b", None, false), tunnel("a", "b", "n2"));
}

#[test]
fn f3_inside_its_own_tunnel_a_node_speaks_for_its_own_addresses_only() {
    let mut cluster = Cluster::new(3);
    for (on, name, address) in [("n1", "a", "10.1.0.5"), ("n2", "b", "10.2.0.7"), ("n3", "c", "10.3.0.9")] {
        set_up(&mut cluster, on, name, address, Is(Mode::Permissive));
    }
    cluster.settle();
    // n3 is compromised: it takes b's address for one of c's, and its pin allows it
    let mut evil = cluster.nodes[&node("n3")].desired.clone();
    evil.locals.get_mut(&spiffe("c")).unwrap().addresses.insert(ip("10.2.0.7"));
    evil.filter.pins.get_mut("veth-c").unwrap().addresses.insert(ip("10.2.0.7"));
    let (n3, forged) = (node("n3"), packet(Origin::Link("veth-c".to_owned()), "10.2.0.7", "10.1.0.5"));
    let fate = follow(Site { node: &n3, desired: &evil }, cluster.site("n1"), &forged);
    assert_eq!(fate, drop(Cause::SourceMismatch));
}

#[test]
fn a_nodes_own_processes_reach_remote_workloads_by_the_mesh_only() {
    let mut cluster = world(Is(Mode::Permissive), Is(Mode::Strict), "n2");
    let probe = packet(Origin::Host, "192.0.2.1", "10.2.0.7");
    let by_node = Fate::Tunnel {
        from: "spiffe://td/node/n1".parse().unwrap(),
        to: PeerName { node: node("n2"), identity: spiffe("b") },
    };
    assert_eq!(follow(cluster.site("n1"), cluster.site("n2"), &probe), by_node);
    let routes = &mut cluster.nodes.get_mut(&node("n1")).unwrap().desired.routes;
    routes.retain(|route| route.prefix != ip("10.2.0.7").into() && route.prefix.prefix_len() == 32);
    let without = follow(cluster.site("n1"), cluster.site("n2"), &probe);
    assert_eq!(without, drop(Cause::DowngradePrevented), "the route is lost, the filter is not");
}

#[test]
fn an_enrolled_pod_and_a_remote_node_talk_by_the_mesh_both_ways() {
    let cluster = world(Is(Mode::Permissive), Is(Mode::Permissive), "n2");
    let n2: SpiffeId = "spiffe://td/node/n2".parse().unwrap();
    let there = packet(Origin::Link("veth-a".to_owned()), "10.1.0.5", "192.0.2.2");
    let to = PeerName { node: node("n2"), identity: n2.clone() };
    let fate = follow(cluster.site("n1"), cluster.site("n2"), &there);
    assert_eq!(fate, Fate::Tunnel { from: spiffe("a"), to });
    let back = packet(Origin::Host, "192.0.2.2", "10.1.0.5");
    let fate = follow(cluster.site("n2"), cluster.site("n1"), &back);
    assert_eq!(fate, Fate::Tunnel { from: n2, to: PeerName { node: node("n1"), identity: spiffe("a") } });
    let unenrolled = world(NotEnrolled, NotEnrolled, "n2");
    assert_eq!(follow(unenrolled.site("n1"), unenrolled.site("n2"), &there), Fate::Clear);
}

#[test]
fn a_lost_route_is_a_pause_and_not_clear_text() {
    let mut cluster = world(Is(Mode::Permissive), Is(Mode::Permissive), "n2");
    let me = cluster.nodes.get_mut(&node("n1")).unwrap();
    me.desired.routes.clear();
    assert_eq!(cluster.fate("a", "b", None, false), drop(Cause::DowngradePrevented));
    let prefix = ip("10.2.0.7").into();
    let out = Route { table: RouteTable::Pods, prefix, target: RouteTarget::Main };
    cluster.nodes.get_mut(&node("n1")).unwrap().desired.routes.insert(out);
    assert_eq!(cluster.fate("a", "b", None, false), drop(Cause::DowngradePrevented));
}

/// One thing that happens in a changing cluster.
#[derive(Clone, Debug)]
enum Happening {
    Namespace(bool),
    Pod(usize, bool),
    Mode(Option<Mode>),
    Controller(usize),
    Node(usize, usize),
}

fn happening() -> impl Strategy<Value = Happening> {
    let mode =
        prop_oneof![Just(None), Just(Some(Mode::Permissive)), Just(Some(Mode::Strict)), Just(Some(Mode::Disable))];
    prop_oneof![
        1 => any::<bool>().prop_map(Happening::Namespace),
        1 => (0_usize..4, any::<bool>()).prop_map(|(pod, on)| Happening::Pod(pod, on)),
        1 => mode.prop_map(Happening::Mode),
        6 => (1_usize..6).prop_map(Happening::Controller),
        12 => (0_usize..3, 1_usize..6).prop_map(|(node, count)| Happening::Node(node, count)),
    ]
}

const PODS: [(&str, &str, &str); 4] =
    [("n1", "a", "10.1.0.5"), ("n2", "b", "10.2.0.7"), ("n3", "c", "10.3.0.9"), ("n1", "d", "10.1.0.6")];

fn crowd(mesh: &str) -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.apply(namespace(mesh));
    cluster.settle();
    for (on, name, address) in PODS {
        cluster.attach(on, pod(name, on), address);
    }
    cluster.settle();
    cluster
}

fn pairs() -> impl Iterator<Item = (&'static str, &'static str)> {
    PODS.iter().flat_map(|(_, from, _)| PODS.iter().map(move |(_, to, _)| (*from, *to))).filter(|(from, to)| from != to)
}

/// The phase of a pod's address as a node has it.
fn phase(cluster: &Cluster, at: &str, pod: &str) -> Phase {
    let (on, _, address) = PODS.iter().find(|(_, name, _)| *name == pod).unwrap();
    let slice = cluster.nodes[&node(at)].view.slices.get(&node(on));
    slice.and_then(|slice| slice.endpoints.get(&ip(address))).map_or(Phase::Outside, crate::view::Endpoint::phase)
}

/// What holds at every moment, whoever knows what: two pods that all three nodes know to be in the mesh never exchange
/// clear text, and no two nodes are further apart than one phase.
fn check_no_leak(cluster: &Cluster) -> Result<(), TestCaseError> {
    for (on, name, _) in PODS {
        let phases = ["n1", "n2", "n3"].map(|at| phase(cluster, at, name));
        let (low, high) = (phases.iter().min().unwrap(), phases.iter().max().unwrap());
        prop_assert!(*high as u8 - *low as u8 <= 1, "{name} on {on}: {phases:?}");
    }
    for (from, to) in pairs() {
        let known = |pod| ["n1", "n2", "n3"].iter().all(|at| phase(cluster, at, pod) >= Phase::Switched);
        if known(from) && known(to) {
            let fate = cluster.fate(from, to, None, false);
            prop_assert!(matches!(fate, Fate::Tunnel { .. } | Fate::Local), "{from} to {to}: {fate:?}");
        }
    }
    Ok(())
}

fn happen(cluster: &mut Cluster, happening: &Happening) {
    let word = |on: bool| if on { "enabled" } else { "disabled" };
    match happening {
        Happening::Namespace(on) => cluster.apply(namespace(word(*on))),
        Happening::Pod(index, on) => {
            let (node, name, _) = PODS[*index];
            let mut it = pod(name, node);
            it.labels.extend(mesh_label(word(*on)));
            cluster.apply(Object::Pod(it));
        }
        Happening::Mode(mode) => cluster.apply(Object::PeerAuthentication(policy(None, *mode))),
        Happening::Controller(count) => cluster.controller_reads(*count),
        Happening::Node(index, count) => cluster.node_reads(["n1", "n2", "n3"][*index], *count),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// PL-10: whatever is relabelled and whoever lags behind, nothing leaks, and it comes to rest as the manifests say.
    #[test]
    fn pl_10_whatever_changes_nothing_leaks(happenings in proptest::collection::vec(happening(), 1..120)) {
        let mut cluster = crowd("disabled");
        for it in &happenings {
            happen(&mut cluster, it);
            check_no_leak(&cluster)?;
        }
        cluster.settle();
        check_no_leak(&cluster)?;
        let (view, here) = { let n1 = &cluster.nodes[&node("n1")]; (&n1.view, &n1.here) };
        for (from, to) in pairs() {
            let member = |name: &str| {
                let key = ("shop".to_owned(), name.to_owned());
                Desired::membership(view, here, &view.pods[&key]).map(|(_, mode)| mode.mode)
            };
            let fate = cluster.fate(from, to, None, false);
            match (member(from), member(to)) {
                (Some(_), Some(_)) => prop_assert!(matches!(fate, Fate::Tunnel { .. } | Fate::Local), "{fate:?}"),
                (None, Some(Mode::Strict)) => prop_assert_eq!(fate, drop(Cause::PlaintextDenied)),
                _ => prop_assert_eq!(fate, Fate::Clear),
            }
        }
    }

    /// The whole namespace goes into the mesh or out of it, STRICT or not, while the nodes learn of it in any order:
    /// no packet of any pair is lost in either direction.
    #[test]
    fn f12_a_namespace_goes_in_and_out_without_losing_a_packet(
        into in any::<bool>(),
        strict in any::<bool>(),
        order in proptest::collection::vec((0_usize..4, 1_usize..4), 1..160),
    ) {
        let mut cluster = Cluster::new(3);
        cluster.apply(Object::PeerAuthentication(policy(None, strict.then_some(Mode::Strict))));
        cluster.apply(namespace(if into { "disabled" } else { "enabled" }));
        cluster.settle();
        for (on, name, address) in PODS {
            cluster.attach(on, pod(name, on), address);
        }
        cluster.settle();
        cluster.apply(namespace(if into { "enabled" } else { "disabled" }));
        for (who, count) in order {
            match who {
                3 => cluster.controller_reads(count),
                who => cluster.node_reads(["n1", "n2", "n3"][who], count),
            }
            check_no_leak(&cluster)?;
            for (from, to) in pairs() {
                for is_reply in [false, true] {
                    let fate = cluster.fate(from, to, None, is_reply);
                    // an initiation by a key that is not known yet is parked, its packets wait
                    let lost = matches!(fate, Fate::Dropped(cause) if cause != Cause::NoBinding);
                    prop_assert!(!lost, "{from} to {to}, reply {is_reply}: {fate:?}");
                }
            }
        }
        cluster.settle();
        for (from, to) in pairs() {
            let fate = cluster.fate(from, to, None, false);
            prop_assert_eq!(matches!(fate, Fate::Tunnel { .. } | Fate::Local), into, "{:?}", fate);
        }
    }
}
