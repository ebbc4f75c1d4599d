//! What every act of the demo needs: the lab, its pods, what the daemons say, and the wire.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use linux::netns::Netns;
use serde_json::Value;

use super::super::capture::{self, Capture};
use super::super::facts::{MESH_PORT, write_whole};
use super::super::live::PodStatus;
use super::super::pick::Lab;
use super::super::probe::exchange::{Exchange, Protocol, Report as Exchanged};
use super::super::{apply, exec, pcap};
use super::report::Report;
use crate::admin_reply::Status;
use crate::{interrupt, rpc};

/// How long a change may take until everybody acts on it.
pub(super) const SOON: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_millis(700);
/// How long the answer to one of many pings may take.
const PING_ANSWER: Duration = Duration::from_millis(150);

/// lab.yaml of the demo: keys turn over as often as they can, so that it is seen.
const LAB: &str = "nodes: 3\nrotationPeriod: 60s\nmanifests: [pods.yaml]\n";

/// Its pods: two to enrol, two that are not enrolled, two with a long connection.
const PODS: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: demo, labels: {weft.dev/mesh: disabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: plain}
---
apiVersion: v1
kind: Namespace
metadata: {name: long, labels: {weft.dev/mesh: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: demo}
spec: {nodeName: n1, serviceAccountName: client, containers: [{name: main}]}
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: demo}
spec: {nodeName: n2, serviceAccountName: server, containers: [{name: main}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: plain}
spec: {nodeName: n3, containers: [{name: main}]}
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: plain}
spec: {nodeName: n1, containers: [{name: main}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: long}
spec: {nodeName: n1, serviceAccountName: client, containers: [{name: main}]}
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: long}
spec: {nodeName: n3, serviceAccountName: server, containers: [{name: main}]}
";

/// Writes lab.yaml and its pods into `folder`; where lab.yaml is.
///
/// # Errors
/// The folder does not take it.
pub(super) fn write_lab(folder: &Path) -> anyhow::Result<PathBuf> {
    write_whole(&folder.join("pods.yaml"), PODS.as_bytes())?;
    let file = folder.join("lab.yaml");
    write_whole(&file, LAB.as_bytes())?;
    Ok(file)
}

/// The lab and the report.
pub(super) struct Story<'a> {
    pub(super) lab: Lab,
    pub(super) report: &'a mut Report,
    captures: u32,
}

impl<'a> Story<'a> {
    /// At its beginning.
    pub(super) const fn new(lab: Lab, report: &'a mut Report) -> Self {
        Self { lab, report, captures: 0 }
    }

    /// A pod as it is now.
    pub(super) fn pod(&self, name: &str) -> anyhow::Result<PodStatus> {
        let pods = self.lab.live()?.pods;
        let is_meant = |p: &PodStatus| format!("{}/{}", p.namespace, p.name) == name;
        pods.into_iter().find(is_meant).with_context(|| format!("no pod {name}"))
    }

    /// Its addresses, IPv4 first.
    pub(super) fn addresses(&self, pod: &str) -> anyhow::Result<Vec<IpAddr>> {
        let mut addresses: Vec<IpAddr> = self.pod(pod)?.addresses.iter().filter_map(|a| a.parse().ok()).collect();
        addresses.sort_by_key(IpAddr::is_ipv6);
        Ok(addresses)
    }

    /// Its IPv4 address.
    pub(super) fn ipv4(&self, pod: &str) -> anyhow::Result<IpAddr> {
        self.addresses(pod)?.into_iter().find(IpAddr::is_ipv4).with_context(|| format!("{pod} has no IPv4 address"))
    }

    /// The namespace of a pod, `node/n1` or `stranger`.
    pub(super) fn netns(&self, place: &str) -> anyhow::Result<Netns> {
        Ok(Netns::open_named(&exec::namespace(&self.lab, place)?)?)
    }

    /// What a node's daemon says of itself.
    pub(super) fn status(&self, node: &str) -> anyhow::Result<Status> {
        rpc::ask_for(&self.lab.layout.admin_socket(node), "status")
    }

    /// How often a node has dropped a packet for a reason.
    pub(super) fn drops(&self, node: &str, reason: &str) -> anyhow::Result<u64> {
        Ok(self.status(node)?.drops.get(reason).copied().unwrap_or(0))
    }

