//! A pod as a case sees it: where it runs, its addresses, and commands in its network.

use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::net::IpAddr;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::cluster::Cluster;
use crate::shell::{attempt, eventually};

/// The repeating token in every payload of a capture case.
pub const MARKER: &str = "WEFT-MARKER-7f3a";

/// A running pod.
pub struct Pod {
    /// `namespace/name`.
    pub name: String,
    /// Its addresses, IPv4 first.
    pub ips: Vec<IpAddr>,
    pid: u32,
}

/// A Namespace manifest.
pub fn namespace(name: &str, enrolled: bool) -> String {
    let label = if enrolled { "enabled" } else { "disabled" };
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{weft.dev/mesh: {label}}}}}\n---\n")
}

/// A ServiceAccount and a Pod of it that serves its own name by HTTP on port 8080 and echoes on 9000; `extra` is added to the
/// only container (a flow map's inside, or empty).
pub fn pod(namespace: &str, name: &str, node: &str, extra: &str) -> String {
    let extra = if extra.is_empty() { String::new() } else { format!(", {extra}") };
    format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}, namespace: {namespace}}}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}\n\
         spec: {{nodeName: {node}, serviceAccountName: {name}, automountServiceAccountToken: false, \
         terminationGracePeriodSeconds: 0, containers: [{{name: main, \
         image: 'localhost/pod:1', imagePullPolicy: Never, command: [/bin/sh, -c, '{SERVE}']{extra}}}]}}\n---\n"
    )
}

/// The kubelet asks by HTTP whether it serves. A machine that is busy may take longer than a probe's usual second.
pub const READY: &str =
    "readinessProbe: {httpGet: {path: /name, port: 8080}, periodSeconds: 1, timeoutSeconds: 5, failureThreshold: 3}";

/// What a pod does: serves its host name by HTTP, and echoes. The web server, by which it is Ready, starts when the port of the
/// other (9000, as the kernel writes it) is open.
pub const SERVE: &str = "hostname > /www/name; nc -ll -p 9000 -e cat & \
    until grep -qs :2328 /proc/net/tcp /proc/net/tcp6; do sleep 0.02; done; exec httpd -f -p 8080 -h /www";

/// How long whoever must answer may take: a first word that was lost is repeated after 1, 3 and 7 s. Nothing that is timed waits so.
const ANSWER: u32 = 10;
/// How long is waited for an answer that must not come.
const REFUSAL: u32 = 2;

/// A PeerAuthentication without selector.
pub fn peer_authentication(namespace: &str, mode: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: PeerAuthentication\nmetadata: {{name: default, namespace: {namespace}}}\n\
         spec: {{mtls: {{mode: {mode}}}}}\n---\n"
    )
}

impl Cluster {
    /// Waits until kubectl prints this of a namespace's PeerAuthentication `default`: its mode, and how many enforce it.
    pub fn await_enforced(&self, namespace: &str, mode: &str, enforced: &str) {
        let what = format!("{namespace} is {mode}, enforced by {enforced}");
        eventually(&what, Duration::from_secs(90), || {
            // kubectl remembers for ten minutes what it discovered, and Istio's kind, which goes by the same short name, may be gone again
            let text = self.kubectl(&["-n", namespace, "get", "peerauthentications.weft.dev"]);
            let (titles, line) = (text.lines().next()?, text.lines().find(|line| line.starts_with("default "))?);
            assert!(titles.starts_with("NAME ") && titles.ends_with(" AGE"), "{text}");
            // the columns between may be empty
            let under = |title: &str| line.get(titles.find(title)?..)?.split(' ').next();
            let shown = (under("MODE"), under("ACCEPTED"), under("ENFORCED"));
            (shown == (Some(mode), Some("True"), Some(enforced))).then_some(())
        });
    }

