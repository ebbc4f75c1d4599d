//! `meshctl lab up`: builds a lab, starts its supervisor and waits until every pod runs; or leaves nothing.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::json;

use super::cni_runtime;
use super::config::LabConfig;
use super::facts::{Facts, Node, write_whole};
use super::layout::Layout;
use super::pick::{self, Lab, LabChoice};
use super::programs::{self, ProgramArgs};
use super::ready::{self, Progress};
use super::{apply, down, logs, status, topology};
use crate::interrupt;
use crate::screen::{self, Format};

/// `meshctl lab up`.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct UpArgs {
    /// What the lab is like; three nodes and four pods where absent.
    #[arg(short, long, value_name = "lab.yaml")]
    pub(super) file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) lab: LabChoice,
    #[command(flatten)]
    pub(super) programs: ProgramArgs,
    /// Without meshd and mesh-cni: only the primary plugin, for comparison.
    #[arg(long)]
    pub(super) no_mesh: bool,
    /// How many seconds the pods may take.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub(super) timeout: u64,
    /// Keep what was built when it does not get ready, to look at it.
    #[arg(long)]
    pub(super) keep: bool,
    /// `json` prints what `lab status -o json` prints, once the lab is up.
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Format,
}

/// Builds the lab; on one that is up already it only waits.
///
/// # Errors
/// It cannot be built or does not get ready; nothing of it stays then, unless asked to keep it.
pub(super) fn run(args: &UpArgs) -> anyhow::Result<()> {
    interrupt::defer()?;
    let lab = up(args)?;
    match args.output {
        Format::Json => screen::out_json(&status::json(&lab)?),
        Format::Text => {
            let name = if lab.facts.name == pick::DEFAULT_NAME {
                String::new()
            } else {
                format!(" --name {}", lab.facts.name)
            };
            screen::out(&format!(
                "Look: meshctl lab status{name}   Try: meshctl lab exec{name} POD -- CMD   End: meshctl lab down{name}"
            ))
        }
    }
}

/// As [`run`], without a word on stdout.
///
/// # Errors
/// As [`run`].
pub(super) fn up(args: &UpArgs) -> anyhow::Result<Lab> {
    pick::ensure_root()?;
    let begin = Instant::now();
    let config = LabConfig::read(args.file.as_deref())?;
    let layout = args.lab.layout()?;
    let programs = programs::find(&args.programs, config.primary, !args.no_mesh)?;
    let facts = Facts::plan(&args.lab.name(), config, !args.no_mesh, programs);
    if layout.root().exists() {
        return join(&args.lab, &facts, Duration::from_secs(args.timeout));
    }
    refuse_taken_names(&facts)?;
    down::make_folder(&layout)?;
    let held = pick::hold(&layout)?;
    let lab = Lab { facts, layout };
    let mut progress = Progress::new(begin);
    let built =
        build(&lab, &mut progress).and_then(|()| ready::wait(&lab, &mut progress, Duration::from_secs(args.timeout)));
    drop(held);
    match built {
        Ok(()) => {
            progress.done(&lab);
            Ok(lab)
        }
        Err(error) => {
            logs::tails(&lab);
            if args.keep {
                screen::note(&format!("kept: {} (meshctl lab down removes it)", lab.layout.root().display()));
            } else if let Err(left) = down::down(&args.lab) {
                screen::note(&format!("taking down what was built: {left:#}"));
            }
            Err(error.context(format!("lab {} did not get up", lab.facts.name)))
        }
    }
}

/// A lab is there already: the same one is waited for, another one is an error.
fn join(choice: &LabChoice, wanted: &Facts, patience: Duration) -> anyhow::Result<Lab> {
    // whoever builds it right now holds the folder until it is ready
    let _held = pick::hold(&choice.layout()?)?;
    let down = format!("meshctl lab down --name {}", wanted.name);
    let lab = choice.open().with_context(|| format!("a lab is half-made; {down}, then up again"))?;
    ensure!(
        lab.facts.config == wanted.config && lab.facts.mesh == wanted.mesh && lab.facts.name == wanted.name,
        "lab {} is up with other settings (see {}); {down} first, or choose another --name",
        lab.facts.name,
        lab.layout.facts().display()
    );
    lab.live()?;
    let mut progress = Progress::new(Instant::now());
    progress.step("the lab is up already");
    ready::wait(&lab, &mut progress, patience)?;
    Ok(lab)
}

