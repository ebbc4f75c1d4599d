//! Policies by the thousand: compiled and applied, changed one by one, followed by a node, and what they cost a packet.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use policy::nft::{self, Here, Program, Scribe};
use policy::{Compiler, Policies, World};

use crate::lab::Lab;
use crate::policies::{HERE, Load, documents};
use crate::report::Report;
use crate::sections::{Prober, memory, monotonic};
use crate::shell::run;

/// 10,000 policies, each of which lets ten pods in: 100,000 members of selectors.
const MANY: Load = Load { pods: 1_000, policies: 10_000 };

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Runs a script by `nft` in the calling thread's namespace; how long that took.
fn apply(script: &str) -> Duration {
    let begin = Instant::now();
    let mut child =
        Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("nft runs");
    child.stdin.take().expect("it is piped").write_all(script.as_bytes()).expect("nft reads");
    let output = child.wait_with_output().expect("nft ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    begin.elapsed()
}

fn program((compiler, scribe): &mut (Compiler, Scribe), policies: &Policies, world: &World) -> Program {
    let rules = compiler.compile(policies, world, Some(HERE));
    scribe.program(&rules, &Here { node: HERE, members: &BTreeSet::new() })
}

/// All sections about policies.
pub fn policy(report: &mut Report) {
    compiled(report);
    carried(report);
}

fn compiled(report: &mut Report) {
    let (world, mut policies) = (MANY.world(), MANY.policies());
    let mut compiler = Default::default();
    let begin = Instant::now();
    let mut held = program(&mut compiler, &policies, &world);
    let compile = begin.elapsed();
    let script = held.whole(|_| (0, 0));
    let whole = begin.elapsed();
    report.figure("10k policies: compiled", millis(compile), "ms", None);
    report.figure("10k policies: script", script.len() as f64 / 1e6, "MB", None);
    let applied = apply(&script);
    report.figure("10k policies: applied by nft", millis(applied), "ms", None);
    report.figure("10k policies: compiled and applied", (whole + applied).as_secs_f64(), "s", Some(2.0));
    let (mut compiling, mut applying, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..20 {
        let number = round * 401;
        policies.network[number] = MANY.parsed(number, 1).into();
        let begin = Instant::now();
        let wanted = program(&mut compiler, &policies, &world);
        let script = held.difference(&wanted);
        compiling.push(millis(begin.elapsed()));
        applying.push(millis(apply(&script)));
        sizes.push(script.len() as f64 / 1e3);
        held = wanted;
    }
    report.spread("one change among 10k: compiled", compiling, "ms", (None, None));
    report.spread("one change among 10k: applied by nft", applying, "ms", (None, None));
    report.spread("one change among 10k: script", sizes, "kB", (None, None));
    policies.network[0] = MANY.parsed(0, 2).into();
    let wanted = program(&mut compiler, &policies, &world);
    let bytes = netlink_bytes(&held.difference(&wanted));
    report.figure("one change among 10k: netlink, both ways", bytes as f64 / 1e6, "MB", Some(1.0));
    run("nft", &["flush", "ruleset"]);
}

/// Bytes that `nft` sends to the kernel and gets from it when it runs a script: the results of its calls (strace).
fn netlink_bytes(script: &str) -> u64 {
    let calls = "trace=sendmsg,sendto,recvmsg,recvfrom";
    let mut child = Command::new("strace")
        .args(["-qq", "-s", "0", "-e", calls, "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("strace runs: `scripts/setup test` installs it");
    child.stdin.take().expect("it is piped").write_all(script.as_bytes()).expect("nft reads");
    let output = child.wait_with_output().expect("nft ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stderr);
    let result = |line: &str| line.rsplit_once(" = ")?.1.split_whitespace().next()?.parse::<u64>().ok();
    text.lines().filter(|line| !line.contains("MSG_PEEK")).filter_map(result).sum()
}

/// What stands before and after the policies, as `meshd/src/kernel` writes it where their packets come by: the bit of the mesh's
/// filter, and the guard `inet weft_guard` that asks for both.
fn guard() -> String {
    let (before, both) = (nft::BEFORE_MARK, nft::BEFORE_MARK | nft::JUDGED_MARK);
    let hook = |priority: i8| format!("type filter hook forward priority {priority}; policy accept;");
    format!(
        "table inet filter_before {{\nchain forward {{\n{}\nmeta mark set meta mark or {before:#010x}\n}}\n}}\n\
         table inet weft_guard {{\ncounter rules_missing {{\n}}\nchain forward {{\n{}\nmeta mark and {both:#010x} == {both:#010x} accept\n\
         ip saddr {{ 10.200.0.0/16 }} counter name rules_missing drop\nip daddr {{ 10.200.0.0/16 }} counter name rules_missing drop\n}}\n}}\n",
        hook(-5),
        hook(-1)
    )
}

/// One stream to a pod that policies are about, packet by packet: through ten policies, and through ten thousand, the guard
/// behind them; and through these without the guard.
fn carried(report: &mut Report) {
    let few = Load { policies: 10, ..MANY };
    // policy 0 is about pod 0, and lets pod 300 in at port 1000
    let ends = [("here", 0), ("there", 300)].map(|(name, pod)| (name, Load::addresses(pod)[0].to_string()));
    for (name, address) in &ends {
        run("ip", &["netns", "add", name]);
        run("ip", &["link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name]);
        run("ip", &["link", "set", name, "up"]);
        run("ip", &["route", "add", address, "dev", name]);
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/proxy_arp"), "1").expect("a switch");
        run("ip", &["-n", name, "addr", "add", &format!("{address}/8"), "dev", "eth0"]);
        run("ip", &["-n", name, "link", "set", "eth0", "up"]);
        // no packet stands for many
        run("ethtool", &["-K", name, "tso", "off", "gso", "off", "gro", "off"]);
        run("ip", &["netns", "exec", name, "ethtool", "-K", "eth0", "tso", "off", "gso", "off", "gro", "off"]);
    }
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("a switch");
    let [(server, to), (client, _)] = &ends;
    let receive = "import socket\ns=socket.create_server(('',1000))\nprint(1,flush=True)\nwhile 1:\n c=s.accept()[0]\n while c.recv(1<<20): pass";
    let mut receiver = Command::new("ip")
        .args(["netns", "exec", server, "python3", "-c", receive])
        .stdout(Stdio::piped())
        .spawn()
        .expect("ip runs");
    let mut ready = [0; 2];
    receiver.stdout.as_mut().expect("it is piped").read_exact(&mut ready).expect("it listens");
    let send = format!(
        "import socket,time\ns=socket.create_connection(('{to}',1000),5)\nb=bytes(1<<16)\nt=time.time()\nn=0\nwhile time.time()<t+1: s.sendall(b); n+=len(b)\nprint(n*8/(time.time()-t)/1e9)"
    );
    // nobody listens there: whoever is let through hears so at once
    let refused = format!(
        "import socket\ntry: socket.create_connection(('{to}',999),0.3)\nexcept TimeoutError: print('no answer')\nexcept ConnectionRefusedError: print('let through')"
    );
    let [few, many] =
        [few, MANY].map(|load| program(&mut Default::default(), &load.policies(), &load.world()).whole(|_| (0, 0)));
    let unguarded = "add table inet filter_before\ndelete table inet filter_before\nadd table inet weft_guard\ndelete table inet weft_guard\n";
    let scripts =
        [[unguarded, &guard(), &few], [unguarded, &guard(), &many], [unguarded, "", &many]].map(|parts| parts.concat());
    let (mut ratios, mut guarded) = (Vec::new(), Vec::new());
    let mut streams = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..7 {
        for (script, rates) in scripts.iter().zip(&mut streams) {
            apply(script);
            assert_eq!(run("ip", &["netns", "exec", client, "python3", "-c", &refused]).trim(), "no answer");
            let text = run("ip", &["netns", "exec", client, "python3", "-c", &send]);
            rates.push(text.trim().parse::<f64>().expect("Gbit/s"));
        }
        let [few, many, bare] = streams.each_ref().map(|rates| rates.last().expect("one"));
        ratios.push(many / few);
        guarded.push(many / bare);
    }
    let [few, many, bare] = streams;
    report.spread("one stream, each packet by itself, 10 policies", few, "Gbit/s", (None, None));
    report.spread("the same, 10k policies", many, "Gbit/s", (None, None));
    report.spread("the same, 10k policies, no guard behind them", bare, "Gbit/s", (None, None));
    ratios.sort_by(f64::total_cmp);
    guarded.sort_by(f64::total_cmp);
    report.figure("10k policies' stream to 10's, median of 7", ratios[ratios.len() / 2], "", None);
    report.figure(
        "10k policies' stream to the same without the guard, median of 7",
        guarded[guarded.len() / 2],
        "",
        None,
    );
    let _gone = receiver.kill();
    let _reaped = receiver.wait();
    run("nft", &["flush", "ruleset"]);
}

/// A lab of three nodes with 1,000 pods that only manifests know, 250 of them on the node that is looked at, and what is written into it.
struct Crowd {
    _lab: Lab,
    directory: String,
    supervisor: String,
    prober: Prober,
    /// The daemon that is looked at.
    pid: u32,
}

impl Crowd {
    fn new() -> Self {
        let lab = Lab::of_four("nodes: 3");
        let supervisor = lab.status()["supervisor"]["pid"].to_string();
        // who answers for the lab stands still from now on
        let directory = lab.directory();
        let pid = lab.node("n1")["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("the daemon runs");
        let prober = Prober::start(&lab, "plain/client", "plain/server");
        prober.next();
        // the lab would make sandboxes for all pods of its nodes
        run("kill", &["-STOP", &supervisor]);
        let crowd = Self { _lab: lab, directory, supervisor, prober, pid };
        let file = format!("{}/load-world.yaml", crowd.directory);
        std::fs::write(file, documents(&MANY.world_manifests())).expect("it takes files");
        crowd
    }

    /// Only pods of this name may talk to the server that the prober asks.
    fn only_from(&self, app: &str) {
        let directory = &self.directory;
        let text = format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: plain}}\n\
             spec: {{podSelector: {{matchLabels: {{app: server}}}}, ingress: [{{from: [{{podSelector: {{matchLabels: {{app: {app}}}}}}}]}}]}}\n"
        );
        std::fs::write(format!("{directory}/.probe"), text).expect("it takes files");
        std::fs::rename(format!("{directory}/.probe"), format!("{directory}/probe.yaml")).expect("a rename");
    }

    /// Writes so many policies, a file each.
    fn policies(&self, load: &Load) {
        for (number, policy) in load.policy_manifests().iter().enumerate() {
            let file = format!("{}/load-policy{number}.yaml", self.directory);
            std::fs::write(file, policy.to_string()).expect("it takes files");
        }
    }

    fn memory(&self, report: &mut Report) {
        let figure = |name| memory(self.pid, name);
        report.figure("meshd node, 10k policies: resident set", figure("VmRSS:"), "MiB", Some(100.0));
        report.figure("meshd node, 10k policies: most resident", figure("VmHWM:"), "MiB", None);
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        run("kill", &["-CONT", &self.supervisor]);
    }
}

/// What a node that follows 10,000 policies has resident, when they have come and when one of them has changed.
pub fn remembered(report: &mut Report) {
    let crowd = Crowd::new();
    let before = memory(crowd.pid, "VmRSS:");
    crowd.policies(&MANY);
    for app in ["nobody", "client", "nobody"] {
        crowd.only_from(app);
        if app == "client" {
            crowd.prober.next();
        } else {
            crowd.prober.last(Duration::from_secs(10));
        }
    }
    report.figure("meshd node, 1k pods and no policies: resident set", before, "MiB", None);
    crowd.memory(report);
}

/// 1,000 policies that a node follows, and then 10,000; a real pod is let in or not.
pub fn followed(report: &mut Report) {
    let few = Load { policies: 1_000, ..MANY };
    let crowd = Crowd::new();
    let prober = &crowd.prober;
    crowd.policies(&few);
    let (begin_clock, offset) = monotonic();
    let now = || offset + begin_clock.elapsed().as_secs_f64();
    let rounds = |rounds: u32| {
        let (mut closing, mut opening) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let begin = now();
            crowd.only_from("nobody");
            let last = prober.last(Duration::from_millis(800));
            closing.push((if last.is_finite() { last } else { begin } - begin) * 1000.0);
            let begin = now();
            crowd.only_from("client");
            opening.push((prober.next() - begin) * 1000.0);
            prober.drain();
        }
        (closing, opening)
    };
    rounds(3);
    let goal = (Some(100.0), Some(500.0));
    let (closing, opening) = rounds(50);
    report.spread("1k pods, 1k policies: a deny written until it cuts", closing, "ms", goal);
    report.spread("1k pods, 1k policies: written until it is let in", opening, "ms", goal);
    crowd.policies(&MANY);
    let begin = now();
    crowd.only_from("nobody");
    let last = prober.last(Duration::from_secs(10));
    report.figure("9k policies more written until the last counts", last.max(begin) - begin, "s", None);
    crowd.only_from("client");
    prober.next();
    prober.drain();
    let (closing, opening) = rounds(10);
    report.spread("1k pods, 10k policies: a deny written until it cuts", closing, "ms", (None, None));
    report.spread("1k pods, 10k policies: written until it is let in", opening, "ms", (None, None));
    crowd.memory(report);
}
