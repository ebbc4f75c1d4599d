//! Who a packet is for, and how it is sealed: standard WireGuard for many local identities behind one UDP port.
//!
//! Sans-IO: the shell owns sockets, TUN and clock; the engine owns identities, peers, sessions and every decision.
//! It is *not* a router (the kernel's routes bring packets here), *not* a policy (whether a flow may be is the
//! kernel's filter) and does not know what an identity is: `L` and `P` are just names.
//!
//! Three main types: [`Engine`]; [`LocalConfig`] and [`PeerConfig`], the tables it is given; [`DropReason`], every way a
//! packet can end here.
//!
//! ```
//! use std::collections::{BTreeMap, BTreeSet};
//! use std::time::{Instant, SystemTime};
//! use wg::{Engine, Handled, LocalConfig, LocalKey, PeerConfig, PublicKey, StaticSecret};
//!
//! # #[expect(clippy::disallowed_methods, reason = "an example")]
//! let (wall, now) = (SystemTime::now(), Instant::now());
//! let (us, them) = (StaticSecret::from([1; 32]), StaticSecret::from([2; 32]));
//! let mut engine = Engine::new([0; 32], wall, now);
//! let peer = PeerConfig {
//!     keys: BTreeMap::from([(1, PublicKey::from(&them))]),
//!     endpoints: vec!["192.0.2.2:51840".parse()?],
//!     allowed_ips: vec!["10.0.0.2/32".parse()?],
//!     suites: BTreeMap::new(),
//!     preshared_key: None,
//! };
//! let local = LocalConfig {
//!     keys: vec![LocalKey { epoch: 1, secret: us, suite: Default::default() }],
//!     addresses: BTreeSet::from(["10.0.0.1".parse()?]),
//! };
//! engine.set_locals(BTreeMap::from([("frontend", local)]), now);
//! engine.set_peers(BTreeMap::from([("backend on node 2", peer)]), now);
//! engine.greet(&"frontend", &"backend on node 2", now)?;
//! let transmit = engine.poll_transmit().expect("an initiation");
//! assert_eq!((transmit.to.port(), transmit.datagram.len()), (51840, 148));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod admission;
mod allowed_ips;
mod cipher;
mod claims;
mod cookie;
mod drop;
mod engine;
mod event;
mod gate;
mod hash;
mod index;
mod interrupted;
mod key;
mod local;
mod message;
mod noise;
mod pair;
mod parked;
mod peer;
mod probe;
mod random;
mod replay;
mod session;
mod session_key;
mod shard;
mod stamp;
mod transmit;
mod transport;
mod waiting;

pub use admission::Work;
pub use cipher::Suite;
pub use drop::{DropCounters, DropReason};
pub use engine::{Engine, Handled, Occupancy, Path, SessionInfo};
pub use event::{EVENTS_MAX, Event, RetireReason};
pub use index::SESSIONS_MAX;
pub use key::{LocalConfig, LocalKey, PeerConfig, PresharedKey, is_low_order};
pub use message::{HEADROOM, TAG};
pub use session::IDLE_TIMEOUT;
pub use shard::{Foreign, RECEIVERS, SHARDS_MAX, Shard};
pub use transmit::{TRANSMITS_MAX, Transmit};
pub use transport::REJECT_AFTER_TIME;
pub use x25519_dalek::{PublicKey, StaticSecret};

#[cfg(test)]
mod tests;
