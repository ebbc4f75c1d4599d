//! The only netlink and nft calls: what is desired is made so.
//!
//! Everything made here outlives the daemon. A wish is applied in an order that never opens a gap: routes into the
//! mesh first, then the filter in one transaction, then routes back to the main table and removals.

mod address;
mod counters;
mod drift;
mod elements;
mod filter;
mod flows;
mod guard;
mod interpreter;
mod link;
mod listing;
mod news;
mod nfnetlink;
mod nft;
mod pin;
mod policy;
mod probe;
mod route;
mod standing;
mod sysctl;
mod trace;
mod underlay;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ::policy::nft::Program;
use anyhow::{anyhow, bail};
use plan::{Desired, Filter, Route};
use rtnetlink::{Handle, IpVersion};

use self::filter::Fixed;
use self::news::News;
use self::nfnetlink::Questions;
use self::nft::Transactions;
use self::route::Held;
use self::standing::{Standing, Wish};
use self::sysctl::Bridges;

pub(crate) use counters::{Observed, SeenFlow};
pub(crate) use link::HostLink;
pub(crate) use probe::missing;
pub(crate) use sysctl::put_back as put_back_sysctls;
pub(crate) use trace::{Counted, Tuple};
pub(crate) use underlay::{Seen, Underlay};

/// The bits of a packet's mark that are ours.
pub(crate) const MARK_MASK: u32 = 0x0f00_0000;
/// Those of them that say where a packet is from; in the forward hook others say who has judged it (`standing`).
const MARK_ORIGINS: u32 = 0x0300_0000;
/// Came out of an enrolled local workload's link, with its own MAC and address.
pub(crate) const MARK_MEMBER: u32 = 0x0100_0000;
/// Came out of the link of a local workload that is not in the mesh, with its own MAC and address.
pub(crate) const MARK_OUTSIDER: u32 = 0x0300_0000;
/// An outer packet of the engine.
pub(crate) const MARK_OUTER: u32 = 0x0200_0000;

/// The kernel state of this node.
pub(crate) struct Kernel {
    handle: Handle,
    fixed: Fixed,
    tun_index: u32,
    families: Vec<IpVersion>,
    /// The node's addresses on the underlay.
    own: BTreeSet<IpAddr>,
    routes: Option<BTreeSet<Route>>,
    filter: Option<Filter>,
    /// The policy rules that are there; known only together with the filter.
    rules: Program,
    standing: Standing,
    transactions: Transactions,
    questions: Questions,
    /// The generation of this namespace's nft rules when they were last seen to be right.
    generation: Option<u32>,
    /// How often was looked.
    looks: u32,
    /// Somebody changed rules since every element was looked at.
    elements_due: bool,
    /// When that may be done next.
    elements_after: Option<Instant>,
    /// When [`Self::is_disturbed`] may ask for the next look at all rules.
    quick_after: Option<Instant>,
    /// When routes may be looked at next.
    routes_after: Option<Instant>,
    bridges: Bridges,
    news: News,
    /// A link or an address changed since the mesh's device was seen to be right.
    device_due: bool,
    /// A link or an address changed since every pin was seen to be there.
    pins_due: bool,
}

/// A wish as far as it could be fulfilled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    /// Links that were to be pinned and are not there (any more).
    pub(crate) missing_links: BTreeSet<String>,
}

impl Kernel {
    /// Connects to the kernel in the calling thread's network namespace. A pod may begin `flows_per_pod` flows that are
    /// there at once; 0 is no bound.
    pub(crate) fn open(tun: &str, flows_per_pod: u32) -> anyhow::Result<Self> {
        let mut families = vec![IpVersion::V4];
        if Path::new("/proc/sys/net/ipv6/conf/all").exists() {
            families.push(IpVersion::V6);
        }
        let handle = link::connect()?;
        Ok(Self {
            handle,
            fixed: Fixed { tun: tun.to_owned(), flows_per_pod },
            tun_index: 0,
            families,
            own: BTreeSet::new(),
            routes: None,
            filter: None,
            rules: Program::default(),
            standing: Standing::default(),
            transactions: Transactions::default(),
            questions: Questions::default(),
            generation: None,
            looks: 0,
            elements_due: false,
            elements_after: None,
            quick_after: None,
            routes_after: None,
            bridges: Bridges::default(),
            news: News::open()?,
            device_due: true,
            pins_due: true,
        })
    }

    /// Has the node's settings that are changed for pods on bridges written down in this file as they were
    /// ([`put_back_sysctls`]).
    pub(crate) fn remember_sysctls_in(&mut self, file: PathBuf) {
        self.bridges = Bridges::kept_in(file);
    }

