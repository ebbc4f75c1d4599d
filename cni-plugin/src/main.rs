//! mesh-cni: carries a CNI call to meshd and the answer back.
fn main() {}
