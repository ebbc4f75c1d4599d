//! One controller at a time: a Lease that whoever works holds, and renews or gives up working.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};

/// How long a lease holds without being renewed; the times are client-go's (leaderelection).
const DURATION: Duration = Duration::from_secs(15);
/// When a holder that could not renew stops working.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often it is renewed, or asked for.
const RETRY: Duration = Duration::from_secs(2);

/// The lease of a name, as one of those who want it.
pub(crate) struct Leadership {
    leases: Api<Lease>,
    name: String,
    holder: String,
}

impl Leadership {
    pub(super) fn new(client: &Client, namespace: &str, name: &str, holder: String) -> Self {
        Self { leases: Api::namespaced(client.clone(), namespace), name: name.to_owned(), holder }
    }

    /// Waits until the lease is ours.
    ///
    /// Whether another's lease has ended is measured by our own clock since it last changed: clocks may differ.
    pub(crate) async fn acquire(&self) {
        let mut seen: Option<(Option<MicroTime>, Instant)> = None;
        let mut told = String::new();
        loop {
            match self.try_acquire(&mut seen).await {
                Ok(None) => return tracing::info!(lease = self.name, "This controller leads"),
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

    /// Renews the lease until that fails for too long: then somebody else may lead, and this must end.
    pub(crate) async fn hold(&self) -> anyhow::Error {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(RETRY).await;
            match tokio::time::timeout(RETRY, self.renew()).await {
                Ok(Ok(())) => renewed = Instant::now(),
                Ok(Err(error)) if renewed.elapsed() > RENEW_DEADLINE => return error.context("the lease was lost"),
                Err(_elapsed) if renewed.elapsed() > RENEW_DEADLINE => {
                    return anyhow::anyhow!("the lease was lost: the API server does not answer");
                }
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }

    /// Gives the lease up, so that another controller leads at its next look instead of when the lease has ended.
    ///
    /// # Errors
    /// The API server does not answer in time or refuses; the lease ends by itself then.
    pub(crate) async fn release(&self) -> anyhow::Result<()> {
        let work = async {
            let mut lease = self.leases.get(&self.name).await.context("cannot read the lease")?;
            let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
            if holder != self.holder {
                return Ok(());
            }
            // as client-go's ReleaseOnCancel leaves it
            let spec =
                LeaseSpec { holder_identity: Some(String::new()), lease_duration_seconds: Some(1), ..self.spec() };
            lease.spec = Some(spec);
            self.leases
                .replace(&self.name, &PostParams::default(), &lease)
                .await
                .context("cannot release the lease")?;
            Ok(())
        };
        tokio::time::timeout(RETRY, work).await.context("the API server does not answer")?
    }

    /// `None` when it is ours now, else who has it.
    async fn try_acquire(&self, seen: &mut Option<(Option<MicroTime>, Instant)>) -> anyhow::Result<Option<String>> {
        let Some(mut lease) = self.leases.get_opt(&self.name).await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.spec()) };
            return match self.leases.create(&PostParams::default(), &lease).await {
                Ok(_) => Ok(None),
                // somebody was quicker
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(Some("another".to_owned())),
                Err(error) => Err(error.into()),
            };
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        let since = match seen {
            Some((time, since)) if *time == spec.renew_time => *since,
            _ => {
                *seen = Some((spec.renew_time, Instant::now()));
                Instant::now()
            }
        };
        if holder != self.holder && !holder.is_empty() && since.elapsed() < DURATION {
            return Ok(Some(holder));
        }
        // the resource version that was read makes two who try at once differ
        lease.spec = Some(self.spec());
        match self.leases.replace(&self.name, &PostParams::default(), &lease).await {
            Ok(_) => Ok(None),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Some("another".to_owned())),
            Err(error) => Err(error.into()),
        }
    }

    async fn renew(&self) -> anyhow::Result<()> {
        let mut lease = self.leases.get(&self.name).await.context("cannot read the lease")?;
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
        if holder != self.holder {
            bail!("{holder} holds the lease now");
        }
        lease.spec = Some(self.spec());
        self.leases.replace(&self.name, &PostParams::default(), &lease).await.context("cannot renew the lease")?;
        Ok(())
    }

    fn spec(&self) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: Some(i32::try_from(DURATION.as_secs()).unwrap_or(i32::MAX)),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }
    }
}
