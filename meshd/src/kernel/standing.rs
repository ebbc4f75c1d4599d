//! The standing guard: a table that nobody else can take away, and that closes pods while one of our other tables is missing.
//!
//! Filter and policies each set a bit of the mark of a packet that comes by them. The guard is the last of ours in the forward
//! hook, and drops what comes from or goes to the node's own pod ranges without these bits. Its table is *owned* (`flags owner`,
//! Linux 5.12): `nft flush ruleset` of others passes it by, and `nft delete table` is refused. The owner is a netlink socket, here
//! that of an `nft -i` which waits for lines; when it or the daemon ends, the kernel takes the table away, and all is as without it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ipnet::IpNet;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdin, Command};

/// The mark's bit of what came by table `inet weft`.
pub(super) const BY_FILTER: u32 = policy::nft::BEFORE_MARK;
const _: () =
    assert!(BY_FILTER | policy::nft::JUDGED_MARK == super::MARK_MASK & !super::MARK_ORIGINS, "bits of their own");
/// The table's name.
pub(super) const TABLE: &str = "weft_guard";
/// How long one line may take; it is a few rules, so this is a hang.
const PATIENCE: Duration = Duration::from_secs(5);
/// No command of nft: it answers to this with an error that repeats the word, and so says that it has done all before.
const QUESTION: &str = "answered";

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
    owner: Option<Owner>,
}

/// An `nft` whose socket owns the table.
struct Owner {
    child: Child,
    lines: ChildStdin,
    errors: Lines<BufReader<ChildStderr>>,
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
        let is_gone = self.owner.as_mut().is_some_and(|owner| !matches!(owner.child.try_wait(), Ok(None)));
        let Some(wish) = self.wish.take_if(|_| is_gone) else { return Ok(false) };
        self.owner = None;
        self.set(wish).await
    }

    async fn tell(&mut self, script: &str) -> anyhow::Result<()> {
        let held = self.owner.take();
        let work = async {
            let mut owner = match held {
                Some(owner) => owner,
                None => Owner::start().await?,
            };
            owner.tell(script).await.map(|()| owner)
        };
        self.owner = Some(tokio::time::timeout(PATIENCE, work).await.context("nft -i did not answer")??);
        Ok(())
    }
}

impl Owner {
    /// Starts it and hears what it has to say of itself: where there is no terminal database, as in a container, that is two
    /// lines about the terminal, which refuse nothing.
    async fn start() -> anyhow::Result<Self> {
        let mut child = Command::new("nft")
            .arg("-i")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot run nft: install the package nftables")?;
        let lines = child.stdin.take().context("nft has no standard input")?;
        let errors = BufReader::new(child.stderr.take().context("nft has no standard error")?).lines();
        let mut owner = Self { child, lines, errors };
        let _about_itself = owner.ask("").await?;
        Ok(owner)
    }

    /// One line is one transaction.
    async fn tell(&mut self, script: &str) -> anyhow::Result<()> {
        let said = self.ask(&format!("{script}\n")).await?;
        if said.is_empty() { Ok(()) } else { bail!("nft refused: {}", said.join(" ")) }
    }

    /// Hands lines over, and returns what it said until it had done them.
    async fn ask(&mut self, lines: &str) -> anyhow::Result<Vec<String>> {
        self.lines.write_all(format!("{lines}{QUESTION}\n").as_bytes()).await.context("nft -i has ended")?;
        let mut said = Vec::new();
        loop {
            let line = self.errors.next_line().await?;
            let Some(line) = line else { bail!("nft -i ended: {}", said.join(" ")) };
            if line.trim() == QUESTION {
                break;
            }
            // what points at the last question's word
            if !line.trim().chars().all(|c| c == '^') {
                said.push(line);
            }
        }
        // the error about the question itself
        let _about_the_question = said.pop();
        Ok(said)
    }
}

fn script(wish: &Wish) -> String {
    let bits = BY_FILTER | if wish.policies { policy::nft::JUDGED_MARK } else { 0 };
    let mut text = format!(
        "add table inet {TABLE} {{ flags owner; }}; \
         add chain inet {TABLE} forward {{ type filter hook forward priority -1; policy accept; }}; \
         add counter inet {TABLE} rules_missing; flush chain inet {TABLE} forward; \
         add rule inet {TABLE} forward meta mark and {bits:#010x} == {bits:#010x} accept"
    );
    for (ip, is_v4) in [("ip", true), ("ip6", false)] {
        let ranges: Vec<_> =
            wish.ranges.iter().filter(|range| range.addr().is_ipv4() == is_v4).map(IpNet::to_string).collect();
        if ranges.is_empty() {
            continue;
        }
        for field in ["saddr", "daddr"] {
            // writing to a String cannot fail
            let _written = write!(
                text,
                "; add rule inet {TABLE} forward {ip} {field} {{ {} }} counter name rules_missing drop",
                ranges.join(", ")
            );
        }
    }
    text
}
