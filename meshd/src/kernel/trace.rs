//! Counts of single connections, asked for by somebody who looks: a table of its own that is there only meanwhile.
//!
//! What a connection's packets do is seen by two counters: one before the mesh's filter, one after the policies. Rules of
//! policies have no counters of their own, since rules of one action are one look-up together.

use std::fmt::Write as _;
use std::net::IpAddr;

use serde_json::Value;

use super::counters;

/// Family and name of the table.
const TABLE: &str = "inet weft_trace";
/// The hook before the mesh's filter (priority -5), and the one after the policies (-4 and -3).
const HOOKS: [(&str, i8); 2] = [("arrived", -6), ("passed", -2)];

/// One connection as conntrack knows it after destination translation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tuple {
    pub(crate) source: IpAddr,
    /// Of the same family.
    pub(crate) destination: IpAddr,
    /// IP protocol number.
    pub(crate) protocol: u8,
    /// Of TCP, UDP and SCTP.
    pub(crate) port: Option<u16>,
}

/// Packets of the traced connections, both directions together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Came to be forwarded.
    pub(crate) arrived: u64,
    /// Were forwarded.
    pub(crate) passed: u64,
}

/// Counts these from nothing.
pub(super) fn script(tuples: &[Tuple]) -> String {
    let mut text = nothing();
    // writing to a String cannot fail
    let _written = writeln!(text, "table {TABLE} {{");
    for (name, priority) in HOOKS {
        let _written = writeln!(
            text,
            "counter {name} {{ packets 0 bytes 0\n}}\n\
             chain {name} {{\ntype filter hook forward priority {priority}; policy accept;"
        );
        for Tuple { source, destination, protocol, port } in tuples {
            let (ip, family) = if source.is_ipv4() { ("ip", "ipv4") } else { ("ip6", "ipv6") };
            let port = port.map(|port| format!(" ct reply proto-src {port}")).unwrap_or_default();
            let _written = writeln!(
                text,
                "meta nfproto {family} ct original {ip} saddr {source} ct reply {ip} saddr {destination} ct original protocol {protocol}{port} \
                 counter name {name}"
            );
        }
        text.push_str("}\n");
    }
    text + "}\n"
}

/// No counting.
pub(super) fn nothing() -> String {
    format!("add table {TABLE}\ndelete table {TABLE}\n")
}

/// What was counted so far.
pub(super) async fn read() -> anyhow::Result<Counted> {
    let listed = counters::list(&["-j", "list", "counters", "table", "inet", "weft_trace"]).await?;
    let packets = |name: &str| {
        let counters = listed.iter().filter_map(|item| item.get("counter"));
        let named = counters.filter(|counter| counter.get("name").and_then(Value::as_str) == Some(name));
        named.filter_map(|counter| counter.get("packets")?.as_u64()).sum()
    };
    Ok(Counted { arrived: packets("arrived"), passed: packets("passed") })
}
