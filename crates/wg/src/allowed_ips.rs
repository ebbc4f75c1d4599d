//! Cryptokey routing: the longest prefix over all peers says whom to send to and whom to believe.

use std::net::IpAddr;

use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;

use crate::claims::Claims;

/// The table of all peers' allowed IPs.
///
/// A prefix that two peers claim at once (a pod that moved, while only half of the news is here) belongs to nobody: its
/// packets are dropped, in both directions, rather than attributed by chance. It also hides shorter prefixes.
pub(crate) struct AllowedIps<P> {
    table: JointPrefixMap<IpNet, Claims<P>>,
}

impl<P: Copy + PartialEq> AllowedIps<P> {
    pub(crate) fn new() -> Self {
        Self { table: JointPrefixMap::new() }
    }

    pub(crate) fn add(&mut self, prefix: IpNet, peer: P) {
        let prefix = prefix.trunc();
        match self.table.get_mut(&prefix) {
            Some(claims) => {
                claims.add(peer);
                tracing::warn!(%prefix, "Two peers claim one prefix: it is nobody's until one of them gives it up");
            }
            None => drop(self.table.insert(prefix, Claims::new(peer))),
        }
    }

    pub(crate) fn remove(&mut self, prefix: IpNet, peer: P) {
        let prefix = prefix.trunc();
        if let Some(claims) = self.table.remove(&prefix).and_then(|claims| claims.without(peer)) {
            drop(self.table.insert(prefix, claims));
        }
    }

    /// Whose address this is: the longest prefix decides.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<P> {
        self.table.get_lpm(&IpNet::from(address)).and_then(|(_, claims)| claims.sole())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn prefix() -> impl Strategy<Value = IpNet> {
        // few bits differ, so that prefixes nest and collide
        prop_oneof![
            (0u32..16, prop_oneof![Just(0u8), 8u8..=8, 28u8..=32]).prop_map(|(low, length)| IpNet::new(
                IpAddr::from((0x0a00_0000 | low).to_be_bytes()),
                length
            )
            .unwrap()),
            (0u128..16, prop_oneof![Just(0u8), 64u8..=64, 124u8..=128]).prop_map(|(low, length)| {
                IpNet::new(IpAddr::from(((0xfd00_u128 << 112) | low).to_be_bytes()), length).unwrap()
            }),
        ]
    }

    fn naive(list: &BTreeSet<(IpNet, u32)>, address: IpAddr) -> Option<u32> {
        let longest = list.iter().filter(|(net, _)| net.contains(&address)).map(|(net, _)| net.prefix_len()).max()?;
        let mut owners = list.iter().filter(|(net, _)| net.contains(&address) && net.prefix_len() == longest);
        let (_, owner) = owners.next()?;
        owners.next().is_none().then_some(*owner)
    }

    proptest! {
        #[test]
        fn equals_a_linear_scan(steps in prop::collection::vec((any::<bool>(), prefix(), 0u32..4), 0..60)) {
            let mut table = AllowedIps::new();
            let mut list = BTreeSet::new();
            for (add, net, peer) in steps {
                if add {
                    table.add(net, peer);
                    list.insert((net.trunc(), peer));
                } else {
                    table.remove(net, peer);
                    list.remove(&(net.trunc(), peer));
                }
            }
            for low in 0..20u8 {
                let v4 = IpAddr::from([10, 0, 0, low]);
                prop_assert_eq!(table.owner(v4), naive(&list, v4));
                let v6 = IpAddr::from(((0xfd00_u128 << 112) | u128::from(low)).to_be_bytes());
                prop_assert_eq!(table.owner(v6), naive(&list, v6));
            }
        }
    }

    /// KS-33: prefixes that overlap to everything still have one owner for each address.
    #[test]
    fn ks_33_overlapping_halves_cover_everything() {
        let mut table = AllowedIps::new();
        for net in ["0.0.0.0/1", "128.0.0.0/1", "0.0.0.0/0", "::/1", "8000::/1", "::/0"] {
            table.add(net.parse().unwrap(), 1);
        }
        for address in ["1.2.3.4", "200.1.2.3", "::1", "fd00::1"] {
            assert_eq!(table.owner(address.parse().unwrap()), Some(1));
        }
    }

    /// KS-25: one peer with 255 * 256 prefixes of each family, beside another with the same addresses' neighbours.
    #[test]
    fn ks_25_a_hundred_and_thirty_thousand_prefixes_of_one_peer() {
        let all = |third: u8| {
            let numbers = (0..255u8).flat_map(|a| (0..=255u8).map(move |b| (a, b)));
            numbers.flat_map(move |(a, b)| {
                let v6 = 0xabcd_u128 << 112 | u128::from(a) << 24 | u128::from(b) << 16 | u128::from(third);
                [IpAddr::from([10, a, b, third]), IpAddr::from(v6.to_be_bytes())]
            })
        };
        let mut table = AllowedIps::new();
        for address in all(0) {
            table.add(address.into(), 1);
        }
        assert_eq!(all(0).filter(|address| table.owner(*address) == Some(1)).count(), 255 * 256 * 2);
        table.add("10.0.0.0/8".parse().unwrap(), 2);
        assert!(all(0).step_by(997).all(|address| table.owner(address) == Some(1)));
        assert!(all(1).step_by(2).all(|address| table.owner(address) == Some(2)));
        assert!(all(1).skip(1).step_by(2).all(|address| table.owner(address).is_none()));
        for address in all(0) {
            table.remove(address.into(), 1);
        }
        assert!(all(0).all(|address| table.owner(address) == address.is_ipv4().then_some(2)));
    }
}
