//! Scope, precedence and ties, as a table and against a naive evaluator.

use proptest::prelude::*;

use super::*;

const ROOT: &str = "weft-system";

fn policy(namespace: &str, name: &str, created: u64, app: Option<&str>, mode: Option<Mode>) -> PeerAuthentication {
    let selector = app.map(|app| Selector {
        match_labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
        ..Selector::default()
    });
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    PeerAuthentication { namespace, name, created, selector, mode, ports: BTreeMap::new(), outbound: None }
}

fn app(name: &str) -> Labels {
    BTreeMap::from([("app".to_owned(), name.to_owned())])
}

fn mode_of(policies: &[PeerAuthentication]) -> Mode {
    resolve(policies, "shop", &app("web"), ROOT).mode
}

#[test]
fn f11_nobody_said_anything_is_permissive() {
    assert_eq!(resolve(&[], "shop", &app("web"), ROOT), EffectiveMode::default());
}

#[test]
fn f11_workload_wins_over_namespace_and_namespace_over_mesh() {
    let mesh = policy(ROOT, "default", 1, None, Some(Mode::Strict));
    let namespace = policy("shop", "default", 2, None, Some(Mode::Disable));
    let workload = policy("shop", "web", 3, Some("web"), Some(Mode::Permissive));
    assert_eq!(mode_of(std::slice::from_ref(&mesh)), Mode::Strict);
    assert_eq!(mode_of(&[mesh.clone(), namespace.clone()]), Mode::Disable);
    assert_eq!(mode_of(&[mesh.clone(), namespace, workload]), Mode::Permissive);
    let elsewhere = policy("other", "default", 1, None, Some(Mode::Disable));
    let other_app = policy("shop", "db", 1, Some("db"), Some(Mode::Disable));
    assert_eq!(mode_of(&[mesh, elsewhere, other_app]), Mode::Strict);
}

#[test]
fn f11_unset_is_inherited() {
    let mesh = policy(ROOT, "default", 1, None, Some(Mode::Strict));
    let namespace = policy("shop", "default", 2, None, None);
    let workload = policy("shop", "web", 3, Some("web"), None);
    assert_eq!(mode_of(&[mesh, namespace, workload]), Mode::Strict);
}

#[test]
fn f11_the_oldest_wins_a_tie_then_the_name() {
    let young = policy("shop", "a", 20, None, Some(Mode::Disable));
    let old = policy("shop", "z", 10, None, Some(Mode::Strict));
    assert_eq!(mode_of(&[young.clone(), old.clone()]), Mode::Strict);
    assert_eq!(mode_of(&[old, young]), Mode::Strict);
    let first = policy("shop", "a", 10, None, Some(Mode::Permissive));
    let second = policy("shop", "b", 10, None, Some(Mode::Strict));
    assert_eq!(mode_of(&[second, first]), Mode::Permissive);
}

#[test]
fn f11_ports_are_honoured_only_with_a_selector() {
    let mut workload = policy("shop", "web", 1, Some("web"), Some(Mode::Strict));
    workload.ports = BTreeMap::from([(80, Some(Mode::Permissive)), (81, None), (82, Some(Mode::Disable))]);
    let effective = resolve(std::slice::from_ref(&workload), "shop", &app("web"), ROOT);
    assert_eq!(effective.ports, BTreeMap::from([(80, Mode::Permissive), (82, Mode::Disable)]));
    assert!(!effective.refuses_clear_at(80) && effective.refuses_clear_at(81) && !effective.refuses_clear_at(82));
    workload.selector = None;
    assert!(resolve(&[workload], "shop", &app("web"), ROOT).ports.is_empty());
}

#[test]
fn a_workload_is_out_of_the_mesh_only_when_it_is_disable_everywhere() {
    let disabled = EffectiveMode { mode: Mode::Disable, ..EffectiveMode::default() };
    assert!(!disabled.is_keyed());
    let one_port = EffectiveMode { ports: BTreeMap::from([(443, Mode::Strict)]), ..disabled };
    assert!(one_port.is_keyed() && one_port.refuses_clear_at(443) && !one_port.refuses_clear_at(80));
}

