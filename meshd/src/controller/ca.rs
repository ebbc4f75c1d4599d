//! The embedded CA: a root and an intermediate in the controller's state directory, made at its first start.
//!
//! Layout of `<state dir>/ca` (mode 0700), in the order in which it is made; each file appears whole:
//!
//! ```text
//! root.key           ECDSA P-256, PKCS#8 PEM, 0600; read only to sign an intermediate certificate
//! root.crt           self-signed, 10 years; its SHA-256 is what nodes pin
//! intermediate.key   ECDSA P-256, PKCS#8 PEM, 0600; signs bindings, endpoint slices and SVIDs
//! intermediate.crt   signed by the root, 1 year; renewed with the same key when less than a third is left
//! ```
//!
//! A crash leaves a beginning of this list, which the next start completes. Anything else that is missing was taken
//! away by somebody, and making it anew would end the trust of every node: that is refused, with what to do.

mod certificates;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use identity::{
    Binding, BundleError, CertificateError, IssuerKey, SLICE_DOMAIN, SignedBinding, SpiffeId, TrustBundle, TrustDomain,
    UnixTime, Verifier,
};
use rcgen::KeyPair;
use ring::rand::SystemRandom;
use zeroize::Zeroizing;

use self::certificates::{INTERMEDIATE_VALIDITY, Role};
use super::issuer::Issuer;
use crate::store::{DirLock, Privacy, StoreError, atomic_write, lock_dir, open_private_dir, read_bounded, sweep};

/// Longest key or certificate file, in bytes; ours have under 2 KiB.
const FILE_LENGTH_MAX: u64 = 64 * 1024;
const RESTORE: &str = "restore the folder from a backup, or remove it to begin a new trust root: every node then has to join \
                       anew with a token of `meshctl node token`";

/// The embedded CA, and the lock on its folder for as long as this lives. No `Debug`.
pub(crate) struct EmbeddedCa {
    files: Files,
    trust_domain: TrustDomain,
    signer: IssuerKey,
    signer_pair: KeyPair,
    bundle: TrustBundle,
    verifier: Verifier,
    random: SystemRandom,
    _lock: DirLock,
}

impl EmbeddedCa {
    /// Opens the CA of a state directory; at the first start makes it, after a crash completes it.
    ///
    /// # Errors
    /// A file that is missing out of order, damaged, open to others, or of another trust domain; a root that has
    /// ended; a folder that cannot be written. Each with what to do. Nothing that is there is ever replaced, but for
    /// an intermediate certificate whose renewal is due.
    pub(crate) fn open(state_dir: &Path, trust_domain: &TrustDomain, wall: UnixTime) -> anyhow::Result<Self> {
        let files = Files { dir: state_dir.join("ca") };
        open_private_dir(state_dir)?;
        open_private_dir(&files.dir)?;
        let lock = lock_dir(&files.dir)?;
        sweep(&files.dir)?;
        files.check_order()?;

        let random = SystemRandom::new();
        let root_pair = files.open_key(Role::Root)?;
        let root_pem =
            files.open_certificate(Role::Root, || certificates::root(trust_domain, &root_pair, wall, &random))?;
        let signer_pair = files.open_key(Role::Intermediate)?;
        let issue = || certificates::intermediate(trust_domain, &signer_pair, &root_pair, &root_pem, wall, &random);
        let present = files.open_certificate(Role::Intermediate, issue)?;

        let bundle = bundle_of(trust_domain, &root_pem, &present, &files)?;
        let (bundle, verifier) = match bundle.verify(bundle.root_fingerprint(), wall) {
            Ok(verifier) => (bundle, verifier),
            // the controller was away for long: a certificate that has ended is as due as one can be
            Err(BundleError::Intermediate { cause: CertificateError::Validity { not_after, .. } })
                if not_after < wall =>
            {
                let renewed = issue()?;
                let bundle = bundle_of(trust_domain, &root_pem, &renewed, &files)?;
                let verifier = verified(&bundle, wall, &files)?;
                files.write(Role::Intermediate.certificate_name(), renewed.as_bytes(), 0o644)?;
                (bundle, verifier)
            }
            Err(error) => return Err(unusable(&error, trust_domain, &files)),
        };
        let signer = IssuerKey::from_pkcs8(signer_pair.serialized_der(), random.clone())
            .with_context(|| files.damaged(Role::Intermediate.key_name()))?;
        let trust_domain = trust_domain.clone();
        let mut ca = Self { files, trust_domain, signer, signer_pair, bundle, verifier, random, _lock: lock };
        ca.check_keys(&root_pair, wall)?;
        ca.renew(wall)?;
        Ok(ca)
    }

