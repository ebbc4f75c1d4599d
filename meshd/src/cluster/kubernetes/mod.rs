//! The Kubernetes back end: watches with bookmarks and re-list, server-side apply, all by the node's own token.

mod admission;
mod cache;
#[cfg(test)]
mod conformance_tests;
mod connect;
mod events;
mod follow;
mod gather;
mod judge;
mod keep;
mod keeper;
mod lease;
mod object;
mod optional;
#[cfg(test)]
mod rbac_tests;
mod taint;
mod tenure;
mod watch;
mod write;

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use identity::NodeName;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

pub(crate) use cache::ViewFile;
pub(crate) use keep::StateSecret;
pub(crate) use lease::Leadership;
pub(crate) use tenure::Tenure;
pub(crate) use write::Publisher;

use self::admission::Admission;
use super::Source;

/// Name of the controller's Lease and of the Secret with its state.
const CONTROLLER: &str = "weft-controller";
/// Between two tries to take the start-up taint off.
const RETRY: Duration = Duration::from_secs(2);

/// An API server, by a kubeconfig or as the service account of the pod that this runs in.
#[derive(Clone)]
pub(crate) struct Server {
    client: Client,
}

impl Server {
    /// Reads the credentials; does not connect.
    ///
    /// # Errors
    /// The kubeconfig, the context or the service account cannot be used; the message says which and what to do.
    pub(crate) async fn open(kubeconfig: Option<&Path>, context: Option<&str>) -> anyhow::Result<Self> {
        let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
        let config = match (kubeconfig, context) {
            (Some(path), _) => {
                let file = Kubeconfig::read_from(path)
                    .with_context(|| format!("cannot read the kubeconfig {}", path.display()))?;
                Config::from_custom_kubeconfig(file, &options)
                    .await
                    .with_context(|| format!("the kubeconfig {} cannot be used", path.display()))?
            }
            (None, Some(context)) => Config::from_kubeconfig(&options)
                .await
                .with_context(|| format!("context {context} of the kubeconfig cannot be used"))?,
            (None, None) => Config::infer().await.context(
                "no cluster is named: run in a pod with a service account, or give --kubeconfig FILE or --directory DIR",
            )?,
        };
        let client = connect::client(config).context("cannot make a client of this configuration")?;
        Ok(Self { client })
    }

    /// Watches every kind that Weft reads; with a file, what is known is kept there.
    pub(crate) fn watch(&self, file: Option<ViewFile>) -> Source {
        follow::watch(&self.client, file)
    }

    /// Begins to write as `writer`.
    pub(crate) fn publisher(&self, writer: &'static str) -> Publisher {
        Publisher::spawn(&self.client, writer)
    }

    /// The controller's lease and Secret, both named `weft-controller`.
    pub(crate) fn lead(&self, namespace: &str) -> (Leadership, StateSecret) {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        // a container that is started anew is another holder
        let holder = format!("{}_{}", host.trim(), since.as_nanos());
        let lease = Leadership::new(&self.client, namespace, CONTROLLER, holder);
        (lease, StateSecret::new(&self.client, namespace, CONTROLLER))
    }

    /// Takes the start-up taint off a node, and tries until that is done.
    pub(crate) async fn clear_taint(&self, node: &NodeName) {
        let mut told = String::new();
        loop {
            match taint::clear(&self.client, &node.0).await {
                Ok(true) => return tracing::info!(taint = taint::TAINT, "Pods may come to this node"),
                Ok(false) => return,
                Err(error) => {
                    let text = format!("{error:#}");
                    if text != told {
                        tracing::warn!(error = text, "The start-up taint is still on this node");
                        told = text;
                    }
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Why the server does not hold a node to its own MeshNode; `None` where it does.
    ///
    /// # Errors
    /// It does not answer in time or refuses.
    pub(crate) async fn admission_fault(&self) -> anyhow::Result<Option<String>> {
        Admission::new(&self.client).fault().await
    }

    /// Waits until the server holds a node to its own MeshNode: nothing may be signed before.
    pub(crate) async fn await_admission(&self) {
        Admission::new(&self.client).settled().await;
    }
}
