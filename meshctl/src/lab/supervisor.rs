//! Runs a lab: starts meshd, watches the directory, plays scheduler and kubelet, answers `meshctl lab`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use rustix::fs::FlockOperation;
use serde_json::{Value, json};

use super::daemon::{self, Daemon};
use super::facts::Facts;
use super::layout::Layout;
use super::live::{LiveState, PodStatus};
use super::pod::{Order, PodWorker};
use super::pod_spec::{PodKey, PodSpec};
use super::stage::{Stage, journal, random_uuid};
use super::watch::Watch;
use crate::rpc;

/// Between two looks at the directory.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What wakes the supervisor.
enum Event {
    /// Somebody asks.
    Asked(UnixStream),
    /// A pod's thread has taken everything away.
    PodGone(PodKey),
}

/// A pod that has a thread.
struct RunningPod {
    spec: PodSpec,
    status: Arc<Mutex<PodStatus>>,
    orders: Sender<Order>,
    is_stopping: bool,
}

struct Supervisor {
    stage: Arc<Stage>,
    watch: Watch,
    controller: Option<Daemon>,
    daemons: BTreeMap<String, Daemon>,
    pods: BTreeMap<PodKey, RunningPod>,
    wanted: BTreeMap<PodKey, PodSpec>,
    refusals: Vec<String>,
    sender: Sender<Event>,
}

/// Supervises the lab in `dir` until told to stop.
///
/// # Errors
/// The lab is not built, or has a supervisor already.
pub(super) fn run(dir: &Path) -> anyhow::Result<()> {
    // out of our caller's session: its terminal's signals are not ours
    let _leader_already = rustix::process::setsid();
    let layout = Layout::new(dir);
    let lock = layout.supervisor_lock();
    let mut lock =
        File::options().create(true).truncate(false).write(true).open(&lock).context("cannot open the lock")?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).context("this lab has a supervisor already")?;
    lock.set_len(0).context("cannot write the lock")?;
    write!(lock, "{}", std::process::id()).context("cannot write the lock")?;

    let facts = Facts::read(&layout)?;
    let stage = Arc::new(Stage::new(facts, layout)?);
    let (sender, events) = channel();
    answer_on(&stage.layout.supervisor_socket(), sender.clone())?;
    let mut supervisor = Supervisor {
        watch: Watch::new(stage.layout.directory()),
        stage,
        controller: None,
        daemons: BTreeMap::new(),
        pods: BTreeMap::new(),
        wanted: BTreeMap::new(),
        refusals: Vec::new(),
        sender,
    };
    supervisor.start_daemons()?;
    journal("the lab is supervised");
    let asker = supervisor.serve(&events);
    supervisor.stop(&events);
    if let Some(asker) = asker {
        let _went_away = rpc::write_answer(&asker, &Ok(Value::Null));
    }
    drop(lock);
    Ok(())
}

/// Takes connections on `socket` and hands them on.
fn answer_on(socket: &Path, sender: Sender<Event>) -> anyhow::Result<()> {
    // the lock is ours, so whoever left this socket is gone
    let _none_there = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket).with_context(|| format!("cannot listen at {}", socket.display()))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if sender.send(Event::Asked(stream)).is_err() {
                return;
            }
        }
    });
    Ok(())
}

impl Supervisor {
    fn start_daemons(&mut self) -> anyhow::Result<()> {
        if !self.stage.facts.mesh {
            return Ok(());
        }
        self.controller = Some(daemon::controller(&self.stage)?);
        for node in &self.stage.facts.nodes {
            self.daemons.insert(node.name.clone(), daemon::node(&self.stage, node)?);
        }
        Ok(())
    }

