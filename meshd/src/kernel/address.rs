//! Addresses of links: by which of them others reach this node, and those that the TUN device holds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::Context as _;
use futures::TryStreamExt as _;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use rtnetlink::Handle;

/// The addresses of one link that others can reach it by, each as the kernel lists it.
async fn listed(handle: &Handle, index: u32) -> anyhow::Result<BTreeMap<IpAddr, AddressMessage>> {
    let mut request = handle.address().get();
    // of a connection that is strict the kernel lists this link alone, and of another one all, which are sorted out below
    request.message_mut().header.index = index;
    let messages: Vec<_> = request.execute().try_collect().await.context("cannot list addresses")?;
    let is_reachable = |m: &AddressMessage| m.header.index == index && m.header.scope == AddressScope::Universe;
    let address = |a: &AddressAttribute| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None };
    let named = |m: AddressMessage| Some((m.attributes.iter().find_map(address)?, m));
    Ok(messages.into_iter().filter(is_reachable).filter_map(named).collect())
}

/// Addresses of a link that other machines can reach it by.
pub(super) async fn all(handle: &Handle, index: u32) -> anyhow::Result<BTreeSet<IpAddr>> {
    Ok(listed(handle, index).await?.into_keys().collect())
}

/// What peers are told of a link's addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Usable {
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Some are not ours yet: the kernel asks around whether anybody has them.
    pub(super) awaits: bool,
}

/// Addresses of a link that peers are told of.
pub(super) async fn usable(handle: &Handle, index: u32) -> anyhow::Result<Usable> {
    let mut usable = Usable::default();
    for (ip, message) in listed(handle, index).await? {
        match Standing::of(ip, flags(&message)) {
            Standing::Usable => drop(usable.addresses.insert(ip)),
            Standing::Awaited => usable.awaits = true,
            Standing::Passing => {}
        }
    }
    Ok(usable)
}

/// Whether peers may be told of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Usable,
    /// Not yet.
    Awaited,
    /// Temporary, on its way out, or somebody else's.
    Passing,
}

impl Standing {
    fn of(ip: IpAddr, flags: AddressFlags) -> Self {
        // of IPv4 the same bits say other things (a second address of a network, linux/if_addr.h) or nothing
        if ip.is_ipv4() {
            return Self::Usable;
        }
        // `IFA_F_TEMPORARY` is the same bit
        let passing = AddressFlags::Secondary | AddressFlags::Deprecated | AddressFlags::Dadfailed;
        if flags.intersects(passing) {
            Self::Passing
        } else if flags.contains(AddressFlags::Tentative) && !flags.contains(AddressFlags::Optimistic) {
            Self::Awaited
        } else {
            Self::Usable
        }
    }
}

fn flags(message: &AddressMessage) -> AddressFlags {
    let flags = |a: &AddressAttribute| if let AddressAttribute::Flags(flags) = a { Some(*flags) } else { None };
    // kernels before Linux 3.14 have no attribute, and no flag beyond the header's
    let short = || AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    message.attributes.iter().find_map(flags).unwrap_or_else(short)
}

/// Has a device hold these addresses beside what it holds. Each stands alone: nothing is routed by it.
pub(super) async fn give(handle: &Handle, index: u32, wanted: &BTreeSet<IpAddr>) -> anyhow::Result<()> {
    let held = all(handle, index).await?;
    for ip in wanted.difference(&held) {
        let length = if ip.is_ipv6() { 128 } else { 32 };
        let mut add = handle.address().add(index, *ip, length);
        // the underlay's link has it and looks for others who have it; and nobody is beside it on this device
        let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
        add.message_mut().attributes.push(AddressAttribute::Flags(flags));
        add.execute().await.with_context(|| format!("cannot give {ip} to the TUN device"))?;
    }
    Ok(())
}

/// Has a device hold none but these of the addresses that other machines can reach.
pub(super) async fn take_others(handle: &Handle, index: u32, wanted: &BTreeSet<IpAddr>) -> anyhow::Result<()> {
    for (ip, message) in listed(handle, index).await? {
        if !wanted.contains(&ip) {
            let gone = handle.address().del(message).execute().await;
            gone.with_context(|| format!("cannot take {ip} from the TUN device"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_told_of_no_address_that_is_not_ours_yet_or_passes() {
        let v4: IpAddr = [192, 0, 2, 1].into();
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        let kernels = AddressFlags::Permanent | AddressFlags::Managetempaddr | AddressFlags::StablePrivacy;
        for flags in [AddressFlags::empty(), kernels, AddressFlags::Nodad, AddressFlags::Optimistic] {
            assert_eq!(Standing::of(v6, flags), Standing::Usable, "{flags:?}");
        }
        let optimistic = AddressFlags::Tentative | AddressFlags::Optimistic;
        assert_eq!(Standing::of(v6, optimistic), Standing::Usable, "RFC 4429: it may be used meanwhile");
        assert_eq!(Standing::of(v6, AddressFlags::Tentative | AddressFlags::Permanent), Standing::Awaited);
        for flags in [AddressFlags::Secondary, AddressFlags::Deprecated, AddressFlags::Dadfailed] {
            assert_eq!(Standing::of(v6, flags | AddressFlags::Tentative), Standing::Passing, "{flags:?}");
        }
        // a second address of the same network, and one whose lease ends
        assert_eq!(Standing::of(v4, AddressFlags::Secondary | AddressFlags::Deprecated), Standing::Usable);
    }
}
