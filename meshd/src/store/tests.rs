//! What the tests of several stores stand on.

pub(super) mod small_disk;
