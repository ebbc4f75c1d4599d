//! First start, restart, every half-made state, renewal, what is refused; and OpenSSL's opinion of it all.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use identity::{CLOCK_SKEW, Epoch, NodeName, Suite};

use super::*;

const NOW: UnixTime = UnixTime(1_800_000_000);
const DAY: u64 = 86_400;
const FILES: [&str; 4] = ["root.key", "root.crt", "intermediate.key", "intermediate.crt"];

fn td() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

fn open_at(dir: &Path, wall: UnixTime) -> anyhow::Result<EmbeddedCa> {
    EmbeddedCa::open(dir, &td(), wall)
}

fn refusal(dir: &Path, domain: &str, wall: UnixTime) -> String {
    let error = EmbeddedCa::open(dir, &domain.parse().unwrap(), wall).err().expect("it was opened");
    format!("{error:#}")
}

fn days(n: u64) -> UnixTime {
    UnixTime(NOW.0 + n * DAY)
}

fn contents(dir: &Path) -> Vec<Option<Vec<u8>>> {
    FILES.map(|name| fs::read(dir.join("ca").join(name)).ok()).to_vec()
}

fn binding() -> Binding {
    Binding {
        trust_domain: td(),
        spiffe_id: "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap(),
        public_key: [9; 32],
        node: NodeName("n1".to_owned()),
        node_uid: "u1".to_owned(),
        epoch: Epoch(20_833),
        not_before: NOW,
        not_after: days(1),
        suite: Suite::default(),
    }
}

#[test]
fn the_first_start_makes_a_ca_and_a_restart_finds_it() {
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("controller");
    let ca = open_at(&dir, NOW).unwrap();
    let pinned = ca.bundle().root_fingerprint();
    let signed = ca.sign_binding(binding()).unwrap();
    let slice = ca.sign_slice(b"slice").unwrap();
    drop(ca);
    for (name, mode) in [
        ("", 0o700),
        ("root.key", 0o600),
        ("root.crt", 0o644),
        ("intermediate.key", 0o600),
        ("intermediate.crt", 0o644),
    ] {
        let found = fs::metadata(dir.join("ca").join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(found, mode, "{name}");
    }
    let before = contents(&dir);
    let ca = open_at(&dir, days(1)).unwrap();
    assert_eq!(contents(&dir), before);
    let verifier = ca.bundle().verify(pinned, days(1)).unwrap();
    assert_eq!(verifier.verify_binding(&signed, days(1), CLOCK_SKEW), Ok(()));
    assert_eq!(verifier.verify(SLICE_DOMAIN, b"slice", &slice), Ok(()));
    assert_eq!(&verifier, ca.verifier());
    assert!(refusal(&dir, "cluster.local", NOW).contains("locked"));
}

/// Every one of the sixteen sets of files that can be there: a beginning of the list is completed and what is there
/// stays; anything else is refused and stays as well.
#[test]
fn every_half_made_state_is_completed_or_refused() {
    for present in 0..16_u32 {
        let base = tempfile::tempdir().unwrap();
        drop(open_at(base.path(), NOW).unwrap());
        for (position, name) in FILES.iter().enumerate() {
            if present & 1 << position == 0 {
                fs::remove_file(base.path().join("ca").join(name)).unwrap();
            }
        }
        fs::write(base.path().join("ca/.9-9.weft-tmp"), "half").unwrap();
        let before = contents(base.path());
        let is_beginning = (present + 1).is_power_of_two();
        if is_beginning {
            let ca = open_at(base.path(), NOW).unwrap_or_else(|e| panic!("{present:04b}: {e:#}"));
            assert!(ca.sign_binding(binding()).is_ok());
            let after = contents(base.path());
            for (old, new) in before.iter().zip(&after) {
                assert!(new.is_some() && (old.is_none() || old == new), "{present:04b}");
            }
            assert!(!base.path().join("ca/.9-9.weft-tmp").exists());
        } else {
            let error = refusal(base.path(), "cluster.local", NOW);
            assert!(error.contains("is missing although") && error.contains("backup"), "{present:04b}: {error}");
            assert_eq!(contents(base.path()), before, "{present:04b}");
        }
    }
}

#[test]
fn damaged_exposed_swapped_and_foreign_files_are_refused_with_what_to_do() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    drop(open_at(one.path(), NOW).unwrap());
    drop(open_at(other.path(), NOW).unwrap());
    let error = refusal(one.path(), "other.local", NOW);
    assert!(error.contains("another trust domain") && error.contains("--trust-domain"), "{error}");
    for name in FILES {
        let path = one.path().join("ca").join(name);
        let good = fs::read(&path).unwrap();
        let theirs = fs::read(other.path().join("ca").join(name)).unwrap();
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 1;
        for bad in [&b""[..], b"rubbish", &flipped, &good[..good.len() / 2], &theirs] {
            fs::write(&path, bad).unwrap();
            let error = refusal(one.path(), "cluster.local", NOW);
            assert!(error.contains("backup"), "{name}: {error}");
            assert_eq!(fs::read(&path).unwrap(), bad, "{name} was replaced");
        }
        fs::write(&path, &good).unwrap();
        let closed = fs::metadata(&path).unwrap().permissions();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let error = refusal(one.path(), "cluster.local", NOW);
        assert!(error.contains(name) && error.contains("chmod 6"), "{error}");
        fs::set_permissions(&path, closed).unwrap();
        drop(open_at(one.path(), NOW).unwrap());
    }
}

