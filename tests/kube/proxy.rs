//! A proxy between the daemons and the API server that answers wrongly on demand, and what was asked of it meanwhile.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use crate::cluster::Cluster;
use crate::control_plane::ADDRESS;

/// Where it listens beside the API server.
const PORT: &str = "6444";

/// A running proxy; the daemons ask it from [`Proxy::up`] until [`Proxy::down`].
pub struct Proxy<'a> {
    cluster: &'a Cluster,
    child: Mutex<Option<Child>>,
    mode: PathBuf,
    log: PathBuf,
}

impl<'a> Proxy<'a> {
    /// Starts it and leads the daemons of all nodes through it.
    pub fn up(cluster: &'a Cluster) -> Self {
        let (mode, log) = (cluster.dir.join("proxy.mode"), cluster.dir.join("proxy.log"));
        let proxy = Self { cluster, child: Mutex::default(), mode, log };
        proxy.set("pass");
        proxy.lead(&format!("KUBERNETES_SERVICE_HOST={ADDRESS}"), &format!("KUBERNETES_SERVICE_PORT={PORT}"));
        proxy
    }

    /// Leads the daemons to the API server itself again, and ends.
    pub fn down(self) {
        self.set("pass");
        self.lead("KUBERNETES_SERVICE_HOST-", "KUBERNETES_SERVICE_PORT-");
    }

    fn lead(&self, host: &str, port: &str) {
        self.cluster.kubectl(&["-n", "weft-system", "set", "env", "daemonset/weft-node", host, port]);
        let wait = ["-n", "weft-system", "rollout", "status", "daemonset/weft-node", "--timeout=90s"];
        self.cluster.kubectl(&wait);
    }

    /// What it does from now on: a word of `proxy.py`, or `refuse` for nobody there.
    pub fn set(&self, mode: &str) {
        let new = self.mode.with_extension("new");
        std::fs::write(&new, mode).expect("the run's folder takes files");
        std::fs::rename(&new, &self.mode).expect("the run's folder takes files");
        let runs = self.child.lock().expect("nobody panicked with it").is_some();
        match (mode, runs) {
            ("refuse", true) => self.stop(),
            ("refuse", false) | (_, true) => {}
            (_, false) => self.start(),
        }
    }

    /// What one node listed most in this mode: how often, and which node and collection.
    pub fn most_lists(&self, mode: &str) -> (usize, String) {
        let text = std::fs::read_to_string(&self.log).expect("the proxy writes it");
        let mut counts = BTreeMap::<String, usize>::new();
        for line in text.lines() {
            if let Some((said, rest)) = line.split_once(' ')
                && said == mode
                && rest.contains(" list ")
            {
                *counts.entry(rest.to_owned()).or_default() += 1;
            }
        }
        counts.into_iter().map(|(what, count)| (count, what)).max().unwrap_or_default()
    }

    /// The nodes that have asked anything of it.
    pub fn peers(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.log).expect("the proxy writes it");
        let mut peers: Vec<_> = text.lines().filter_map(|line| line.split(' ').nth(1)).map(str::to_owned).collect();
        peers.sort();
        peers.dedup();
        peers
    }

    fn start(&self) {
        let keys = self.cluster.dir.join("pki");
        let errors = std::fs::File::options().create(true).append(true).open(self.log.with_extension("errors"));
        let mut child = Command::new("python3")
            .args(["-c", include_str!("load/proxy.py"), ADDRESS, PORT])
            .args([&keys, &self.mode, &self.log])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors.expect("the run's folder takes files"))
            .spawn()
            .expect("python3 runs");
        let mut line = String::new();
        let output = child.stdout.take().expect("it is piped");
        let _count = BufReader::new(output).read_line(&mut line).expect("it says when it is up");
        *self.child.lock().expect("nobody panicked with it") = Some(child);
        assert_eq!(line.trim(), "up", "the proxy starts");
    }

    fn stop(&self) {
        let child = self.child.lock().expect("nobody panicked with it").take();
        if let Some(mut child) = child {
            child.kill().and_then(|()| child.wait()).expect("the proxy ends");
        }
    }
}

impl Drop for Proxy<'_> {
    fn drop(&mut self) {
        self.stop();
    }
}
