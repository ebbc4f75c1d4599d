//! What the bundle and the SVIDs ask of an X.509 certificate, asked in one place.

use thiserror::Error;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use crate::name::{UnixTime, quoted};

/// Longest certificate that is looked at, in bytes of DER. Ours have under 1 KiB.
pub const CERTIFICATE_LENGTH_MAX: usize = 16 * 1024;

/// What is wrong with a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CertificateError {
    /// Not one X.509 certificate, whole and alone.
    #[error("not an X.509 certificate of at most {max} bytes in DER", max = CERTIFICATE_LENGTH_MAX)]
    Der,
    /// Not one certificate in PEM.
    #[error("not exactly {expected} certificate(s) in PEM")]
    Pem {
        /// How many were expected.
        expected: &'static str,
    },
    /// An algorithm that is not believed, or two that contradict each other.
    #[error("signed with algorithm {oid}, which is not accepted")]
    Algorithm {
        /// Its object identifier.
        oid: String,
    },
    /// Marked critical, and not understood here.
    #[error("has the critical extension {oid}, which is not understood")]
    CriticalExtension {
        /// Its object identifier.
        oid: String,
    },
    /// An extension that cannot be read or is there twice.
    #[error("has an extension that cannot be read, or twice the same")]
    Extension,
    /// The signature is not that of its issuer.
    #[error("is not signed by {issuer}")]
    Signature {
        /// Who should have signed.
        issuer: &'static str,
    },
    /// Not yet, or no longer.
    #[error("is valid from {not_before} to {not_after}, now is {wall}")]
    Validity {
        /// First second.
        not_before: UnixTime,
        /// Last second.
        not_after: UnixTime,
        /// The verifier's clock.
        wall: UnixTime,
    },
    /// A CA certificate where a leaf is expected, or the reverse.
    #[error("{what}")]
    Role {
        /// What is missing or should not be there.
        what: &'static str,
    },
    /// The names inside are not the one URI expected.
    #[error("must name exactly `{expected}`, names `{found}`")]
    Name {
        /// What is expected.
        expected: String,
        /// What is there, shortened.
        found: String,
    },
}

/// Reads one certificate: whole, of a size that ours could have, with extensions that are all readable, understood
/// where critical, and there once.
pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    if der.len() > CERTIFICATE_LENGTH_MAX {
        return Err(CertificateError::Der);
    }
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|_rejected| CertificateError::Der)?;
    // the signature is whole bytes; the bits that DER could leave out of the last one are outside of what is signed
    if !rest.is_empty() || certificate.signature_value.unused_bits != 0 {
        return Err(CertificateError::Der);
    }
    certificate.extensions_map().map_err(|_twice| CertificateError::Extension)?;
    for extension in certificate.extensions() {
        let parsed = extension.parsed_extension();
        if matches!(parsed, ParsedExtension::ParseError { .. }) {
            return Err(CertificateError::Extension);
        }
        let understood = matches!(
            parsed,
            ParsedExtension::BasicConstraints(_)
                | ParsedExtension::KeyUsage(_)
                | ParsedExtension::ExtendedKeyUsage(_)
                | ParsedExtension::SubjectAlternativeName(_)
                | ParsedExtension::SubjectKeyIdentifier(_)
                | ParsedExtension::AuthorityKeyIdentifier(_)
        );
        if extension.critical && !understood {
            return Err(CertificateError::CriticalExtension { oid: extension.oid.to_id_string() });
        }
    }
    check_algorithm(&certificate)?;
    Ok(certificate)
}

/// ECDSA and RSA with SHA-2, and Ed25519; the same inside the signed part and outside of it (RFC 5280, 4.1.1.2).
fn check_algorithm(certificate: &X509Certificate<'_>) -> Result<(), CertificateError> {
    /// ecdsa-with-SHA256/384 (RFC 5758), Ed25519 (RFC 8410), sha256/384/512WithRSAEncryption (RFC 4055).
    const ACCEPTED: [&str; 6] = [
        "1.2.840.10045.4.3.2",
        "1.2.840.10045.4.3.3",
        "1.3.101.112",
        "1.2.840.113549.1.1.11",
        "1.2.840.113549.1.1.12",
        "1.2.840.113549.1.1.13",
    ];
    let oid = certificate.signature_algorithm.algorithm.to_id_string();
    if certificate.signature_algorithm != certificate.tbs_certificate.signature || !ACCEPTED.contains(&oid.as_str()) {
        return Err(CertificateError::Algorithm { oid });
    }
    Ok(())
}

/// A certificate authority that may sign certificates.
pub(crate) fn check_authority(certificate: &X509Certificate<'_>) -> Result<(), CertificateError> {
    let role = |what| Err(CertificateError::Role { what });
    match certificate.basic_constraints() {
        Ok(Some(constraints)) if constraints.critical && constraints.value.ca => {}
        Ok(_) => return role("is not a CA certificate"),
        Err(_unreadable) => return Err(CertificateError::Extension),
    }
    match certificate.key_usage() {
        Ok(Some(usage)) if usage.value.key_cert_sign() => Ok(()),
        Ok(_) => role("may not sign certificates (keyUsage without keyCertSign)"),
        Err(_unreadable) => Err(CertificateError::Extension),
    }
}

/// Its validity in our seconds, checked against the clock. `early` is accepted before `notBefore`.
pub(crate) fn check_validity(
    certificate: &X509Certificate<'_>,
    wall: UnixTime,
    early: std::time::Duration,
) -> Result<(UnixTime, UnixTime), CertificateError> {
    let seconds = |time: i64| UnixTime(u64::try_from(time).unwrap_or(0));
    let validity = certificate.validity();
    let (not_before, not_after) = (seconds(validity.not_before.timestamp()), seconds(validity.not_after.timestamp()));
    if wall.after(early) < not_before || wall > not_after {
        return Err(CertificateError::Validity { not_before, not_after, wall });
    }
    Ok((not_before, not_after))
}

/// The one URI in its subjectAltName: nothing else may be in there.
pub(crate) fn only_uri<'a>(certificate: &'a X509Certificate<'_>, expected: &str) -> Result<&'a str, CertificateError> {
    let other = |found: &str| CertificateError::Name { expected: expected.to_owned(), found: quoted(found) };
    let names = match certificate.subject_alternative_name() {
        Ok(Some(names)) => &names.value.general_names,
        Ok(None) => return Err(other("")),
        Err(_unreadable) => return Err(CertificateError::Extension),
    };
    match names.as_slice() {
        [GeneralName::URI(uri)] => Ok(uri),
        _ => Err(other(&names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))),
    }
}

/// The last second of validity of the one certificate in a PEM text; `None` where that is not what it is. Nothing is
/// verified.
#[must_use]
pub fn not_after_of_pem(text: &str) -> Option<UnixTime> {
    let ders = crate::pem::decode(text, 1)?;
    let certificate = parse(ders.first()?).ok()?;
    u64::try_from(certificate.validity().not_after.timestamp()).ok().map(UnixTime)
}
