//! A local private key with what is computed from it once.

use x25519_dalek::{PublicKey, StaticSecret};

use crate::cipher::Suite;
use crate::cookie::MacKeys;
use crate::drop::DropReason;
use crate::hash::Secret;
use crate::noise::{Claim, agree};

/// A local private key. No `Debug`.
pub(crate) struct Gate {
    secret: StaticSecret,
    public: PublicKey,
    macs: MacKeys,
    suite: Suite,
}

impl Gate {
    pub(crate) fn new(secret: StaticSecret, suite: Suite) -> Self {
        let public = PublicKey::from(&secret);
        Self { macs: MacKeys::new(&public), secret, public, suite }
    }

    /// The same key, spoken with another cipher.
    pub(crate) fn with_suite(self, suite: Suite) -> Self {
        Self { suite, ..self }
    }

    /// The best cipher that we speak with this key.
    pub(crate) const fn suite(&self) -> Suite {
        self.suite
    }

    pub(crate) const fn secret(&self) -> &StaticSecret {
        &self.secret
    }

    pub(crate) const fn public(&self) -> &PublicKey {
        &self.public
    }

    pub(crate) const fn macs(&self) -> &MacKeys {
        &self.macs
    }

    pub(crate) fn is_of(&self, secret: &StaticSecret) -> bool {
        self.secret.as_bytes() == secret.as_bytes()
    }

    /// Whether a handshake message was made for this key: no curve operation.
    pub(crate) fn recognises(&self, message: &[u8]) -> bool {
        self.macs.recognise(message)
    }

    /// The first half of an initiation, with the static key that it claims; one curve operation.
    pub(crate) fn claim(&self, message: &[u8]) -> Result<Claim, DropReason> {
        Claim::read(&self.secret, &self.public, message)
    }

    /// The secret that this key and a peer's share; one curve operation. `None` for a key of low order.
    pub(crate) fn shared_with(&self, peer: &PublicKey) -> Option<Secret> {
        agree(&self.secret, peer)
    }
}
