//! The cluster that all cases share: two nodes on a bridge, and kubectl.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::control_plane::ControlPlane;
use crate::shell::{attempt, eventually, run};
use crate::weft;

/// The nodes, by name; the number of each is in its addresses.
pub const NODES: [&str; 2] = ["n1", "n2"];
/// The repository.
pub const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A running cluster.
pub struct Cluster {
    /// The run's folder: keys, logs, what the nodes keep.
    pub dir: PathBuf,
    /// Kubernetes' programs.
    pub tools: PathBuf,
    /// The programs that can be killed and started again.
    pub plane: ControlPlane,
    nodes: Mutex<BTreeMap<&'static str, Child>>,
}

impl Cluster {
    /// Brings it up with Weft's image on each node, but without Weft.
    pub fn up() -> Self {
        let begin = Instant::now();
        let tools = PathBuf::from(ROOT).join(".tools/kubernetes/bin");
        assert!(tools.join("kubelet").exists(), "Kubernetes is not built: run scripts/setup kubernetes");
        let dir = folder_of(&crate::outer());
        std::fs::create_dir_all(dir.join("images")).expect("the folder for temporary files takes a folder");
        weft::images(&dir.join("images"));
        run(&format!("{ROOT}/tests/kube/pki.sh"), &[&dir.join("pki").display().to_string()]);
        network();
        let plane = ControlPlane::up(&dir, &tools);
        let cluster = Self { dir, tools, plane, nodes: Mutex::default() };
        for node in NODES {
            cluster.make_node(node);
            cluster.boot(node);
        }
        cluster.await_nodes();
        eventually("there is a default service account", Duration::from_secs(120), || {
            cluster.try_kubectl(&["get", "serviceaccount", "default"]).status.success().then_some(())
        });
        eprintln!(
            "two nodes are Ready after {:.1} s, logs in {}",
            begin.elapsed().as_secs_f64(),
            cluster.dir.display()
        );
        cluster
    }

    /// Writes a node's object, with the ranges that node.sh gives to the primary plugin.
    pub fn make_node(&self, node: &str) {
        let i = node.trim_start_matches('n');
        let ranges = format!("podCIDR: 10.88.{i}.0/24, podCIDRs: [10.88.{i}.0/24, 'fd88:0:0:{i}::/64']");
        self.apply(&format!("{{apiVersion: v1, kind: Node, metadata: {{name: {node}}}, spec: {{{ranges}}}}}"));
    }

