//! The signed statement "this key is that identity on that node", and what makes us believe it.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use thiserror::Error;

use crate::frame::{Reader, Writer};
use crate::name::{Epoch, NodeName, UnixTime, check_node_uid};
use crate::sign::{BINDING_DOMAIN, IssuerKey, KeyError, SIGNATURE_LENGTH_MAX, SignatureError, Verifier};
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::suite::Suite;

/// Longest encoded signed binding, in bytes: the longest SPIFFE ID and node name fit, with room to spare.
pub const ENCODED_LENGTH_MAX: usize = 4096;

/// How far a verifier's clock may be behind the issuer's: a binding is believed this long before its `notBefore`.
///
/// Five minutes is what Kerberos allows (RFC 4120, section 5.2) and what clocks without NTP drift in weeks. There is
/// no allowance after `notAfter`: renewal happens long before, and an end is an end.
pub const CLOCK_SKEW: Duration = Duration::from_secs(300);

const PREFIX: &str = "weftb1.";

/// The statement itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The trust domain of the issuer; the identity's must be the same.
    pub trust_domain: TrustDomain,
    /// Whose key it is.
    pub spiffe_id: SpiffeId,
    /// X25519 public key.
    pub public_key: [u8; 32],
    /// The node where the private key is.
    pub node: NodeName,
    /// That node's UID; a rebuilt node has another.
    pub node_uid: String,
    /// The key's generation.
    pub epoch: Epoch,
    /// First second of validity.
    pub not_before: UnixTime,
    /// Last second of validity.
    pub not_after: UnixTime,
    /// The best data cipher of whoever has the key.
    pub suite: Suite,
}

/// A binding with the issuer's signature over it; nothing in it is to be believed before
/// [`Verifier::verify_binding`] says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedBinding {
    /// What is stated.
    pub binding: Binding,
    /// ECDSA P-256 over [`Binding::to_bytes`] in the domain [`BINDING_DOMAIN`].
    pub signature: Vec<u8>,
}

/// Why a text is not a signed binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Over [`ENCODED_LENGTH_MAX`].
    #[error("a binding of {length} bytes is over the limit of {max}", max = ENCODED_LENGTH_MAX)]
    TooLong {
        /// Its length.
        length: usize,
    },
    /// Not `weftb1.<base64url>.<base64url>`.
    #[error("not the text of a signed binding: `weftb1.` and two parts in base64url are expected")]
    Form,
    /// The bytes inside are not a binding, or not in their one canonical form.
    #[error("the bytes inside are not a binding in canonical form")]
    Body,
    /// The part after the second dot cannot be a signature.
    #[error("a signature of {length} bytes is over the limit of {max}", max = SIGNATURE_LENGTH_MAX)]
    Signature {
        /// Its length.
        length: usize,
    },
}

/// Why a binding is not believed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BindingError {
    /// Not signed by our issuer, or changed since.
    #[error("binding of {identity}: the signature is not the issuer's, or the binding was changed")]
    Signature {
        /// What it claims.
        identity: SpiffeId,
        /// From the check.
        #[source]
        source: SignatureError,
    },
    /// Another trust domain's, or an identity that its issuer cannot speak for.
    #[error("binding of {identity} is for trust domain {stated}, ours is {ours}")]
    TrustDomain {
        /// The identity.
        identity: SpiffeId,
        /// What the binding states.
        stated: TrustDomain,
        /// What the verifier is for.
        ours: TrustDomain,
    },
    /// True, but about another node than the one it was found at.
    #[error("binding of {identity} is for node {stated} ({stated_uid}), not for the node it was found at")]
    Node {
        /// The identity.
        identity: SpiffeId,
        /// The node in the binding.
        stated: NodeName,
        /// Its UID there.
        stated_uid: String,
    },
    /// Its time has not come, even with the clock tolerance.
    #[error("binding of {identity} is valid from {not_before}, now is {wall} (tolerance {skew:?}); check the clocks")]
    NotYetValid {
        /// The identity.
        identity: SpiffeId,
        /// First second of validity.
        not_before: UnixTime,
        /// The verifier's clock.
        wall: UnixTime,
        /// The tolerance applied.
        skew: Duration,
    },
    /// Its time is over.
    #[error("binding of {identity} was valid until {not_after}, now is {wall}")]
    Expired {
        /// The identity.
        identity: SpiffeId,
        /// Last second of validity.
        not_after: UnixTime,
        /// The verifier's clock.
        wall: UnixTime,
    },
    /// The issuer's own certificate has ended; a newer trust bundle is needed.
    #[error("the issuer's certificate was valid until {not_after}, now is {wall}: a newer trust bundle is needed")]
    IssuerExpired {
        /// Last second of the chain's validity.
        not_after: UnixTime,
        /// The verifier's clock.
        wall: UnixTime,
    },
    /// What it states can never be right, whoever signed it.
    #[error("binding of {identity} contradicts itself: {fault}")]
    Unsound {
        /// The identity.
        identity: SpiffeId,
        /// What is wrong.
        fault: Fault,
    },
}

