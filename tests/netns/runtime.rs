//! A container runtime on a lab's node: the real plugins called as the specification says, and by libcni's `cnitool`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::lab::{Lab, scratch};
use crate::shell::{attempt, eventually, run};

/// What calls the plugins of one node.
#[derive(Clone)]
pub struct Runtime {
    /// The network configuration list, as a document.
    pub list: Value,
    node: Value,
    supervisor: String,
    cni_path: String,
    cnitool: PathBuf,
}

/// What a pod is to the plugins.
#[derive(Clone, Debug)]
pub struct Sandbox {
    pub id: String,
    pub ifname: String,
    /// Path of the network namespace; `None` where the runtime has forgotten it.
    pub netns: Option<String>,
    pub args: String,
}

/// What one plugin answered.
#[derive(Debug)]
pub struct Called {
    pub success: bool,
    pub stdout: String,
    #[expect(dead_code, reason = "shown when a case fails")]
    stderr: String,
    pub took: Duration,
}

impl Called {
    /// The printed document.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{self:?} is no JSON: {e}"))
    }

    /// The code of the error that was printed; 0 for success.
    pub fn code(&self) -> u64 {
        if self.success { 0 } else { self.json()["code"].as_u64().unwrap_or_else(|| panic!("{self:?} has no code")) }
    }

    /// The result of a success.
    pub fn result(&self) -> Value {
        assert!(self.success, "{self:?}");
        self.json()
    }
}

impl Sandbox {
    /// A namespace of its own, with nothing but loopback.
    pub fn new(name: &str) -> Self {
        run("ip", &["netns", "add", name]);
        let path = format!("/run/netns/{name}");
        // as the lab's own kubelet does: addresses are usable at once
        let prepare = "ip link set lo up; echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad";
        run("nsenter", &[&format!("--net={path}"), "sh", "-c", prepare]);
        Self { id: format!("case-{name}"), ifname: "eth0".to_owned(), netns: Some(path), args: String::new() }
    }

    fn name(&self) -> &str {
        let path = self.netns.as_deref().expect("a namespace");
        path.rsplit('/').next().unwrap_or(path)
    }

    /// Runs a command in the namespace, which must succeed.
    pub fn run(&self, command: &[&str]) -> String {
        run("nsenter", &[&[&*format!("--net={}", self.netns.as_deref().expect("a namespace"))], command].concat())
    }

    /// Whether the interface is there.
    pub fn has_interface(&self) -> bool {
        attempt("ip", &["-n", self.name(), "link", "show", &self.ifname]).status.success()
    }

    pub fn delete(&self) {
        run("ip", &["netns", "delete", self.name()]);
    }
}

impl Runtime {
    pub fn of(lab: &Lab, node: &str) -> Self {
        let (status, node) = (lab.status(), lab.node(node));
        let conflist = node["conflist"].as_str().expect("a list");
        let list = serde_json::from_str(&std::fs::read_to_string(conflist).expect("the list is there")).expect("JSON");
        let folder = |name: &str| status["programs"][name].as_str().expect("a folder").to_owned();
        let programs: Vec<String> = ["cniBinDir", "meshCniDir"].map(folder).to_vec();
        let cnitool = Path::new(&programs[0]).with_file_name("cnitool/cnitool");
        assert!(cnitool.exists(), "{} is not built: run scripts/setup test", cnitool.display());
        let supervisor = status["supervisor"]["pid"].to_string();
        Self { list, node, supervisor, cni_path: programs.join(":"), cnitool }
    }

    /// The same list in another version of the specification.
    pub fn in_version(&self, version: &str) -> Self {
        let mut other = self.clone();
        other.list["cniVersion"] = json!(version);
        other
    }

    /// The same list with `bridge` as the primary plugin, on a subnet of its own.
    pub fn with_bridge(&self) -> Self {
        let mut other = self.clone();
        let data = format!("{}/bridge-leases", self.node["cniDir"].as_str().expect("a folder"));
        other.list["name"] = json!("weft-bridge");
        other.list["plugins"][0] = json!({
            "type": "bridge", "bridge": "cni7", "isGateway": true,
            "ipam": {"type": "host-local", "dataDir": data, "ranges": [[{"subnet": "10.99.0.0/24"}], [{"subnet": "fd99::/64"}]],
                     "routes": [{"dst": "10.98.0.0/16"}]},
        });
        other
    }

