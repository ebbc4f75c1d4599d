//! `meshctl lab status`: what there is, for people, and for programs everything they need to test the lab from outside.

use serde_json::{Value, json};

use super::facts::{Facts, Host, MESH_PORT};
use super::live::{DaemonStatus, LiveState, PodStatus};
use super::overlay::Phase;
use super::pick::{Lab, LabChoice};
use super::view::{self, NodeView};
use crate::screen::{self, Format};

/// `meshctl lab status`.
#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    lab: LabChoice,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Shows the lab.
///
/// # Errors
/// There is none, or its supervisor does not answer.
pub(super) fn run(args: &StatusArgs) -> anyhow::Result<()> {
    let lab = args.lab.open()?;
    match args.output {
        Format::Json => screen::out_json(&json(&lab)?),
        Format::Text => screen::out(&text(&lab)?),
    }
}

fn host(host: &Host) -> Value {
    json!({
        "namespace": host.namespace,
        "path": path(&host.namespace),
        "link": host.link,
        "addresses": host.addresses.iter().map(ipnet::IpNet::addr).collect::<Vec<_>>(),
        "prefixes": host.addresses,
    })
}

fn path(namespace: &str) -> String {
    format!("{}/{namespace}", linux::netns::NAMED_DIR)
}

/// Adds the fields of `more` to the object `base`.
fn with(mut base: Value, more: Value) -> Value {
    if let (Some(base), Value::Object(more)) = (base.as_object_mut(), more) {
        base.extend(more);
    }
    base
}

/// Everything about the lab in one document.
///
/// # Errors
/// The supervisor does not answer.
pub(super) fn json(lab: &Lab) -> anyhow::Result<Value> {
    let live = lab.live()?;
    let views = view::of_nodes(lab, &live);
    let Lab { facts, layout } = lab;
    let links = facts.nodes.iter().map(|n| n.name.as_str()).chain(["stranger"]).map(|n| (n.to_owned(), json!(n)));
    let underlay = json!({ "bridge": facts.underlay.link, "links": links.collect::<serde_json::Map<_, _>>() });
    Ok(json!({
        "name": facts.name,
        "dir": layout.root(),
        "directory": layout.directory(),
        "mesh": facts.mesh,
        "meshPort": MESH_PORT,
        "trustDomain": facts.config.trust_domain,
        "config": facts.config,
        "programs": facts.programs,
        "supervisor": {
            "pid": live.supervisor,
            "socket": layout.supervisor_socket(),
            "log": layout.log("supervisor"),
        },
        "controller": live.controller.as_ref().map(|c| with(daemon(c), json!({
            "namespace": facts.underlay.namespace,
            "stateDir": layout.controller_state(),
            "runDir": layout.controller_run(),
            "socket": layout.controller_socket(),
            "log": layout.log("controller"),
        }))),
        "underlay": with(host(&facts.underlay), underlay),
        "stranger": with(host(&facts.stranger), json!({ "underlayLink": "stranger" })),
        "nodes": facts.nodes.iter().map(|n| node(lab, &live, views.get(&n.name), n)).collect::<Vec<_>>(),
        "pods": live.pods.iter().map(|p| pod(facts, views.get(&p.node), p)).collect::<Vec<_>>(),
        "refusals": live.refusals,
    }))
}

fn daemon(status: &DaemonStatus) -> Value {
    json!({
        "pid": status.pid,
        "restarts": status.restarts,
        "startedAt": status.started_at,
        "lastExit": status.last_exit,
    })
}

fn node(lab: &Lab, live: &LiveState, view: Option<&NodeView>, node: &super::facts::Node) -> Value {
    let Lab { facts, layout } = lab;
    let status = live.nodes.get(&node.name).cloned().unwrap_or_default();
    let rest = json!({
        "name": node.name,
        "podCIDRs": node.pod_cidrs,
        "underlayLink": node.name,
        "identity": facts.mesh.then(|| format!("spiffe://{}/node/{}", facts.config.trust_domain, node.name)),
        "ready": view.map(NodeView::is_ready),
        "blockedOn": view.map(NodeView::blocked_on),
        "runDir": layout.node_run(&node.name),
        "stateDir": layout.node_state(&node.name),
        "adminSocket": layout.admin_socket(&node.name),
        "cniSocket": layout.cni_socket(&node.name),
        "cniDir": layout.node_cni(&node.name),
        "conflist": layout.conflist(&node.name),
        "log": layout.log(&node.name),
    });
    with(with(host(&node.host), daemon(&status)), rest)
}

fn pod(facts: &Facts, view: Option<&NodeView>, pod: &PodStatus) -> Value {
    let attachment = view.and_then(|v| v.attachment(pod));
    let base = serde_json::to_value(pod).unwrap_or_default();
    with(
        base,
        json!({
            "path": pod.netns_path,
            "enrolled": attachment.as_ref().map(|a| a.enrolled),
            "identity": attachment.as_ref().and_then(|a| a.identity.clone()),
            "mode": attachment.as_ref().and_then(|a| a.mode.clone()),
            "trustDomain": facts.config.trust_domain,
        }),
    )
}

/// For people.
fn text(lab: &Lab) -> anyhow::Result<String> {
    let live = lab.live()?;
    let views = view::of_nodes(lab, &live);
    let facts = &lab.facts;
    let mut rows =
        vec![["NODE", "ADDRESSES", "POD ADDRESSES", "DAEMON", "RESTARTS", "READY"].map(str::to_owned).to_vec()];
    for node in &facts.nodes {
        let status = live.nodes.get(&node.name).cloned().unwrap_or_default();
        rows.push(vec![
            node.name.clone(),
            node.host.addresses.iter().map(|a| a.addr().to_string()).collect::<Vec<_>>().join(","),
            node.pod_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            status.pid.map_or_else(|| "-".to_owned(), |p| p.to_string()),
            status.restarts.to_string(),
            views.get(&node.name).map_or("-", |v| if v.is_ready() { "yes" } else { "no" }).to_owned(),
        ]);
    }
    let nodes = screen::table(&rows);
    let mut rows = vec![["POD", "NODE", "PHASE", "ADDRESSES", "MESH", "IDENTITY"].map(str::to_owned).to_vec()];
    for pod in &live.pods {
        let attachment = views.get(&pod.node).and_then(|v| v.attachment(pod));
        let phase = if pod.phase == Phase::Pending && !pod.reason.is_empty() {
            format!("{:?}: {}", pod.phase, pod.reason)
        } else {
            format!("{:?}", pod.phase)
        };
        rows.push(vec![
            format!("{}/{}", pod.namespace, pod.name),
            pod.node.clone(),
            phase,
            pod.addresses.join(","),
            attachment.as_ref().map_or_else(|| "-".to_owned(), |a| a.mode.clone().unwrap_or_else(|| "no".to_owned())),
            attachment.and_then(|a| a.identity).unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    let pods = screen::table(&rows);
    let stranger = facts.stranger.addresses.iter().map(|a| a.addr().to_string()).collect::<Vec<_>>().join(", ");
    let mut text = format!(
        "Lab {} in {}\nWire: namespace {} (bridge {}), a stranger at {stranger}\n\n{nodes}\n\n{pods}",
        facts.name,
        lab.layout.root().display(),
        facts.underlay.namespace,
        facts.underlay.link,
    );
    for refusal in &live.refusals {
        text.push_str(&format!("\n\nrefused: {refusal}"));
    }
    Ok(text)
}
