//! The judge: a flow and a rule set give a verdict. The kernel's rules are held against this.

use std::sync::Arc;

use super::{Action, Chain, Otherwise, PeerMatch, PeerSet, Proof, Rule, RuleSet, Stage, Subject};
use crate::verdict::{Decision, Direction, End, Flow, PolicyRef, Reason, RuleRef, Verdict};

/// What a layer said.
enum Said {
    Deny(Reason, Option<Arc<PolicyRef>>, Option<usize>),
    /// Let pass; by which rule, if any.
    Pass(Option<RuleRef>),
}

impl RuleSet {
    /// The verdict on a flow: leaving its source first, then arriving at its destination. Both have to let it pass.
    #[must_use]
    pub fn judge(&self, flow: &Flow) -> Verdict {
        let leaving = self.judge_side(flow, Direction::Outbound);
        if !leaving.is_allowed() {
            return leaving;
        }
        let mut arriving = self.judge_side(flow, Direction::Inbound);
        let mut audited = leaving.audited.clone();
        audited.append(&mut arriving.audited);
        // of two that let it pass, the one that had a reason to is told
        let told = if arriving.is_allowed() && arriving.reason == Reason::NoPolicy { leaving } else { arriving };
        Verdict { audited, ..told }
    }

    /// The verdict of one side: what the source's node (outbound) or the destination's (inbound) does with the flow.
    #[must_use]
    pub fn judge_side(&self, flow: &Flow, direction: Direction) -> Verdict {
        let (own, peer) = match direction {
            Direction::Inbound => (&flow.destination, &flow.source),
            Direction::Outbound => (&flow.source, &flow.destination),
        };
        let plain =
            |decision, reason| Verdict { decision, direction, reason, policy: None, rule: None, audited: Vec::new() };
        if is_same(own, peer) {
            return plain(Decision::Allowed, Reason::Itself);
        }
        if [own, peer].iter().filter_map(|end| end.address).any(|address| self.contested.contains(&address)) {
            return plain(Decision::Denied, Reason::ContestedAddress);
        }
        let subject = own.workload.as_ref().and_then(|id| self.workloads.get(id));
        let Some(subject) = subject else { return plain(Decision::Allowed, Reason::NoPolicy) };
        if self.is_own_node(subject, peer) {
            return plain(Decision::Allowed, Reason::OwnNode);
        }
        match subject.chain(direction).and_then(|key| self.chains.get(key)) {
            Some(chain) => self.judge_chain(chain, flow, peer, direction),
            None => plain(Decision::Allowed, Reason::NoPolicy),
        }
    }

    fn is_own_node(&self, subject: &Subject, peer: &End) -> bool {
        let addresses = subject.node.as_ref().and_then(|node| self.nodes.get(node));
        addresses.zip(peer.address).is_some_and(|(addresses, address)| addresses.contains(&address))
    }

    fn judge_chain(&self, chain: &Chain, flow: &Flow, peer: &End, direction: Direction) -> Verdict {
        let mut audited = Vec::new();
        let mut by = None;
        for layer in [&chain.authorization, &chain.network] {
            match self.judge_layer(layer, flow, peer, &mut audited) {
                Said::Deny(reason, policy, rule) => {
                    return Verdict { decision: Decision::Denied, direction, reason, policy, rule, audited };
                }
                Said::Pass(rule) => by = rule.or(by),
            }
        }
        let reason = if by.is_some() { Reason::Rule } else { Reason::NoPolicy };
        let (policy, rule) = by.map(|by| (by.policy, by.rule)).unzip();
        Verdict { decision: Decision::Allowed, direction, reason, policy, rule, audited }
    }

    fn judge_layer(&self, layer: &[Stage], flow: &Flow, peer: &End, audited: &mut Vec<RuleRef>) -> Said {
        'stages: for stage in layer {
            for rule in stage.rules.iter().filter(|rule| self.matches(rule, flow, peer)) {
                match rule.action {
                    Action::Deny => {
                        return Said::Deny(Reason::Rule, Some(rule.origin.policy.clone()), Some(rule.origin.rule));
                    }
                    Action::Allow => return Said::Pass(Some(rule.origin.clone())),
                    Action::Pass => continue 'stages,
                    Action::Audit if audited.contains(&rule.origin) => {}
                    Action::Audit => audited.push(rule.origin.clone()),
                }
            }
            if stage.otherwise == Otherwise::Deny {
                return Said::Deny(stage.closed_for(), stage.policies.first().cloned(), None);
            }
        }
        Said::Pass(None)
    }

    /// Whether a rule is about this flow and this other end of it.
    #[must_use]
    pub fn matches(&self, rule: &Rule, flow: &Flow, peer: &End) -> bool {
        rule.ports.contains(flow.protocol, flow.port)
            && rule.peers.iter().all(|condition| self.holds(condition, peer, flow.proven))
    }

    fn holds(&self, condition: &PeerMatch, peer: &End, proven: bool) -> bool {
        // a set that is not there is empty: nobody
        let set = self.sets.get(&condition.set);
        set.is_some_and(|set| is_in(set, peer, proven || condition.proof == Proof::Unneeded)) == condition.inside
    }
}

fn is_in(set: &PeerSet, peer: &End, believed: bool) -> bool {
    let is_member = || peer.workload.as_ref().is_some_and(|id| set.members.contains(id));
    believed && is_member() || peer.address.is_some_and(|address| set.blocks.contains(address))
}

fn is_same(a: &End, b: &End) -> bool {
    match (&a.workload, &b.workload) {
        (Some(a), Some(b)) => a == b,
        _ => a.address.is_some() && a.address == b.address,
    }
}