    /// Waits until a pod (`namespace/name`) is Ready. After an API server was away that is up to 60 s for the kubelet to hear of it: its
    /// watches wait for up to 30 s, and as much again by chance (client-go's reflector).
    pub fn pod(&self, name: &str) -> Pod {
        let (namespace, short) = name.split_once('/').expect("namespace/name");
        let (facts, _) = eventually(&format!("pod {name} is Ready"), Duration::from_secs(240), || {
            // one look that lasts costs the machine less than many
            let wait = ["wait", "--for=condition=Ready", "--timeout=20s", "pod", short, "-o", "json"];
            let output = self.try_kubectl(&[&["-n", namespace], &wait[..]].concat());
            let facts: Value = serde_json::from_slice(&output.stdout).ok()?;
            facts["metadata"]["deletionTimestamp"].is_null().then_some(facts)
        });
        let ips = facts["status"]["podIPs"].as_array().expect("a Ready pod has addresses");
        let ips = ips.iter().map(|ip| ip["ip"].as_str().expect("text").parse().expect("an address")).collect();
        let uid = facts["metadata"]["uid"].as_str().expect("a pod has a UID");
        let (pid, _) = eventually(&format!("{name} has a process"), Duration::from_secs(60), || process_of(uid));
        Pod { name: name.to_owned(), ips, pid }
    }

    /// How often the kubelet of a pod (`namespace/name`) has found it ready, by its own count.
    fn probes(&self, node: &str, name: &str) -> u64 {
        let (namespace, short) = name.split_once('/').expect("namespace/name");
        let text = self.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/metrics/probes")]);
        let wanted = [
            format!("namespace=\"{namespace}\""),
            format!("pod=\"{short}\""),
            "probe_type=\"Readiness\"".to_owned(),
            "result=\"successful\"".to_owned(),
        ];
        let is_ours = |line: &&str| line.starts_with("prober_probe_total{") && wanted.iter().all(|w| line.contains(w));
        let counts = text.lines().filter(is_ours).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        counts.sum()
    }

    /// Waits until the kubelet of a pod (`namespace/name`) has asked it anew, and was answered: that it is Ready says so only when three
    /// probes in turn would have failed. One may have been under way.
    pub fn await_probe(&self, node: &str, name: &str) {
        let before = self.probes(node, name);
        eventually(&format!("the kubelet's probes of {name} pass"), Duration::from_secs(60), || {
            (self.probes(node, name) >= before + 2).then_some(())
        });
    }

    /// Applies a namespace with pods and waits for all of them.
    pub fn pods(&self, in_namespace: &str, enrolled: bool, pods: &[(&str, &str)]) -> Vec<Pod> {
        let manifests: String = pods.iter().map(|(name, node)| pod(in_namespace, name, node, READY)).collect();
        self.apply(&(namespace(in_namespace, enrolled) + &manifests));
        pods.iter().map(|(name, _)| self.pod(&format!("{in_namespace}/{name}"))).collect()
    }

    /// The name that an HTTP server says to a program in a container (`pod` or `kind/name`); `host` may be what its shell makes of it.
    /// The static busybox of the image looks up no names for its own wget.
    pub fn get_inside(&self, namespace: &str, what: &str, host: &str, port: u16) -> String {
        let script = format!("printf 'GET /name HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {host} {port} | tail -n 1");
        let output = self.try_kubectl(&["-n", namespace, "exec", what, "--", "sh", "-c", &script]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until a node holds attachments of pods that live, and of no other.
    pub fn await_only_living(&self, node: &str) {
        eventually(&format!("{node} holds attachments of living pods only"), Duration::from_secs(180), || {
            let pods = self.json(&["get", "pods", "-A", &format!("--field-selector=spec.nodeName={node}")]);
            let living = pods["items"].as_array()?.iter().filter(|pod| pod["spec"]["hostNetwork"] != true).count();
            let held = self.must_on(node, "ls /var/lib/weft/attachments | wc -l");
            (held.trim().parse() == Ok(living)).then_some(())
        });
    }

    /// Deletes namespaces with everything in them. Their pods are deleted when this returns; the rest goes within some seconds, which
    /// the namespace controller waits on purpose (`namespaceDeletionGracePeriod`): no later case has a namespace of the same name.
    pub fn delete_namespaces(&self, names: &[&str]) {
        self.kubectl(&[&["delete", "namespace", "--wait=false"], names].concat());
        for name in names {
            // nobody makes another pod in a namespace that ends
            self.kubectl(&["-n", name, "delete", "pods", "--all", "--force", "--grace-period=0", "--timeout=240s"]);
        }
    }
}

/// Any process of a pod, by the pod's UID in its control group.
fn process_of(uid: &str) -> Option<u32> {
    let wanted = format!("pod{uid}");
    std::fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).find(
        |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|groups| groups.contains(&wanted)),
    )
}