    /// Starts a node, as its power switch would.
    pub fn boot(&self, node: &'static str) {
        let number = node.trim_start_matches('n');
        let log = std::fs::File::create(self.dir.join(format!("{node}.log"))).expect("the run's folder takes files");
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{node}"))
            .args(["unshare", "-m", "-p", "-u", "-f", "--kill-child", "--mount-proc", "bash"])
            .arg(format!("{ROOT}/tests/kube/node.sh"))
            .envs([("N", node), ("I", number), ("CNI", &cni_plugins())])
            .env("R", &self.dir)
            .env("TOOLS", &self.tools)
            .env("GROUP", group_of(&crate::outer()))
            .env("IMAGES", self.dir.join("images"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file has a second handle"))
            .stderr(log)
            .spawn()
            .expect("nsenter (util-linux) runs");
        self.nodes.lock().expect("nobody panicked with it").insert(node, child);
    }

    /// Takes a node's power away: every process on it ends at once, and of its control groups nothing is left, as of a machine
    /// that boots.
    pub fn power_off(&self, node: &str) {
        let mut child = self.nodes.lock().expect("nobody panicked with it").remove(node).expect("the node is up");
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
        let run = self.dir.file_name().expect("a run's folder has a name").to_string_lossy();
        sweep(&format!("{run}-{node}"));
    }

    /// Waits until all nodes are Ready.
    pub fn await_nodes(&self) {
        for node in NODES {
            eventually(&format!("{node} is Ready"), Duration::from_secs(240), || {
                let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
                let output = self.try_kubectl(&["get", "node", node, "-o", path]);
                (output.stdout == b"True").then_some(())
            });
        }
    }

    /// Ends all processes and takes the folder away.
    pub fn down(&self) {
        for node in NODES {
            let child = self.nodes.lock().expect("nobody panicked with it").remove(node);
            if let Some(mut child) = child {
                child.kill().and_then(|()| child.wait()).expect("the node can be ended");
            }
        }
        if std::env::var_os("WEFT_KUBE_KEEP").is_none() {
            // a mount that is still going away holds its folder for a moment
            eventually("the run's folder is gone", Duration::from_secs(60), || {
                std::fs::remove_dir_all(&self.dir).is_ok().then_some(())
            });
        }
    }

    /// The last words of everybody, for a failure that is looked at later.
    pub fn show_logs(&self) {
        eprintln!("{}", self.text(&["get", "pods", "-A", "-o", "wide"]));
        eprintln!("{}", self.text(&["get", "events", "-A", "--sort-by=.lastTimestamp"]));
        for pod in self
            .text(&["-n", "weft-system", "get", "pods", "-l", "app.kubernetes.io/name=weft-node", "-o", "name"])
            .lines()
        {
            for verb in ["status", "peers"] {
                eprintln!("== {pod}\n{}", self.text(&["-n", "weft-system", "exec", pod, "--", "meshctl", verb]));
            }
        }
        for pod in self.text(&["-n", "weft-system", "get", "pods", "-o", "name"]).lines() {
            eprintln!("== {pod}\n{}", self.text(&["-n", "weft-system", "logs", "--tail=40", "--prefix", pod]));
        }
    }

    fn text(&self, arguments: &[&str]) -> String {
        let output = self.try_kubectl(arguments);
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    /// Runs kubectl as the administrator.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Output {
        self.kubectl_as("admin", arguments)
    }

    /// Runs kubectl with the kubeconfig of somebody.
    pub fn kubectl_as(&self, user: &str, arguments: &[&str]) -> Output {
        let config = self.dir.join(format!("pki/{user}.kubeconfig")).display().to_string();
        let kubectl = self.tools.join("kubectl").display().to_string();
        attempt(&kubectl, &[&["--kubeconfig", &config], arguments].concat())
    }

    /// As [`Cluster::try_kubectl`], and it must succeed. A question that never came to the API server is asked again.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        let output = until_taken(&UNREACHED, || self.try_kubectl(arguments));
        let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "kubectl {}\n{text}{errors}", arguments.join(" "));
        text.into_owned()
    }

    /// An object, or a list of them.
    pub fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.kubectl(&[arguments, &["-o", "json"]].concat())).expect("kubectl prints JSON")
    }

    /// Applies manifests; again where the API server or who follows it is not as far yet.
    pub fn apply(&self, text: &str) {
        let transient = [&UNREACHED[..], &BEHIND].concat();
        let output = until_taken(&transient, || self.try_apply("admin", text));
        assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
    }

    /// Applies manifests as somebody; a refusal is an answer too.
    pub fn try_apply(&self, user: &str, text: &str) -> Output {
        let config = self.dir.join(format!("pki/{user}.kubeconfig"));
        let mut child = Command::new(self.tools.join("kubectl"))
            .arg("--kubeconfig")
            .arg(config)
            .args(["apply", "--server-side", "--force-conflicts", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl runs");
        child.stdin.take().expect("it is piped").write_all(text.as_bytes()).expect("kubectl reads");
        child.wait_with_output().expect("kubectl ends")
    }

    /// Process number of a node's init, as seen from here.
    pub fn init_of(&self, node: &str) -> u32 {
        let outer = self.nodes.lock().expect("nobody panicked with it").get(node).expect("the node is up").id();
        let path = format!("/proc/{outer}/task/{outer}/children");
        let (pid, _) = eventually(&format!("{node} has an init"), Duration::from_secs(60), || {
            std::fs::read_to_string(&path).ok()?.split_whitespace().next()?.parse().ok()
        });
        pid
    }

    /// Runs a command on a node.
    pub fn on_node(&self, node: &str, command: &[&str]) -> Output {
        let init = self.init_of(node).to_string();
        attempt("nsenter", &[&["-t", &init, "-a"], command].concat())
    }

    /// As [`Cluster::on_node`] through a shell, and it must succeed.
    pub fn must_on(&self, node: &str, script: &str) -> String {
        let output = self.on_node(node, &["sh", "-c", script]);
        let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "on {node}: {script}\n{text}{errors}");
        text.into_owned()
    }
}

/// What kubectl says of a question that came to no API server.
const UNREACHED: [&str; 3] = ["connection refused", "TLS handshake timeout", "client connection lost"];
/// What an API server says that has just started, that has just been told of a kind, or whose controllers made no account yet for a
/// new namespace.
const BEHIND: [&str; 5] = [
    "could not find the requested resource",
    "no matches for kind",
    "error looking up service account",
    "etcdserver: ",
    "ServiceUnavailable",
];

