//! Who may talk to whom, and in which mode. Pure: plain data in, verdicts out.

pub mod mode;
pub mod selector;

pub use mode::{EffectiveMode, Mode, Outbound, PeerAuthentication};
pub use selector::{Labels, Selector};
