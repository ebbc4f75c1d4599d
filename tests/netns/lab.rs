//! A lab of `meshctl lab` as a case sees it: facts, manifests, traffic and captures.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::shell::{attempt, eventually, run};

/// The repeating token in every payload of a capture case.
pub const MARKER: &str = "WEFT-MARKER-7f3a";

/// A running lab; it ends with the case's namespaces.
pub struct Lab {
    meshctl: String,
}

/// Where a program of this workspace was built.
pub fn program(name: &str) -> String {
    // target/debug/deps/netns-… → target/debug/NAME
    let own = std::env::current_exe().expect("a test binary has a path");
    let path: PathBuf = own.parent().and_then(|deps| deps.parent()).expect("it is in a target folder").join(name);
    assert!(path.exists(), "{} is not built: run scripts/test netns, or cargo build first", path.display());
    path.display().to_string()
}

/// A folder for a case's own files; gone with its /run.
pub fn scratch(name: &str) -> String {
    let path = format!("/run/case/{name}");
    std::fs::create_dir_all("/run/case").expect("/run is the case's own");
    path
}

impl Lab {
    /// Brings a lab up from `lab.yaml` text and manifests.
    pub fn up(config: &str, manifests: &str) -> Self {
        Self::up_with(config, manifests, &[])
    }

    /// [`Self::up`] with options of `meshctl lab up`.
    pub fn up_with(config: &str, manifests: &str, options: &[&str]) -> Self {
        let (file, pods) = (scratch("lab.yaml"), scratch("pods.yaml"));
        std::fs::write(&pods, manifests).expect("the case's folder takes files");
        let list = if manifests.is_empty() { "manifests: []".to_owned() } else { format!("manifests: [{pods}]") };
        std::fs::write(&file, format!("{config}\n{list}\n")).expect("the case's folder takes files");
        let meshctl = program("meshctl");
        run(&meshctl, &[&["lab", "up", "-f", &file], options].concat());
        Self { meshctl }
    }

    /// Two enrolled pods (client on n1, server on n2) of their own service accounts, and two that are not enrolled
    /// (in namespace plain, on n3 and on n1). Each has its name as label `app`.
    pub fn of_four(config: &str) -> Self {
        let pods = [
            pod("demo", "client", "n1", "client", "app: client"),
            pod("demo", "server", "n2", "server", "app: server"),
            pod("plain", "client", "n3", "client", "app: client"),
            pod("plain", "server", "n1", "server", "app: server"),
        ];
        let text = [namespace("demo", true), namespace("plain", false), pods.join("")].concat();
        Self::up(config, &text)
    }

