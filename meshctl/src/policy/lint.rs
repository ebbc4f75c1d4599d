//! `meshctl policy lint`: what is written and does not do what it seems to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use policy::rule_set::{Action, Chain, PeerMatch, PortRange, Ports, Rule, RuleSet};
use policy::{Direction, PolicyKind, PolicyRef, RuleRef};
use serde_json::json;

use super::manifests::{Cluster, Manifests};
use crate::screen::{self, Format};

/// `meshctl policy lint`.
#[derive(Debug, clap::Args)]
pub(crate) struct LintArgs {
    /// A folder (or file) of manifests; the same as with --from.
    #[arg(value_name = "DIR", conflicts_with = "from")]
    folder: Option<PathBuf>,
    /// A folder (or file) of manifests.
    #[arg(long, value_name = "DIR", default_value = ".")]
    from: PathBuf,
    #[command(flatten)]
    cluster: Cluster,
    /// `json` prints one list.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Something that is worth a look.
struct Finding {
    kind: &'static str,
    place: String,
    policy: String,
    message: String,
}

/// Looks; whether nothing was found.
///
/// # Errors
/// The manifests cannot be read.
pub(super) fn run(args: &LintArgs) -> anyhow::Result<bool> {
    let manifests = args.cluster.read(args.folder.as_ref().unwrap_or(&args.from))?;
    let mut findings: Vec<Finding> = manifests
        .unused
        .iter()
        .map(|unused| Finding {
            kind: "not_used",
            place: unused.place.clone(),
            policy: unused.object.clone(),
            message: unused.reason.clone(),
        })
        .collect();
    findings.extend(idle(&manifests));
    findings.extend(rules(&manifests.rules));
    match args.output {
        Format::Json => screen::out_json(
            &findings
                .iter()
                .map(|f| json!({"kind": f.kind, "file": f.place, "policy": f.policy, "message": f.message}))
                .collect::<Vec<_>>(),
        )?,
        Format::Text if findings.is_empty() => screen::out("nothing found")?,
        Format::Text => {
            for finding in &findings {
                let parts = [finding.place.as_str(), finding.policy.as_str(), finding.message.as_str()];
                let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
                screen::out(&parts.join(": "))?;
            }
        }
    }
    Ok(findings.is_empty())
}

/// Policies that are applied to no workload.
fn idle(manifests: &Manifests) -> Vec<Finding> {
    let chains = manifests.rules.chains.values();
    let stages = chains.flat_map(|chain| chain.authorization.iter().chain(&chain.network));
    let mut applied: BTreeSet<&PolicyRef> = stages.flat_map(|stage| &stage.policies).map(AsRef::as_ref).collect();
    // one of the baseline is out of sight where NetworkPolicies isolate: that is what it is for
    let policies = &manifests.gathered.policies;
    let mut named = Vec::new();
    for p in &policies.network {
        let why = format!("selects no pod of namespace {}, so it does nothing", p.namespace);
        named.push((reference(PolicyKind::NetworkPolicy, &p.namespace, &p.name), why));
    }
    for p in &policies.authorization {
        let why =
            "selects no workload that is in the mesh, so it does nothing (label the namespace weft.dev/mesh=enabled)";
        named.push((reference(PolicyKind::AuthorizationPolicy, &p.namespace, &p.name), why.to_owned()));
    }
    for p in &policies.cluster {
        let why = "has rules for no pod that is left to it, so it does nothing";
        named.push((reference(p.kind, "", &p.name), why.to_owned()));
    }
    let finding = |(policy, message): (PolicyRef, String)| Finding {
        kind: "selects_nothing",
        place: String::new(),
        policy: policy.to_string(),
        message,
    };
    named.into_iter().filter(|(policy, _)| !applied.remove(policy)).map(finding).collect()
}

fn reference(kind: PolicyKind, namespace: &str, name: &str) -> PolicyRef {
    PolicyRef { kind, namespace: namespace.to_owned(), name: name.to_owned() }
}

/// What is known of one rule over all chains that it is in.
struct Seen {
    /// Some alternative of it can match somebody.
    can_match: bool,
    /// The rules that decide before each alternative of it; `None` when one is reached.
    before: Option<BTreeSet<RuleRef>>,
}

/// Rules that match nobody, or that another always decides before.
fn rules(rules: &RuleSet) -> Vec<Finding> {
    let mut seen: BTreeMap<(RuleRef, &'static str), Seen> = BTreeMap::new();
    for subject in rules.workloads.values() {
        for direction in [Direction::Inbound, Direction::Outbound] {
            let chain = subject.chain(direction).and_then(|key| rules.chains.get(key));
            if let Some(chain) = chain {
                look(rules, chain, direction, &mut seen);
            }
        }
    }
    let mut findings = Vec::new();
    for ((origin, side), seen) in seen {
        let before = seen.before.filter(|by| !by.is_empty());
        let (kind, why) = match (seen.can_match, before) {
            (false, _) => ("matches_nobody", "matches nobody who is there now".to_owned()),
            (true, Some(by)) => {
                let by: Vec<_> = by.iter().map(|by| format!("{}, rule {}", by.policy, by.rule)).collect();
                ("shadowed", format!("never decides: {} always does before", by.join(" and ")))
            }
            (true, None) => continue,
        };
        let message = format!("{side} rule {} {why}", origin.rule);
        findings.push(Finding { kind, place: String::new(), policy: origin.policy.to_string(), message });
    }
    findings
}

fn look(rules: &RuleSet, chain: &Chain, direction: Direction, seen: &mut BTreeMap<(RuleRef, &'static str), Seen>) {
    for layer in [&chain.authorization, &chain.network] {
        let mut decided: Vec<&Rule> = Vec::new();
        for stage in layer {
            let earlier = decided.len();
            for rule in &stage.rules {
                let entry = seen
                    .entry((rule.origin.clone(), direction.as_str()))
                    .or_insert(Seen { can_match: false, before: Some(BTreeSet::new()) });
                entry.can_match |= can_match(rules, rule);
                let by = decided.iter().find(|before| before.origin != rule.origin && covers(before, rule));
                match (by, &mut entry.before) {
                    (Some(by), Some(all)) => {
                        all.insert(by.origin.clone());
                    }
                    (None, before) => *before = None,
                    (Some(_), None) => {}
                }
                if rule.action != Action::Audit {
                    decided.push(rule);
                }
            }
            // a Pass ends its own stage only
            let mut at = 0;
            decided.retain(|rule| {
                at += 1;
                at <= earlier || rule.action != Action::Pass
            });
        }
    }
}

/// Whether there is anybody whom, and any port that, the rule can mean.
fn can_match(rules: &RuleSet, rule: &Rule) -> bool {
    let is_empty = |condition: &PeerMatch| {
        condition.inside
            && rules.sets.get(&condition.set).is_none_or(|set| set.members.is_empty() && set.blocks.is_empty())
    };
    let no_port = matches!(&rule.ports, Ports::Listed { ranges, other_protocols: false } if ranges.is_empty());
    !no_port && !rule.peers.iter().any(is_empty)
}

/// Whether whatever `later` matches, `before` does too, by what they say and not by who is there today.
fn covers(before: &Rule, later: &Rule) -> bool {
    before.peers.iter().all(|condition| later.peers.contains(condition)) && ports_cover(&before.ports, &later.ports)
}

fn ports_cover(before: &Ports, later: &Ports) -> bool {
    match (before, later) {
        (Ports::Any, _) => true,
        (Ports::Listed { .. }, Ports::Any) => false,
        (Ports::Listed { ranges, other_protocols }, Ports::Listed { ranges: these, other_protocols: others }) => {
            let is_within = |range: &PortRange| {
                ranges
                    .iter()
                    .any(|wide| wide.protocol == range.protocol && wide.first <= range.first && range.last <= wide.last)
            };
            (*other_protocols || !*others) && these.iter().all(is_within)
        }
    }
}
