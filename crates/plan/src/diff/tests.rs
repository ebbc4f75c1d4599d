//! Steps lead there, equal states need none, and no prefix of them opens a gap.

use std::collections::BTreeSet;
use std::net::IpAddr;

use identity::Epoch;
use proptest::prelude::*;

use super::*;
use crate::desired::{PeerName, Pin, RemoteIdentity, RouteTable};
use crate::path::{Fate, Origin, Packet, Site, follow};
use crate::world::{bound, ip, node, spiffe};

/// What a state says of a remote address.
#[derive(Clone, Copy, Debug)]
enum Known {
    Nothing,
    Clear,
    Ready,
    Keyed { enforced: bool },
    Node,
}

/// What a state says of the local pod.
#[derive(Clone, Copy, Debug)]
struct Local {
    enrolled: bool,
    strict: bool,
    require_mesh: bool,
}

const REMOTES: [&str; 4] = ["10.2.0.1", "10.2.0.2", "10.9.0.3", "192.0.2.2"];
const HERE: &str = "10.1.0.5";

fn known() -> impl Strategy<Value = Known> {
    prop_oneof![
        Just(Known::Nothing),
        Just(Known::Clear),
        Just(Known::Ready),
        any::<bool>().prop_map(|enforced| Known::Keyed { enforced }),
        Just(Known::Node),
    ]
}

prop_compose! {
    fn state()(remotes in [known(), known(), known(), known()], range in any::<bool>(), own in any::<bool>(),
        enrolled in any::<bool>(), strict in any::<bool>(), require_mesh in any::<bool>()) -> Desired {
        state_of(remotes, range, own, Local { enrolled, strict, require_mesh })
    }
}

fn state_of(remotes: [Known; 4], range: bool, own: bool, local: Local) -> Desired {
    let mut state = Desired::default();
    let mut route = |table, prefix, target| state.routes.insert(Route { table, prefix, target });
    let filter = &mut state.filter;
    if range {
        filter.pod_cidrs.insert("10.2.0.0/16".parse().unwrap());
        route(RouteTable::Pods, "10.2.0.0/16".parse().unwrap(), RouteTarget::Mesh);
    }
    for (address, known) in REMOTES.into_iter().map(ip).zip(remotes) {
        match known {
            Known::Nothing => continue,
            Known::Clear | Known::Ready => {
                filter.clear.insert(address);
                route(RouteTable::Pods, address.into(), RouteTarget::Main);
                if matches!(known, Known::Clear) {
                    continue;
                }
            }
            Known::Keyed { enforced } => {
                filter.keyed.insert(address);
                filter.keyed_enforced.extend(enforced.then_some(address));
                route(RouteTable::Pods, address.into(), RouteTarget::Mesh);
            }
            Known::Node => {
                filter.keyed_nodes.insert(address);
                route(RouteTable::Nodes, address.into(), RouteTarget::Mesh);
            }
        }
        let peer = PeerName { node: node("n2"), identity: spiffe("b") };
        let keys = BTreeMap::from([(Epoch(1), bound([9; 32]))]);
        let remote = RemoteIdentity { keys, ..RemoteIdentity::default() };
        state.peers.entry(peer).or_insert(remote).addresses.insert(address);
    }
    let here = BTreeSet::from([ip(HERE)]);
    let pin = Pin { mac: [2, 0, 0, 0, 0, 1], addresses: here.clone(), enrolled: local.enrolled };
    filter.pins.insert("veth0".to_owned(), pin);
    filter.local.clone_from(&here);
    if own {
        filter.own_ranges.insert("10.1.0.0/16".parse().unwrap());
    }
    if local.enrolled {
        state.locals.entry(spiffe("a")).or_default().addresses.clone_from(&here);
        filter.enrolled.clone_from(&here);
        filter.enrolled_enforced.clone_from(&here);
        filter.strict.extend(here.iter().filter(|_| local.strict));
        filter.require_mesh.extend(here.iter().filter(|_| local.require_mesh));
    }
    state
}

/// Every kind of packet that passes a node.
fn packets() -> Vec<Packet> {
    let mut packets = Vec::new();
    let outside = ip("198.51.100.1");
    let to_remotes = REMOTES.into_iter().map(ip).chain([outside, ip("10.2.0.99")]);
    let mut packet = |source, destination, origin: Origin| {
        for is_reply in [false, true] {
            packets.push(Packet { source, destination, ports: None, is_reply, origin: origin.clone() });
        }
    };
    for remote in to_remotes {
        packet(ip(HERE), remote, Origin::Link("veth0".to_owned()));
        packet(ip("192.0.2.1"), remote, Origin::Host);
        packet(ip("10.1.0.77"), remote, Origin::Stranger);
        packet(remote, ip(HERE), Origin::Stranger);
    }
    packets
}