    /// Looks and answers until somebody says stop, and returns whom to tell.
    fn serve(&mut self, events: &Receiver<Event>) -> Option<UnixStream> {
        loop {
            self.look();
            match events.recv_timeout(LOOK_EVERY) {
                Ok(Event::Asked(stream)) => match rpc::read_question(&stream) {
                    Ok(question) if question.get("verb") == Some(&json!("stop")) => return Some(stream),
                    Ok(question) => {
                        let answer = self.answer(&question);
                        if let Err(error) = rpc::write_answer(&stream, &answer) {
                            journal(&format!("somebody asked and went away: {error:#}"));
                        }
                    }
                    Err(error) => journal(&format!("somebody asked nothing: {error:#}")),
                },
                Ok(Event::PodGone(key)) => {
                    self.pods.remove(&key);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    fn answer(&self, question: &Value) -> Result<Value, String> {
        match question.get("verb").and_then(Value::as_str) {
            Some("state") => serde_json::to_value(self.state()).map_err(|e| e.to_string()),
            other => Err(format!("unknown verb {other:?}: state or stop")),
        }
    }

    fn state(&self) -> LiveState {
        let status = |pod: &RunningPod| pod.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let waiting =
            self.wanted.iter().filter(|(key, _)| !self.pods.contains_key(*key)).map(|(key, spec)| PodStatus {
                namespace: key.0.clone(),
                name: key.1.clone(),
                service_account: spec.spec.service_account_name.clone(),
                reason: format!("no node {}", spec.spec.node_name.as_deref().unwrap_or("is free")),
                ..PodStatus::default()
            });
        let mut pods: Vec<PodStatus> = self.pods.values().map(status).chain(waiting).collect();
        pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        LiveState {
            supervisor: rustix::process::getpid().as_raw_nonzero().get(),
            controller: self.controller.as_ref().map(Daemon::now),
            nodes: self.daemons.iter().map(|(name, d)| (name.clone(), d.now())).collect(),
            pods,
            refusals: self.refusals.clone(),
        }
    }

    /// Compares the directory with the pods that have a thread, and starts or stops some.
    fn look(&mut self) {
        if let Some(seen) = self.watch.look() {
            for refusal in seen.refusals.iter().filter(|r| !self.refusals.contains(r)) {
                journal(&format!("refused: {refusal}"));
            }
            self.refusals = seen.refusals;
            self.wanted = seen.pods;
        }
        for (key, pod) in &mut self.pods {
            let stays = self.wanted.get(key).is_some_and(|spec| spec.is_same_pod(&pod.spec));
            if !stays && !pod.is_stopping {
                pod.is_stopping = true;
                let _gone_already = pod.orders.send(Order::Stop);
            }
        }
        let missing: Vec<PodSpec> = self.wanted.values().filter(|s| !self.pods.contains_key(&s.key)).cloned().collect();
        for spec in missing {
            let Some(node) = self.schedule(&spec) else { continue };
            let key = spec.key.clone();
            if let Err(error) = self.start_pod(spec, node) {
                journal(&format!("pod {}/{}: {error:#}", key.0, key.1));
            }
        }
    }

    /// The node a pod says, or the one with the fewest pods; the first of those.
    fn schedule(&self, spec: &PodSpec) -> Option<String> {
        let nodes = self.stage.facts.nodes.iter().map(|n| &n.name);
        let on = |node: &String| {
            self.pods.values().filter(|p| p.status.lock().unwrap_or_else(PoisonError::into_inner).node == *node).count()
        };
        match &spec.spec.node_name {
            Some(name) => nodes.into_iter().find(|n| *n == name).cloned(),
            None => nodes.min_by_key(|n| on(n)).cloned(),
        }
    }

    fn start_pod(&mut self, spec: PodSpec, node: String) -> anyhow::Result<()> {
        let (namespace, name) = spec.key.clone();
        let uid = spec.uid.clone().map_or_else(random_uuid, Ok)?;
        let status = Arc::new(Mutex::new(PodStatus {
            netns: self.netns_name(&namespace, &name, &uid),
            log: self.stage.layout.pod_log(&namespace, &name),
            host_network: spec.spec.host_network,
            service_account: spec.spec.service_account_name.clone(),
            namespace,
            name,
            uid,
            node,
            ..PodStatus::default()
        }));
        let (orders, receiver) = channel();
        let worker = PodWorker {
            stage: Arc::clone(&self.stage),
            spec: spec.clone(),
            status: Arc::clone(&status),
            orders: receiver,
            sender: orders.clone(),
            starts: 0,
        };
        let (sender, key) = (self.sender.clone(), spec.key.clone());
        thread::Builder::new()
            .name("pod".to_owned())
            .spawn(move || {
                worker.run();
                let _supervisor_gone = sender.send(Event::PodGone(key));
            })
            .context("cannot start a thread")?;
        self.pods.insert(spec.key.clone(), RunningPod { spec, status, orders, is_stopping: false });
        Ok(())
    }

    /// `<lab>-p-<namespace>-<pod>`; where that is taken (`a-b` and `c`, `a` and `b-c`) or too long, with a piece of
    /// the UID.
    fn netns_name(&self, namespace: &str, name: &str, uid: &str) -> String {
        let plain = format!("{}-p-{namespace}-{name}", self.stage.facts.name);
        let is = |pod: &RunningPod| pod.status.lock().unwrap_or_else(PoisonError::into_inner).netns == plain;
        if plain.len() <= 200 && !self.pods.values().any(is) {
            return plain;
        }
        let short: String = plain.chars().take(200).collect();
        format!("{short}-{}", uid.chars().take(8).collect::<String>())
    }

    /// Ends pods first, while the node daemons can still answer DEL, then the daemons.
    fn stop(&mut self, events: &Receiver<Event>) {
        journal("stopping");
        for pod in self.pods.values() {
            let _gone_already = pod.orders.send(Order::Stop);
        }
        while !self.pods.is_empty() {
            match events.recv_timeout(Duration::from_secs(120)) {
                Ok(Event::PodGone(key)) => {
                    self.pods.remove(&key);
                }
                Ok(Event::Asked(stream)) => {
                    let _went_away = rpc::write_answer(&stream, &Err("the lab is going down".to_owned()));
                }
                Err(_) => {
                    journal(&format!("{} pods did not end", self.pods.len()));
                    break;
                }
            }
        }
        let daemons: Vec<Daemon> =
            std::mem::take(&mut self.daemons).into_values().chain(self.controller.take()).collect();
        daemons.iter().for_each(Daemon::stop);
        daemons.into_iter().for_each(Daemon::join);
        journal("stopped");
    }
}
