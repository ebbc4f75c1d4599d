//! The installation in a folder of its own.

use super::fight::LOOP_COUNT;
use super::*;

const LIST: &str = "{ \"cniVersion\": \"1.0.0\",\n  \"name\": \"pods\", \"plugins\": [ {\"type\":\"ptp\"} ] }\n";

struct Node {
    _folder: tempfile::TempDir,
    places: Places,
}

impl Node {
    fn new(lists: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(&path).unwrap();
            path
        };
        let plugin = place("image").join("mesh-cni");
        fs::write(&plugin, "the plugin").unwrap();
        let (conf_dir, bin_dir) = (place("net.d"), place("bin"));
        for (name, text) in lists {
            fs::write(conf_dir.join(name), text).unwrap();
        }
        let (state_dir, run_dir) = (place("lib"), PathBuf::from("/run/weft"));
        Self { places: Places { conf_dir, bin_dir, conflist: None, plugin, state_dir, run_dir }, _folder: folder }
    }

    fn list(&self, name: &str) -> String {
        fs::read_to_string(self.places.conf_dir.join(name)).unwrap()
    }

    fn cache(&self, config: &str) -> PathBuf {
        let results = self.places.state_dir.join("cni/results");
        fs::create_dir_all(&results).unwrap();
        let config = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, config);
        let result = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24"}]});
        let cached = json!({"kind": "cniCacheV1", "containerId": "abc", "config": config, "result": result});
        fs::write(results.join("pods-abc-eth0"), cached.to_string()).unwrap();
        self.places.state_dir.join("cni")
    }
}

#[test]
fn the_entry_goes_behind_the_others_of_the_first_list_and_the_list_comes_back_byte_for_byte() {
    let node = Node::new(&[
        ("10-pods.conflist", LIST),
        ("20-other.conflist", LIST),
        (".hidden.conflist", "x"),
        ("README", "x"),
    ]);
    Install::new(node.places.clone()).ensure().unwrap();
    let list: Value = serde_json::from_str(&node.list("10-pods.conflist")).unwrap();
    assert_eq!(list["plugins"][1]["type"], "mesh-cni");
    assert_eq!(list["plugins"][0]["type"], "ptp");
    assert_eq!(node.list("20-other.conflist"), LIST);
    assert_eq!(fs::read(node.places.bin_dir.join("mesh-cni")).unwrap(), b"the plugin");
    let spare = drop_in(&node).unwrap();
    assert_eq!((&spare["type"], &spare["spare"]), (&json!("mesh-cni"), &json!(true)), "for runtimes that read both");
    assert!(list["plugins"][1].get("spare").is_none());
    assert!(node.places.remove(Path::new("/nowhere")).unwrap().is_empty());
    assert_eq!(node.list("10-pods.conflist"), LIST);
    assert!(!node.places.bin_dir.join("mesh-cni").exists() && !node.places.conf_dir.join("pods").exists());
}

#[test]
fn the_spare_entry_stays_where_the_list_is_rewritten_and_follows_the_lists_name() {
    let node = Node::new(&[("10-pods.conflist", LIST)]);
    let mut install = Install::new(node.places.clone());
    install.ensure().unwrap();
    fs::write(node.places.conf_dir.join("10-pods.conflist"), LIST).unwrap();
    assert_eq!(drop_in(&node).unwrap()["spare"], true, "nobody who writes the list touches it");
    fs::write(node.places.conf_dir.join("10-pods.conflist"), LIST.replace("\"pods\"", "\"new\"")).unwrap();
    install.ensure().unwrap();
    assert!(!node.places.conf_dir.join("pods").exists() && node.places.conf_dir.join("new/50-mesh-cni.conf").exists());
    assert!(node.list("10-pods.conflist").contains("mesh-cni"));
    assert_eq!(install.report()["beside"], "unknown");
}

