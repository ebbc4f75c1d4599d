//! `meshctl policy diff`: which pairs of workloads a change opens or closes, and on which ports.

use std::collections::BTreeSet;
use std::path::PathBuf;

use policy::rule_set::{Ports, RuleSet};
use policy::{Decision, Direction, End, Flow, Party, Protocol, Verdict, WorkloadId, question};
use serde_json::json;

use super::manifests::{Cluster, Manifests};
use crate::screen::{self, Format};

/// IP protocol 1 (IANA), for every protocol without ports.
const WITHOUT_PORTS: u8 = 1;

/// `meshctl policy diff`.
#[derive(Debug, clap::Args)]
pub(crate) struct DiffArgs {
    /// The manifests before.
    old: PathBuf,
    /// The manifests after.
    new: PathBuf,
    #[command(flatten)]
    cluster: Cluster,
    /// `json` prints one list.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// What changes for one pair.
struct Change {
    from: WorkloadId,
    to: WorkloadId,
    /// `tcp 80-90`, `other protocols`.
    service: String,
    before: Decision,
    after: Verdict,
}

/// Compares; whether nothing changes.
///
/// # Errors
/// Either folder cannot be read.
pub(super) fn run(args: &DiffArgs) -> anyhow::Result<bool> {
    let old = args.cluster.read(&args.old)?;
    let new = args.cluster.read(&args.new)?;
    let known: BTreeSet<_> = old.rules.workloads.keys().collect();
    let both: Vec<_> = new.rules.workloads.keys().filter(|id| known.contains(id)).collect();
    let points = points(&[&old.rules, &new.rules]);
    let mut changes = Vec::new();
    for from in &both {
        for to in both.iter().filter(|to| *to != from) {
            changes.extend(pair([&Pair::of(&old, from, to), &Pair::of(&new, from, to)], from, to, &points));
        }
    }
    match args.output {
        Format::Json => screen::out_json(&changes.iter().map(json).collect::<Vec<_>>())?,
        Format::Text => {
            for change in &changes {
                let (sign, after) = match change.after.decision {
                    Decision::Allowed => (screen::good("+"), "allowed"),
                    Decision::Denied => (screen::bad("-"), "denied"),
                };
                screen::out(&format!(
                    "{sign} {} -> {} {}: now {after}: {}",
                    change.from,
                    change.to,
                    change.service,
                    change.after.because()
                ))?;
            }
            let pairs: BTreeSet<_> = changes.iter().map(|change| (&change.from, &change.to)).collect();
            let only = |a: &Manifests, b: &Manifests| {
                a.rules.workloads.keys().filter(|id| !b.rules.workloads.contains_key(*id)).count()
            };
            screen::out(&format!(
                "{} of {} pairs change; {} workloads are new, {} gone",
                pairs.len(),
                both.len() * both.len().saturating_sub(1),
                only(&new, &old),
                only(&old, &new)
            ))?;
        }
    }
    Ok(changes.is_empty())
}

fn json(change: &Change) -> serde_json::Value {
    json!({
        "source": change.from.as_str(), "destination": change.to.as_str(), "service": change.service,
        "before": change.before.as_str(), "after": change.after.decision.as_str(),
        "policy": change.after.policy.as_ref().map(ToString::to_string), "rule": change.after.rule,
        "reason": change.after.reason.as_str(),
    })
}

/// The ports of each protocol at which some rule begins or ends: between two of them all ports are alike.
fn points(all: &[&RuleSet]) -> Vec<(Protocol, Vec<u16>)> {
    let chains = all.iter().flat_map(|rules| rules.chains.values());
    let rules =
        chains.flat_map(|chain| chain.authorization.iter().chain(&chain.network)).flat_map(|stage| &stage.rules);
    let ranges: Vec<_> = rules
        .filter_map(|rule| match &rule.ports {
            Ports::Any => None,
            Ports::Listed { ranges, .. } => Some(ranges),
        })
        .flatten()
        .collect();
    let of = |protocol| {
        let these = ranges.iter().filter(|range| range.protocol == protocol);
        let edges = these.flat_map(|range| [Some(range.first), range.last.checked_add(1)]).flatten();
        let edges: BTreeSet<u16> = edges.chain([0]).collect();
        (protocol, edges.into_iter().collect())
    };
    Protocol::ALL.into_iter().map(of).collect()
}

/// The ends of every connection from one workload to another, in the families that they share.
struct Pair<'a> {
    rules: &'a RuleSet,
    ends: Vec<(End, End, bool)>,
}

impl<'a> Pair<'a> {
    fn of(manifests: &'a Manifests, from: &WorkloadId, to: &WorkloadId) -> Self {
        let rules = &manifests.rules;
        let party = |id: &WorkloadId| rules.workloads.get(id).map(|subject| Party::of(id, subject));
        // without an address in common nothing passes, which is what no ends at all say
        let pairs = party(from).zip(party(to)).and_then(|(from, to)| question::pairs(rules, &from, &to).ok());
        let proven = |(_, from, to): (_, End, End)| {
            let proven = manifests.is_proven(&from, &to);
            (from, to, proven)
        };
        Self { rules, ends: pairs.into_iter().flatten().map(proven).collect() }
    }

    /// The verdict over all families: denied when one is.
    fn judge(&self, protocol: u8, port: Option<u16>) -> Verdict {
        let mut allowed = None;
        for (source, destination, proven) in &self.ends {
            let (source, destination) = (source.clone(), destination.clone());
            let verdict = self.rules.judge(&Flow { source, destination, protocol, port, proven: *proven });
            if !verdict.is_allowed() {
                return verdict;
            }
            allowed = Some(verdict);
        }
        allowed.unwrap_or(Verdict {
            decision: Decision::Denied,
            direction: Direction::Outbound,
            reason: policy::Reason::NoPolicy,
            policy: None,
            rule: None,
            audited: Vec::new(),
        })
    }
}

fn pair(sides: [&Pair<'_>; 2], from: &WorkloadId, to: &WorkloadId, points: &[(Protocol, Vec<u16>)]) -> Vec<Change> {
    let [old, new] = sides;
    let mut found: Vec<(Protocol, u16, u16, Decision, Verdict)> = Vec::new();
    for (protocol, points) in points {
        for (index, first) in points.iter().enumerate() {
            let last = points.get(index + 1).map_or(u16::MAX, |next| next.saturating_sub(1));
            let before = old.judge(protocol.number(), Some(*first)).decision;
            let after = new.judge(protocol.number(), Some(*first));
            if before == after.decision {
                continue;
            }
            match found.last_mut() {
                Some((of, _, end, _, told))
                    if of == protocol && end.checked_add(1) == Some(*first) && *told == after =>
                {
                    *end = last;
                }
                _ => found.push((*protocol, *first, last, before, after)),
            }
        }
    }
    let mut changes: Vec<_> = found
        .into_iter()
        .map(|(protocol, first, last, before, after)| {
            let protocol = protocol.as_str().to_lowercase();
            let service = match (first, last) {
                (0, u16::MAX) => format!("every {protocol} port"),
                (first, last) if first == last => format!("{first}/{protocol}"),
                (first, last) => format!("{first}-{last}/{protocol}"),
            };
            Change { from: from.clone(), to: to.clone(), service, before, after }
        })
        .collect();
    let (before, after) = (old.judge(WITHOUT_PORTS, None).decision, new.judge(WITHOUT_PORTS, None));
    if before != after.decision {
        let service = "protocols without ports".to_owned();
        changes.push(Change { from: from.clone(), to: to.clone(), service, before, after });
    }
    changes
}
