//! The Kubernetes back end: watches with bookmarks and re-list, server-side apply, all by the node's own token.

mod gather;
mod object;
mod watch;
mod write;

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

pub(crate) use write::Publisher;

use super::Source;

/// Longest time to set up a connection; a server behind a dead route is found out then.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

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
        let mut config = match (kubeconfig, context) {
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
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        let client = Client::try_from(config).context("cannot make a client of this configuration")?;
        Ok(Self { client })
    }

    /// Watches every kind that Weft reads.
    pub(crate) fn watch(&self) -> Source {
        watch::watch(&self.client)
    }

    /// Begins to write as `writer`.
    pub(crate) fn publisher(&self, writer: &'static str) -> Publisher {
        Publisher::spawn(&self.client, writer)
    }
}
