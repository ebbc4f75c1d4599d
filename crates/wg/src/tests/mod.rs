//! Alice, Bob and Eve, step by step: a world of engines with a wire between them that the test holds in its hands.

mod basics;
#[cfg(feature = "mock-clock")]
mod chaos;
mod eve;
mod forge;
mod held;
mod lifecycle;
mod rotation;
#[cfg(feature = "mock-clock")]
mod timing;
mod world;

pub(crate) use world::epoch;
