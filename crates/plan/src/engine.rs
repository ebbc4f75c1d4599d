//! What the engine is told of the wish: its peers and their ciphers, in its own words.

use std::collections::BTreeMap;

use identity::Suite;
use wg::{PeerConfig, PublicKey};

use crate::desired::{Desired, PeerName};

/// The engine's word for a suite.
#[must_use]
pub const fn engine_suite(suite: Suite) -> wg::Suite {
    match suite {
        Suite::ChaCha20Poly1305 => wg::Suite::ChaCha20Poly1305,
        Suite::Aes256Gcm => wg::Suite::Aes256Gcm,
    }
}

/// A suite of the engine's, in the words of bindings.
#[must_use]
pub const fn named_suite(suite: wg::Suite) -> Suite {
    match suite {
        wg::Suite::ChaCha20Poly1305 => Suite::ChaCha20Poly1305,
        wg::Suite::Aes256Gcm => Suite::Aes256Gcm,
    }
}

/// Every remote identity as a peer of the engine.
#[must_use]
pub fn engine_peers(desired: &Desired) -> BTreeMap<PeerName, PeerConfig> {
    let peers = desired.peers.iter().map(|(name, remote)| {
        let keys = remote.keys.iter().map(|(epoch, key)| (epoch.0, PublicKey::from(key.public_key))).collect();
        let suites = remote.keys.iter().map(|(epoch, key)| (epoch.0, engine_suite(key.suite))).collect();
        let allowed_ips = remote.addresses.iter().map(|ip| (*ip).into()).collect();
        let endpoints = remote.endpoints.clone();
        (name.clone(), PeerConfig { keys, suites, endpoints, allowed_ips, preshared_key: None })
    });
    peers.collect()
}
