//! Lists and changes of several kinds, put together.

use super::*;

fn key(kind: &'static str, name: &str) -> ObjectKey {
    ObjectKey { kind, namespace: String::new(), name: name.to_owned() }
}

fn namespace(name: &str, label: &str) -> Manifest {
    let labels = [("weft.dev/mesh".to_owned(), label.to_owned())].into();
    Manifest::Plain(plan::view::Object::Namespace(plan::view::Namespace { name: name.to_owned(), labels }))
}

fn apply(name: &str, label: &str, listed: bool) -> Heard {
    Heard::Apply {
        key: key("Namespace", name),
        version: 0,
        listed,
        manifest: Ok(Box::new(namespace(name, label))),
        told: Box::default(),
    }
}

fn slice(node: &str, revision: u64) -> Heard {
    let value =
        serde_json::json!({"metadata": {"name": node}, "spec": {"node": node, "nodeUID": "u", "revision": revision}});
    let key = key("MeshEndpointSlice", node);
    let manifest = super::super::super::convert::manifest(&key, &value, 0).map(|it| Box::new(it.manifest));
    Heard::Apply { key, version: 0, listed: true, manifest, told: Box::default() }
}

/// What happened, in short.
fn words(events: Vec<Event>) -> Vec<String> {
    let word = |event: Event| match event {
        Event::Init => "init".to_owned(),
        Event::InitDone => "done".to_owned(),
        Event::Delete(key) => format!("-{}", key.name),
        Event::Judged(judgement) => format!("{} is {}", judgement.key.name, judgement.condition.reason),
        Event::Counted(counted) => format!("{} has {:?}", counted.key.name, counted.held.map(|held| held.enforced)),
        Event::Apply(Manifest::Plain(plan::view::Object::Namespace(n))) => format!("+{}", n.name),
        Event::Apply(Manifest::MeshEndpointSlice(slice)) => format!("slice {}", slice.spec.revision),
        Event::Apply(other) => format!("{other:?}"),
    };
    events.into_iter().map(word).collect()
}

fn gather() -> Gather {
    Gather::new(["namespaces".to_owned(), "slices".to_owned()])
}

/// Feeds everything and returns everything that came out.
fn feed(gather: &mut Gather, heard: impl IntoIterator<Item = (usize, Heard)>) -> Vec<String> {
    let mut out = Vec::new();
    for (kind, heard) in heard {
        if !gather.is_stale(kind, &heard) {
            out.extend(words(gather.handle(kind, heard)));
        }
    }
    out
}

fn synced() -> Gather {
    let mut gather = gather();
    let both = [(0, Heard::Init), (0, apply("a", "enabled", true)), (0, apply("b", "enabled", true))];
    feed(&mut gather, both);
    let out = feed(&mut gather, [(0, Heard::InitDone), (1, Heard::Init), (1, Heard::InitDone)]);
    assert_eq!(out, ["done"]);
    gather
}

#[test]
fn the_list_is_complete_when_every_kind_is() {
    let mut gather = gather();
    let out = feed(&mut gather, [(0, Heard::Init), (0, apply("a", "enabled", true)), (0, Heard::InitDone)]);
    assert_eq!(out, ["init", "+a"]);
    // a change of the kind that is listed already is no secret until the other is
    assert_eq!(feed(&mut gather, [(0, apply("b", "enabled", false))]), ["+b"]);
    assert_eq!(feed(&mut gather, [(1, Heard::Init), (1, Heard::InitDone)]), ["done"]);
}

#[test]
fn a_list_that_breaks_off_begins_again_and_nothing_is_concluded_from_half_of_it() {
    let mut gather = synced();
    let half = [(0, Heard::Init), (0, apply("a", "enabled", true)), (0, Heard::Fault("connection reset".into()))];
    assert!(feed(&mut gather, half).is_empty());
    assert_eq!(gather.refusals().len(), 1);
    assert!(feed(&mut gather, [(0, Heard::Init)]).is_empty());
    assert_eq!(gather.refusals().len(), 1, "a list that only begins is no success");
    let whole = [(0, apply("b", "enabled", true)), (0, Heard::InitDone)];
    assert_eq!(feed(&mut gather, whole), ["-a"]);
    assert!(gather.refusals().is_empty(), "a fault that is over is still told");
}

