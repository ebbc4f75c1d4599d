//! Who signs: one trait, so that the embedded CA can be replaced by whatever a cluster has already.

use identity::{Binding, SignedBinding, SpiffeId, TrustBundle, UnixTime, Verifier};

/// Signs for one trust domain. What deserves a signature is decided before: an issuer asks nothing but soundness.
pub(crate) trait Issuer: Send {
    /// The certificates by which everybody verifies what this issuer signs; published in MeshTrust `local`.
    fn bundle(&self) -> &TrustBundle;

    /// The verifier that [`Issuer::bundle`] comes down to.
    fn verifier(&self) -> &Verifier;

    /// Signs that a key is an identity's on a node.
    ///
    /// # Errors
    /// A binding that can never be right, or of another trust domain; no randomness.
    fn sign_binding(&self, binding: Binding) -> anyhow::Result<SignedBinding>;

    /// Signs a MeshEndpointSlice's spec (signature domain [`identity::SLICE_DOMAIN`]).
    ///
    /// # Errors
    /// No randomness.
    fn sign_slice(&self, bytes: &[u8]) -> anyhow::Result<Vec<u8>>;

    /// Issues an X.509-SVID over an Ed25519 public key: the leaf and the intermediate, in PEM. It ends no later than
    /// the issuer's own certificate.
    ///
    /// # Errors
    /// An identity of another trust domain; a validity that ends before it begins, or that X.509 cannot express; no
    /// randomness.
    fn issue_svid(
        &self,
        identity: &SpiffeId,
        ed25519: &[u8; 32],
        not_before: UnixTime,
        not_after: UnixTime,
    ) -> anyhow::Result<String>;

    /// Renews the issuer's own certificate where that is due; to be called now and then, hourly is plenty. Says
    /// whether there is a new bundle to publish. What was signed before stays good.
    ///
    /// # Errors
    /// It is due and cannot be done: the present certificate goes on until it ends.
    fn renew(&mut self, wall: UnixTime) -> anyhow::Result<bool>;
}
