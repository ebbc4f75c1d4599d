//! The controller: signs bindings and says which address belongs to whom.

#[cfg_attr(not(test), expect(dead_code, reason = "the controller's loop takes it up as it is wired in app.rs"))]
pub(crate) mod ca;
#[cfg_attr(not(test), expect(dead_code, reason = "as above"))]
pub(crate) mod issuer;
