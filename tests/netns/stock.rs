//! Stock WireGuard peers: wireguard-go in a namespace, and the Linux kernel's own in a small virtual machine; and links to them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::lab::program;
use crate::shell::{attempt, eventually, run};

/// How long anything may take that should take a moment: two cores run other cases, and one of them emulates a machine.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// Which WireGuard the other side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// wireguard-go, a process.
    Go,
    /// Linux' own, in a virtual machine.
    Kernel,
}

/// Where the stock peer lives; commands there are lines of a shell.
enum Place {
    Namespace(String),
    Machine { input: ChildStdin, lines: Receiver<String> },
}

/// A stock peer on a wire of its own with us. We are in the namespace [`Stock::us`] with 10.99.0.1 and fd99::1, it has
/// 10.99.0.2 and fd99::2 on eth0.
pub struct Stock {
    kind: Kind,
    place: Place,
    us: String,
    _running: Vec<Child>,
}

/// A program that `scripts/setup` puts into .tools.
fn tool(path: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools").join(path);
    assert!(file.exists(), "{} is missing: run scripts/setup test", file.display());
    file.display().to_string()
}

impl Stock {
    /// Starts it and lays the wire.
    pub fn start(kind: Kind) -> Self {
        let name = format!("{kind:?}").to_lowercase();
        let us = format!("us-{name}");
        run("ip", &["netns", "add", &us]);
        let (place, running) = match kind {
            Kind::Go => {
                let them = format!("them-{name}");
                run("ip", &["netns", "add", &them]);
                run(
                    "ip",
                    &["link", "add", "wire", "netns", &us, "type", "veth", "peer", "name", "eth0", "netns", &them],
                );
                (Place::Namespace(them), Vec::new())
            }
            Kind::Kernel => {
                run("ip", &["-n", &us, "tuntap", "add", "wire", "mode", "tap", "vnet_hdr"]);
                let (place, child) = machine(&us);
                (place, vec![child])
            }
        };
        let mut stock = Self { kind, place, us, _running: running };
        stock.here("for f in /proc/sys/net/ipv6/conf/*/accept_dad; do echo 0 >$f; done; ip link set lo up; ip link set wire up");
        stock.here("ip addr add 10.99.0.1/24 dev wire; ip addr add fd99::1/64 dev wire");
        stock.must("for f in /proc/sys/net/ipv6/conf/*/accept_dad; do echo 0 >$f; done; ip link set eth0 up");
        stock.must("ip addr add 10.99.0.2/24 dev eth0; ip addr add fd99::2/64 dev eth0");
        stock
    }

    /// Runs a line where we are; it must succeed.
    pub fn here(&self, line: &str) -> String {
        run("ip", &["netns", "exec", &self.us, "sh", "-ec", line])
    }

    /// Whether a line succeeds where we are.
    pub fn succeeds_here(&self, line: &str) -> bool {
        attempt("ip", &["netns", "exec", &self.us, "sh", "-c", line]).status.success()
    }