/// The intermediate has 365 days; a third is left after 243 and a third days.
#[test]
fn the_intermediate_is_renewed_with_the_same_key_when_less_than_a_third_is_left() {
    let base = tempfile::tempdir().unwrap();
    let mut ca = open_at(base.path(), NOW).unwrap();
    let pinned = ca.bundle().root_fingerprint();
    let signed = ca.sign_binding(Binding { not_after: days(400), ..binding() }).unwrap();
    let due = UnixTime(NOW.0 + 365 * DAY - 365 * DAY / 3);
    assert!(!ca.renew(UnixTime(due.0 - 1)).unwrap());
    assert!(!ca.renew(due).unwrap());
    let old = ca.bundle().intermediate_der.clone();
    assert!(ca.renew(UnixTime(due.0 + 1)).unwrap());
    assert!(!ca.renew(UnixTime(due.0 + 1)).unwrap());
    assert_ne!(ca.bundle().intermediate_der, old);
    let verifier = ca.bundle().verify(pinned, days(390)).unwrap();
    assert_eq!(verifier.verify_binding(&signed, days(390), CLOCK_SKEW), Ok(()), "what was signed before stays good");
    let renewed = ca.bundle().clone();
    drop(ca);
    assert_eq!(open_at(base.path(), days(250)).unwrap().bundle(), &renewed);
}

#[test]
fn a_controller_that_was_away_for_years_renews_at_its_start() {
    let base = tempfile::tempdir().unwrap();
    let pinned = open_at(base.path(), NOW).unwrap().bundle().root_fingerprint();
    let ca = open_at(base.path(), days(3_000)).unwrap();
    assert!(ca.bundle().verify(pinned, days(3_000)).is_ok());
    drop(ca);
    // near the root's end an intermediate ends with the root, and is not renewed in vain
    let mut ca = open_at(base.path(), days(3_640)).unwrap();
    assert_eq!(ca.verifier().not_after(), days(3_652));
    assert!(!ca.renew(days(3_641)).unwrap());
    drop(ca);
    let error = refusal(base.path(), "cluster.local", days(3_653));
    assert!(error.contains("root certificate") && error.contains("every node then has to join"), "{error}");
    let error = refusal(base.path(), "cluster.local", UnixTime(NOW.0 - 10 * DAY));
    assert!(error.contains("clock"), "{error}");
}

#[test]
fn a_renewal_that_cannot_be_written_leaves_the_present_certificate_in_use() {
    let base = tempfile::tempdir().unwrap();
    let mut ca = open_at(base.path(), NOW).unwrap();
    let before = ca.bundle().clone();
    let (dir, aside) = (base.path().join("ca"), base.path().join("aside"));
    fs::rename(&dir, &aside).unwrap();
    fs::create_dir(&dir).unwrap();
    fs::copy(aside.join("root.key"), dir.join("root.key")).unwrap();
    fs::create_dir(dir.join("intermediate.crt")).unwrap();
    assert!(ca.renew(days(300)).is_err());
    assert_eq!(ca.bundle(), &before);
    fs::remove_dir(dir.join("intermediate.crt")).unwrap();
    assert!(ca.renew(days(300)).unwrap());
}

