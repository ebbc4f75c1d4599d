//! Join tokens: how a new node proves once that somebody wanted it, and learns whom to trust.
//!
//! A token is `weft1.<id>.<secret>.<root fingerprint>`: 16, 64 and 64 hexadecimal digits. The node sends the id and a
//! proof that it knows the secret; the secret itself never travels.

use std::str::FromStr;

use ring::hmac;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::bundle::Fingerprint;
use crate::frame::Writer;
use crate::hex;
use crate::name::NodeName;

/// Length of a token's secret, in bytes.
pub const TOKEN_SECRET_LENGTH: usize = 32;

/// A one-time join token. No `Debug`; the secret is wiped when dropped.
pub struct JoinToken {
    id: String,
    secret: Zeroizing<[u8; TOKEN_SECRET_LENGTH]>,
    root: Fingerprint,
}

/// Why a text is not a join token. Says nothing of what was read: it may be most of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    /// Not four parts, or not ours.
    #[error(
        "not a join token: `weft1.<id>.<secret>.<root fingerprint>` is expected, as `meshctl node token` prints it"
    )]
    Form,
    /// One part is damaged.
    #[error("the join token's {part} is damaged: it was cut or changed on the way; print it again")]
    Part {
        /// Which part.
        part: &'static str,
    },
}

/// The proof is not one of this secret for this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the join proof is not made with this token for this node, node UID and credential")]
pub struct ProofError;

impl JoinToken {
    /// Makes a token from randomness that nobody else knows.
    #[must_use]
    pub fn generate(random: Zeroizing<[u8; 8 + TOKEN_SECRET_LENGTH]>, root: Fingerprint) -> Self {
        let mut secret = Zeroizing::new([0; TOKEN_SECRET_LENGTH]);
        let (id, rest) = random.split_at(8);
        secret.copy_from_slice(rest);
        Self { id: hex::encode(id), secret, root }
    }

    /// The token's name: not secret, and unique.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The secret, for the one file in which the controller keeps it.
    #[must_use]
    pub fn expose_secret(&self) -> &[u8; TOKEN_SECRET_LENGTH] {
        &self.secret
    }

    /// The fingerprint of the root to pin.
    #[must_use]
    pub fn root(&self) -> Fingerprint {
        self.root
    }

    /// The whole text, secret included: to be shown once.
    #[must_use]
    pub fn expose_text(&self) -> Zeroizing<String> {
        let secret = Zeroizing::new(hex::encode(&*self.secret));
        Zeroizing::new(format!("weft1.{}.{}.{}", self.id, *secret, self.root))
    }

    /// Proves knowledge of the secret, for this node, node UID and credential alone.
    #[must_use]
    pub fn proof(&self, node: &NodeName, node_uid: &str, credential: &[u8; 32]) -> [u8; 32] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &*self.secret);
        let mut proof = [0; 32];
        proof.copy_from_slice(hmac::sign(&key, &proof_message(node, node_uid, credential)).as_ref());
        proof
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    /// Reads a token; white space around it is ignored, so that a file with a newline will do.
    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut parts = text.trim().split('.');
        let (Some("weft1"), Some(id), Some(secret), Some(root), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Form);
        };
        let damaged = |part| TokenError::Part { part };
        hex::decode::<8>(id).ok_or(damaged("id"))?;
        let secret = Zeroizing::new(hex::decode(secret).ok_or(damaged("secret"))?);
        let root = Fingerprint(hex::decode(root).ok_or(damaged("root fingerprint"))?);
        Ok(Self { id: id.to_owned(), secret, root })
    }
}

/// The controller's side of [`JoinToken::proof`], in time that does not depend on the proof.
///
/// # Errors
/// The proof is another one.
pub fn verify_proof(
    secret: &[u8; TOKEN_SECRET_LENGTH],
    node: &NodeName,
    node_uid: &str,
    credential: &[u8; 32],
    proof: &[u8],
) -> Result<(), ProofError> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    hmac::verify(&key, &proof_message(node, node_uid, credential), proof).map_err(|ring::error::Unspecified| ProofError)
}

fn proof_message(node: &NodeName, node_uid: &str, credential: &[u8; 32]) -> Vec<u8> {
    Writer::new("weft join v1").field(node.0.as_bytes()).field(node_uid.as_bytes()).field(credential).into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(seed: u8) -> JoinToken {
        JoinToken::generate(
            Zeroizing::new(std::array::from_fn(|i| u8::try_from(i).unwrap() ^ seed)),
            Fingerprint([3; 32]),
        )
    }

    #[test]
    fn a_token_comes_back_from_its_text() {
        let text = token(0).expose_text();
        assert_eq!(
            *text,
            format!(
                "weft1.0001020304050607.08090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f2021222324252627.{}",
                "03".repeat(32)
            )
        );
        let read: JoinToken = format!(" {}\n", *text).parse().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(
            (read.id(), read.expose_secret(), read.root()),
            (token(0).id(), token(0).expose_secret(), Fingerprint([3; 32]))
        );
    }

    #[test]
    fn a_damaged_token_is_refused_without_repeating_it() {
        let text = token(0).expose_text();
        for at in 0..text.len() {
            let cut =
                text[..at].parse::<JoinToken>().err().unwrap_or_else(|| panic!("a token of {at} characters was taken"));
            assert!(!cut.to_string().contains("0809"), "{cut}");
        }
        for bad in [
            format!("{}.", *text),
            text.to_uppercase(),
            text.replacen("weft1", "weft2", 1),
            text.replacen("08", "0g", 1),
        ] {
            assert!(bad.parse::<JoinToken>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_proof_is_for_one_node_one_uid_one_credential_and_one_secret() {
        let node = NodeName("n1".to_owned());
        let proof = token(0).proof(&node, "u1", &[5; 32]);
        let check = |t: &JoinToken, n: &str, u: &str, c: [u8; 32], p: &[u8]| {
            verify_proof(t.expose_secret(), &NodeName(n.to_owned()), u, &c, p)
        };
        assert_eq!(check(&token(0), "n1", "u1", [5; 32], &proof), Ok(()));
        assert_eq!(check(&token(1), "n1", "u1", [5; 32], &proof), Err(ProofError));
        assert_eq!(check(&token(0), "n2", "u1", [5; 32], &proof), Err(ProofError));
        assert_eq!(check(&token(0), "n1", "u2", [5; 32], &proof), Err(ProofError));
        assert_eq!(check(&token(0), "n1u", "1", [5; 32], &proof), Err(ProofError));
        assert_eq!(check(&token(0), "n1", "u1", [6; 32], &proof), Err(ProofError));
        assert_eq!(check(&token(0), "n1", "u1", [5; 32], &proof[..31]), Err(ProofError));
        assert_eq!(check(&token(0), "n1", "u1", [5; 32], &[]), Err(ProofError));
        for at in 0..32 {
            let mut changed = proof;
            changed[at] ^= 1;
            assert_eq!(check(&token(0), "n1", "u1", [5; 32], &changed), Err(ProofError), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "(weft1\\.)?[0-9a-f.]{0,160}|.{0,80}") {
            let _read = text.parse::<JoinToken>();
        }
    }
}
