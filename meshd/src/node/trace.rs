//! `meshctl policy trace`: what this node's rules say of a connection, and what the kernel counts of it meanwhile.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use policy::{Direction, End, Flow, Party, RuleSet, Service, Verdict, WorkloadId, question};
use serde_json::{Value, json};

use super::Node;
use crate::kernel::{SeenFlow, Tuple};

/// Longest that packets are counted for one question, in seconds.
const SECONDS_MAX: u64 = 300;
/// Most pairs of addresses in one question.
const TUPLES_MAX: usize = 64;

/// What is counted at the moment: one question at a time.
pub(super) struct Trace {
    id: u64,
    until: Instant,
    tuples: Vec<Tuple>,
}

/// A connection in one family.
struct Judged {
    family: Option<bool>,
    flow: Flow,
}

impl Node {
    /// `{"verb": "trace", "source": …, "destination": …, "seconds": …}`: the verdict of each side that is judged here, and
    /// counting begins. A later question takes the place of an earlier one.
    pub(super) async fn begin_trace(&mut self, question: &Value) -> anyhow::Result<Value> {
        let text = |field: &str| question.get(field).and_then(Value::as_str).unwrap_or_default();
        let seconds = question.get("seconds").and_then(Value::as_u64).unwrap_or(SECONDS_MAX).min(SECONDS_MAX);
        let here = self.here().context("this node has not joined yet")?;
        let rules = self.policies.rules_or_world(&self.view, &here);
        let source = Party::parse(text("source"), &rules)?;
        let named = |id: &WorkloadId| {
            let (namespace, name) = id.as_str().split_once('/')?;
            let pod = self.view.pods.get(&(namespace.to_owned(), name.to_owned()))?;
            Some(&pod.ports)
        };
        let (destination, service) = question::target(text("destination"), &rules, named)?;
        let judged = self.flows(&rules, &source, &destination, service)?;
        let mut sides = Vec::new();
        for Judged { family, flow } in &judged {
            for direction in [Direction::Outbound, Direction::Inbound] {
                if is_here(&rules, own(flow, direction), &here.node.0) {
                    let verdict = rules.judge_side(flow, direction);
                    sides.push(side(*family, flow, direction, &verdict));
                }
            }
        }
        let tuples: Vec<_> = judged.iter().filter_map(|judged| tuple(&judged.flow)).take(TUPLES_MAX).collect();
        let id = self.trace.as_ref().map_or(0, |trace| trace.id).wrapping_add(1);
        let counters = if sides.is_empty() {
            Value::Null
        } else {
            self.kernel.begin_trace(&tuples).await?;
            self.trace = Some(Trace { id, until: Instant::now() + Duration::from_secs(seconds), tuples });
            self.trace_counters().await?
        };
        Ok(json!({
            "node": self.config.node, "id": id, "source": source.name, "destination": destination.name,
            "service": service.shown(), "sides": sides, "counters": counters,
        }))
    }

    /// `{"verb": "trace-end", "id": …}`: what was counted; counting ends.
    pub(super) async fn end_trace(&mut self, question: &Value) -> anyhow::Result<Value> {
        let id = question.get("id").and_then(Value::as_u64);
        let is_meant = self.trace.as_ref().is_some_and(|trace| Some(trace.id) == id);
        anyhow::ensure!(
            is_meant,
            "this question is not counted for any more: another one took its place, or its time is over"
        );
        let counters = self.trace_counters().await;
        self.trace = None;
        self.kernel.end_trace().await?;
        Ok(json!({"node": self.config.node, "counters": counters?}))
    }

    /// Ends counting for somebody who went away.
    pub(super) async fn forget_trace(&mut self) {
        if self.trace.as_ref().is_some_and(|trace| Instant::now() >= trace.until) {
            self.trace = None;
            if let Err(error) = self.kernel.end_trace().await {
                tracing::debug!(%error, "The counters of a trace are left");
            }
        }
    }

    fn flows(
        &self,
        rules: &RuleSet,
        source: &Party,
        destination: &Party,
        service: Service,
    ) -> anyhow::Result<Vec<Judged>> {
        let pairs = question::pairs(rules, source, destination)?;
        let judged = pairs.into_iter().map(|(family, source, destination)| {
            let (protocol, port) = service.of_family(family == Some(true));
            let ips = source.address.zip(destination.address);
            let proven = ips.is_some_and(|(source, destination)| self.policies.is_proven(source, destination));
            Judged { family, flow: Flow { source, destination, protocol, port, proven } }
        });
        Ok(judged.collect())
    }

    async fn trace_counters(&self) -> anyhow::Result<Value> {
        let counted = self.kernel.traced().await?;
        let observed = self.kernel.observed().await?;
        let tuples = self.trace.iter().flat_map(|trace| &trace.tuples);
        let is_traced = |flow: &&SeenFlow| tuples.clone().any(|tuple| is_same(tuple, flow));
        let refused: u64 = observed.policy_denied.iter().filter(is_traced).map(|flow| flow.count).sum();
        Ok(json!({
            "arrived": counted.arrived, "passed": counted.passed, "refused": refused, "node": observed.packets,
        }))
    }
}

fn own(flow: &Flow, direction: Direction) -> &End {
    match direction {
        Direction::Outbound => &flow.source,
        Direction::Inbound => &flow.destination,
    }
}

/// Whether an end runs on this node, which then judges it.
fn is_here(rules: &RuleSet, end: &End, node: &str) -> bool {
    let subject = end.workload.as_ref().and_then(|id| rules.workloads.get(id));
    subject.is_some_and(|subject| subject.node.as_deref() == Some(node))
}

fn side(family: Option<bool>, flow: &Flow, direction: Direction, verdict: &Verdict) -> Value {
    let audited: Vec<_> =
        verdict.audited.iter().map(|rule| json!({"policy": rule.policy.to_string(), "rule": rule.rule})).collect();
    json!({
        "family": family.map(|is_v6| if is_v6 { "ipv6" } else { "ipv4" }),
        "direction": direction.as_str(),
        "verdict": verdict.decision.as_str(),
        "policy": verdict.policy.as_ref().map(ToString::to_string),
        "rule": verdict.rule,
        "reason": verdict.reason.as_str(),
        "because": verdict.because(),
        "audited": audited,
        "proven": flow.proven,
        "protocol": flow.protocol,
        "port": flow.port,
    })
}

fn tuple(flow: &Flow) -> Option<Tuple> {
    let (source, destination) = (flow.source.address?, flow.destination.address?);
    Some(Tuple { source, destination, protocol: flow.protocol, port: flow.port })
}

/// Whether a flow that the kernel remembers is this one.
fn is_same(tuple: &Tuple, flow: &SeenFlow) -> bool {
    let ip = |text: &str| text.parse::<IpAddr>().ok();
    ip(&flow.source) == Some(tuple.source)
        && ip(&flow.destination) == Some(tuple.destination)
        && super::refused::protocol_number(&flow.protocol) == Some(tuple.protocol)
        && flow.port == tuple.port.unwrap_or(0)
}
