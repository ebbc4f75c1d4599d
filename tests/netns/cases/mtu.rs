//! MF-12: pods that believe in the underlay's MTU send what they like, and no pod is touched for it.

use std::time::Duration;

use crate::lab::Lab;
use crate::shell::eventually;

pub const CASES: &[(&str, fn())] = &[("mf_12_pods_keep_their_mtu_and_a_link_may_shrink", shrinks)];

/// Payload of a UDP echo that fills a packet of 1,500 bytes over IPv4 and IPv6, which is longer than the mesh carries, and
/// one that is sent in fragments.
const SIZES: [usize; 3] = [1452, 1472, 3000];

/// Everything arrives at the first try where its sender lets it be fragmented; the rest is told and learns.
fn shrinks() {
    let lab = Lab::of_four("nodes: 3");
    let exchange = |what: &str| {
        for to in lab.ips("demo/server") {
            let text = "mtu ".repeat(20_000);
            assert_eq!(lab.tcp_echo("demo/client", to, 8080, &text).as_deref(), Some(&*text), "{what}: TCP to {to}");
            for size in SIZES {
                let text = "m".repeat(size);
                eventually(&format!("{what}: {size} bytes of UDP to {to}"), Duration::from_secs(5), || {
                    (lab.udp_echo("demo/client", to, 8080, &text)? == text).then_some(())
                });
            }
        }
    };
    let link = lab.must("demo/client", &["ip", "-o", "link", "show", "eth0"]);
    assert!(link.contains("mtu 1500"), "the pod's own: {link}");
    exchange("as it is");
    for node in ["n1", "n2"] {
        let link = lab.node(node)["link"].as_str().expect("a link").to_owned();
        lab.must(&format!("node/{node}"), &["ip", "link", "set", &link, "mtu", "1400"]);
    }
    exchange("after the link has shrunk");
}
