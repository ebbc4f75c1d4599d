//! What this node should look like, and the steps to get there. Pure: the cluster as data in, a whole wish out.
//!
//! What this is not: it reads no manifest, asks no kernel and keeps no time. Main types: [`ClusterView`], [`Desired`],
//! [`Assigner`]. What becomes of a packet under a wish is [`path::follow`].
//!
//! ```
//! use std::collections::BTreeSet;
//! use identity::NodeName;
//! use plan::view::Namespace;
//! use plan::{ClusterView, Desired, Event, Here, Object};
//!
//! let mut view = ClusterView::default();
//! let shop = Namespace { name: "shop".to_owned(), labels: [("weft.dev/mesh".to_owned(), "enabled".to_owned())].into() };
//! for event in [Event::Init, Event::Apply(Object::Namespace(shop)), Event::InitDone] {
//!     view.handle(event)?;
//! }
//! let here = Here {
//!     node: NodeName("n1".to_owned()),
//!     trust_domain: "cluster.local".parse()?,
//!     root_namespace: "weft-system".to_owned(),
//!     addresses: BTreeSet::from(["192.0.2.1".parse()?]),
//!     attachments: vec![],
//!     keys: Default::default(),
//! };
//! let desired = Desired::of(&view, &here);
//! assert_eq!(desired.locals.len(), 1, "the node itself");
//! assert!(plan::steps(&desired, &desired).is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod assign;
pub mod desired;
pub mod diff;
pub mod engine;
pub mod governed;
pub mod path;
pub mod policies;
pub mod step;
pub mod view;

#[cfg(test)]
mod world;

pub use assign::{Assigner, Assignments, Refusal, RefusalReason};
pub use desired::{
    BoundKey, BoundKeys, Desired, Filter, Here, LocalAttachment, LocalIdentity, PeerName, Pin, RemoteIdentity, Route,
    RouteTable, RouteTarget, Standing,
};
pub use diff::{RouteKey, RouteSteps, route_steps, steps};
pub use engine::{engine_peers, engine_suite, named_suite};
pub use governed::{Governed, governed};
pub use path::{Cause, Fate, follow};
pub use step::Step;
pub use view::{ClusterView, Event, Object, ObjectKey, Phase, ViewError};
