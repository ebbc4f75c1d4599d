//! What a node is: its UID, the secret its keys come from, the credential it signs with, the root it trusts.

use std::path::{Path, PathBuf};

use identity::derive::NODE_SECRET_LENGTH;
use identity::{Fingerprint, KeyError, NodeCredential, NodeName, NodeSecret};
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

use super::atomic::remove_durably;
use super::checked::{Kind, load, read_checked, save, write_checked};
use super::error::{Damage, StoreError};
use super::private::{DirLock, Privacy, open_private_dir, read_bounded, sweep, takes_files};

const SECRET: Kind = Kind {
    name: "node-secret",
    version: 1,
    remedy: "restore it from a backup, or remove node.secret, node.credential and trust.pin and join this node anew \
             with a token of `meshctl node token`",
};
const CREDENTIAL: Kind = Kind { name: "node-credential", ..SECRET };
const PIN: Kind = Kind { name: "trust-pin", ..SECRET };

/// Largest file that is looked at without knowing whose it is, in bytes.
const KEPT_BYTES_MAX: u64 = 1 << 20;
/// Length of a node UID in the secret's file: a UUID as text.
const UID_LENGTH: usize = 36;

/// A node's own files, in a state directory that this process holds the lock of. No `Debug`.
pub(crate) struct NodeFiles {
    /// What every WireGuard key and SVID key of this node is derived from.
    pub(crate) secret: NodeSecret,
    /// What signs this node's MeshNode.
    pub(crate) credential: NodeCredential,
    /// The node's UID: random, made with the secret, so that a rebuilt node has another.
    pub(crate) uid: String,
    dir: PathBuf,
}

impl NodeFiles {
    /// Opens what a node's state directory holds; at the first start makes it.
    ///
    /// The secret and the UID are one file, so that they cannot disagree. A crash between the files leaves a secret
    /// without a credential, which the next start makes; a credential without its secret is refused.
    ///
    /// # Errors
    /// A directory or file that others can get at, that is damaged, another node's, or not to be read or made; each
    /// with its path and the remedy. Nothing that is there is ever replaced.
    pub(crate) fn open(state_dir: &Path, node: &NodeName, _held: &DirLock) -> Result<Self, StoreError> {
        sweep(state_dir)?;
        for dir in ["attachments", "tombstones"] {
            open_private_dir(&state_dir.join(dir))?;
        }
        let random = SystemRandom::new();
        let (uid, secret) = open_secret(state_dir, node, &random)?;
        let credential = open_credential(&state_dir.join("node.credential"), &uid, &random)?;
        Ok(Self { secret, credential, uid, dir: state_dir.to_owned() })
    }

    /// Everything that would keep [`NodeFiles::open`] from its work, without making a key. Missing directories are made.
    pub(crate) fn problems(state_dir: &Path, node: &NodeName) -> Vec<StoreError> {
        if let Err(error) = open_private_dir(state_dir) {
            return vec![error];
        }
        let mut problems: Vec<_> = takes_files(state_dir).err().into_iter().collect();
        let folders = ["attachments", "tombstones"].map(|dir| state_dir.join(dir));
        problems.extend(folders.iter().filter_map(|dir| open_private_dir(dir).err()));
        let uid = match read_checked(&state_dir.join("node.secret"), SECRET, &node.0) {
            Ok(body) => body.and_then(|body| {
                let uid = body.first_chunk::<UID_LENGTH>()?;
                Some(std::str::from_utf8(uid).ok()?.to_owned())
            }),
            Err(error) => {
                problems.push(error);
                None
            }
        };
        for (name, kind) in [("node.credential", CREDENTIAL), ("trust.pin", PIN)] {
            let path = state_dir.join(name);
            let outcome = match &uid {
                Some(uid) => read_checked(&path, kind, uid).map(drop),
                // whose it must be is not known: whether it can be read at all is
                None => read_bounded(&path, KEPT_BYTES_MAX, Privacy::Secret, kind.remedy).map(drop),
            };
            problems.extend(outcome.err());
        }
        problems
    }

    /// The state directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The root certificate's fingerprint that this node pinned when it joined; `None` before.
    ///
    /// # Errors
    /// The file is there but cannot be believed.
    pub(crate) fn pinned_root(&self) -> Result<Option<Fingerprint>, StoreError> {
        let path = self.pin_path();
        let Some(text) = load::<String>(&path, PIN, &self.uid)? else {
            return Ok(None);
        };
        let reason = |error: identity::FingerprintError| Damage::Content { reason: error.to_string() };
        text.parse().map(Some).map_err(|error| StoreError::damaged(&path, reason(error), PIN.remedy))
    }

