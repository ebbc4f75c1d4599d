//! `meshctl lab exec`: becomes the given command, where a pod is.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};
use linux::netns::Netns;

use super::pick::{self, Lab, LabChoice};

/// `meshctl lab exec`.
#[derive(Debug, clap::Args)]
pub(super) struct ExecArgs {
    /// A pod (name or namespace/name), node/NAME, stranger, or underlay.
    #[arg(value_name = "WHERE")]
    place: String,
    /// The command and its arguments, from the host's file system.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
    #[command(flatten)]
    lab: LabChoice,
}

/// Runs the command in place of this program.
///
/// # Errors
/// There is no such place or program.
pub(super) fn run(args: &ExecArgs) -> anyhow::Result<ExitCode> {
    pick::ensure_root()?;
    let lab = args.lab.open()?;
    let netns = Netns::open_named(&namespace(&lab, &args.place)?)?;
    let [program, rest @ ..] = args.command.as_slice() else { bail!("there is no command to run") };
    // exec of a thread ends the others: the new program is in the thread's namespace
    let error = netns.within(|| Command::new(program).args(rest).exec())?;
    Err(error).with_context(|| format!("cannot run {program}"))
}

/// The network namespace of what the user calls `place`.
///
/// # Errors
/// There is nothing of that name, or more than one.
pub(super) fn namespace(lab: &Lab, place: &str) -> anyhow::Result<String> {
    let facts = &lab.facts;
    match place {
        "stranger" => return Ok(facts.stranger.namespace.clone()),
        "underlay" => return Ok(facts.underlay.namespace.clone()),
        _ => {}
    }
    if let Some(name) = place.strip_prefix("node/") {
        let nodes = || facts.nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>().join(", ");
        let node = facts.node(name).with_context(|| format!("no node {name}; there are: {}", nodes()))?;
        return Ok(node.host.namespace.clone());
    }
    let pods = lab.live()?.pods;
    let fits = |p: &&super::live::PodStatus| place == p.name || place == format!("{}/{}", p.namespace, p.name);
    let names = |pods: &mut dyn Iterator<Item = &super::live::PodStatus>| {
        pods.map(|p| format!("{}/{}", p.namespace, p.name)).collect::<Vec<_>>().join(", ")
    };
    match pods.iter().filter(fits).collect::<Vec<_>>().as_slice() {
        [pod] if pod.netns_path.as_os_str().is_empty() => {
            bail!("pod {place} has no network yet: {}", pod.reason)
        }
        [pod] => Ok(pod.netns.clone()),
        [] => bail!("no pod {place}; there are: {}, and node/NAME, stranger, underlay", names(&mut pods.iter())),
        several => bail!("{place} could be {}: give the namespace too", names(&mut several.iter().copied())),
    }
}
