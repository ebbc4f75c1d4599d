//! One pod's life: a thread that gives it a namespace, calls the plugins, runs its processes and takes all of it away.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use linux::netns::Netns;
use rustix::process::Signal;

use super::container::{self, Surroundings};
use super::live::PodStatus;
use super::overlay::{self, Phase, PodOverlay};
use super::pod_spec::{Container, PodSpec, RestartPolicy};
use super::process::{self, Process};
use super::stage::{Stage, journal, timestamp};

/// Between two tries of anything: at first, and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// What a pod's thread is told.
#[derive(Debug)]
pub(super) enum Order {
    /// Its manifest is gone.
    Stop,
    /// A process has ended: which start of which container, and how.
    Exited {
        /// Counts every start of a process of this pod.
        start: u64,
        /// Whether it ended well.
        well: bool,
        /// In words.
        how: String,
    },
}

/// The pod is to go: whatever is being done ends here.
pub(super) struct Stopped;

/// A pod's thread.
pub(super) struct PodWorker {
    pub(super) stage: Arc<Stage>,
    pub(super) spec: PodSpec,
    pub(super) status: Arc<Mutex<PodStatus>>,
    pub(super) orders: Receiver<Order>,
    /// For the threads that watch its processes.
    pub(super) sender: Sender<Order>,
    pub(super) starts: u64,
}

/// A container as the worker sees it.
struct Slot<'a> {
    container: &'a Container,
    process: Option<(u64, Process)>,
    /// When it is started next; `None` once it is over.
    next: Option<Instant>,
    backoff: Duration,
    well: bool,
}

impl PodWorker {
    /// Lives until told to stop, then takes everything away.
    pub(super) fn run(mut self) {
        if let Ok(phase) = self.live() {
            self.set_phase(phase);
            self.detach();
            while !matches!(self.orders.recv(), Ok(Order::Stop) | Err(_)) {}
        }
        self.detach();
        let key = &self.spec.key;
        if let Err(error) = overlay::remove(&self.stage.layout, key) {
            self.note(&format!("{error:#}"));
        }
    }

    /// From nothing to the end of its processes.
    fn live(&mut self) -> Result<Phase, Stopped> {
        self.write_overlay();
        let netns = if self.spec.spec.host_network { self.join_node()? } else { self.attach()? };
        let init = self.spec.spec.init_containers.clone();
        let policy = self.spec.spec.restart_policy;
        for container in init {
            let policy = if policy == RestartPolicy::Always { RestartPolicy::OnFailure } else { policy };
            if container.command.is_empty() {
                self.update(|s| s.reason = format!("init container {} has no command", container.name));
                return Ok(Phase::Failed);
            }
            if !self.run_processes(&netns, &[container], policy, Phase::Pending)? {
                return Ok(Phase::Failed);
            }
        }
        let containers = self.spec.spec.containers.clone();
        let well = self.run_processes(&netns, &containers, policy, Phase::Running)?;
        Ok(if well { Phase::Succeeded } else { Phase::Failed })
    }

    /// A pod on the host network: its node's namespace and addresses.
    fn join_node(&mut self) -> Result<Netns, Stopped> {
        let node = self.status().node;
        let mut backoff = BACKOFF.0;
        loop {
            match self.stage.node_netns(&node) {
                Ok(netns) => {
                    if let Some(facts) = self.stage.facts.node(&node) {
                        let host = facts.host.clone();
                        self.update(|s| {
                            s.netns_path = std::path::Path::new(linux::netns::NAMED_DIR).join(&host.namespace);
                            s.netns.clone_from(&host.namespace);
                            s.link.clone_from(&host.link);
                            s.addresses = host.addresses.iter().map(|a| a.addr().to_string()).collect();
                        });
                    }
                    return Ok(netns);
                }
                Err(error) => self.retry_later(&format!("{error:#}"), &mut backoff)?,
            }
        }
    }

    /// Runs `containers` as `policy` says. Whether all of them ended well; `running` is the phase once all have started.
    fn run_processes(
        &mut self,
        netns: &Netns,
        containers: &[Container],
        policy: RestartPolicy,
        running: Phase,
    ) -> Result<bool, Stopped> {
        let slot =
            |container| Slot { container, process: None, next: Some(Instant::now()), backoff: BACKOFF.0, well: false };
        let mut slots: Vec<Slot<'_>> = containers.iter().map(slot).collect();
        loop {
            for slot in &mut slots {
                if slot.process.is_none() && slot.next.is_some_and(|at| at <= Instant::now()) {
                    self.start(netns, slot, policy);
                }
            }
            self.show(&slots, running);
            if slots.iter().all(|s| s.process.is_none() && s.next.is_none()) {
                return Ok(slots.iter().all(|s| s.well));
            }
            let due = slots.iter().filter(|s| s.process.is_none()).filter_map(|s| s.next).min();
            match self.next_order(due) {
                None => {}
                Some(Order::Stop) => {
                    self.stop_processes(slots);
                    return Err(Stopped);
                }
                Some(Order::Exited { start, well, how }) => {
                    if let Some(slot) = slots.iter_mut().find(|s| s.process.as_ref().is_some_and(|p| p.0 == start)) {
                        slot.process = None;
                        slot.ended(policy, well);
                        let name = &slot.container.name;
                        self.update(|s| s.reason = format!("{name} ended: {how}"));
                    }
                }
            }
        }
    }

