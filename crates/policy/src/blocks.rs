//! Sets of addresses as sorted, disjoint ranges: what `cidr` minus `except` leaves, and the union of several.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Addresses of both families as inclusive ranges: sorted, disjoint, and no two of them touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    v4: Vec<(u128, u128)>,
    v6: Vec<(u128, u128)>,
}

impl Blocks {
    /// A prefix without the prefixes carved out of it. Host bits are ignored; an exception of the other family, or outside
    /// the prefix, carves nothing.
    #[must_use]
    pub fn carved(cidr: IpNet, except: &[IpNet]) -> Self {
        let mut left = vec![range(cidr)];
        for hole in except.iter().filter(|hole| is_v4(hole) == is_v4(&cidr)) {
            left = subtract(&left, range(*hole));
        }
        if is_v4(&cidr) { Self { v4: left, v6: Vec::new() } } else { Self { v4: Vec::new(), v6: left } }
    }

    /// Adds all addresses of `other`.
    pub fn merge(&mut self, other: &Self) {
        merge(&mut self.v4, &other.v4);
        merge(&mut self.v6, &other.v6);
    }

    /// Whether it holds no address.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Whether this address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let (ranges, value) = match address {
            IpAddr::V4(a) => (&self.v4, u128::from(u32::from(a))),
            IpAddr::V6(a) => (&self.v6, u128::from(a)),
        };
        let after = ranges.partition_point(|(first, _)| *first <= value);
        after.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|(_, last)| value <= *last)
    }

    /// The IPv4 ranges, first and last address, ascending.
    pub fn v4(&self) -> impl Iterator<Item = (Ipv4Addr, Ipv4Addr)> + '_ {
        // the ranges of this family were made from 32-bit values
        let address = |value: u128| Ipv4Addr::from(u32::try_from(value).unwrap_or(u32::MAX));
        self.v4.iter().map(move |(first, last)| (address(*first), address(*last)))
    }

    /// The IPv6 ranges, first and last address, ascending.
    pub fn v6(&self) -> impl Iterator<Item = (Ipv6Addr, Ipv6Addr)> + '_ {
        self.v6.iter().map(|(first, last)| (Ipv6Addr::from(*first), Ipv6Addr::from(*last)))
    }
}

fn is_v4(net: &IpNet) -> bool {
    matches!(net, IpNet::V4(_))
}

fn value(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

fn range(net: IpNet) -> (u128, u128) {
    (value(net.network()), value(net.broadcast()))
}

fn subtract(ranges: &[(u128, u128)], hole: (u128, u128)) -> Vec<(u128, u128)> {
    let mut left = Vec::with_capacity(ranges.len() + 1);
    for &(first, last) in ranges {
        if hole.1 < first || last < hole.0 {
            left.push((first, last));
            continue;
        }
        if first < hole.0 {
            left.push((first, hole.0 - 1));
        }
        if hole.1 < last {
            left.push((hole.1 + 1, last));
        }
    }
    left
}

fn merge(into: &mut Vec<(u128, u128)>, more: &[(u128, u128)]) {
    if more.is_empty() {
        return;
    }
    let mut all = std::mem::take(into);
    all.extend_from_slice(more);
    all.sort_unstable();
    for (first, last) in all {
        match into.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => into.push((first, last)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn an_exception_carves_a_hole_and_a_union_fills_it() {
        let mut blocks = Blocks::carved(net("10.0.0.0/8"), &[net("10.1.0.0/16"), net("fd00::/8")]);
        assert!(blocks.contains("10.0.255.255".parse().unwrap()));
        assert!(!blocks.contains("10.1.0.0".parse().unwrap()));
        assert!(blocks.contains("10.2.0.0".parse().unwrap()));
        blocks.merge(&Blocks::carved(net("10.1.0.0/16"), &[]));
        assert_eq!(blocks, Blocks::carved(net("10.0.0.0/8"), &[]), "touching ranges are one range");
    }

    #[test]
    fn the_edges_of_both_families_are_inside_the_whole_of_them() {
        let mut all = Blocks::carved(net("0.0.0.0/0"), &[]);
        all.merge(&Blocks::carved(net("::/0"), &[]));
        for edge in ["0.0.0.0", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] {
            assert!(all.contains(edge.parse().unwrap()), "{edge}");
        }
        assert!(Blocks::carved(net("::/0"), &[net("::/0")]).is_empty());
        assert!(!Blocks::carved(net("0.0.0.0/0"), &[]).contains("::".parse().unwrap()));
    }

    prop_compose! {
        fn prefix()(value in any::<u32>(), length in 0u8..=32) -> IpNet {
            // few leading bits, so that prefixes overlap often
            IpNet::new(IpAddr::V4(Ipv4Addr::from(value & 0x0f00_00ff)), length).unwrap()
        }
    }

    proptest! {
        #[test]
        fn ranges_say_what_the_prefixes_say(
            blocks in proptest::collection::vec((prefix(), proptest::collection::vec(prefix(), 0..4)), 0..4),
            probe in any::<u32>(),
        ) {
            let probe = IpAddr::V4(Ipv4Addr::from(probe & 0x0f00_00ff));
            let expected = blocks.iter().any(|(cidr, except)| cidr.contains(&probe) && !except.iter().any(|e| e.contains(&probe)));
            let mut all = Blocks::default();
            for (cidr, except) in &blocks {
                all.merge(&Blocks::carved(*cidr, except));
            }
            prop_assert_eq!(all.contains(probe), expected);
            let ranges: Vec<_> = all.v4().map(|(f, l)| (u32::from(f), u32::from(l))).collect();
            prop_assert!(ranges.iter().all(|(f, l)| f <= l));
            prop_assert!(ranges.windows(2).all(|w| w[0].1.checked_add(1).is_some_and(|next| next < w[1].0)));
        }
    }
}
