//! Alice, Bob and Eve, step by step: a world of engines with a wire between them that the test holds in its hands.

mod basics;
mod chaos;
mod eve;
mod flood;
mod forge;
mod fuzz;
mod held;
mod interrupted;
mod lifecycle;
mod limits;
mod memory;
mod oracle;
mod rotation;
mod shards;
mod storm;
mod suites;
mod timing;
mod vectors;
mod world;

pub(crate) use world::epoch;
