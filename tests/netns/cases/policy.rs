//! NP, S, F7, F15: what a matrix cannot show of policies: replies, one's own node, new pods, live flows, storms, refusals.

use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::process::Child;
use std::time::{Duration, Instant};

use crate::agent::Agents;
use crate::lab::{Lab, namespace, pod, program};
use crate::runtime::{Runtime, Sandbox};
use crate::shell::{eventually, run};

pub const CASES: &[(&str, fn())] = &[
    ("s01_s02_s03_s10_np_18_replies_ones_own_node_oneself_and_host_network", exceptions),
    ("s04_s05_a_new_pod_is_isolated_before_its_first_packet", new_pod),
    ("s06_np_05_np_13_f15_a_new_deny_cuts_live_flows", live_flows),
    ("s07_default_deny_covers_every_protocol", protocols),
    ("s09_np_17_a_service_is_judged_by_its_backend", service),
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
        let all = [false, true].map(|v6| agents.reaches(from, to, v6, protocol, port));
        (all == [open, open]).then_some(())
    });
}

fn exceptions() {
    let lab = five("nodes: 2");
    let mut agents = Agents::start(&lab, &FIVE);
    for (server, other) in [("demo/far", "demo/b"), ("plain/out", "plain/c")] {
        let (server_ns, server_name) = server.split_once('/').expect("a name");
        let to_server = format!(
            "podSelector: {{matchLabels: {{app: a}}}}, policyTypes: [Ingress, Egress], ingress: [], egress: [{{to: \
             [{{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {server_ns}}}}}, podSelector: {{matchLabels: {{app: {server_name}}}}}}}], \
             ports: [{{port: 80}}]}}]"
        );
        lab.put("policy.yaml", &network_policy("demo", "a", &to_server));
        // S1: the request goes out and its reply comes in, and nothing else does
        until(&mut agents, true, "demo/a", server, "TCP", 80);
        until(&mut agents, false, "demo/a", server, "TCP", 81);
        until(&mut agents, false, "demo/a", other, "TCP", 80);
        until(&mut agents, false, server, "demo/a", "TCP", 80);
    }
    lab.put("policy.yaml", &network_policy("demo", "closed", CLOSED));
    until(&mut agents, false, "demo/far", "demo/a", "TCP", 80);
    for v6 in [false, true] {
        let a = lab.ip("demo/a", v6);
        // S2, NP-18: its own node, both ways; another node only where a rule says so
        assert!(reaches_from(&lab, "node/n1", a, 80), "a probe of the kubelet is refused");
        let node = own_address(&lab, "node/n1", v6);
        assert!(lab.pings("demo/a", node), "a pod does not reach its own node");
        assert!(!reaches_from(&lab, "node/n2", a, 80), "another node's process got in");
        // S3: nobody is cut off from itself
        assert!(reaches_from(&lab, "demo/a", a, 80));
        assert!(reaches_from(&lab, "demo/a", if v6 { "::1" } else { "127.0.0.1" }.parse().expect("an address"), 80));
    }
    // S10: a pod on its node's network is no peer by its labels, and its node's address is one by ipBlock
    let host = idle_pod("demo", "host", "n2").replace("spec: {", "spec: {hostNetwork: true, ");
    lab.apply(&host);
    eventually("the pod on the host's network runs", Duration::from_secs(10), || {
        let pods = lab.status()["pods"].clone();
        let host = pods.as_array()?.iter().find(|p| p["name"] == "host")?.clone();
        (host["phase"] == "Running").then_some(())
    });
    let by_label = "podSelector: {matchLabels: {app: a}}, ingress: [{from: [{podSelector: {matchLabels: {app: host}}}, {podSelector: {matchLabels: {app: b}}}]}]";
    lab.put("label.yaml", &network_policy("demo", "by-label", by_label));
    let b_out = "podSelector: {matchLabels: {app: b}}, policyTypes: [Egress], egress: [{}]";
    lab.put("out.yaml", &network_policy("demo", "b-out", b_out));
    until(&mut agents, true, "demo/b", "demo/a", "TCP", 80);
    for v6 in [false, true] {
        assert!(!reaches_from(&lab, "node/n2", lab.ip("demo/a", v6), 80), "a label let a node in");
    }
    let blocks = [false, true].map(|v6| {
        let node = own_address(&lab, "node/n2", v6);
        format!("{{ipBlock: {{cidr: '{node}/{}'}}}}", if v6 { 128 } else { 32 })
    });
    let by_block = format!("podSelector: {{matchLabels: {{app: a}}}}, ingress: [{{from: [{}]}}]", blocks.join(", "));
    lab.put("block.yaml", &network_policy("demo", "by-block", &by_block));
    for v6 in [false, true] {
        eventually("a node is let in by its address", SOON, || {
            reaches_from(&lab, "node/n2", lab.ip("demo/a", v6), 80).then_some(())
        });
    }
}

