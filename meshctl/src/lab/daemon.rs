//! Keeps meshd running: the controller and a node daemon a node, started again whenever they end.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use linux::netns::Netns;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::facts::{Facts, MESH_PORT, Node};
use super::layout::Layout;
use super::live::DaemonStatus;
use super::process;
use super::stage::{Stage, journal, timestamp};
use crate::rpc;

/// Between an end and the next start: at first, and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// Who ran this long is started again without delay growing.
const RAN_WELL: Duration = Duration::from_secs(10);
/// How long an ending daemon has before it is killed.
const GRACE: Duration = Duration::from_secs(3);

/// A supervised program.
pub(super) struct Daemon {
    /// As it is now.
    pub(super) status: Arc<Mutex<DaemonStatus>>,
    orders: Sender<Order>,
    thread: JoinHandle<()>,
}

enum Order {
    Stop,
    Exited(ExitStatus),
}

/// What is run, where, and what has to be done before its first start.
struct Program {
    who: String,
    netns: String,
    log: PathBuf,
    program: PathBuf,
    args: Vec<OsString>,
    /// For a node: fetches its join token.
    before: Option<Box<dyn Fn() -> anyhow::Result<()> + Send>>,
}

/// `meshd controller` with all its flags.
pub(super) fn controller_args(facts: &Facts, layout: &Layout) -> Vec<OsString> {
    vec![
        "controller".into(),
        "--directory".into(),
        layout.directory().into(),
        "--state-dir".into(),
        layout.controller_state().into(),
        "--run-dir".into(),
        layout.controller_run().into(),
        "--trust-domain".into(),
        (&facts.config.trust_domain).into(),
        "--rotation-period".into(),
        (&facts.config.rotation_period).into(),
    ]
}

/// `meshd node` with all its flags: the one place that knows them.
pub(super) fn node_args(facts: &Facts, layout: &Layout, node: &Node) -> Vec<OsString> {
    let threads = facts.config.data_threads.map_or_else(|| "auto".to_owned(), |count| count.to_string());
    let mut args: Vec<OsString> = vec![
        "node".into(),
        "--directory".into(),
        layout.directory().into(),
        "--node".into(),
        (&node.name).into(),
        "--state-dir".into(),
        layout.node_state(&node.name).into(),
        "--run-dir".into(),
        layout.node_run(&node.name).into(),
        "--join-token-file".into(),
        layout.join_token(&node.name).into(),
        "--listen-port".into(),
        MESH_PORT.to_string().into(),
        "--underlay-link".into(),
        (&node.host.link).into(),
        "--rotation-period".into(),
        (&facts.config.rotation_period).into(),
        "--data-cipher".into(),
        if facts.config.chacha_nodes.contains(&node.name) { "chacha20-poly1305" } else { "auto" }.into(),
        "--data-threads".into(),
        threads.into(),
    ];
    if let Some(flows) = facts.config.flows_per_pod {
        args.extend(["--flows-per-pod".into(), flows.to_string().into()]);
    }
    args
}

/// Starts the controller, on the underlay.
///
/// # Errors
/// No thread can be started.
pub(super) fn controller(stage: &Stage) -> anyhow::Result<Daemon> {
    Daemon::start(Program {
        who: "controller".to_owned(),
        netns: stage.facts.underlay.namespace.clone(),
        log: stage.layout.log("controller"),
        program: stage.facts.programs.meshd.clone(),
        args: controller_args(&stage.facts, &stage.layout),
        before: None,
    })
}

/// Starts a node's daemon in the node's namespace; it gets its join token from the controller first.
///
/// # Errors
/// No thread can be started.
pub(super) fn node(stage: &Arc<Stage>, node: &Node) -> anyhow::Result<Daemon> {
    let (shared, name) = (Arc::clone(stage), node.name.clone());
    Daemon::start(Program {
        who: node.name.clone(),
        netns: node.host.namespace.clone(),
        log: stage.layout.log(&node.name),
        program: stage.facts.programs.meshd.clone(),
        args: node_args(&stage.facts, &stage.layout, node),
        before: Some(Box::new(move || fetch_token(&shared.layout, &name))),
    })
}

