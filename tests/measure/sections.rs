//! What is measured. Goals are those the project has set itself for the spine.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::attack::{floods, peers};
use crate::churn::churn;
use crate::lab::{Lab, namespace, peer_authentication, pod, program};
use crate::policy::{followed, policy, remembered};
use crate::programs::{CHILDREN, newcomer, prober};
use crate::report::Report;
use crate::shell::{eventually, run};

/// A section: its name, and what it does.
pub type Section = (&'static str, fn(&mut Report));

pub const ALL: &[Section] = &[
    ("up", up),
    ("plugin", plugin),
    ("modes", modes),
    ("newcomers", newcomers),
    ("plain", plain),
    ("crowd", crowd),
    ("peers", peers),
    ("floods", floods),
    ("churn", churn),
    ("policy", policy),
    ("followed", followed),
    ("remembered", remembered),
];

const LONG: Duration = Duration::from_secs(120);

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Pods of one node, each with an account of its own where `own_account`.
fn crowd_of(node: &str, first: u32, count: u32, own_account: bool) -> String {
    let one = |number: u32| {
        let name = format!("{node}-{number}");
        let account = if own_account { name.clone() } else { "crowd".to_owned() };
        pod("crowd", &name, node, &account, "")
    };
    (first..first + count).map(one).collect()
}

fn wait_running(lab: &Lab, how_many: usize) {
    eventually("all pods run", LONG, || {
        let status = lab.status();
        let pods = status["pods"].as_array()?;
        (pods.iter().filter(|p| p["phase"] == "Running").count() >= how_many).then_some(())
    });
}

/// A lab of 3 nodes and 12 pods.
fn up(report: &mut Report) {
    let pods: String = ["n1", "n2", "n3"].iter().map(|node| crowd_of(node, 0, 4, true)).collect();
    let begin = Instant::now();
    let lab = Lab::up("nodes: 3", &[namespace("crowd", true), pods].concat());
    wait_running(&lab, 12);
    report.figure("lab up of 3 nodes and 12 pods", begin.elapsed().as_secs_f64(), "s", Some(10.0));
}

/// The courier alone: starting, asking the daemon, ending.
fn plugin(report: &mut Report) {
    let lab = Lab::of_four("nodes: 3\nfamilies: [ipv4]");
    let socket = lab.node("n1")["cniSocket"].as_str().expect("a socket").to_owned();
    let config = format!(r#"{{"cniVersion":"1.1.0","name":"weft","type":"mesh-cni","socket":"{socket}"}}"#);
    let file = crate::lab::scratch("status.json");
    std::fs::write(&file, config).expect("the folder takes files");
    let command = format!("CNI_COMMAND=STATUS exec {} < {file}", program("mesh-cni"));
    let text = run("python3", &["-c", CHILDREN, "200", "sh", "-c", &command]);
    let figures: Vec<f64> = text.lines().map(|line| line.parse().expect("a number")).collect();
    report.spread("mesh-cni STATUS, process and all", figures, "ms", (Some(5.0), None));
    report.figure("mesh-cni, most resident while it waits for an answer", waiting_plugin(), "MiB", Some(8.0));
}

/// The most that a mesh-cni had resident until it waited for a daemon that does not answer, in MiB.
fn waiting_plugin() -> f64 {
    let socket = crate::lab::scratch("silent.sock");
    let listener = UnixListener::bind(&socket).expect("the folder takes sockets");
    let mut child = Command::new(program("mesh-cni"))
        .env("CNI_COMMAND", "STATUS")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("mesh-cni runs");
    let config = format!(r#"{{"cniVersion":"1.1.0","name":"weft","type":"mesh-cni","socket":"{socket}"}}"#);
    child.stdin.take().expect("it is piped").write_all(config.as_bytes()).expect("it reads");
    let (stream, _) = listener.accept().expect("it asks");
    BufReader::new(stream).read_line(&mut String::new()).expect("it asks in a line");
    let most = memory(child.id(), "VmHWM:");
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    most
}

/// A line of /proc/PID/status in MiB.
pub fn memory(pid: u32, name: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = text.lines().find(|line| line.starts_with(name)).expect("every process has memory");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).expect("a number") / 1024.0
}

/// A prober's echoes, as they come: when each came, in seconds.
pub struct Prober {
    child: Child,
    echoes: Receiver<f64>,
}

impl Prober {
    pub fn start(lab: &Lab, from: &str, to: &str) -> Self {
        let mut child = lab.spawn(from, &["python3", "-c", &prober(lab.ip(to, false))]);
        let stdout = child.stdout.take().expect("it is piped");
        let (sender, echoes) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let came = line.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("two numbers");
                if sender.send(came).is_err() {
                    break;
                }
            }
        });
        Self { child, echoes }
    }

    /// Waits for silence of `quiet`; when the last echo before it came.
    pub fn last(&self, quiet: Duration) -> f64 {
        let mut last = f64::NAN;
        while let Ok(came) = self.echoes.recv_timeout(quiet) {
            last = came;
        }
        last
    }

    /// Waits for the next echo.
    pub fn next(&self) -> f64 {
        self.echoes.recv_timeout(Duration::from_secs(10)).expect("an echo comes")
    }

    /// Forgets what has come.
    pub fn drain(&self) {
        while self.echoes.try_recv().is_ok() {}
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        let _over = self.child.kill();
        let _over = self.child.wait();
    }
}

