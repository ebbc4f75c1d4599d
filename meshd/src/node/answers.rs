//! What meshctl asks a node daemon.

use std::collections::BTreeMap;

use plan::desired::Standing;
use plan::named_suite;
use serde_json::{Value, json};

use super::Node;
use crate::cluster::Source;
use crate::datapath::Totals;
use crate::line_socket::Asked;
use crate::metrics;

impl Node {
    /// Answers one question of meshctl: `{"verb": …}` with `{"ok": true, "result": …}` or `{"ok": false, "error": …}`.
    pub(super) async fn answer_admin(&mut self, asked: Asked, source: &Source) {
        let question: Value = serde_json::from_slice(&asked.line).unwrap_or_default();
        let verb = question.get("verb").and_then(Value::as_str).unwrap_or_default();
        let outcome = match verb {
            "status" => self.status_report(source).await,
            "peers" => self.peers_report().await,
            "identity" => Ok(self.identity_report()),
            "trace" => self.begin_trace(&question).await,
            "trace-end" => self.end_trace(&question).await,
            "metrics" => self.status_report(source).await.map(|status| Value::String(metrics::of_node(&status))),
            _ => Err(anyhow::anyhow!("there is no verb `{verb}`: status, peers, identity, trace, trace-end, metrics")),
        };
        let line = match outcome {
            Ok(result) => json!({"ok": true, "result": result}),
            Err(error) => json!({"ok": false, "error": format!("{error:#}")}),
        };
        // whoever asked may have gone
        let _gone = asked.reply.send(line.to_string().into_bytes());
    }

    async fn status_report(&self, source: &Source) -> anyhow::Result<Value> {
        let observed = self.kernel.observed().await?;
        let snapshot = self.data.snapshot().await?;
        // packets that policies refused are counted by side and by reason: once among the drops
        let (by_reason, counted): (BTreeMap<String, u64>, BTreeMap<String, u64>) =
            observed.packets.into_iter().partition(|(name, _)| policy::nft::REASONS.contains(&name.as_str()));
        let by_reason: BTreeMap<_, _> =
            by_reason.iter().map(|(name, count)| (name.trim_start_matches("denied_"), count)).collect();
        let mut drops: BTreeMap<String, u64> = counted.into_iter().filter(|(_, count)| *count > 0).collect();
        let counters = self.data.counters();
        drops.extend(counters.drops().filter(|(_, n)| *n > 0).map(|(label, n)| (label.to_owned(), n)));
        let mut refusals: Vec<Value> = source.refusals().iter().map(|r| json!(r)).collect();
        for (node, reason) in self.trust.refusals() {
            refusals.push(json!({"file": format!("MeshEndpointSlice {node}"), "line": 0, "reason": reason}));
        }
        let own = self.raw_nodes.get(&self.config.node).into_iter().flat_map(|n| &n.status.refused);
        refusals.extend(own.map(|r| json!({"file": "controller", "line": 0, "reason": r.reason})));
        let peers = self.desired.iter().flat_map(|d| d.peers.values());
        let sessions = snapshot.sessions.iter().filter(|s| s.established).count();
        let blocked = self.blocked_on();
        Ok(json!({
            "node": self.config.node,
            "version": env!("CARGO_PKG_VERSION"),
            "ready": blocked.is_empty(),
            "blocked_on": blocked,
            "trust_domain": self.trust.trust_domain().map(ToString::to_string).unwrap_or_default(),
            "uptime_s": self.started.elapsed().as_secs(),
            "underlay": {"link": self.underlay.link, "addresses": self.underlay.addresses, "mesh_mtu": self.underlay.mesh_mtu},
            "observed_revision": self.observed_revision,
            "chain": self.install.as_ref().map(crate::install::Install::report),
            "attachments": self.attachment_rows(),
            "outside": self.outside.rows(),
            "peers": {"known": peers.filter(|p| !p.keys.is_empty()).count(), "sessions": sessions},
            "traffic": traffic(counters),
            "drops": drops,
            "refusals": refusals,
            "denied": self.clear_rows(observed.denied),
            "clear_seen": self.clear_rows(observed.clear_seen),
            "offloads": snapshot.offloads.words(),
            "offload_fallbacks": counters.fallbacks(),
            "data_threads": self.data.threads(),
            "handed_on": counters.handed_on(),
            "policy_denied_by_reason": by_reason,
            "policy_denied": self.refused_rows(observed.policy_denied),
        }))
    }

