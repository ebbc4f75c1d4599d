//! Two nodes in namespaces of their own, joined by a wire that is listened to.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, UdpSocket};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

use linux::netns::Netns;

use super::PATIENCE;

/// What ends a capture: sent in clear text over the wire, so it also shows that clear text would be seen.
const SENTINEL: &[u8] = b"clear text is seen here";

/// Runs `ip` inside; it has to succeed.
pub(super) fn ip(netns: &Netns, args: &str) {
    let done = netns.within(|| Command::new("ip").args(args.split(' ')).output().unwrap()).unwrap();
    assert!(done.status.success(), "ip {args}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Gives `lo` of the namespace an address with its prefix length, and waits until packets for it are taken: the kernel
/// makes the route of an IPv6 address a moment later, in a work queue of its own, and answers "no route" until then.
pub(super) fn own(netns: &Netns, address: IpAddr) {
    let flags = if address.is_ipv6() { " nodad" } else { "" };
    ip(netns, &format!("addr add {address}/{} dev lo{flags}", if address.is_ipv6() { 128 } else { 32 }));
    let asked = address.to_string();
    let is_ours = || {
        let route = netns.within(|| Command::new("ip").args(["route", "get", &asked]).output().unwrap()).unwrap();
        String::from_utf8_lossy(&route.stdout).starts_with("local ")
    };
    let deadline = Instant::now() + PATIENCE;
    while !is_ours() {
        assert!(Instant::now() < deadline, "{address} is not taken");
    }
}

/// Two namespaces with the link `u0` between them: 192.0.2.1 and .2, 2001:db8::1 and ::2.
pub(super) fn two_nodes() -> [Netns; 2] {
    use std::os::fd::{AsFd as _, AsRawFd as _};
    let nodes = [1, 2].map(|_| Netns::create().expect("these tests need root: run them under `unshare -rnm`"));
    let other = format!("/proc/{}/fd/{}", std::process::id(), nodes[1].as_fd().as_raw_fd());
    ip(&nodes[0], &format!("link add u0 type veth peer name u0 netns {other}"));
    for (node, n) in nodes.iter().zip(1..) {
        ip(node, "link set lo up");
        ip(node, &format!("addr add 192.0.2.{n}/24 dev u0"));
        ip(node, &format!("addr add 2001:db8::{n}/64 dev u0 nodad"));
        ip(node, "link set u0 up");
    }
    nodes
}

/// Everything that passes `u0` of a node, from now on.
pub(super) struct Capture {
    tcpdump: Child,
    frames: BufReader<ChildStdout>,
}

impl Capture {
    /// Begins to listen; what is sent after it returns is seen.
    pub(super) fn start(node: &Netns) -> Self {
        let mut command = Command::new("tcpdump");
        command.args(["-i", "u0", "-s", "0", "-U", "--immediate-mode", "-n", "-w", "-"]);
        let mut tcpdump = node.spawn_in({
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command
        });
        let tcpdump_mut = tcpdump.as_mut().expect("tcpdump is installed");
        let mut stderr = BufReader::new(tcpdump_mut.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "tcpdump did not begin");
        }
        // it says a little more at its end, which must find a reader
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        let mut frames = BufReader::new(tcpdump_mut.stdout.take().unwrap());
        // pcap-savefile(5): a file header of 24 bytes
        frames.read_exact(&mut [0; 24]).unwrap();
        Self { tcpdump: tcpdump.unwrap(), frames }
    }

    /// Sends the sentinel from the node to `to` and gives all frames before it.
    pub(super) fn finish(mut self, node: &Netns, to: &str) -> Vec<Vec<u8>> {
        let any = if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        node.within(|| UdpSocket::bind(any).unwrap().send_to(SENTINEL, to).unwrap()).unwrap();
        let mut seen = Vec::new();
        loop {
            // pcap-savefile(5): seconds, fraction, captured length, original length
            let mut header = [0; 16];
            self.frames.read_exact(&mut header).unwrap();
            let length = u32::from_ne_bytes(header[8..12].try_into().unwrap());
            let mut frame = vec![0; usize::try_from(length).unwrap()];
            self.frames.read_exact(&mut frame).unwrap();
            if contains(&frame, SENTINEL) {
                break;
            }
            seen.push(frame);
        }
        self.tcpdump.kill().unwrap();
        self.tcpdump.wait().unwrap();
        seen
    }
}

/// Whether `needle` occurs in `bytes`.
pub(super) fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

/// The UDP payloads to or from `port` in Ethernet frames of either family without extension headers.
pub(super) fn udp_payloads(frames: &[Vec<u8>], port: u16) -> Vec<&[u8]> {
    frames
        .iter()
        .filter_map(|frame| {
            let start = match frame[12..14] {
                [0x08, 0x00] if frame[23] == 17 => 34,
                [0x86, 0xdd] if frame[20] == 17 => 54,
                _ => return None,
            };
            let of = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
            let end = start + usize::from(of(start + 4));
            (of(start) == port || of(start + 2) == port).then(|| &frame[start + 8..end])
        })
        .collect()
}
