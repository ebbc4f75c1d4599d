//! Last good stays, overlays complete, conflicts are told: on texts, without files.

use super::*;

fn put(collection: &mut Collection, file: &str, text: &str) -> Vec<Change> {
    collection.handle_file(Path::new(file), text, 7);
    collection.poll_changes()
}

fn policy(mode: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: PeerAuthentication\nmetadata: {{name: default, namespace: shop}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
    )
}

fn mode(collection: &Collection) -> Option<policy::Mode> {
    let mode = |m: &Manifest| if let Manifest::Plain(plan::Object::PeerAuthentication(p)) = m { p.mode } else { None };
    collection.objects().find_map(mode)
}

#[test]
fn pl_11_a_policy_that_becomes_unreadable_stays_as_it_was() {
    let mut collection = Collection::default();
    assert_eq!(put(&mut collection, "p.yaml", &policy("STRICT")).len(), 1);
    for bad in
        [policy("LOOSE"), "kind: [".to_owned(), "spec: {}\n".to_owned(), policy("STRICT").replace("mtls", "mtsl")]
    {
        assert_eq!(put(&mut collection, "p.yaml", &bad), [], "{bad}");
        assert_eq!(mode(&collection), Some(policy::Mode::Strict));
        let refusals = collection.refusals();
        assert!(!refusals.is_empty() && refusals.iter().all(|r| r.file == "p.yaml" && r.line >= 1), "{refusals:?}");
    }
    collection.handle_unreadable(Path::new("p.yaml"), "permission denied".into());
    assert_eq!(collection.poll_changes(), []);
    assert_eq!(put(&mut collection, "p.yaml", &policy("PERMISSIVE")).len(), 1);
    assert_eq!(collection.refusals(), []);
    collection.handle_gone(Path::new("p.yaml"));
    assert!(matches!(&collection.poll_changes()[..], [Change::Delete(_)]));
}

#[test]
fn one_bad_document_leaves_the_others_alone() {
    let mut collection = Collection::default();
    let text = format!(
        "{}---\nkind: Namespace\nmetadata: {{name: ok}}\n---\nkind: Pod\nmetadata: {{name: UPPER}}\n",
        policy("LOOSE")
    );
    assert_eq!(put(&mut collection, "x.yaml", &text).len(), 1);
    assert_eq!(collection.refusals().len(), 2);
}

#[test]
fn an_overlay_completes_a_pod_and_alone_is_nothing() {
    let mut collection = Collection::default();
    let overlay = "kind: Pod\nmetadata: {name: a, namespace: shop, uid: u1}\nspec: {nodeName: n1}\nstatus: {phase: Running, podIPs: [{ip: 10.0.0.1}]}\n";
    assert_eq!(put(&mut collection, "weft.dev/overlays/pods/shop.a.yaml", overlay), []);
    let pod = "kind: Pod\nmetadata:\n  name: a\n  namespace: shop\n  labels:\nspec: {containers: []}\n";
    let changes = put(&mut collection, "pods.yaml", pod);
    let [Change::Apply(Manifest::Plain(plan::Object::Pod(pod)))] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!((pod.uid.as_str(), pod.node.as_ref().map(|n| n.0.as_str()), pod.ips.len()), ("u1", Some("n1"), 1));
}

#[test]
fn the_first_of_two_files_counts_and_the_other_is_told() {
    let mut collection = Collection::default();
    put(&mut collection, "a.yaml", &policy("STRICT"));
    assert_eq!(put(&mut collection, "b.yaml", &policy("DISABLE")), []);
    assert!(collection.refusals()[0].reason.contains("a.yaml"));
    collection.handle_gone(Path::new("a.yaml"));
    collection.poll_changes();
    assert_eq!(mode(&collection), Some(policy::Mode::Disable));
}