    /// Starts a line where we are, to run beside the case.
    pub fn beside(&self, line: &str) -> Child {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.us, "sh", "-c", line]).stdin(Stdio::null()).stdout(Stdio::piped());
        command.spawn().expect("ip runs")
    }

    /// Runs a line where the peer is: whether it succeeded, and what it printed.
    pub fn ask(&mut self, line: &str) -> (bool, String) {
        match &mut self.place {
            Place::Namespace(name) => {
                let output = attempt("ip", &["netns", "exec", name, "sh", "-c", line]);
                let text = [output.stdout, output.stderr].concat();
                (output.status.success(), String::from_utf8_lossy(&text).into_owned())
            }
            Place::Machine { input, lines } => {
                writeln!(input, "( {line} ) 2>&1; echo \"@@ $?\"").expect("the machine takes a line");
                let mut text = String::new();
                loop {
                    let line = lines.recv_timeout(PATIENCE * 3);
                    let line = line.unwrap_or_else(|_| panic!("the machine does not answer; so far: {text}"));
                    if let Some((before, code)) = line.split_once("@@ ") {
                        return (code.trim() == "0", text + before);
                    }
                    text = text + &line + "\n";
                }
            }
        }
    }

    /// Runs a line where the peer is; it must succeed.
    pub fn must(&mut self, line: &str) -> String {
        let (succeeded, text) = self.ask(line);
        assert!(succeeded, "{:?}: {line}\n{text}", self.kind);
        text
    }

    /// Lays a second wire to a peer in a namespace: 10.97.0.1 is ours on `wire2`, 10.97.0.2 its on eth1.
    pub fn second_wire(&mut self) {
        let Place::Namespace(them) = &self.place else { panic!("the machine has one link") };
        run("ip", &["link", "add", "wire2", "netns", &self.us, "type", "veth", "peer", "name", "eth1", "netns", them]);
        self.here("ip link set wire2 up; ip addr add 10.97.0.1/24 dev wire2");
        let loose = "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >$f; done";
        self.here(loose);
        self.must(&format!("{loose}; ip link set eth1 up; ip addr add 10.97.0.2/24 dev eth1"));
    }

    /// Makes a device `wg0` or `wg1` of the stock implementation.
    fn make_device(&mut self, device: &str) {
        match self.kind {
            Kind::Kernel => drop(self.must(&format!("ip link add {device} type wireguard"))),
            // it goes to the background once the device is there
            Kind::Go => drop(self.must(&format!("{} {device} >/dev/null 2>&1", tool("wireguard-go/wireguard")))),
        }
    }
}

