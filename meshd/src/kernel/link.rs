//! Links: `mesh0`, the underlay's, and the host-side end of a pod's interface.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use futures::TryStreamExt as _;
use linux::netns::Netns;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use rtnetlink::{Handle, LinkUnspec};

use super::address;

/// The host-side end of a pod's interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostLink {
    /// Name in the node's namespace.
    pub(crate) name: String,
    /// Index of the bridge that owns it, so that packets between pods of this node may never be routed.
    pub(crate) bridge: Option<u32>,
    /// MAC of the pod's end.
    pub(crate) mac: [u8; 6],
    /// Addresses on the pod's end, without link-local ones.
    pub(crate) ips: BTreeSet<IpAddr>,
    /// MTU of the pod's end, in bytes.
    pub(crate) mtu: u32,
    /// Whether both ends are up.
    pub(crate) up: bool,
}

/// What is seen of an interface from inside its pod.
struct Inside {
    index: u32,
    peer: Option<u32>,
    mac: Option<[u8; 6]>,
    ips: BTreeSet<IpAddr>,
    mtu: u32,
    up: bool,
}

/// A netlink connection in the calling thread's namespace, driven by the current runtime. It is strict: of what a question names
/// beside the kind of thing, the kernel leaves nothing unread (`NETLINK_GET_STRICT_CHK`, Linux 4.20).
pub(super) fn connect() -> anyhow::Result<Handle> {
    let (connection, handle, _messages) = rtnetlink::new_connection_with_strict_check()
        .or_else(|_before_that| rtnetlink::new_connection())
        .context("cannot open a netlink socket")?;
    tokio::spawn(connection);
    Ok(handle)
}

/// The link of this name; `None` when there is none.
pub(super) async fn by_name(handle: &Handle, name: &str) -> anyhow::Result<Option<LinkMessage>> {
    found(handle.link().get().match_name(name.to_owned()).execute().try_next().await)
}

async fn by_index(handle: &Handle, index: u32) -> anyhow::Result<Option<LinkMessage>> {
    found(handle.link().get().match_index(index).execute().try_next().await)
}

fn found(result: Result<Option<LinkMessage>, rtnetlink::Error>) -> anyhow::Result<Option<LinkMessage>> {
    match result {
        // ENODEV, as netlink reports it
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -19 => Ok(None),
        other => other.context("cannot look for a link"),
    }
}

/// Sets the MTU of a link and brings it up.
pub(super) async fn bring_up(handle: &Handle, index: u32, mtu: u32) -> anyhow::Result<()> {
    let change = LinkUnspec::new_with_index(index).mtu(mtu).up().build();
    handle.link().set(change).execute().await.context("cannot set up the TUN device")
}

/// Removes a link; one that is not there is as good.
pub(super) async fn remove(handle: &Handle, name: &str) -> anyhow::Result<()> {
    let Some(link) = by_name(handle, name).await? else { return Ok(()) };
    handle.link().del(link.header.index).execute().await.with_context(|| format!("cannot remove {name}"))
}

/// Index and MTU of a link.
pub(super) fn index_and_mtu(link: &LinkMessage) -> (u32, u32) {
    let mtu = link.attributes.iter().find_map(|a| if let LinkAttribute::Mtu(mtu) = a { Some(*mtu) } else { None });
    (link.header.index, mtu.unwrap_or(1500))
}

fn name_of(link: &LinkMessage) -> Option<String> {
    link.attributes.iter().find_map(|a| if let LinkAttribute::IfName(name) = a { Some(name.clone()) } else { None })
}

fn peer_of(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|a| if let LinkAttribute::Link(index) = a { Some(*index) } else { None })
}

fn mac_of(link: &LinkMessage) -> Option<[u8; 6]> {
    let mac =
        |a: &LinkAttribute| if let LinkAttribute::Address(bytes) = a { bytes.clone().try_into().ok() } else { None };
    link.attributes.iter().find_map(mac)
}

