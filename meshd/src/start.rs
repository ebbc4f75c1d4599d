//! What keeps a daemon from starting, found before anything is changed: all of it at once, each with its remedy.

use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use crate::config::{ControllerConfig, NodeConfig};
use crate::kernel;
use crate::ready::ReadyFile;
use crate::store::{DirLock, NodeFiles, StoreError, lock_dir, open_private_dir, takes_files};

/// Looks at everything that `meshd node` cannot do without.
///
/// # Errors
/// Something is missing; the message lists all of it.
async fn check_node(config: &NodeConfig) -> anyhow::Result<()> {
    let mut problems: Vec<String> =
        kernel::missing(config.flows_per_pod).await.iter().map(ToString::to_string).collect();
    let mut note = |found: Vec<StoreError>| problems.extend(found.iter().map(ToString::to_string));
    note(NodeFiles::problems(&config.state_dir, &config.node));
    note(folder_problems(&config.run_dir, config.shared.directory.as_deref()));
    problems.extend(port_problem(config.listen_port));
    let joined = config.state_dir.join("trust.pin").exists();
    if let Some(path) = config.join_token_file.as_deref().filter(|_| !joined)
        && let Err(error) = std::fs::read_to_string(path)
    {
        problems.push(format!(
            "cannot read the join token {}: {error}; make one with `meshctl node token {}`",
            path.display(),
            config.node
        ));
    }
    refuse("this node", &problems)
}

/// Looks at the folders that `meshd controller` works in.
///
/// # Errors
/// Something is missing; the message lists all of it.
pub(crate) fn check_controller(config: &ControllerConfig) -> anyhow::Result<()> {
    let state = open_private_dir(&config.state_dir).and_then(|()| takes_files(&config.state_dir)).err();
    let folders = folder_problems(&config.run_dir, config.shared.directory.as_deref());
    let problems: Vec<String> = state.iter().chain(&folders).map(ToString::to_string).collect();
    refuse("this controller", &problems)
}

/// How often a daemon that stands by looks whether the other one has ended.
const TURN: Duration = Duration::from_millis(10);

/// Waits until this node is this daemon's, and looks at what it cannot do without. One that stands by behind another counts as
/// ready: whoever rolls the daemons may end the other one, which then is missed for as long as this one takes to begin.
///
/// # Errors
/// Something is missing, or another daemon serves this node and is not to be followed.
pub(crate) async fn await_turn(config: &NodeConfig, ready: &mut ReadyFile) -> anyhow::Result<DirLock> {
    let state = &config.state_dir;
    let mut lock = open_private_dir(state).and_then(|()| lock_dir(state));
    if matches!(lock, Err(StoreError::Locked { .. })) {
        if !config.take_over {
            return Ok(lock?);
        }
        let missing = kernel::missing(config.flows_per_pod).await;
        let mut problems: Vec<_> = missing.iter().map(ToString::to_string).collect();
        problems.extend(NodeFiles::problems(state, &config.node).iter().map(ToString::to_string));
        refuse("this node", &problems)?;
        ready.set(true)?;
        tracing::info!("Another daemon serves this node: this one takes over when that ends");
        while matches!(lock, Err(StoreError::Locked { .. })) {
            tokio::time::sleep(TURN).await;
            lock = lock_dir(state);
        }
        ready.set(false)?;
        tracing::info!("The other daemon has ended");
    }
    // all that is missing is told at once
    check_node(config).await?;
    Ok(lock?)
}

fn refuse(who: &str, problems: &[String]) -> anyhow::Result<()> {
    anyhow::ensure!(problems.is_empty(), "{who} lacks what Weft needs:\n  {}", problems.join("\n  "));
    Ok(())
}

/// The folder of the sockets is made where it is missing; that of the manifests must be there. Both must take files.
fn folder_problems(run_dir: &Path, directory: Option<&Path>) -> Vec<StoreError> {
    let made = std::fs::create_dir_all(run_dir).map_err(StoreError::io("make the directory", run_dir));
    let run = made.and_then(|()| takes_files(run_dir)).err();
    let readable = |path: &Path| std::fs::read_dir(path).map(drop).map_err(StoreError::io("list", path));
    let written = |path: &Path| {
        let ours = path.join("weft.dev");
        if ours.exists() { takes_files(&ours) } else { takes_files(path) }
    };
    let manifests = directory.and_then(|path| readable(path).and_then(|()| written(path)).err());
    run.into_iter().chain(manifests).collect()
}

/// The port is taken for a moment only: the data path opens it with options of its own.
fn port_problem(port: u16) -> Option<String> {
    let error = UdpSocket::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).err()?;
    // other refusals, such as no IPv6 here, are the data path's to judge
    (error.kind() == std::io::ErrorKind::AddrInUse)
        .then(|| format!("UDP port {port} is taken by another program: stop it, or choose another with --listen-port"))
}