/// Everything up to the running supervisor.
fn build(lab: &Lab, progress: &mut Progress) -> anyhow::Result<()> {
    let (facts, layout) = (&lab.facts, &lab.layout);
    facts.write(layout)?;
    topology::build(facts)?;
    progress.step(&format!(
        "{} nodes, a stranger and the wire between them ({})",
        facts.nodes.len(),
        facts.underlay.addresses.iter().map(|a| a.trunc().to_string()).collect::<Vec<_>>().join(", ")
    ));
    make_folders(facts, layout)?;
    for node in &facts.nodes {
        cni_runtime::write_conflist(facts, layout, node)?;
    }
    write_whole(&layout.directory().join("lab-nodes.yaml"), nodes_manifest(&facts.nodes).to_string().as_bytes())?;
    match &facts.config.manifests {
        None => apply::apply_text(layout, DEFAULT_PODS, "the lab's own pods")?,
        Some(manifests) => apply::apply_files(layout, manifests)?,
    };
    start_supervisor(lab)
}

/// The namespaces of a lab whose files were removed by hand are not ours to take over.
fn refuse_taken_names(facts: &Facts) -> anyhow::Result<()> {
    let taken = |name: &&str| std::path::Path::new(linux::netns::NAMED_DIR).join(name).exists();
    match facts.namespaces().find(taken) {
        None => Ok(()),
        Some(name) => bail!(
            "the network namespace {name} is there already: if a lab left it, meshctl lab down --name {} removes it; \
             otherwise choose another --name",
            facts.name
        ),
    }
}

fn make_folders(facts: &Facts, layout: &Layout) -> anyhow::Result<()> {
    let mut folders = vec![
        layout.pods(),
        layout.logs(),
        layout.applied(),
        layout.pod_overlays(),
        layout.controller_run(),
        layout.controller_state(),
    ];
    for node in &facts.nodes {
        folders.extend([layout.node_run(&node.name), layout.node_state(&node.name)]);
    }
    for folder in folders {
        use std::os::unix::fs::DirBuilderExt as _;
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.with_context(|| format!("cannot make {}", folder.display()))?;
    }
    Ok(())
}

/// The nodes as the cluster describes them.
fn nodes_manifest(nodes: &[Node]) -> serde_json::Value {
    let node = |node: &Node| {
        let address = |a: &ipnet::IpNet| json!({ "type": "InternalIP", "address": a.addr() });
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": node.name },
            "spec": { "podCIDR": node.pod_cidrs.first(), "podCIDRs": node.pod_cidrs },
            "status": { "addresses": node.host.addresses.iter().map(address).collect::<Vec<_>>() },
        })
    };
    json!({ "apiVersion": "v1", "kind": "List", "items": nodes.iter().map(node).collect::<Vec<_>>() })
}

fn start_supervisor(lab: &Lab) -> anyhow::Result<()> {
    let log = lab.layout.log("supervisor");
    let file = fs::File::options().create(true).append(true).open(&log);
    let file = file.with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new(&lab.facts.programs.meshctl);
    command.args(["lab", "supervise", "--dir"]).arg(lab.layout.root());
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    command.spawn().context("cannot start the supervisor")?;
    Ok(())
}

/// Without lab.yaml: two pods in the mesh on different nodes, two that are not.
const DEFAULT_PODS: &str = "\
apiVersion: v1
kind: Namespace
metadata:
  name: demo
  labels: {weft.dev/mesh: enabled}
---
apiVersion: v1
kind: Namespace
metadata:
  name: plain
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: client, namespace: demo}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: server, namespace: demo}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: demo, labels: {app: client}}
spec:
  serviceAccountName: client
  containers: [{name: echo, ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: demo, labels: {app: server}}
spec:
  serviceAccountName: server
  containers: [{name: echo, ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: plain, labels: {app: client}}
spec:
  containers: [{name: echo, ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: plain, labels: {app: server}}
spec:
  containers: [{name: echo, ports: [{containerPort: 8080}]}]
";