    /// Each key must be the one that its certificate speaks of: proved by signing with it.
    fn check_keys(&self, root_pair: &KeyPair, wall: UnixTime) -> anyhow::Result<()> {
        const PROOF: (&str, &[u8]) = ("weft embedded ca self-test v1", b"");
        let signature = self.signer.sign(PROOF.0, PROOF.1)?;
        self.verifier
            .verify(PROOF.0, PROOF.1, &signature)
            .with_context(|| format!("intermediate.key is not the key of intermediate.crt: {}", self.files.remedy()))?;
        let root_pem = self.bundle.root_pem();
        let proof = self.issue_intermediate(root_pair, &root_pem, wall)?;
        let proof = bundle_of(&self.trust_domain, &root_pem, &proof, &self.files)?;
        proof
            .verify(self.bundle.root_fingerprint(), wall)
            .with_context(|| format!("root.key is not the key of root.crt: {}", self.files.remedy()))?;
        Ok(())
    }

    fn issue_intermediate(&self, root_pair: &KeyPair, root_pem: &str, wall: UnixTime) -> anyhow::Result<String> {
        certificates::intermediate(&self.trust_domain, &self.signer_pair, root_pair, root_pem, wall, &self.random)
    }
}

impl Issuer for EmbeddedCa {
    fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    fn sign_binding(&self, binding: Binding) -> anyhow::Result<SignedBinding> {
        let identity = binding.spiffe_id.clone();
        ensure!(
            binding.trust_domain == self.trust_domain,
            "a binding of {identity} for trust domain {} is not signed: this CA's is {}",
            binding.trust_domain,
            self.trust_domain
        );
        binding.check().with_context(|| format!("the binding of {identity} is not signed"))?;
        binding.sign(&self.signer).with_context(|| format!("cannot sign the binding of {identity}"))
    }

    fn sign_slice(&self, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
        self.signer.sign(SLICE_DOMAIN, bytes).context("cannot sign an endpoint slice")
    }

    fn issue_svid(
        &self,
        identity: &SpiffeId,
        ed25519: &[u8; 32],
        not_before: UnixTime,
        not_after: UnixTime,
    ) -> anyhow::Result<String> {
        ensure!(
            identity.trust_domain() == &self.trust_domain,
            "no X.509-SVID of {identity}: this CA's trust domain is {}",
            self.trust_domain
        );
        let not_after = not_after.min(self.verifier.not_after());
        ensure!(
            not_before <= not_after,
            "no X.509-SVID of {identity}: valid from {not_before}, but only to {not_after}"
        );
        let subject = certificates::Leaf { identity, ed25519: *ed25519, not_before, not_after };
        let leaf = certificates::leaf(&subject, &self.trust_domain, &self.signer_pair, &self.random)?;
        Ok(leaf + &self.bundle.intermediate_pem())
    }

    fn renew(&mut self, wall: UnixTime) -> anyhow::Result<bool> {
        if self.verifier.not_after().since(wall) >= INTERMEDIATE_VALIDITY / 3 {
            return Ok(false);
        }
        let root_pem = self.bundle.root_pem();
        let root_pair = self.files.open_key(Role::Root)?;
        let renewed = self.issue_intermediate(&root_pair, &root_pem, wall)?;
        let bundle = bundle_of(&self.trust_domain, &root_pem, &renewed, &self.files)?;
        let verifier = verified(&bundle, wall, &self.files)?;
        if verifier.not_after() <= self.verifier.not_after() {
            // the root ends as soon: a new intermediate would not last longer
            return Ok(false);
        }
        self.files.write(Role::Intermediate.certificate_name(), renewed.as_bytes(), 0o644)?;
        (self.bundle, self.verifier) = (bundle, verifier);
        Ok(true)
    }
}

