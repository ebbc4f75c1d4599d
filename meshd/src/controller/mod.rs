//! The controller: signs bindings and says which address belongs to whom.
