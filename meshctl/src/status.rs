//! `meshctl status`: is the node well, who is on it, what was refused, and why.

use std::fmt::Write as _;

use crate::admin_reply::{RefusedFlow, SeenFlow, Status};
use crate::door::{Door, each};
use crate::screen::{self, Format};
use crate::target::NodeTarget;

/// Refused flows in the text; all that the daemon shows are in the JSON.
const REFUSED_MAX: usize = 20;

/// `meshctl status`.
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    target: NodeTarget,
    /// `json` prints one document, a list with one entry a node.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Shows the nodes; an unready one, or one that does not answer, makes the exit code 1.
///
/// # Errors
/// No daemon answers.
pub(crate) fn run(args: &StatusArgs) -> anyhow::Result<bool> {
    let doors = args.target.doors()?;
    let mut answers: Vec<anyhow::Result<serde_json::Value>> = each(&doors, |door| door.ask_for("status"));
    if answers.iter().all(Result::is_err)
        && let Some(one) = answers.pop()
    {
        one?;
    }
    let named = doors.iter().map(Door::name).zip(answers);
    let nodes: Vec<_> = named.map(|(name, answer)| answer.unwrap_or_else(|error| silent(&name, &error))).collect();
    let typed: Vec<Status> =
        nodes.iter().map(|n| Ok(serde_json::from_value(n.clone())?)).collect::<anyhow::Result<_>>()?;
    match args.output {
        Format::Json => screen::out_json(&nodes)?,
        Format::Text => screen::out(&typed.iter().map(text).collect::<Vec<_>>().join("\n\n"))?,
    }
    Ok(typed.iter().all(|n| n.ready))
}

/// The row of a node whose daemon does not answer: it has no version, and nothing else that only the daemon knows.
fn silent(node: &str, error: &anyhow::Error) -> serde_json::Value {
    serde_json::json!({"node": node, "ready": false, "blocked_on": [format!("its daemon, which does not answer: {error:#}")]})
}

fn text(status: &Status) -> String {
    let ready = if status.ready { screen::good("ready") } else { screen::bad("not ready") };
    if status.version.is_empty() {
        return format!("{}  {ready}\n  waits for: {}", screen::strong(&status.node), status.blocked_on.join("; "));
    }
    let mut text = format!(
        "{}  {ready}  meshd {}, up {}, trust domain {}",
        screen::strong(&status.node),
        status.version,
        screen::seconds(status.uptime_s),
        status.trust_domain
    );
    for reason in &status.blocked_on {
        add(&mut text, &format!("\n  waits for: {reason}"));
    }
    let traffic = &status.traffic;
    add(
        &mut text,
        &format!(
            "\n  {} peers known, {} in session; sealed {} ({} packets), opened {} ({} packets)\n",
            status.peers.known,
            status.peers.sessions,
            screen::bytes(traffic.sent_bytes),
            traffic.sent_packets,
            screen::bytes(traffic.received_bytes),
            traffic.received_packets,
        ),
    );
    let mut rows = vec![row(["  WORKLOAD", "MODE", "IDENTITY", "ADDRESSES", "LINK"])];
    for a in &status.attachments {
        rows.push(row([
            &format!("  {}", a.pod),
            a.mode.as_deref().unwrap_or("not enrolled"),
            a.identity.as_deref().unwrap_or("-"),
            &a.ips.join(","),
            &a.link,
        ]));
    }
    add(&mut text, &screen::table(&rows));
    // counted among the drops, and none
    let (passed, dropped): (Vec<_>, Vec<_>) =
        status.drops.iter().partition(|(reason, _)| ["plaintext_accepted", "audited"].contains(&reason.as_str()));
    for (what, counts) in [("Packets dropped", dropped), ("Let through and counted", passed)] {
        if counts.is_empty() {
            continue;
        }
        let counts: Vec<String> = counts.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
        add(&mut text, &format!("\n  {what}: {}", counts.join(", ")));
    }
    flows(&mut text, "Clear text refused, because the workload is STRICT", &status.denied);
    flows(&mut text, "Clear text accepted, because the workload is PERMISSIVE", &status.clear_seen);
    refused(&mut text, status);
    for pod in &status.outside {
        add(&mut text, &format!("\n  {}: {}: {}", screen::bad("outside the mesh"), pod.pod, pod.reason));
    }
    if let Some((chain, gap)) = status.chain.as_ref().and_then(|chain| Some((chain, chain.gap()?))) {
        let list = chain.list.as_deref().unwrap_or_default();
        add(
            &mut text,
            &format!(
                "\n  mesh-cni stands in {list} alone: {gap}; what follows is in docs/decisions/0025-a-spare-entry-beside-the-list.md"
            ),
        );
    }
    for refusal in &status.refusals {
        let line = if refusal.line == 0 { String::new() } else { format!(":{}", refusal.line) };
        // on Kubernetes the reason begins with the object that is the file
        let reason = refusal.reason.strip_prefix(&format!("{}: ", refusal.file)).unwrap_or(&refusal.reason);
        add(&mut text, &format!("\n  {}: {}{line}: {reason}", screen::bad("not used"), refusal.file));
    }
    text
}

