//! Looks after what nobody announces: somebody else's hands on our kernel state, as often as it costs little.

use std::time::{Duration, Instant};

use super::elements::Elements;
use super::listing::Listing;
use super::{Kernel, address, link, route};

/// Of this many looks one reads the pins where a link changed, although no rule has: in older kernels a link that goes takes its chain
/// along silently (Linux 6.18 keeps it, and it holds the next link of that name).
const PINS_LOOK: u32 = 8;
/// Of this many looks one is at the mesh's device and the pins although nobody told of a change: notifications can be lost.
const RARE_LOOK: u32 = 64;
/// A look at every element may take one part in so many of the time: a node whose rules others change all the time, and
/// whose sets are large, is looked through less often.
const LOOK_SHARE: u32 = 10;
/// The same for the rules of chains between two rounds of the daemon, which look at them whatever it takes.
const QUICK_LOOK_SHARE: u32 = 4;
/// A look at every route, which no number announces, may take this part of the time: the more of them, the rarer it comes (with a
/// two-hundredth it was nearly half of what a daemon takes at rest among 500 nodes, `docs/measurements.md`).
const ROUTES_SHARE: u32 = 1000;

impl Kernel {
    /// Whether somebody else changed rules since they were last seen to be right: one question to the kernel, cheap enough
    /// to be asked all the time. Says no for a while where looking at what is there takes long.
    pub(crate) fn is_disturbed(&mut self) -> bool {
        let now = Instant::now();
        let is_after = |time: Option<Instant>| time.is_none_or(|time| now >= time);
        if self.elements_due && is_after(self.elements_after) {
            return true;
        }
        let is_known = self.generation.is_some() && is_after(self.quick_after);
        is_known && self.questions.generation().is_ok_and(|now| self.generation != Some(now))
    }

    /// What somebody else took away since it was applied; the next [`Self::apply`] then starts from the kernel itself.
    pub(crate) async fn drift(&mut self) -> anyhow::Result<Vec<&'static str>> {
        let mut drift = Vec::new();
        let renewed = self.standing.renew().await;
        self.note_guard(renewed);
        let Some(filter) = &self.filter else { return Ok(drift) };
        if !route::has_rules(&self.handle, &self.families).await? {
            route::ensure_rules(&self.handle, &self.families).await?;
            drift.push("policy rules");
        }
        if self.bridges.repair()? {
            drift.push("the settings of bridges");
        }
        let generation = self.questions.generation()?;
        self.looks = self.looks.wrapping_add(1);
        // all of it is told of; a look beside that finds what was not
        let is_rare = self.looks.is_multiple_of(RARE_LOOK);
        if self.device_due || is_rare {
            let wrong = self.wrong_with_device().await?;
            self.device_due = wrong.is_some();
            drift.extend(wrong);
        }
        let is_foreign = self.generation != Some(generation);
        let begin = Instant::now();
        let whole = if is_foreign {
            let tables = [&["inet weft", "netdev weft"], Listing::tables_of(&self.rules)].concat();
            let listing = Listing::of(&tables).await;
            listing.has_mesh(&self.fixed) && listing.has_pins(filter.pins.keys()) && listing.has_policies(&self.rules)
        } else if is_rare || self.pins_due && self.looks.is_multiple_of(PINS_LOOK) {
            self.pins_due = !Listing::of(&["netdev weft"]).await.has_pins(filter.pins.keys());
            !self.pins_due
        } else {
            true
        };
        self.elements_due |= is_foreign;
        self.quick_after = Some(begin + begin.elapsed() * QUICK_LOOK_SHARE);
        if whole && self.has_elements().await {
            self.generation = Some(generation);
        } else {
            drift.push("packet filter");
            self.filter = None;
        }
        if !self.has_routes().await? {
            drift.push("routes");
            self.routes = None;
        }
        Ok(drift)
    }

    /// What somebody changed of the mesh's device.
    async fn wrong_with_device(&self) -> anyhow::Result<Option<&'static str>> {
        let tun = link::by_name(&self.handle, &self.fixed.tun).await?;
        if tun.is_none_or(|tun| link::index_and_mtu(&tun).0 != self.tun_index) {
            return Ok(Some("mesh device"));
        }
        let is_right = address::all(&self.handle, self.tun_index).await? == self.own;
        Ok((!is_right).then_some("addresses of the mesh device"))
    }

    /// Whether our routes are there, as far as it is time to look.
    async fn has_routes(&mut self) -> anyhow::Result<bool> {
        let begin = Instant::now();
        if self.routes_after.is_some_and(|after| begin < after) {
            return Ok(true);
        }
        let held = self.held_routes().await?;
        self.routes_after = Some(begin + begin.elapsed() * ROUTES_SHARE);
        let mut routes = self.routes.iter().flatten();
        Ok(routes.all(|route| held.get(&(route.table, route.prefix)) == Some(&Some(route.target))))
    }

    /// Whether our sets hold what was put into them, as far as it is time to look.
    async fn has_elements(&mut self) -> bool {
        let begin = Instant::now();
        let Some(filter) = self.filter.as_ref().filter(|_| self.elements_due) else { return true };
        if self.elements_after.is_some_and(|after| begin < after) {
            return true;
        }
        let elements = Elements::of(&[&["inet weft"], Listing::tables_of(&self.rules)].concat()).await;
        let has_all = elements.has_mesh(filter) && elements.has_policies(&self.rules);
        self.elements_due = false;
        self.elements_after = Some(begin + begin.elapsed().max(Duration::from_millis(1)) * LOOK_SHARE);
        has_all
    }
}