    fn lab(&self, arguments: &[&str]) -> Output {
        attempt(&self.meshctl, &[&["lab"], arguments].concat())
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&run(&self.meshctl, &["lab", "status", "-o", "json"])).expect("lab status prints JSON")
    }

    /// Puts manifests into the lab's directory under a file name, as `cp` would: written beside and renamed.
    pub fn put(&self, file: &str, text: &str) {
        let directory = self.directory();
        let beside = format!("{directory}/.{file}");
        std::fs::write(&beside, text).expect("the directory takes files");
        std::fs::rename(&beside, format!("{directory}/{file}")).expect("a rename within a folder");
    }

    /// Applies manifests object by object, as `kubectl apply` would.
    pub fn apply(&self, text: &str) {
        let file = scratch("apply.yaml");
        std::fs::write(&file, text).expect("the case's folder takes files");
        run(&self.meshctl, &["lab", "apply", "-f", &file]);
    }

    pub fn remove(&self, file: &str) {
        std::fs::remove_file(format!("{}/{file}", self.directory())).expect("the file was put there");
    }

    pub fn directory(&self) -> String {
        self.status()["directory"].as_str().expect("a directory").to_owned()
    }

    /// Facts of a pod, `namespace/name`.
    pub fn pod(&self, name: &str) -> Value {
        let status = self.status();
        let (namespace, name) = name.split_once('/').expect("namespace/name");
        let pods = status["pods"].as_array().expect("pods").iter();
        let found = pods.clone().find(|p| p["namespace"] == namespace && p["name"] == name);
        found.unwrap_or_else(|| panic!("no pod {namespace}/{name} in {status:#}")).clone()
    }

    pub fn node(&self, name: &str) -> Value {
        let status = self.status();
        let found = status["nodes"].as_array().expect("nodes").iter().find(|n| n["name"] == name).cloned();
        found.unwrap_or_else(|| panic!("no node {name}"))
    }

    /// A pod's address of one family.
    pub fn ip(&self, pod: &str, v6: bool) -> IpAddr {
        let ips = self.ips_there(pod);
        let found = ips.iter().find(|ip| ip.is_ipv6() == v6);
        *found.unwrap_or_else(|| panic!("{pod} has no such address, v6 {v6}, but {ips:?}"))
    }

    /// The addresses that a pod has, of whatever family.
    pub fn ips_there(&self, pod: &str) -> Vec<IpAddr> {
        let facts = self.pod(pod);
        let all = facts["addresses"].as_array().unwrap_or_else(|| panic!("no addresses in {facts:#}"));
        all.iter().filter_map(|a| a.as_str()?.parse::<IpAddr>().ok()).collect()
    }

    /// Both addresses of a pod.
    pub fn ips(&self, pod: &str) -> [IpAddr; 2] {
        [self.ip(pod, false), self.ip(pod, true)]
    }

    /// Runs a command where a pod (or `node/n1`, `stranger`, `underlay`) is.
    pub fn exec(&self, place: &str, command: &[&str]) -> Output {
        self.lab(&[&["exec", place, "--"], command].concat())
    }

    /// As [`Lab::exec`], and it must succeed.
    pub fn must(&self, place: &str, command: &[&str]) -> String {
        let output = self.exec(place, command);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "in {place}: {}\n{text}{errors}", command.join(" "));
        text
    }

    /// Starts a command where a place is, to run beside the case.
    pub fn spawn(&self, place: &str, command: &[&str]) -> Child {
        let mut child = Command::new(&self.meshctl);
        child.args(["lab", "exec", place, "--"]).args(command);
        child.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        child.spawn().unwrap_or_else(|e| panic!("cannot start {}: {e}", command.join(" ")))
    }

    /// Whether a ping of one packet is answered within a second.
    pub fn pings(&self, from: &str, to: IpAddr) -> bool {
        self.exec(from, &["ping", "-n", "-c", "1", "-W", "1", &to.to_string()]).status.success()
    }

    /// Waits until a ping is answered; how long that took.
    pub fn pings_within(&self, from: &str, to: IpAddr, within: Duration) -> Duration {
        eventually(&format!("{from} pings {to}"), within, || self.pings(from, to).then_some(())).1
    }

    /// Sends text by TCP to an echo server and returns what comes back; `None` when nothing does within a second.
    pub fn tcp_echo(&self, from: &str, to: IpAddr, port: u16, text: &str) -> Option<String> {
        self.echo("SOCK_STREAM", from, to, port, text)
    }

    /// The same by UDP.
    pub fn udp_echo(&self, from: &str, to: IpAddr, port: u16, text: &str) -> Option<String> {
        self.echo("SOCK_DGRAM", from, to, port, text)
    }

    fn echo(&self, kind: &str, from: &str, to: IpAddr, port: u16, text: &str) -> Option<String> {
        let family = if to.is_ipv6() { "AF_INET6" } else { "AF_INET" };
        let script = format!(
            "import socket,sys\ns=socket.socket(socket.{family},socket.{kind})\ns.settimeout(1)\n\
             s.connect(('{to}',{port}))\nm=sys.argv[1].encode()\ns.sendall(m)\nd=b''\n\
             while len(d)<len(m):\n c=s.recv(65536)\n if not c: break\n d+=c\nsys.stdout.write(d.decode())"
        );
        let output = self.exec(from, &["python3", "-c", &script, text]);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Asks a node's daemon.
    pub fn ask(&self, node: &str, verb: &str) -> Value {
        let socket = self.node(node)["adminSocket"].as_str().expect("a socket").to_owned();
        ask(&socket, &json!({ "verb": verb }))
    }

    /// Asks the controller.
    pub fn ask_controller(&self, question: &Value) -> Value {
        let socket = self.status()["controller"]["socket"].as_str().expect("a socket").to_owned();
        ask(&socket, question)
    }

    /// How often a node counted a drop reason.
    pub fn drops(&self, node: &str, reason: &str) -> u64 {
        self.ask(node, "status")["drops"][reason].as_u64().unwrap_or(0)
    }

    /// Starts capturing on the wire between the nodes.
    pub fn capture(&self) -> Capture {
        let file = scratch(&format!("wire-{}.pcap", std::process::id()));
        let namespace = self.status()["underlay"]["namespace"].as_str().expect("a namespace").to_owned();
        let link = self.status()["underlay"]["bridge"].as_str().expect("a bridge").to_owned();
        let mut child = Command::new("ip")
            .args([
                "netns",
                "exec",
                &namespace,
                "tcpdump",
                "--immediate-mode",
                "-U",
                "-n",
                "-s0",
                "-B",
                "16384",
                "-i",
                &link,
                "-w",
                &file,
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tcpdump runs");
        let stderr = child.stderr.take().expect("it is piped");
        // it says so when it really captures
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stderr));
        let listening = lines.by_ref().map_while(Result::ok).any(|line| line.contains("listening on"));
        assert!(listening, "tcpdump does not capture");
        Capture { child, file }
    }
}

/// A capture that is going on.
pub struct Capture {
    child: Child,
    file: String,
}

impl Capture {
    /// Ends it; the bytes of everything that was on the wire.
    pub fn stop(mut self) -> Vec<u8> {
        run("kill", &["-INT", &self.child.id().to_string()]);
        self.child.wait().expect("tcpdump ends");
        std::fs::read(&self.file).expect("the capture is there")
    }
}

/// How often the marker stands in these bytes.
pub fn markers(bytes: &[u8]) -> usize {
    bytes.windows(MARKER.len()).filter(|window| *window == MARKER.as_bytes()).count()
}

/// One question to an admin socket; a refusal is a panic.
pub fn ask(socket: &str, question: &Value) -> Value {
    use std::io::{Read as _, Write as _};
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap_or_else(|e| panic!("{socket}: {e}"));
    stream.write_all(format!("{question}\n").as_bytes()).expect("a question is taken");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer comes");
    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{socket} answered {text}: {e}"));
    assert!(answer["ok"] == true, "{question} was answered {answer}");
    answer["result"].clone()
}

/// A Namespace manifest.
pub fn namespace(name: &str, enrolled: bool) -> String {
    let label = if enrolled { "enabled" } else { "disabled" };
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{weft.dev/mesh: {label}}}}}\n---\n")
}

/// A Pod manifest; `labels` as a flow map's inside.
pub fn pod(namespace: &str, name: &str, node: &str, account: &str, labels: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}\n\
         spec: {{nodeName: {node}, serviceAccountName: {account}, containers: [{{name: main}}]}}\n---\n"
    )
}

/// A PeerAuthentication manifest without selector.
pub fn peer_authentication(namespace: &str, mode: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: PeerAuthentication\nmetadata: {{name: default, namespace: {namespace}}}\n\
         spec: {{mtls: {{mode: {mode}}}}}\n"
    )
}
