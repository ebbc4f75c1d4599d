//! Who a workload is, and which key says so.
//!
//! What this is not: it opens no file, reads no clock and talks to nobody. Main types: [`SpiffeId`],
//! [`SignedBinding`], [`KeyRing`](key_ring::KeyRing).

pub mod name;
pub mod spiffe;

pub use name::{Epoch, NodeName, UnixTime};
pub use spiffe::{SpiffeId, TrustDomain};