    /// The same list with other settings for mesh-cni.
    pub fn with_mesh(&self, settings: &Value) -> Self {
        let mut other = self.clone();
        let fields = other.list["plugins"][1].as_object_mut().expect("mesh-cni is chained");
        fields.extend(settings.as_object().expect("settings").clone());
        other
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(self.node[name].as_str().unwrap_or_else(|| panic!("no {name} in {}", self.node)))
    }

    pub fn state(&self, folder: &str) -> PathBuf {
        self.path("stateDir").join(folder)
    }

    /// One plugin's configuration, as a runtime puts it together.
    pub fn conf(&self, plugin: usize, previous: Option<&Value>) -> Value {
        let mut conf = self.list["plugins"][plugin].clone();
        conf["cniVersion"] = self.list["cniVersion"].clone();
        conf["name"] = self.list["name"].clone();
        if let Some(previous) = previous {
            conf["prevResult"] = previous.clone();
        }
        conf
    }

    /// Starts one plugin in the node's namespace with this configuration.
    pub fn start(&self, verb: &str, conf: &Value, sandbox: Option<&Sandbox>) -> Child {
        let kind = conf["type"].as_str().expect("a type");
        let program = self.cni_path.split(':').map(|f| Path::new(f).join(kind)).find(|p| p.exists());
        let mut command = self.in_node(&program.unwrap_or_else(|| panic!("no plugin {kind} in {}", self.cni_path)));
        command.env("CNI_COMMAND", verb);
        if let Some(sandbox) = sandbox {
            command.env("CNI_CONTAINERID", &sandbox.id).env("CNI_IFNAME", &sandbox.ifname);
            command.env("CNI_ARGS", &sandbox.args).envs(sandbox.netns.iter().map(|n| ("CNI_NETNS", n)));
        }
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {kind}: {e}"));
        let mut stdin = child.stdin.take().expect("it is piped");
        stdin.write_all(conf.to_string().as_bytes()).expect("the plugin reads its configuration");
        child
    }