#[test]
fn a_file_that_somebody_keeps_taking_away_is_fought_for_only_so_long() {
    for (list, is_spare) in [(LIST, true), (OPEN, false)] {
        let node = Node::new(&[("10-pods.conflist", list)]);
        let mut install = Install::new(node.places.clone());
        install.ensure().unwrap();
        let take = || fs::remove_dir_all(node.places.conf_dir.join("pods")).unwrap();
        for _ in 0..LOOP_COUNT {
            take();
            install.ensure().unwrap();
            assert!(drop_in(&node).is_some());
        }
        take();
        // the entry in the list does what the spare one would; where there is none, that is trouble
        let outcome = install.ensure();
        assert_eq!(outcome.is_ok(), is_spare, "{outcome:?}");
        assert!(drop_in(&node).is_none());
        assert_eq!(install.report()["beside"], if is_spare { "lost" } else { "declared" });
    }
}

/// Chained with the list given back.
fn alone() -> (Node, Install) {
    let node = Node::new(&[("10-pods.conflist", LIST)]);
    let mut install = Install::new(node.places.clone());
    install.ensure().unwrap();
    install.handle_add(false);
    install.handle_add(true);
    install.ensure().unwrap();
    (node, install)
}

#[test]
fn the_list_comes_back_once_the_runtime_has_called_the_spare_entry_and_stays_as_others_write_it() {
    let (node, mut install) = alone();
    let list = node.places.conf_dir.join("10-pods.conflist");
    assert_eq!(node.list("10-pods.conflist"), LIST, "byte for byte");
    assert_eq!(
        (drop_in(&node).unwrap()["spare"].clone(), install.report()["beside"].clone()),
        (json!(true), json!("read"))
    );
    let rewritten = LIST.replace("ptp", "bridge");
    fs::write(&list, &rewritten).unwrap();
    install.ensure().unwrap();
    assert_eq!(node.list("10-pods.conflist"), rewritten);
    // the next daemon goes on so
    let mut next = Install::new(node.places.clone());
    next.ensure().unwrap();
    assert_eq!(node.list("10-pods.conflist"), rewritten);
    assert_eq!(next.report()["beside"], "read");
    let theirs = LIST.replace("{\"type\":\"ptp\"}", "{\"type\":\"ptp\"}, {\"type\":\"mesh-cni\"}");
    fs::write(&list, &theirs).unwrap();
    next.ensure().unwrap();
    assert_eq!(node.list("10-pods.conflist"), theirs, "an entry that somebody else has written");
    fs::write(&list, &rewritten).unwrap();
    assert!(node.places.remove(Path::new("/nowhere")).unwrap().is_empty());
    assert_eq!(node.list("10-pods.conflist"), rewritten);
    assert!(!node.places.conf_dir.join("pods").exists());
}

#[test]
fn a_runtime_that_passes_the_spare_entry_over_gets_the_one_in_the_list_again() {
    let (node, mut install) = alone();
    let is_chained = |node: &Node| node.list("10-pods.conflist").contains("mesh-cni");
    let (then, now) = (SystemTime::UNIX_EPOCH, SystemTime::now() + std::time::Duration::from_secs(1));
    for (network, since) in [("pods", then), ("other", now)] {
        install.handle_missed(network, since);
        install.ensure().unwrap();
        assert!(!is_chained(&node), "a pod of before or of another network");
    }
    install.handle_missed("pods", now);
    install.ensure().unwrap();
    assert!(is_chained(&node));
    assert_eq!(install.report()["beside"], "unread");
    install.handle_add(true);
    install.ensure().unwrap();
    assert!(is_chained(&node), "it is not trusted again");
    // the next daemon asks anew
    let mut next = Install::new(node.places.clone());
    next.ensure().unwrap();
    assert!(is_chained(&node));
    next.handle_add(true);
    next.ensure().unwrap();
    assert_eq!(node.list("10-pods.conflist"), LIST);
}

#[test]
fn where_somebody_takes_the_file_away_once_the_entry_goes_into_the_list_again_and_stays() {
    let (node, mut install) = alone();
    fs::remove_dir_all(node.places.conf_dir.join("pods")).unwrap();
    for _round in 0..2 {
        install.ensure().unwrap();
        assert!(drop_in(&node).is_some() && node.list("10-pods.conflist").contains("mesh-cni"));
        install.handle_add(true);
    }
    assert_eq!(install.report()["beside"], "read");
}

