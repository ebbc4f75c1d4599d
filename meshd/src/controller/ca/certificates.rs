//! What the embedded CA's certificates say.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use identity::{CLOCK_SKEW, SpiffeId, TrustDomain, UnixTime};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, date_time_ymd,
};
use ring::rand::{SecureRandom as _, SystemRandom};

const DAY: Duration = Duration::from_secs(86_400);

/// How long a root is valid: what the WebPKI and SPIRE's examples give a root, ten years.
pub(super) const ROOT_VALIDITY: Duration = DAY.saturating_mul(3_652);
/// How long an intermediate is valid: one year, renewed when a third is left.
pub(super) const INTERMEDIATE_VALIDITY: Duration = DAY.saturating_mul(365);
/// 9999-12-31T23:59:59Z, the last second that X.509 can express (RFC 5280, section 4.1.2.5).
const X509_TIME_MAX: u64 = 253_402_300_799;

/// Which of the two authorities.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Root,
    Intermediate,
}

impl Role {
    pub(super) fn key_name(self) -> &'static str {
        match self {
            Self::Root => "root.key",
            Self::Intermediate => "intermediate.key",
        }
    }

    pub(super) fn certificate_name(self) -> &'static str {
        match self {
            Self::Root => "root.crt",
            Self::Intermediate => "intermediate.crt",
        }
    }
}

/// A new authority's key.
pub(super) fn new_key() -> anyhow::Result<KeyPair> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

/// A self-signed root, in PEM.
pub(super) fn root(td: &TrustDomain, pair: &KeyPair, wall: UnixTime, random: &SystemRandom) -> anyhow::Result<String> {
    let mut params = authority(td, Role::Root, random)?;
    set_validity(&mut params, wall.before(CLOCK_SKEW), wall.after(ROOT_VALIDITY))?;
    Ok(params.self_signed(pair).context("cannot sign the root certificate")?.pem())
}

/// An intermediate signed by the root, in PEM; it ends with the root at the latest.
pub(super) fn intermediate(
    td: &TrustDomain,
    pair: &KeyPair,
    root_pair: &KeyPair,
    root_pem: &str,
    wall: UnixTime,
    random: &SystemRandom,
) -> anyhow::Result<String> {
    let root_end = identity::certificate::not_after_of_pem(root_pem).context("the root certificate cannot be read")?;
    let mut params = authority(td, Role::Intermediate, random)?;
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, wall.before(CLOCK_SKEW), wall.after(INTERMEDIATE_VALIDITY).min(root_end))?;
    let root = authority(td, Role::Root, random)?;
    let issuer = Issuer::from_params(&root, root_pair);
    Ok(params.signed_by(pair, &issuer).context("cannot sign the intermediate certificate")?.pem())
}

/// What an X.509-SVID is to say.
pub(super) struct Leaf<'a> {
    pub(super) identity: &'a SpiffeId,
    pub(super) ed25519: [u8; 32],
    pub(super) not_before: UnixTime,
    pub(super) not_after: UnixTime,
}

/// An X.509-SVID signed by the intermediate, in PEM (SPIFFE X.509-SVID specification, section 4).
pub(super) fn leaf(
    leaf: &Leaf<'_>,
    td: &TrustDomain,
    signer: &KeyPair,
    random: &SystemRandom,
) -> anyhow::Result<String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Weft");
    params.subject_alt_names = vec![uri(&leaf.identity.to_string())?];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial_number(random)?);
    set_validity(&mut params, leaf.not_before, leaf.not_after)?;
    let issuer = authority(td, Role::Intermediate, random)?;
    let issuer = Issuer::from_params(&issuer, signer);
    let certificate = params
        .signed_by(&Ed25519Subject(leaf.ed25519), &issuer)
        .with_context(|| format!("cannot sign the X.509-SVID of {}", leaf.identity))?;
    Ok(certificate.pem())
}

/// What both authorities say, but for their validity.
fn authority(td: &TrustDomain, role: Role, random: &SystemRandom) -> anyhow::Result<CertificateParams> {
    let (name, path_length) = match role {
        Role::Root => ("Weft root", 1),
        Role::Intermediate => ("Weft intermediate", 0),
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Weft");
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![uri(&format!("spiffe://{td}"))?];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial_number(random)?);
    Ok(params)
}

fn uri(text: &str) -> anyhow::Result<SanType> {
    Ok(SanType::URI(Ia5String::try_from(text.to_owned()).with_context(|| format!("{text} is not ASCII"))?))
}

/// 127 random bits: unique without a register, also for a renewed certificate of the same key.
fn serial_number(random: &SystemRandom) -> anyhow::Result<SerialNumber> {
    let mut bytes = [0_u8; 16];
    random.fill(&mut bytes).ok().context("the operating system's random number generator failed")?;
    let number = u128::from_be_bytes(bytes) >> 1 | 1 << 126;
    Ok(SerialNumber::from_slice(&number.to_be_bytes()))
}

fn set_validity(params: &mut CertificateParams, not_before: UnixTime, not_after: UnixTime) -> anyhow::Result<()> {
    ensure!(not_after.0 <= X509_TIME_MAX, "a certificate cannot end after the year 9999; check the clock");
    ensure!(not_before <= not_after, "a certificate cannot end ({not_after}) before it begins ({not_before})");
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(not_before.0);
    params.not_after = epoch + Duration::from_secs(not_after.0);
    Ok(())
}

/// A leaf's public key: its private half is on the node.
struct Ed25519Subject([u8; 32]);

impl PublicKeyData for Ed25519Subject {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}