impl Pod {
    /// Its address of one family.
    pub fn ip(&self, v6: bool) -> IpAddr {
        *self.ips.iter().find(|ip| ip.is_ipv6() == v6).unwrap_or_else(|| panic!("{} has {:?}", self.name, self.ips))
    }

    /// Runs a command of this machine in the pod's network.
    pub fn exec(&self, command: &[&str]) -> Output {
        let network = format!("--net=/proc/{}/ns/net", self.pid);
        attempt("nsenter", &[&[network.as_str()], command].concat())
    }

    /// Starts a command in the pod's network, to run beside the case.
    pub fn spawn(&self, command: &[&str]) -> Child {
        let mut child = Command::new("nsenter");
        child.arg(format!("--net=/proc/{}/ns/net", self.pid)).args(command);
        child.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        child.spawn().expect("nsenter (util-linux) runs")
    }

    /// Whether a ping of one packet is answered within a second.
    pub fn pings(&self, to: IpAddr) -> bool {
        self.exec(&["ping", "-n", "-c", "1", "-W", "1", &to.to_string()]).status.success()
    }

    /// Waits until a ping is answered; how long that took.
    pub fn pings_within(&self, to: IpAddr, within: Duration) -> Duration {
        eventually(&format!("{} pings {to}", self.name), within, || self.pings(to).then_some(())).1
    }

    /// The name that an HTTP server (`host:port`) says to one request, which must be answered.
    pub fn get(&self, to: &str) -> Option<String> {
        self.asks(to, ANSWER)
    }

    /// Whether one request to an HTTP server (`host:port`) goes unanswered for as long as [`REFUSAL`].
    pub fn is_refused_by(&self, to: &str) -> bool {
        self.asks(to, REFUSAL).is_none()
    }

    /// Whether the server answers within a second. What is dropped costs all of it: this is for what is asked again.
    pub fn reaches(&self, to: &str) -> bool {
        self.asks(to, 1).is_some()
    }