/// This process's clock as programs in pods read theirs: an instant, and what CLOCK_MONOTONIC said then, in seconds. It is late by
/// the time that a line takes through a pipe.
pub fn monotonic() -> (Instant, f64) {
    let mut child = Command::new("python3")
        .args(["-c", "import time;print(time.monotonic(),flush=True)"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is there");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).expect("it prints");
    let instant = Instant::now();
    child.wait().expect("it ends");
    (instant, line.trim().parse().expect("a number"))
}

/// From a changed manifest until strangers are refused, or served again, on both nodes.
fn modes(report: &mut Report) {
    let lab = Lab::of_four("nodes: 3\nfamilies: [ipv4]");
    let probers = [
        Prober::start(&lab, "plain/client", "demo/server"),
        Prober::start(&lab, "plain/server", "demo/server"),
        Prober::start(&lab, "plain/client", "demo/client"),
    ];
    for prober in &probers {
        prober.next();
    }
    let (begin_clock, offset) = monotonic();
    let now = || offset + begin_clock.elapsed().as_secs_f64();
    let (mut closing, mut opening, mut labels) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..25 {
        let begin = now();
        lab.put("mode.yaml", &peer_authentication("demo", "STRICT"));
        let last = probers.iter().map(|p| p.last(Duration::from_millis(700)));
        closing.push((last.filter(|l| l.is_finite()).fold(begin, f64::max) - begin) * 1000.0);
        let begin = now();
        lab.put("mode.yaml", &peer_authentication("demo", "PERMISSIVE"));
        opening.push((probers.iter().map(Prober::next).fold(begin, f64::max) - begin) * 1000.0);
        for prober in &probers {
            prober.drain();
        }
    }
    report.spread("STRICT to effect on both nodes", closing, "ms", (None, Some(500.0)));
    report.spread("PERMISSIVE to effect on both nodes", opening, "ms", (None, Some(500.0)));
    drop(probers);
    for round in 0..50 {
        let enrolled = round % 2 == 0;
        let begin = Instant::now();
        lab.put("plain.yaml", "");
        lab.apply(&namespace("plain", enrolled));
        loop {
            let phase = |node: &str, pod: &str| {
                let rows = lab_rows(&lab, node);
                rows.iter().find(|row| row["pod"] == pod).map(|row| (row["enrolled"].clone(), row["phase"].clone()))
            };
            let is_there = [("n3", "plain/client"), ("n1", "plain/server")].iter().all(|(node, pod)| {
                phase(node, pod).is_some_and(|(on, phase)| on == enrolled && (!enrolled || phase == "Enforced"))
            });
            if is_there {
                break;
            }
            assert!(begin.elapsed() < LONG, "the label has no effect");
        }
        labels.push(millis(begin.elapsed()));
    }
    report.spread("label to effect on both nodes", labels, "ms", (None, Some(500.0)));
}

fn lab_rows(lab: &Lab, node: &str) -> Vec<serde_json::Value> {
    lab.ask(node, "status")["attachments"].as_array().cloned().unwrap_or_default()
}

/// New pods, each with an identity that nobody has met: their first packet, and how much later it is than their second.
fn newcomers(report: &mut Report) {
    let lab = Lab::of_four("nodes: 3\nfamilies: [ipv4]");
    let server = lab.ip("demo/server", false);
    let (mut first, mut extra, mut lost) = (Vec::new(), Vec::new(), 0);
    for number in 0..40 {
        let name = format!("new{number}");
        let script: String = newcomer(server).lines().map(|line| format!("{line}\n")).collect();
        let command = serde_json::json!(["python3", "-c", script]);
        let manifest = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: demo}}\n\
             spec: {{nodeName: n1, serviceAccountName: {name}, containers: [{{name: main, command: {command}}}]}}\n---\n"
        );
        lab.apply(&manifest);
        let log = eventually("the new pod has a log", LONG, || {
            let status = lab.status();
            let pod = status["pods"].as_array()?.iter().find(|p| p["name"] == name.as_str())?.clone();
            Some(pod["log"].as_str()?.to_owned())
        })
        .0;
        let text = eventually("it has asked twice", LONG, || {
            std::fs::read_to_string(&log).ok().filter(|text| text.contains("second "))
        })
        .0;
        let figure = |word: &str| -> Option<f64> {
            let (_, rest) = text.split_once(&format!("{word} "))?;
            rest.split_whitespace().next()?.parse().ok()
        };
        match (figure("first"), figure("second")) {
            (Some(one), Some(two)) => {
                first.push(one);
                extra.push(one - two);
            }
            _ => lost += 1,
        }
    }
    report.figure("first packets of new pods that are lost, of 40", f64::from(lost), "packets", Some(0.0));
    report.spread("first echo of a new pod, from ADD's return", first, "ms", (None, Some(300.0)));
    report.spread("first echo of a new pod, more than its second", extra, "ms", (Some(50.0), None));
}

