//! Acts a, b and c: the same traffic outside the mesh and inside it, and whose it is.

use serde_json::{Value, json};

use super::super::pcap;
use super::super::probe::exchange::Protocol;
use super::story::{SOON, Story, seen};
use crate::admin_reply::Peer;

/// What is sent: name, protocol, payload bytes. 3,000 bytes of UDP travel in fragments; 253 is for experiments (RFC 3692).
const KINDS: [(&str, Protocol, usize); 5] = [
    ("tcp", Protocol::Tcp, 200),
    ("udp", Protocol::Udp, 200),
    ("icmp", Protocol::Icmp, 200),
    ("fragments", Protocol::Udp, 3000),
    ("raw", Protocol::Raw(253), 200),
];

const CLIENT: &str = "demo/client";
const SERVER: &str = "demo/server";

/// (a) The positive control: not enrolled, and the capture shows every marker.
pub(super) fn outside(story: &mut Story<'_>) -> anyhow::Result<()> {
    story.report.section("a  Not enrolled: the wire shows everything (the control for what follows)")?;
    story.wait_mode(CLIENT, None)?;
    exchanges(story, "a", true)
}

/// (b) Enrolled by a label, no pod restarted: the same traffic, and no marker.
pub(super) fn inside(story: &mut Story<'_>) -> anyhow::Result<()> {
    story.report.section("b  Enrolled by a label: the same traffic, and the wire shows none of it")?;
    let pids = |story: &Story<'_>| anyhow::Ok((story.pod(CLIENT)?.pids, story.pod(SERVER)?.pids));
    let before = pids(story)?;
    story.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: demo, labels: {weft.dev/mesh: enabled}}\n")?;
    let took = story.wait_mode(CLIENT, Some("PERMISSIVE"))?.max(story.wait_mode(SERVER, Some("PERMISSIVE"))?);
    let is_same = before == pids(story)?;
    let observed = json!({ "milliseconds": millis(took), "podsRestarted": !is_same });
    story.report.check("b: a label enrols running pods", is_same, &observed)?;
    exchanges(story, "b", false)
}

/// All kinds over both families, under one capture; each has a marker of its own.
fn exchanges(story: &mut Story<'_>, act: &str, in_clear: bool) -> anyhow::Result<()> {
    let targets = story.addresses(SERVER)?;
    let capture = story.capture()?;
    let mut sent = Vec::new();
    for to in targets {
        let family = if to.is_ipv4() { "ipv4" } else { "ipv6" };
        for (kind, protocol, size) in KINDS {
            let marker = format!("weft-demo-{act}-{kind}-{family}");
            let mut exchanged = story.send(CLIENT, to, (protocol, size), &marker)?;
            // who sends IPv6 fragments is told once what the path carries (RFC 8201), which a connected socket hears as an error
            let told = kind == "fragments" && to.is_ipv6() && !exchanged.is_whole();
            if told {
                exchanged = story.send(CLIENT, to, (protocol, size), &marker)?;
            }
            sent.push((kind, family, marker, exchanged, told));
        }
    }
    let wire = capture.end()?;
    for (kind, family, marker, exchanged, told) in sent {
        let markers = pcap::count(&wire, marker.as_bytes());
        let ok = exchanged.is_whole() && (markers > 0) == in_clear;
        let mut observed = serde_json::to_value(&exchanged)?;
        if let Some(fields) = observed.as_object_mut() {
            fields.insert("markersInClear".to_owned(), json!(markers));
            fields.insert("toldThePathMtuFirst".to_owned(), json!(told.then_some(true)));
        }
        let place = if in_clear { "readable on the wire" } else { "not on the wire" };
        story.report.check(&format!("{act}: {kind} over {family} arrives and is {place}"), ok, &observed)?;
    }
    let (markers, observed) = seen(&wire, &format!("weft-demo-{act}"))?;
    let name = if in_clear { "the control: the capture sees markers" } else { "no marker byte in the whole capture" };
    let tunnelled = observed.get("meshDatagrams").and_then(Value::as_u64).unwrap_or(0) > 0;
    story.report.check(&format!("{act}: {name}"), (markers > 0) == in_clear && (in_clear || tunnelled), &observed)
}

/// (c) Both ends of the session by name, as each node proves it.
pub(super) fn names(story: &mut Story<'_>) -> anyhow::Result<()> {
    story.report.section("c  Who speaks with whom: the names that the keys prove")?;
    let domain = story.lab.facts.config.trust_domain.clone();
    let client = format!("spiffe://{domain}/ns/demo/sa/client");
    let server = format!("spiffe://{domain}/ns/demo/sa/server");
    for (node, own, other) in [("n1", &client, &server), ("n2", &server, &client)] {
        let look = || {
            let peers: Vec<Peer> = story.rows(node, "peers")?;
            Ok(peers.into_iter().find(|p| p.identity == **other && p.local_identities.contains(own)))
        };
        let (peer, _) = story.wait(&format!("{node} has a session with {other}"), SOON, look)?;
        let observed = json!({
            "local": own,
            "remote": peer.identity,
            "remoteNode": peer.node,
            "epoch": peer.epoch,
            "sentBytes": peer.tx_bytes,
            "receivedBytes": peer.rx_bytes,
        });
        let ok = peer.state == "session" && peer.rx_bytes > 0;
        story.report.check(&format!("c: {node} names both ends of the session"), ok, &observed)?;
    }
    Ok(())
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
