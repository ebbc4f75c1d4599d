//! Builds the wire, the nodes and the stranger: namespaces, a bridge, links, addresses and the clear path's routes.

use std::fmt::Write as _;

use anyhow::Context as _;
use linux::netns::Netns;

use super::address::of_same_family;
use super::facts::{Facts, Host};
use super::netcfg::{ip_batch, sysctls};

/// For everybody: addresses are usable at once (no duplicate address detection), no router is believed, and no
/// reverse path filter hides what Weft's own pins have to catch.
const EVERYWHERE: [(&str, &str); 8] = [
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/all/accept_ra", "0"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
];

/// For nodes: they are routers.
const ROUTER: [(&str, &str); 2] = [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")];

/// Makes everything that `facts` plans but the pods.
///
/// # Errors
/// A namespace of that name exists already, `ip` fails, or privilege is lacking. What was made until then stays, for
/// the caller to take down.
pub(super) fn build(facts: &Facts) -> anyhow::Result<()> {
    let underlay = make(&facts.underlay)?;
    let mut wire = format!(
        "link set lo up\nlink add br0 type bridge stp_state 0 mcast_snooping 0\nlink set br0 mtu {} up\n",
        facts.config.mtu
    );
    addresses(&mut wire, &facts.underlay);
    let hosts = facts.nodes.iter().map(|n| (n.name.as_str(), &n.host)).chain([("stranger", &facts.stranger)]);
    let mut made = Vec::new();
    for (port, host) in hosts {
        let netns = make(host)?;
        let mtu = facts.config.mtu;
        let ns = &host.namespace;
        writeln!(wire, "link add {port} mtu {mtu} type veth peer name {} mtu {mtu} netns {ns}", host.link)?;
        writeln!(wire, "link set {port} master br0 up")?;
        made.push((host, netns));
    }
    ip_batch(&underlay, &wire).context("cannot build the underlay")?;
    for (host, netns) in made {
        if host != &facts.stranger {
            sysctls(&netns, &ROUTER)?;
        }
        let mut script = format!("link set lo up\nlink set {} up\n", host.link);
        addresses(&mut script, host);
        routes(&mut script, facts, host);
        ip_batch(&netns, &script).with_context(|| format!("cannot set up {}", host.namespace))?;
    }
    Ok(())
}

fn make(host: &Host) -> anyhow::Result<Netns> {
    let netns = Netns::create_named(&host.namespace)?;
    sysctls(&netns, &EVERYWHERE)?;
    Ok(netns)
}

fn addresses(script: &mut String, host: &Host) {
    for address in &host.addresses {
        let nodad = if address.addr().is_ipv6() { " nodad" } else { "" };
        script.push_str(&format!("addr add {address} dev {}{nodad}\n", host.link));
    }
}

/// The clear path: other nodes' pods by their node's underlay address, everything else out onto the wire, where it
/// can be seen.
fn routes(script: &mut String, facts: &Facts, host: &Host) {
    for node in facts.nodes.iter().filter(|n| &n.host != host) {
        for cidr in &node.pod_cidrs {
            if let Some(via) = of_same_family(&node.host.addresses, cidr) {
                script.push_str(&format!("route add {cidr} via {via}\n"));
            }
        }
    }
    for gateway in &facts.underlay.addresses {
        let everything = if gateway.addr().is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        script.push_str(&format!("route add {everything} via {}\n", gateway.addr()));
    }
}
