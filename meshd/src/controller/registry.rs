//! Which nodes have joined, by which credential, and which one-time tokens still wait; pure, its file is the shell's.

use std::collections::{BTreeMap, BTreeSet};

use identity::{JoinToken, NodeName, SpiffeId, UnixTime, verify_proof, verify_spec};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Seconds that a join token is good for: long enough to carry it to a machine that is being installed.
pub(crate) const TOKEN_SECONDS: u64 = 24 * 3_600;
/// Tokens that wait at once; the oldest goes when one more is made.
const TOKENS_MAX: usize = 4_096;

/// Everything the controller remembers of nodes; written to its state folder at each change.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Registry {
    joined: BTreeMap<NodeName, Joined>,
    tokens: BTreeMap<String, Waiting>,
    revoked: BTreeSet<SpiffeId>,
}

/// A node that has joined.
#[derive(Clone, Serialize, Deserialize)]
struct Joined {
    uid: String,
    credential: [u8; 32],
    sequence: u64,
}

/// A token that nobody has used.
#[derive(Serialize, Deserialize)]
struct Waiting {
    node: NodeName,
    /// The token's secret; this file is the controller's alone (mode 0600).
    secret: [u8; 32],
    expires: UnixTime,
}

/// What a node says of itself, as far as belief in it goes.
pub(crate) struct Claim<'a> {
    pub(crate) node: &'a NodeName,
    pub(crate) uid: &'a str,
    pub(crate) credential: [u8; 32],
    pub(crate) sequence: u64,
    pub(crate) signed: &'a [u8],
    pub(crate) signature: &'a [u8],
    pub(crate) join: Option<(&'a str, &'a [u8])>,
}

/// Why a node's word is not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum ClaimError {
    #[error("node {node} has not joined: give it the token of `meshctl node token {node}`")]
    NotJoined { node: NodeName },
    #[error("the join token {id} is unknown, used or expired: make another with `meshctl node token {node}`")]
    UnknownToken { node: NodeName, id: String },
    #[error("the join token {id} was made for node {meant}, not for {node}")]
    OtherNodesToken { node: NodeName, id: String, meant: NodeName },
    #[error("the join proof of node {node} does not fit its token")]
    WrongProof { node: NodeName },
    #[error("the report of node {node} is not signed by the credential it joined with")]
    WrongSignature { node: NodeName },
    #[error("node {node} comes with another credential while nobody vouches for it: {why}")]
    NotVouchedFor { node: NodeName, why: String },
    #[error("the report of node {node} is older than one already seen ({sequence} < {seen})")]
    Stale { node: NodeName, sequence: u64, seen: u64 },
}

impl Registry {
    /// Takes a node's report if it is the node's own; true when the registry changed and must be written.
    pub(crate) fn handle_claim(&mut self, claim: &Claim<'_>, wall: UnixTime) -> Result<bool, ClaimError> {
        let node = claim.node.clone();
        if verify_spec(&claim.credential, claim.node, claim.signed, claim.signature).is_err() {
            return Err(ClaimError::WrongSignature { node });
        }
        match self.joined.get_mut(claim.node) {
            Some(joined) if joined.credential == claim.credential && joined.uid == claim.uid => {
                if claim.sequence < joined.sequence {
                    return Err(ClaimError::Stale { node, sequence: claim.sequence, seen: joined.sequence });
                }
                let newer = claim.sequence > joined.sequence;
                joined.sequence = claim.sequence;
                Ok(newer)
            }
            // a rebuilt node comes with a fresh token; its old credential ends there
            _ => self.join(claim, wall).map(|()| true),
        }
    }

    /// Takes a node's report that the cluster vouches for: whoever wrote it held that node's own token. A rebuilt node
    /// comes with another credential; reports are in the order of the cluster. Where the cluster does not vouch, `fault` says why,
    /// and only the credential that is known already is believed. True when the registry must be written.
    pub(crate) fn handle_attested(&mut self, claim: &Claim<'_>, fault: Option<&str>) -> Result<bool, ClaimError> {
        let node = claim.node.clone();
        if verify_spec(&claim.credential, claim.node, claim.signed, claim.signature).is_err() {
            return Err(ClaimError::WrongSignature { node });
        }
        let held = self.joined.get(claim.node);
        if held.is_some_and(|held| held.credential == claim.credential && held.uid == claim.uid) {
            return Ok(false);
        }
        if let Some(why) = fault {
            return Err(ClaimError::NotVouchedFor { node, why: why.to_owned() });
        }
        let joined = Joined { uid: claim.uid.to_owned(), credential: claim.credential, sequence: claim.sequence };
        self.joined.insert(node, joined);
        Ok(true)
    }

    fn join(&mut self, claim: &Claim<'_>, wall: UnixTime) -> Result<(), ClaimError> {
        let node = claim.node.clone();
        let Some((id, proof)) = claim.join else {
            return Err(match self.joined.contains_key(claim.node) {
                true => ClaimError::WrongSignature { node },
                false => ClaimError::NotJoined { node },
            });
        };
        let waiting = self.tokens.get(id).filter(|waiting| waiting.expires > wall);
        let Some(waiting) = waiting else {
            return Err(ClaimError::UnknownToken { node, id: id.to_owned() });
        };
        if waiting.node != node {
            return Err(ClaimError::OtherNodesToken { node, id: id.to_owned(), meant: waiting.node.clone() });
        }
        if verify_proof(&waiting.secret, claim.node, claim.uid, &claim.credential, proof).is_err() {
            return Err(ClaimError::WrongProof { node });
        }
        self.tokens.remove(id);
        let joined = Joined { uid: claim.uid.to_owned(), credential: claim.credential, sequence: claim.sequence };
        self.joined.insert(node, joined);
        Ok(())
    }

    /// Remembers a fresh token until it is used or expires.
    pub(crate) fn add_token(&mut self, token: &JoinToken, node: NodeName, wall: UnixTime) {
        self.tokens.retain(|_, waiting| waiting.expires > wall);
        if self.tokens.len() >= TOKENS_MAX {
            let oldest = self.tokens.iter().min_by_key(|(_, waiting)| waiting.expires).map(|(id, _)| id.clone());
            oldest.map(|id| self.tokens.remove(&id));
        }
        let expires = UnixTime(wall.0.saturating_add(TOKEN_SECONDS));
        self.tokens.insert(token.id().to_owned(), Waiting { node, secret: *token.expose_secret(), expires });
    }

    /// Withdraws an identity (`true`) or gives it back; true when that changed anything.
    pub(crate) fn set_revoked(&mut self, identity: SpiffeId, revoked: bool) -> bool {
        if revoked { self.revoked.insert(identity) } else { self.revoked.remove(&identity) }
    }

    /// Forgets every node but these; true when the registry must be written.
    pub(crate) fn retain(&mut self, is_there: impl Fn(&NodeName) -> bool) -> bool {
        let before = self.joined.len();
        self.joined.retain(|name, _| is_there(name));
        self.joined.len() != before
    }

    /// Nodes that have joined.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &NodeName> {
        self.joined.keys()
    }

    /// Identities that get no binding.
    pub(crate) fn revoked(&self) -> &BTreeSet<SpiffeId> {
        &self.revoked
    }
}

#[cfg(test)]
mod tests;
