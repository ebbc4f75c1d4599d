//! `meshctl lab logs`: what the lab's programs and pods print.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::pick::{Lab, LabChoice};
use crate::screen;

/// How much of a log's end is shown when something went wrong, in lines.
const TAIL_LINES: usize = 8;

/// `meshctl lab logs`.
#[derive(Debug, clap::Args)]
pub(super) struct LogsArgs {
    /// supervisor, controller, a node (n1) or a pod (name or namespace/name); everybody where absent.
    #[arg(value_name = "WHO")]
    who: Option<String>,
    /// Go on as more is printed.
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    lab: LabChoice,
}

/// Shows logs.
///
/// # Errors
/// There is no such log.
pub(super) fn run(args: &LogsArgs) -> anyhow::Result<()> {
    let lab = args.lab.open()?;
    let mut seen: BTreeMap<PathBuf, u64> = BTreeMap::new();
    loop {
        let logs = find(&lab, args.who.as_deref())?;
        let alone = args.who.is_some() && logs.len() == 1;
        for (who, path) in logs {
            let from = seen.get(&path).copied().unwrap_or(0);
            let prefix = if alone { String::new() } else { format!("[{who}] ") };
            let to = show(&path, &prefix, from)?;
            seen.insert(path, to);
        }
        if !args.follow || !lab.layout.root().exists() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The logs meant, by whom they are of.
fn find(lab: &Lab, who: Option<&str>) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let folder = lab.layout.logs();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry.context("cannot read the folder of logs")?.path();
        let Some(stem) = path.file_stem().and_then(|s| s.to_str()) else { continue };
        let label = match stem.strip_prefix("pod.").and_then(|s| s.split_once('.')) {
            Some((namespace, name)) => format!("{namespace}/{name}"),
            None => stem.to_owned(),
        };
        found.push((label, path));
    }
    found.sort();
    let Some(who) = who else { return Ok(found) };
    let who = who.strip_prefix("node/").unwrap_or(who);
    let is_meant = |label: &str| label == who || label.split_once('/').is_some_and(|(_, name)| name == who);
    let labels = found.iter().map(|(l, _)| l.as_str()).collect::<Vec<_>>().join(", ");
    let meant: Vec<_> = found.iter().filter(|(l, _)| is_meant(l)).cloned().collect();
    if meant.is_empty() {
        bail!("no log of {who}; there are: {labels}");
    }
    Ok(meant)
}

/// Shows a log from a place on, whole lines; the place after them.
fn show(path: &Path, prefix: &str, from: u64) -> anyhow::Result<u64> {
    let shown = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(shown)?;
    file.seek(SeekFrom::Start(from)).with_context(shown)?;
    let mut reader = BufReader::new(file);
    let mut at = from;
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).with_context(shown)?;
        if read == 0 {
            return Ok(at);
        }
        at += u64::try_from(read).unwrap_or(0);
        screen::out(&format!("{prefix}{}", String::from_utf8_lossy(&line).trim_end_matches('\n')))?;
    }
}

/// Shows the end of every log, for somebody who wonders why a lab did not get up.
pub(super) fn tails(lab: &Lab) {
    for (who, path) in find(lab, None).unwrap_or_default() {
        let text = std::fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        for line in lines.iter().skip(lines.len().saturating_sub(TAIL_LINES)) {
            screen::note(&format!("  [{who}] {line}"));
        }
    }
}
