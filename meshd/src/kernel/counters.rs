//! What the filter counted and whom it remembers, read back from nft.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde::Serialize;
use serde_json::Value;

use super::filter::Counts;
use super::nft;

/// How long flows are remembered, in seconds: `timeout 10m` of the sets in `filter.rs` and of `policy::nft`.
const REMEMBERED_S: u64 = 600;

/// What the filter counted, by name, and the flows it remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Observed {
    /// Packets by counter.
    pub(crate) packets: BTreeMap<String, u64>,
    /// Clear text refused lately.
    pub(crate) denied: Vec<SeenFlow>,
    /// Clear text accepted lately.
    pub(crate) clear_seen: Vec<SeenFlow>,
    /// Refused by a policy lately.
    pub(crate) policy_denied: Vec<SeenFlow>,
}

/// Clear text of one source to one port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct SeenFlow {
    pub(crate) source: String,
    pub(crate) destination: String,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, or the protocol's number.
    pub(crate) protocol: String,
    /// 0 where the protocol has none.
    pub(crate) port: u16,
    /// Packets.
    pub(crate) count: u64,
    /// Seconds since the last of them.
    pub(crate) last_seen_s: u64,
}

/// Reads counters and remembered flows; nothing of ours in the kernel is all zero.
pub(super) async fn read() -> anyhow::Result<Observed> {
    let mut observed = Observed::default();
    for (name, (packets, _)) in counts().await? {
        observed.packets.insert(name, packets);
    }
    for version in ['4', '6'] {
        observed.denied.extend(remembered("inet", "weft", &format!("denied{version}")).await?);
        observed.clear_seen.extend(remembered("inet", "weft", &format!("clear_seen{version}")).await?);
    }
    observed.policy_denied = policy_denied().await?;
    Ok(observed)
}

/// Flows that a policy refused lately, in the words of the connection's original direction.
pub(super) async fn policy_denied() -> anyhow::Result<Vec<SeenFlow>> {
    let mut denied = Vec::new();
    for family in ["ip", "ip6"] {
        denied.extend(remembered(family, policy::nft::TABLE, "denied").await?);
    }
    Ok(denied)
}

/// Counter values of our tables: (packets, bytes) by name.
pub(super) async fn counts() -> anyhow::Result<Counts> {
    let listed = list(&["-j", "list", "counters"]).await?;
    let counter = |item: &Value| {
        let ours = |table: &str| [super::standing::TABLE, "weft", policy::nft::TABLE].contains(&table);
        let counter = item.get("counter").filter(|c| c.get("table").and_then(Value::as_str).is_some_and(ours))?;
        let number = |key: &str| counter.get(key).and_then(Value::as_u64);
        Some((counter.get("name")?.as_str()?.to_owned(), (number("packets")?, number("bytes")?)))
    };
    let mut counts = Counts::new();
    // a name is in more than one table where families have one each
    for (name, (packets, bytes)) in listed.iter().filter_map(counter) {
        let sum = counts.entry(name).or_default();
        *sum = (sum.0 + packets, sum.1 + bytes);
    }
    Ok(counts)
}

async fn remembered(family: &str, table: &str, set: &str) -> anyhow::Result<Vec<SeenFlow>> {
    let listed = list(&["-j", "list", "set", family, table, set]).await.unwrap_or_default();
    let elements = listed.iter().filter_map(|item| item.get("set")?.get("elem")?.as_array());
    Ok(elements.flatten().filter_map(flow).collect())
}

fn flow(element: &Value) -> Option<SeenFlow> {
    let element = element.get("elem")?;
    let count = element.get("counter")?.get("packets")?.as_u64()?;
    let [source, destination, protocol, port] = element.get("val")?.get("concat")?.as_array()?.as_slice() else {
        return None;
    };
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let port = port.as_u64().and_then(|p| u16::try_from(p).ok())?;
    let (source, destination) = (text(source), text(destination));
    let protocol = protocol_name(text(protocol));
    // each packet sets the time to live anew
    let left = element.get("expires").and_then(Value::as_u64).unwrap_or(REMEMBERED_S);
    let last_seen_s = REMEMBERED_S.saturating_sub(left);
    Some(SeenFlow { source, destination, protocol, port, count, last_seen_s })
}

/// The names that people know of the numbers of IANA's registry of protocols.
fn protocol_name(number: String) -> String {
    match number.as_str() {
        "1" => "icmp".to_owned(),
        "6" => "tcp".to_owned(),
        "17" => "udp".to_owned(),
        "58" | "ipv6-icmp" => "icmpv6".to_owned(),
        _ => number,
    }
}

pub(super) async fn list(arguments: &[&str]) -> anyhow::Result<Vec<Value>> {
    // -n: numbers, not service names
    let text = nft::run(&[&["-n"], arguments].concat(), "").await?;
    let value: Value = serde_json::from_str(&text).context("nft printed no JSON")?;
    Ok(value.get("nftables").and_then(Value::as_array).cloned().unwrap_or_default())
}