#[test]
fn a_file_that_we_took_away_ourselves_is_nobodys_doing() {
    let (node, mut install) = alone();
    let list = node.places.conf_dir.join("10-pods.conflist");
    fs::write(&list, LIST.replace("\"name\"", "\"loadOnlyInlinedPlugins\": true, \"name\"")).unwrap();
    install.ensure().unwrap();
    assert!(drop_in(&node).is_none() && node.list("10-pods.conflist").contains("mesh-cni"));
    fs::write(&list, LIST).unwrap();
    install.ensure().unwrap();
    assert!(drop_in(&node).is_some());
    assert_eq!(node.list("10-pods.conflist"), LIST, "trusted as before");
}

#[test]
fn a_list_that_another_agent_rewrites_gets_the_entry_again_until_it_is_a_fight() {
    let node = Node::new(&[("10-pods.conflist", LIST)]);
    let mut install = Install::new(node.places.clone());
    install.ensure().unwrap();
    let rewritten = LIST.replace("pods", "new");
    for _ in 0..LOOP_COUNT {
        fs::write(node.places.conf_dir.join("10-pods.conflist"), &rewritten).unwrap();
        install.ensure().unwrap();
        assert!(node.list("10-pods.conflist").contains("mesh-cni"));
    }
    fs::write(node.places.conf_dir.join("10-pods.conflist"), &rewritten).unwrap();
    assert!(install.ensure().unwrap_err().to_string().contains("another agent"));
    // what comes back at the end is what that agent wrote last
    assert!(node.places.remove(Path::new("/nowhere")).unwrap().is_empty());
    assert_eq!(node.list("10-pods.conflist"), rewritten);
}

#[test]
fn without_a_list_or_with_one_that_cannot_be_chained_nothing_is_touched() {
    let node = Node::new(&[]);
    let error = Install::new(node.places.clone()).ensure().unwrap_err();
    assert!(error.to_string().contains("waits for the primary"), "{error}");
    let single = r#"{"cniVersion":"1.0.0","name":"pods","type":"ptp"}"#;
    let node = Node::new(&[("10-pods.conf", single)]);
    assert!(Install::new(node.places.clone()).ensure().is_err());
    assert_eq!(node.list("10-pods.conf"), single);
}