    /// Makes the TUN device (which must exist) and the policy rules ready; safe to repeat.
    pub(crate) async fn prepare(&mut self, mtu: u32) -> anyhow::Result<()> {
        let tun = link::by_name(&self.handle, &self.fixed.tun).await?;
        let tun = tun.ok_or_else(|| anyhow!("{} is gone: it is made again when the daemon starts", self.fixed.tun))?;
        let index = link::index_and_mtu(&tun).0;
        if index != self.tun_index {
            // another device of the same name: its routes went with the old one
            self.routes = None;
        }
        self.tun_index = index;
        // The engine has checked the source. Where the node insists on a reverse path check all the same
        // (conf/all/rp_filter), the mark of the prerouting chain leads it to our tables; main knows another way back.
        sysctl::set(&format!("ipv4/conf/{}/rp_filter", self.fixed.tun), "0")?;
        sysctl::set(&format!("ipv4/conf/{}/src_valid_mark", self.fixed.tun), "1")?;
        if self.has_v6() {
            // no link-local address: the device has no link
            sysctl::set(&format!("ipv6/conf/{}/addr_gen_mode", self.fixed.tun), "1")?;
        }
        link::bring_up(&self.handle, index, mtu).await?;
        // What the node masquerades into the mesh (a NodePort whose pod is elsewhere) takes an address of the device it leaves by,
        // or where that has none, any of the node's, of IPv6 the most alike: a pod network's gateway, who has no key.
        address::give(&self.handle, index, &self.own).await?;
        address::take_others(&self.handle, index, &self.own).await?;
        route::ensure_rules(&self.handle, &self.families).await?;
        Ok(())
    }

    /// Finds the host-side end of a pod's interface, and makes sure that its packets meet the filter.
    pub(crate) async fn host_link(&mut self, netns: &Path, ifname: &str) -> anyhow::Result<HostLink> {
        let link = link::host_link(&self.handle, netns, ifname).await?;
        if !filter::is_plain_name(&link.name) {
            bail!("the host-side link `{}` has a name that the filter cannot hold", link.name);
        }
        if link.bridge.is_some() {
            self.bridges.want()?;
        }
        Ok(link)
    }

    /// Forgets who had a new pod's addresses before it. On a bridge the node goes on sending to the former holder's MAC, up to
    /// 45 s and then 8 s of probes (Linux, `base_reachable_time_ms`, `delay_first_probe_time`, `ucast_solicit`), and the bridge
    /// plugin announces nothing.
    pub(crate) async fn forget_former_holders(
        &self,
        bridge: Option<u32>,
        ips: &BTreeSet<IpAddr>,
    ) -> anyhow::Result<()> {
        let Some(bridge) = bridge else { return Ok(()) };
        for ip in ips {
            link::forget_neighbour(&self.handle, bridge, *ip).await?;
        }
        Ok(())
    }

    /// Makes the kernel be as desired. On error nothing is known of what is there: the next call compares with the
    /// kernel itself.
    pub(crate) async fn apply(&mut self, desired: &Desired, rules: &Program) -> anyhow::Result<Applied> {
        let (before_routes, before_filter) = (self.routes.take(), self.filter.take());
        let routes = self.usable_routes(desired);
        let held = match &before_routes {
            Some(held) => held.iter().map(|r| ((r.table, r.prefix), Some(r.target))).collect(),
            None => self.held_routes().await?,
        };
        let steps = plan::route_steps(&routes, &held);
        for route in &steps.before {
            route::put(&self.handle, route, self.tun_index, &self.own).await?;
        }
        let wish = Wish { ranges: desired.filter.own_ranges.clone(), policies: !rules.is_empty() };
        // the guard asks for no judgement that nobody gives: not before, and not after
        if self.standing.asks_for_policies() && !wish.policies {
            self.stand(wish.clone()).await;
        }
        let (filter, missing_links) = self.apply_filter(before_filter, &desired.filter, rules).await?;
        self.stand(wish).await;
        for route in &steps.after {
            route::put(&self.handle, route, self.tun_index, &self.own).await?;
        }
        self.remove(&steps.gone).await?;
        self.routes = Some(routes);
        self.filter = Some(filter);
        self.rules.clone_from(rules);
        Ok(Applied { missing_links })
    }

    /// Has the standing guard as wished. Without it all works, and a table that somebody removes is open until it is repaired.
    async fn stand(&mut self, wish: Wish) {
        let set = self.standing.set(wish).await;
        self.note_guard(set);
    }

    fn note_guard(&mut self, changed: anyhow::Result<bool>) {
        match changed {
            // a transaction of ours
            Ok(true) => self.generation = self.generation.map(|generation| generation.wrapping_add(1)),
            Ok(false) => {}
            Err(error) => tracing::warn!(
                error = format!("{error:#}"),
                "Tables that somebody removes stay open until they are put back (Linux 5.12 and nft with `-i` would close them)"
            ),
        }
    }

