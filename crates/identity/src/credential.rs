//! The node's credential: the Ed25519 key with which a node signs what it says of itself.

use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use zeroize::Zeroizing;

use crate::name::NodeName;
use crate::sign::{KeyError, SignatureError};

/// What a signature over a MeshNode's spec begins with.
const SPEC_LABEL: &[u8] = b"weft meshnode v1\0";

/// The node's signing key. No `Debug`, no `Clone`; its bytes are wiped when dropped.
pub struct NodeCredential {
    pkcs8: Zeroizing<Vec<u8>>,
    pair: Ed25519KeyPair,
}

impl NodeCredential {
    /// Makes a new credential.
    ///
    /// # Errors
    /// No randomness.
    pub fn generate(random: &SystemRandom) -> Result<Self, KeyError> {
        let document = Ed25519KeyPair::generate_pkcs8(random).map_err(|ring::error::Unspecified| KeyError::Random)?;
        Self::from_pkcs8(document.as_ref())
    }

    /// Reads a credential from PKCS#8 DER (version 2, both halves of the key).
    ///
    /// # Errors
    /// Bytes that are not an Ed25519 key, or whose public half is not that of its private half.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_rejected| KeyError::Pkcs8 { algorithm: "Ed25519" })?;
        Ok(Self { pkcs8: Zeroizing::new(pkcs8.to_vec()), pair })
    }

    /// The private key as PKCS#8 DER, for the one file that keeps it.
    #[must_use]
    pub fn expose_pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The public key, as it stands in MeshNode.spec.credential.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        let mut public = [0; 32];
        public.copy_from_slice(self.pair.public_key().as_ref());
        public
    }

    /// Signs a MeshNode's spec: the JSON of the spec without its signature, exactly as it is written.
    #[must_use]
    pub fn sign_spec(&self, node: &NodeName, spec: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.pair.sign(&spec_message(node, spec)).as_ref());
        signature
    }
}

/// Checks that the holder of a credential signed this spec for this node.
///
/// # Errors
/// It did not, or the name is none that a node can have.
pub fn verify_spec(
    credential: &[u8; 32],
    node: &NodeName,
    spec: &[u8],
    signature: &[u8],
) -> Result<(), SignatureError> {
    // a name with a NUL could borrow bytes from the spec
    if node.0.parse::<NodeName>().is_err() {
        return Err(SignatureError);
    }
    UnparsedPublicKey::new(&ED25519, credential)
        .verify(&spec_message(node, spec), signature)
        .map_err(|ring::error::Unspecified| SignatureError)
}

fn spec_message(node: &NodeName, spec: &[u8]) -> Vec<u8> {
    [SPEC_LABEL, node.0.as_bytes(), b"\0", spec].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeName {
        NodeName(text.to_owned())
    }

    #[test]
    fn a_spec_is_believed_of_its_node_its_words_and_its_key_only() {
        let credential = NodeCredential::generate(&SystemRandom::new()).unwrap();
        let key = credential.public_key();
        let signature = credential.sign_spec(&name("n1"), b"{}");
        assert_eq!(verify_spec(&key, &name("n1"), b"{}", &signature), Ok(()));
        assert_eq!(verify_spec(&key, &name("n2"), b"{}", &signature), Err(SignatureError));
        assert_eq!(verify_spec(&key, &name("n1"), b"{ }", &signature), Err(SignatureError));
        assert_eq!(verify_spec(&key, &name("n1"), b"{}", &signature[..63]), Err(SignatureError));
        assert_eq!(verify_spec(&[0; 32], &name("n1"), b"{}", &signature), Err(SignatureError));
        let other = NodeCredential::generate(&SystemRandom::new()).unwrap();
        assert_eq!(verify_spec(&other.public_key(), &name("n1"), b"{}", &signature), Err(SignatureError));
        for at in 0..64 {
            let mut changed = signature;
            changed[at] ^= 1;
            assert_eq!(verify_spec(&key, &name("n1"), b"{}", &changed), Err(SignatureError), "byte {at}");
        }
    }

    #[test]
    fn a_name_never_borrows_bytes_from_the_spec() {
        let credential = NodeCredential::generate(&SystemRandom::new()).unwrap();
        let signature = credential.sign_spec(&name("n1"), b"x\0{}");
        assert_eq!(verify_spec(&credential.public_key(), &name("n1\0x"), b"{}", &signature), Err(SignatureError));
    }

    #[test]
    fn a_credential_comes_back_from_its_bytes() {
        let credential = NodeCredential::generate(&SystemRandom::new()).unwrap();
        let again = NodeCredential::from_pkcs8(credential.expose_pkcs8()).unwrap();
        assert_eq!(again.public_key(), credential.public_key());
        let mut changed = credential.expose_pkcs8().to_vec();
        for at in 0..changed.len() {
            changed[at] ^= 1;
            if let Ok(other) = NodeCredential::from_pkcs8(&changed) {
                assert_eq!(other.public_key(), credential.public_key(), "byte {at} made another key");
            }
            changed[at] ^= 1;
        }
        assert!(NodeCredential::from_pkcs8(b"").is_err());
    }
}
