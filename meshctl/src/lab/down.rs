//! `meshctl lab down`: ends a lab, whatever state it is in, and leaves no process, namespace, link or file of it.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use linux::netns::{NAMED_DIR, Netns, NetnsKey};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal};
use serde_json::json;

use super::facts::Facts;
use super::layout::{LABS, Layout};
use super::pick::{self, LabChoice};
use super::process;
use super::record::PodRecord;
use super::stage::Stage;
use crate::{rpc, screen};

/// How long the supervisor may take to end pods and daemons in order.
const ORDERLY: Duration = Duration::from_secs(150);

/// `meshctl lab down`.
#[derive(Debug, clap::Args)]
pub(super) struct DownArgs {
    #[command(flatten)]
    lab: LabChoice,
    /// Every lab of this machine.
    #[arg(long, conflicts_with_all = ["name", "dir"])]
    all: bool,
}

/// Ends the chosen labs.
///
/// # Errors
/// Something could not be removed; the rest was.
pub(super) fn run(args: &DownArgs) -> anyhow::Result<()> {
    pick::ensure_root()?;
    let labs =
        if args.all { pick::all().iter().map(|n| LabChoice::named(n)).collect() } else { vec![args.lab.clone()] };
    let mut failures = Vec::new();
    for lab in &labs {
        match down(lab) {
            Ok(true) => screen::note(&format!("lab {} is down", lab.name())),
            Ok(false) => screen::note(&format!("no lab {} to take down", lab.name())),
            Err(error) => failures.push(format!("{}: {error:#}", lab.name())),
        }
    }
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("; ")) }
}

/// Ends a lab; whether there was one.
///
/// # Errors
/// As [`run`].
pub(super) fn down(choice: &LabChoice) -> anyhow::Result<bool> {
    let layout = choice.layout()?;
    if !layout.root().exists() {
        // its files were removed by hand: what bears its name is still its own
        let orphans = orphans(&choice.name());
        remove_namespaces(&orphans)?;
        return Ok(!orphans.is_empty());
    }
    let held = pick::hold(&layout)?;
    let facts = Facts::read(&layout).ok();
    let mut failures = Vec::new();
    let mut step = |outcome: anyhow::Result<()>| failures.extend(outcome.err().map(|e| format!("{e:#}")));
    step(stop_supervisor(&layout));
    let records = PodRecord::all(&layout);
    if let Some(facts) = &facts {
        step(del_pods(facts, &layout, &records));
    }
    let name = facts.as_ref().map_or_else(|| choice.name(), |f| f.name.clone());
    let mut namespaces: Vec<String> = records.into_iter().map(|r| r.netns).collect();
    namespaces.extend(facts.iter().flat_map(Facts::namespaces).map(str::to_owned));
    namespaces.extend(orphans(&name));
    step(remove_namespaces(&namespaces));
    if !failures.is_empty() {
        bail!("{}; what is left is described in {}", failures.join("; "), layout.root().display());
    }
    match fs::remove_dir_all(layout.root()) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("cannot remove {}", layout.root().display()));
        }
        _ => {}
    }
    drop(held);
    if choice.dir.is_none() {
        // the last lab removes the folder of labs; it is not empty otherwise
        let _others_there = fs::remove_dir(LABS);
    }
    Ok(true)
}

/// Asks the supervisor to end everything in order; kills it when it does not.
fn stop_supervisor(layout: &Layout) -> anyhow::Result<()> {
    let Some(pid) = supervisor(layout)? else { return Ok(()) };
    let asked = rpc::ask(&layout.supervisor_socket(), &json!({ "verb": "stop" }), ORDERLY);
    let deadline = Instant::now() + Duration::from_secs(if asked.is_ok() { 10 } else { 0 });
    while supervisor(layout)?.is_some() {
        if Instant::now() > deadline {
            let _ended_meanwhile = rustix::process::kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(5));
        if Instant::now() > deadline + Duration::from_secs(5) {
            bail!("the supervisor, process {}, does not die", pid.as_raw_nonzero());
        }
    }
    Ok(())
}

/// The supervisor's process id, while it holds its lock.
fn supervisor(layout: &Layout) -> anyhow::Result<Option<Pid>> {
    let path = layout.supervisor_lock();
    let file = match fs::File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("cannot open {}", path.display())),
    };
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.trim().parse().ok().and_then(Pid::from_raw))
}

/// DEL for pods that the supervisor left behind, while their node's namespace is still there.
fn del_pods(facts: &Facts, layout: &Layout, records: &[PodRecord]) -> anyhow::Result<()> {
    if records.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = records.iter().map(|r| r.netns.clone()).collect();
    process::kill_within(&keys(&names)?, Duration::from_secs(5))?;
    let Ok(stage) = Stage::new(facts.clone(), layout.clone()) else {
        // nodes are half-made: what DEL would undo goes with their namespaces
        return Ok(());
    };
    for record in records {
        if let Err(error) = stage.with_plugins(&record.node, |plugins| plugins.del(&record.sandbox)) {
            screen::note(&format!("DEL for {}: {error:#}", record.netns));
        }
    }
    Ok(())
}

/// Ends whoever is in these namespaces, then takes their names away.
fn remove_namespaces(names: &[String]) -> anyhow::Result<()> {
    process::kill_within(&keys(names)?, Duration::from_secs(10))?;
    for name in names {
        Netns::delete_named(name)?;
    }
    Ok(())
}

/// What tells these namespaces from others; never our own, whatever bears the name.
fn keys(names: &[String]) -> anyhow::Result<Vec<NetnsKey>> {
    let own = Netns::current()?.key();
    Ok(names.iter().filter_map(|n| Netns::open_named(n).ok()).map(|n| n.key()).filter(|k| *k != own).collect())
}

/// Namespaces that bear the lab's name but are in none of the other labs' records.
fn orphans(lab: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(NAMED_DIR) else { return Vec::new() };
    let others: Vec<String> =
        pick::all().into_iter().filter(|n| n != lab && n.starts_with(&format!("{lab}-"))).collect();
    let is_orphan = |name: &String| {
        let Some(rest) = name.strip_prefix(&format!("{lab}-")) else { return false };
        let is_node = rest.strip_prefix('n').is_some_and(|n| n.parse::<u8>().is_ok());
        let is_ours = rest == "underlay" || rest == "stranger" || is_node || rest.starts_with("p-");
        is_ours && !others.iter().any(|o| name.starts_with(&format!("{o}-")))
    };
    let name = |e: std::io::Result<fs::DirEntry>| e.ok()?.file_name().into_string().ok();
    entries.filter_map(name).filter(is_orphan).collect()
}

/// The folder of a lab that is to be made.
pub(super) fn make_folder(layout: &Layout) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let make = |path: PathBuf| {
        fs::DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(&path)
            .with_context(|| format!("cannot make {}", path.display()))
    };
    let shown = layout.root().display();
    make(layout.root().parent().map(PathBuf::from).unwrap_or_default())?;
    match fs::DirBuilder::new().mode(0o700).create(layout.root()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => bail!("{shown} is there already"),
        Err(e) => Err(e).with_context(|| format!("cannot make {shown}")),
    }
}
