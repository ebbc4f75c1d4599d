//! NP, S, F7, F15: what a matrix cannot show of policies: new pods, live flows, other protocols, storms, refusals.

use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::process::Child;
use std::time::{Duration, Instant};

use crate::agent::Agents;
use crate::lab::{Lab, namespace, pod, program};
use crate::runtime::{Runtime, Sandbox};
use crate::shell::{eventually, run};

pub const CASES: &[(&str, fn())] = &[
    ("s04_s05_a_new_pod_is_isolated_before_its_first_packet", new_pod),
    ("s06_np_05_np_13_f15_a_new_deny_cuts_live_flows", live_flows),
    ("s07_default_deny_covers_every_protocol", protocols),
    ("s13_s14_np_15_one_of_two_goes_and_what_cannot_be_read_lets_nobody_in", refusals),
    ("s15_np_16_a_storm_of_updates_and_a_killed_daemon_open_nothing", storm),
    ("f7_only_who_is_authorized_by_its_key_gets_in_and_refusals_say_who_and_why", authorization),
];

pub(super) const SOON: Duration = Duration::from_secs(5);
/// Within which a deny must have cut a flow.
const CUT: Duration = Duration::from_secs(1);

/// A NetworkPolicy whose spec is written as a flow map's inside.
pub(super) fn network_policy(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n---\n"
    )
}

pub(super) const CLOSED: &str = "podSelector: {}, policyTypes: [Ingress, Egress]";

/// Two members on one node and one on another, two that are none beside them. Each serves what [`Agents`] serve.
pub(super) fn five(config: &str) -> Lab {
    let pods =
        [("demo", "a", "n1"), ("demo", "b", "n1"), ("demo", "far", "n2"), ("plain", "c", "n1"), ("plain", "out", "n2")];
    let pods = pods.map(|(namespace, name, node)| idle_pod(namespace, name, node));
    Lab::up(config, &[namespace("demo", true), namespace("plain", false), pods.concat()].concat())
}

pub(super) const FIVE: [&str; 5] = ["demo/a", "demo/b", "demo/far", "plain/c", "plain/out"];

pub(super) fn idle_pod(namespace: &str, name: &str, node: &str) -> String {
    let containers = "containers: [{name: main, command: [sleep, infinity]}]";
    pod(namespace, name, node, name, &format!("app: {name}")).replace("containers: [{name: main}]", containers)
}

/// Waits until a question about a pair has this answer, over both families.
pub(super) fn until(agents: &mut Agents, open: bool, from: &str, to: &str, protocol: &str, port: u16) {
    let what = format!("{from} reaches {to} by {protocol} {port}: {open}");
    eventually(&what, SOON, || {
        let both = [false, true];
        let over = agents.reach(from, to, &both, protocol, port);
        (over == if open { &both[..] } else { &[] }).then_some(())
    });
}

/// Whether a place without agent is answered at a port of one.
pub(super) fn reaches_from(lab: &Lab, place: &str, to: IpAddr, port: u16) -> bool {
    lab.tcp_echo(place, to, port, "probe").as_deref() == Some("probe")
}

