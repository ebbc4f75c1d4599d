//! One controller at a time: a Lease that whoever works holds, and renews or gives up working.

use std::time::Instant;

use anyhow::Context as _;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};

use super::tenure::{Claim, Claimant, RENEW_DEADLINE, RETRY, Tenure};

/// What became of a renewal.
enum Renewed {
    Ours,
    /// Somebody else has it; an empty name where it was given back.
    Lost {
        holder: String,
    },
}

/// The lease of a name, as one of those who want it.
pub(crate) struct Leadership {
    leases: Api<Lease>,
    name: String,
    claimant: Claimant,
}

impl Leadership {
    pub(super) fn new(client: &Client, namespace: &str, name: &str, holder: String) -> Self {
        let leases = Api::namespaced(client.clone(), namespace);
        Self { leases, name: name.to_owned(), claimant: Claimant::new(holder) }
    }

    /// Waits until the lease is ours.
    pub(crate) async fn acquire(&mut self) -> Tenure {
        let mut told = String::new();
        loop {
            let asked = Instant::now();
            let tried = tokio::time::timeout(RENEW_DEADLINE, self.try_acquire());
            // an answer that comes too late is of a lease that has ended meanwhile
            let tried = tried.await.context("the API server does not answer").and_then(|tried| tried);
            match tried {
                Ok(None) => {
                    tracing::info!(lease = self.name, "This controller leads");
                    return Tenure::asked_at(asked);
                }
                Ok(Some(holder)) if holder != told => {
                    tracing::info!(holder, "Another controller leads: waiting");
                    told = holder;
                }
                Ok(Some(_)) => {}
                Err(error) => {
                    let text = format!("{error:#}");
                    if text != told {
                        tracing::warn!(error = text, "The leader's lease cannot be asked for");
                        told = text;
                    }
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Renews the lease, which is ours since `tenure`, until somebody else has it, or until that fails for so long that somebody
    /// else may: then this must end.
    pub(crate) async fn hold(&self, mut tenure: Tenure) -> anyhow::Error {
        loop {
            let asked = Instant::now();
            let failure = match tokio::time::timeout(RETRY, self.renew()).await {
                Ok(Ok(Renewed::Ours)) => {
                    tenure = Tenure::asked_at(asked);
                    None
                }
                Ok(Ok(Renewed::Lost { holder })) if holder.is_empty() => {
                    return anyhow::anyhow!("the lease was lost: somebody gave it back");
                }
                Ok(Ok(Renewed::Lost { holder })) => {
                    return anyhow::anyhow!("the lease was lost: {holder} holds it now");
                }
                Ok(Err(error)) => Some(error),
                Err(_elapsed) => Some(anyhow::anyhow!("the API server does not answer")),
            };
            if let Some(error) = failure.filter(|_| tenure.is_over(Instant::now())) {
                return error.context("the lease was lost");
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Gives the lease up, so that another controller leads at its next look instead of when the lease has ended.
    ///
    /// # Errors
    /// The API server does not answer in time or refuses; the lease ends by itself then.
    pub(crate) async fn release(&self) -> anyhow::Result<()> {
        let work = async {
            let lease = self.leases.get(&self.name).await.context("cannot read the lease")?;
            let spec = lease.spec.clone().unwrap_or_default();
            let Some(returned) = self.claimant.released(&spec, Timestamp::now()) else { return Ok(()) };
            self.replace(lease, returned).await.context("cannot release the lease")
        };
        tokio::time::timeout(RETRY, work).await.context("the API server does not answer")?
    }

    /// `None` when it is ours now, else who has it.
    async fn try_acquire(&mut self) -> anyhow::Result<Option<String>> {
        let found = self.leases.get_opt(&self.name).await?;
        let spec = found.as_ref().map(|lease| lease.spec.clone().unwrap_or_default());
        let taken = match self.claimant.claim(spec.as_ref(), Instant::now(), Timestamp::now()) {
            Claim::Wait(holder) => return Ok(Some(holder)),
            Claim::Take(spec) => spec,
        };
        let written = match found {
            Some(lease) => self.replace(lease, taken).await,
            None => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                let lease = Lease { metadata, spec: Some(taken) };
                self.leases.create(&PostParams::default(), &lease).await.map(drop)
            }
        };
        match written {
            Ok(()) => Ok(None),
            // somebody was quicker
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Some("another".to_owned())),
            Err(error) => Err(error.into()),
        }
    }

    async fn renew(&self) -> anyhow::Result<Renewed> {
        let lease = self.leases.get(&self.name).await.context("cannot read the lease")?;
        let spec = lease.spec.clone().unwrap_or_default();
        match self.claimant.renewed(&spec, Timestamp::now()) {
            Ok(renewed) => self.replace(lease, renewed).await.context("cannot renew the lease").map(|()| Renewed::Ours),
            Err(holder) => Ok(Renewed::Lost { holder }),
        }
    }

    /// The resource version that was read makes two who write at once differ.
    async fn replace(&self, lease: Lease, spec: LeaseSpec) -> kube::Result<()> {
        let lease = Lease { spec: Some(spec), ..lease };
        self.leases.replace(&self.name, &PostParams::default(), &lease).await.map(drop)
    }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
