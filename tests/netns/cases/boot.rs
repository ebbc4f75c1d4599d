//! PL-04: a node boots. All of its kernel state is gone, its pods are there, and the daemon does not know yet who is who.

use std::time::Duration;

use crate::lab::{Lab, MARKER, markers, namespace, peer_authentication, pod};
use crate::runtime::{Runtime, Sandbox};
use crate::shell::{eventually, run};

pub const CASES: &[(&str, fn())] = &[("pl_04_after_a_boot_pods_are_cut_off_until_the_daemon_knows_them", a_node_boots)];

/// What a boot does to the node's network as far as it is ours.
const FORGET: &str = "nft flush ruleset; ip link del mesh0; for f in -4 -6; do for p in 5180 5181 5182 5183; do \
                      ip $f rule del pref $p; done; ip $f route flush table 5182; ip $f route flush table 5183; done; true";

fn a_node_boots() {
    let manifests = [
        namespace("demo", true),
        namespace("plain", false),
        pod("demo", "client", "n1", "client", ""),
        pod("demo", "server", "n2", "server", ""),
        pod("plain", "client", "n2", "client", ""),
        pod("plain", "server", "n1", "server", ""),
        peer_authentication("demo", "STRICT"),
    ];
    let lab = Lab::up("nodes: 2", &manifests.concat());
    let (client, server, neighbour) = (lab.ips("demo/client"), lab.ips("demo/server"), lab.ips("plain/server"));
    for ip in server {
        lab.pings_within("demo/client", ip, Duration::from_secs(5));
    }
    let script = format!(
        "import socket,time\nend=time.time()+60\nwhile time.time()<end:\n for ip in {:?}:\n  try:\n   \
         s=socket.socket(socket.AF_INET6 if ':' in ip else socket.AF_INET,socket.SOCK_DGRAM); s.sendto(b'{MARKER}',(ip,8080))\n  \
         except OSError: pass\n time.sleep(0.002)",
        server.map(|ip| ip.to_string())
    );
    let mut sender = lab.spawn("demo/client", &["python3", "-c", &script]);
    let runtime = Runtime::of(&lab, "n1");
    let unpinned = || {
        let held = runtime.shell("nft list counter inet weft unpinned");
        held.split_once("packets ").and_then(|(_, n)| n.split(' ').next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    let (there, controller) = (Runtime::of(&lab, "n2"), lab.status()["controller"]["pid"].to_string());
    let (trust, aside) = (format!("{}/weft.dev/trust.yaml", lab.directory()), crate::lab::scratch("trust.yaml"));
    let capture = lab.capture();
    runtime.daemon_down("-9");
    // the issuer's certificate is nowhere to be read: the daemon that starts knows nobody
    run("kill", &["-STOP", &controller]);
    std::fs::rename(&trust, &aside).expect("the trust bundle is there");
    runtime.shell(FORGET);
    // the control: a pod that got past the plugin, on a node with nothing of ours
    eventually("a pod that nobody holds back is heard", Duration::from_secs(10), || {
        let refused = there.shell("nft list counter inet weft plaintext_from_keyed");
        (refused.contains("packets") && !refused.contains("packets 0 ")).then_some(())
    });
    assert!(markers(&capture.stop()) > 0, "the capture cannot see the marker");
    // by the plugin nobody starts
    let early = Sandbox::new("early");
    assert_eq!(runtime.add(&early).expect_err("nobody is home").code(), 11);
    run("kill", &["-CONT", runtime.supervisor()]);
    eventually("the daemon guards", Duration::from_secs(10), || {
        runtime.shell("nft list set inet weft guarded_ranges4").contains("elements").then_some(())
    });
    let capture = lab.capture();
    let before = unpinned();
    eventually("the guard holds packets back", Duration::from_secs(10), || (unpinned() > before + 200).then_some(()));
    for ip in client {
        assert_eq!(lab.tcp_echo("plain/client", ip, 8080, MARKER), None, "a STRICT pod answers a stranger");
    }
    std::fs::rename(&aside, &trust).expect("the folder takes it back");
    run("kill", &["-CONT", &controller]);
    for ip in server {
        lab.pings_within("demo/client", ip, Duration::from_secs(25));
    }
    assert_eq!(markers(&capture.stop()), 0, "clear text after the daemon came up");
    sender.kill().expect("the sender still runs");
    sender.wait().expect("it ends");
    for ip in neighbour {
        lab.pings_within("plain/client", ip, Duration::from_secs(5));
    }
    for ip in client {
        assert_eq!(lab.tcp_echo("plain/client", ip, 8080, MARKER), None, "STRICT as before");
    }
}
