//! How many flows one pod may hold in the kernel's table of connections, which all pods of a node share. Pure.
//!
//! Counted are connections that a pod began: of a pinned local one by its pin, of one elsewhere where the engine has
//! checked its address. One more is dropped and counted (`flows_exceeded`); what the pod has goes on, and so do all others.

use std::fmt::Write as _;

/// Pods that are counted. Who is no pinned workload and no member's address is in no set of ours, so that a forged
/// source cannot fill this one.
const COUNTED_MAX: usize = 65_536;

/// The sets and chains of the bound, in table `inet weft`; none where `flows_per_pod` is 0.
pub(super) fn sets_and_chains(tun: &str, flows_per_pod: u32) -> String {
    let mut text = String::new();
    if flows_per_pod == 0 {
        return text;
    }
    let mut chain = "chain flows {\n".to_owned();
    for (v, ip, family) in [('4', "ip", "ipv4_addr"), ('6', "ip6", "ipv6_addr")] {
        // writing to a String cannot fail
        let _written = write!(
            text,
            "set flows{v} {{\ntype {family}\nsize {COUNTED_MAX}\nflags dynamic\n}}\n\
             chain flows{v} {{\nadd @flows{v} {{ {ip} saddr ct count over {flows_per_pod} }} counter name flows_exceeded drop\n}}\n"
        );
        let _written =
            write!(chain, "{ip} saddr @local{v} goto flows{v}\niifname \"{tun}\" {ip} saddr @keyed{v} goto flows{v}\n");
    }
    text.push_str(&chain);
    text.push_str("}\n");
    // after the policies (`policy::nft`): what they refuse takes no place in the table and is not counted; what is in the
    // table already is confirmed
    for hook in ["forward", "input"] {
        let _written = write!(
            text,
            "chain flows_{hook} {{\ntype filter hook {hook} priority -2; policy accept;\nct state new ct status ! confirmed jump flows\n}}\n"
        );
    }
    text
}