    fn usable_routes(&self, desired: &Desired) -> BTreeSet<Route> {
        desired.routes.iter().filter(|route| self.has_v6() || route.prefix.addr().is_ipv4()).copied().collect()
    }

    async fn apply_filter(
        &mut self,
        before: Option<Filter>,
        wished: &Filter,
        rules: &Program,
    ) -> anyhow::Result<(Filter, BTreeSet<String>)> {
        let mut filter = wished.clone();
        let mut missing = BTreeSet::new();
        for link in wished.pins.keys() {
            // a pin that is there already stays as it is: the kernel takes it away with its link
            let known = before.as_ref().is_some_and(|b| b.pins.get(link) == wished.pins.get(link));
            if !known && link::by_name(&self.handle, link).await?.is_none() {
                filter.pins.remove(link);
                missing.insert(link.clone());
            }
        }
        // mesh and policy in one transaction: a new pod is pinned and judged at once
        let script = match &before {
            Some(before) => filter::difference(before, &filter) + &policy::change(&self.rules, rules),
            None => {
                let counts = counters::counts().await.unwrap_or_default();
                filter::whole(&filter, &self.fixed, &counts) + &policy::whole(rules, &counts) + &trace::nothing()
            }
        };
        if !script.is_empty() {
            self.apply_own(&script).await?;
        }
        Ok((filter, missing))
    }

    async fn remove(&self, routes: &[Route]) -> anyhow::Result<()> {
        for route in routes {
            route::remove(&self.handle, route, self.tun_index).await?;
        }
        Ok(())
    }

    /// Whether there is a link of this name.
    pub(crate) async fn has_link(&self, name: &str) -> anyhow::Result<bool> {
        Ok(link::by_name(&self.handle, name).await?.is_some())
    }

    /// Whether the pin of a link is in the kernel with exactly this content.
    pub(crate) fn holds_pin(&self, link: &str) -> bool {
        self.filter.as_ref().is_some_and(|filter| filter.pins.contains_key(link))
    }

    /// Packets that policies refused since their rules are there.
    pub(crate) fn policy_refused(&mut self) -> anyhow::Result<u64> {
        if self.rules.is_empty() {
            return Ok(0);
        }
        let mut packets = 0;
        for version in &self.families {
            for counter in ["outbound_denied", "inbound_denied"] {
                packets += self.questions.counted(version, ::policy::nft::TABLE, counter)?.unwrap_or(0);
            }
        }
        Ok(packets)
    }

    /// The flows of them that are remembered.
    pub(crate) async fn policy_denied(&self) -> anyhow::Result<Vec<SeenFlow>> {
        counters::policy_denied().await
    }

    /// Begins to count the packets of these connections, from nothing, in place of any others.
    pub(crate) async fn begin_trace(&mut self, tuples: &[Tuple]) -> anyhow::Result<()> {
        self.apply_own(&trace::script(tuples)).await
    }

    /// What was counted of the connections that are traced.
    pub(crate) async fn traced(&self) -> anyhow::Result<Counted> {
        trace::read().await
    }

    /// Counts no connection's packets any more.
    pub(crate) async fn end_trace(&mut self) -> anyhow::Result<()> {
        self.apply_own(&trace::nothing()).await
    }

    /// One transaction of ours: one more is expected, and any other number says that somebody else changed rules as well.
    async fn apply_own(&mut self, script: &str) -> anyhow::Result<()> {
        let expected = self.generation.take().map(|generation| generation.wrapping_add(1));
        self.transactions.apply(script).await?;
        self.generation = expected;
        Ok(())
    }

    /// What the filter counted and whom it remembers.
    pub(crate) async fn observed(&self) -> anyhow::Result<Observed> {
        counters::read().await
    }

    /// Takes everything away that this module ever makes.
    pub(crate) async fn remove_everything(&mut self) -> anyhow::Result<()> {
        (self.routes, self.filter, self.standing) = (None, None, Standing::default());
        route::remove_rules(&self.handle, &self.families).await?;
        let held = self.held_routes().await?;
        self.remove(&plan::route_steps(&BTreeSet::new(), &held).gone).await?;
        nft::apply(&(filter::nothing() + &::policy::nft::nothing() + &trace::nothing())).await?;
        link::remove(&self.handle, &self.fixed.tun).await
    }

    /// Our routes as the kernel has them.
    async fn held_routes(&self) -> anyhow::Result<Held> {
        route::held_routes(&self.handle, &self.families, (self.tun_index, &self.own)).await
    }

    fn has_v6(&self) -> bool {
        self.families.contains(&IpVersion::V6)
    }
}