/// S4, S5: a sandbox sends all the time, from before its ADD; what is allowed to it begins at once, what is not never does.
fn new_pod() {
    let lab = five("nodes: 2");
    let mut agents = Agents::start(&lab, &FIVE);
    let closed = network_policy(
        "demo",
        "closed",
        "podSelector: {matchLabels: {app: new}}, policyTypes: [Ingress, Egress], \
         egress: [{to: [{podSelector: {matchLabels: {app: far}}}]}], ingress: [{from: [{podSelector: {matchLabels: {app: far}}}]}]",
    );
    lab.put("policy.yaml", &closed);
    let runtime = Runtime::of(&lab, "n1");
    let sandbox =
        Sandbox { args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME=new".to_owned(), ..Sandbox::new("new") };
    let ports: Vec<_> = ["demo/a", "demo/b", "plain/c", "plain/out"].iter().flat_map(|pod| lab.ips(pod)).collect();
    let far = lab.ips("demo/far");
    let listener = |pod: &str| {
        let script = "import socket,select\nss=[]\nfor f in (socket.AF_INET,socket.AF_INET6):\n s=socket.socket(f,socket.SOCK_DGRAM)\n \
                      if f==socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6,socket.IPV6_V6ONLY,1)\n s.bind(('',9))\n ss.append(s)\n\
                      print('ready',flush=True)\nwhile True:\n for s in select.select(ss,[],[])[0]: s.recv(100); print('got',flush=True)";
        let mut child = lab.spawn(pod, &["python3", "-u", "-c", script]);
        let lines = lines_of(&mut child);
        assert_eq!(lines.recv().expect("it starts"), "ready");
        (child, lines)
    };
    let others = ["demo/a", "demo/b", "plain/c", "plain/out"].map(listener);
    let wanted = listener("demo/far");
    let destinations: Vec<_> = ports.iter().chain(&far).map(|ip| format!("'{ip}'")).collect();
    let sender = format!(
        "import socket,time\nv4=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\nv6=socket.socket(socket.AF_INET6,socket.SOCK_DGRAM)\n\
         while True:\n for d in [{}]:\n  try: (v6 if ':' in d else v4).sendto(b'x',(d,9))\n  except OSError: pass\n time.sleep(0.002)",
        destinations.join(",")
    );
    let netns = format!("--net={}", sandbox.netns.as_deref().expect("a namespace"));
    let mut sender =
        std::process::Command::new("nsenter").args([&netns, "python3", "-c", &sender]).spawn().expect("nsenter");
    // the lab's own kubelet would make a sandbox of it as well
    let supervisor = lab.status()["supervisor"]["pid"].to_string();
    let file = format!("{}/new.yaml", lab.directory());
    run("kill", &["-STOP", &supervisor]);
    std::fs::write(file, idle_pod("demo", "new", "n1")).expect("the directory takes files");
    runtime.must_add(&sandbox);
    let added = Instant::now();
    wanted.1.recv_timeout(Duration::from_secs(5)).expect("what is allowed arrives");
    let first = added.elapsed();
    assert!(first < Duration::from_secs(1), "the first allowed packet took {first:?}");
    run("kill", &["-CONT", &supervisor]);
    std::thread::sleep(Duration::from_millis(500));
    sender.kill().expect("it runs");
    sender.wait().expect("it ends");
    for ((mut child, lines), name) in others.into_iter().zip(["demo/a", "demo/b", "plain/c", "plain/out"]) {
        assert!(lines.try_recv().is_err(), "{name} got a packet of the new pod");
        child.kill().expect("it runs");
        child.wait().expect("it ends");
    }
    let (mut child, _) = wanted;
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    assert!(agents.reaches("demo/a", "demo/b", false, "TCP", 80), "the others are not judged");
}

/// Lines that a child prints, as they come.
pub fn lines_of(child: &mut Child) -> std::sync::mpsc::Receiver<String> {
    let (send, receive) = std::sync::mpsc::channel();
    let out = BufReader::new(child.stdout.take().expect("piped"));
    std::thread::spawn(move || {
        for line in out.lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    receive
}

/// A flow that prints a line for each answer, until nothing has come for three seconds.
pub(super) fn flow(lab: &Lab, from: &str, protocol: &str, to: IpAddr) -> Child {
    let (family, kind) = (
        if to.is_ipv6() { "AF_INET6" } else { "AF_INET" },
        if protocol == "TCP" { "SOCK_STREAM" } else { "SOCK_DGRAM" },
    );
    let script = format!(
        "import socket,time\ns=socket.socket(socket.{family},socket.{kind})\ns.settimeout(3)\ns.connect(('{to}',80))\n\
         while True:\n s.send(b'0badcafe')\n s.recv(100)\n print(time.time(),flush=True)\n time.sleep(0.01)"
    );
    let to = to.to_string();
    match protocol {
        "ICMP" => lab.spawn(from, &["stdbuf", "-oL", "ping", "-n", "-D", "-i", "0.05", "-w", "20", &to]),
        _ => lab.spawn(from, &["python3", "-u", "-c", &script]),
    }
}

fn live_flows() {
    let lab = five("nodes: 2");
    let _agents = Agents::start(&lab, &FIVE);
    let mut flows = Vec::new();
    // same node, another node, with keys and without
    for (from, to) in [("demo/a", "demo/b"), ("demo/a", "demo/far"), ("plain/c", "plain/out"), ("plain/c", "demo/a")] {
        for protocol in ["TCP", "UDP", "ICMP"] {
            for v6 in [false, true] {
                let mut child = flow(&lab, from, protocol, lab.ip(to, v6));
                let lines = lines_of(&mut child);
                lines.recv_timeout(SOON).unwrap_or_else(|_| panic!("{protocol} from {from} to {to}, v6 {v6}, begins"));
                flows.push((child, lines, format!("{protocol} from {from} to {to}, v6 {v6}")));
            }
        }
    }
    for (_, lines, name) in &flows {
        while lines.try_recv().is_ok() {}
        lines.recv_timeout(SOON).unwrap_or_else(|_| panic!("{name} goes on"));
    }
    let text = [network_policy("demo", "closed", CLOSED), network_policy("plain", "closed", CLOSED)].concat();
    lab.put("policy.yaml", &text);
    let written = Instant::now();
    // all that came within the second after the write is taken out
    while written.elapsed() < CUT {
        std::thread::sleep(Duration::from_millis(20));
    }
    for (_, lines, _) in &flows {
        while lines.try_recv().is_ok() {}
    }
    std::thread::sleep(Duration::from_millis(700));
    for (child, lines, name) in &mut flows {
        assert!(lines.try_recv().is_err(), "{name} goes on after the deny");
        child.kill().expect("it is there");
        child.wait().expect("it ends");
    }
    assert!(lab.drops("n1", "outbound_denied") > 0, "{}", lab.ask("n1", "status")["drops"]);
}

fn protocols() {
    let lab = five("nodes: 2");
    let [far, b] = ["demo/far", "demo/b"].map(|pod| lab.ips(pod));
    // IGMP, GRE, ESP and a protocol for experiments, by raw sockets: they arrive before and not after
    let script = |to: IpAddr, protocol: u8| {
        let family = if to.is_ipv6() { "AF_INET6" } else { "AF_INET" };
        format!(
            "import socket\ns=socket.socket(socket.{family},socket.SOCK_RAW,{protocol})\nfor _ in range(3): s.sendto(b'0'*16,('{to}',0))"
        )
    };
    let arrives = |place: &str, to: IpAddr, protocol: u8| {
        let family = if to.is_ipv6() { "AF_INET6" } else { "AF_INET" };
        let receive = format!(
            "import socket,sys\ns=socket.socket(socket.{family},socket.SOCK_RAW,{protocol})\ns.settimeout(1)\nprint('ready',flush=True)\n\
             try:\n s.recv(100)\n print('got',flush=True)\nexcept OSError: print('nothing',flush=True)"
        );
        let mut child = lab.spawn(place, &["python3", "-u", "-c", &receive]);
        let lines = lines_of(&mut child);
        assert_eq!(lines.recv().as_deref(), Ok("ready"));
        lab.must("demo/a", &["python3", "-c", &script(to, protocol)]);
        let got = lines.recv().expect("it says so") == "got";
        child.wait().expect("it ends");
        got
    };
    let everywhere = [("demo/far", far), ("demo/b", b)];
    let all = |expected: bool| {
        for (place, ips) in everywhere {
            for ip in ips {
                // a host takes ESP over IPv6 for itself, and raw sockets see nothing of it
                for protocol in if ip.is_ipv6() { &[2, 47, 253][..] } else { &[2, 47, 50, 253] } {
                    let protocol = *protocol;
                    assert_eq!(arrives(place, ip, protocol), expected, "protocol {protocol} at {place} {ip}");
                }
                assert_eq!(lab.pings("demo/a", ip), expected, "ping of {ip}");
            }
        }
    };
    all(true);
    lab.put("policy.yaml", &network_policy("demo", "closed", CLOSED));
    eventually("the policy is there", SOON, || {
        (!lab.pings("demo/a", b[0]) && !lab.pings("demo/a", far[0])).then_some(())
    });
    all(false);
}

fn refusals() {
    let lab = five("nodes: 2");
    let mut agents = Agents::start(&lab, &FIVE);
    // S13: two of one name in two namespaces
    let spec = "podSelector: {}, ingress: []";
    lab.put("demo.yaml", &network_policy("demo", "same", spec));
    lab.put("plain.yaml", &network_policy("plain", "same", spec));
    until(&mut agents, false, "demo/a", "demo/b", "UDP", 80);
    until(&mut agents, false, "demo/a", "plain/out", "UDP", 80);
    lab.remove("demo.yaml");
    until(&mut agents, true, "demo/a", "demo/b", "UDP", 80);
    assert!(!agents.reaches("demo/a", "plain/out", false, "UDP", 80), "the other of that name went too");
    lab.remove("plain.yaml");
    // S14, NP-15: peers, ports and rules that cannot be read, among good ones
    let good = "{podSelector: {matchLabels: {app: b}}}";
    let by_b = |agents: &mut Agents| {
        until(agents, true, "demo/b", "demo/a", "TCP", 80);
        until(agents, false, "demo/far", "demo/a", "TCP", 80);
    };
    for (bad, path) in [
        ("{ipBlock: {cidr: 10.0.0.0/33}}", "spec.ingress[0].from[0].ipBlock.cidr"),
        ("{podSelectr: {}}", "spec.ingress[0].from[0]"),
        ("{}", "spec.ingress[0].from[0]"),
        (
            "{podSelector: {matchExpressions: [{key: app, operator: Like, values: [far]}]}}",
            "spec.ingress[0].from[0].podSelector",
        ),
        ("{podSelector: [far]}", "spec.ingress[0].from[0].podSelector"),
    ] {
        let spec = format!("podSelector: {{matchLabels: {{app: a}}}}, ingress: [{{from: [{bad}, {good}]}}]");
        lab.put("policy.yaml", &network_policy("demo", "p", &spec));
        eventually(&format!("the refusal of {bad} is told"), SOON, || {
            let refusals = lab.ask("n1", "status")["refusals"].clone();
            let told =
                refusals.as_array()?.iter().any(|r| r["reason"].as_str().is_some_and(|text| text.contains(path)));
            told.then_some(())
        });
        by_b(&mut agents);
    }
    for (ports, open) in [
        ("[{port: nobody-has-it}]", false),
        ("[{port: 70000}]", false),
        ("[{port: 81}, {port: -1}]", true),
        ("null", true),
    ] {
        let spec = format!("podSelector: {{matchLabels: {{app: a}}}}, ingress: [{{from: [{good}], ports: {ports}}}]");
        lab.put("policy.yaml", &network_policy("demo", "p", &spec));
        until(&mut agents, open, "demo/b", "demo/a", "TCP", 81);
        assert!(!agents.reaches("demo/far", "demo/a", false, "TCP", 81), "{ports}");
    }
}

/// A pair that both the old and the new of each update deny is tried a thousand times a second, and nothing ever arrives.
fn storm() {
    let lab = five("nodes: 2");
    let mut agents = Agents::start(&lab, &FIVE);
    let far = lab.ip("demo/far", false);
    let receive = "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ns.bind(('',9))\nwhile True:\n print(s.recv(100),flush=True)";
    let send = format!(
        "import socket,time\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\nwhile True:\n s.sendto(b'leak',('{far}',9))\n time.sleep(0.001)"
    );
    let mut receiver = lab.spawn("demo/far", &["python3", "-u", "-c", receive]);
    let arrived = lines_of(&mut receiver);
    let mut sender = lab.spawn("demo/a", &["python3", "-c", &send]);
    arrived.recv_timeout(SOON).expect("the control: without a policy it arrives");
    let only_to = |app: &str| {
        let rule = format!("{{to: [{{podSelector: {{matchLabels: {{app: {app}}}}}}}]}}");
        let spec = format!("podSelector: {{matchLabels: {{app: a}}}}, policyTypes: [Egress], egress: [{rule}]");
        network_policy("demo", "p", &spec)
    };
    lab.put("policy.yaml", &only_to("b"));
    until(&mut agents, false, "demo/a", "demo/far", "UDP", 80);
    while arrived.try_recv().is_ok() {}
    let directory = lab.directory();
    let begin = Instant::now();
    for number in 0..1000_u32 {
        let apps = ["b", "nobody", "out"];
        let text = only_to(apps[usize::try_from(number % 3).expect("small")]);
        std::fs::write(format!("{directory}/.policy"), text).expect("the directory takes files");
        std::fs::rename(format!("{directory}/.policy"), format!("{directory}/policy.yaml")).expect("a rename");
        std::thread::sleep((Duration::from_millis(5) * number).saturating_sub(begin.elapsed()));
    }
    let text = network_policy("demo", "p", "podSelector: {matchLabels: {app: a}}, policyTypes: [Egress]");
    lab.put("policy.yaml", &text);
    let took = eventually("the last update counts", SOON, || {
        (!agents.reaches("demo/a", "demo/b", false, "UDP", 80)).then_some(())
    })
    .1;
    println!("after 1,000 updates in {:?} the last one counts within {took:?}", begin.elapsed());
    assert!(arrived.try_recv().is_err(), "the storm opened a pair that old and new deny");
    // NP-16: a daemon that is killed, or stopped in order, and comes back
    let mut runtime = Runtime::of(&lab, "n1");
    for signal in ["-9", "-TERM"] {
        runtime.daemon_down(signal);
        assert!(!agents.reaches("demo/a", "demo/b", true, "TCP", 80), "without a daemon nothing is judged");
        runtime = runtime.daemon_up(&lab);
        assert!(!agents.reaches("demo/a", "demo/b", true, "TCP", 80));
        assert!(arrived.try_recv().is_err(), "signal {signal} opened it");
    }
    lab.remove("policy.yaml");
    arrived.recv_timeout(SOON).expect("without the policy it arrives again");
    for child in [&mut sender, &mut receiver] {
        child.kill().expect("it runs");
        child.wait().expect("it ends");
    }
}

fn authorization() {
    let lab = Lab::of_four("nodes: 3");
    let more = [idle_pod("demo", "other", "n2"), idle_pod("demo", "near", "n2")].concat();
    lab.apply(&more);
    let server = lab.ips("demo/server");
    for ip in server {
        eventually("the control", SOON, || reaches_from(&lab, "demo/client", ip, 8080).then_some(()));
    }
    let policy = "apiVersion: weft.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: to-server, namespace: demo}\n\
         spec: {selector: {matchLabels: {app: server}}, action: ALLOW, rules: [{from: [{source: {principals: [weft.lab/ns/demo/sa/client]}}], \
         to: [{operation: {ports: ['8080']}}]}]}\n";
    lab.put("authorization.yaml", policy);
    for ip in server {
        eventually("the wrong port is refused", SOON, || (!reaches_from(&lab, "demo/client", ip, 7)).then_some(()));
        assert!(reaches_from(&lab, "demo/client", ip, 8080), "who is named is refused");
        for stranger in ["demo/other", "demo/near", "plain/client", "plain/server", "stranger"] {
            assert!(!reaches_from(&lab, stranger, ip, 8080), "{stranger} got in");
        }
    }
    // what is not about the server is open as before
    assert!(reaches_from(&lab, "demo/other", lab.ip("demo/client", false), 8080));
    let status = lab.ask("n2", "status");
    assert!(status["drops"]["inbound_denied"].as_u64() > Some(0), "{}", status["drops"]);
    let rows = status["policy_denied"].as_array().expect("rows").clone();
    let source = lab.ip("demo/client", false).to_string();
    let row = rows
        .iter()
        .find(|row| row["source"] == source.as_str() && row["port"] == 7)
        .unwrap_or_else(|| panic!("{rows:#?}"));
    assert_eq!(row["policy"], "AuthorizationPolicy demo/to-server", "{row:#}");
    assert_eq!(row["source_workload"], "demo/client");
    assert_eq!(row["destination_workload"], "demo/server");
    let log = eventually("the refusal is told in one line", SOON, || {
        let text = log_of("n2");
        let line = text.lines().find(|line| {
            line.contains("Refused by policy") && line.contains("sa/client") && line.contains("sa/server")
        })?;
        Some(line.to_owned())
    });
    for part in ["AuthorizationPolicy demo/to-server", "no_allow_matched"] {
        assert!(log.0.contains(part), "{} lacks {part}", log.0);
    }
    // a namespace is proven by the key as well: that an address is a pod's there opens nothing, and closes
    lab.put("authorization.yaml", &of_namespaces("ALLOW", "demo, plain"));
    for ip in server {
        eventually("who has a key of the namespace gets in", SOON, || {
            reaches_from(&lab, "demo/other", ip, 8080).then_some(())
        });
        for stranger in ["plain/client", "plain/server"] {
            assert!(!reaches_from(&lab, stranger, ip, 8080), "{stranger} got in by its address");
        }
    }
    lab.put("authorization.yaml", &of_namespaces("DENY", "plain"));
    for ip in server {
        eventually("who is not named is let in", SOON, || reaches_from(&lab, "stranger", ip, 8080).then_some(()));
        assert!(!reaches_from(&lab, "plain/client", ip, 8080), "a claim does not close");
    }
    lab.put("authorization.yaml", policy);
    // a deny wins over the allow, by the key and not by the address
    let deny = policy
        .replace("to-server", "not-client")
        .replace("ALLOW", "DENY")
        .replace(", to: [{operation: {ports: ['8080']}}]", "");
    lab.put("deny.yaml", &deny);
    for ip in server {
        eventually("a deny wins", SOON, || (!reaches_from(&lab, "demo/client", ip, 8080)).then_some(()));
    }
    lab.put("deny.yaml", &deny.replace("DENY", "AUDIT"));
    for ip in server {
        eventually("an audit changes no verdict", SOON, || reaches_from(&lab, "demo/client", ip, 8080).then_some(()));
    }
    assert!(lab.drops("n2", "inbound_denied") > 0);
}

/// About the server, by the namespaces of who asks.
fn of_namespaces(action: &str, names: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: to-server, namespace: demo}}\n\
         spec: {{selector: {{matchLabels: {{app: server}}}}, action: {action}, rules: [{{from: [{{source: {{namespaces: [{names}]}}}}]}}]}}\n"
    )
}

pub(super) fn log_of(node: &str) -> String {
    run(&program("meshctl"), &["lab", "logs", node])
}