    /// Pins a root for good. Pinning the same again is nothing; another is refused.
    ///
    /// # Errors
    /// Another root is pinned, or the file cannot be written.
    pub(crate) fn pin_root(&self, root: Fingerprint) -> Result<(), StoreError> {
        match self.pinned_root()? {
            Some(pinned) if pinned == root => Ok(()),
            Some(pinned) => Err(StoreError::Foreign {
                path: self.pin_path(),
                found: pinned.to_string(),
                expected: root.to_string(),
                remedy: "this node joined another trust root; to join this one instead, remove node.secret, \
                         node.credential and trust.pin and use a new token of `meshctl node token`",
            }),
            None => save(&self.pin_path(), PIN, &self.uid, &root.to_string()),
        }
    }

    /// Forgets the pin: the join did not succeed and is to be tried with another token.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub(crate) fn unpin_root(&self) -> Result<(), StoreError> {
        remove_durably(&self.pin_path())
    }

    fn pin_path(&self) -> PathBuf {
        self.dir.join("trust.pin")
    }
}

/// Reads or makes `node.secret`: the UID as 36 characters, then the 32 bytes.
fn open_secret(state_dir: &Path, node: &NodeName, random: &SystemRandom) -> Result<(String, NodeSecret), StoreError> {
    let path = state_dir.join("node.secret");
    if read_checked(&path, SECRET, &node.0)?.is_none() {
        let mut body = Zeroizing::new(Vec::with_capacity(UID_LENGTH + NODE_SECRET_LENGTH));
        let failed = |cause| StoreError::Key { path: path.clone(), cause };
        body.extend_from_slice(new_uid(random).map_err(failed)?.as_bytes());
        let secret =
            NodeSecret::generate(|bytes| random.fill(bytes).map_err(|ring::error::Unspecified| KeyError::Random));
        body.extend_from_slice(secret.map_err(failed)?.expose());
        write_checked(&path, SECRET, &node.0, &body)?;
    }
    // read back even what was just written: what is used is what is on disk
    let body = read_checked(&path, SECRET, &node.0)?.unwrap_or_default();
    let parsed = body.split_first_chunk::<UID_LENGTH>().and_then(|(uid, secret)| {
        let uid = std::str::from_utf8(uid).ok().filter(|uid| identity::name::check_node_uid(uid).is_ok())?;
        let secret: &[u8; NODE_SECRET_LENGTH] = secret.try_into().ok()?;
        Some((uid.to_owned(), NodeSecret::from_bytes(*secret)))
    });
    let reason = || Damage::Content { reason: "not a UID and 32 bytes".to_owned() };
    parsed.ok_or_else(|| StoreError::damaged(&path, reason(), SECRET.remedy))
}

/// Reads or makes `node.credential`: PKCS#8.
fn open_credential(path: &Path, uid: &str, random: &SystemRandom) -> Result<NodeCredential, StoreError> {
    if let Some(pkcs8) = read_checked(path, CREDENTIAL, uid)? {
        let reason = |cause: KeyError| Damage::Content { reason: cause.to_string() };
        return NodeCredential::from_pkcs8(&pkcs8)
            .map_err(|cause| StoreError::damaged(path, reason(cause), CREDENTIAL.remedy));
    }
    let credential =
        NodeCredential::generate(random).map_err(|cause| StoreError::Key { path: path.to_owned(), cause })?;
    write_checked(path, CREDENTIAL, uid, credential.expose_pkcs8())?;
    Ok(credential)
}

/// A random UUID (RFC 9562, version 4).
fn new_uid(random: &SystemRandom) -> Result<String, KeyError> {
    let mut bytes = [0_u8; 16];
    random.fill(&mut bytes).map_err(|ring::error::Unspecified| KeyError::Random)?;
    let number = u128::from_be_bytes(bytes);
    let number = (number & !(0xf << 76) | 0x4 << 76) & !(0x3 << 62) | 0x2 << 62;
    let digits = format!("{number:032x}");
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| digits.get(range).unwrap_or_default());
    Ok(parts.join("-"))
}

#[cfg(test)]
mod tests;
