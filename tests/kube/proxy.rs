//! Between Weft and the API server: a proxy that answers wrongly on demand, and what was asked of it meanwhile; and a way that
//! loses every packet on demand.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use crate::cluster::{Cluster, NODES};
use crate::control_plane::ADDRESS;
use crate::shell::{attempt, run};

/// Where the proxy listens beside the API server.
const PORT: &str = "6444";
/// Where the way that can be cut begins.
const CUTTABLE: &str = "6445";
/// The programs of Weft that ask the API server.
pub const DAEMONS: &str = "daemonset/weft-node";
pub const CONTROLLERS: &str = "deployment/weft-controller";

/// Some of Weft's programs ask the API server at another port while this lives.
struct Lead<'a> {
    cluster: &'a Cluster,
    who: &'static [&'static str],
}

impl<'a> Lead<'a> {
    fn to(cluster: &'a Cluster, who: &'static [&'static str], port: &str) -> Self {
        let lead = Self { cluster, who };
        lead.set(&format!("KUBERNETES_SERVICE_HOST={ADDRESS}"), &format!("KUBERNETES_SERVICE_PORT={port}"));
        lead.await_rolled();
        lead
    }

    fn set(&self, host: &str, port: &str) {
        for who in self.who {
            // a case that failed unwinds through this
            let _said = self.cluster.try_kubectl(&["-n", "weft-system", "set", "env", who, host, port]);
        }
    }

    fn await_rolled(&self) {
        for who in self.who {
            self.cluster.kubectl(&["-n", "weft-system", "rollout", "status", who, "--timeout=300s"]);
        }
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.set("KUBERNETES_SERVICE_HOST-", "KUBERNETES_SERVICE_PORT-");
        if !std::thread::panicking() {
            self.await_rolled();
        }
    }
}

/// A running proxy; who is led through it asks it from [`Proxy::up`] until [`Proxy::down`].
pub struct Proxy<'a> {
    cluster: &'a Cluster,
    lead: Option<Lead<'a>>,
    child: Mutex<Option<Child>>,
    mode: PathBuf,
    log: PathBuf,
}

impl<'a> Proxy<'a> {
    /// Starts it and leads some of Weft's programs through it.
    pub fn up(cluster: &'a Cluster, who: &'static [&'static str]) -> Self {
        let (mode, log) = (cluster.dir.join("proxy.mode"), cluster.dir.join("proxy.log"));
        let mut proxy = Self { cluster, lead: None, child: Mutex::default(), mode, log };
        // what an earlier proxy was asked is another story
        proxy.forget();
        proxy.set("pass");
        proxy.lead = Some(Lead::to(cluster, who, PORT));
        proxy
    }

    /// Leads them to the API server itself again, and ends.
    pub fn down(self) {
        self.set("pass");
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

    /// Forgets what it was asked so far.
    pub fn forget(&self) {
        std::fs::write(&self.log, "").expect("the run's folder takes files");
    }

    /// How many watches were asked for in this mode.
    pub fn watches(&self, mode: &str) -> usize {
        let text = std::fs::read_to_string(&self.log).expect("the proxy writes it");
        text.lines().filter(|line| line.starts_with(mode) && line.contains(" watch ")).count()
    }

    /// What was listed most in this mode from one node: how often, and which node and collection. Of `refuse` nothing is
    /// known: nobody is there to count who asks.
    pub fn most_lists(&self, mode: &str) -> Option<(usize, String)> {
        if mode == "refuse" {
            return None;
        }
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
        Some(counts.into_iter().map(|(what, count)| (count, what)).max().unwrap_or_default())
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
        drop(self.lead.take());
        self.stop();
    }
}

/// A way to the API server for Weft alone, which [`Way::cut`] makes lose every packet: nobody is told, as by a dead switch.
pub struct Way<'a> {
    cluster: &'a Cluster,
    lead: Option<Lead<'a>>,
}

impl<'a> Way<'a> {
    /// Leads some of Weft's programs over it.
    pub fn up(cluster: &'a Cluster, who: &'static [&'static str]) -> Self {
        let mut way = Self { cluster, lead: None };
        way.mend();
        way.lead = Some(Lead::to(cluster, who, CUTTABLE));
        way
    }

    /// From now on nothing gets through, in neither direction.
    pub fn cut(&self) {
        // before the port is translated, and after it was translated back
        Self::load(&format!(
            "chain there {{ type filter hook prerouting priority raw; tcp dport {CUTTABLE} drop; }}\n\
             chain back {{ type filter hook postrouting priority srcnat + 50; tcp sport {CUTTABLE} drop; }}"
        ));
    }

    /// Everything gets through again.
    pub fn mend(&self) {
        Self::load("");
    }

    /// Leads them to the API server itself again.
    pub fn down(self) {
        self.mend();
    }

    /// Connections over it that a node believes in.
    pub fn connections(&self) -> usize {
        let list = format!("ss -Htn state established dport = :{CUTTABLE} | wc -l");
        let count = |node: &str| self.cluster.must_on(node, &list).trim().parse::<usize>().expect("a number");
        NODES.into_iter().map(count).sum()
    }

    fn load(chains: &str) {
        let translate =
            format!("chain in {{ type nat hook prerouting priority dstnat; tcp dport {CUTTABLE} redirect to :6443; }}");
        run("nft", &[&format!("add table ip way; delete table ip way; table ip way {{ {translate}\n{chains}\n}}")]);
    }
}

impl Drop for Way<'_> {
    fn drop(&mut self) {
        self.mend();
        drop(self.lead.take());
        // open connections go on by what the kernel remembers of them
        let _gone = attempt("nft", &["delete table ip way"]);
    }
}