/// Who was refused by which policy, the newest first.
fn refused(text: &mut String, status: &Status) {
    if status.policy_denied.is_empty() {
        return;
    }
    let more = status.policy_denied.len().saturating_sub(REFUSED_MAX);
    let reasons: Vec<_> = status.policy_denied_by_reason.iter().filter(|(_, count)| **count > 0).collect();
    let reasons: Vec<_> = reasons.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    let titles = ["    FROM", "AS", "TO", "AS", "SERVICE", "POLICY", "RULE", "REASON", "PACKETS", "LAST SEEN"];
    let mut rows = vec![row(titles)];
    for flow in status.policy_denied.iter().take(REFUSED_MAX) {
        rows.push(row([
            &format!("    {}", end(&flow.source, flow.source_workload.as_deref())),
            flow.source_identity.as_deref().unwrap_or("-"),
            &end(&flow.destination, flow.destination_workload.as_deref()),
            flow.destination_identity.as_deref().unwrap_or("-"),
            &service(flow),
            flow.policy.as_deref().unwrap_or("-"),
            &flow.rule.map_or_else(|| "-".to_owned(), |rule| rule.to_string()),
            flow.reason.as_deref().unwrap_or("-"),
            &flow.count.to_string(),
            &format!("{} ago", screen::seconds(flow.last_seen_s)),
        ]));
    }
    add(text, &format!("\n  Refused by policy (packets: {}):\n{}", reasons.join(", "), screen::table(&rows)));
    if more > 0 {
        add(text, &format!("\n    and {more} more: -o json"));
    }
}

fn end(address: &str, workload: Option<&str>) -> String {
    workload.map_or_else(|| address.to_owned(), |workload| format!("{workload} {address}"))
}

fn service(flow: &RefusedFlow) -> String {
    if flow.port == 0 { flow.protocol.clone() } else { format!("{}/{}", flow.port, flow.protocol) }
}

fn flows(text: &mut String, title: &str, flows: &[SeenFlow]) {
    if flows.is_empty() {
        return;
    }
    let line = |f: &SeenFlow| {
        let port = if f.port == 0 { String::new() } else { format!(" port {}", f.port) };
        row([
            &format!("    {}", end(&f.source, f.source_workload.as_deref())),
            "to",
            &end(&f.destination, f.destination_workload.as_deref()),
            &format!("{}{port}", f.protocol),
            &format!("{} packets", f.count),
            &format!("{} ago", screen::seconds(f.last_seen_s)),
        ])
    };
    let rows: Vec<_> = flows.iter().map(line).collect();
    add(text, &format!("\n  {title}:\n{}", screen::table(&rows)));
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn add(text: &mut String, more: &str) {
    // writing to a String does not fail
    let _always = text.write_str(more);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_does_not_answer_is_shown_beside_the_others() {
        let row = silent("n2", &anyhow::anyhow!("container not found"));
        let typed: Status = serde_json::from_value(row).unwrap();
        assert!(!typed.ready && typed.node == "n2");
        assert!(text(&typed).ends_with("waits for: its daemon, which does not answer: container not found"));
    }
}
