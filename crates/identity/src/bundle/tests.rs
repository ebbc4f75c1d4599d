//! Certificates made by an independent library, right in every point and wrong in one.

use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType, date_time_ymd,
};

use super::*;

pub(crate) const NOW: UnixTime = UnixTime(1_800_000_000);

pub(crate) fn td() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text.to_owned()).unwrap())
}

/// The parameters of a good authority of `cluster.local`.
pub(crate) fn authority(name: &str, hours: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![uri("spiffe://cluster.local")];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let second = |at: u64| date_time_ymd(1970, 1, 1) + Duration::from_secs(at);
    params.not_before = second(NOW.0 - 3_600);
    params.not_after = second(NOW.0 + hours * 3_600);
    params
}

type Change = fn(&mut Authorities);

/// A root and an intermediate, with their keys.
pub(crate) struct Authorities {
    pub(crate) root: CertificateParams,
    pub(crate) root_key: KeyPair,
    pub(crate) intermediate: CertificateParams,
    pub(crate) intermediate_key: KeyPair,
}

impl Authorities {
    pub(crate) fn new() -> Self {
        Self {
            root: authority("root", 100),
            root_key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
            intermediate: authority("intermediate", 10),
            intermediate_key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
        }
    }

    fn root_certificate(&self) -> Certificate {
        self.root.self_signed(&self.root_key).unwrap()
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        let issuer = Issuer::from_params(&self.root, &self.root_key);
        let intermediate = self.intermediate.signed_by(&self.intermediate_key, &issuer).unwrap();
        TrustBundle::from_pem(td(), &self.root_certificate().pem(), &intermediate.pem()).unwrap()
    }

    pub(crate) fn verified(&self) -> Verifier {
        let bundle = self.bundle();
        bundle.verify(bundle.root_fingerprint(), NOW).unwrap()
    }
}

/// What `verify` says of authorities after a change, with the root pinned as it is.
fn outcome(change: impl FnOnce(&mut Authorities)) -> Result<Verifier, BundleError> {
    let mut authorities = Authorities::new();
    change(&mut authorities);
    let bundle = authorities.bundle();
    bundle.verify(bundle.root_fingerprint(), NOW)
}

#[test]
fn a_good_bundle_becomes_a_verifier_of_the_intermediates_key() {
    let authorities = Authorities::new();
    let verifier = authorities.verified();
    assert_eq!(verifier.public_key, authorities.intermediate_key.public_key_raw());
    assert_eq!(verifier.trust_domain(), &td());
    assert_eq!(verifier.not_after(), UnixTime(NOW.0 + 36_000), "the earlier of the two ends");
    let random = ring::rand::SystemRandom::new();
    let key = crate::IssuerKey::from_pkcs8(authorities.intermediate_key.serialized_der(), random).unwrap();
    assert_eq!(verifier.verify("d", b"b", &key.sign("d", b"b").unwrap()), Ok(()));
}

#[test]
fn id_08_a_root_that_is_not_pinned_is_refused_however_good_it_is() {
    let (ours, theirs) = (Authorities::new().bundle(), Authorities::new().bundle());
    assert!(matches!(theirs.verify(ours.root_fingerprint(), NOW), Err(BundleError::Pin { .. })));
    // our root, their intermediate: same names, other key
    let mixed = TrustBundle { intermediate_der: theirs.intermediate_der, ..ours.clone() };
    let error = mixed.verify(ours.root_fingerprint(), NOW).unwrap_err();
    assert!(matches!(error, BundleError::Intermediate { cause: CertificateError::Signature { .. } }), "{error}");
    // the root in the intermediate's place
    let double = TrustBundle { intermediate_der: ours.root_der.clone(), ..ours.clone() };
    assert!(double.verify(ours.root_fingerprint(), NOW).is_ok(), "a root that signs by itself is its own intermediate");
    let other_domain = TrustBundle { trust_domain: "other.local".parse().unwrap(), ..ours.clone() };
    let error = other_domain.verify(ours.root_fingerprint(), NOW).unwrap_err();
    assert!(matches!(error, BundleError::Root { cause: CertificateError::Name { .. } }), "{error}");
}

