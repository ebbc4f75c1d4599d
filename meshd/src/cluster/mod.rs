//! Where the world comes from: manifests in, our own objects out.
//!
//! One interface for every back end: [`Event`]s in (a list, then changes), [`Publish`] out. What needs proof comes as
//! it was written; who uses it verifies it.

pub(crate) mod api;
mod collection;
mod convert;
mod directory;
mod parse;

use plan::ObjectKey;

pub(crate) use convert::Manifest;
pub(crate) use directory::{Publisher, Source, watch};

/// A change in the cluster. `Init`, any number of `Apply`, `InitDone` is a whole list.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// A list begins.
    Init,
    /// This object is as given.
    Apply(Manifest),
    /// This object is gone.
    Delete(ObjectKey),
    /// The list is complete.
    InitDone,
}

/// Objects out. Every call is a whole object and may be repeated; what is unchanged is not written.
pub(crate) trait Publish {
    /// A node's own report.
    fn put_node_spec(&self, name: &str, spec: &api::MeshNodeSpec) -> anyhow::Result<()>;
    /// The controller's answer to a node.
    fn put_node_status(&self, name: &str, status: &api::MeshNodeStatus) -> anyhow::Result<()>;
    /// The controller's word on one node's addresses.
    fn put_slice(&self, slice: &api::MeshEndpointSlice) -> anyhow::Result<()>;
    /// A node is gone, and its addresses with it.
    fn delete_slice(&self, name: &str) -> anyhow::Result<()>;
    /// The trust domain's certificates.
    fn put_trust(&self, trust: &api::MeshTrust) -> anyhow::Result<()>;
}
