//! Flags and environment, checked as a whole.