#[test]
fn istios_own_yaml_is_read_and_its_mistakes_are_named() {
    let mut collection = Collection::default();
    let text = policy("STRICT").replace("weft.dev/v1alpha1", "security.istio.io/v1");
    assert_eq!(put(&mut collection, "istio.yaml", &text).len(), 1);
    let base = "kind: PeerAuthentication\nmetadata: {name: x, namespace: shop}\nspec: ";
    for (spec, told) in [
        ("{portLevelMtls: {80: {mode: STRICT}}}", "needs a selector"),
        ("{selector: {}, portLevelMtls: {http: {mode: STRICT}}}", "is no port"),
        ("{selector: {}, portLevelMtls: {7: {mode: STRICT}}}", "needs a selector that names labels"),
        ("{selector: {matchExpressions: [{key: a, operator: Is}]}}", "is no operator"),
        ("{mtls: {mode: strict}}", "unknown variant"),
        ("{outbound: Never}", "unknown variant"),
        ("{mtls: 3}", "invalid type"),
    ] {
        put(&mut collection, "x.yaml", &format!("{base}{spec}\n"));
        let refusals = collection.refusals();
        assert!(refusals.iter().any(|r| r.reason.contains(told)), "{spec}: {refusals:?}");
    }
}

#[test]
fn what_changes_one_by_one_equals_what_is_read_at_once() {
    let names = ["a.yaml", "b.yaml", "weft.dev/overlays/pods/shop.a.yaml"];
    let pod = "kind: Pod\nmetadata: {name: a, namespace: shop}\nspec: {containers: []}\n".to_owned();
    let overlay = "kind: Pod\nmetadata: {name: a, namespace: shop, uid: u1}\nspec: {nodeName: n1}\n".to_owned();
    let texts = [None, Some(policy("STRICT")), Some(policy("LOOSE")), Some(pod), Some(overlay), Some("kind: [".into())];
    let mut stepwise = Collection::default();
    let mut held: BTreeMap<&str, String> = BTreeMap::new();
    // a walk over all pairs of a file and a text that does not repeat itself soon
    for step in 0..500_usize {
        let (name, text) = (names[step * 7 % 3], &texts[step * 5 % 11 % 6]);
        match text {
            Some(text) => {
                stepwise.handle_file(Path::new(name), text, 7);
                held.insert(name, text.clone());
            }
            None => {
                stepwise.handle_gone(Path::new(name));
                held.remove(name);
            }
        }
        stepwise.poll_changes();
        if held.values().any(|text| text.contains("LOOSE") || text.contains('[')) {
            // what was good before stays, and that is not to be read at once
            continue;
        }
        let mut whole = Collection::default();
        for (name, text) in &held {
            whole.handle_file(Path::new(name), text, 7);
        }
        whole.poll_changes();
        assert_eq!(stepwise.objects, whole.objects, "step {step}: {held:?}");
        assert_eq!(stepwise.refusals(), whole.refusals(), "step {step}");
    }
}

#[test]
fn a_policy_of_an_unknown_direction_changes_nothing() {
    let policy = |direction: &str| {
        format!(
            "kind: AuthorizationPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {{action: DENY, direction: {direction}, rules: [{{}}]}}\n"
        )
    };
    let mut collection = Collection::default();
    assert_eq!(put(&mut collection, "p.yaml", &policy("outbound")), []);
    assert!(collection.refusals()[0].reason.contains("direction"));
    assert_eq!(put(&mut collection, "p.yaml", &policy("Outbound")).len(), 1);
    assert_eq!(put(&mut collection, "p.yaml", &policy("Outbnd")), []);
    assert_eq!(collection.objects().count(), 1);
}

#[test]
fn f12_a_label_of_ours_that_says_nothing_is_told() {
    let text = |label: &str| {
        let labels = format!("labels: {{weft.dev/mesh: '{label}'}}");
        format!(
            "kind: Namespace\nmetadata: {{name: shop, {labels}}}\n---\nkind: Pod\nmetadata: {{name: web, namespace: shop, {labels}}}\n"
        )
    };
    let mut collection = Collection::default();
    for label in ["true", "Enabled", ""] {
        put(&mut collection, "a.yaml", &text(label));
        let told: Vec<_> = collection.refusals().into_iter().map(|refusal| refusal.reason).collect();
        assert_eq!(told.len(), 2, "{label}: {told:?}");
        assert!(told.iter().all(|word| word.contains("neither `enabled` nor `disabled`")), "{told:?}");
        assert_eq!(collection.objects().count(), 2, "they are used all the same");
    }
    for label in ["enabled", "disabled"] {
        put(&mut collection, "a.yaml", &text(label));
        assert_eq!(collection.refusals(), [], "{label}");
    }
}
