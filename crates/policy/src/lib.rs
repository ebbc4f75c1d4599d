//! Who may talk to whom, and in which mode. Pure: plain data in, verdicts out.

pub mod enrolment;
pub mod mode;
pub mod selector;

pub use enrolment::{MESH_LABEL, is_enrolled};
pub use mode::{EffectiveMode, Mode, Outbound, PeerAuthentication, resolve};
pub use selector::{Expression, Labels, Selector};
