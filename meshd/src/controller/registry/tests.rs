//! A token works once, for the node it was made for; afterwards the credential counts.

use identity::{Fingerprint, NodeCredential};
use ring::rand::SystemRandom;
use zeroize::Zeroizing;

use super::*;

const NOW: UnixTime = UnixTime(1_000_000);

struct Joiner {
    name: NodeName,
    uid: String,
    credential: NodeCredential,
}

fn joiner(name: &str) -> Joiner {
    let credential = NodeCredential::generate(&SystemRandom::new()).unwrap();
    Joiner { name: NodeName(name.to_owned()), uid: format!("uid-{name}"), credential }
}

impl Joiner {
    fn claim(&self, registry: &mut Registry, sequence: u64, token: Option<&JoinToken>) -> Result<bool, ClaimError> {
        let spec = format!("report {sequence}");
        let credential = self.credential.public_key();
        let proof = token.map(|t| t.proof(&self.name, &self.uid, &credential));
        let signature = self.credential.sign_spec(&self.name, spec.as_bytes());
        let join = token.zip(proof.as_ref()).map(|(t, p)| (t.id(), p.as_slice()));
        let (node, uid) = (&self.name, self.uid.as_str());
        let (signed, signature) = (spec.as_bytes(), signature.as_slice());
        registry.handle_claim(&Claim { node, uid, credential, sequence, signed, signature, join }, NOW)
    }
}

fn token(registry: &mut Registry, node: &str, seed: u8) -> JoinToken {
    let random = Zeroizing::new(std::array::from_fn(|i| u8::try_from(i).unwrap_or(0) ^ seed));
    let token = JoinToken::generate(random, Fingerprint([7; 32]));
    registry.add_token(&token, NodeName(node.to_owned()), NOW);
    token
}

#[test]
fn a_token_lets_its_node_in_once_and_then_the_credential_counts() {
    let mut registry = Registry::default();
    let token = token(&mut registry, "n1", 1);
    let n1 = joiner("n1");
    assert_eq!(n1.claim(&mut registry, 1, None), Err(ClaimError::NotJoined { node: n1.name.clone() }));
    assert_eq!(n1.claim(&mut registry, 1, Some(&token)), Ok(true));
    assert_eq!(n1.claim(&mut registry, 2, None), Ok(true));
    assert_eq!(n1.claim(&mut registry, 2, None), Ok(false), "the same report again");
    assert!(matches!(n1.claim(&mut registry, 1, None), Err(ClaimError::Stale { .. })));
    let thief = joiner("n1");
    assert!(matches!(thief.claim(&mut registry, 9, None), Err(ClaimError::WrongSignature { .. })));
    assert!(matches!(thief.claim(&mut registry, 9, Some(&token)), Err(ClaimError::UnknownToken { .. })));
}

#[test]
fn a_token_is_of_no_use_to_another_node_or_when_forged_or_late() {
    let mut registry = Registry::default();
    let first = token(&mut registry, "n1", 1);
    assert!(matches!(joiner("n2").claim(&mut registry, 1, Some(&first)), Err(ClaimError::OtherNodesToken { .. })));
    let random = Zeroizing::new(std::array::from_fn(|i| if i < 8 { u8::try_from(i).unwrap_or(0) ^ 1 } else { 0 }));
    let forged = JoinToken::generate(random, Fingerprint([7; 32]));
    assert_eq!(forged.id(), first.id(), "the forger knows the id");
    assert!(matches!(joiner("n1").claim(&mut registry, 1, Some(&forged)), Err(ClaimError::WrongProof { .. })));
    for waiting in registry.tokens.values_mut() {
        waiting.expires = NOW;
    }
    assert!(matches!(joiner("n1").claim(&mut registry, 1, Some(&first)), Err(ClaimError::UnknownToken { .. })));
}

#[test]
fn a_report_signed_by_another_credential_is_refused() {
    let mut registry = Registry::default();
    let token = token(&mut registry, "n1", 1);
    let (n1, other) = (joiner("n1"), joiner("n1"));
    assert_eq!(n1.claim(&mut registry, 1, Some(&token)), Ok(true));
    let signature = other.credential.sign_spec(&n1.name, b"x");
    let (node, uid, credential) = (&n1.name, n1.uid.as_str(), n1.credential.public_key());
    let claim = Claim { node, uid, credential, sequence: 5, signed: b"x", signature: &signature, join: None };
    assert_eq!(registry.handle_claim(&claim, NOW), Err(ClaimError::WrongSignature { node: n1.name.clone() }));
}

#[test]
fn where_the_cluster_vouches_a_node_may_come_with_another_credential_and_where_it_no_longer_does_it_may_not() {
    let mut registry = Registry::default();
    let (n1, rebuilt, stranger) = (joiner("n1"), joiner("n1"), joiner("n2"));
    let claim = |registry: &mut Registry, joiner: &Joiner, fault: Option<&str>| {
        let signature = joiner.credential.sign_spec(&joiner.name, b"x");
        let (node, uid, credential) = (&joiner.name, joiner.uid.as_str(), joiner.credential.public_key());
        let claim = Claim { node, uid, credential, sequence: 1, signed: b"x", signature: &signature, join: None };
        registry.handle_attested(&claim, fault)
    };
    assert_eq!(claim(&mut registry, &n1, None), Ok(true));
    let gone = Some("it is missing");
    assert_eq!(claim(&mut registry, &n1, gone), Ok(false), "it is known");
    for unknown in [&rebuilt, &stranger] {
        let error = claim(&mut registry, unknown, gone).unwrap_err();
        assert!(matches!(&error, ClaimError::NotVouchedFor { .. }) && error.to_string().contains("missing"), "{error}");
    }
    assert_eq!(claim(&mut registry, &rebuilt, None), Ok(true), "the cluster vouches again");
    assert!(
        registry.retain(|node| node.0 != "n1") && registry.nodes().count() == 0,
        "of nodes that are gone nothing stays"
    );
}
