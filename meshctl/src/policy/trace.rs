//! `meshctl policy trace`: what a running mesh does with one connection, why, and how many of its packets pass.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::door::{Door, each};
use crate::screen::{self, Format};
use crate::target::NodeTarget;

/// `meshctl policy trace`.
#[derive(Debug, clap::Args)]
pub(crate) struct TraceArgs {
    /// Who connects: namespace/pod, or an address.
    source: String,
    /// To what: namespace/pod:PORT[/tcp|udp|sctp], the port by number or name; or :icmp, or :ip/NUMBER.
    destination: String,
    /// How long packets are counted; 0 asks for the verdict alone.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(0..=300))]
    seconds: u64,
    #[command(flatten)]
    target: NodeTarget,
    /// `json` prints one document: verdict, policy, rule, reason, and each node's sides and counters.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// What a node says before it counts.
#[derive(Deserialize)]
struct Begun {
    node: String,
    id: u64,
    source: String,
    destination: String,
    service: String,
    sides: Vec<Side>,
    counters: Option<Counters>,
}

/// The verdict of one end's node, in one family.
#[derive(Clone, Deserialize, Serialize)]
struct Side {
    family: Option<String>,
    /// `outbound`: the source's node; `inbound`: the destination's.
    direction: String,
    verdict: String,
    policy: Option<String>,
    rule: Option<u64>,
    reason: String,
    because: String,
    audited: Vec<Value>,
    proven: bool,
    protocol: u8,
    port: Option<u16>,
}

/// What a node counted by now.
#[derive(Clone, Default, Deserialize, Serialize)]
struct Counters {
    /// Packets of the connection that came to be forwarded.
    arrived: u64,
    /// Those that were.
    passed: u64,
    /// Packets that its policies refused, as far as it remembers them.
    refused: u64,
    /// Every counter of the node's filter.
    node: BTreeMap<String, u64>,
}

/// What a node says in the end.
#[derive(Deserialize)]
struct Ended {
    counters: Counters,
}

/// A node that judges a side of the connection.
struct Judge {
    begun: Begun,
    before: Counters,
    after: Counters,
}

/// Asks and counts; whether it is allowed on every side and in every family.
///
/// # Errors
/// A daemon does not answer, or nobody asked knows the two ends.
pub(super) fn run(args: &TraceArgs) -> anyhow::Result<bool> {
    let doors = args.target.doors()?;
    let mut judges = Vec::new();
    let mut silent = Vec::new();
    for (door, begun) in doors.iter().zip(each(&doors, |door| begin(door, args))) {
        match begun {
            Ok(judge) => judges.extend(judge.map(|judge| (door, judge))),
            Err(error) => silent.push(error.context(door.name())),
        }
    }
    let asked = doors.len();
    if judges.is_empty() {
        // a question that nobody understands is refused by all
        return Err(silent.into_iter().next().unwrap_or_else(|| {
            anyhow::anyhow!("neither end runs on the {asked} nodes asked, so that none of them judges it")
        }));
    }
    for error in silent {
        screen::note(&format!("does not answer: {error:#}"));
    }
    if args.output == Format::Text {
        let all: Vec<_> = judges.iter().map(|(_, judge)| judge).collect();
        screen::out(&verdict_text(&all))?;
    }
    std::thread::sleep(Duration::from_secs(args.seconds));
    for (door, judge) in &mut judges {
        let question = json!({"verb": "trace-end", "id": judge.begun.id});
        let ended: Ended = answer(door, &question)?;
        judge.after = ended.counters;
    }
    let judges: Vec<_> = judges.iter().map(|(_, judge)| judge).collect();
    match args.output {
        Format::Json => screen::out_json(&document(&judges, args.seconds))?,
        Format::Text if args.seconds > 0 => screen::out(&counters_text(&judges, args.seconds))?,
        Format::Text => {}
    }
    Ok(judges.iter().flat_map(|judge| &judge.begun.sides).all(|side| side.verdict == "allowed"))
}

fn answer<T: serde::de::DeserializeOwned>(door: &Door, question: &Value) -> anyhow::Result<T> {
    let result = door.ask(question)?;
    serde_json::from_value(result).context("the daemon answered in a form that this meshctl does not know")
}

/// Has a node judge and count; `None` where no end runs on it.
fn begin(door: &Door, args: &TraceArgs) -> anyhow::Result<Option<Judge>> {
    // the time that the node counts by itself is only for the case that nobody asks any more
    let seconds = args.seconds.saturating_add(30);
    let question = json!({"verb": "trace", "source": args.source, "destination": args.destination, "seconds": seconds});
    let mut begun: Begun = answer(door, &question)?;
    let before = begun.counters.take();
    Ok(before.map(|before| Judge { begun, after: before.clone(), before }))
}

/// The side that decides: the first that denies, as a packet meets them; or else the last that has a policy to name.
fn deciding<'a>(judges: &[&'a Judge]) -> Option<&'a Side> {
    let mut sides: Vec<_> = judges.iter().flat_map(|judge| &judge.begun.sides).collect();
    sides.sort_by_key(|side| side.direction == "inbound");
    let denied = sides.iter().find(|side| side.verdict == "denied");
    denied.or(sides.iter().rev().find(|side| side.policy.is_some())).or(sides.last()).copied()
}

