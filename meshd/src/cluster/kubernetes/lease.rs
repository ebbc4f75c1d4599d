//! One controller at a time: a Lease that whoever works holds, and renews or gives up working.

use std::time::{Duration, Instant};

use anyhow::Context as _;
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
            let tried = tokio::time::timeout(RENEW_DEADLINE, self.try_acquire(&mut seen));
            // an answer that comes too late is of a lease that has ended meanwhile
            let tried = tried.await.context("the API server does not answer").and_then(|tried| tried);
            match tried {
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

    /// Renews the lease until somebody else has it, or until that fails for so long that somebody else may: then this must end.
    pub(crate) async fn hold(&self) -> anyhow::Error {
        let mut renewed = Instant::now();
        loop {
            // from when it is asked: that is the time that is written
            let asked = Instant::now();
            let failure = match tokio::time::timeout(RETRY, self.renew()).await {
                Ok(Ok(Renewed::Ours)) => {
                    renewed = asked;
                    None
                }
                Ok(Ok(Renewed::Lost { holder })) => {
                    return anyhow::anyhow!("the lease was lost: {holder} holds it now");
                }
                Ok(Err(error)) => Some(error),
                Err(_elapsed) => Some(anyhow::anyhow!("the API server does not answer")),
            };
            if let Some(error) = failure.filter(|_| renewed.elapsed() > RENEW_DEADLINE) {
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
            let mut lease = self.leases.get(&self.name).await.context("cannot read the lease")?;
            let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
            if holder != self.holder {
                return Ok(());
            }
            // as client-go's ReleaseOnCancel leaves it
            let held = self.spec(lease.spec.as_ref());
            let nobody = Some(String::new());
            lease.spec = Some(LeaseSpec { holder_identity: nobody, lease_duration_seconds: Some(1), ..held });
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
            let lease = Lease { metadata, spec: Some(self.spec(None)) };
            return match self.leases.create(&PostParams::default(), &lease).await {
                Ok(_) => Ok(None),
                // somebody was quicker
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(Some("another".to_owned())),
                Err(error) => Err(error.into()),
            };
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        let since = match seen {
            Some((time, since)) if *time == spec.renew_time => *since,
            _ => {
                *seen = Some((spec.renew_time.clone(), Instant::now()));
                Instant::now()
            }
        };
        if holder != self.holder && !holder.is_empty() && since.elapsed() < DURATION {
            return Ok(Some(holder));
        }
        // the resource version that was read makes two who try at once differ
        lease.spec = Some(self.spec(Some(&spec)));
        match self.leases.replace(&self.name, &PostParams::default(), &lease).await {
            Ok(_) => Ok(None),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Some("another".to_owned())),
            Err(error) => Err(error.into()),
        }
    }

    async fn renew(&self) -> anyhow::Result<Renewed> {
        let mut lease = self.leases.get(&self.name).await.context("cannot read the lease")?;
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
        if holder != self.holder {
            return Ok(Renewed::Lost { holder });
        }
        lease.spec = Some(self.spec(lease.spec.as_ref()));
        self.leases.replace(&self.name, &PostParams::default(), &lease).await.context("cannot renew the lease")?;
        Ok(Renewed::Ours)
    }

    /// The lease as ours from now on, after what it was: since when, and how often it has changed hands.
    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let ours = before.filter(|spec| spec.holder_identity.as_ref() == Some(&self.holder));
        let transitions = before.map(|spec| spec.lease_transitions.unwrap_or_default());
        LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: Some(i32::try_from(DURATION.as_secs()).unwrap_or(i32::MAX)),
            acquire_time: ours.and_then(|spec| spec.acquire_time.clone()).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: transitions.map(|count| if ours.is_some() { count } else { count.saturating_add(1) }),
            ..LeaseSpec::default()
        }
    }
}
