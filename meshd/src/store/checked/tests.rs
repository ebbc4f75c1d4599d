//! MF-07: whatever happens to a state file, it is the value that was written or an error.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;

use super::*;

const K: Kind = Kind { name: "test", version: 3, remedy: "make it anew" };

/// What a whole file on disk is read as.
fn read_raw(bytes: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    read_checked(&path, K, "me")
}

fn raw(kind: Kind, owner: &str, body: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    write_checked(&path, kind, owner, body).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    fs::read(path).unwrap()
}

#[test]
fn mf_07_every_flipped_bit_is_found() {
    let good = raw(K, "me", br#"{"a":[1,2,3],"b":"text"}"#);
    assert!(read_raw(&good).unwrap().is_some());
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut changed = good.clone();
            changed[at] ^= 1 << bit;
            let outcome = read_raw(&changed);
            assert!(matches!(outcome, Err(StoreError::Damaged { .. })), "byte {at} bit {bit}");
        }
    }
}

#[test]
fn mf_07_every_truncation_and_every_longer_file_is_found() {
    let good = raw(K, "me", b"some bytes\nof a body");
    for length in 0..good.len() {
        let outcome = read_raw(&good[..length]);
        assert!(matches!(outcome, Err(StoreError::Damaged { .. })), "cut to {length}");
    }
    for more in [&b"\n"[..], b" ", b"\0", &good] {
        assert!(matches!(read_raw(&[&good, more].concat()), Err(StoreError::Damaged { .. })));
    }
    assert!(matches!(read_raw(b""), Err(StoreError::Damaged { damage: Damage::Empty, .. })));
    assert!(matches!(read_raw(&[0; 4096]), Err(StoreError::Damaged { damage: Damage::Header, .. })));
}

#[test]
fn mf_07_another_version_owner_or_kind_is_named() {
    let body = b"body";
    let outcome = read_raw(&raw(Kind { version: 2, ..K }, "me", body));
    assert!(matches!(&outcome, Err(StoreError::Version { found, supported: 3, .. }) if found == "2"));
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("version 2") && error.contains("version 3") && error.contains("make it anew"), "{error}");
    let outcome = read_raw(&raw(K, "other", body));
    assert!(matches!(&outcome, Err(StoreError::Foreign { found, .. }) if found == "other"));
    let outcome = read_raw(&raw(Kind { name: "else", ..K }, "me", body));
    assert!(matches!(outcome, Err(StoreError::Damaged { damage: Damage::Kind { .. }, .. })));
}

#[test]
fn mf_07_a_huge_file_is_refused_without_being_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    let file = fs::File::create(&path).unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
    file.set_len(1 << 40).unwrap();
    assert!(matches!(read_checked(&path, K, "me"), Err(StoreError::Damaged { damage: Damage::Huge { .. }, .. })));
}

#[test]
fn an_owner_never_reaches_into_the_header() {
    let dir = tempfile::tempdir().unwrap();
    for owner in ["", "a b", "a\nb", "é", &"a".repeat(257)] {
        assert!(write_checked(&dir.path().join("f"), K, owner, b"").is_err(), "{owner:?} was taken");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_value_that_is_whole_but_not_ours_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    assert!(load::<Vec<u32>>(&path, K, "me").unwrap().is_none());
    save(&path, K, "me", &[1_u32, 2]).unwrap();
    assert_eq!(load::<Vec<u32>>(&path, K, "me").unwrap(), Some(vec![1, 2]));
    let error = load::<String>(&path, K, "me").unwrap_err();
    assert!(matches!(error, StoreError::Damaged { damage: Damage::Content { .. }, .. }), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_body_comes_back_and_any_rubbish_is_an_error(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let whole = raw(K, "me", &body);
        let back = read_raw(&whole).unwrap().unwrap();
        prop_assert_eq!(&**back, body.as_slice());
        prop_assert!(read_raw(&body).is_err());
        let headed = [b"weft-state test 3 me ", body.as_slice()].concat();
        prop_assert!(read_raw(&headed).is_err());
    }
}