fn is_clear(state: &Desired, packet: &Packet) -> bool {
    let name = node("n1");
    let site = Site { node: &name, desired: state };
    follow(site, site, packet) == Fate::Clear
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_024, ..ProptestConfig::default() })]

    #[test]
    fn steps_lead_there_and_equal_states_need_none(actual in state(), desired in state()) {
        let mut state = actual.clone();
        for step in steps(&desired, &actual) {
            step.apply(&mut state);
        }
        prop_assert_eq!(&state, &desired);
        prop_assert_eq!(steps(&desired, &state), []);
    }

    /// Whatever stops the steps half-way: what passes in clear text passed so before, or may from now on.
    #[test]
    fn no_prefix_of_the_steps_opens_a_gap(actual in state(), desired in state()) {
        let mut state = actual.clone();
        for step in steps(&desired, &actual) {
            step.apply(&mut state);
            for packet in packets() {
                let expected = is_clear(&actual, &packet) || is_clear(&desired, &packet);
                prop_assert!(expected || !is_clear(&state, &packet), "{packet:?} passes after {step:?}");
            }
        }
    }

    /// The invariant in the words of the module: a keyed address is led into the mesh, or the filter names it.
    #[test]
    fn no_prefix_leaves_a_keyed_address_without_route_and_without_filter(actual in state(), desired in state()) {
        let mut state = actual.clone();
        let mut filtered = actual.filter == desired.filter;
        for step in steps(&desired, &actual) {
            step.apply(&mut state);
            filtered |= matches!(step, Step::SetFilter(_));
            for address in &desired.filter.keyed {
                let throughout = actual.filter.keyed.contains(address);
                if !filtered && !throughout {
                    continue;
                }
                let guarded = state.filter.keyed.contains(address);
                prop_assert!(guarded && led_into_the_mesh(&state, *address), "{address} after {step:?}");
            }
        }
    }
}

fn led_into_the_mesh(state: &Desired, address: IpAddr) -> bool {
    let exact = |route: &&Route| route.table == RouteTable::Pods && route.prefix == address.into();
    state.routes.iter().find(exact).is_some_and(|route| route.target == RouteTarget::Mesh)
}

/// Node n2 as it takes both ways: it knows the pod here, and lets clear text in.
fn receiver() -> Desired {
    let mut state = Desired::default();
    let keys = BTreeMap::from([(Epoch(1), bound([8; 32]))]);
    let known = RemoteIdentity { keys, addresses: BTreeSet::from([ip(HERE)]), ..RemoteIdentity::default() };
    state.peers.insert(PeerName { node: node("n1"), identity: spiffe("a") }, known);
    state.locals.entry(spiffe("b")).or_default().addresses.extend(REMOTES.into_iter().map(ip));
    state
}

/// From a phase to its neighbour and back, each step of the steps: what passes before and after passes in between.
#[test]
fn between_neighbouring_phases_no_step_loses_a_packet() {
    let (n1, n2, there) = (node("n1"), node("n2"), receiver());
    let phases = [Known::Clear, Known::Ready, Known::Keyed { enforced: false }, Known::Keyed { enforced: true }];
    let local = Local { enrolled: true, strict: false, require_mesh: false };
    let state = |known| state_of([known, Known::Nothing, Known::Nothing, Known::Nothing], true, true, local);
    for pair in phases.windows(2) {
        for (from, to) in [(pair[0], pair[1]), (pair[1], pair[0])] {
            let (mut held, desired) = (state(from), state(to));
            for step in steps(&desired, &held) {
                step.apply(&mut held);
                let (source, destination) = (ip(HERE), ip(REMOTES[0]));
                let origin = Origin::Link("veth0".to_owned());
                let packet = Packet { source, destination, ports: None, is_reply: false, origin };
                let fate = follow(Site { node: &n1, desired: &held }, Site { node: &n2, desired: &there }, &packet);
                assert!(!matches!(fate, Fate::Dropped(_)), "{from:?} to {to:?}, after {step:?}: {fate:?}");
            }
        }
    }
}
