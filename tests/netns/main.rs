//! Real binaries, real kernel, private namespaces.
fn main() {}