#[test]
fn mf_05_what_is_listed_again_or_said_twice_is_no_news() {
    let mut gather = synced();
    let again =
        [(0, Heard::Init), (0, apply("a", "enabled", true)), (0, apply("b", "disabled", true)), (0, Heard::InitDone)];
    assert_eq!(feed(&mut gather, again), ["+b"]);
    assert!(feed(&mut gather, [(0, apply("b", "disabled", false))]).is_empty());
    let gone = || (0, Heard::Delete { key: key("Namespace", "b"), version: 0 });
    assert_eq!(feed(&mut gather, [gone(), gone()]), ["-b"]);
}

#[test]
fn mf_05_a_change_in_a_list_that_breaks_off_is_not_lost() {
    let mut gather = synced();
    let half = [(0, Heard::Init), (0, apply("a", "disabled", true)), (0, apply("new", "enabled", true))];
    assert!(feed(&mut gather, half).is_empty());
    assert!(feed(&mut gather, [(0, Heard::Fault("410".into()))]).is_empty());
    // and what was in the half only is gone by the whole
    let whole = || [(0, Heard::Init), (0, apply("a", "disabled", true)), (0, apply("b", "enabled", true))];
    feed(&mut gather, whole());
    assert_eq!(feed(&mut gather, [(0, Heard::InitDone)]), ["+a", "-new"]);
    feed(&mut gather, whole());
    assert!(feed(&mut gather, [(0, Heard::InitDone)]).is_empty(), "and is said once");
}

fn at(version: u64, label: &str) -> (usize, Heard) {
    let Heard::Apply { key, listed, manifest, told, .. } = apply("a", label, false) else { panic!("it applies") };
    (0, Heard::Apply { key, version, listed, manifest, told })
}

#[test]
fn mf_05_what_a_watch_says_too_late_undoes_nothing() {
    let mut gather = synced();
    let gone = |version| (0, Heard::Delete { key: key("Namespace", "a"), version });
    assert_eq!(feed(&mut gather, [at(10, "disabled"), at(9, "enabled")]), ["+a"]);
    assert!(feed(&mut gather, [gone(8), at(10, "disabled")]).is_empty());
    assert_eq!(feed(&mut gather, [gone(11), at(10, "disabled"), gone(11)]), ["-a"], "what is gone does not come back");
    assert_eq!(feed(&mut gather, [at(12, "enabled"), gone(11)]), ["+a"], "and one of the same name is another");
    // an object that cannot be used is newer all the same
    let bad = Heard::Apply {
        key: key("Namespace", "a"),
        version: 14,
        listed: false,
        manifest: Err("wrong".into()),
        told: Box::default(),
    };
    assert!(feed(&mut gather, [(0, bad), at(13, "disabled")]).is_empty());
    // a list is what it is
    let list =
        [(0, Heard::Init), (0, apply("a", "disabled", true)), (0, apply("b", "enabled", true)), (0, Heard::InitDone)];
    assert_eq!(feed(&mut gather, list), ["+a"]);
    assert_eq!(feed(&mut gather, [at(5, "enabled")]), ["+a"], "and what follows it counts");
}

#[test]
fn mf_05_what_is_gone_is_remembered_for_a_while() {
    let mut gather = synced();
    for number in 1..=GONE_MAX as u64 + 10 {
        gather.handle(0, Heard::Delete { key: key("Namespace", &format!("n{number}")), version: number });
    }
    assert_eq!(gather.kinds[0].1.gone.len(), GONE_MAX);
    assert!(gather.kinds[0].1.gone.values().all(|version| *version > 10), "those that went first are forgotten");
}

#[test]
fn slices_that_are_listed_again_come_in_the_order_of_their_revisions() {
    let mut gather = synced();
    let list = [(1, Heard::Init), (1, slice("n1", 9)), (1, slice("n2", 7)), (1, slice("n3", 8)), (1, Heard::InitDone)];
    assert_eq!(feed(&mut gather, list), ["slice 7", "slice 8", "slice 9"]);
}

#[test]
fn a_bad_object_changes_nothing_and_is_told_until_it_is_good_or_gone() {
    let mut gather = synced();
    let bad = |name| {
        (
            0,
            Heard::Apply {
                key: key("Namespace", name),
                version: 0,
                listed: false,
                manifest: Err("wrong".into()),
                told: Box::default(),
            },
        )
    };
    assert!(feed(&mut gather, [bad("a"), bad("new")]).is_empty());
    assert_eq!(gather.refusals().len(), 2);
    assert!(feed(&mut gather, [(0, apply("a", "enabled", false))]).is_empty());
    let list =
        [(0, Heard::Init), (0, apply("a", "enabled", true)), (0, apply("b", "enabled", true)), (0, Heard::InitDone)];
    assert!(feed(&mut gather, list).is_empty());
    assert!(gather.refusals().is_empty(), "{:?}", gather.refusals());
}

