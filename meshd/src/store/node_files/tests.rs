//! First start, restart, half-made, damaged, exposed, copied to another node.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::store::lock_dir;

fn node() -> NodeName {
    NodeName("n1".to_owned())
}

fn open(dir: &Path) -> Result<NodeFiles, StoreError> {
    open_as(dir, &node())
}

fn open_as(dir: &Path, node: &NodeName) -> Result<NodeFiles, StoreError> {
    open_private_dir(dir)?;
    NodeFiles::open(dir, node, &lock_dir(dir)?)
}

fn refusal(dir: &Path) -> String {
    open(dir).err().expect("it was opened").to_string()
}

#[test]
fn a_restart_finds_the_same_node() {
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("weft");
    let first = open(&dir).unwrap();
    let known = (first.uid.clone(), *first.secret.expose(), first.credential.public_key());
    assert_eq!(known.0.len(), 36);
    assert_eq!(&known.0[14..15], "4", "a UUID of version 4: {}", known.0);
    drop(first);
    for name in ["node.secret", "node.credential"] {
        assert_eq!(fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o7777, 0o600, "{name}");
    }
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o7777, 0o700);
    let again = open(&dir).unwrap();
    assert_eq!(known, (again.uid.clone(), *again.secret.expose(), again.credential.public_key()));
    assert_eq!(again.dir(), dir);
    drop(again);
    let other = open(&base.path().join("other")).unwrap();
    assert!(other.uid != known.0 && *other.secret.expose() != known.1 && other.credential.public_key() != known.2);
}

#[test]
fn two_daemons_do_not_share_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let _held = lock_dir(dir.path()).unwrap();
    assert!(refusal(dir.path()).contains("another meshd"));
}

/// A crash between the two files, or in the middle of one.
#[test]
fn a_half_made_node_is_completed() {
    let dir = tempfile::tempdir().unwrap();
    let uid = open(dir.path()).unwrap().uid;
    fs::remove_file(dir.path().join("node.credential")).unwrap();
    fs::write(dir.path().join(".77-0.weft-tmp"), "half").unwrap();
    let again = open(dir.path()).unwrap();
    assert_eq!(again.uid, uid);
    assert!(!dir.path().join(".77-0.weft-tmp").exists());
}

#[test]
fn id_18_a_node_s_files_are_of_no_use_to_another_node() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    let error = open_as(dir.path(), &NodeName("n2".to_owned())).err().unwrap();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
    // a credential beside a secret that it was not made with
    fs::remove_file(dir.path().join("node.secret")).unwrap();
    let error = open(dir.path()).err().unwrap();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
    assert!(error.to_string().contains("meshctl node token"), "{error}");
}

#[test]
fn mf_07_damaged_or_exposed_files_are_refused_by_name_and_never_replaced() {
    for name in ["node.secret", "node.credential"] {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()).unwrap());
        let path = dir.path().join(name);
        let good = fs::read(&path).unwrap();
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for bad in [&flipped[..], &good[..good.len() - 1], b""] {
            fs::write(&path, bad).unwrap();
            let error = refusal(dir.path());
            assert!(error.contains(name) && error.contains("meshctl node token"), "{error}");
            assert_eq!(fs::read(&path).unwrap(), bad, "{name} was replaced");
        }
        fs::write(&path, &good).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = refusal(dir.path());
        assert!(error.contains(name) && error.contains("chmod 600"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        drop(open(dir.path()).unwrap());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(refusal(dir.path()).contains(name));
    }
}

#[test]
fn a_root_is_pinned_once() {
    let dir = tempfile::tempdir().unwrap();
    let files = open(dir.path()).unwrap();
    assert_eq!(files.pinned_root().unwrap(), None);
    files.pin_root(Fingerprint([1; 32])).unwrap();
    files.pin_root(Fingerprint([1; 32])).unwrap();
    let error = files.pin_root(Fingerprint([2; 32])).unwrap_err().to_string();
    assert!(error.contains("another trust root") && error.contains("trust.pin"), "{error}");
    assert_eq!(files.pinned_root().unwrap(), Some(Fingerprint([1; 32])));
    drop(files);
    let files = open(dir.path()).unwrap();
    assert_eq!(files.pinned_root().unwrap(), Some(Fingerprint([1; 32])));
    fs::write(dir.path().join("trust.pin"), "rubbish").unwrap();
    assert!(files.pinned_root().is_err(), "a damaged pin is not no pin");
    assert!(files.pin_root(Fingerprint([2; 32])).is_err());
    files.unpin_root().unwrap();
    files.pin_root(Fingerprint([2; 32])).unwrap();
}
