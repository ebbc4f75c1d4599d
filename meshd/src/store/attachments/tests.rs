//! Saved is on disk, removed is gone, and a disk that refuses changes neither memory nor the other files.

use super::*;
use crate::store::tests::small_disk::on_small_disk;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    text: String,
}

fn record(text: &str) -> Record {
    Record { text: text.to_owned() }
}

fn open(dir: &Path) -> (AttachmentStore<Record>, Vec<StoreError>) {
    AttachmentStore::open(dir, "u1").unwrap()
}

#[test]
fn attachments_survive_a_restart_until_they_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, refused) = open(dir.path());
    assert!(refused.is_empty() && store.records().is_empty());
    store.save("c1", "eth0", record("a")).unwrap();
    store.save("c1", "net1", record("b")).unwrap();
    store.save("c2", "eth0", record("c")).unwrap();
    store.save("c2", "eth0", record("d")).unwrap();
    let (mut store, refused) = open(dir.path());
    assert!(refused.is_empty());
    assert_eq!(store.records().len(), 3);
    assert_eq!(store.record("c1", "net1"), Some(&record("b")));
    assert_eq!(store.record("c2", "eth0"), Some(&record("d")));
    let removed = store.remove("c1", "eth0");
    assert_eq!(removed.record, Some(record("a")));
    removed.on_disk.unwrap();
    let again = store.remove("c1", "eth0");
    assert!(again.record.is_none() && again.on_disk.is_ok(), "removing twice is removing");
    assert_eq!(open(dir.path()).0.records().len(), 2);
}

/// `a-b` + `c` and `a` + `b-c`; and interface names with the very character that separates.
#[test]
fn no_two_attachments_share_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let keys = [("a-b", "c"), ("a", "b-c"), ("a", "b@c"), ("a", "@"), ("a", "@@"), ("A", "b-c")];
    for (container, ifname) in keys {
        store.save(container, ifname, record(&format!("{container} {ifname}"))).unwrap();
    }
    let (store, refused) = open(dir.path());
    assert!(refused.is_empty());
    for (container, ifname) in keys {
        assert_eq!(store.record(container, ifname), Some(&record(&format!("{container} {ifname}"))));
    }
}

#[test]
fn names_never_leave_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let long = "a".repeat(201);
    for bad in ["", ".", "..", "../x", "a/b", "a@b", "-a", ".a", "a b", "a\n", "é", long.as_str()] {
        let error = store.save(bad, "eth0", record("x")).unwrap_err();
        assert!(matches!(error, StoreError::Name { .. }), "{bad:?}: {error}");
        let removed = store.remove(bad, "eth0");
        assert!(removed.record.is_none() && removed.on_disk.is_ok(), "{bad:?}");
    }
    for bad in ["", "a/b", "a:b", "a b", "a\t", "sixteen-letters-", "é"] {
        assert!(store.save("c1", bad, record("x")).is_err(), "{bad:?} was taken");
    }
    store.save(&"a".repeat(200), "fifteen-letters", record("x")).unwrap();
    assert_eq!(store.records().len(), 1);
}

#[test]
fn mf_07_a_damaged_foreign_or_renamed_file_is_refused_and_the_others_count() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    for container in ["good", "flipped", "empty", "renamed"] {
        store.save(container, "eth0", record(container)).unwrap();
    }
    let files = dir.path().join("attachments");
    let mut bytes = fs::read(files.join("flipped@eth0")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(files.join("flipped@eth0"), bytes).unwrap();
    fs::write(files.join("empty@eth0"), "").unwrap();
    fs::rename(files.join("renamed@eth0"), files.join("victim@eth0")).unwrap();
    let (mut other, _) = AttachmentStore::open(&dir.path().join("elsewhere"), "u2").unwrap();
    other.save("foreign", "eth0", record("foreign")).unwrap();
    fs::copy(dir.path().join("elsewhere/attachments/foreign@eth0"), files.join("foreign@eth0")).unwrap();

    let (mut store, refused) = open(dir.path());
    assert_eq!(store.records().keys().collect::<Vec<_>>(), [&("good".to_owned(), "eth0".to_owned())]);
    let said: Vec<String> = refused.iter().map(ToString::to_string).collect();
    for name in ["flipped", "empty", "victim", "foreign"] {
        assert!(
            said.iter().any(|line| line.contains(&format!("{name}@eth0")) && line.contains("remove the file")),
            "{said:?}"
        );
    }
    assert_eq!(refused.len(), 4);
    // their DEL clears them away
    for container in ["flipped", "empty", "victim", "foreign"] {
        store.remove(container, "eth0").on_disk.unwrap();
    }
    assert!(open(dir.path()).1.is_empty());
}

#[test]
fn cn_13_a_full_or_read_only_disk_refuses_an_add_and_lets_a_del_through() {
    on_small_disk(
        "store::attachments::tests::cn_13_a_full_or_read_only_disk_refuses_an_add_and_lets_a_del_through",
        |disk| {
            let (mut store, _) = open(disk.dir());
            store.save("old", "eth0", record("old")).unwrap();
            store.save("gone", "eth0", record("gone")).unwrap();

            disk.fill();
            assert!(store.save("new", "eth0", record(&"n".repeat(5000))).is_err());
            assert!(store.save("old", "eth0", record(&"n".repeat(5000))).is_err());
            assert_eq!(store.record("new", "eth0"), None, "nothing half-done in memory");
            assert_eq!(store.record("old", "eth0"), Some(&record("old")), "the previous value stays");
            disk.empty();

            disk.remount("ro");
            assert!(store.save("new", "eth0", record("new")).is_err());
            let removed = store.remove("gone", "eth0");
            assert_eq!(removed.record, Some(record("gone")), "a DEL is done all the same");
            assert!(removed.on_disk.unwrap_err().to_string().contains("read-write"));
            assert!(store.retry_removals().is_err());
            disk.remount("rw");

            store.retry_removals().unwrap();
            store.save("new", "eth0", record("new")).unwrap();
            let (store, refused) = open(disk.dir());
            assert!(refused.is_empty());
            let names: Vec<_> = store.records().keys().map(|key| key.0.as_str()).collect();
            assert_eq!(names, ["new", "old"]);
        },
    );
}

/// A container that comes back before its old file could be removed keeps its new file.
#[test]
fn a_retried_removal_never_takes_a_newer_attachment() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    store.unremoved.insert(("c1".to_owned(), "eth0".to_owned()));
    store.save("c1", "eth0", record("newer")).unwrap();
    store.retry_removals().unwrap();
    assert_eq!(open(dir.path()).0.record("c1", "eth0"), Some(&record("newer")));
}
