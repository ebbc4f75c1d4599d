//! Tombstones as the plugin writes them, and as it never would.

use super::*;

#[test]
fn cn_03_tombstones_wait_until_they_are_replayed() {
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("tombstones");
    let tombstones = Tombstones::open(&dir).unwrap();
    assert_eq!(tombstones.list().unwrap().0, []);
    let text = r#"{"containerID":"c1","ifname":"eth0","netns":"/var/run/netns/x","time":"2026-01-01T00:00:00Z"}"#;
    fs::write(dir.join("c1-eth0.json"), text).unwrap();
    fs::write(dir.join("c2-eth0.json"), r#"{"containerID":"c2","ifname":"eth0"}"#).unwrap();
    fs::write(dir.join("c3-eth0.json"), r#"{"containerID":"c3","ifname":"eth0","netns":null,"later":"field"}"#)
        .unwrap();
    fs::write(dir.join(".c4-eth0.json"), "half").unwrap();
    fs::write(dir.join("README"), "not one").unwrap();
    let (found, refused) = tombstones.list().unwrap();
    assert!(refused.is_empty());
    let seen: Vec<_> = found.iter().map(|t| (t.container_id.as_str(), t.netns.as_deref())).collect();
    assert_eq!(seen, [("c1", Some("/var/run/netns/x")), ("c2", None), ("c3", None)]);
    assert!(tombstones.is_there(&found[0]));
    tombstones.remove(&found[0]).unwrap();
    assert!(!tombstones.is_there(&found[0]));
    tombstones.remove(&found[0]).unwrap();
    assert_eq!(tombstones.list().unwrap().0.len(), 2);
}

#[test]
fn a_tombstone_that_cannot_be_read_is_named_and_the_others_count() {
    let base = tempfile::tempdir().unwrap();
    let tombstones = Tombstones::open(base.path()).unwrap();
    let bad =
        [("empty", ""), ("array", "[]"), ("nameless", r#"{"containerID":"","ifname":"eth0"}"#), ("cut", r#"{"contai"#)];
    for (name, text) in bad {
        fs::write(base.path().join(format!("{name}.json")), text).unwrap();
    }
    fs::write(base.path().join("huge.json"), vec![b' '; 70_000]).unwrap();
    fs::write(base.path().join("good.json"), r#"{"containerID":"c1","ifname":"eth0"}"#).unwrap();
    let (found, refused) = tombstones.list().unwrap();
    assert_eq!(found.len(), 1);
    let said: Vec<String> = refused.iter().map(ToString::to_string).collect();
    for name in ["empty", "array", "nameless", "cut", "huge"] {
        assert!(said.iter().any(|line| line.contains(&format!("{name}.json"))), "{name}: {said:?}");
    }
}
