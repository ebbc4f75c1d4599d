//! What this node should look like, and the steps to get there. Pure: the cluster as data in, a whole wish out.

pub mod assign;
pub mod desired;
pub mod diff;
pub mod path;
pub mod step;
pub mod view;

#[cfg(test)]
mod world;

pub use assign::{Assigner, Assignments, Refusal, RefusalReason};
pub use desired::{
    Desired, Filter, Here, LocalAttachment, LocalIdentity, PeerName, Pin, RemoteIdentity, Route, RouteTable,
    RouteTarget, Standing,
};
pub use diff::steps;
pub use path::{Cause, Fate, follow};
pub use step::Step;
pub use view::{ClusterView, Event, Object, ObjectKey, Phase, ViewError};
