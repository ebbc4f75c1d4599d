//! Waits until a lab is ready, telling what has come about and, in the end, what has not.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::bail;

use super::live::{LiveState, PodStatus};
use super::overlay::Phase;
use super::pick::Lab;
use crate::{interrupt, screen};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What has been told already.
pub(super) struct Progress {
    begin: Instant,
    told: BTreeSet<String>,
}

impl Progress {
    /// Counts time from `begin`.
    pub(super) fn new(begin: Instant) -> Self {
        Self { begin, told: BTreeSet::new() }
    }

    /// Tells a step once.
    pub(super) fn step(&mut self, what: &str) {
        if self.told.insert(what.to_owned()) {
            screen::note(&format!("[{:6.2} s] {what}", self.begin.elapsed().as_secs_f64()));
        }
    }

    /// Tells that the lab is up.
    pub(super) fn done(&mut self, lab: &Lab) {
        let seconds = self.begin.elapsed().as_secs_f64();
        self.step(&format!("lab {} is up after {seconds:.2} s", lab.facts.name));
    }

    /// Tells what runs.
    fn tell(&mut self, state: &LiveState) {
        if state.controller.as_ref().is_some_and(|c| c.pid.is_some()) {
            self.step("the controller runs");
        }
        for (name, daemon) in &state.nodes {
            if daemon.pid.is_some() {
                self.step(&format!("node {name} runs"));
            }
        }
        for pod in state.pods.iter().filter(|p| is_done(p)) {
            self.step(&format!(
                "pod {}/{} runs on {} as {}",
                pod.namespace,
                pod.name,
                pod.node,
                pod.addresses.join(", ")
            ));
        }
    }
}

/// Waits until everything runs, and until meshd knows it.
///
/// # Errors
/// It did not within `patience`: what is missing, each with its reason. Or somebody wants us to end.
pub(super) fn wait(lab: &Lab, progress: &mut Progress, patience: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        interrupt::check()?;
        let missing = match lab.live() {
            Ok(state) => {
                progress.tell(&state);
                missing(lab, &state)
            }
            Err(error) => vec![format!("{error:#}")],
        };
        if missing.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("after {} s there is still missing: {}", patience.as_secs(), missing.join("; "));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn is_done(pod: &PodStatus) -> bool {
    pod.phase != Phase::Pending
}

/// What does not run yet.
fn missing(_lab: &Lab, state: &LiveState) -> Vec<String> {
    let mut missing = state.refusals.clone();
    let daemons =
        state.controller.iter().map(|c| ("controller", c)).chain(state.nodes.iter().map(|(n, d)| (n.as_str(), d)));
    for (name, daemon) in daemons.filter(|(_, d)| d.pid.is_none()) {
        missing.push(format!("{name}: {}", daemon.last_exit.as_deref().unwrap_or("not started yet")));
    }
    for pod in state.pods.iter().filter(|p| !is_done(p)) {
        missing.push(format!("pod {}/{}: {}", pod.namespace, pod.name, pod.reason));
    }
    missing
}