/// What in a binding can never be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// The identity is not of the stated trust domain.
    #[error("the identity is of another trust domain than the binding")]
    ForeignIdentity,
    /// It ends before it begins.
    #[error("it ends before it begins")]
    EmptyValidity,
    /// A key with which everybody would share the same secret.
    #[error("the public key is one of the points of low order")]
    WeakKey,
    /// The node UID is empty, too long or has foreign characters.
    #[error("the node UID is not one")]
    NodeUid,
    /// The node name is not an RFC 1123 subdomain.
    #[error("the node name is not one")]
    NodeName,
}

impl Binding {
    /// The one form in which a binding is signed: its fields, length-prefixed, in the order of the struct. The suite is named
    /// unless it is what everybody speaks.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let writer = Writer::new(BINDING_DOMAIN)
            .field(self.trust_domain.as_str().as_bytes())
            .field(self.spiffe_id.to_string().as_bytes())
            .field(&self.public_key)
            .field(self.node.0.as_bytes())
            .field(self.node_uid.as_bytes())
            .number(self.epoch.0)
            .number(self.not_before.0)
            .number(self.not_after.0);
        let writer = if self.suite.is_default() { writer } else { writer.field(self.suite.name().as_bytes()) };
        writer.into_bytes()
    }

    /// Reads what [`Binding::to_bytes`] wrote; `None` for anything else.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        if reader.field()? != BINDING_DOMAIN.as_bytes() {
            return None;
        }
        let mut binding = Self {
            trust_domain: reader.text()?.parse().ok()?,
            spiffe_id: reader.text()?.parse().ok()?,
            public_key: reader.field()?.try_into().ok()?,
            node: reader.text()?.parse().ok()?,
            node_uid: reader.text()?.to_owned(),
            epoch: Epoch(reader.number()?),
            not_before: UnixTime(reader.number()?),
            not_after: UnixTime(reader.number()?),
            suite: Suite::default(),
        };
        if !reader.is_empty() {
            binding.suite = reader.text()?.parse().ok().filter(|suite: &Suite| !suite.is_default())?;
        }
        (reader.is_empty() && check_node_uid(&binding.node_uid).is_ok()).then_some(binding)
    }

    /// Checks what can be checked without a clock or a key; the issuer asks before it signs, the verifier after.
    ///
    /// # Errors
    /// Each [`Fault`].
    pub fn check(&self) -> Result<(), Fault> {
        if self.spiffe_id.trust_domain() != &self.trust_domain {
            return Err(Fault::ForeignIdentity);
        }
        if self.not_after < self.not_before {
            return Err(Fault::EmptyValidity);
        }
        if is_low_order(&self.public_key) {
            return Err(Fault::WeakKey);
        }
        if check_node_uid(&self.node_uid).is_err() {
            return Err(Fault::NodeUid);
        }
        if self.node.0.parse::<NodeName>().is_err() {
            return Err(Fault::NodeName);
        }
        Ok(())
    }

    /// Signs this binding.
    ///
    /// # Errors
    /// No randomness. What is signed is the caller's to judge: see [`Binding::check`].
    pub fn sign(self, issuer: &IssuerKey) -> Result<SignedBinding, KeyError> {
        let signature = issuer.sign(BINDING_DOMAIN, &self.to_bytes())?;
        Ok(SignedBinding { binding: self, signature })
    }
}

