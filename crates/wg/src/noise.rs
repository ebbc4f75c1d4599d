//! The handshake, both roles: `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s` as the WireGuard paper spells it out (§5.4.2, §5.4.3).
//!
//! No state and no time: what goes into a message and what follows from one. The primitives are those of
//! `x25519-dalek`, `blake2`, `hmac` and `ring`.

use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::cipher::{Cipher, Suite};
use crate::drop::DropReason;
use crate::hash::{Secret, hash, kdf};
use crate::message::{INITIATION, RESPONSE, TAG, part, u32_at};
use crate::stamp::Stamp;

const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
/// No preshared key: 32 zeros (§5.2). Identities have none.
pub(crate) const NO_PRESHARED_KEY: [u8; 32] = [0; 32];

/// The two keys of a new session, as seen from here.
pub(crate) struct TransportKeys {
    pub(crate) sending: Secret,
    pub(crate) receiving: Secret,
}

/// The Diffie-Hellman function; `None` where the result would be the same for everybody.
pub(crate) fn agree(secret: &StaticSecret, public: &PublicKey) -> Option<Secret> {
    let shared = secret.diffie_hellman(public);
    shared.was_contributory().then(|| Zeroizing::new(shared.to_bytes()))
}

/// Chaining key and hash of a handshake.
#[derive(Clone)]
struct Transcript {
    chain: Secret,
    hash: [u8; 32],
}

impl Transcript {
    fn begin(responder: &PublicKey) -> Self {
        let chain = hash(&[CONSTRUCTION]);
        let bound = hash(&[&chain, IDENTIFIER]);
        Self { chain: Zeroizing::new(chain), hash: hash(&[&bound, responder.as_bytes()]) }
    }

    fn mix_hash(&mut self, bytes: &[u8]) {
        self.hash = hash(&[&self.hash, bytes]);
    }

    fn mix_key(&mut self, input: &[u8]) {
        let [chain] = kdf(&*self.chain, input);
        self.chain = chain;
    }

    fn mix_key_and_get(&mut self, input: &[u8]) -> Secret {
        let [chain, key] = kdf(&*self.chain, input);
        self.chain = chain;
        key
    }

    fn mix_preshared(&mut self, preshared: &[u8; 32]) -> Secret {
        let [chain, bound, key] = kdf(&*self.chain, preshared);
        self.chain = chain;
        self.mix_hash(&*bound);
        key
    }

    /// Seals `bytes` in place and writes the tag behind them. Every key of a handshake seals once: its counter is 0.
    fn seal(&mut self, key: &Secret, bytes: &mut [u8], tag: &mut [u8]) -> Option<()> {
        let made = Cipher::new(Suite::ChaCha20Poly1305, key)?.seal(0, &self.hash, bytes)?;
        tag.copy_from_slice(&made);
        self.hash = hash(&[&self.hash, bytes, &made]);
        Some(())
    }

    /// Opens `sealed` (with its tag) into `out`.
    fn open<const N: usize>(&mut self, key: &Secret, sealed: &[u8]) -> Option<[u8; N]> {
        let mut bytes = [0; 32 + TAG];
        let bytes = bytes.get_mut(..sealed.len())?;
        bytes.copy_from_slice(sealed);
        let opened = Cipher::new(Suite::ChaCha20Poly1305, key)?.open(0, &self.hash, bytes)?;
        let opened = (&*opened).try_into().ok()?;
        self.mix_hash(sealed);
        Some(opened)
    }

    /// The keys of the initiator's and of the responder's data.
    fn split(&self) -> [Secret; 2] {
        kdf(&*self.chain, &[])
    }
}

/// What both sides know before a handshake begins.
pub(crate) struct Acquaintance<'a> {
    pub(crate) local: &'a PublicKey,
    pub(crate) peer: &'a PublicKey,
    /// The secret that the two static keys share.
    pub(crate) shared: &'a Secret,
}

/// The initiator's state while it waits for the response. No `Debug`.
pub(crate) struct Initiator {
    ephemeral: StaticSecret,
    transcript: Transcript,
}

impl Initiator {
    /// Writes an initiation, but for its two macs. `None` where the peer's key is of low order.
    pub(crate) fn write(
        us: &Acquaintance<'_>,
        ephemeral: StaticSecret,
        index: u32,
        stamp: &Stamp,
        out: &mut [u8; INITIATION],
    ) -> Option<Self> {
        let public = PublicKey::from(&ephemeral);
        let mut transcript = Transcript::begin(us.peer);
        out[..4].copy_from_slice(&1u32.to_le_bytes());
        out[4..8].copy_from_slice(&index.to_le_bytes());
        out[8..40].copy_from_slice(public.as_bytes());
        transcript.mix_hash(public.as_bytes());
        transcript.mix_key(public.as_bytes());
        let key = transcript.mix_key_and_get(&*agree(&ephemeral, us.peer)?);
        let (before, after) = out.split_at_mut(88);
        let (sealed_static, tag) = before.get_mut(40..)?.split_at_mut(32);
        sealed_static.copy_from_slice(us.local.as_bytes());
        transcript.seal(&key, sealed_static, tag)?;
        let key = transcript.mix_key_and_get(&**us.shared);
        let (sealed_stamp, rest) = after.split_at_mut(stamp.len());
        sealed_stamp.copy_from_slice(stamp);
        transcript.seal(&key, sealed_stamp, rest.get_mut(..TAG)?)?;
        Some(Self { ephemeral, transcript })
    }

