//! What the supervisor's threads share: the lab's facts and paths, the nodes' plugins, and a limit on plugin calls.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, PoisonError};

use anyhow::Context as _;
use linux::netns::Netns;

use super::cni_runtime::CniRuntime;
use super::facts::Facts;
use super::layout::Layout;
use crate::screen;

/// How many chains run at a time, as runtimes under load do.
const CHAINS_MAX: usize = 10;

/// Shared by all threads of the supervisor.
pub(super) struct Stage {
    /// What was built.
    pub(super) facts: Facts,
    /// Where files are.
    pub(super) layout: Layout,
    runtimes: BTreeMap<String, CniRuntime>,
    chains: Mutex<usize>,
    chain_ended: Condvar,
}

impl Stage {
    /// The stage of a lab whose namespaces and CNI configuration exist.
    ///
    /// # Errors
    /// One of them does not.
    pub(super) fn new(facts: Facts, layout: Layout) -> anyhow::Result<Self> {
        let runtime = |node| CniRuntime::new(&facts, &layout, node).map(|r| (node.name.clone(), r));
        let runtimes = facts.nodes.iter().map(runtime).collect::<anyhow::Result<_>>()?;
        Ok(Self { runtimes, facts, layout, chains: Mutex::new(0), chain_ended: Condvar::new() })
    }

    /// Calls a node's plugins, after others when too many are at it.
    ///
    /// # Errors
    /// Whatever `work` says; there is no such node.
    pub(super) fn with_plugins<T>(
        &self,
        node: &str,
        work: impl FnOnce(&CniRuntime) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let runtime = self.runtimes.get(node).with_context(|| format!("this lab has no node {node}"))?;
        let mut running = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        while *running >= CHAINS_MAX {
            running = self.chain_ended.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
        *running += 1;
        drop(running);
        let outcome = work(runtime);
        *self.chains.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.chain_ended.notify_one();
        outcome
    }

    /// A node's namespace.
    ///
    /// # Errors
    /// It is gone, or there is no such node.
    pub(super) fn node_netns(&self, node: &str) -> anyhow::Result<Netns> {
        let node = self.facts.node(node).with_context(|| format!("this lab has no node {node}"))?;
        Ok(Netns::open_named(&node.host.namespace)?)
    }
}

/// Now, as logs and statuses show it.
pub(super) fn timestamp() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// A line in the supervisor's log, which its stderr is.
pub(super) fn journal(text: &str) {
    screen::note(&format!("{} {text}", timestamp()));
}

/// A random UUID, from the kernel.
///
/// # Errors
/// `/proc` is not there.
pub(super) fn random_uuid() -> anyhow::Result<String> {
    let path = "/proc/sys/kernel/random/uuid";
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    Ok(text.trim().to_owned())
}