    fn start(&mut self, netns: &Netns, slot: &mut Slot<'_>, policy: RestartPolicy) {
        self.starts += 1;
        let (start, sender) = (self.starts, self.sender.clone());
        let status = self.status();
        let around = Surroundings {
            facts: &self.stage.facts,
            pod: &self.spec,
            uid: &status.uid,
            node: &status.node,
            addresses: &status.addresses,
        };
        let on_exit = move |exit: std::process::ExitStatus| {
            let _worker_gone = sender.send(Order::Exited { start, well: exit.success(), how: exit.to_string() });
        };
        let spawned = container::command(&around, slot.container)
            .and_then(|command| process::spawn(netns, command, &status.log, on_exit));
        match spawned {
            Ok(process) => slot.process = Some((start, process)),
            Err(error) => {
                slot.ended(policy, false);
                self.note(&format!("{}: {error:#}", slot.container.name));
            }
        }
    }

    /// Puts what runs into the status, and into the directory when the phase changes.
    fn show(&self, slots: &[Slot<'_>], running: Phase) {
        let pids: Vec<i32> = slots.iter().filter_map(|s| Some(s.process.as_ref()?.1.id())).collect();
        let all_up = pids.len() == slots.len();
        let restarts = u32::try_from(self.starts).unwrap_or(u32::MAX);
        let started = u32::try_from(slots.len()).unwrap_or(u32::MAX);
        self.update(|s| {
            s.pids = pids;
            s.restarts = restarts.saturating_sub(started);
            if all_up {
                s.reason.clear();
            }
        });
        if all_up {
            self.set_phase(running);
        }
    }

    fn stop_processes(&mut self, slots: Vec<Slot<'_>>) {
        let mut alive: Vec<(u64, Process)> = slots.into_iter().filter_map(|s| s.process).collect();
        for (_, process) in &alive {
            process.signal(Signal::TERM);
        }
        let deadline = Instant::now() + Duration::from_secs(self.spec.spec.termination_grace_period_seconds.min(60));
        while !alive.is_empty() && Instant::now() < deadline {
            if let Some(Order::Exited { start, .. }) = self.next_order(Some(deadline)) {
                alive.retain(|(s, _)| *s != start);
            }
        }
        for (_, process) in &alive {
            process.signal(Signal::KILL);
        }
    }

    /// What comes first: an order, or `due`.
    fn next_order(&self, due: Option<Instant>) -> Option<Order> {
        match due {
            None => Some(self.orders.recv().unwrap_or(Order::Stop)),
            Some(due) => match self.orders.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(order) => Some(order),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(Order::Stop),
            },
        }
    }

    /// Says why something did not work and waits before the next try.
    pub(super) fn retry_later(&mut self, why: &str, backoff: &mut Duration) -> Result<(), Stopped> {
        self.note(why);
        let wait = *backoff;
        *backoff = (wait * 2).min(BACKOFF.1);
        self.pause(wait)
    }

    /// Waits, unless told to stop.
    pub(super) fn pause(&mut self, wait: Duration) -> Result<(), Stopped> {
        let due = Instant::now() + wait;
        loop {
            match self.next_order(Some(due)) {
                None => return Ok(()),
                Some(Order::Stop) => return Err(Stopped),
                Some(Order::Exited { .. }) => {}
            }
        }
    }

    /// Remembers why the pod is not further on, and logs it.
    pub(super) fn note(&self, why: &str) {
        let (namespace, name) = &self.spec.key;
        journal(&format!("pod {namespace}/{name}: {why}"));
        self.update(|s| why.clone_into(&mut s.reason));
    }

    fn set_phase(&self, phase: Phase) {
        let before = self.status();
        if before.phase == phase && before.started_at.is_some() {
            return;
        }
        self.update(|s| {
            s.phase = phase;
            if phase == Phase::Running && s.started_at.is_none() {
                s.started_at = Some(timestamp());
            }
        });
        self.write_overlay();
    }

    /// Tells the directory what is known of the pod.
    pub(super) fn write_overlay(&self) {
        let status = self.status();
        let overlay = PodOverlay {
            key: &self.spec.key,
            uid: &status.uid,
            node: &status.node,
            addresses: &status.addresses,
            phase: status.phase,
        };
        if let Err(error) = overlay.write(&self.stage.facts, &self.stage.layout) {
            self.note(&format!("{error:#}"));
        }
    }

    pub(super) fn status(&self) -> PodStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut PodStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Slot<'_> {
    /// Decides what comes after an end.
    fn ended(&mut self, policy: RestartPolicy, well: bool) {
        self.well = well;
        let again = match policy {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => !well,
            RestartPolicy::Never => false,
        };
        self.next = again.then(|| Instant::now() + self.backoff);
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
    }
}

/// The first wait between two tries.
pub(super) const FIRST_BACKOFF: Duration = BACKOFF.0;
