//! meshctl: what people type.
fn main() {}
