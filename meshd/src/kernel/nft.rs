//! Running `nft`: one script is one transaction.

use std::fmt::Write as _;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// How long one transaction may take: 100k elements load in under a second (measured), so this is a hang.
const PATIENCE: Duration = Duration::from_secs(20);

/// Applies a script as one transaction: all of it or nothing.
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