/// Boots a machine on the TAP device `wire` of a namespace: 3 s where nobody else wants the cores.
fn machine(namespace: &str) -> (Place, Child) {
    let line = "exec qemu-system-x86_64 -accel tcg,thread=multi -cpu max -m 256 -nodefaults -no-reboot -display none -monitor none \
                -serial stdio -netdev tap,id=n0,ifname=wire,script=no,downscript=no,vhost=off -device virtio-net-pci,netdev=n0,romfile= \
                -append 'console=ttyS0 panic=-1 quiet nokaslr mitigations=off' -kernel \"$0\" -initrd \"$1\"";
    let mut child = Command::new("ip")
        .args(["netns", "exec", namespace, "sh", "-c", line, &tool("vm/vmlinuz"), &tool("vm/initrd.gz")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("ip runs");
    let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let mut said = String::new();
    while !said.contains("WEFT-VM-READY") {
        let line = lines.recv_timeout(PATIENCE * 3).unwrap_or_else(|_| panic!("the machine does not boot:\n{said}"));
        said = said + &line + "\n";
    }
    (Place::Machine { input, lines }, child)
}

/// How a link is set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// The peer's device and ours: 0 or 1.
    pub number: u8,
    /// Whether we begin the handshake; else the stock peer does, and we do not know where it is.
    pub we_begin: bool,
    /// Over IPv6.
    pub outer_v6: bool,
    /// With a preshared key.
    pub preshared: bool,
    /// Through another link, by its number, instead of over the wire.
    pub through: Option<u8>,
}

impl Setup {
    /// Where a host, 1 or 2, is to be found by the other.
    fn endpoint(self, host: u8) -> String {
        let port = format!("5184{}", self.number);
        match (self.through, self.outer_v6) {
            (None, false) => format!("10.99.0.{host}:{port}"),
            (None, true) => format!("[fd99::{host}]:{port}"),
            (Some(link), false) => format!("10.7.{link}.{host}:{port}"),
            (Some(link), true) => format!("[fd07:{link}::{host}]:{port}"),
        }
    }

    /// The inner MTU: 80 bytes less than what is below.
    fn mtu(self) -> u16 {
        if self.through.is_some() { 1340 } else { 1420 }
    }
}

/// A link between `meshd tunnel` and a device of the stock peer: 10.7.N.1 and fd07:N::1 are ours, .2 and ::2 its.
pub struct Link {
    pub number: u8,
    pub our_key: String,
    ours: Child,
}

impl Link {
    /// Brings both ends up. Nothing is said before somebody has something to say.
    pub fn up(stock: &mut Stock, setup: Setup) -> Self {
        let Setup { number, we_begin, preshared, .. } = setup;
        let folder = format!("/run/keys-{}-{number}", stock.us);
        run(
            "sh",
            &[
                "-ec",
                &format!(
                    "mkdir -p {folder}; cd {folder}; for n in a b; do wg genkey >$n; wg pubkey <$n >$n.pub; done; wg genpsk >psk"
                ),
            ],
        );
        let read = |name: &str| run("cat", &[&format!("{folder}/{name}")]).trim().to_owned();
        let (our_key, their_key) = (read("a.pub"), read("b.pub"));
        let mtu = setup.mtu();
        let device = format!("wg{number}");
        stock.make_device(&device);
        stock.must(&format!(
            "mkdir -p /run/keys; echo '{}' >/run/keys/b{number}; echo '{}' >/run/keys/p{number}",
            read("b"),
            read("psk")
        ));
        let mut line = format!(
            "wg set {device} private-key /run/keys/b{number} listen-port 5184{number} peer {our_key} allowed-ips 10.7.{number}.1/32,fd07:{number}::1/128"
        );
        line += &if preshared { format!(" preshared-key /run/keys/p{number}") } else { String::new() };
        line += &if we_begin { String::new() } else { format!(" endpoint {}", setup.endpoint(1)) };
        stock.must(&line);
        stock.must(&format!("ip addr add 10.7.{number}.2/24 dev {device}; ip addr add fd07:{number}::2/64 dev {device}; ip link set {device} mtu {mtu}; ip link set {device} up"));
        let mut line = format!(
            "exec {} tunnel --tun mesh{number} --key-file {folder}/a --listen-port 5184{number} --peer-key {their_key} \
             --address 10.7.{number}.1 --address fd07:{number}::1 --peer-address 10.7.{number}.2 --peer-address fd07:{number}::2",
            program("meshd")
        );
        line += &if preshared { format!(" --preshared-key-file {folder}/psk") } else { String::new() };
        line += &if we_begin { format!(" --endpoint {}", setup.endpoint(2)) } else { String::new() };
        let ours = stock.beside(&line);
        eventually("our device is there", PATIENCE, || {
            stock.succeeds_here(&format!("ip link show mesh{number}")).then_some(())
        });
        stock.here(&format!("ip addr add 10.7.{number}.1/24 dev mesh{number}; ip addr add fd07:{number}::1/64 dev mesh{number}; ip link set mesh{number} mtu {mtu} up"));
        Self { number, our_key, ours }
    }

    /// Takes both ends away.
    pub fn down(mut self, stock: &mut Stock) {
        self.ours.kill().expect("our daemon runs");
        self.ours.wait().expect("it ends");
        stock.here(&format!("ip link del mesh{}", self.number));
        stock.must(&format!("ip link del wg{}", self.number));
    }

    /// One of what `wg show` tells of us: `transfer` (received, sent), `latest-handshakes`, `endpoints`.
    pub fn shown(&self, stock: &mut Stock, what: &str) -> Vec<String> {
        let text = stock.must(&format!("wg show wg{} {what}", self.number));
        let mine = text.lines().find_map(|line| line.strip_prefix(self.our_key.as_str()));
        mine.unwrap_or_else(|| panic!("we are not in {text}")).split_whitespace().map(str::to_owned).collect()
    }

    /// Bytes that the stock peer has received and sent.
    pub fn transfer(&self, stock: &mut Stock) -> [u64; 2] {
        let numbers = self.shown(stock, "transfer");
        [0, 1].map(|at: usize| numbers[at].parse().expect("a number"))
    }

    /// Pings until an answer comes, in one inner family, from us or from the peer.
    pub fn ping(&self, stock: &mut Stock, from_us: bool, v6: bool) {
        let line = |host: u8| match v6 {
            true => format!("ping -6 -c 1 -W 2 fd07:{}::{host}", self.number),
            false => format!("ping -4 -c 1 -W 2 10.7.{}.{host}", self.number),
        };
        eventually(&format!("a ping, from us: {from_us}, IPv6: {v6}"), PATIENCE, || {
            let answered = if from_us { stock.succeeds_here(&line(2)) } else { stock.ask(&line(1)).0 };
            answered.then_some(())
        });
    }
}
