//! The only wiring: builds shells and channels, starts and stops them in order.

use std::future::Future;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;

use crate::cluster::Cluster;
use crate::config::{CleanConfig, ControllerConfig, NodeConfig, SharedConfig};
use crate::controller::ca::EmbeddedCa;
use crate::controller::{Controller, Parts};
use crate::kernel::Kernel;
use crate::line_socket::LineSocket;
use crate::node::{Inputs, Node, wall};
use crate::store::{lock_dir, open_private_dir};

/// Questions that wait for the loop; more wait in their sockets.
const QUESTIONS_MAX: usize = 256;
/// Longest question of meshctl.
const ADMIN_LINE_MAX: u64 = 64 << 10;

/// Runs the node daemon until it is told to stop.
pub(crate) fn run_node(config: NodeConfig) -> anyhow::Result<()> {
    start_log(&config.shared)?;
    runtime()?.block_on(async {
        tracing::info!(?config, "Starting meshd node");
        let stop = stop_signal()?;
        let (run_dir, cluster) = (config.run_dir.clone(), Cluster::open(&config.shared).await?);
        let (mut node, data) = Node::open(config, &cluster).await?;
        let (cni_asked, cni) = mpsc::channel(QUESTIONS_MAX);
        let (admin_asked, admin) = mpsc::channel(QUESTIONS_MAX);
        let line_max = u64::try_from(::cni::wire::LINE_LENGTH_MAX).unwrap_or(u64::MAX);
        let source = cluster.watch()?;
        let refusal = crate::node::stopping().encode()?;
        let cni_socket = LineSocket::bind(&run_dir.join("cni.sock"), line_max, cni_asked, trimmed(refusal))?;
        let admin_socket = LineSocket::bind(&run_dir.join("admin.sock"), ADMIN_LINE_MAX, admin_asked, stopping())?;
        let outcome = node.run(Inputs { source, cni, admin, data }, stop).await;
        tracing::info!("Stopping: workloads stay attached and protected");
        // whoever waits for an answer of the node gets the sockets' own
        drop(node);
        cni_socket.finish().await;
        admin_socket.finish().await;
        outcome
    })
}

/// Runs the controller until it is told to stop.
pub(crate) fn run_controller(config: ControllerConfig) -> anyhow::Result<()> {
    start_log(&config.shared)?;
    runtime()?.block_on(async {
        tracing::info!(?config, "Starting meshd controller");
        let stop = stop_signal()?;
        open_private_dir(&config.state_dir)?;
        let lock = lock_dir(&config.state_dir)?;
        let issuer = Box::new(EmbeddedCa::open(&config.state_dir, &config.trust_domain, wall())?);
        let cluster = Cluster::open(&config.shared).await?;
        let source = cluster.watch()?;
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
        let socket = config.run_dir.join("controller.sock");
        let _admin = LineSocket::bind(&socket, ADMIN_LINE_MAX, admin_asked, stopping())?;
        controller.run(source, admin, stop).await
    })
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
    runtime()?.block_on(async { Kernel::open(&config.tun)?.remove_everything().await })
}

/// Control is one thread (decision 0005).
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

fn start_log(config: &SharedConfig) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log)
        .with_context(|| format!("--log `{}` is no filter: a level, or target=level,…", config.log))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if config.log_json {
        log.json().init()
    } else {
        log.with_ansi(false).init()
    }
    Ok(())
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
