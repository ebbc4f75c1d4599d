//! Where the world comes from: manifests in, our own objects out.
//!
//! One interface for both back ends, a watched folder and a Kubernetes API server: [`Event`]s in (a list, then changes),
//! [`Publish`] out. What needs proof comes as it was written; who uses it verifies it.

pub(crate) mod api;
mod collection;
mod convert;
pub(crate) mod crd;
mod directory;
#[cfg(test)]
mod kept_tests;
pub(crate) mod kubernetes;
mod parse;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use identity::NodeName;
use plan::ObjectKey;
use tokio::sync::mpsc;

pub(crate) use convert::Manifest;
pub(crate) use parse::Refusal;

use crate::config::SharedConfig;

/// A change in the cluster. `Init`, any number of `Apply`, `InitDone` is a whole list; it comes once, and what a back
/// end finds out later by listing again comes as single changes.
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
    /// What is to be said of an object that people wrote, where its status says something else.
    Judged(Judgement),
    /// What the status of a PeerAuthentication says of its workloads, each time that the API server speaks of the object.
    Counted(Counted),
}

/// What became of an object that people wrote.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Judgement {
    /// Which object.
    pub(crate) key: ObjectKey,
    /// What its status is to say.
    pub(crate) condition: api::Condition,
    /// Of an object whose status is not ours, or that has none: what an Event says it of.
    pub(crate) referent: Option<Referent>,
}

/// How many workloads a PeerAuthentication governs, as its status has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Counted {
    /// Which object.
    pub(crate) key: ObjectKey,
    /// The generation that it is in now.
    pub(crate) generation: i64,
    /// What its status says; `None` where that is nothing, or nothing whole.
    pub(crate) held: Option<api::Enforcement>,
}

/// What an Event about an object names it by, beside its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Referent {
    /// Group and version, as in the object's `apiVersion`.
    pub(crate) api_version: String,
    /// The object's own name, where its key has another beside its group.
    pub(crate) name: String,
    /// The object's UID: an Event is about one life of a name.
    pub(crate) uid: String,
}

/// Objects out. Every call is a whole object and may be repeated; what is unchanged is not written. An error means that
/// the call did nothing: it is to be repeated, with whatever is right by then.
pub(crate) trait Publish {
    /// A node's own report; with the UID of its Node object, it goes when that goes. Empty where there is none.
    fn put_node_spec(&self, node: (&str, &str), spec: &api::MeshNodeSpec) -> anyhow::Result<()>;
    /// The controller's answer to a node.
    fn put_node_status(&self, name: &str, status: &api::MeshNodeStatus) -> anyhow::Result<()>;
    /// The controller's word on one node's addresses. Slices become visible in the order of these calls.
    fn put_slice(&self, slice: &api::MeshEndpointSlice) -> anyhow::Result<()>;
    /// A node is gone, and its addresses with it.
    fn delete_slice(&self, name: &str) -> anyhow::Result<()>;
    /// What became of an object that people wrote, where the cluster has a place for it.
    fn put_judgement(&self, judgement: &Judgement) -> anyhow::Result<()>;
    /// How many workloads a PeerAuthentication governs, where the cluster has a place for it.
    fn put_enforcement(&self, key: &ObjectKey, enforcement: &api::Enforcement) -> anyhow::Result<()>;
    /// The trust domain's certificates.
    fn put_trust(&self, trust: &api::MeshTrust) -> anyhow::Result<()>;
}

/// A watched cluster; the watching ends when this is dropped.
pub(crate) struct Source {
    /// What happens in it, beginning with `Init`.
    pub(crate) events: mpsc::Receiver<Event>,
    refusals: Refusals,
}

impl Source {
    /// Everything that cannot be used at the moment.
    pub(crate) fn refusals(&self) -> Vec<Refusal> {
        self.refusals.read()
    }
}

/// What cannot be used, as the watching task last said it.
#[derive(Clone, Default)]
struct Refusals(Arc<Mutex<Vec<Refusal>>>);

impl Refusals {
    fn read(&self) -> Vec<Refusal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, refusals: Vec<Refusal>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = refusals;
    }
}

/// The back end that the flags name.
#[derive(Clone)]
pub(crate) enum Cluster {
    /// A folder of manifests.
    Directory(PathBuf),
    /// A Kubernetes API server.
    Kubernetes(kubernetes::Server),
}

impl Cluster {
    /// Chooses the back end; the API server need not be reachable yet.
    ///
    /// # Errors
    /// A kubeconfig that cannot be used, or none and no service account either.
    pub(crate) async fn open(config: &SharedConfig) -> anyhow::Result<Self> {
        match &config.directory {
            Some(directory) => Ok(Self::Directory(directory.clone())),
            None => {
                let server = kubernetes::Server::open(config.kubeconfig.as_deref(), config.context.as_deref()).await?;
                Ok(Self::Kubernetes(server))
            }
        }
    }

