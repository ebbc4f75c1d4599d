//! What an X.509-SVID must say for us to believe it (SPIFFE X.509-SVID specification, sections 2 to 5).

use std::time::Duration;

use thiserror::Error;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::certificate::{self, CertificateError};
use crate::name::{UnixTime, quoted};
use crate::pem;
use crate::sign::Verifier;
use crate::spiffe::{SpiffeError, SpiffeId, TrustDomain};

/// Most certificates in a chain: a leaf and up to three intermediates.
pub const CHAIN_LENGTH_MAX: usize = 4;

/// Longest chain in PEM, in bytes.
pub const CHAIN_PEM_LENGTH_MAX: usize = 64 * 1024;

/// A verified X.509-SVID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Svid {
    /// Whose it is.
    pub spiffe_id: SpiffeId,
    /// The subject's public key, as SubjectPublicKeyInfo in DER.
    pub public_key_der: Vec<u8>,
    /// First second of validity.
    pub not_before: UnixTime,
    /// Last second of validity.
    pub not_after: UnixTime,
}

/// Why an X.509-SVID is not believed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SvidError {
    /// The certificate itself is not good.
    #[error("the X.509-SVID {cause}")]
    Certificate {
        /// What is wrong with it; part of the message.
        cause: CertificateError,
    },
    /// The URI is not a SPIFFE ID of a workload.
    #[error("the X.509-SVID's URI `{uri}` is not a SPIFFE ID with a path")]
    Uri {
        /// What is there, shortened.
        uri: String,
        /// Why not.
        #[source]
        source: SpiffeError,
    },
    /// Another trust domain's.
    #[error("the X.509-SVID is of {identity}, which is not of trust domain {ours}")]
    TrustDomain {
        /// Whose it is.
        identity: SpiffeId,
        /// What the verifier is for.
        ours: TrustDomain,
    },
}

impl Verifier {
    /// Decides whether the first certificate of a PEM chain is believed at `wall`: signed by our issuer, in its time
    /// (`skew` early is forgiven), not a CA, for digital signatures, and naming one SPIFFE ID of our trust domain.
    ///
    /// The chain's other certificates are not looked at: the issuer's is known from the verified bundle.
    ///
    /// # Errors
    /// Each [`SvidError`].
    pub fn verify_svid(&self, chain_pem: &str, wall: UnixTime, skew: Duration) -> Result<Svid, SvidError> {
        let wrong = |cause| SvidError::Certificate { cause };
        let chain =
            (chain_pem.len() <= CHAIN_PEM_LENGTH_MAX).then(|| pem::decode(chain_pem, CHAIN_LENGTH_MAX)).flatten();
        let leaf_der =
            chain.as_deref().and_then(<[_]>::first).ok_or(wrong(CertificateError::Pem { expected: "1 to 4" }))?;
        let leaf = certificate::parse(leaf_der).map_err(wrong)?;
        self.check_signature(&leaf).map_err(wrong)?;
        check_leaf(&leaf).map_err(wrong)?;
        if wall > self.not_after {
            let validity = CertificateError::Validity { not_before: UnixTime(0), not_after: self.not_after, wall };
            return Err(wrong(validity));
        }
        let (not_before, not_after) = certificate::check_validity(&leaf, wall, skew).map_err(wrong)?;
        let expected = format!("spiffe://{}/...", self.trust_domain);
        let uri = certificate::only_uri(&leaf, &expected).map_err(wrong)?;
        let spiffe_id: SpiffeId = uri.parse().map_err(|source| SvidError::Uri { uri: quoted(uri), source })?;
        if spiffe_id.trust_domain() != &self.trust_domain {
            return Err(SvidError::TrustDomain { identity: spiffe_id, ours: self.trust_domain.clone() });
        }
        Ok(Svid { spiffe_id, public_key_der: leaf.public_key().raw.to_vec(), not_before, not_after })
    }

    /// Signed by our issuer, and says so.
    fn check_signature(&self, leaf: &X509Certificate<'_>) -> Result<(), CertificateError> {
        /// SubjectPublicKeyInfo of an ECDSA P-256 key up to its point (RFC 5480).
        const P256_HEADER: [u8; 26] = [
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
            0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ];
        let unsigned = CertificateError::Signature { issuer: "the issuer" };
        if self.issuer_subject.is_empty() || leaf.tbs_certificate.issuer.as_raw() != self.issuer_subject {
            return Err(unsigned);
        }
        let issuer_der = [&P256_HEADER, self.public_key.as_slice()].concat();
        let Ok((_, issuer)) = SubjectPublicKeyInfo::from_der(&issuer_der) else {
            return Err(unsigned);
        };
        leaf.verify_signature(Some(&issuer)).map_err(|_rejected| unsigned)
    }
}

/// A leaf: not a CA, and its key is for digital signatures only (X.509-SVID, sections 4.1 to 4.4).
fn check_leaf(leaf: &X509Certificate<'_>) -> Result<(), CertificateError> {
    let role = |what| Err(CertificateError::Role { what });
    match leaf.basic_constraints() {
        Ok(Some(constraints)) if constraints.value.ca => return role("is a CA certificate"),
        Ok(_) => {}
        Err(_unreadable) => return Err(CertificateError::Extension),
    }
    let usage = match leaf.key_usage() {
        Ok(Some(usage)) if usage.critical => usage.value,
        Ok(_) => return role("has no critical keyUsage"),
        Err(_unreadable) => return Err(CertificateError::Extension),
    };
    if !usage.digital_signature() {
        return role("is not for digital signatures (keyUsage)");
    }
    if usage.key_cert_sign() || usage.crl_sign() {
        return role("may sign certificates or revocation lists (keyUsage)");
    }
    match leaf.extended_key_usage() {
        Ok(Some(usage)) if !(usage.value.server_auth && usage.value.client_auth) => {
            role("has an extendedKeyUsage without both serverAuth and clientAuth")
        }
        Ok(_) => Ok(()),
        Err(_unreadable) => Err(CertificateError::Extension),
    }
}

#[cfg(test)]
mod tests;