/// Asks the controller for a one-time join token, unless this node has one already.
fn fetch_token(layout: &Layout, node: &str) -> anyhow::Result<()> {
    let file = layout.join_token(node);
    if file.exists() {
        return Ok(());
    }
    let question = json!({ "verb": "token", "node": node });
    let result = rpc::ask(&layout.controller_socket(), &question, Duration::from_secs(5))?;
    let token = result.get("token").and_then(Value::as_str).context("the controller gave no token")?;
    super::facts::write_whole(&file, token.as_bytes())
}

impl Daemon {
    fn start(program: Program) -> anyhow::Result<Self> {
        let status = Arc::new(Mutex::new(DaemonStatus::default()));
        let (orders, receiver) = channel();
        let (shared, sender) = (Arc::clone(&status), orders.clone());
        let thread = thread::Builder::new()
            .name(program.who.clone())
            .spawn(move || program.keep_running(&shared, &sender, &receiver))
            .context("cannot start a thread")?;
        Ok(Self { status, orders, thread })
    }

    /// Tells it to end; [`Daemon::join`] waits for that.
    pub(super) fn stop(&self) {
        let _ended_already = self.orders.send(Order::Stop);
    }

    /// Waits until it has ended.
    pub(super) fn join(self) {
        let _panicked = self.thread.join();
    }

    /// As it is now.
    pub(super) fn now(&self) -> DaemonStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Program {
    fn keep_running(&self, status: &Mutex<DaemonStatus>, sender: &Sender<Order>, orders: &Receiver<Order>) {
        let update =
            |change: &dyn Fn(&mut DaemonStatus)| change(&mut status.lock().unwrap_or_else(PoisonError::into_inner));
        let mut backoff = BACKOFF.0;
        loop {
            let begin = Instant::now();
            match self.spawn(sender) {
                Err(error) => {
                    journal(&format!("{}: {error:#}", self.who));
                    update(&|s| s.last_exit = Some(format!("{error:#}")));
                }
                Ok(process) => {
                    update(&|s| {
                        s.pid = Some(process.id());
                        s.started_at = Some(timestamp());
                    });
                    let ended = wait(&process, orders);
                    update(&|s| s.pid = None);
                    let Some(how) = ended else { return };
                    journal(&format!("{} ended: {how}", self.who));
                    update(&|s| {
                        s.last_exit = Some(how.to_string());
                        s.restarts = s.restarts.saturating_add(1);
                    });
                }
            }
            if begin.elapsed() > RAN_WELL {
                backoff = BACKOFF.0;
            }
            match orders.recv_timeout(backoff) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => return,
            }
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    fn spawn(&self, sender: &Sender<Order>) -> anyhow::Result<process::Process> {
        if let Some(before) = &self.before {
            before()?;
        }
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        // our caller's settings are not theirs
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"WEFT_") && name != "WEFT_LOG" {
                command.env_remove(name);
            }
        }
        let sender = sender.clone();
        let on_exit = move |status| {
            let _nobody_waits = sender.send(Order::Exited(status));
        };
        process::spawn(&Netns::open_named(&self.netns)?, command, &self.log, on_exit)
    }
}

/// Waits for its end; `None` when it was told to end.
fn wait(process: &process::Process, orders: &Receiver<Order>) -> Option<ExitStatus> {
    match orders.recv() {
        Ok(Order::Exited(status)) => Some(status),
        Ok(Order::Stop) | Err(_) => {
            process.signal(Signal::TERM);
            if matches!(orders.recv_timeout(GRACE), Err(RecvTimeoutError::Timeout)) {
                process.signal(Signal::KILL);
                let _ended = orders.recv_timeout(GRACE);
            }
            None
        }
    }
}