impl SignedBinding {
    /// As text: `weftb1.<binding in base64url>.<signature in base64url>`.
    #[must_use]
    pub fn encode(&self) -> String {
        let [body, signature] = [&self.binding.to_bytes(), &self.signature].map(|b| URL_SAFE_NO_PAD.encode(b));
        format!("{PREFIX}{body}.{signature}")
    }

    /// Reads a text. Only the form is judged, not whether it is true.
    ///
    /// # Errors
    /// Too long, not in the form of [`SignedBinding::encode`], or not canonical.
    pub fn decode(text: &str) -> Result<Self, DecodeError> {
        if text.len() > ENCODED_LENGTH_MAX {
            return Err(DecodeError::TooLong { length: text.len() });
        }
        let parts = text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('.')).ok_or(DecodeError::Form)?;
        let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_not_base64| DecodeError::Form);
        let (body, signature) = (decoded(parts.0)?, decoded(parts.1)?);
        if signature.len() > SIGNATURE_LENGTH_MAX {
            return Err(DecodeError::Signature { length: signature.len() });
        }
        let binding = Binding::from_bytes(&body).ok_or(DecodeError::Body)?;
        Ok(Self { binding, signature })
    }
}

impl Verifier {
    /// Decides whether a binding is believed at `wall`: signed by our issuer, for our trust domain, in its time.
    ///
    /// That it is about the node it was found at is the other half: [`Verifier::verify_binding_of`].
    ///
    /// # Errors
    /// Each [`BindingError`] but `Node`.
    pub fn verify_binding(&self, signed: &SignedBinding, wall: UnixTime, skew: Duration) -> Result<(), BindingError> {
        let SignedBinding { binding, signature } = signed;
        let identity = || binding.spiffe_id.clone();
        self.verify(BINDING_DOMAIN, &binding.to_bytes(), signature)
            .map_err(|source| BindingError::Signature { identity: identity(), source })?;
        if binding.trust_domain != self.trust_domain {
            let (stated, ours) = (binding.trust_domain.clone(), self.trust_domain.clone());
            return Err(BindingError::TrustDomain { identity: identity(), stated, ours });
        }
        binding.check().map_err(|fault| BindingError::Unsound { identity: identity(), fault })?;
        if wall > self.not_after {
            return Err(BindingError::IssuerExpired { not_after: self.not_after, wall });
        }
        if wall.after(skew) < binding.not_before {
            let not_before = binding.not_before;
            return Err(BindingError::NotYetValid { identity: identity(), not_before, wall, skew });
        }
        if wall > binding.not_after {
            return Err(BindingError::Expired { identity: identity(), not_after: binding.not_after, wall });
        }
        Ok(())
    }

    /// As [`Verifier::verify_binding`], and it must be about this node and this node's UID.
    ///
    /// # Errors
    /// Each [`BindingError`].
    pub fn verify_binding_of(
        &self,
        (node, node_uid): (&NodeName, &str),
        signed: &SignedBinding,
        wall: UnixTime,
        skew: Duration,
    ) -> Result<(), BindingError> {
        self.verify_binding(signed, wall, skew)?;
        let binding = &signed.binding;
        if &binding.node != node || binding.node_uid != node_uid {
            return Err(BindingError::Node {
                identity: binding.spiffe_id.clone(),
                stated: binding.node.clone(),
                stated_uid: binding.node_uid.clone(),
            });
        }
        Ok(())
    }
}

/// Whether an X25519 public key makes a secret that everybody knows: the points of order 1, 2, 4 and 8 and their
/// other encodings (libsodium's list in `x25519_ref10.c`; the top bit is ignored, as RFC 7748 section 5 says).
fn is_low_order(key: &[u8; 32]) -> bool {
    const ORDER_8: [[u8; 32]; 2] = [
        [
            0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
            0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
        ],
        [
            0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44,
            0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
        ],
    ];
    let [first, middle @ .., last] = key;
    let last = last & 0x7f;
    // 0 and 1; and p - 1, p, p + 1 with p = 2^255 - 19
    let tiny = *first <= 1 && last == 0 && middle.iter().all(|b| *b == 0);
    let around_p = (0xec..=0xee).contains(first) && last == 0x7f && middle.iter().all(|b| *b == 0xff);
    let mut masked = *key;
    if let Some(top) = masked.last_mut() {
        *top = last;
    }
    tiny || around_p || ORDER_8.contains(&masked)
}

#[cfg(test)]
mod tests;