    fn in_node(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path("path").display())).arg(program).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("CNI_PATH", &self.cni_path);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Calls one plugin and waits for its answer.
    pub fn call(&self, verb: &str, conf: &Value, sandbox: Option<&Sandbox>) -> Called {
        let begin = Instant::now();
        finish(self.start(verb, conf, sandbox), begin)
    }

    /// mesh-cni alone.
    pub fn mesh(&self, verb: &str, sandbox: &Sandbox, previous: Option<&Value>) -> Called {
        self.call(verb, &self.conf(1, previous), Some(sandbox))
    }

    /// STATUS of mesh-cni.
    pub fn mesh_status(&self) -> Called {
        self.call("STATUS", &self.conf(1, None), None)
    }

    /// The primary plugin's ADD.
    pub fn add_primary(&self, sandbox: &Sandbox) -> Value {
        self.call("ADD", &self.conf(0, None), Some(sandbox)).result()
    }

    /// ADD through the chain; a failure of mesh-cni is answered after the primary's rollback, as a runtime does it.
    pub fn add(&self, sandbox: &Sandbox) -> Result<Value, Called> {
        let primary = self.add_primary(sandbox);
        let called = self.mesh("ADD", sandbox, Some(&primary));
        if called.success {
            return Ok(called.json());
        }
        self.del(sandbox, Some(&primary));
        Err(called)
    }

    /// ADD through the chain, which must succeed.
    pub fn must_add(&self, sandbox: &Sandbox) -> Value {
        self.add(sandbox).unwrap_or_else(|called| panic!("{called:?}"))
    }

    /// DEL through the chain, last plugin first; it must succeed.
    pub fn del(&self, sandbox: &Sandbox, previous: Option<&Value>) {
        for plugin in [1, 0] {
            let called = self.call("DEL", &self.conf(plugin, previous), Some(sandbox));
            assert!(called.success, "{called:?}");
        }
    }

    /// The same by libcni: `cnitool add|check|del|gc|status`.
    pub fn cnitool(&self, verb: &str, sandbox: &Sandbox) -> Output {
        let folder = PathBuf::from(scratch(&format!("net-{}", sandbox.name())));
        std::fs::create_dir_all(&folder).expect("the case's folder takes folders");
        std::fs::write(folder.join("10.conflist"), self.list.to_string()).expect("and files");
        let mut command = self.in_node(&self.cnitool);
        command.args([
            verb,
            self.list["name"].as_str().expect("a name"),
            sandbox.netns.as_deref().expect("a namespace"),
        ]);
        command.env("NETCONFPATH", &folder).env("CNI_IFNAME", &sandbox.ifname).env("CNI_ARGS", &sandbox.args);
        command.stdin(Stdio::null()).output().expect("cnitool runs")
    }

    /// What cnitool calls a sandbox.
    pub fn cnitool_id(&self) -> Vec<String> {
        self.attachments().into_iter().filter(|name| name.starts_with("cnitool-")).collect()
    }

    /// Names of the attachment files.
    pub fn attachments(&self) -> Vec<String> {
        names(&self.state("attachments"))
    }

    /// Names of the tombstones that wait.
    pub fn tombstones(&self) -> Vec<String> {
        names(&self.state("tombstones"))
    }

    /// Everything that an attachment leaves on a node while it is there, in words.
    pub fn traces(&self) -> String {
        let links = self.shell("ip -o link show type veth | sed 's/@.*//; s/^[0-9]*: //' | sort");
        let pins = self.shell("nft -s list table netdev weft | grep chain | sort; nft -s list set inet weft local4");
        let leases = names(&self.path("cniDir").join("leases").join(self.list["name"].as_str().unwrap_or_default()));
        let leases: Vec<_> = leases.into_iter().filter(|n| !n.starts_with("last_reserved") && n != "lock").collect();
        format!("{links}\n{pins}\n{leases:?}\n{:?}\n{:?}", self.attachments(), self.tombstones())
    }

    /// What a line of shell prints in the node's namespace.
    pub fn shell(&self, line: &str) -> String {
        let output = self.in_node(Path::new("sh")).args(["-c", line]).stdin(Stdio::null()).output().expect("sh");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until the node is as `before`.
    pub fn nothing_left(&self, before: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let now = self.traces();
            if now == before {
                return;
            }
            assert!(Instant::now() < deadline, "left behind:\n{now}\nbefore it was:\n{before}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What starts the daemon again.
    pub fn supervisor(&self) -> &str {
        &self.supervisor
    }

    /// The node's daemon.
    pub fn daemon(&self) -> String {
        self.node["pid"].to_string()
    }

    /// Ends the daemon with a signal and keeps the lab from starting it again.
    pub fn daemon_down(&self, signal: &str) {
        run("kill", &["-STOP", &self.supervisor]);
        end(signal, &self.daemon());
    }

    /// Lets the lab start it again; a runtime that sees the new one.
    pub fn daemon_up(&self, lab: &Lab) -> Self {
        run("kill", &["-CONT", &self.supervisor]);
        let name = self.node["name"].as_str().expect("a name");
        eventually("the daemon is back and ready", Duration::from_secs(20), || {
            let node = lab.node(name);
            (node["pid"] != self.node["pid"] && node["ready"] == true).then_some(())
        });
        Self { node: lab.node(name), ..self.clone() }
    }
}

/// Ends a process with a signal and waits until it has ended.
pub fn end(signal: &str, process: &str) {
    run("kill", &[signal, process]);
    // nobody may collect it: a zombie is as dead as can be
    let stat = format!("/proc/{process}/stat");
    eventually("the process has ended", Duration::from_secs(10), || match std::fs::read_to_string(&stat) {
        Ok(text) => text.contains(") Z ").then_some(()),
        Err(_) => Some(()),
    });
}

/// Waits for a started plugin.
pub fn finish(child: Child, begin: Instant) -> Called {
    let output = child.wait_with_output().expect("the plugin ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    Called { success: output.status.success(), stdout, stderr, took: begin.elapsed() }
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