fn verdict_text(judges: &[&Judge]) -> String {
    let (Some(side), Some(judge)) = (deciding(judges), judges.first()) else { return String::new() };
    let begun = &judge.begun;
    let decision = if side.verdict == "denied" { screen::bad("denied") } else { screen::good("allowed") };
    let (from, to) = (&begun.source, &begun.destination);
    let mut text = format!("{from} -> {to}:{}  {decision}: {}", begun.service, side.because);
    for judge in judges {
        for side in &judge.begun.sides {
            let family = side.family.as_deref().unwrap_or("labels");
            let proof = if side.proven { "proven by keys" } else { "by address alone" };
            text.push_str(&format!(
                "\n  {} {} {family}: {} ({}), {proof}",
                judge.begun.node, side.direction, side.verdict, side.reason
            ));
        }
    }
    text
}

fn counters_text(judges: &[&Judge], seconds: u64) -> String {
    let mut rows = vec![["  NODE", "ARRIVED", "PASSED", "REFUSED", "COUNTERS OF THE NODE"].map(str::to_owned).to_vec()];
    for judge in judges {
        let (before, after) = (&judge.before, &judge.after);
        let moved: Vec<_> = moved(judge).map(|(name, from, to)| format!("{name} {from} -> {to}")).collect();
        rows.push(vec![
            format!("  {}", judge.begun.node),
            format!("{} -> {}", before.arrived, after.arrived),
            format!("{} -> {}", before.passed, after.passed),
            format!("{} -> {}", before.refused, after.refused),
            if moved.is_empty() { "-".to_owned() } else { moved.join(", ") },
        ]);
    }
    let mut text = format!("Packets of this connection within {seconds} s, both directions:\n{}", screen::table(&rows));
    if judges.iter().all(|judge| judge.after.arrived == judge.before.arrived) {
        text.push_str("\n  None came: nobody tried meanwhile, or the node's forward hook is not on the way");
    }
    for judge in judges {
        let arrived = judge.after.arrived.saturating_sub(judge.before.arrived);
        let passed = judge.after.passed.saturating_sub(judge.before.passed);
        let refused = judge.after.refused.saturating_sub(judge.before.refused);
        if arrived > passed + refused {
            let node = &judge.begun.node;
            text.push_str(&format!(
                "\n  {node}: the mesh's own filter dropped some, before any policy: see its counters and docs/runbook.md"
            ));
        }
    }
    text
}

/// The node's counters that others or this connection moved meanwhile.
fn moved(judge: &Judge) -> impl Iterator<Item = (&String, u64, u64)> {
    judge.after.node.iter().filter_map(|(name, after)| {
        let before = judge.before.node.get(name).copied().unwrap_or(0);
        (before != *after).then_some((name, before, *after))
    })
}

fn document(judges: &[&Judge], seconds: u64) -> Value {
    let side = deciding(judges);
    let begun = judges.first().map(|judge| &judge.begun);
    let nodes = judges.iter().map(|judge| {
        let pair = |before: u64, after: u64| json!({"before": before, "after": after});
        let node: BTreeMap<_, _> = moved(judge).map(|(name, from, to)| (name, pair(from, to))).collect();
        json!({
            "node": judge.begun.node,
            "sides": judge.begun.sides,
            "counters": {
                "arrived": pair(judge.before.arrived, judge.after.arrived),
                "passed": pair(judge.before.passed, judge.after.passed),
                "refused": pair(judge.before.refused, judge.after.refused),
                "node": node,
            },
        })
    });
    json!({
        "source": begun.map(|begun| &begun.source),
        "destination": begun.map(|begun| &begun.destination),
        "service": begun.map(|begun| &begun.service),
        "seconds": seconds,
        "verdict": side.map(|side| &side.verdict),
        "policy": side.and_then(|side| side.policy.as_ref()),
        "rule": side.and_then(|side| side.rule),
        "reason": side.map(|side| &side.reason),
        "direction": side.map(|side| &side.direction),
        "nodes": nodes.collect::<Vec<_>>(),
    })
}
