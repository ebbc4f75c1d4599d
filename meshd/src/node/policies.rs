//! Policies on this node: followed as the cluster changes, compiled for its workloads, and told of when they refuse.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use plan::{ClusterView, Here, LocalAttachment, policies};
use policy::nft::{self, Program};
use policy::{Compiler, Direction, Flow, RuleSet, Verdict};
use serde_json::{Value, json};

use super::Node;
use crate::kernel::SeenFlow;

/// Lines about refused flows in one round; more are counted and not told.
const LINES_MAX: usize = 20;

/// What the rules were compiled from, and the rules.
#[derive(Default)]
pub(super) struct PolicyState {
    compiler: Compiler,
    seen: Option<Seen>,
    /// What the judge reads, so that a refusal can be explained.
    rules: RuleSet,
    program: Program,
    refused: u64,
    /// Packets of each refused flow that were told of.
    told: BTreeMap<(String, String, String, u16), u64>,
}

/// What rules depend on, as far as it is cheap to compare.
#[derive(PartialEq)]
struct Seen {
    view: u64,
    attachments: Vec<LocalAttachment>,
    addresses: BTreeSet<IpAddr>,
    members: BTreeSet<IpAddr>,
}

impl PolicyState {
    /// Compiles anew where something changed; `view_number` counts the view's changes. Whether the rules are others now.
    pub(super) fn follow(
        &mut self,
        view: &ClusterView,
        view_number: u64,
        here: &Here,
        members: BTreeSet<IpAddr>,
    ) -> bool {
        let (attachments, addresses) = (here.attachments.clone(), here.addresses.clone());
        let seen = Seen { view: view_number, attachments, addresses, members };
        if self.seen.as_ref() == Some(&seen) {
            return false;
        }
        let before = std::mem::take(&mut self.program);
        if view.has_policies() {
            let world = policies::world(view, here);
            self.rules = self.compiler.compile(&policies::policies(view), &world, Some(&here.node.0));
            self.program = Program::of(&self.rules, &nft::Here { node: &here.node.0, members: &seen.members });
        } else {
            (self.rules, self.program) = (RuleSet::default(), Program::default());
        }
        self.seen = Some(seen);
        before != self.program
    }

    /// What the kernel is to hold.
    pub(super) fn program(&self) -> &Program {
        &self.program
    }

    /// Why a flow is refused, as the judge says it of this node's side.
    fn explain(&self, flow: &SeenFlow) -> Option<Verdict> {
        let (source, destination) = (flow.source.parse().ok()?, flow.destination.parse().ok()?);
        let protocol = protocol_number(&flow.protocol)?;
        let port = policy::Protocol::of_number(protocol).map(|_| flow.port);
        let members = self.seen.as_ref().map(|seen| &seen.members)?;
        let proven = members.contains(&source) && members.contains(&destination);
        let (source, destination) = (self.rules.end(source), self.rules.end(destination));
        let judged = |proven| {
            let (source, destination) = (source.clone(), destination.clone());
            self.rules.judge(&Flow { source, destination, protocol, port, proven })
        };
        // what is refused although members may is refused for want of proof
        [proven, false].map(judged).into_iter().find(|verdict| !verdict.is_allowed())
    }

    /// A refused flow for people and programs: who, to whom, by which policy.
    pub(super) fn row(&self, flow: &SeenFlow) -> Value {
        let name = |text: &str| {
            let end = text.parse().ok().map(|ip| self.rules.end(ip));
            end.and_then(|end| end.workload).map(|workload| workload.to_string())
        };
        let verdict = self.explain(flow);
        json!({
            "source": flow.source,
            "source_workload": name(&flow.source),
            "destination": flow.destination,
            "destination_workload": name(&flow.destination),
            "protocol": flow.protocol,
            "port": flow.port,
            "count": flow.count,
            "direction": verdict.as_ref().map(|v| match v.direction {
                Direction::Inbound => "inbound",
                Direction::Outbound => "outbound",
            }),
            "reason": verdict.as_ref().map(|v| v.reason.as_str()),
            "policy": verdict.as_ref().and_then(|v| v.policy.as_ref()).map(ToString::to_string),
            "rule": verdict.as_ref().and_then(|v| v.rule),
        })
    }
}

/// As nft names protocols: by name where it knows one.
fn protocol_number(text: &str) -> Option<u8> {
    match text {
        "icmp" => Some(1),
        "tcp" => Some(6),
        "udp" => Some(17),
        "ipv6-icmp" => Some(58),
        "sctp" => Some(132),
        _ => text.parse().ok(),
    }
}

impl Node {
    /// Tells of flows that were refused since the last look: one line each, with both identities, the policy and the rule.
    pub(super) async fn tell_refused(&mut self) {
        match self.kernel.policy_refused().await {
            Ok(refused) if refused == self.policies.refused => return,
            Ok(refused) => self.policies.refused = refused,
            Err(error) => return tracing::debug!(%error, "Counters cannot be read"),
        }
        let Ok(flows) = self.kernel.policy_denied().await else { return };
        let told = std::mem::take(&mut self.policies.told);
        let key = |flow: &SeenFlow| (flow.source.clone(), flow.destination.clone(), flow.protocol.clone(), flow.port);
        let fresh = flows.iter().filter(|flow| told.get(&key(flow)).is_none_or(|count| *count > flow.count));
        for flow in fresh.clone().take(LINES_MAX) {
            let row = self.policies.row(flow);
            let text = |field: &str| match row.get(field) {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Number(number)) => number.to_string(),
                _ => "-".to_owned(),
            };
            tracing::warn!(
                source = %flow.source, source_identity = %self.identity_at(&flow.source),
                destination = %flow.destination, destination_identity = %self.identity_at(&flow.destination),
                protocol = %flow.protocol, port = flow.port,
                policy = %text("policy"), rule = %text("rule"), reason = %text("reason"),
                "Refused by policy"
            );
        }
        let untold = fresh.count().saturating_sub(LINES_MAX);
        if untold > 0 {
            tracing::warn!(untold, "More flows were refused by policy");
        }
        self.policies.told = flows.iter().map(|flow| (key(flow), flow.count)).collect();
    }

    /// Who has a key at this address, as far as this node knows.
    fn identity_at(&self, text: &str) -> String {
        let identity = text.parse::<IpAddr>().ok().and_then(|ip| {
            let desired = self.desired.as_ref()?;
            let local = desired.locals.iter().find(|(_, local)| local.addresses.contains(&ip)).map(|(id, _)| id);
            let remote = || desired.peers.iter().find(|(_, peer)| peer.addresses.contains(&ip));
            local.or_else(|| remote().map(|(name, _)| &name.identity))
        });
        identity.map_or_else(|| "-".to_owned(), ToString::to_string)
    }
}