/// How long ADD took for each pod of n1, in milliseconds.
fn adds_of_n1(lab: &Lab) -> Vec<f64> {
    let status = lab.status();
    let pods = status["pods"].as_array().expect("pods").iter().filter(|p| p["node"] == "n1");
    pods.map(|p| p["addMicros"].as_f64().expect("a time") / 1000.0).collect()
}

/// What the chain takes without mesh-cni: the floor that this machine and the primary plugin set.
fn plain(report: &mut Report) {
    let lab = Lab::up_with("nodes: 3\nfamilies: [ipv4, ipv6]", &namespace("crowd", false), &["--no-mesh"]);
    for first in (0..200).step_by(10) {
        lab.apply(&crowd_of("n1", first, 10, false));
        wait_running(&lab, usize::try_from(first + 10).expect("a few"));
    }
    report.spread("ADD through the chain without mesh-cni, 10 at a time", adds_of_n1(&lab), "ms", (None, None));
}

/// 200 pods on one node, 10 at a time, and 50 identities elsewhere.
fn crowd(report: &mut Report) {
    let lab = Lab::up("nodes: 3\nfamilies: [ipv4, ipv6]", &namespace("crowd", true));
    let mut running = 0;
    for (node, count, own) in [("n1", 200, false), ("n2", 25, true), ("n3", 25, true)] {
        for first in (0..count).step_by(10) {
            lab.apply(&crowd_of(node, first, 10.min(count - first), own));
            running += usize::try_from(10.min(count - first)).expect("a few");
            wait_running(&lab, running);
        }
    }
    report.spread("ADD through the whole chain, 10 at a time", adds_of_n1(&lab), "ms", (Some(60.0), Some(250.0)));
    for number in 0..25 {
        for node in ["n2", "n3"] {
            lab.pings_within("crowd/n1-0", lab.ip(&format!("crowd/{node}-{number}"), false), Duration::from_secs(5));
        }
    }
    let peers = lab.ask("n1", "status")["peers"]["sessions"].as_f64().expect("a number");
    report.figure("sessions of n1", peers, "sessions", None);
    let resident = || {
        let pid = lab.node("n1")["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("the daemon runs");
        memory(pid, "VmRSS:")
    };
    report.figure("meshd node, 200 pods and 50 peers: resident set", resident(), "MiB", Some(40.0));
    let mut pauses = Vec::new();
    for _ in 0..5 {
        let prober = Prober::start(&lab, "crowd/n1-0", "crowd/n2-0");
        let mut last = prober.next();
        let old = lab.node("n1")["pid"].clone();
        run("kill", &["-9", &old.to_string()]);
        let mut longest: f64 = 0.0;
        // the lab's supervisor waits 0.2 s before it starts a daemon again, and longer when the last one ran for less than 10 s
        let until = Instant::now() + Duration::from_secs(12);
        while Instant::now() < until {
            let came = prober.next();
            longest = longest.max(came - last);
            last = came;
        }
        pauses.push(longest * 1000.0);
        eventually("the daemon is back", LONG, || (lab.node("n1")["ready"] == true).then_some(()));
    }
    report.spread("kill -9 of meshd node with 200 pods: pause of traffic", pauses, "ms", (Some(1000.0), None));
    report.figure("meshd node after its restarts: resident set", resident(), "MiB", Some(40.0));
}
