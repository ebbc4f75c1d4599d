//! What this node should look like, and the steps to get there. Pure: the cluster as data in, a whole wish out.

pub mod assign;
pub mod desired;
pub mod view;

pub use assign::{Assigner, Assignments, Refusal};
pub use desired::{
    Desired, Filter, Here, LocalAttachment, LocalIdentity, PeerName, Pin, RemoteIdentity, Route, RouteTable,
    RouteTarget,
};
pub use view::{ClusterView, Event, Object, ObjectKey, Phase, ViewError};
