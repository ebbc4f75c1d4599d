//! The standing guard: a table that nobody else can take away, and that closes pods while one of our other tables is missing.
//!
//! Filter and policies each set a bit of the mark of a packet that comes by them. The guard is the last of ours in the forward
//! hook, and drops what comes from or goes to the node's own pod ranges without these bits. Its table is *owned* (`flags owner`,
//! Linux 5.12): `nft flush ruleset` of others passes it by, and `nft delete table` is refused. The owner is a netlink socket, here
//! that of an `nft -i` which waits for lines; when it or the daemon ends, the kernel takes the table away, and all is as without it.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use ipnet::IpNet;

use super::interpreter::Interpreter;
use super::nft::line;

/// The mark's bit of what came by table `inet weft`.
pub(super) const BY_FILTER: u32 = policy::nft::BEFORE_MARK;
const _: () =
    assert!(BY_FILTER | policy::nft::JUDGED_MARK == super::MARK_MASK & !super::MARK_ORIGINS, "bits of their own");
/// The table's name.
pub(super) const TABLE: &str = "weft_guard";
/// How long one line may take; it is a few rules, so this is a hang.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is to be closed without which judgement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wish {
    /// The node's own pod ranges.
    pub(super) ranges: BTreeSet<IpNet>,
    /// Whether there are tables of policies, which then must have judged too.
    pub(super) policies: bool,
}

/// The guard as it stands.
#[derive(Default)]
pub(super) struct Standing {
    wish: Option<Wish>,
    /// Its socket owns the table.
    owner: Option<Interpreter>,
}

impl Standing {
    /// Whether it lets nothing pass that no policies have judged.
    pub(super) fn asks_for_policies(&self) -> bool {
        self.wish.as_ref().is_some_and(|wish| wish.policies)
    }

    /// Has it stand as wished; whether rules were changed for that. A wish that was refused is not tried again.
    ///
    /// # Errors
    /// nft or the kernel cannot; nothing stands then.
    pub(super) async fn set(&mut self, wish: Wish) -> anyhow::Result<bool> {
        if self.wish.as_ref() == Some(&wish) {
            return Ok(false);
        }
        let script = script(&wish);
        self.wish = Some(wish);
        self.tell(&script).await.map(|()| true)
    }

    /// Has it stand again where its owner has ended; whether rules were changed for that.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub(super) async fn renew(&mut self) -> anyhow::Result<bool> {
        let is_gone = self.owner.as_mut().is_some_and(Interpreter::has_ended);
        let Some(wish) = self.wish.take_if(|_| is_gone) else { return Ok(false) };
        self.owner = None;
        self.set(wish).await
    }

    async fn tell(&mut self, script: &str) -> anyhow::Result<()> {
        let held = self.owner.take();
        let work = async {
            let mut owner = match held {
                Some(owner) => owner,
                None => Interpreter::start().await?,
            };
            owner.apply(script).await.map(|()| owner)
        };
        self.owner = Some(tokio::time::timeout(PATIENCE, work).await.context("nft -i did not answer")??);
        Ok(())
    }
}

fn script(wish: &Wish) -> String {
    let bits = BY_FILTER | if wish.policies { policy::nft::JUDGED_MARK } else { 0 };
    let mut text = format!(
        "add table inet {TABLE} {{ flags owner; }}\n\
         add chain inet {TABLE} forward {{ type filter hook forward priority -1; policy accept; }}\n\
         add counter inet {TABLE} rules_missing\n\
         flush chain inet {TABLE} forward\n\
         add rule inet {TABLE} forward meta mark and {bits:#010x} == {bits:#010x} accept\n"
    );
    for (ip, is_v4) in [("ip", true), ("ip6", false)] {
        let ranges: Vec<_> =
            wish.ranges.iter().filter(|range| range.addr().is_ipv4() == is_v4).map(IpNet::to_string).collect();
        if ranges.is_empty() {
            continue;
        }
        for field in ["saddr", "daddr"] {
            line(
                &mut text,
                format_args!(
                    "add rule inet {TABLE} forward {ip} {field} {{ {} }} counter name rules_missing drop",
                    ranges.join(", ")
                ),
            );
        }
    }
    text
}