fn bundle_of(domain: &TrustDomain, root: &str, intermediate: &str, files: &Files) -> anyhow::Result<TrustBundle> {
    TrustBundle::from_pem(domain.clone(), root, intermediate).map_err(|error| unusable(&error, domain, files))
}

fn verified(bundle: &TrustBundle, wall: UnixTime, files: &Files) -> anyhow::Result<Verifier> {
    bundle.verify(bundle.root_fingerprint(), wall).map_err(|error| unusable(&error, &bundle.trust_domain, files))
}

/// Why the certificates on disk are of no use, with the remedy that fits.
fn unusable(error: &BundleError, trust_domain: &TrustDomain, files: &Files) -> anyhow::Error {
    let (dir, remedy) = (files.dir.display(), files.remedy());
    let cause = match error {
        BundleError::Root { cause } | BundleError::Intermediate { cause } => Some(cause),
        BundleError::Pin { .. } | BundleError::Key => None,
    };
    match cause {
        Some(CertificateError::Name { found, .. }) => anyhow::anyhow!(
            "{dir} is the CA of another trust domain ({found}), not of {trust_domain}: start the controller with \
             --trust-domain as before, or give it another --state-dir"
        ),
        Some(CertificateError::Validity { .. }) => {
            anyhow::anyhow!("{dir}: {error}; where the clock is right, {remedy}")
        }
        Some(_) | None => anyhow::anyhow!("{dir}: {error}; {remedy}"),
    }
}

/// The CA's folder.
struct Files {
    dir: PathBuf,
}

impl Files {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn remedy(&self) -> String {
        format!("{RESTORE} ({})", self.dir.display())
    }

    fn damaged(&self, name: &str) -> String {
        format!("{} is damaged: {}", self.path(name).display(), self.remedy())
    }

    /// What is there must be a beginning of the list: see the head of this file.
    fn check_order(&self) -> anyhow::Result<()> {
        let order = [Role::Root, Role::Intermediate].map(|role| [role.key_name(), role.certificate_name()]).concat();
        let mut missing = None;
        for name in order {
            let there = self.path(name).try_exists().map_err(StoreError::io("look at", &self.path(name)))?;
            match missing {
                None if !there => missing = Some(name),
                Some(missing) if there => {
                    bail!("{} is missing although {name} is there: {}", self.path(missing).display(), self.remedy())
                }
                None | Some(_) => {}
            }
        }
        Ok(())
    }

    fn read(&self, name: &str, privacy: Privacy) -> anyhow::Result<Option<Zeroizing<String>>> {
        let Some(bytes) = read_bounded(&self.path(name), FILE_LENGTH_MAX, privacy, RESTORE)? else {
            return Ok(None);
        };
        let text = std::str::from_utf8(&bytes).with_context(|| self.damaged(name))?;
        Ok(Some(Zeroizing::new(text.to_owned())))
    }

    fn write(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), StoreError> {
        atomic_write(&self.path(name), bytes, mode)
    }

    fn open_key(&self, role: Role) -> anyhow::Result<KeyPair> {
        let name = role.key_name();
        if let Some(text) = self.read(name, Privacy::Secret)? {
            return KeyPair::from_pem(&text).with_context(|| self.damaged(name));
        }
        let pair = certificates::new_key().with_context(|| format!("cannot make {}", self.path(name).display()))?;
        self.write(name, Zeroizing::new(pair.serialize_pem()).as_bytes(), 0o600)?;
        Ok(pair)
    }

    fn open_certificate(&self, role: Role, make: impl FnOnce() -> anyhow::Result<String>) -> anyhow::Result<String> {
        let name = role.certificate_name();
        if let Some(text) = self.read(name, Privacy::Public)? {
            return Ok(text.as_str().to_owned());
        }
        let pem = make()?;
        self.write(name, pem.as_bytes(), 0o644)?;
        Ok(pem)
    }
}

#[cfg(test)]
mod tests;
