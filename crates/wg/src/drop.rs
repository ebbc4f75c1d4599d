//! Why the engine gave up a packet or a datagram: a closed set of reasons with stable labels, and their counters.

use thiserror::Error;

/// Every way a packet can end here.
///
/// The text is for people, [`DropReason::as_str`] is the label for metrics; labels never change their meaning.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// Not a WireGuard message, or what was inside is not a whole IP packet.
    #[error("the bytes are not a WireGuard message or not an IP packet")]
    Malformed,
    /// Longer than a UDP datagram can carry.
    #[error("the packet is longer than a datagram can carry")]
    TooLong,
    /// No session has this receiver index: it expired, or never was.
    #[error("no session has this receiver index")]
    UnknownIndex,
    /// A handshake message made for none of our public keys.
    #[error("the handshake message was made for none of our keys")]
    BadMac1,
    /// An initiation by a static key that no peer has.
    #[error("the initiation's static key belongs to no peer")]
    UnknownKey,
    /// A public or ephemeral key of low order: the shared secret would be known to everybody.
    #[error("the key is of low order")]
    LowOrderKey,
    /// A handshake message that does not authenticate, or that nobody asked for.
    #[error("the handshake message does not authenticate or was not asked for")]
    HandshakeInvalid,
    /// An initiation that is not newer than the last one from this peer.
    #[error("the initiation is not newer than one we have seen")]
    HandshakeReplay,
    /// A cookie reply that does not authenticate, or that nobody asked for.
    #[error("the cookie reply does not authenticate or was not asked for")]
    CookieInvalid,
    /// Too many handshakes at once: the sender has to prove its address first (a cookie went out).
    #[error("under load: the sender was asked to prove its address")]
    UnderLoad,
    /// More handshakes from one peer or one source than it may start.
    #[error("more handshakes than this sender may start")]
    RateLimited,
    /// A data message whose counter was seen already or is too old.
    #[error("the message counter was seen already or is too old")]
    Replay,
    /// A data message that does not authenticate.
    #[error("the data message does not authenticate")]
    AeadFailure,
    /// The session key is older than it may be.
    #[error("the session key is older than it may be")]
    KeyExpired,
    /// The inner source address is not the address of the identity whose key opened the packet.
    #[error("the inner source is not an address of the identity whose key opened it")]
    SourceMismatch,
    /// The inner destination is not an address of the local identity whose key opened the packet.
    #[error("the inner destination is not an address of the local identity it was sealed for")]
    NotOurDestination,
    /// A packet to send whose source address belongs to no local identity.
    #[error("the source address belongs to no local identity")]
    NotLocalSource,
    /// A packet to send whose destination belongs to no peer, or to more than one.
    #[error("the destination belongs to no peer")]
    NoPeer,
    /// The peer, or the local identity, has no key yet.
    #[error("the peer or the local identity has no key yet")]
    NoBinding,
    /// The peer has keys, but nobody knows its endpoint.
    #[error("no endpoint of the peer is known")]
    NoEndpoint,
    /// The peer did not answer our handshake for as long as the packet may wait.
    #[error("the peer did not answer the handshake in time")]
    HandshakeTimeout,
    /// A bounded queue is full.
    #[error("a queue is full")]
    QueueFull,
    /// As many sessions as there may be.
    #[error("there are as many sessions as there may be")]
    SessionLimit,
}

impl DropReason {
    /// All reasons, in order.
    pub const ALL: [Self; 23] = [
        Self::Malformed,
        Self::TooLong,
        Self::UnknownIndex,
        Self::BadMac1,
        Self::UnknownKey,
        Self::LowOrderKey,
        Self::HandshakeInvalid,
        Self::HandshakeReplay,
        Self::CookieInvalid,
        Self::UnderLoad,
        Self::RateLimited,
        Self::Replay,
        Self::AeadFailure,
        Self::KeyExpired,
        Self::SourceMismatch,
        Self::NotOurDestination,
        Self::NotLocalSource,
        Self::NoPeer,
        Self::NoBinding,
        Self::NoEndpoint,
        Self::HandshakeTimeout,
        Self::QueueFull,
        Self::SessionLimit,
    ];

    /// The stable label of this reason in metrics and reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLong => "too_long",
            Self::UnknownIndex => "unknown_index",
            Self::BadMac1 => "bad_mac1",
            Self::UnknownKey => "unknown_key",
            Self::LowOrderKey => "low_order_key",
            Self::HandshakeInvalid => "handshake_invalid",
            Self::HandshakeReplay => "handshake_replay",
            Self::CookieInvalid => "cookie_invalid",
            Self::UnderLoad => "under_load",
            Self::RateLimited => "rate_limited",
            Self::Replay => "replay",
            Self::AeadFailure => "aead_failure",
            Self::KeyExpired => "key_expired",
            Self::SourceMismatch => "identity_ip_mismatch",
            Self::NotOurDestination => "not_our_destination",
            Self::NotLocalSource => "not_local_source",
            Self::NoPeer => "no_peer",
            Self::NoBinding => "no_binding",
            Self::NoEndpoint => "no_endpoint",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::QueueFull => "queue_full",
            Self::SessionLimit => "session_limit",
        }
    }
}

/// How often each reason happened since the engine was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DropCounters([u64; DropReason::ALL.len()]);

impl DropCounters {
    /// How often this reason happened.
    #[must_use]
    pub fn of(&self, reason: DropReason) -> u64 {
        self.0.get(reason as usize).copied().unwrap_or_default()
    }

    /// Every reason with its count, those that never happened included.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.into_iter().map(|reason| (reason, self.of(reason)))
    }

    /// The sum over all reasons.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    pub(crate) fn count(&mut self, reason: DropReason) {
        if let Some(count) = self.0.get_mut(reason as usize) {
            *count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn labels_are_unique_and_counters_find_their_place() {
        let labels: BTreeSet<_> = DropReason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(labels.len(), DropReason::ALL.len());
        let mut counters = DropCounters::default();
        for (at, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at, "{reason:?} is out of order in ALL");
            counters.count(reason);
            assert_eq!(counters.of(reason), 1);
        }
        assert_eq!(counters.total(), DropReason::ALL.len() as u64);
    }
}
