//! The lab's address plan: which addresses the underlay, the nodes, the stranger and the pods have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::config::{Family, LabConfig};

/// Host number of the bridge on the underlay; nodes are 1 to 64.
const BRIDGE: u8 = 254;
/// Host number of the stranger.
const STRANGER: u8 = 250;

/// An address on the underlay with its prefix length.
fn on_underlay(family: Family, host: u8) -> IpNet {
    match family {
        // the lengths are constants within range; a default here would be the host address alone
        Family::Ipv4 => IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(172, 31, 0, host), 24)),
        Family::Ipv6 => IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x31, 0, 0, 0, 0, 0, u16::from(host)), 64)),
    }
}

/// The addresses of one host on the underlay, in the order of the lab's families.
fn host_addresses(config: &LabConfig, host: u8) -> Vec<IpNet> {
    config.families.iter().map(|f| on_underlay(*f, host)).collect()
}

/// The underlay bridge's own addresses: the nodes' default gateway, which forwards nothing.
pub(super) fn bridge(config: &LabConfig) -> Vec<IpNet> {
    host_addresses(config, BRIDGE)
}

/// The stranger's addresses.
pub(super) fn stranger(config: &LabConfig) -> Vec<IpNet> {
    host_addresses(config, STRANGER)
}

/// A node's addresses on the underlay; `index` counts from 1.
pub(super) fn node(config: &LabConfig, index: u8) -> Vec<IpNet> {
    host_addresses(config, index)
}

/// A node's pod address ranges; `index` counts from 1.
pub(super) fn pod_cidrs(config: &LabConfig, index: u8) -> Vec<IpNet> {
    let range = |family: &Family| match family {
        Family::Ipv4 => IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 244, index, 0), 24)),
        Family::Ipv6 => {
            IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x10, 0x244, u16::from(index), 0, 0, 0, 0), 64))
        }
    };
    config.pod_families.iter().map(range).collect()
}

/// The address of `hosts` that has the family of `prefix`.
pub(super) fn of_same_family(hosts: &[IpNet], prefix: &IpNet) -> Option<IpAddr> {
    hosts.iter().map(IpNet::addr).find(|a| a.is_ipv4() == prefix.addr().is_ipv4())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn nobody_shares_an_address_and_pods_are_off_the_underlay() {
        let config = LabConfig { pod_families: vec![Family::Ipv4, Family::Ipv6], ..LabConfig::default() };
        let mut seen = BTreeSet::new();
        for index in 1..=super::super::config::NODES_MAX {
            for address in node(&config, index) {
                assert!(seen.insert(address.addr()));
            }
            for cidr in pod_cidrs(&config, index) {
                assert!(seen.insert(cidr.addr()));
                assert!(!bridge(&config).iter().any(|u| u.contains(&cidr.addr())));
            }
        }
        for address in bridge(&config).into_iter().chain(stranger(&config)) {
            assert!(seen.insert(address.addr()));
        }
    }
}
