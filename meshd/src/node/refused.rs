//! What policies refused: one line a flow for the log, one row a flow for `meshctl status`, with who, by what, and why.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

use policy::{Flow, Verdict};
use serde_json::{Value, json};

use super::Node;
use super::policies::PolicyState;
use crate::kernel::SeenFlow;

/// Lines about refused flows in one round; more are counted and not told.
const LINES_MAX: usize = 20;
/// Rows that `status` shows, the newest first; the kernel remembers no more than 4,096 a family.
const ROWS_MAX: usize = 1_000;

/// What is known of refused flows beyond what the kernel remembers.
#[derive(Default)]
pub(super) struct Refused {
    /// Packets refused at the last look.
    packets: u64,
    /// The flows that the kernel remembers, as they were told of.
    told: BTreeMap<FlowKey, Told>,
}

/// Source, destination, protocol and port.
type FlowKey = (String, String, String, u16);

struct Told {
    /// Packets by then.
    count: u64,
    /// As judged when its last packet was refused: policies may be others since.
    why: Option<Why>,
}

/// Which policy refuses a flow, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Why {
    direction: &'static str,
    reason: &'static str,
    policy: Option<String>,
    rule: Option<usize>,
}

fn key(flow: &SeenFlow) -> FlowKey {
    (flow.source.clone(), flow.destination.clone(), flow.protocol.clone(), flow.port)
}

impl Why {
    fn of(verdict: &Verdict) -> Self {
        Self {
            direction: verdict.direction.as_str(),
            reason: verdict.reason.as_str(),
            policy: verdict.policy.as_ref().map(ToString::to_string),
            rule: verdict.rule,
        }
    }
}

/// Why a flow is refused, as the judge says it of this node's side.
fn explain(policies: &PolicyState, flow: &SeenFlow) -> Option<Why> {
    let (source, destination) = (flow.source.parse().ok()?, flow.destination.parse().ok()?);
    let protocol = protocol_number(&flow.protocol)?;
    let port = policy::Protocol::of_number(protocol).map(|_| flow.port);
    let (rules, proven) = (policies.rules(), policies.is_proven(source, destination));
    let judged = |proven| {
        let (source, destination) = (rules.end(source), rules.end(destination));
        rules.judge(&Flow { source, destination, protocol, port, proven })
    };
    // what is refused although members may is refused for want of proof
    let verdicts = [proven, false].map(judged);
    verdicts.iter().find(|verdict| !verdict.is_allowed()).map(Why::of)
}

impl Refused {
    /// The reason that holds for the last packet of a flow.
    fn why(&self, policies: &PolicyState, flow: &SeenFlow) -> Option<Why> {
        let told = self.told.get(&key(flow));
        match told {
            Some(told) if told.count == flow.count => told.why.clone(),
            _ => explain(policies, flow).or_else(|| told.and_then(|told| told.why.clone())),
        }
    }
}

/// As nft names protocols: by name where it knows one.
pub(super) fn protocol_number(text: &str) -> Option<u8> {
    match text {
        "icmp" => Some(1),
        "tcp" => Some(6),
        "udp" => Some(17),
        "icmpv6" => Some(58),
        "sctp" => Some(132),
        _ => text.parse().ok(),
    }
}

impl Node {
    /// Tells of flows that were refused since the last look: one line each, with both identities, the policy and the rule.
    pub(super) async fn tell_refused(&mut self) {
        match self.kernel.policy_refused() {
            Ok(packets) if packets == self.refused.packets => return,
            Ok(packets) => self.refused.packets = packets,
            Err(error) => return tracing::debug!(%error, "Counters cannot be read"),
        }
        let Ok(flows) = self.kernel.policy_denied().await else { return };
        let mut told = BTreeMap::new();
        let mut fresh = 0_usize;
        for flow in &flows {
            let why = self.refused.why(&self.policies, flow);
            let before = self.refused.told.get(&key(flow));
            if before.is_none_or(|told| told.count > flow.count) {
                fresh += 1;
                if fresh <= LINES_MAX {
                    self.tell(flow, why.as_ref());
                }
            }
            told.insert(key(flow), Told { count: flow.count, why });
        }
        if let Some(untold) = fresh.checked_sub(LINES_MAX).filter(|untold| *untold > 0) {
            tracing::warn!(untold, "More flows were refused by policy");
        }
        self.refused.told = told;
    }