#[test]
fn only_sound_bindings_of_our_trust_domain_are_signed() {
    let base = tempfile::tempdir().unwrap();
    let ca = open_at(base.path(), NOW).unwrap();
    let foreign: SpiffeId = "spiffe://other.local/ns/shop/sa/cart".parse().unwrap();
    let bad = [
        Binding { spiffe_id: foreign.clone(), ..binding() },
        Binding { trust_domain: "other.local".parse().unwrap(), spiffe_id: foreign.clone(), ..binding() },
        Binding { public_key: [0; 32], ..binding() },
        Binding { not_after: UnixTime(NOW.0 - 1), ..binding() },
        Binding { node_uid: String::new(), ..binding() },
    ];
    for binding in bad {
        assert!(ca.sign_binding(binding.clone()).is_err(), "{binding:?}");
    }
    assert!(ca.issue_svid(&foreign, &[1; 32], NOW, days(1)).is_err());
    assert!(ca.issue_svid(&binding().spiffe_id, &[1; 32], days(2), days(1)).is_err());
    assert!(ca.issue_svid(&binding().spiffe_id, &[1; 32], UnixTime(u64::MAX), UnixTime(u64::MAX)).is_err());
    let svid = ca.issue_svid(&binding().spiffe_id, &[1; 32], NOW, UnixTime(u64::MAX)).unwrap();
    let svid = ca.verifier().verify_svid(&svid, NOW, Duration::ZERO).unwrap();
    assert_eq!(svid.not_after, ca.verifier().not_after(), "a leaf ends with its issuer at the latest");
}

fn openssl(args: &[&str], dir: &Path) -> (bool, String) {
    let output = Command::new("openssl")
        .args(args)
        .current_dir(dir)
        .output()
        .expect("openssl is installed (apt-get install openssl)");
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn openssl_verifies_the_chain_and_reads_the_spiffe_id() {
    let base = tempfile::tempdir().unwrap();
    // openssl looks at the machine's clock, unless told otherwise
    let at = NOW.0.to_string();
    let ca = open_at(base.path(), NOW).unwrap();
    let id = "spiffe://cluster.local/ns/shop/sa/cart";
    let seed = [7; 32];
    let public = identity::svid_public_key(&seed);
    let chain = ca.issue_svid(&id.parse().unwrap(), &public, NOW, days(1)).unwrap();
    let svid = ca.verifier().verify_svid(&chain, NOW, Duration::ZERO).unwrap();
    assert_eq!(svid.spiffe_id.to_string(), id);
    assert!(svid.public_key_der.ends_with(&public));

    let dir = base.path();
    fs::write(dir.join("root.pem"), ca.bundle().root_pem()).unwrap();
    fs::write(dir.join("intermediate.pem"), ca.bundle().intermediate_pem()).unwrap();
    fs::write(dir.join("leaf.pem"), &chain).unwrap();
    let verify = ["verify", "-x509_strict", "-check_ss_sig", "-attime", &at, "-CAfile", "root.pem", "-untrusted"];
    let (good, said) = openssl(&[&verify[..], &["intermediate.pem", "leaf.pem"]].concat(), dir);
    assert!(good, "{said}");
    for purpose in ["sslserver", "sslclient"] {
        let (good, said) =
            openssl(&[&verify[..], &["intermediate.pem", "-purpose", purpose, "leaf.pem"]].concat(), dir);
        assert!(good, "{purpose}: {said}");
    }

    let (_, text) = openssl(&["x509", "-in", "leaf.pem", "-noout", "-text"], dir);
    let name = text.split("X509v3 Subject Alternative Name").nth(1).expect("a subjectAltName");
    assert_eq!(name.lines().nth(1).map(str::trim), Some("URI:spiffe://cluster.local/ns/shop/sa/cart"), "{text}");
    assert!(text.contains("CA:FALSE") && text.contains("ED25519"), "{text}");
    let usage = text.split("X509v3 Key Usage: critical").nth(1).expect("a critical keyUsage");
    assert_eq!(usage.lines().nth(1).map(str::trim), Some("Digital Signature"), "{text}");

    // and what openssl refuses, so do we: another root, and a leaf that has ended
    let other = tempfile::tempdir().unwrap();
    let foreign = open_at(other.path(), NOW).unwrap();
    fs::write(dir.join("root.pem"), foreign.bundle().root_pem()).unwrap();
    assert!(!openssl(&[&verify[..], &["intermediate.pem", "leaf.pem"]].concat(), dir).0);
    assert!(foreign.verifier().verify_svid(&chain, NOW, Duration::ZERO).is_err());
    assert!(ca.verifier().verify_svid(&chain, UnixTime(days(1).0 + 1), Duration::ZERO).is_err());
}

/// An issuer is used behind the trait, by whoever holds it.
#[test]
fn an_issuer_can_be_any_issuer() {
    let base = tempfile::tempdir().unwrap();
    let issuer: Box<dyn Issuer> = Box::new(open_at(base.path(), NOW).unwrap());
    let signed = issuer.sign_binding(binding()).unwrap();
    assert!(issuer.verifier().verify_binding(&signed, NOW, CLOCK_SKEW).is_ok());
}
