//! Tidy: the house rules as a test.