#[test]
fn an_empty_selector_is_none() {
    let mut namespace = policy("shop", "default", 1, None, Some(Mode::Strict));
    namespace.selector = Some(Selector::default());
    namespace.ports = BTreeMap::from([(80, Some(Mode::Permissive))]);
    let workload = policy("shop", "web", 2, Some("web"), Some(Mode::Disable));
    let effective = resolve(std::slice::from_ref(&namespace), "shop", &app("web"), ROOT);
    assert!(effective.is_strict() && effective.ports.is_empty());
    assert_eq!(mode_of(&[namespace.clone(), workload]), Mode::Disable, "it does not compete with a workload's policy");
    namespace.namespace = ROOT.to_owned();
    assert_eq!(mode_of(&[namespace]), Mode::Strict, "and is mesh-wide in the root namespace");
}

fn modes() -> impl Strategy<Value = Option<Mode>> {
    prop_oneof![Just(None), Just(Some(Mode::Strict)), Just(Some(Mode::Permissive)), Just(Some(Mode::Disable))]
}

fn outbounds() -> impl Strategy<Value = Option<Outbound>> {
    prop_oneof![Just(None), Just(Some(Outbound::Opportunistic)), Just(Some(Outbound::RequireMesh))]
}

prop_compose! {
    fn any_policy()(ns in 0_usize..3, name in "[a-c]", created in 0_u64..3, sel in 0_usize..3, mode in modes(),
        outbound in outbounds(), ports in proptest::collection::btree_map(80_u16..83, modes(), 0..3)) -> PeerAuthentication {
        let app = [None, Some("web"), Some("db")][sel];
        PeerAuthentication { ports, outbound, ..policy([ROOT, "shop", "other"][ns], &name, created, app, mode) }
    }
}

/// Straight from the words: the policies that speak for `app=web` in `shop`, the narrowest scope first, of each scope
/// the oldest.
fn chain(policies: &[PeerAuthentication]) -> [Option<&PeerAuthentication>; 3] {
    let scopes: [&dyn Fn(&PeerAuthentication) -> bool; 3] = [
        &|p| p.namespace == "shop" && p.selector.as_ref().is_some_and(|s| s.match_labels["app"] == "web"),
        &|p| p.namespace == "shop" && p.selector.is_none(),
        &|p| p.namespace == ROOT && p.selector.is_none(),
    ];
    scopes.map(|scope| {
        let mut there: Vec<_> = policies.iter().filter(|p| scope(p)).collect();
        there.sort_by(|a, b| a.created.cmp(&b.created).then(a.name.cmp(&b.name)));
        there.first().copied()
    })
}

fn naive(policies: &[PeerAuthentication]) -> EffectiveMode {
    let chain = chain(policies);
    let speaks = || chain.into_iter().flatten();
    let mode = speaks().find_map(|p| p.mode).unwrap_or(Mode::Permissive);
    let outbound = speaks().find_map(|p| p.outbound).unwrap_or_default();
    let mut ports = BTreeMap::new();
    if let [Some(workload), ..] = chain {
        for (port, own) in &workload.ports {
            if own.is_some_and(|own| own != mode) {
                ports.extend(own.map(|own| (*port, own)));
            }
        }
    }
    EffectiveMode { mode, ports, outbound }
}

proptest! {
    #[test]
    fn f11_resolution_is_what_the_words_say(mut policies in proptest::collection::vec(any_policy(), 0..6)) {
        // two of one name in one namespace cannot exist
        policies.sort_by_key(|p| (p.namespace.clone(), p.name.clone()));
        policies.dedup_by_key(|p| (p.namespace.clone(), p.name.clone()));
        let (effective, source) = resolve_from(&policies, "shop", &app("web"), ROOT);
        prop_assert_eq!(&effective, &naive(&policies));
        let speaker = chain(&policies).into_iter().flatten().find(|policy| policy.mode.is_some());
        prop_assert_eq!(source, speaker, "whose mode it is");
        policies.reverse();
        prop_assert_eq!(resolve(&policies, "shop", &app("web"), ROOT), effective, "their order counts");
    }
}
