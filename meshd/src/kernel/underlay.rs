//! The link that peers reach this node at: what it is now, and how the mesh's device follows.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use plan::RouteTarget;

use super::address::Usable;
use super::{Kernel, address, link, route};

/// Bytes that the tunnel adds to an inner packet over IPv6, the larger of the two (WireGuard paper section 5.4.6:
/// 40 IPv6 + 8 UDP + 16 header + 16 tag).
const OVERHEAD: u32 = 80;
/// The least MTU that IPv6 can live with (RFC 8200 section 5).
const MTU_MIN: u32 = 1280;
/// How long the daemon waits at its start until an address is its own, where it has no other: the kernel asks around for a second or
/// two (RFC 4862 section 5.4, and Linux `dad_transmits`).
const OWN_WITHIN: Duration = Duration::from_secs(5);

/// The link that peers reach this node at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Underlay {
    pub(crate) link: String,
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// The link's own MTU in bytes. The mesh's device has the same, so that the kernel hands on whatever pods send and
    /// the data path makes it fit.
    pub(crate) mtu: u32,
    /// The longest inner packet that fits the link, in bytes.
    pub(crate) mesh_mtu: u32,
}

/// What a look at that link shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) link: String,
    /// Whether it can carry packets.
    pub(crate) is_running: bool,
    /// Its MTU in bytes.
    pub(crate) mtu: u32,
    /// Without those that are not this node's yet, or for a while only.
    pub(crate) addresses: BTreeSet<IpAddr>,
}

impl Underlay {
    /// The link as it is, with these addresses.
    pub(crate) fn of(seen: &Seen, addresses: BTreeSet<IpAddr>) -> Self {
        let mesh_mtu = seen.mtu.saturating_sub(OVERHEAD).max(MTU_MIN);
        Self { link: seen.link.clone(), addresses, mtu: seen.mtu.max(MTU_MIN), mesh_mtu }
    }
}

impl Kernel {
    /// The link of this name, or the one that the default route leaves by, and its addresses are this node's from now on.
    pub(crate) async fn underlay(&mut self, name: Option<&str>) -> anyhow::Result<Underlay> {
        let begin = Instant::now();
        loop {
            let (seen, awaits) = self.look(name, None).await?;
            if !seen.addresses.is_empty() {
                self.own.clone_from(&seen.addresses);
                return Ok(Underlay::of(&seen, seen.addresses.clone()));
            }
            let left = OWN_WITHIN.saturating_sub(begin.elapsed());
            if !awaits || left.is_zero() {
                bail!("{} has no address that peers could reach", seen.link);
            }
            // that one is ours is told of
            let _told = tokio::time::timeout(left, self.news.come()).await;
        }
    }

    /// Looks at the link of this name, or at the one that the default route leaves by; without one, at the former.
    pub(crate) async fn see_underlay(&self, name: Option<&str>, former: &str) -> anyhow::Result<Seen> {
        Ok(self.look(name, Some(former)).await?.0)
    }

    async fn look(&self, name: Option<&str>, former: Option<&str>) -> anyhow::Result<(Seen, bool)> {
        let link = match name {
            Some(name) => name.to_owned(),
            None => default_route_link()
                .or_else(|| former.map(str::to_owned))
                .context("there is no default route: name the link that peers reach with --underlay-link")?,
        };
        let found = link::by_name(&self.handle, &link).await?;
        let found = found.ok_or_else(|| anyhow!("there is no link {link}: name the right one with --underlay-link"))?;
        let (index, mtu) = link::index_and_mtu(&found);
        let Usable { addresses, awaits } = address::usable(&self.handle, index).await?;
        Ok((Seen { link, is_running: link::is_running(&found), mtu, addresses }, awaits))
    }

    /// Waits until a link or an address of this node changed.
    pub(crate) async fn news(&mut self) {
        self.news.come().await;
        (self.device_due, self.pins_due) = (true, true);
    }

    /// Has the mesh's device and the routes into it follow. What is new is there before anything goes: no packet finds a
    /// route without its source.
    pub(crate) async fn follow(&mut self, underlay: &Underlay) -> anyhow::Result<()> {
        link::bring_up(&self.handle, self.tun_index, underlay.mtu).await?;
        address::give(&self.handle, self.tun_index, &underlay.addresses).await?;
        self.own.clone_from(&underlay.addresses);
        let held = self.held_routes().await?;
        for route in self.routes.iter().flatten().filter(|route| route.target == RouteTarget::Mesh) {
            if held.get(&(route.table, route.prefix)) != Some(&Some(RouteTarget::Mesh)) {
                route::put(&self.handle, route, self.tun_index, &self.own).await?;
            }
        }
        address::take_others(&self.handle, self.tun_index, &self.own).await
    }
}

/// The link of the default route with the lowest metric, IPv4 first (proc(5), /proc/net/route and ipv6_route).
fn default_route_link() -> Option<String> {
    let v4 = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let fields = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let default4 = v4
        .lines()
        .skip(1)
        .map(fields)
        .find(|f| f.get(1).is_some_and(|d| d == "00000000") && f.get(7).is_some_and(|mask| mask == "00000000"));
    if let Some(name) = default4.and_then(|f| f.first().cloned()) {
        return Some(name);
    }
    let v6 = std::fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    let default6 = v6
        .lines()
        .map(fields)
        .find(|f| f.get(1).is_some_and(|length| length == "00") && f.last().is_some_and(|link| link != "lo"));
    default6.and_then(|f| f.last().cloned())
}
