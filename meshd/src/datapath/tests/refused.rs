//! What is refused: datagrams by us, many in a row, and packets by a device that is down.

use std::net::{SocketAddr, UdpSocket};

use super::underlay::ip;
use super::{MARKER, Node, PORT, pair, send};

#[test]
fn ld_05_what_is_known_passes_beside_what_is_refused() {
    let [a, b] = pair(false);
    send(&a, &b, false, 1);
    let eve = b.netns.within(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    eve.connect(("192.0.2.1", PORT)).unwrap();
    let mut garbage = [7; 148];
    garbage[..4].copy_from_slice(&[1, 0, 0, 0]);
    let refused = || a.drops("bad_mac1") + a.drops("rate_limited");
    for round in 1..=50 {
        for _ in 0..40 {
            eve.send(&garbage).unwrap();
        }
        // one of the known ones among them, and one from here
        send(&b, &a, false, 1);
        send(&a, &b, true, 1);
        a.until("each is counted", || refused() == round * 40);
    }
}

#[test]
fn mf_10_a_device_that_is_down_is_counted_and_then_all_goes_on() {
    let [a, b] = pair(false);
    send(&a, &b, false, 1);
    ip(&b.netns, "link set mesh0 down");
    let (sender, target) = (a.socket(false), SocketAddr::new(Node::addresses(2)[0], 9));
    for _ in 0..3 {
        sender.send_to(&MARKER[..], target).unwrap();
    }
    b.until("each is counted", || b.drops("tun_down") >= 3);
    assert!(b.snapshot().has_tun, "it is there, and down");
    b.set_routes();
    send(&a, &b, false, 1);
    send(&b, &a, true, 1);
}