    /// What a node's daemon answers to another verb.
    pub(super) fn rows<T: serde::de::DeserializeOwned>(&self, node: &str, verb: &str) -> anyhow::Result<Vec<T>> {
        rpc::ask_for(&self.lab.layout.admin_socket(node), verb)
    }

    /// Asks the controller.
    pub(super) fn ask_controller(&self, question: &Value) -> anyhow::Result<Value> {
        rpc::ask(&self.lab.layout.controller_socket(), question, Duration::from_secs(10))
    }

    /// Applies manifests.
    pub(super) fn apply(&self, text: &str) -> anyhow::Result<()> {
        apply::apply_text(&self.lab.layout, text, "the demo's manifest").map(drop)
    }

    /// Sends three marked payloads from a place and waits for their echoes.
    pub(super) fn send(
        &self,
        from: &str,
        to: IpAddr,
        (protocol, size): (Protocol, usize),
        marker: &str,
    ) -> anyhow::Result<Exchanged> {
        let exchange = Exchange {
            protocol,
            target: to,
            port: 8080,
            count: 3,
            size,
            marker: marker.to_owned(),
            interval: Duration::ZERO,
            patience: ANSWER,
            source: None,
        };
        Ok(self.netns(from)?.within(|| exchange.run())?)
    }

    /// Whether one echo request is answered at once.
    pub(super) fn pings(&self, from: &str, to: IpAddr) -> anyhow::Result<bool> {
        let exchange = Exchange {
            protocol: Protocol::Icmp,
            target: to,
            port: 0,
            count: 1,
            size: 64,
            marker: "weft-demo-ping".to_owned(),
            interval: Duration::ZERO,
            patience: PING_ANSWER,
            source: None,
        };
        Ok(self.netns(from)?.within(|| exchange.run())?.is_whole())
    }

    /// Whether one TCP exchange works.
    pub(super) fn reaches(&self, from: &str, to: IpAddr) -> anyhow::Result<bool> {
        Ok(self.send(from, to, (Protocol::Tcp, 64), "weft-demo-look")?.received > 0)
    }

    /// Looks until there is something; how long that took.
    ///
    /// # Errors
    /// There is nothing within `patience`, or looking fails.
    pub(super) fn wait<T>(
        &self,
        what: &str,
        patience: Duration,
        mut look: impl FnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<(T, Duration)> {
        let begin = Instant::now();
        loop {
            interrupt::check()?;
            if let Some(found) = look()? {
                return Ok((found, begin.elapsed()));
            }
            if begin.elapsed() > patience {
                bail!("not within {} s: {what}", patience.as_secs());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until a pod's mode is in force at its node and everybody knows; `None` is out of the mesh.
    pub(super) fn wait_mode(&self, pod: &str, mode: Option<&str>) -> anyhow::Result<Duration> {
        let node = self.pod(pod)?.node;
        let look = || {
            // a daemon that starts again right now does not answer: look again
            let Ok(status) = self.status(&node) else { return Ok(None) };
            let row = status.attachments.into_iter().find(|a| a.pod == pod);
            let is_settled = |a: &crate::admin_reply::Attachment| match mode {
                None => !a.enrolled,
                Some(mode) => a.mode.as_deref() == Some(mode) && a.phase.as_deref() == Some("Enforced"),
            };
            Ok(row.filter(is_settled).map(drop))
        };
        Ok(self.wait(&format!("{pod} is {}", mode.unwrap_or("out of the mesh")), SOON, look)?.1)
    }

    /// Starts capturing on the wire between the nodes.
    pub(super) fn capture(&mut self) -> anyhow::Result<Capture> {
        self.captures += 1;
        let file = self.lab.layout.root().join(format!("wire-{}.pcap", self.captures));
        let netns = Netns::open_named(&self.lab.facts.underlay.namespace)?;
        capture::start(&netns, &self.lab.facts.underlay.link, &file, capture::last_word_to(&self.lab)?)
    }
}

/// What a capture shows: `{markers, frames, meshDatagrams}`.
pub(super) fn seen(bytes: &[u8], marker: &str) -> anyhow::Result<(u64, Value)> {
    let tally = pcap::tally(bytes, marker.as_bytes(), MESH_PORT)?;
    let observed = serde_json::json!({
        "markersInClear": tally.marker_count,
        "meshDatagrams": tally.mesh_datagrams,
        "frames": tally.frames,
    });
    Ok((tally.marker_count, observed))
}