#[test]
fn parts_that_are_not_used_are_told_until_they_are_good() {
    let mut gather = synced();
    let with = |parts: &[&str]| {
        let parts = parts.iter().map(|part| (*part).to_owned()).collect();
        let manifest = Ok(Box::new(namespace("a", "enabled")));
        (
            0,
            Heard::Apply {
                key: key("Namespace", "a"),
                version: 0,
                listed: false,
                manifest,
                told: Box::new(Told { parts, ..Told::default() }),
            },
        )
    };
    assert!(feed(&mut gather, [with(&["spec.x: bad", "spec.y: bad"])]).is_empty(), "the object itself is as it was");
    assert_eq!(gather.refusals().len(), 2);
    assert!(feed(&mut gather, [with(&[])]).is_empty());
    assert!(gather.refusals().is_empty());
}

#[test]
fn what_a_status_says_is_handed_on_also_where_the_object_is_as_it_was_and_never_of_one_that_was_not_usable() {
    let mut gather = synced();
    let with = |name: &str, manifest: Result<Manifest, String>| {
        let counted = Counted { key: key("Namespace", name), generation: 1, held: None };
        let told = Box::new(Told { counted: Some(counted), ..Told::default() });
        let manifest = manifest.map(Box::new);
        (0, Heard::Apply { key: key("Namespace", name), version: 0, listed: false, manifest, told })
    };
    let bad = || Err("wrong".to_owned());
    assert_eq!(feed(&mut gather, [with("a", Ok(namespace("a", "enabled")))]), ["a has None"]);
    assert_eq!(feed(&mut gather, [with("a", bad()), with("new", bad())]), ["a has None"], "the last good one stays");
    assert_eq!(feed(&mut gather, [with("new", Ok(namespace("new", "enabled")))]), ["+new", "new has None"]);
}

fn cached(name: &str, label: &str) -> Cached {
    Cached { kind: 0, key: key("Namespace", name), manifest: namespace(name, label), line: String::new() }
}

#[test]
fn mf_05_the_last_known_view_stands_in_and_the_servers_list_comes_as_changes() {
    let mut gather = gather();
    feed(&mut gather, [(0, Heard::Fault("connection refused".into()))]);
    let view = vec![cached("a", "enabled"), cached("b", "enabled"), cached("c", "enabled")];
    assert_eq!(words(gather.prime(view.clone())), ["+a", "+b", "+c", "done"]);
    assert!(gather.is_complete() && !gather.is_current());
    assert!(gather.prime(view).is_empty(), "once");
    let list =
        [(0, Heard::Init), (0, apply("a", "enabled", true)), (0, apply("c", "disabled", true)), (0, Heard::InitDone)];
    assert_eq!(feed(&mut gather, list), ["+c", "-b"]);
    assert!(!gather.is_current(), "the other kind was not listed by the server yet");
    assert!(feed(&mut gather, [(1, Heard::Init), (1, Heard::InitDone)]).is_empty(), "complete is said once");
    assert!(gather.is_current());
}

#[test]
fn mf_05_what_the_server_has_said_counts_more_than_the_last_known_view() {
    let mut gather = gather();
    let whole = [(1, Heard::Init), (1, slice("n1", 9)), (1, Heard::InitDone)];
    feed(&mut gather, whole);
    feed(&mut gather, [(0, Heard::Init), (0, apply("a", "disabled", true))]);
    let slices = Cached {
        kind: 1,
        key: key("MeshEndpointSlice", "gone"),
        manifest: namespace("gone", "x"),
        line: String::new(),
    };
    let out = words(gather.prime(vec![cached("a", "enabled"), cached("b", "enabled"), slices]));
    assert_eq!(out, ["+b", "done"]);
    // the list that was under way goes on: what it does not hold is gone
    assert_eq!(feed(&mut gather, [(0, Heard::InitDone)]), ["-b"]);
}

#[test]
fn refusals_are_bounded() {
    let mut gather = synced();
    for number in 0..REFUSALS_MAX + 10 {
        let key = key("Namespace", &format!("n{number}"));
        gather.handle(
            0,
            Heard::Apply { key, version: 0, listed: false, manifest: Err("wrong".into()), told: Box::default() },
        );
    }
    assert_eq!(gather.refusals().len(), REFUSALS_MAX);
}
