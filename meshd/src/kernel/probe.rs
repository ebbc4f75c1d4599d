//! What this kernel and this process lack, all at once and each with its remedy.

use std::path::Path;

use linux::capability::{Capability, Effective};

use super::nft;

/// Something that the node daemon cannot do without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    /// What is missing.
    pub(crate) what: String,
    /// What to do.
    pub(crate) remedy: &'static str,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.remedy)
    }
}

/// A script that uses one of everything that the filter needs; it is only checked, never applied.
const FILTER_PROBE: &str = "add table inet weft_probe\n\
    add set inet weft_probe s { type ipv4_addr . ipv4_addr . inet_proto . inet_service; size 16; flags dynamic,timeout; timeout 1m; }\n\
    add chain inet weft_probe c { type filter hook forward priority -5; policy accept; }\n\
    add rule inet weft_probe c ct direction reply ct state established accept\n\
    add rule inet weft_probe c meta l4proto tcp update @s { ip saddr . ip daddr . meta l4proto . th dport counter }\n\
    add table netdev weft_probe\n\
    add chain netdev weft_probe c { type filter hook ingress device \"lo\" priority -500; policy accept; }\n\
    add rule netdev weft_probe c ether type ip meta mark set meta mark and 0xf0ffffff or 0x01000000\n\
    delete table inet weft_probe\ndelete table netdev weft_probe\n";

/// What the bound on a pod's flows needs beside.
const FLOWS_PROBE: &str = "add table inet weft_probe\n\
    add set inet weft_probe s { type ipv4_addr; size 16; flags dynamic; }\n\
    add chain inet weft_probe c { type filter hook input priority -2; policy accept; }\n\
    add rule inet weft_probe c ct state new add @s { ip saddr ct count over 2 } drop\n\
    delete table inet weft_probe\n";

/// Everything that is missing on this node; `flows_per_pod` as [`super::Kernel::open`] takes it.
pub(crate) async fn missing(flows_per_pod: u32) -> Vec<Missing> {
    let mut missing = Vec::new();
    match Effective::read() {
        Ok(effective) => {
            for capability in effective.missing(&[Capability::NetAdmin, Capability::SysAdmin]) {
                let remedy = "run meshd as root, or give its service or container this capability";
                missing.push(Missing { what: capability.name().to_owned(), remedy });
            }
        }
        Err(error) => missing.push(Missing { what: error.to_string(), remedy: "mount /proc for meshd" }),
    }
    if let Err(error) = linux::tun::probe() {
        let remedy = "load the kernel module tun and let meshd open /dev/net/tun";
        missing.push(Missing { what: error.to_string(), remedy });
    }
    if !Path::new("/proc/sys/net/ipv4/ip_forward").exists() {
        let remedy = "mount /proc for meshd, with /proc/sys";
        missing.push(Missing { what: "/proc/sys/net".to_owned(), remedy });
    }
    if let Err(error) = nft::apply(FILTER_PROBE).await {
        let remedy = "install nftables 1.0 or newer and use a kernel with nf_tables (inet, netdev) and nf_conntrack";
        missing.push(Missing { what: format!("{error:#}"), remedy });
    }
    if flows_per_pod > 0
        && missing.is_empty()
        && let Err(error) = nft::apply(FLOWS_PROBE).await
    {
        let remedy = "load the kernel module nft_connlimit, or bound no pod's flows by --flows-per-pod 0";
        missing.push(Missing { what: format!("{error:#}"), remedy });
    }
    missing
}