    /// Watches everything that Weft reads. Where it comes from an API server, `file` keeps the last known view; a folder is
    /// on the disk already.
    ///
    /// # Errors
    /// The folder cannot be watched. An API server that cannot be reached is no error: it is tried again.
    pub(crate) fn watch(&self, file: Option<kubernetes::ViewFile>) -> anyhow::Result<Source> {
        match self {
            Self::Directory(root) => directory::watch(root),
            Self::Kubernetes(server) => Ok(server.watch(file)),
        }
    }

    /// Who writes our objects; `writer` is the name that an API server remembers fields by.
    pub(crate) fn publisher(&self, writer: &'static str) -> Box<dyn Publish> {
        match self {
            Self::Directory(root) => Box::new(directory::Publisher::new(root)),
            Self::Kubernetes(server) => Box::new(server.publisher(writer)),
        }
    }

    /// Takes the start-up taint off a node, and tries until that is done; a folder's nodes have none.
    pub(crate) async fn clear_taint(&self, node: &NodeName) {
        if let Self::Kubernetes(server) = self {
            server.clear_taint(node).await;
        }
    }

    /// Waits until this controller is the only one that works, and lays out the state that the last one left. Where the
    /// cluster vouches for its nodes, it must be known to do so.
    ///
    /// # Errors
    /// The state folder cannot be filled.
    pub(crate) async fn lead(&self, namespace: &str, state_dir: &Path) -> anyhow::Result<Lead> {
        match self {
            Self::Directory(_) => Ok(Lead { kubernetes: None, state_dir: state_dir.to_path_buf() }),
            Self::Kubernetes(server) => {
                // first, since the lease is not renewed while this is waited for
                server.await_admission().await;
                let (mut leadership, secret) = server.lead(namespace);
                let tenure = leadership.acquire().await;
                secret.fetch(state_dir).await?;
                let held = Held { server: server.clone(), leadership, tenure, secret };
                Ok(Lead { kubernetes: Some(held), state_dir: state_dir.to_path_buf() })
            }
        }
    }

    /// Whether the cluster itself vouches that a MeshNode was written by its node: an API server does by the node's
    /// token (ValidatingAdmissionPolicy `weft-meshnodes`), a folder does not, and needs join tokens.
    pub(crate) fn attests_nodes(&self) -> bool {
        matches!(self, Self::Kubernetes(_))
    }
}

/// The right to be the controller, and the place where its state folder outlives it.
pub(crate) struct Lead {
    kubernetes: Option<Held>,
    state_dir: PathBuf,
}

/// What a controller holds in an API server.
struct Held {
    server: kubernetes::Server,
    leadership: kubernetes::Leadership,
    /// As it was when the lease was taken.
    tenure: kubernetes::Tenure,
    secret: kubernetes::StateSecret,
}

/// Longest time to keep the state folder: the right is not held on to meanwhile.
const KEEP_TIMEOUT: Duration = Duration::from_secs(4);

impl Lead {
    /// Keeps the state folder as it is now.
    ///
    /// # Errors
    /// It cannot be kept; to be tried again.
    pub(crate) async fn keep(&self) -> anyhow::Result<()> {
        match &self.kubernetes {
            Some(held) => {
                let work = held.secret.keep(&self.state_dir);
                tokio::time::timeout(KEEP_TIMEOUT, work).await.context("the API server does not answer")?
            }
            None => Ok(()),
        }
    }

    /// Gives the right up, once nothing is written any more.
    pub(crate) async fn release(&self) {
        if let Some(held) = &self.kubernetes
            && let Err(error) = held.leadership.release().await
        {
            tracing::warn!(error = format!("{error:#}"), "The lease is not released: it ends by itself");
        }
    }

    /// Holds on to the right; returns when it is lost. A folder's controller holds a lock on its state folder instead.
    pub(crate) async fn hold(&self) -> anyhow::Error {
        match &self.kubernetes {
            Some(held) => held.leadership.hold(held.tenure).await,
            None => std::future::pending().await,
        }
    }

    /// Why the cluster no longer vouches for what its nodes write, where it should: somebody may have taken the policy away
    /// since this controller began.
    ///
    /// # Errors
    /// The API server does not answer in time or refuses.
    pub(crate) async fn admission_fault(&self) -> anyhow::Result<Option<String>> {
        match &self.kubernetes {
            Some(held) => held.server.admission_fault().await,
            None => Ok(None),
        }
    }
}