#[test]
fn the_plugin_goes_and_sandboxes_that_were_made_with_it_are_ended_without_it() {
    let node = Node::new(&[("10-pods.conflist", LIST)]);
    Install::new(node.places.clone()).ensure().unwrap();
    let cache = node.cache(r#"{"name":"pods","plugins":[{"type":"ptp"},{"type":"mesh-cni"}]}"#);
    assert_eq!(node.places.remove(&cache).unwrap(), Vec::<String>::new());
    assert!(!node.places.bin_dir.join("mesh-cni").exists());
    let text = fs::read_to_string(cache.join("results/pods-abc-eth0")).unwrap();
    let cached: Value = serde_json::from_str(&text).unwrap();
    let list = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, cached["config"].as_str().unwrap());
    let list: Value = serde_json::from_slice(&list.unwrap()).unwrap();
    assert_eq!(list, json!({"name": "pods", "plugins": [{"type": "ptp"}]}));
    assert_eq!(cached["result"], json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24"}]}), "as it was");
    assert_eq!(cached["kind"], "cniCacheV1");
}

#[test]
fn the_plugin_stays_where_what_is_remembered_cannot_be_changed() {
    let node = Node::new(&[("10-pods.conflist", LIST)]);
    Install::new(node.places.clone()).ensure().unwrap();
    let cache = node.cache(r#"{"plugins":[{"type":"ptp"},{"type":"mesh-cni"},{"no":"type"}]}"#);
    let left = node.places.remove(&cache).unwrap();
    assert!(left.len() == 1 && left[0].contains("pods-abc-eth0"), "{left:?}");
    assert!(node.places.bin_dir.join("mesh-cni").exists());
    let cache = node.cache(r#"{"plugins":[{"type":"ptp"}]}"#);
    assert!(node.places.remove(&cache).unwrap().is_empty());
    assert!(!node.places.bin_dir.join("mesh-cni").exists());
}

const OPEN: &str =
    "{\"cniVersion\":\"1.1.0\",\"name\":\"pods\",\"loadOnlyInlinedPlugins\":false,\"plugins\":[{\"type\":\"ptp\"}]}";

fn drop_in(node: &Node) -> Option<Value> {
    let text = fs::read(node.places.conf_dir.join("pods/50-mesh-cni.conf")).ok()?;
    serde_json::from_slice(&text).ok()
}

#[test]
fn a_list_that_takes_files_gets_one_and_is_not_touched() {
    let node = Node::new(&[("10-pods.conflist", OPEN)]);
    let mut install = Install::new(node.places.clone());
    install.ensure().unwrap();
    assert_eq!(node.list("10-pods.conflist"), OPEN);
    assert_eq!(drop_in(&node).unwrap()["type"], "mesh-cni");
    // somebody takes it away, or writes into it
    fs::remove_file(node.places.conf_dir.join("pods/50-mesh-cni.conf")).unwrap();
    install.ensure().unwrap();
    fs::write(node.places.conf_dir.join("pods/50-mesh-cni.conf"), "{}").unwrap();
    install.ensure().unwrap();
    assert_eq!(drop_in(&node).unwrap()["type"], "mesh-cni");
    node.places.remove(Path::new("/nowhere")).unwrap();
    assert_eq!(node.list("10-pods.conflist"), OPEN);
    assert!(!node.places.conf_dir.join("pods").exists(), "the folder that was made goes too");
    let left: Vec<_> = fs::read_dir(&node.places.conf_dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["10-pods.conflist"]);
}

#[test]
fn a_folder_with_files_of_others_stays_and_a_list_that_stops_taking_files_is_edited() {
    let node = Node::new(&[("10-pods.conflist", OPEN)]);
    let mut install = Install::new(node.places.clone());
    install.ensure().unwrap();
    fs::write(node.places.conf_dir.join("pods/10-other.conf"), "{\"type\":\"tuning\"}").unwrap();
    fs::write(node.places.conf_dir.join("10-pods.conflist"), LIST).unwrap();
    install.ensure().unwrap();
    assert_eq!(drop_in(&node).unwrap()["spare"], true, "it does not refuse what the other entry has done");
    assert!(node.list("10-pods.conflist").contains("mesh-cni"));
    assert!(node.places.conf_dir.join("pods/10-other.conf").exists());
}

#[test]
fn a_list_takes_files_alone_or_as_a_spare_or_not_by_what_it_says_and_its_name() {
    let list = |more: &str| format!("{{\"cniVersion\":\"1.1.0\",{more},\"plugins\":[{{\"type\":\"ptp\"}}]}}");
    let path = Path::new("/etc/cni/net.d/10-pods.conflist");
    let rung = |text: &str| Rung::of(path, text);
    let place = || PathBuf::from("/etc/cni/net.d/pods/50-mesh-cni.conf");
    let (name, declared) = ("\"name\":\"pods\"", "\"loadOnlyInlinedPlugins\"");
    for more in [
        format!("{name},{declared}:true"),
        format!("{name},{declared}:1"),
        format!("{declared}:false"),
        format!("\"name\":\"..\",{declared}:false"),
        "\"name\":\"a/b\"".to_owned(),
    ] {
        assert_eq!(rung(&list(&more)), Rung::List, "{more}");
    }
    assert_eq!(rung("{\"name\":\"pods\",\"type\":\"ptp\"}"), Rung::List, "no list");
    assert_eq!(rung(&list(name)), Rung::Both(place()));
    let open = list(&format!("{name},{declared}:false"));
    assert_eq!(rung(&open.replace("ptp", "mesh-cni")), Rung::Both(place()), "it is chained already");
    assert_eq!(rung(&open), Rung::Beside(place()));
    assert_eq!(rung(&list(&format!("{name},{declared}:\"false\""))), Rung::Beside(place()));
}