    fn asks(&self, to: &str, seconds: u32) -> Option<String> {
        let (url, seconds) = (format!("http://{to}/name"), seconds.to_string());
        let output = self.exec(&["curl", "-sgf", "--noproxy", "*", "-m", &seconds, &url]);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Waits until the server answers, or until it does not.
    pub fn gets(&self, to: &str, answers: bool) {
        let what = format!("{} {} {to}", self.name, if answers { "reaches" } else { "is refused by" });
        eventually(&what, Duration::from_secs(90), || (self.reaches(to) == answers).then_some(()));
    }

    /// As [`Pod::gets`] for many at once, each to every address of the server: what is refused takes its time side by side.
    pub fn all_get(why: &str, pods: &[(&Self, bool)], server: &Self, port: u16, within: Duration) {
        std::thread::scope(|scope| {
            for (pod, answers) in pods {
                for ip in &server.ips {
                    scope.spawn(move || {
                        let what = format!("{why}: {} reaches {ip}: {answers}", pod.name);
                        eventually(&what, within, || (pod.reaches(&at(*ip, port)) == *answers).then_some(()));
                    });
                }
            }
        });
    }

    /// Starts a conversation with a pod's echo server, a marked line every 20 ms, for so many seconds; returns when the first
    /// line has come back.
    pub fn talk(&self, to: IpAddr, seconds: u32) -> Talk {
        let script = "import signal,socket,sys,time\ns=socket.create_connection((sys.argv[1],9000),30)\ns.settimeout(120)\n\
                      f=s.makefile('rb')\nend=time.time()+float(sys.argv[2])\n\
                      def enough(*_):\n global end\n end=0\nsignal.signal(signal.SIGINT,enough)\nn=0\ngap=0\n\
                      while time.time()<end:\n l=b'%s %d\\n'%(sys.argv[3].encode(),n)\n b=time.time()\n s.sendall(l)\n\
                      \x20assert f.readline()==l\n gap=max(gap,time.time()-b)\n n+=1\n if n==1: print('up',flush=True)\n\
                      \x20time.sleep(0.02)\nprint(n,gap)";
        let mut child = self.spawn(&["python3", "-c", script, &to.to_string(), &seconds.to_string(), MARKER]);
        let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        let _count = output.read_line(&mut line).expect("it says when it is up");
        let talk = Talk { child, output };
        if line.trim() != "up" {
            talk.finish();
            panic!("{} does not talk with {to}", self.name);
        }
        talk
    }

    /// Sends text over one connection to the echo server of a pod and returns what comes back; it must answer.
    pub fn echo(&self, to: IpAddr, text: &str) -> Option<String> {
        self.echo_within(to, text, ANSWER)
    }

    /// Whether one connection to the echo server of a pod comes to nothing for as long as [`REFUSAL`].
    pub fn is_not_echoed_by(&self, to: IpAddr) -> bool {
        self.echo_within(to, MARKER, REFUSAL).is_none()
    }

    fn echo_within(&self, to: IpAddr, text: &str, seconds: u32) -> Option<String> {
        let script = "import socket,sys\ns=socket.create_connection((sys.argv[1],9000),int(sys.argv[3]))\nm=sys.argv[2].encode()\n\
                      s.sendall(m)\nd=b''\nwhile len(d)<len(m):\n c=s.recv(65536)\n if not c: break\n d+=c\n\
                      sys.stdout.write(d.decode())";
        let output = self.exec(&["python3", "-c", script, &to.to_string(), text, &seconds.to_string()]);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// A conversation that goes on.
pub struct Talk {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Talk {
    /// Ends it before its time, as [`Talk::finish`] does when that is over.
    pub fn enough(self) -> (u32, f64) {
        assert!(
            attempt("kill", &["-INT", &self.child.id().to_string()]).status.success(),
            "the conversation still runs"
        );
        self.finish()
    }

    /// Waits for its end: not a byte may be lost. How many lines came back, and the longest wait for one in seconds.
    pub fn finish(mut self) -> (u32, f64) {
        let (mut text, mut errors) = (String::new(), String::new());
        self.output.read_to_string(&mut text).expect("python3 writes text");
        self.child.stderr.take().expect("it is piped").read_to_string(&mut errors).expect("python3 writes text");
        let status = self.child.wait().expect("python3 ends");
        assert!(status.success(), "the connection broke: {text}{errors}");
        let (count, gap) = text.trim().split_once(' ').expect("two numbers");
        (count.parse().expect("a number"), gap.parse().expect("a number"))
    }
}

/// `host:port` with brackets where needed.
pub fn at(ip: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(ip, port).to_string()
}

/// Where the last word of a capture goes: a port of the first node on which nobody listens.
const LAST_PLACE: &str = "10.77.0.11:9";

/// A capture on the bridge between the nodes.
pub struct Capture {
    child: Child,
    file: std::path::PathBuf,
}

impl Cluster {
    /// Starts capturing on the wire between the nodes.
    pub fn capture(&self) -> Capture {
        let file = self.dir.join("wire.pcap");
        let mut child = Command::new("tcpdump")
            .args(["--immediate-mode", "-U", "-n", "-s0", "-B", "16384", "-i", "br0", "-w"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tcpdump runs");
        let stderr = child.stderr.take().expect("it is piped");
        let mut lines = BufReader::new(stderr).lines();
        let listening = lines.by_ref().map_while(Result::ok).any(|line| line.contains("listening on"));
        assert!(listening, "tcpdump does not capture");
        Capture { child, file }
    }
}

impl Capture {
    /// Ends it; how often the marker was on the wire. All that was there before this call is counted: it waits until the capture
    /// holds a word that it sends itself.
    pub fn markers(mut self) -> usize {
        const LAST: &[u8] = b"the last word of this capture";
        let sender = std::net::UdpSocket::bind("0.0.0.0:0").expect("there is a port");
        eventually("the capture holds its last word", Duration::from_secs(60), || {
            // the node may answer that nobody is there
            let _sent = sender.send_to(LAST, LAST_PLACE);
            std::thread::sleep(Duration::from_millis(5));
            let (mut file, mut end) = (std::fs::File::open(&self.file).expect("the capture is there"), Vec::new());
            let length = file.metadata().expect("it has a length").len();
            file.seek(SeekFrom::Start(length.saturating_sub(1 << 16))).expect("a file has places");
            file.read_to_end(&mut end).expect("it is readable");
            end.windows(LAST.len()).any(|window| window == LAST).then_some(())
        });
        assert!(attempt("kill", &["-INT", &self.child.id().to_string()]).status.success(), "tcpdump runs");
        self.child.wait().expect("tcpdump ends");
        let bytes = std::fs::read(&self.file).expect("the capture is there");
        bytes.windows(MARKER.len()).filter(|window| *window == MARKER.as_bytes()).count()
    }
}
