//! `meshctl policy verdict`: what would happen to one connection, and why.

use std::path::PathBuf;

use policy::{Decision, Flow, Party, RuleRef, Verdict, question};
use serde_json::{Value, json};

use super::manifests::Cluster;
use crate::screen::{self, Format};

/// `meshctl policy verdict`.
#[derive(Debug, clap::Args)]
pub(crate) struct VerdictArgs {
    /// Who connects: namespace/pod, or an address.
    source: String,
    /// To what: namespace/pod:PORT[/tcp|udp|sctp], the port by number or name; or :icmp, or :ip/NUMBER.
    destination: String,
    /// A folder (or file) of manifests: pods with their labels, status.podIPs and named ports, namespaces, nodes, policies.
    #[arg(long, value_name = "DIR", default_value = ".")]
    from: PathBuf,
    #[command(flatten)]
    cluster: Cluster,
    /// As of a packet that only claims its source's address, with no key behind it.
    #[arg(long)]
    unproven: bool,
    /// `json` prints one document: verdict, policy, rule, reason and who is meant.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Judges; whether it is allowed, in every family.
///
/// # Errors
/// The manifests or the names cannot be read.
pub(super) fn run(args: &VerdictArgs) -> anyhow::Result<bool> {
    let manifests = args.cluster.read(&args.from)?;
    let source = Party::parse(&args.source, &manifests.rules)?;
    let (destination, service) = question::target(&args.destination, &manifests.rules, |id| manifests.named_ports(id))?;
    let mut judged = Vec::new();
    for (family, from, to) in question::pairs(&manifests.rules, &source, &destination)? {
        let proven = !args.unproven && manifests.is_proven(&from, &to);
        let (protocol, port) = service.of_family(family == Some(true));
        let flow = Flow { source: from, destination: to, protocol, port, proven };
        judged.push((family, manifests.rules.judge(&flow), flow));
    }
    // a denied family first: that is what somebody asks about
    judged.sort_by_key(|(_, verdict, _)| verdict.is_allowed());
    let about = judged.iter().filter(|(_, verdict, _)| verdict.policy.is_some() || !verdict.is_allowed());
    let shown = about.chain(&judged).next();
    let is_allowed = judged.iter().all(|(_, verdict, _)| verdict.is_allowed());
    if !manifests.unused.is_empty() {
        screen::note(&format!(
            "({} parts of the manifests are not used: meshctl policy lint --from {})",
            manifests.unused.len(),
            args.from.display()
        ));
    }
    let Some((_, verdict, flow)) = shown else { return Ok(is_allowed) };
    match args.output {
        Format::Json => {
            let mut document = json(verdict, flow);
            let more = json!({
                "source": source.name, "destination": destination.name, "service": service.shown(),
                "families": judged.iter().map(|(family, verdict, _)| json!({
                    "family": family_name(*family), "verdict": verdict.decision.as_str(),
                })).collect::<Vec<_>>(),
            });
            if let (Value::Object(document), Value::Object(more)) = (&mut document, more) {
                document.extend(more);
            }
            screen::out_json(&document)?;
        }
        Format::Text => {
            let decision = match verdict.decision {
                Decision::Allowed => screen::good("allowed"),
                Decision::Denied => screen::bad("denied"),
            };
            let mut text = format!(
                "{} -> {}:{}  {decision}: {}",
                source.name,
                destination.name,
                service.shown(),
                verdict.because()
            );
            for rule in &verdict.audited {
                text.push_str(&format!("\n  audited by {}", shown_rule(rule)));
            }
            if judged.iter().any(|(_, other, _)| other.decision != verdict.decision) {
                for (family, other, _) in &judged {
                    let line = format!("\n  {}: {}", family_name(*family).unwrap_or("labels"), other.decision.as_str());
                    text.push_str(&line);
                }
            }
            screen::out(&text)?;
        }
    }
    Ok(is_allowed)
}

fn family_name(family: Option<bool>) -> Option<&'static str> {
    family.map(|is_v6| if is_v6 { "ipv6" } else { "ipv4" })
}

fn json(verdict: &Verdict, flow: &Flow) -> Value {
    json!({
        "verdict": verdict.decision.as_str(),
        "policy": verdict.policy.as_ref().map(ToString::to_string),
        "rule": verdict.rule,
        "reason": verdict.reason.as_str(),
        "direction": verdict.direction.as_str(),
        "audited": verdict.audited.iter().map(|rule| json!({"policy": rule.policy.to_string(), "rule": rule.rule})).collect::<Vec<_>>(),
        "proven": flow.proven,
        "protocol": flow.protocol,
        "port": flow.port,
    })
}

fn shown_rule(rule: &RuleRef) -> String {
    format!("{}, rule {}", rule.policy, rule.rule)
}