/// A node's address on the underlay.
fn own_address(lab: &Lab, node: &str, v6: bool) -> IpAddr {
    let name = node.trim_start_matches("node/");
    let all = lab.ask(name, "status")["underlay"]["addresses"].clone();
    let ips = all.as_array().expect("addresses").iter().filter_map(|a| a.as_str()?.parse::<IpAddr>().ok());
    ips.into_iter().find(|ip| ip.is_ipv6() == v6).expect("one of each family")
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
fn flow(lab: &Lab, from: &str, protocol: &str, to: IpAddr) -> Child {
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

/// A virtual address on the client's node leads to a pod that lets in, or to one that does not.
fn service() {
    let lab = five("nodes: 2");
    let _agents = Agents::start(&lab, &FIVE);
    let vips: [IpAddr; 2] = ["192.0.2.80", "2001:db8::80"].map(|ip| ip.parse().expect("an address"));
    let open = |ip: IpAddr| reaches_from(&lab, "demo/a", ip, 8000);
    let lead_to = |pod: &str| {
        let [v4, v6] = lab.ips(pod);
        let script = format!(
            "add table inet services\ndelete table inet services\ntable inet services {{\nchain c {{\ntype nat hook prerouting priority -100;\n\
             ip daddr {} tcp dport 8000 dnat ip to {v4}:80\nip6 daddr {} tcp dport 8000 dnat ip6 to [{v6}]:80\n}}\n}}\n",
            vips[0], vips[1]
        );
        lab.must("node/n1", &["nft", &script]);
    };
    for pod in ["demo/far", "demo/b"] {
        lead_to(pod);
        assert!(vips.iter().all(|ip| open(*ip)), "the control: {pod} behind a service");
    }
    // rules name the pod and its port, and never the service
    let spec = "podSelector: {matchLabels: {app: b}}, ingress: []";
    lab.put("policy.yaml", &network_policy("demo", "closed", spec));
    let only_far = "podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}], ports: [{port: 80}]}]";
    lab.put("egress.yaml", &network_policy("demo", "egress", only_far));
    eventually("the backend that denies is not reached", SOON, || vips.iter().all(|ip| !open(*ip)).then_some(()));
    lead_to("demo/far");
    for ip in vips {
        assert!(open(ip), "the backend that allows is not reached");
    }
    // hairpin: a pod behind its own service
    lab.remove("egress.yaml");
    lead_to("demo/a");
    lab.put("policy.yaml", &network_policy("demo", "closed", CLOSED));
    eventually("others are closed", SOON, || {
        (!reaches_from(&lab, "demo/a", lab.ip("demo/b", false), 80)).then_some(())
    });
    lab.must("node/n1", &["nft", "add chain inet services m { type nat hook postrouting priority 100; }; add rule inet services m ct status dnat masquerade"]);
    assert!(vips.iter().all(|ip| open(*ip)), "a pod does not reach itself by its service");
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

pub(super) fn log_of(node: &str) -> String {
    run(&program("meshctl"), &["lab", "logs", node])
}
