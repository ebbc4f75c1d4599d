//! The file is always the old one or the new one, and nothing else is left.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::store::tests::small_disk::on_small_disk;

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_is_replaced_as_a_whole_with_its_mode() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    for (bytes, mode) in [(&b"one"[..], 0o600), (b"two", 0o644), (b"", 0o640)] {
        atomic_write(&path, bytes, mode).unwrap();
        assert_eq!(fs::read(&path).unwrap(), bytes);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, mode);
    }
    assert_eq!(names(dir.path()), ["f"]);
}

/// A reader never sees a part: each of the many contents is of one letter and of one length.
#[test]
fn a_reader_sees_the_old_or_the_new_never_a_part() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    atomic_write(&path, &[b'a'; 10_000], 0o600).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for letter in b'a'..=b'z' {
                atomic_write(&path, &vec![letter; 10_000], 0o600).unwrap();
            }
        });
        while !writer.is_finished() {
            let seen = fs::read(&path).unwrap();
            assert!(seen.len() == 10_000 && seen.iter().all(|b| Some(b) == seen.first()));
        }
    });
}

#[test]
fn a_write_that_fails_leaves_the_old_file_and_no_leftover() {
    let dir = tempfile::tempdir().unwrap();
    let error = atomic_write(&dir.path().join("missing/f"), b"x", 0o600).unwrap_err().to_string();
    assert!(error.contains("missing/f") && error.contains("make the directory"), "{error}");
    // renaming a file over a directory is refused
    let taken = dir.path().join("taken");
    fs::create_dir(&taken).unwrap();
    assert!(atomic_write(&taken, b"x", 0o600).is_err());
    assert_eq!(names(dir.path()), ["taken"]);
}

#[test]
fn mf_08_a_full_and_a_read_only_disk_leave_the_old_file_and_no_leftover() {
    on_small_disk(
        "store::atomic::tests::mf_08_a_full_and_a_read_only_disk_leave_the_old_file_and_no_leftover",
        |disk| {
            let path = disk.dir().join("f");
            atomic_write(&path, b"old", 0o600).unwrap();
            disk.fill();
            let error = atomic_write(&path, &[b'n'; 8192], 0o600).unwrap_err().to_string();
            assert!(error.contains("free space"), "{error}");
            assert_eq!(fs::read(&path).unwrap(), b"old");
            disk.empty();
            disk.remount("ro");
            let error = atomic_write(&path, b"new", 0o600).unwrap_err().to_string();
            assert!(error.contains("read-write"), "{error}");
            assert!(remove_durably(&path).is_err());
            disk.remount("rw");
            assert_eq!(fs::read(&path).unwrap(), b"old");
            assert_eq!(names(disk.dir()), ["f"]);
            atomic_write(&path, b"new", 0o600).unwrap();
        },
    );
}

#[test]
fn removing_twice_is_removing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    atomic_write(&path, b"x", 0o600).unwrap();
    remove_durably(&path).unwrap();
    remove_durably(&path).unwrap();
    assert!(names(dir.path()).is_empty());
}
