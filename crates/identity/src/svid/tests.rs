//! X.509-SVIDs made by an independent library, right in every point and wrong in one.

use proptest::prelude::*;
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType,
    date_time_ymd,
};

use super::*;
use crate::bundle::tests::{Authorities, NOW, authority, uri};

type Change = fn(&mut CertificateParams);

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

fn leaf() -> CertificateParams {
    let mut params = authority("", 1);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = vec![uri(CART)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn chain(authorities: &Authorities, leaf: &CertificateParams) -> String {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let issuer = Issuer::from_params(&authorities.intermediate, &authorities.intermediate_key);
    leaf.signed_by(&key, &issuer).unwrap().pem() + &authorities.bundle().intermediate_pem()
}

fn outcome(change: impl FnOnce(&mut CertificateParams)) -> Result<Svid, SvidError> {
    let authorities = Authorities::new();
    let mut leaf = leaf();
    change(&mut leaf);
    authorities.verified().verify_svid(&chain(&authorities, &leaf), NOW, Duration::ZERO)
}

#[test]
fn a_good_svid_is_believed() {
    let svid = outcome(|_| {}).unwrap();
    assert_eq!(svid.spiffe_id.to_string(), CART);
    assert_eq!((svid.not_before, svid.not_after), (UnixTime(NOW.0 - 3_600), UnixTime(NOW.0 + 3_600)));
    assert!(outcome(|l| l.extended_key_usages.clear()).is_ok(), "extendedKeyUsage may be absent");
}

#[test]
fn an_svid_wrong_in_one_point_is_refused() {
    let changes: [(&str, Change); 16] = [
        ("a CA", |l| l.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained)),
        ("no keyUsage", |l| l.key_usages.clear()),
        ("no digitalSignature", |l| l.key_usages = vec![KeyUsagePurpose::KeyEncipherment]),
        ("keyCertSign", |l| l.key_usages.push(KeyUsagePurpose::KeyCertSign)),
        ("cRLSign", |l| l.key_usages.push(KeyUsagePurpose::CrlSign)),
        ("serverAuth alone", |l| l.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        ("ended", |l| l.not_after = date_time_ymd(2026, 12, 31)),
        ("not begun", |l| l.not_before = date_time_ymd(2028, 1, 1)),
        ("no URI", |l| l.subject_alt_names.clear()),
        ("two URIs", |l| l.subject_alt_names.push(uri("spiffe://cluster.local/ns/shop/sa/admin"))),
        ("a DNS name too", |l| l.subject_alt_names.push(SanType::DnsName("cart.shop".try_into().unwrap()))),
        ("no path", |l| l.subject_alt_names = vec![uri("spiffe://cluster.local")]),
        ("other domain", |l| l.subject_alt_names = vec![uri("spiffe://other.local/ns/shop/sa/cart")]),
        ("https", |l| l.subject_alt_names = vec![uri("https://cluster.local/ns/shop/sa/cart")]),
        ("a query", |l| l.subject_alt_names = vec![uri("spiffe://cluster.local/ns/shop?sa=cart")]),
        ("a dot segment", |l| l.subject_alt_names = vec![uri("spiffe://cluster.local/ns/shop/../sa/cart")]),
    ];
    for (what, change) in changes {
        let outcome = outcome(change);
        assert!(outcome.is_err(), "{what}: {outcome:?}");
    }
}

#[test]
fn an_svid_of_another_issuer_or_changed_by_a_byte_is_refused() {
    let (ours, theirs) = (Authorities::new(), Authorities::new());
    let verifier = ours.verified();
    assert!(verifier.verify_svid(&chain(&theirs, &leaf()), NOW, Duration::ZERO).is_err(), "same names, other key");
    let bare = crate::sign::tests::issuer().verifier(crate::bundle::tests::td());
    assert!(bare.verify_svid(&chain(&ours, &leaf()), NOW, Duration::ZERO).is_err(), "no certificate is known");
    let good = pem::decode(&chain(&ours, &leaf()), 2).unwrap().remove(0);
    // the leaf alone will do
    let believed = verifier.verify_svid(&pem::encode(&good), NOW, Duration::ZERO).unwrap();
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 1;
        let outcome = verifier.verify_svid(&pem::encode(&changed), NOW, Duration::ZERO);
        assert!(outcome.is_err() || outcome == Ok(believed.clone()), "byte {at}: {outcome:?}");
    }
    let ended = verifier.not_after().after(Duration::from_secs(1));
    assert!(verifier.verify_svid(&pem::encode(&good), ended, Duration::ZERO).is_err());
}

proptest! {
    #[test]
    fn hostile_chains_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in ".{0,100}") {
        let verifier = Verifier { trust_domain: crate::bundle::tests::td(), public_key: vec![4; 65], issuer_subject: vec![48, 0], not_after: NOW };
        prop_assert!(verifier.verify_svid(&pem::encode(&bytes), NOW, Duration::ZERO).is_err());
        prop_assert!(verifier.verify_svid(&text, NOW, Duration::ZERO).is_err());
    }
}