#[test]
fn a_root_wrong_in_one_point_is_refused() {
    let changes: [(&str, Change); 7] = [
        ("not a CA", |a| a.root.is_ca = IsCa::ExplicitNoCa),
        ("no constraints", |a| a.root.is_ca = IsCa::NoCa),
        ("no keyCertSign", |a| a.root.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
        ("no keyUsage", |a| a.root.key_usages.clear()),
        ("ended", |a| a.root.not_after = date_time_ymd(2026, 12, 31)),
        ("not begun", |a| a.root.not_before = date_time_ymd(2028, 1, 1)),
        ("other domain", |a| a.root.subject_alt_names = vec![uri("spiffe://other.local")]),
    ];
    for (what, change) in changes {
        let outcome = outcome(change);
        assert!(matches!(outcome, Err(BundleError::Root { .. })), "{what}: {outcome:?}");
    }
}

#[test]
fn an_intermediate_wrong_in_one_point_is_refused() {
    let changes: [(&str, Change); 9] = [
        ("not a CA", |a| a.intermediate.is_ca = IsCa::ExplicitNoCa),
        ("no keyCertSign", |a| a.intermediate.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
        ("ended", |a| a.intermediate.not_after = date_time_ymd(2026, 12, 31)),
        ("not begun", |a| a.intermediate.not_before = date_time_ymd(2028, 1, 1)),
        ("no name", |a| a.intermediate.subject_alt_names.clear()),
        ("other domain", |a| a.intermediate.subject_alt_names = vec![uri("spiffe://cluster.local.evil")]),
        ("a workload's name", |a| a.intermediate.subject_alt_names = vec![uri("spiffe://cluster.local/ns/a/sa/b")]),
        ("two names", |a| a.intermediate.subject_alt_names.push(uri("spiffe://other.local"))),
        ("a critical extension of the future", |a| {
            let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]);
            extension.set_criticality(true);
            a.intermediate.custom_extensions.push(extension);
        }),
    ];
    for (what, change) in changes {
        let outcome = outcome(change);
        assert!(matches!(outcome, Err(BundleError::Intermediate { .. })), "{what}: {outcome:?}");
    }
    for algorithm in [&PKCS_ED25519, &PKCS_ECDSA_P384_SHA384] {
        let outcome = outcome(|a| a.intermediate_key = KeyPair::generate_for(algorithm).unwrap());
        assert_eq!(outcome, Err(BundleError::Key));
    }
}

/// ID-20: the same five minutes as for bindings, and to the second.
#[test]
fn id_20_a_bundle_counts_from_five_minutes_before_it_begins_to_the_second_it_ends() {
    let bundle = Authorities::new().bundle();
    let (begin, end) = (NOW.0 - 3_600, NOW.0 + 36_000);
    for (at, good) in [(begin - 301, false), (begin - 300, true), (begin, true), (end, true), (end + 1, false)] {
        assert_eq!(bundle.verify(bundle.root_fingerprint(), UnixTime(at)).is_ok(), good, "at {at}");
    }
}

/// A flipped byte is refused; the one tag outside of what is signed that the parser reads leniently changes nothing.
#[test]
fn no_flipped_byte_of_the_intermediate_changes_what_is_believed() {
    let bundle = Authorities::new().bundle();
    let believed = bundle.verify(bundle.root_fingerprint(), NOW).unwrap();
    let mut lenient = 0;
    for at in 0..bundle.intermediate_der.len() {
        let mut changed = bundle.clone();
        changed.intermediate_der[at] ^= 1;
        if let Ok(verifier) = changed.verify(bundle.root_fingerprint(), NOW) {
            assert_eq!(verifier, believed, "byte {at}");
            lenient += 1;
        }
    }
    assert!(lenient <= 1, "{lenient} bytes can be flipped");
    for at in 0..bundle.intermediate_der.len() {
        let mut cut = bundle.clone();
        cut.intermediate_der.truncate(at);
        assert!(cut.verify(bundle.root_fingerprint(), NOW).is_err(), "cut to {at}");
    }
    let mut longer = bundle.clone();
    longer.intermediate_der.push(0);
    assert!(longer.verify(bundle.root_fingerprint(), NOW).is_err());
}

/// The pin is taken after the root was changed, so it is right; the rest must see it.
#[test]
fn a_root_that_does_not_sign_itself_is_refused_even_when_pinned() {
    let bundle = Authorities::new().bundle();
    let believed = bundle.verify(bundle.root_fingerprint(), NOW).unwrap();
    for at in 0..bundle.root_der.len() {
        let mut changed = bundle.clone();
        changed.root_der[at] ^= 1;
        let outcome = changed.verify(changed.root_fingerprint(), NOW);
        assert!(outcome.as_ref().is_err() || outcome.as_ref() == Ok(&believed), "byte {at}: {outcome:?}");
    }
    let (ours, theirs) = (Authorities::new(), Authorities::new());
    let crossed = Issuer::from_params(&theirs.root, &theirs.root_key);
    let root = ours.root.signed_by(&ours.root_key, &crossed).unwrap();
    let crossed = TrustBundle { root_der: root.der().to_vec(), ..ours.bundle() };
    let error = crossed.verify(crossed.root_fingerprint(), NOW).unwrap_err();
    assert!(matches!(error, BundleError::Root { cause: CertificateError::Signature { .. } }), "{error}");
}

#[test]
fn fingerprints_and_pem_come_back_from_their_text() {
    let bundle = Authorities::new().bundle();
    let fingerprint = bundle.root_fingerprint();
    assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
    for bad in ["", "00", &"A".repeat(64), &"g".repeat(64), &"0".repeat(65)] {
        assert_eq!(bad.parse::<Fingerprint>(), Err(FingerprintError));
    }
    assert_eq!(TrustBundle::from_pem(td(), &bundle.root_pem(), &bundle.intermediate_pem()), Ok(bundle.clone()));
    let two = bundle.root_pem() + &bundle.intermediate_pem();
    assert!(TrustBundle::from_pem(td(), &two, &bundle.intermediate_pem()).is_err());
    assert!(TrustBundle::from_pem(td(), "", &bundle.intermediate_pem()).is_err());
}
