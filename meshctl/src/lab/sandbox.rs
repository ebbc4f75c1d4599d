//! A pod's network: its namespace made, the chain of plugins called until it works, and all of it taken back.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use linux::netns::{NAMED_DIR, Netns};
use serde_json::Value;

use super::cni_runtime::{IFNAME, Sandbox, addresses, host_link};
use super::netcfg::{ip_batch, sysctls};
use super::pod::{FIRST_BACKOFF, PodWorker, Stopped};
use super::process;
use super::record::{self, PodRecord};
use super::stage::random_uuid;

/// How long the node daemon's socket is waited for before the first ADD; a runtime waits for the node to be ready.
const SOCKET_PATIENCE: Duration = Duration::from_secs(10);

/// How often a DEL is tried.
const DEL_TRIES: u32 = 3;

impl PodWorker {
    /// A namespace with the chain's interface in it, however many tries that takes.
    pub(super) fn attach(&mut self) -> Result<Netns, Stopped> {
        self.await_daemon()?;
        let mut backoff = FIRST_BACKOFF;
        loop {
            self.update(|s| s.add_tries += 1);
            match self.try_attach() {
                Ok(netns) => return Ok(netns),
                Err(error) => {
                    self.remove_sandbox();
                    self.retry_later(&format!("{error:#}"), &mut backoff)?;
                }
            }
        }
    }

    fn await_daemon(&mut self) -> Result<(), Stopped> {
        let socket = self.stage.layout.cni_socket(&self.status().node);
        let deadline = Instant::now() + SOCKET_PATIENCE;
        while self.stage.facts.mesh && !socket.exists() && Instant::now() < deadline {
            self.pause(Duration::from_millis(20))?;
        }
        Ok(())
    }

    fn try_attach(&self) -> anyhow::Result<Netns> {
        let status = self.status();
        let sandbox = Sandbox {
            container_id: format!("{}{}", random_uuid()?, random_uuid()?).replace('-', ""),
            netns: Path::new(NAMED_DIR).join(&status.netns),
            namespace: status.namespace,
            pod: status.name,
            uid: status.uid,
        };
        let record = PodRecord { node: status.node.clone(), netns: status.netns.clone(), sandbox: sandbox.clone() };
        record.write(&self.stage.layout, &self.spec.key)?;
        let netns = Netns::create_named(&status.netns)?;
        // addresses are usable at once: host-local hands out none twice, nothing is to be detected
        sysctls(&netns, &[("ipv6/conf/default/accept_dad", "0"), ("ipv6/conf/all/accept_dad", "0")])?;
        ip_batch(&netns, "link set lo up\n")?;
        let begin = Instant::now();
        let result = self.stage.with_plugins(&status.node, |plugins| plugins.add(&sandbox))?;
        self.attached(&sandbox, &result, begin.elapsed());
        Ok(netns)
    }

    fn attached(&self, sandbox: &Sandbox, result: &Value, took: Duration) {
        self.update(|s| {
            s.container_id.clone_from(&sandbox.container_id);
            s.netns_path.clone_from(&sandbox.netns);
            IFNAME.clone_into(&mut s.link);
            s.host_link = host_link(result);
            s.addresses = addresses(result);
            s.add_micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            s.reason.clear();
        });
        self.write_overlay();
    }

    /// Ends every process in the namespace, calls DEL, removes the namespace and the record. Fine when nothing is there.
    pub(super) fn detach(&self) {
        if self.spec.spec.host_network {
            return;
        }
        if let Ok(netns) = Netns::open_named(&self.status().netns)
            && let Err(error) = process::kill_within(&[netns.key()], Duration::from_secs(5))
        {
            self.note(&format!("{error:#}"));
        }
        self.remove_sandbox();
        self.update(|s| s.pids.clear());
    }

    fn remove_sandbox(&self) {
        let status = self.status();
        let record = PodRecord::of(&self.stage.layout, &self.spec.key);
        if let Some(record) = record {
            for attempt in 1..=DEL_TRIES {
                match self.stage.with_plugins(&status.node, |plugins| plugins.del(&record.sandbox)) {
                    Ok(()) => break,
                    Err(error) => self.note(&format!("DEL, try {attempt} of {DEL_TRIES}: {error:#}")),
                }
            }
        }
        let removed = Netns::delete_named(&status.netns)
            .context("cannot remove the namespace")
            .and_then(|()| record::remove(&self.stage.layout, &self.spec.key));
        if let Err(error) = removed {
            self.note(&format!("{error:#}"));
        }
    }
}
