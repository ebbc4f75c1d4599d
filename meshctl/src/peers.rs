//! `meshctl peers`: the remote identities that a node knows, and the sessions with them.

use anyhow::Context as _;

use crate::admin_reply::Peer;
use crate::door::each;
use crate::screen::{self, Format};
use crate::target::NodeTarget;

/// `meshctl peers`.
#[derive(Debug, clap::Args)]
pub(crate) struct PeersArgs {
    #[command(flatten)]
    target: NodeTarget,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Shows the peers of one node, or of each node of a lab.
///
/// # Errors
/// A daemon does not answer.
pub(crate) fn run(args: &PeersArgs) -> anyhow::Result<()> {
    let mut blocks = Vec::new();
    let mut all = Vec::new();
    let doors = args.target.doors()?;
    let asked = each(&doors, |door| {
        let own: crate::admin_reply::Status = door.ask_for("status")?;
        anyhow::Ok((own, door.ask_for::<Vec<Peer>>("peers")?))
    });
    for (door, answered) in doors.iter().zip(asked) {
        let (own, peers) = answered.with_context(|| door.name())?;
        blocks.push(format!("Peers of {}\n{}", screen::strong(&own.node), table(&peers)));
        all.push(serde_json::json!({ "node": own.node, "peers": peers }));
    }
    match args.output {
        Format::Json => screen::out_json(&all),
        Format::Text => screen::out(&blocks.join("\n\n")),
    }
}

fn table(peers: &[Peer]) -> String {
    let titles =
        ["  IDENTITY", "NODE", "STATE", "ENDPOINT", "EPOCH", "CIPHER", "HANDSHAKE", "SENT", "RECEIVED", "WITH"];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    for peer in peers {
        let dash = || "-".to_owned();
        let ago = |s: u64| format!("{} ago", screen::seconds(s));
        rows.push(vec![
            format!("  {}", peer.identity),
            peer.node.clone(),
            peer.state.clone(),
            peer.endpoint.clone().unwrap_or_else(dash),
            peer.epoch.map_or_else(dash, |e| e.to_string()),
            peer.cipher.clone().unwrap_or_else(dash),
            peer.last_handshake_s.map_or_else(dash, ago),
            screen::bytes(peer.tx_bytes),
            screen::bytes(peer.rx_bytes),
            if peer.local_identities.is_empty() { dash() } else { peer.local_identities.join(",") },
        ]);
    }
    screen::table(&rows)
}