    fn attachment_rows(&self) -> Vec<Value> {
        let Some(here) = self.here() else { return Vec::new() };
        let row = |attachment: &plan::LocalAttachment| {
            let standing = Standing::of(&self.view, &here, attachment);
            let pod = attachment.pod.as_ref().map(|p| format!("{}/{}", p.namespace, p.name));
            let mode = standing.mode.as_ref();
            json!({
                "pod": pod.unwrap_or_default(),
                "ips": attachment.ips,
                "link": attachment.link,
                "identity": standing.identity,
                "mode": mode.map(|m| m.mode.as_str()),
                "ports": mode.map(|m| m.ports.iter().map(|(port, mode)| (port.to_string(), mode.as_str())).collect::<BTreeMap<_, _>>()),
                "enrolled": mode.is_some(),
                "phase": standing.phase.map(|phase| format!("{phase:?}")),
            })
        };
        here.attachments.iter().map(row).collect()
    }

    async fn peers_report(&self) -> anyhow::Result<Value> {
        let snapshot = self.data.snapshot().await?;
        let mut rows = Vec::new();
        for (name, remote) in self.desired.iter().flat_map(|d| &d.peers) {
            let sessions: Vec<_> = snapshot.sessions.iter().filter(|s| s.peer == *name).collect();
            let live = sessions.iter().filter(|s| s.established);
            let state = match (remote.keys.is_empty(), live.clone().next()) {
                (true, _) => "no-binding",
                (false, Some(_)) => "session",
                (false, None) => "idle",
            };
            let newest = live.clone().max_by_key(|s| (s.local_epoch, s.peer_epoch));
            let row = json!({
                "node": name.node,
                "identity": name.identity,
                "state": state,
                "addresses": remote.addresses,
                "endpoint": newest.and_then(|s| s.endpoint).or(remote.endpoints.first().copied()),
                "epoch": newest.map(|s| s.peer_epoch).or(remote.keys.keys().last().map(|e| e.0)),
                "cipher": newest.and_then(|s| s.suite).map(|suite| named_suite(suite).name()),
                "last_handshake_s": newest.and_then(|s| s.last_handshake).map(|age| age.as_secs()),
                "tx_bytes": sessions.iter().map(|s| s.tx_bytes).sum::<u64>(),
                "rx_bytes": sessions.iter().map(|s| s.rx_bytes).sum::<u64>(),
                "local_identities": live.map(|s| s.local.to_string()).collect::<std::collections::BTreeSet<_>>(),
            });
            rows.push(row);
        }
        Ok(Value::Array(rows))
    }

    fn identity_report(&self) -> Value {
        let issued = super::watch::issued_to(&self.config.node, &self.raw_nodes, &self.raw_slices);
        let pods = self.attachment_rows();
        let mut rows: BTreeMap<String, Value> = BTreeMap::new();
        for key in self.keys.requested() {
            let binding = issued.iter().find(|b| b.identity == key.identity && b.epoch == key.epoch);
            let identity = key.identity.to_string();
            let at_home = |row: &&Value| row.get("identity").and_then(Value::as_str) == Some(identity.as_str());
            let names: Vec<_> = pods.iter().filter(at_home).filter_map(|row| row.get("pod").cloned()).collect();
            let row = rows.entry(identity.clone()).or_insert_with(|| {
                json!({"spiffe_id": identity, "node": self.config.node, "pods": names, "fingerprints": [], "svid": null, "binding": null})
            });
            let print = json!({"key": hex(&key.public_key), "epoch": key.epoch, "bound": binding.is_some()});
            if let Some(Value::Array(prints)) = row.get_mut("fingerprints") {
                prints.push(print);
            }
            if let (Some(binding), Some(row)) = (binding, row.as_object_mut()) {
                let svid = Some(&binding.svid).filter(|svid| !svid.is_empty());
                row.insert("svid".to_owned(), json!(svid));
                row.insert("binding".to_owned(), json!(binding.binding));
            }
        }
        Value::Array(rows.into_values().collect())
    }
}

/// What passed the TUN device, as seen from workloads.
fn traffic(counters: &Totals) -> Value {
    let ((sent, sent_bytes), (received, received_bytes)) = (counters.tun_read(), counters.tun_written());
    json!({"sent_packets": sent, "sent_bytes": sent_bytes, "received_packets": received, "received_bytes": received_bytes})
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
