//! The trust bundle: a root that is pinned and the intermediate that signs; checked, it becomes a [`Verifier`].

use std::fmt;
use std::str::FromStr;

use ring::digest::{SHA256, digest};
use thiserror::Error;

use crate::binding::CLOCK_SKEW;
use crate::certificate::{self, CertificateError};
use crate::name::UnixTime;
use crate::pem;
use crate::sign::Verifier;
use crate::spiffe::TrustDomain;

/// SHA-256 of a root certificate's DER: what a join token carries and a node pins. Shown as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

/// A text is not 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a SHA-256 fingerprint: 64 digits of 0-9, a-f are expected")]
pub struct FingerprintError;

/// A root and an intermediate certificate as found; nothing in it is believed before [`TrustBundle::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    /// The trust domain it claims to be of.
    pub trust_domain: TrustDomain,
    /// The root certificate, DER.
    pub root_der: Vec<u8>,
    /// The certificate of the key that signs, DER.
    pub intermediate_der: Vec<u8>,
}

/// Why a bundle is not believed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BundleError {
    /// Not the root that was pinned.
    #[error("the root certificate's SHA-256 is {found}, but {pinned} is pinned: this is another trust root")]
    Pin {
        /// What is pinned.
        pinned: Fingerprint,
        /// What was found.
        found: Fingerprint,
    },
    /// The root is not good.
    #[error("the root certificate {cause}")]
    Root {
        /// What is wrong with it; part of the message.
        cause: CertificateError,
    },
    /// The intermediate is not good.
    #[error("the intermediate certificate {cause}")]
    Intermediate {
        /// What is wrong with it; part of the message.
        cause: CertificateError,
    },
    /// The intermediate's key is not of the one kind that signs bindings.
    #[error("the intermediate certificate's key is not ECDSA P-256")]
    Key,
}

impl Fingerprint {
    /// The fingerprint of a certificate.
    #[must_use]
    pub fn of(der: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, der).as_ref());
        Self(bytes)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        crate::hex::decode(text).map(Self).ok_or(FingerprintError)
    }
}

impl TrustBundle {
    /// Reads a bundle from its two PEM texts, one certificate each.
    ///
    /// # Errors
    /// A text that is not exactly one certificate in PEM.
    pub fn from_pem(trust_domain: TrustDomain, root: &str, intermediate: &str) -> Result<Self, BundleError> {
        let one = |text: &str| match pem::decode(text, 1).as_deref() {
            Some([der]) => Ok(der.clone()),
            _ => Err(CertificateError::Pem { expected: "one" }),
        };
        let root_der = one(root).map_err(|cause| BundleError::Root { cause })?;
        let intermediate_der = one(intermediate).map_err(|cause| BundleError::Intermediate { cause })?;
        Ok(Self { trust_domain, root_der, intermediate_der })
    }

    /// The root certificate as PEM.
    #[must_use]
    pub fn root_pem(&self) -> String {
        pem::encode(&self.root_der)
    }

    /// The intermediate certificate as PEM.
    #[must_use]
    pub fn intermediate_pem(&self) -> String {
        pem::encode(&self.intermediate_der)
    }

    /// The root's fingerprint.
    #[must_use]
    pub fn root_fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.root_der)
    }

    /// Decides whether this bundle is believed at `wall`: its root is the pinned one, self-signed and a CA; its
    /// intermediate is signed by the root, a CA and an ECDSA P-256 key; both name `spiffe://<trust domain>` alone
    /// and are in their time (five minutes early is forgiven, as for bindings).
    ///
    /// # Errors
    /// Each [`BundleError`].
    pub fn verify(&self, pinned: Fingerprint, wall: UnixTime) -> Result<Verifier, BundleError> {
        let found = self.root_fingerprint();
        if found != pinned {
            return Err(BundleError::Pin { pinned, found });
        }
        let in_root = |cause| BundleError::Root { cause };
        let root = certificate::parse(&self.root_der).map_err(in_root)?;
        let unsigned = |issuer| move |_rejected| CertificateError::Signature { issuer };
        if root.tbs_certificate.subject.as_raw() != root.tbs_certificate.issuer.as_raw() {
            return Err(in_root(CertificateError::Signature { issuer: "itself" }));
        }
        root.verify_signature(None).map_err(unsigned("itself")).map_err(in_root)?;
        let root_end = self.check_authority(&root, wall).map_err(in_root)?;

        let in_intermediate = |cause| BundleError::Intermediate { cause };
        let intermediate = certificate::parse(&self.intermediate_der).map_err(in_intermediate)?;
        if intermediate.tbs_certificate.issuer.as_raw() != root.tbs_certificate.subject.as_raw() {
            return Err(in_intermediate(CertificateError::Signature { issuer: "the root" }));
        }
        intermediate
            .verify_signature(Some(root.public_key()))
            .map_err(unsigned("the root"))
            .map_err(in_intermediate)?;
        let intermediate_end = self.check_authority(&intermediate, wall).map_err(in_intermediate)?;
        Ok(Verifier {
            trust_domain: self.trust_domain.clone(),
            public_key: p256_point(&intermediate).ok_or(BundleError::Key)?,
            issuer_subject: intermediate.tbs_certificate.subject.as_raw().to_vec(),
            not_after: root_end.min(intermediate_end),
        })
    }

    /// What is asked of both certificates; answers with the last second of its validity.
    fn check_authority(
        &self,
        certificate: &x509_parser::certificate::X509Certificate<'_>,
        wall: UnixTime,
    ) -> Result<UnixTime, CertificateError> {
        certificate::check_authority(certificate)?;
        let expected = format!("spiffe://{}", self.trust_domain);
        let found = certificate::only_uri(certificate, &expected)?;
        if found != expected {
            return Err(CertificateError::Name { expected, found: crate::name::quoted(found) });
        }
        let (_, not_after) = certificate::check_validity(certificate, wall, CLOCK_SKEW)?;
        Ok(not_after)
    }
}

/// The uncompressed point of an ECDSA P-256 key (RFC 5480); `None` for any other key.
fn p256_point(certificate: &x509_parser::certificate::X509Certificate<'_>) -> Option<Vec<u8>> {
    let key = certificate.public_key();
    let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
    let point: &[u8] = &key.subject_public_key.data;
    let is_p256 = key.algorithm.algorithm.to_id_string() == "1.2.840.10045.2.1"
        && curve.to_id_string() == "1.2.840.10045.3.1.7"
        && point.len() == 65
        && point.first() == Some(&4);
    is_p256.then(|| point.to_vec())
}

#[cfg(test)]
pub(crate) mod tests;
