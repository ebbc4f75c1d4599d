//! Who a workload is, and which key says so.
//!
//! What this is not: it opens no file, reads no clock and talks to nobody. Main types: [`SpiffeId`],
//! [`SignedBinding`], [`KeyRing`].
//!
//! ```
//! use identity::{Epoch, NodeName, NodeSecret, SpiffeId, Suite, TrustDomain, wireguard_key};
//!
//! let domain: TrustDomain = "cluster.local".parse()?;
//! let cart = SpiffeId::for_service_account(&domain, "shop", "cart")?;
//! let secret = NodeSecret::from_bytes([7; 32]);
//! let key = wireguard_key(&secret, &cart, "node-uid", Epoch(20_000), Suite::Aes256Gcm);
//! let again = wireguard_key(&secret, &cart, "node-uid", Epoch(20_000), Suite::Aes256Gcm);
//! assert_eq!(key.as_bytes(), again.as_bytes(), "a restart derives the same keys");
//! # Ok::<(), identity::SpiffeError>(())
//! ```

pub mod binding;
pub mod bundle;
pub mod certificate;
pub mod credential;
pub mod derive;
pub mod epoch_floor;
mod frame;
mod hex;
pub mod key_ring;
pub mod name;
mod pem;
pub mod sign;
pub mod spiffe;
pub mod suite;
pub mod svid;
pub mod token;

pub use binding::{Binding, BindingError, CLOCK_SKEW, DecodeError, Fault, SignedBinding};
pub use bundle::{BundleError, Fingerprint, FingerprintError, TrustBundle};
pub use certificate::CertificateError;
pub use credential::{NodeCredential, verify_spec};
pub use derive::{NodeSecret, svid_public_key, svid_seed, wireguard_key};
pub use epoch_floor::{EpochFloor, FloorError};
pub use key_ring::KeyRing;
pub use name::{Epoch, NameError, NodeName, UnixTime};
pub use sign::{BINDING_DOMAIN, IssuerKey, KeyError, SLICE_DOMAIN, SignatureError, Verifier};
pub use spiffe::{SpiffeError, SpiffeId, TrustDomain};
pub use suite::Suite;
pub use svid::{Svid, SvidError};
pub use token::{JoinToken, ProofError, TokenError, verify_proof};
