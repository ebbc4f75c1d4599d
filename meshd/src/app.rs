//! The only wiring: builds shells and channels, starts and stops them in order.

use std::future::Future;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;

use crate::clock::wall;
use crate::cluster::Cluster;
use crate::config::{CleanConfig, ControllerConfig, NodeConfig, SharedConfig, UninstallConfig};
use crate::controller::ca::EmbeddedCa;
use crate::controller::{Controller, Parts};
use crate::kernel::Kernel;
use crate::line_socket::LineSocket;
use crate::log::Log;
use crate::node::{Inputs, Node};
use crate::ready::ReadyFile;
use crate::store::lock_dir;

/// Questions that wait for the loop; more wait in their sockets.
const QUESTIONS_MAX: usize = 256;
/// Longest question of meshctl.
const ADMIN_LINE_MAX: u64 = 64 << 10;

/// Runs the node daemon until it is told to stop.
pub(crate) fn run_node(config: NodeConfig) -> anyhow::Result<()> {
    let log = start_log(&config.shared)?;
    let outcome = runtime()?.block_on(node_until_stopped(config));
    log.flush();
    outcome
}

async fn node_until_stopped(config: NodeConfig) -> anyhow::Result<()> {
    tracing::info!(?config, "Starting meshd node");
    let stop = stop_signal()?;
    tokio::pin!(stop);
    let mut ready = ReadyFile::new(config.ready_file.clone())?;
    // held until everything else of this daemon is gone: then the next one may begin
    let lock = tokio::select! {
        lock = crate::start::await_turn(&config, &mut ready) => lock?,
        () = &mut stop => return Ok(()),
    };
    let (run_dir, cluster) = (config.run_dir.clone(), Cluster::open(&config.shared).await?);
    let metrics_address = config.shared.metrics_address;
    let (mut node, data) = Node::open(config, &cluster, &lock, ready).await?;
    let (cni_asked, cni) = mpsc::channel(QUESTIONS_MAX);
    let (admin_asked, admin) = mpsc::channel(QUESTIONS_MAX);
    let line_max = u64::try_from(::cni::wire::LINE_LENGTH_MAX).unwrap_or(u64::MAX);
    let source = cluster.watch(Some(node.view_file()))?;
    let refusal = crate::node::stopping().encode()?;
    let cni_socket = LineSocket::bind(&run_dir.join("cni.sock"), line_max, cni_asked, trimmed(refusal))?;
    if let Some(address) = metrics_address {
        crate::http::serve_metrics(address, admin_asked.clone()).await?;
    }
    let admin_socket = LineSocket::bind(&run_dir.join("admin.sock"), ADMIN_LINE_MAX, admin_asked, stopping())?;
    let outcome = node.run(Inputs { source, cni, admin, data }, stop).await;
    tracing::info!("Stopping: workloads stay attached and protected");
    // whoever waits for an answer of the node gets the sockets' own
    drop(node);
    cni_socket.finish().await;
    admin_socket.finish().await;
    outcome
}

/// Runs the controller until it is told to stop.
pub(crate) fn run_controller(config: ControllerConfig) -> anyhow::Result<()> {
    let log = start_log(&config.shared)?;
    let outcome = runtime()?.block_on(controller_until_stopped(config));
    log.flush();
    outcome
}

