//! The pin of a link as an nft script: one netdev chain that lets only its pod's own packets in, and marks them. Pure.

use std::net::IpAddr;

use plan::Pin;

use super::nft::line;
use super::{MARK_MASK, MARK_MEMBER, MARK_OUTSIDER};

/// Removes a link's pin, whether it is there or not.
pub(super) fn remove(script: &mut String, link: &str) {
    // `add` first, because the kernel may have taken the chain away together with its link
    line(
        script,
        format_args!(
            "add chain netdev weft pin_{link}\nflush chain netdev weft pin_{link}\ndelete chain netdev weft pin_{link}"
        ),
    );
}

/// What may come out of a link: IP with the right MAC and address, and only the neighbour discovery that goes with it.
pub(super) fn add(script: &mut String, link: &str, pin: &Pin) {
    let mac = pin.mac.map(|byte| format!("{byte:02x}")).join(":");
    let mark = if pin.enrolled { MARK_MEMBER } else { MARK_OUTSIDER };
    let set_mark = format!("meta mark set meta mark and {:#010x} or {mark:#010x}", !MARK_MASK);
    // no anonymous set anywhere: each costs the kernel as much as ten rules when hundreds of links are pinned at once
    let mut rules = vec![format!("ether saddr != {mac} counter name spoofed_source drop")];
    for own in pin.addresses.iter().filter(|ip| ip.is_ipv4()) {
        rules.push(format!("ether type ip ip saddr {own} {set_mark} accept"));
        let arp = format!("arp htype 1 arp ptype ip arp saddr ether {mac} arp saddr ip");
        rules.push(format!("ether type arp {arp} {own} accept"));
        // an address probe (RFC 5227 section 2.1)
        rules.push(format!("ether type arp {arp} 0.0.0.0 accept"));
    }
    rules.push("ether type ip counter name spoofed_source drop".to_owned());
    rules.push("ether type arp counter name forged_discovery drop".to_owned());
    let v6: Vec<_> = pin.addresses.iter().filter(|ip| ip.is_ipv6()).collect();
    if !v6.is_empty() {
        let forged = "counter name forged_discovery drop";
        rules.push(format!("ether type ip6 icmpv6 type nd-router-advert {forged}"));
        rules.push(format!("ether type ip6 icmpv6 type nd-redirect {forged}"));
        // the target address follows 8 bytes of ICMPv6 header (RFC 4861 section 4.4)
        let targets = v6.iter().filter_map(|ip| v6_bits(ip)).chain([link_local_bits(pin.mac)]);
        let foreign = targets.map(|bits| format!("@th,64,128 != {bits:#034x} ")).collect::<String>();
        rules.push(format!("ether type ip6 icmpv6 type nd-neighbor-advert {foreign}{forged}"));
        for own in v6 {
            rules.push(format!("ether type ip6 ip6 saddr {own} {set_mark} accept"));
        }
        // solicitations and advertisements (RFC 4861 sections 4.3 and 4.4)
        let discovery = "icmpv6 type 135-136";
        rules.push(format!("ether type ip6 ip6 saddr fe80::/10 {discovery} accept"));
        // duplicate address detection (RFC 4862 section 5.4.2)
        rules.push("ether type ip6 ip6 saddr :: icmpv6 type nd-neighbor-solicit accept".to_owned());
        // what every host sends by itself when its link comes up: not worth a count, and it goes nowhere
        for unspecific in ["::", "fe80::/10"] {
            rules.push(format!("ether type ip6 ip6 saddr {unspecific} meta l4proto ipv6-icmp drop"));
        }
    }
    rules.push("ether type ip6 counter name spoofed_source drop".to_owned());
    rules.push("counter name not_ip drop".to_owned());
    let hook = format!("type filter hook ingress device \"{link}\" priority -500; policy drop;");
    line(script, format_args!("add chain netdev weft pin_{link} {{ {hook} }}"));
    for rule in rules {
        line(script, format_args!("add rule netdev weft pin_{link} {rule}"));
    }
}

fn v6_bits(ip: &IpAddr) -> Option<u128> {
    match ip {
        IpAddr::V6(v6) => Some(v6.to_bits()),
        IpAddr::V4(_) => None,
    }
}

/// The link-local address that Linux makes of a MAC (modified EUI-64, RFC 4291 appendix A).
fn link_local_bits([a, b, c, d, e, f]: [u8; 6]) -> u128 {
    let low = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    (0xfe80_u128 << 112) | u128::from(low)
}
