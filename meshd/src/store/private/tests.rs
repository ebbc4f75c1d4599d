//! What others can get at is refused with what to do.

use super::*;

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_directory_is_made_private_and_one_that_others_can_write_is_refused() {
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("a/b");
    open_private_dir(&dir).unwrap();
    assert_eq!(mode(&dir), 0o700);
    chmod(&dir, 0o755);
    open_private_dir(&dir).unwrap();
    assert_eq!(mode(&dir), 0o700, "what others can read is taken away");
    for open in [0o720, 0o702, 0o1777] {
        chmod(&dir, open);
        let error = open_private_dir(&dir).unwrap_err().to_string();
        assert!(error.contains("chmod 700") && error.contains(&dir.display().to_string()), "{error}");
    }
    let file = base.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(open_private_dir(&file).is_err());
}

#[test]
fn a_directory_is_one_process_s() {
    let dir = tempfile::tempdir().unwrap();
    let held = lock_dir(dir.path()).unwrap();
    let error = lock_dir(dir.path()).err().unwrap();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    drop(held);
    lock_dir(dir.path()).unwrap();
}

#[test]
fn only_leftovers_are_swept() {
    let dir = tempfile::tempdir().unwrap();
    for name in [".1-0.weft-tmp", ".2-17.weft-tmp", "1-0.weft-tmp", ".weft", "f"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    assert_eq!(sweep(dir.path()).unwrap(), 2);
    assert_eq!(sweep(dir.path()).unwrap(), 0);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    assert!(sweep(&dir.path().join("missing")).is_err());
}

#[test]
fn a_file_is_read_within_its_limit_and_its_mode() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let read = |privacy| read_bounded(&path, 3, privacy, "make it anew");
    assert!(read(Privacy::Secret).unwrap().is_none());
    fs::write(&path, "abc").unwrap();
    for (open, secret, public) in
        [(0o600, true, true), (0o400, true, true), (0o644, false, true), (0o620, false, false)]
    {
        chmod(&path, open);
        assert_eq!(read(Privacy::Secret).is_ok(), secret, "{open:o}");
        assert_eq!(read(Privacy::Public).is_ok(), public, "{open:o}");
    }
    chmod(&path, 0o600);
    assert_eq!(**read(Privacy::Secret).unwrap().as_ref().unwrap(), *b"abc");
    fs::write(&path, "abcd").unwrap();
    assert!(matches!(
        read(Privacy::Secret),
        Err(StoreError::Damaged { damage: Damage::Huge { found: 4, max: 3 }, .. })
    ));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(read(Privacy::Secret), Err(StoreError::Kind { .. })));
}
