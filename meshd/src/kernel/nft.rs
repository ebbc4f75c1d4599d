//! Running `nft`: one script is one transaction, by an interpreter that stays or by a process of its own.

use std::fmt::Write as _;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::interpreter::Interpreter;

/// How long one transaction may take: 100k elements load in under a second (measured), so this is a hang.
const PATIENCE: Duration = Duration::from_secs(20);

/// A longer script, in bytes, goes to a process: an interpreter keeps the memory that its longest one took (decision 0026).
const SCRIPT_MAX: usize = 128 << 10;
/// After so many transactions an interpreter gives way to a new one, since it remembers what it was told, some fifty bytes each.
const MADE_MAX: usize = 4096;

/// Where transactions are made, one after another.
#[derive(Default)]
pub(super) struct Transactions(Option<Interpreter>);

impl Transactions {
    /// Applies a script as one transaction: all of it or nothing.
    ///
    /// # Errors
    /// nft refuses, and nothing has changed; or it does not answer, and whether something has is not known.
    pub(super) async fn apply(&mut self, script: &str) -> anyhow::Result<()> {
        if script.len() > SCRIPT_MAX {
            return apply(script).await;
        }
        let done = tokio::time::timeout(PATIENCE, self.apply_here(script)).await;
        if done.is_err() {
            self.0 = None;
        }
        done.context("nft -i did not answer")?
    }

    async fn apply_here(&mut self, script: &str) -> anyhow::Result<()> {
        let kept = self.0.take_if(|kept| kept.made() < MADE_MAX && kept.is_ready());
        let interpreter = match kept {
            Some(kept) => kept,
            None => match Interpreter::start().await {
                Ok(started) => started,
                // nft without `-i`, or one that cannot read what is ours: it has changed nothing
                Err(_) => return apply(script).await,
            },
        };
        self.0.insert(interpreter).apply(script).await
    }
}

/// Applies a script by a process of its own.
pub(super) async fn apply(script: &str) -> anyhow::Result<()> {
    run(&["-f", "-"], script).await.map(drop)
}

/// Runs `nft` with these arguments and this input, returns what it prints.
pub(super) async fn run(arguments: &[&str], input: &str) -> anyhow::Result<String> {
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot run nft: install the package nftables")?;
    let mut stdin = child.stdin.take().context("nft has no standard input")?;
    let work = async {
        // a script that nft refuses early may leave the pipe closed: its message says more than ours
        let _refused = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(PATIENCE, work).await.context("nft did not answer")??;
    if !output.status.success() {
        bail!("nft refused: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Appends a line to a script.
pub(super) fn line(script: &mut String, text: std::fmt::Arguments<'_>) {
    // writing to a String cannot fail
    let _written = script.write_fmt(text);
    script.push('\n');
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use linux::netns::Netns;

    use super::*;

    /// In a namespace that has no rules.
    fn within<T: Send + Debug>(work: impl AsyncFnOnce() -> T + Send) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Netns::create().unwrap().within(|| runtime.block_on(work())).unwrap()
    }

    const TABLE: &str = "add table inet t\nadd set inet t s { type ipv4_addr; }\n";

    async fn held() -> usize {
        run(&["list", "set", "inet", "t", "s"], "").await.unwrap().matches("10.0.").count()
    }

    /// As many elements as fit into so many bytes.
    fn elements(bytes: usize) -> (String, usize) {
        let (before, after) = ("add element inet t s { ", " }\n");
        let mut all = Vec::new();
        let mut length = before.len() + after.len();
        for number in 0_u16.. {
            let [a, b] = number.to_be_bytes();
            let element = format!("10.0.{a}.{b}");
            length += element.len() + 2;
            if length > bytes {
                break;
            }
            all.push(element);
        }
        (format!("{before}{}{after}", all.join(", ")), all.len())
    }

    #[test]
    fn a_script_of_any_length_arrives_whole() {
        for bytes in [100, SCRIPT_MAX, SCRIPT_MAX + 100] {
            let (script, count) = elements(bytes);
            assert!(script.len() <= bytes && script.len() + 20 > bytes);
            let held = within(async || {
                let mut transactions = Transactions::default();
                transactions.apply(TABLE).await.unwrap();
                transactions.apply(&script).await.unwrap();
                held().await
            });
            assert_eq!(held, count, "of {bytes} bytes");
        }
    }

    #[test]
    fn a_refused_transaction_changes_nothing_and_the_next_one_is_made_by_the_same() {
        within(async || {
            let mut transactions = Transactions::default();
            transactions.apply(TABLE).await.unwrap();
            let first = transactions.0.as_ref().unwrap().id();
            let half = "add element inet t s { 10.0.0.1 }\nadd rule inet nowhere nobody drop\n";
            let said = transactions.apply(half).await.unwrap_err().to_string();
            assert!(said.starts_with("nft refused: Error: ") && said.contains("`add rule inet nowhere"), "{said}");
            let said = transactions.apply("add tabel inet x\n").await.unwrap_err().to_string();
            assert!(said.contains("syntax error"), "{said}");
            assert_eq!(held().await, 0);
            // somebody else's changes in between are seen
            apply("delete set inet t s\nadd set inet t s { type ipv4_addr; }\n").await.unwrap();
            transactions.apply("add element inet t s { 10.0.0.1 }\n").await.unwrap();
            assert_eq!((held().await, transactions.0.as_ref().unwrap().id()), (1, first));
        });
    }

    #[test]
    fn one_that_has_ended_or_has_made_many_is_replaced() {
        within(async || {
            let mut transactions = Transactions::default();
            transactions.apply(TABLE).await.unwrap();
            let mut last = transactions.0.as_ref().unwrap().id();
            transactions.0.as_mut().unwrap().end().await;
            transactions.apply("add element inet t s { 10.0.0.1 }\n").await.unwrap();
            assert_ne!(transactions.0.as_ref().unwrap().id(), last, "the one that has ended");
            last = transactions.0.as_ref().unwrap().id();
            let mut made = 1;
            while transactions.0.as_ref().unwrap().id() == last && made < 2 * MADE_MAX {
                transactions.apply("add element inet t s { 10.0.0.1 }\n").await.unwrap();
                made += 1;
            }
            assert_eq!(made, MADE_MAX, "its first, an empty one, is among them");
        });
    }
}