async fn controller_until_stopped(config: ControllerConfig) -> anyhow::Result<()> {
    tracing::info!(?config, "Starting meshd controller");
    let stop = stop_signal()?;
    tokio::pin!(stop);
    crate::start::check_controller(&config)?;
    let lock = lock_dir(&config.state_dir)?;
    let cluster = Cluster::open(&config.shared).await?;
    let lead = tokio::select! {
        lead = cluster.lead(&config.shared.root_namespace, &config.state_dir) => lead?,
        () = &mut stop => return Ok(()),
    };
    let issuer = Box::new(EmbeddedCa::open(&config.state_dir, &config.trust_domain, wall())?);
    // what signs must outlive this life before anybody trusts it
    lead.keep().await?;
    let source = cluster.watch(None)?;
    let mut controller = Controller::open(Parts {
        issuer,
        publisher: cluster.publisher("weft-controller"),
        attested: cluster.attests_nodes(),
        state_dir: config.state_dir.clone(),
        lock,
        root_namespace: config.shared.root_namespace.clone(),
        period: config.shared.rotation_period,
    })?;
    let (admin_asked, admin) = mpsc::channel(QUESTIONS_MAX);
    if let Some(address) = config.shared.metrics_address {
        crate::http::serve_metrics(address, admin_asked.clone()).await?;
    }
    let socket = config.run_dir.join("controller.sock");
    let _admin = LineSocket::bind(&socket, ADMIN_LINE_MAX, admin_asked, stopping())?;
    let outcome = controller.run(source, admin, &lead, stop).await;
    // nothing of ours is written from here on
    drop(controller);
    lead.release().await;
    outcome
}

/// What a stopping daemon answers meshctl.
fn stopping() -> Vec<u8> {
    serde_json::json!({"ok": false, "error": "this daemon is stopping: ask again once it runs"})
        .to_string()
        .into_bytes()
}

fn trimmed(mut line: Vec<u8>) -> Vec<u8> {
    line.truncate(line.trim_ascii_end().len());
    line
}

/// Takes all kernel state of ours away.
pub(crate) fn run_clean(config: &CleanConfig) -> anyhow::Result<()> {
    runtime()?.block_on(async { Kernel::open(&config.tun, 0)?.remove_everything().await })
}

/// How often an uninstalled node is looked at for sandboxes that still need the plugin.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_secs(2);

/// Takes everything of ours away from the node.
pub(crate) fn run_uninstall(config: &UninstallConfig) -> anyhow::Result<()> {
    runtime()?.block_on(async {
        let stop = stop_signal()?;
        tokio::pin!(stop);
        let places = config.install.places(&config.state_dir, &config.run_dir);
        let mut left = places.as_ref().map(|p| p.remove(&config.install.cni_cache)).transpose()?.unwrap_or_default();
        for why in &left {
            eprint_line(&format!("mesh-cni stays in its folder for a sandbox that was made with it: {why}"));
        }
        Kernel::open(&config.tun, 0)?.remove_everything().await?;
        crate::kernel::put_back_sysctls(&config.state_dir.join(crate::node::SYSCTLS))?;
        for dir in [&config.state_dir, &config.run_dir] {
            empty(dir).with_context(|| format!("cannot empty {}", dir.display()))?;
        }
        eprint_line("Weft is gone from this node");
        if !config.stay {
            return Ok(());
        }
        loop {
            tokio::select! {
                () = &mut stop => return Ok(()),
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
            if let (false, Some(places)) = (left.is_empty(), &places) {
                left = places.remove(&config.install.cni_cache)?;
            }
        }
    })
}

/// Removes what a folder holds, and the folder where it is no mount.
fn empty(dir: &std::path::Path) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    // a mount point stays
    let _mounted = std::fs::remove_dir(dir);
    Ok(())
}

fn eprint_line(line: &str) {
    use std::io::Write as _;
    // nobody may listen
    let _unheard = writeln!(std::io::stderr(), "meshd: {line}");
}

/// Prints the CustomResourceDefinitions of our kinds.
pub(crate) fn run_crds() -> anyhow::Result<()> {
    use std::io::Write as _;
    std::io::stdout().write_all(crate::cluster::crd::manifest()?.as_bytes()).context("cannot write to stdout")
}

/// Control is one thread (decision 0005).
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

fn start_log(config: &SharedConfig) -> anyhow::Result<Log> {
    // each failed connection is an error there; the watches say it once, and what follows from it
    let filter = EnvFilter::try_new(format!("kube_client::client::builder=off,{}", config.log))
        .with_context(|| format!("--log `{}` is no filter: a level, or target=level,…", config.log))?;
    let sink = Log::open(std::io::stderr()).context("cannot start the log's thread")?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(sink.clone());
    if config.log_json {
        log.json().init()
    } else {
        log.with_ansi(false).init()
    }
    Ok(sink)
}

fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
