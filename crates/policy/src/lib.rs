//! Who may talk to whom, and in which mode. Pure: plain data in, verdicts out.
//!
//! What this is not: it knows no Kubernetes types, no addresses and no kernel. Main types: [`PeerAuthentication`],
//! [`EffectiveMode`], [`Selector`].
//!
//! ```
//! use policy::{Labels, Mode, PeerAuthentication, resolve};
//!
//! let strict = PeerAuthentication {
//!     namespace: "shop".to_owned(),
//!     name: "default".to_owned(),
//!     created: 1,
//!     selector: None,
//!     mode: Some(Mode::Strict),
//!     ports: Default::default(),
//!     outbound: None,
//! };
//! let effective = resolve([&strict], "shop", &Labels::new(), "weft-system");
//! assert!(effective.refuses_clear_at(8080));
//! assert!(!resolve([&strict], "elsewhere", &Labels::new(), "weft-system").is_strict());
//! ```

pub mod enrolment;
pub mod mode;
pub mod selector;

pub use enrolment::{MESH_LABEL, is_enrolled};
pub use mode::{EffectiveMode, Mode, Outbound, PeerAuthentication, resolve};
pub use selector::{Expression, Labels, Selector};