fn is_veth(link: &LinkMessage) -> bool {
    let kind = |i: &LinkInfo| matches!(i, LinkInfo::Kind(InfoKind::Veth));
    link.attributes.iter().any(|a| if let LinkAttribute::LinkInfo(infos) = a { infos.iter().any(kind) } else { false })
}

/// Whether a link is up and can carry packets: `IFF_RUNNING`, which needs a carrier.
pub(super) fn is_running(link: &LinkMessage) -> bool {
    link.header.flags.contains(LinkFlags::Up | LinkFlags::Running)
}

fn is_up(link: &LinkMessage) -> bool {
    link.header.flags.contains(LinkFlags::Up)
}

fn bridge_of(link: &LinkMessage) -> Option<u32> {
    let owner = |a: &LinkAttribute| if let LinkAttribute::Controller(index) = a { Some(*index) } else { None };
    link.attributes.iter().find_map(owner).filter(|index| *index != 0)
}

/// Finds the host-side end of `ifname` in the namespace at `netns`: a veth whose peer is that interface.
pub(super) async fn host_link(handle: &Handle, netns: &Path, ifname: &str) -> anyhow::Result<HostLink> {
    let sandbox = Netns::open(netns).with_context(|| format!("{} is no network namespace", netns.display()))?;
    if sandbox.is_current()? {
        bail!("{} is the node's own network namespace: a pod needs one of its own", netns.display());
    }
    // waited for right here: a look is a fraction of a millisecond, and on a busy node each thread that it goes through waits for its turn
    let inside = sandbox.within(|| look_inside(ifname))??;
    let peer = inside.peer.ok_or_else(|| anyhow!("{ifname} has no peer on the host: only veth interfaces can join"))?;
    let link = by_index(handle, peer).await?.ok_or_else(|| anyhow!("the host side of {ifname} is gone"))?;
    if !is_veth(&link) || peer_of(&link) != Some(inside.index) {
        bail!("the host side of {ifname} is not on this node: only veth interfaces of this node can join");
    }
    let name = name_of(&link).context("the host side has no name")?;
    let mac = inside.mac.ok_or_else(|| anyhow!("{ifname} has no MAC address"))?;
    let up = inside.up && is_up(&link);
    Ok(HostLink { name, bridge: bridge_of(&link), mac, ips: inside.ips, mtu: inside.mtu, up })
}

/// Forgets by which MAC an address is reached over a link; one of which nothing is known is as good.
pub(super) async fn forget_neighbour(handle: &Handle, index: u32, ip: IpAddr) -> anyhow::Result<()> {
    let (family, destination) = match ip {
        IpAddr::V4(ip) => (AddressFamily::Inet, NeighbourAddress::Inet(ip)),
        IpAddr::V6(ip) => (AddressFamily::Inet6, NeighbourAddress::Inet6(ip)),
    };
    let mut entry = NeighbourMessage::default();
    entry.header.family = family;
    entry.header.ifindex = index;
    entry.attributes.push(NeighbourAttribute::Destination(destination));
    match handle.neighbours().del(entry).execute().await {
        // ENOENT (no such entry) or ENODEV (its link is gone), as netlink reports them
        Err(rtnetlink::Error::NetlinkError(error)) if matches!(-error.raw_code(), 2 | 19) => Ok(()),
        other => other.with_context(|| format!("cannot forget the former neighbour at {ip}")),
    }
}

/// Runs on a thread that is in the sandbox, with a small runtime of its own: a netlink socket belongs to the namespace
/// that it was opened in.
fn look_inside(ifname: &str) -> anyhow::Result<Inside> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().context("cannot look inside")?;
    runtime.block_on(async {
        let handle = connect()?;
        let link = by_name(&handle, ifname).await?.ok_or_else(|| anyhow!("there is no {ifname} in the sandbox"))?;
        let (index, mtu) = index_and_mtu(&link);
        let ips = address::all(&handle, index).await?;
        Ok(Inside { index, peer: peer_of(&link), mac: mac_of(&link), ips, mtu, up: is_up(&link) })
    })
}