    /// Reads the response. It may be forged: the state is as before then.
    pub(crate) fn read_response(
        &self,
        secret: &StaticSecret,
        preshared: &[u8; 32],
        message: &[u8],
    ) -> Result<TransportKeys, DropReason> {
        let keys = || {
            let theirs = PublicKey::from(*part::<32>(message, 12..44)?);
            let sealed_nothing = part::<TAG>(message, 44..60)?;
            let mut transcript = self.transcript.clone();
            transcript.mix_hash(theirs.as_bytes());
            transcript.mix_key(theirs.as_bytes());
            transcript.mix_key(&*agree(&self.ephemeral, &theirs)?);
            transcript.mix_key(&*agree(secret, &theirs)?);
            let key = transcript.mix_preshared(preshared);
            let [] = transcript.open(&key, sealed_nothing)?;
            let [sending, receiving] = transcript.split();
            Some(TransportKeys { sending, receiving })
        };
        keys().ok_or(DropReason::HandshakeInvalid)
    }
}

/// An initiation of which so much is known as anybody could have written who knows our public key.
pub(crate) struct Claim {
    transcript: Transcript,
    ephemeral: PublicKey,
    sealed_stamp: [u8; 28],
    /// The receiver index of what we send under the new key.
    pub(crate) sender: u32,
    /// The static key that the sender claims to have.
    pub(crate) key: [u8; 32],
}

impl Claim {
    /// Reads the first half of an initiation; one curve operation.
    pub(crate) fn read(secret: &StaticSecret, public: &PublicKey, message: &[u8]) -> Result<Self, DropReason> {
        let claim = || {
            let ephemeral = PublicKey::from(*part::<32>(message, 8..40)?);
            let sealed_static = part::<48>(message, 40..88)?;
            let mut transcript = Transcript::begin(public);
            transcript.mix_hash(ephemeral.as_bytes());
            transcript.mix_key(ephemeral.as_bytes());
            let key = transcript.mix_key_and_get(&*agree(secret, &ephemeral)?);
            let claimed = transcript.open(&key, sealed_static)?;
            let sealed_stamp = *part(message, 88..116)?;
            Some(Self { transcript, ephemeral, sealed_stamp, sender: u32_at(message, 4)?, key: claimed })
        };
        claim().ok_or(DropReason::HandshakeInvalid)
    }

    /// Checks that the sender has the key that it claims. `shared` is the secret of both static keys.
    pub(crate) fn prove(mut self, shared: &Secret) -> Result<Proven, DropReason> {
        let key = self.transcript.mix_key_and_get(&**shared);
        let stamp = self.transcript.open(&key, &self.sealed_stamp).ok_or(DropReason::HandshakeInvalid)?;
        Ok(Proven { transcript: self.transcript, ephemeral: self.ephemeral, sender: self.sender, stamp })
    }
}

/// An authentic initiation; it may be an old one that somebody repeats.
pub(crate) struct Proven {
    transcript: Transcript,
    ephemeral: PublicKey,
    /// The receiver index of what we send under the new key.
    pub(crate) sender: u32,
    /// When it was made, by the sender's clock.
    pub(crate) stamp: Stamp,
}

impl Proven {
    /// Writes the response, but for its two macs; three curve operations.
    pub(crate) fn respond(
        mut self,
        (peer, preshared): (&PublicKey, &[u8; 32]),
        ephemeral: &StaticSecret,
        index: u32,
        out: &mut [u8; RESPONSE],
    ) -> Result<TransportKeys, DropReason> {
        let mut keys = || {
            let public = PublicKey::from(ephemeral);
            out[..4].copy_from_slice(&2u32.to_le_bytes());
            out[4..8].copy_from_slice(&index.to_le_bytes());
            out[8..12].copy_from_slice(&self.sender.to_le_bytes());
            out[12..44].copy_from_slice(public.as_bytes());
            let transcript = &mut self.transcript;
            transcript.mix_hash(public.as_bytes());
            transcript.mix_key(public.as_bytes());
            transcript.mix_key(&*agree(ephemeral, &self.ephemeral)?);
            transcript.mix_key(&*agree(ephemeral, peer)?);
            let key = transcript.mix_preshared(preshared);
            transcript.seal(&key, &mut [], &mut out[44..60])?;
            let [receiving, sending] = transcript.split();
            Some(TransportKeys { sending, receiving })
        };
        keys().ok_or(DropReason::HandshakeInvalid)
    }
}
