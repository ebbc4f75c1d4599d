//! The stairs of ARCHITECTURE.md against the real dependencies: a room may import what stands below it, no more.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Which of our rooms each room may import.
const STAIRS: [(&str, &[&str]); 11] = [
    ("packet", &[]),
    ("linux", &[]),
    ("wg", &["packet"]),
    ("policy", &["packet"]),
    ("identity", &[]),
    ("cni", &[]),
    ("plan", &["wg", "policy", "identity"]),
    ("mesh-cni", &["cni"]),
    ("meshd", &["packet", "linux", "wg", "policy", "identity", "cni", "plan"]),
    ("meshctl", &["packet", "linux", "identity", "policy", "plan"]),
    ("mesh-tests", &["packet", "linux", "wg", "policy", "identity", "cni", "plan"]),
];

/// Heavy dependencies and the only rooms that may have them.
const HEAVY: [(&str, &[&str]); 7] = [
    ("kube", &["meshd"]),
    ("tokio", &["meshd"]),
    ("rtnetlink", &["meshd"]),
    ("netlink-packet-route", &["meshd"]),
    ("boringtun", &[]),
    ("clap", &["meshd", "meshctl"]),
    ("anyhow", &["meshd", "meshctl", "mesh-tests"]),
];

fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(super::root())
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let mut rooms = BTreeMap::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let normal = |d: &&Value| d["kind"].is_null();
        let names = package["dependencies"].as_array().expect("dependencies").iter().filter(normal);
        let names = names.map(|d| d["name"].as_str().expect("a name").to_owned()).collect();
        rooms.insert(package["name"].as_str().expect("a name").to_owned(), names);
    }
    rooms
}

#[test]
fn stairs_go_down_only() {
    let rooms = dependencies();
    let ours: BTreeSet<&str> = STAIRS.iter().map(|(room, _)| *room).collect();
    let found: BTreeSet<&str> = rooms.keys().map(String::as_str).collect();
    assert_eq!(found, ours, "the workspace's rooms are not those of the table");
    for (room, allowed) in STAIRS {
        for dependency in rooms[room].iter().filter(|d| ours.contains(d.as_str())) {
            assert!(allowed.contains(&dependency.as_str()), "{room} may not import {dependency}");
        }
    }
}

#[test]
fn heavy_dependencies_stay_on_the_roof() {
    for (room, dependencies) in dependencies() {
        for (heavy, homes) in HEAVY {
            let has = dependencies.contains(heavy);
            assert!(!has || homes.contains(&room.as_str()), "{room} may not depend on {heavy}");
        }
    }
}

#[test]
fn unsafe_code_has_one_address() {
    for (name, text) in super::rust_files() {
        let code = text.lines().map(str::trim_start).filter(|line| !line.starts_with("//"));
        let found = code.filter(|line| line.contains("unsafe {") || line.contains("unsafe fn ")).count();
        let allowed = name.starts_with("crates/linux/") || name.starts_with("tests/tidy/");
        assert!(found == 0 || allowed, "{name} has unsafe code");
    }
}
