//! The issuer's word: domain-separated byte strings signed with ECDSA P-256, and who checks them.

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::frame::Writer;
use crate::name::UnixTime;
use crate::spiffe::TrustDomain;

/// Signature domain of [`SignedBinding`](crate::SignedBinding).
pub const BINDING_DOMAIN: &str = "weft binding v1";
/// Signature domain of a MeshEndpointSlice's spec.
pub const SLICE_DOMAIN: &str = "weft meshendpointslice v1";

/// Longest ECDSA P-256 signature in ASN.1 form, in bytes (two integers of up to 33 bytes with their headers).
pub const SIGNATURE_LENGTH_MAX: usize = 72;

/// The issuer's signing key (ECDSA P-256, SHA-256). No `Debug`, no `Clone`.
pub struct IssuerKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

/// Why a key could not be made, read or used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// The bytes are not a PKCS#8 key of the kind expected.
    #[error("not a PKCS#8 private key of the {algorithm} algorithm")]
    Pkcs8 {
        /// The algorithm expected.
        algorithm: &'static str,
    },
    /// The operating system gave no randomness.
    #[error("the operating system's random number generator failed")]
    Random,
}

/// A signature is not the issuer's over these bytes in this domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the signature is not the issuer's, or what it covers was changed")]
pub struct SignatureError;

impl IssuerKey {
    /// Makes a new private key, as PKCS#8 DER.
    ///
    /// # Errors
    /// No randomness.
    pub fn generate_pkcs8(random: &SystemRandom) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, random)
            .map_err(|ring::error::Unspecified| KeyError::Random)?;
        Ok(Zeroizing::new(document.as_ref().to_vec()))
    }

    /// Reads a private key from PKCS#8 DER.
    ///
    /// # Errors
    /// Bytes that are not an ECDSA P-256 key, or whose public half is not that of its private half.
    pub fn from_pkcs8(pkcs8: &[u8], random: SystemRandom) -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, &random)
            .map_err(|_rejected| KeyError::Pkcs8 { algorithm: "ECDSA P-256" })?;
        Ok(Self { pair, random })
    }

    /// The public key: an uncompressed point of 65 bytes.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// Signs bytes for one purpose; the signature means nothing in another domain.
    ///
    /// # Errors
    /// No randomness.
    pub fn sign(&self, domain: &str, bytes: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = self
            .pair
            .sign(&self.random, &message(domain, bytes))
            .map_err(|ring::error::Unspecified| KeyError::Random)?;
        Ok(signature.as_ref().to_vec())
    }

    /// Who checks this key's signatures without certificates: for the issuer itself and for simulations.
    /// It knows no certificate, so it believes no X.509-SVID.
    #[must_use]
    pub fn verifier(&self, trust_domain: TrustDomain) -> Verifier {
        Verifier {
            trust_domain,
            public_key: self.public_key().to_vec(),
            issuer_subject: Vec::new(),
            not_after: UnixTime(u64::MAX),
        }
    }
}

/// What a verified trust bundle comes down to: the issuer's public key in a trust domain, and until when it counts.
///
/// Made by [`TrustBundle::verify`](crate::TrustBundle::verify) only (and by [`IssuerKey::verifier`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier {
    pub(crate) trust_domain: TrustDomain,
    /// Uncompressed P-256 point.
    pub(crate) public_key: Vec<u8>,
    /// The intermediate's subject in DER, which every X.509-SVID names as its issuer.
    pub(crate) issuer_subject: Vec<u8>,
    /// The earlier end of the root's and the intermediate's validity.
    pub(crate) not_after: UnixTime,
}

impl Verifier {
    /// The trust domain whose identities this can speak for; no other's.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Last second of the bundle's validity; after it a newer bundle is needed.
    #[must_use]
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// Checks that the issuer signed these bytes for this purpose.
    ///
    /// # Errors
    /// It did not.
    pub fn verify(&self, domain: &str, bytes: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.public_key)
            .verify(&message(domain, bytes), signature)
            .map_err(|ring::error::Unspecified| SignatureError)
    }
}

/// What is really signed: purpose and bytes, length-prefixed.
fn message(domain: &str, bytes: &[u8]) -> Vec<u8> {
    Writer::new("weft signed v1").field(domain.as_bytes()).field(bytes).into_bytes()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A fresh issuer.
    pub(crate) fn issuer() -> IssuerKey {
        let random = SystemRandom::new();
        IssuerKey::from_pkcs8(&IssuerKey::generate_pkcs8(&random).unwrap(), random).unwrap()
    }

    #[test]
    fn a_signature_holds_for_its_bytes_its_purpose_and_its_key_only() {
        let key = issuer();
        let verifier = key.verifier("td".parse().unwrap());
        let signature = key.sign("purpose", b"bytes").unwrap();
        assert!(signature.len() <= SIGNATURE_LENGTH_MAX);
        assert_eq!(verifier.verify("purpose", b"bytes", &signature), Ok(()));
        assert_eq!(verifier.verify("purpos", b"ebytes", &signature), Err(SignatureError));
        assert_eq!(verifier.verify("purpose", b"byteS", &signature), Err(SignatureError));
        assert_eq!(verifier.verify("purpose", b"bytes", &[]), Err(SignatureError));
        assert_eq!(
            issuer().verifier("td".parse().unwrap()).verify("purpose", b"bytes", &signature),
            Err(SignatureError)
        );
        for at in 0..signature.len() {
            let mut changed = signature.clone();
            changed[at] ^= 1;
            assert_eq!(verifier.verify("purpose", b"bytes", &changed), Err(SignatureError), "byte {at}");
        }
    }

    #[test]
    fn only_a_p256_key_is_read() {
        let random = SystemRandom::new();
        let ed25519 = ring::signature::Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        for bad in [&[][..], b"rubbish", ed25519.as_ref()] {
            assert!(IssuerKey::from_pkcs8(bad, random.clone()).is_err());
        }
    }
}