    fn tell(&self, flow: &SeenFlow, why: Option<&Why>) {
        let dash = || "-".to_owned();
        tracing::warn!(
            source = %flow.source, source_identity = %self.identity_at(&flow.source).unwrap_or_else(dash),
            destination = %flow.destination, destination_identity = %self.identity_at(&flow.destination).unwrap_or_else(dash),
            protocol = %flow.protocol, port = flow.port, direction = why.map_or("-", |why| why.direction),
            policy = %why.and_then(|why| why.policy.clone()).unwrap_or_else(dash),
            rule = %why.and_then(|why| why.rule).map_or_else(dash, |rule| rule.to_string()),
            reason = why.map_or("-", |why| why.reason),
            "Refused by policy"
        );
    }

    /// The flows that policies refused lately, the newest first.
    pub(super) fn refused_rows(&self, mut flows: Vec<SeenFlow>) -> Vec<Value> {
        flows.sort_by_key(|flow| (flow.last_seen_s, Reverse(flow.count)));
        flows.iter().take(ROWS_MAX).map(|flow| self.refused_row(flow)).collect()
    }

    fn refused_row(&self, flow: &SeenFlow) -> Value {
        let why = self.refused.why(&self.policies, flow);
        let why = why.as_ref();
        json!({
            "source": flow.source,
            "source_workload": self.workload_at(&flow.source),
            "source_identity": self.identity_at(&flow.source),
            "destination": flow.destination,
            "destination_workload": self.workload_at(&flow.destination),
            "destination_identity": self.identity_at(&flow.destination),
            "protocol": flow.protocol,
            "port": flow.port,
            "count": flow.count,
            "last_seen_s": flow.last_seen_s,
            "direction": why.map(|why| why.direction),
            "reason": why.map(|why| why.reason),
            "policy": why.and_then(|why| why.policy.clone()),
            "rule": why.and_then(|why| why.rule),
        })
    }

    /// Flows in clear text, the newest first.
    pub(super) fn clear_rows(&self, mut flows: Vec<SeenFlow>) -> Vec<Value> {
        if flows.is_empty() {
            return Vec::new();
        }
        flows.sort_by_key(|flow| (flow.last_seen_s, Reverse(flow.count)));
        // there may be no policies that would know them
        let live = self.view.pods.values().filter(|pod| !pod.host_network && !pod.finished);
        let names: BTreeMap<_, _> = live.flat_map(|pod| pod.ips.iter().map(move |ip| (*ip, pod))).collect();
        let name_at = |text: &str| {
            let pod = names.get(&text.parse::<IpAddr>().ok()?)?;
            Some(format!("{}/{}", pod.namespace, pod.name))
        };
        let row = |flow: &SeenFlow| {
            json!({
                "source": flow.source,
                "source_workload": name_at(&flow.source),
                "destination": flow.destination,
                "destination_workload": name_at(&flow.destination),
                "protocol": flow.protocol,
                "port": flow.port,
                "count": flow.count,
                "last_seen_s": flow.last_seen_s,
            })
        };
        flows.iter().map(row).collect()
    }

    /// Who has this address.
    fn workload_at(&self, text: &str) -> Option<String> {
        let end = self.policies.rules().end(text.parse().ok()?);
        end.workload.map(|workload| workload.to_string())
    }

    /// Who has a key at this address, as far as this node knows.
    fn identity_at(&self, text: &str) -> Option<String> {
        let ip: IpAddr = text.parse().ok()?;
        let desired = self.desired.as_ref()?;
        let local = desired.locals.iter().find(|(_, local)| local.addresses.contains(&ip)).map(|(id, _)| id);
        let remote =
            || desired.peers.iter().find(|(_, peer)| peer.addresses.contains(&ip)).map(|(name, _)| &name.identity);
        local.or_else(remote).map(ToString::to_string)
    }
}