/// Runs kubectl until it does not fail with one of these words, for a minute at most.
fn until_taken(transient: &[&str], mut run: impl FnMut() -> Output) -> Output {
    let begin = Instant::now();
    loop {
        let output = run();
        let said = String::from_utf8_lossy(&output.stderr);
        let is_over = begin.elapsed() > Duration::from_secs(60);
        if is_over || output.status.success() || !transient.iter().any(|word| said.contains(word)) {
            return output;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A bridge with the control plane at .1, and a network namespace for each node behind it.
fn network() {
    let sh = |script: &str| run("sh", &["-ec", script]);
    sh(
        "ip link add br0 type bridge; ip addr add 10.77.0.1/24 dev br0; ip addr add fd77::1/64 dev br0 nodad; ip link set br0 up",
    );
    for node in NODES {
        let i = node.trim_start_matches('n');
        sh(&format!(
            "ip netns add {node}; ip -n {node} link set lo up; ip link add v{node} type veth peer name eth0 netns {node}\n\
             ip link set v{node} master br0 up; ip -n {node} addr add 10.77.0.1{i}/24 dev eth0\n\
             ip -n {node} addr add fd77::1{i}/64 dev eth0 nodad; ip -n {node} link set eth0 up\n\
             ip -n {node} route add default via 10.77.0.1; ip -n {node} route add default via fd77::1\n\
             nsenter --net=/run/netns/{node} sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1\n\
             ip route add 10.88.{i}.0/24 via 10.77.0.1{i}; ip route add fd88:0:0:{i}::/64 via fd77::1{i}"
        ));
    }
    // each node routes to the other's pods, as a primary network without an overlay does
    sh("ip -n n1 route add 10.88.2.0/24 via 10.77.0.12; ip -n n1 route add fd88:0:0:2::/64 via fd77::12\n\
        ip -n n2 route add 10.88.1.0/24 via 10.77.0.11; ip -n n2 route add fd88:0:0:1::/64 via fd77::11");
}

fn cni_plugins() -> String {
    std::env::var("WEFT_CNI_BIN").unwrap_or_else(|_| format!("{ROOT}/.tools/cni"))
}

/// A run's folder, by the process number of its outer process.
pub fn folder_of(outer: &str) -> PathBuf {
    std::env::temp_dir().join(group_of(outer))
}

/// The first part of the names of a run's folder and control groups, by the process number of its outer process.
fn group_of(outer: &str) -> String {
    format!("weft-kube-{outer}")
}

/// Takes away the control groups of a run; a process that is still ending holds its group for a moment.
pub fn sweep_control_groups(outer: &str) {
    sweep(&format!("{}-", group_of(outer)));
}

/// Takes away the control groups whose names begin so, or says how many stay.
fn sweep(prefix: &str) {
    let begin = Instant::now();
    loop {
        let left = control_groups(prefix).filter(|group| !remove_tree(group)).count();
        if left == 0 {
            return;
        }
        if begin.elapsed() > Duration::from_secs(10) {
            return eprintln!("{left} control groups {prefix}* stay below /sys/fs/cgroup");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Takes away what runs left that were killed: groups of processes that are no more.
pub fn sweep_stale_control_groups() {
    for group in control_groups("weft-kube-") {
        let name = group.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let outer = name.trim_start_matches("weft-kube-").split('-').next().unwrap_or_default().to_owned();
        if !Path::new("/proc").join(outer).exists() {
            remove_tree(&group);
        }
    }
}

fn control_groups(prefix: &str) -> impl Iterator<Item = PathBuf> {
    let list = |folder: &Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    // of the unified hierarchy at the top, else of each below it
    let top = list(Path::new("/sys/fs/cgroup"));
    let below = top.clone().into_iter().flat_map(move |hierarchy| list(&hierarchy));
    let prefix = prefix.to_owned();
    let is_ours =
        move |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix));
    top.into_iter().chain(below).filter(is_ours)
}

/// Control groups are removed from the leaves up, and their files go with them; false while one is held.
fn remove_tree(group: &Path) -> bool {
    for entry in std::fs::read_dir(group).into_iter().flatten().filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !remove_tree(&entry.path()) {
            return false;
        }
    }
    !group.exists() || std::fs::remove_dir(group).is_ok()
}
