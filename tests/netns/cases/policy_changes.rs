//! S13 to S15, NP-14 to NP-16: policies that come, change fast, cannot be read or applied, or lose their daemon.

use std::time::{Duration, Instant};

use super::policy::{FIVE, SOON, five, lines_of, network_policy, until};
use crate::agent::Agents;
use crate::lab::{Lab, scratch};
use crate::runtime::Runtime;
use crate::shell::{eventually, run};

pub const CASES: &[(&str, fn())] = &[
    ("np_14_a_change_that_the_kernel_refuses_leaves_the_old_rules_whole", half_applied),
    ("s13_s14_np_15_one_of_two_goes_and_what_cannot_be_read_lets_nobody_in", refusals),
    ("s15_np_16_a_storm_of_updates_and_a_killed_daemon_open_nothing", storm),
];

/// Every script of a change ends in a rule that the kernel has no place for, as if memory had run out at the end of it.
fn half_applied() {
    let (real, refuse) = (scratch("nft"), scratch("refuse"));
    let nft = run("sh", &["-c", "command -v nft"]);
    run("cp", &["-L", nft.trim(), &real]);
    let wrapper = scratch("nft-that-refuses");
    let nowhere = "add rule inet nowhere nobody drop";
    // by a process of its own, and by the one that stays and takes a line
    let script = format!(
        "#!/bin/sh\nif [ -e {refuse} ] && [ \"$1\" = -f ]; then {{ cat; echo '{nowhere}'; }} | {real} \"$@\"\n\
         elif [ \"$1\" = -i ]; then while IFS= read -r line; do\n\
         if [ -e {refuse} ] && [ \"$line\" != answered ]; then line=\"$line; {nowhere}\"; fi; printf '%s\\n' \"$line\"; done | {real} -i\n\
         else exec {real} \"$@\"; fi\n"
    );
    std::fs::write(&wrapper, script).expect("the case's folder takes files");
    run("chmod", &["755", &wrapper]);
    run("mount", &["--bind", &wrapper, nft.trim()]);
    let lab = five("nodes: 2");
    let mut agents = Agents::start(&lab, &FIVE);
    let only = |app: &str, port: u16| {
        let rule = format!(
            "{{from: [{{podSelector: {{matchLabels: {{app: {app}}}}}}}], ports: [{{protocol: UDP, port: {port}}}]}}"
        );
        network_policy("demo", "p", &format!("podSelector: {{matchLabels: {{app: a}}}}, ingress: [{rule}]"))
    };
    lab.put("policy.yaml", &only("b", 80));
    until(&mut agents, true, "demo/b", "demo/a", "UDP", 80);
    until(&mut agents, false, "demo/far", "demo/a", "UDP", 81);
    std::fs::write(&refuse, "").expect("the case's folder takes files");
    lab.put("policy.yaml", &only("far", 81));
    eventually("the kernel's refusal is told", SOON, || {
        lab.ask("n1", "status")["blocked_on"].to_string().contains("nft refused").then_some(())
    });
    for v6 in [false, true] {
        assert!(agents.reaches("demo/b", "demo/a", v6, "UDP", 80), "what the old rules allow is cut");
        for (from, port) in [("demo/far", 81), ("demo/b", 81), ("plain/c", 80), ("plain/out", 81)] {
            assert!(!agents.reaches(from, "demo/a", v6, "UDP", port), "{from} got in by half a change");
        }
    }
    std::fs::remove_file(&refuse).expect("it was put there");
    until(&mut agents, true, "demo/far", "demo/a", "UDP", 81);
    until(&mut agents, false, "demo/b", "demo/a", "UDP", 80);
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

/// Pairs that both the old and the new of each update deny are tried a thousand times a second, on one node and over the mesh,
/// over both families, and nothing ever arrives.
fn storm() {
    let lab = five("nodes: 2");
    let mut agents = Agents::start(&lab, &FIVE);
    let receive = "import select,socket\nss=[]\nfor f in (socket.AF_INET,socket.AF_INET6):\n s=socket.socket(f,socket.SOCK_DGRAM)\n \
                   if f==socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6,socket.IPV6_V6ONLY,1)\n s.bind(('',9))\n ss.append(s)\n\
                   while True:\n for s in select.select(ss,[],[])[0]: print(s.family.name,s.recv(100),flush=True)";
    let denied = ["demo/far", "plain/c"];
    let to: Vec<_> = denied.iter().flat_map(|pod| lab.ips(pod)).map(|ip| format!("'{ip}'")).collect();
    let send = format!(
        "import socket,time\nv4=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\nv6=socket.socket(socket.AF_INET6,socket.SOCK_DGRAM)\n\
         while True:\n for d in [{}]: (v6 if ':' in d else v4).sendto(b'leak',(d,9))\n time.sleep(0.001)",
        to.join(",")
    );
    let mut receivers = denied.map(|pod| lab.spawn(pod, &["python3", "-u", "-c", receive]));
    let arrived = receivers.each_mut().map(lines_of);
    let mut sender = lab.spawn("demo/a", &["python3", "-c", &send]);
    let all_arrive = || {
        for family in ["AF_INET ", "AF_INET6 "] {
            for (lines, pod) in arrived.iter().zip(denied) {
                let found = std::iter::from_fn(|| lines.recv_timeout(SOON).ok()).any(|line| line.starts_with(family));
                assert!(found, "the control: without a policy {pod} is reached by {family}");
            }
        }
    };
    let nothing_arrives = |when: &str| {
        for (lines, pod) in arrived.iter().zip(denied) {
            assert_eq!(lines.try_iter().next(), None, "{when} opened a pair that old and new deny, to {pod}");
        }
    };
    all_arrive();
    let only_to = |app: &str| {
        let rule = format!("{{to: [{{podSelector: {{matchLabels: {{app: {app}}}}}}}]}}");
        let spec = format!("podSelector: {{matchLabels: {{app: a}}}}, policyTypes: [Egress], egress: [{rule}]");
        network_policy("demo", "p", &spec)
    };
    lab.put("policy.yaml", &only_to("b"));
    until(&mut agents, false, "demo/a", "demo/far", "UDP", 80);
    until(&mut agents, false, "demo/a", "plain/c", "UDP", 80);
    for lines in &arrived {
        lines.try_iter().for_each(drop);
    }
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
    nothing_arrives("the storm");
    // NP-16: a daemon that is killed, or stopped in order, and comes back
    let mut runtime = Runtime::of(&lab, "n1");
    for signal in ["-9", "-TERM"] {
        runtime.daemon_down(signal);
        assert!(!agents.reaches("demo/a", "demo/b", true, "TCP", 80), "without a daemon nothing is judged");
        runtime = runtime.daemon_up(&lab);
        assert!(!agents.reaches("demo/a", "demo/b", true, "TCP", 80));
        nothing_arrives(signal);
    }
    // NP-16: and one of another version, which laid its rules out differently
    runtime.daemon_down("-9");
    other_layout(&lab);
    assert!(!agents.reaches("demo/a", "demo/b", true, "TCP", 80), "the other layout denies the same");
    runtime.daemon_up(&lab);
    assert!(!agents.reaches("demo/a", "demo/b", true, "TCP", 80));
    nothing_arrives("taking over from another version");
    let listed = lab.must("node/n1", &["nft", "list", "ruleset"]);
    assert!(!listed.contains("arriving_") && listed.contains("then_outbound"), "{listed}");
    lab.remove("policy.yaml");
    all_arrive();
    for child in receivers.iter_mut().chain([&mut sender]) {
        child.kill().expect("it runs");
        child.wait().expect("it ends");
    }
}

/// Writes the rules of n1 as another version might have them: names that are gone today, sets of another type, and a chain of
/// one of today's names that is none of a hook. They deny the same.
fn other_layout(lab: &Lab) {
    let mut script = String::new();
    for table in ["inet weft", "ip weft_policy", "ip6 weft_policy"] {
        let words = [&["nft", "-n", "-s", "list", "table"][..], &table.split(' ').collect::<Vec<_>>()].concat();
        let mut text = lab.must("node/n1", &words);
        for (now, then) in [
            ("forward_outbound", "forward_authorization"),
            ("forward_inbound", "forward_network"),
            ("then_", "arriving_"),
            ("set_emptied", "once_counted"),
            ("judge", "deem"),
        ] {
            text = text.replace(now, then);
        }
        let interval = |text: String, set: &str| text.replace(set, &format!("{set}\n\t\tflags interval"));
        text = interval(text, "set strict4 {\n\t\ttype ipv4_addr");
        text = interval(text, "set node {\n\t\ttype ipv4_addr");
        let unhooked = "\tchain forward_outbound {\n\t\tdrop\n\t}\n}";
        let end = text.trim_end().strip_suffix('}').expect("a table ends").to_owned();
        script += &format!("table {table}\ndelete table {table}\n{end}{unhooked}\n");
    }
    assert!(
        script.contains("arriving_outbound") && script.matches("flags interval\n\t\telements").count() >= 2,
        "{script}"
    );
    lab.must("node/n1", &["sh", "-c", &format!("nft -f - <<'END'\n{script}\nEND")]);
}
