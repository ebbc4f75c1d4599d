//! The Kubernetes back end: watches with bookmarks and re-list, server-side apply, all by the node's own token.

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
mod taint;
mod watch;
mod write;

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use identity::NodeName;
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};

pub(crate) use cache::ViewFile;
pub(crate) use keep::StateSecret;
pub(crate) use lease::Leadership;
pub(crate) use write::Publisher;

use super::Source;

/// Name of the controller's Lease and of the Secret with its state.
const CONTROLLER: &str = "weft-controller";
/// Name of the policy that lets a node write its own MeshNode only, and of its binding.
const ADMISSION: &str = "weft-meshnodes";
/// How often is asked for what is missing at the start.
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

    /// Waits until the server lets a node write its own MeshNode only: without that, whoever holds one node's token
    /// could speak for another, and nothing may be signed.
    pub(crate) async fn await_admission(&self) {
        let policies: Api<ValidatingAdmissionPolicy> = Api::all(self.client.clone());
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(self.client.clone());
        let mut told = String::new();
        loop {
            let found = async {
                let policy = policies.get_opt(ADMISSION).await?;
                let binding = bindings.get_opt(ADMISSION).await?;
                let fails = policy.and_then(|p| p.spec).and_then(|s| s.failure_policy).unwrap_or("Fail".to_owned());
                let denies = binding.and_then(|b| b.spec).and_then(|s| s.validation_actions).unwrap_or_default();
                Ok::<_, kube::Error>(fails == "Fail" && denies.iter().any(|action| action == "Deny"))
            };
            let why = match found.await {
                Ok(true) => return,
                Ok(false) => format!(
                    "ValidatingAdmissionPolicy {ADMISSION} is not in force: kubectl apply -k manifests/overlays/default"
                ),
                Err(error) => error.to_string(),
            };
            if why != told {
                tracing::warn!(why, "The controller signs nothing yet");
                told = why;
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}
