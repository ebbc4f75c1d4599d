//! ID: nobody speaks under another's name.

use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::time::Duration;

use serde_json::json;

use crate::lab::{Lab, namespace, peer_authentication, pod};
use crate::shell::{eventually, run};

pub const CASES: &[(&str, fn())] = &[
    ("f2_f4_a_withdrawn_identity_stops_within_two_seconds_both_ways", withdrawn),
    ("id_01_id_02_id_03_a_forged_source_never_leaves_its_link", forged_source),
    ("pl_17_pl_18_what_is_not_ip_and_forged_discovery_stays_in_the_pod", not_ip),
    ("pl_17_on_a_bridge_no_neighbour_sees_forged_frames", neighbours),
    ("f3_a_replayed_or_changed_datagram_is_dropped_and_counted", replayed),
    ("id_08_a_tampered_binding_or_slice_is_refused_and_the_last_good_stays", tampered),
    ("f19_f21_the_svid_verifies_and_a_session_is_told_with_both_names", svid),
    ("the_data_cipher_is_what_both_bindings_name", data_cipher),
    ("mf_01_f18_a_stream_survives_kill_9_and_key_rotation", stream_survives),
];

fn withdrawn() {
    let lab = Lab::of_four("nodes: 3\nfamilies: [ipv4]");
    let (client, server) = (lab.ip("demo/client", false), lab.ip("demo/server", false));
    lab.pings_within("demo/client", server, Duration::from_secs(5));
    let identity = "spiffe://weft.lab/ns/demo/sa/server";
    lab.ask_controller(&json!({"verb": "revoke", "identity": identity}));
    let (_, took) = eventually("nothing passes any more", Duration::from_secs(2), || {
        (!lab.pings("demo/client", server)).then_some(())
    });
    println!("withdrawn after {took:?}");
    assert!(!lab.pings("demo/server", client), "the other direction still passes");
    let peers = lab.ask("n1", "peers");
    let row = peers.as_array().expect("rows").iter().find(|p| p["identity"] == identity).expect("the peer").clone();
    assert_eq!(row["state"], "no-binding");
    lab.ask_controller(&json!({"verb": "restore", "identity": identity}));
    lab.pings_within("demo/client", server, Duration::from_secs(10));
}

/// Nodes n1 and n2 have the processor of this machine, n3 is told to have an old one. Every pair talks, each with the best that
/// both have; and what n2 hears of n3 it hears from the issuer, not from n3.
fn data_cipher() {
    let pods = ["n1", "n2", "n3"].map(|node| pod("demo", node, node, node, "app: any")).concat();
    let manifests = [namespace("demo", true), pods, peer_authentication("demo", "STRICT")].concat();
    let lab = Lab::up("nodes: 3\nfamilies: [ipv4]\nchachaNodes: [n3]\ndataThreads: 2", &manifests);
    let names = ["n1", "n2", "n3"];
    for from in names {
        for to in names.into_iter().filter(|to| *to != from) {
            lab.pings_within(&format!("demo/{from}"), lab.ip(&format!("demo/{to}"), false), Duration::from_secs(5));
        }
    }
    let flags = std::fs::read_to_string("/proc/cpuinfo").expect("a processor");
    let is_fast = ["aes", "pclmulqdq"].iter().all(|flag| flags.split_whitespace().any(|word| word == *flag))
        || ["aes", "pmull"].iter().all(|flag| flags.split_whitespace().any(|word| word == *flag));
    let best = if is_fast { "aes-256-gcm" } else { "chacha20-poly1305" };
    for from in names {
        let peers = lab.ask(from, "peers");
        for to in names.into_iter().filter(|to| *to != from) {
            let identity = format!("spiffe://weft.lab/ns/demo/sa/{to}");
            let row = peers.as_array().expect("rows").iter().find(|p| p["identity"] == *identity).expect("the peer");
            let expected = if from == "n3" || to == "n3" { "chacha20-poly1305" } else { best };
            assert_eq!(row["cipher"], expected, "{from} to {to}: {row}");
        }
    }
}

/// A script that sends one Ethernet frame, given as Python expression, from eth0.
fn frame(lab: &Lab, from: &str, build: &str) {
    let script = format!(
        "import socket,struct,binascii\n\
         s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW); s.bind(('eth0',0))\n\
         mac=open('/sys/class/net/eth0/address').read().strip() if False else s.getsockname()[4].hex(':')\n\
         M=bytes.fromhex(mac.replace(':',''))\n\
         def cs(b):\n b=b+b'\\0'*(len(b)%2); t=sum(struct.unpack('!%dH'%(len(b)//2),b))\n while t>>16: t=(t&0xffff)+(t>>16)\n return ~t&0xffff\n\
         def ip4(src,dst,p=b'FORGED-PAYLOAD'):\n u=struct.pack('!4H',4000,8080,8+len(p),0)+p\n h=struct.pack('!BBHHHBBH4s4s',69,0,20+len(u),1,0,64,17,0,socket.inet_aton(src),socket.inet_aton(dst))\n return h[:10]+struct.pack('!H',cs(h))+h[12:]+u\n\
         def ip6(src,dst,nh,p,hl=64):\n return struct.pack('!IHBB',6<<28,len(p),nh,hl)+socket.inet_pton(10,src)+socket.inet_pton(10,dst)+p\n\
         for i in range(5): s.send({build})\n"
    );
    lab.must(from, &["python3", "-c", &script]);
}

fn gateway_mac(lab: &Lab, pod: &str) -> String {
    let link = lab.pod(pod)["hostLink"].as_str().expect("a host-side link").to_owned();
    let node = lab.pod(pod)["node"].as_str().expect("a node").to_owned();
    let text = lab.must(&format!("node/{node}"), &["ip", "-j", "link", "show", &link]);
    let links: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    links[0]["address"].as_str().expect("a MAC").replace(':', "")
}

fn forged_source() {
    let lab = Lab::of_four("nodes: 3");
    let gateway = gateway_mac(&lab, "demo/client");
    let server = lab.ips("demo/server");
    let before = lab.drops("n1", "spoofed_source");
    let others =
        [lab.ip("plain/server", false), lab.ip("plain/client", false), "172.31.0.1".parse().expect("an address")];
    for source in others {
        frame(
            &lab,
            "demo/client",
            &format!("bytes.fromhex('{gateway}')+M+b'\\x08\\0'+ip4('{source}','{}')", server[0]),
        );
    }
    // right address, wrong MAC; and both wrong
    let own = lab.ip("demo/client", false);
    frame(
        &lab,
        "demo/client",
        &format!("bytes.fromhex('{gateway}')+b'\\2\\0\\0\\0\\0\\x99'+b'\\x08\\0'+ip4('{own}','{}')", server[0]),
    );
    let forged6 = lab.ip("plain/client", true);
    frame(
        &lab,
        "demo/client",
        &format!(
            "bytes.fromhex('{gateway}')+M+b'\\x86\\xdd'+ip6('{forged6}','{}',17,struct.pack('!4H',1,8080,8,0))",
            server[1]
        ),
    );
    let counted = lab.drops("n1", "spoofed_source") - before;
    assert_eq!(counted, 25, "five frames of five kinds");
    // the honest packets pass
    lab.pings_within("demo/client", server[0], Duration::from_secs(5));
}

fn not_ip() {
    let lab = Lab::of_four("nodes: 3");
    let own6 = lab.ip("demo/client", true);
    let before = lab.ask("n1", "status")["drops"].clone();
    let count = |status: &serde_json::Value, key: &str| status[key].as_u64().unwrap_or(0);
    for ethertype in ["\\x88\\xcc", "\\x88\\x8e", "\\x12\\x34", "\\0\\x26"] {
        frame(&lab, "demo/client", &format!("b'\\xff'*6+M+b'{ethertype}'+b'x'*50"));
    }
    // a VLAN tag in front of an honest packet
    let own4 = lab.ip("demo/client", false);
    frame(&lab, "demo/client", &format!("b'\\xff'*6+M+b'\\x81\\0\\0\\x05\\x08\\0'+ip4('{own4}','10.244.2.2')"));
    // router advertisement, and a neighbour advertisement for somebody else's address
    frame(
        &lab,
        "demo/client",
        "b'\\x33\\x33\\0\\0\\0\\1'+M+b'\\x86\\xdd'+ip6('fe80::1','ff02::1',58,b'\\x86'+b'\\0'*15,255)",
    );
    let stolen = lab.ip("demo/server", true);
    frame(
        &lab,
        "demo/client",
        &format!(
            "b'\\x33\\x33\\0\\0\\0\\1'+M+b'\\x86\\xdd'+ip6('{own6}','ff02::1',58,b'\\x88\\0\\0\\0\\x20\\0\\0\\0'+socket.inet_pton(10,'{stolen}'),255)"
        ),
    );
    // ARP in another's name
    frame(
        &lab,
        "demo/client",
        "b'\\xff'*6+M+b'\\x08\\x06'+struct.pack('!HHBBH',1,0x800,6,4,2)+M+socket.inet_aton('10.244.1.1')+b'\\0'*6+socket.inet_aton('10.244.1.1')",
    );
    let after = lab.ask("n1", "status")["drops"].clone();
    let not_ip = count(&after, "not_ip") - count(&before, "not_ip");
    assert_eq!(not_ip, 25, "four ethertypes and a VLAN tag, five times each: {after:#}");
    let forged = count(&after, "forged_discovery") - count(&before, "forged_discovery");
    assert_eq!(forged, 15, "an RA, an NA and an ARP, five times each: {after:#}");
    for ip in lab.ips("demo/server") {
        // discovery of its own still works
        lab.pings_within("demo/client", ip, Duration::from_secs(5));
    }
}

/// What a pod sees of another one's frames: a line of hexadecimal digits each, after the line `ready`.
const LISTENER: &str = "import socket\n\
     s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW,socket.htons(3)); s.bind(('eth0',0)); print('ready',flush=True)\n\
     while True: print(s.recv(2000)[:42].hex(),flush=True)\n";

fn neighbours() {
    let lab = Lab::of_four("nodes: 3\nprimary: bridge");
    let mut listener = lab.spawn("plain/server", &["python3", "-c", LISTENER]);
    let mut seen = BufReader::new(listener.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
    assert_eq!(seen.next().as_deref(), Some("ready"));
    let arp = |sender: &str| {
        format!(
            "b'\\xff'*6+M+b'\\x08\\x06'+struct.pack('!HHBBH',1,0x800,6,4,1)+M+socket.inet_aton('{sender}')+b'\\0'*6+socket.inet_aton('10.244.1.200')"
        )
    };
    frame(&lab, "demo/client", "b'\\xff'*6+M+b'\\x12\\x34'+b'x'*50");
    frame(&lab, "demo/client", &arp("10.244.1.1"));
    // the control comes last, by the same way: what was to be seen has been seen by then
    let own = lab.ip("demo/client", false);
    frame(&lab, "demo/client", &arp(&own.to_string()));
    let hex = |ip: IpAddr| if let IpAddr::V4(ip) = ip { format!("{:08x}", ip.to_bits()) } else { String::new() };
    let control = |line: &String| line.get(24..28) == Some("0806") && line.get(56..64) == Some(&hex(own));
    let mut before = Vec::new();
    let client = loop {
        let line = seen.next().expect("the control comes");
        if control(&line) {
            break line.get(12..24).expect("a source MAC").to_owned();
        }
        before.push(line);
    };
    listener.kill().expect("it runs");
    listener.wait().expect("it ends");
    let gateway = hex(IpAddr::from([10, 244, 1, 1]));
    let is_forged = |line: &&String| {
        let kind = line.get(24..28);
        let arp = kind == Some("0806") && line.get(56..64) == Some(&gateway);
        line.get(12..24) == Some(&client) && (arp || kind == Some("1234"))
    };
    let forged: Vec<_> = before.iter().filter(is_forged).collect();
    assert!(forged.is_empty(), "a neighbour on the bridge saw {forged:?}");
}

fn replayed() {
    let lab = Lab::of_four("nodes: 3\nfamilies: [ipv4]");
    let server = lab.ip("demo/server", false);
    lab.pings_within("demo/client", server, Duration::from_secs(5));
    let capture = lab.capture();
    lab.must("demo/client", &["ping", "-n", "-c", "3", "-i", "0.1", &server.to_string()]);
    let bytes = capture.stop();
    // transport data from n1 to n2: message type 4 (WireGuard paper section 5.4.6)
    let datagrams = transport_data(&bytes, [172, 31, 0, 1], [172, 31, 0, 2]);
    assert!(datagrams.len() >= 3, "only {} datagrams captured", datagrams.len());
    let send = |datagram: &[u8]| {
        let hex: String = datagram.iter().map(|b| format!("{b:02x}")).collect();
        let script = format!(
            "import socket;s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.sendto(bytes.fromhex('{hex}'),('172.31.0.2',51840))"
        );
        lab.must("stranger", &["python3", "-c", &script]);
    };
    let before = lab.ask("n2", "status");
    let count = |status: &serde_json::Value, key: &str| status["drops"][key].as_u64().unwrap_or(0);
    for datagram in &datagrams {
        send(datagram);
        let mut flipped = datagram.clone();
        let last = flipped.len() - 20;
        flipped[last] ^= 1;
        // a fresh counter, so that it is the tag and not the window that speaks
        flipped[8..16].copy_from_slice(&900_u64.to_le_bytes());
        send(&flipped);
    }
    eventually("both kinds are counted", Duration::from_secs(3), || {
        let now = lab.ask("n2", "status");
        let rose = |key: &str| count(&now, key) >= count(&before, key) + datagrams.len() as u64;
        (rose("replay") && rose("aead_failure")).then_some(())
    });
    let now = lab.ask("n2", "status");
    assert_eq!(now["traffic"]["received_packets"], before["traffic"]["received_packets"], "something was delivered");
    // the session lives on
    lab.pings_within("demo/client", server, Duration::from_secs(5));
}

/// UDP payloads of type 4 between two IPv4 addresses, from a little-endian pcap of Ethernet frames.
fn transport_data(pcap: &[u8], from: [u8; 4], to: [u8; 4]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut rest = &pcap[24..];
    while rest.len() > 16 {
        let length = u32::from_le_bytes([rest[8], rest[9], rest[10], rest[11]]) as usize;
        let frame = &rest[16..16 + length];
        if frame.len() > 42 && frame[12..14] == [8, 0] && frame[26..30] == from && frame[30..34] == to && frame[42] == 4
        {
            let end = 14 + usize::from(u16::from_be_bytes([frame[16], frame[17]]));
            found.push(frame[42..end].to_vec());
        }
        rest = &rest[16 + length..];
    }
    found
}

fn tampered() {
    let lab = Lab::of_four("nodes: 3\nfamilies: [ipv4]");
    let server = lab.ip("demo/server", false);
    lab.pings_within("demo/client", server, Duration::from_secs(5));
    let directory = lab.directory();
    let slice = format!("{directory}/weft.dev/meshendpointslices/n2.yaml");
    // stop the controller, which would put it right: what is tested is that nobody believes the file
    let pid = lab.status()["controller"]["pid"].to_string();
    run("kill", &["-STOP", &pid]);
    let honest = std::fs::read_to_string(&slice).expect("the slice is there");
    let forged = honest.replace("sa/server", "sa/client");
    assert_ne!(forged, honest);
    std::fs::write(&slice, forged).expect("the folder is not what is trusted");
    let log = lab.node("n1")["log"].as_str().expect("a log").to_owned();
    eventually("the forged slice is refused", Duration::from_secs(5), || {
        std::fs::read_to_string(&log).ok()?.contains("not signed by the issuer").then_some(())
    });
    // the last good one stays
    lab.pings_within("demo/client", server, Duration::from_secs(5));
    // the bindings in it are not what its signature is about: each has its own
    let at = honest.find("binding: ").expect("a binding") + 40;
    let mut forged = honest.clone();
    let other = if &honest[at..=at] == "A" { "B" } else { "A" };
    forged.replace_range(at..=at, other);
    std::fs::write(&slice, &forged).expect("the folder is not what is trusted");
    eventually("the forged binding is refused by name", Duration::from_secs(5), || {
        let refusals = lab.ask("n1", "status")["refusals"].to_string();
        refusals.contains("MeshEndpointSlice n2").then_some(())
    });
    std::fs::write(&slice, &honest).expect("put back");
    run("kill", &["-CONT", &pid]);
    lab.pings_within("demo/client", server, Duration::from_secs(5));
}

fn svid() {
    let lab = Lab::of_four("nodes: 3\nfamilies: [ipv4]");
    let server = lab.ip("demo/server", false);
    lab.pings_within("demo/client", server, Duration::from_secs(5));
    let rows = lab.ask("n2", "identity");
    let identity = "spiffe://weft.lab/ns/demo/sa/server";
    let row = rows.as_array().expect("rows").iter().find(|r| r["spiffe_id"] == identity).expect("the identity").clone();
    let chain = row["svid"].as_str().expect("an SVID");
    let trust = std::fs::read_to_string(format!("{}/weft.dev/trust.yaml", lab.directory())).expect("the bundle");
    let pems: Vec<String> = pem_blocks(&trust);
    assert_eq!(pems.len(), 2, "{trust}");
    let leaf = pem_blocks(chain).first().expect("a leaf").clone();
    let write = |name: &str, text: &str| {
        let path = crate::lab::scratch(name);
        std::fs::write(&path, text).expect("the case's folder takes files");
        path
    };
    // which of the two is self-signed is openssl's to say: both are given where they can serve
    let (root, intermediate) = (write("a.pem", &pems[0]), write("b.pem", &pems[1]));
    let leaf = write("leaf.pem", &leaf);
    let verified = [(&root, &intermediate), (&intermediate, &root)].iter().any(|(root, untrusted)| {
        crate::shell::attempt("openssl", &["verify", "-CAfile", root, "-untrusted", untrusted, &leaf]).status.success()
    });
    assert!(verified, "openssl does not accept the chain");
    assert!(run("openssl", &["x509", "-in", &leaf, "-noout", "-text"]).contains(&format!("URI:{identity}")));
    let log = std::fs::read_to_string(lab.node("n2")["log"].as_str().expect("a log")).expect("readable");
    let told = log.lines().find(|line| line.contains("successfully authenticated")).expect("a line per session");
    assert!(told.contains(identity) && told.contains("spiffe://weft.lab/ns/demo/sa/client"), "{told}");
}

/// PEM blocks in a text, indented or not.
fn pem_blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in text.lines().map(str::trim) {
        if line.starts_with("-----BEGIN") {
            block = Some(String::new());
        }
        if let Some(text) = &mut block {
            text.push_str(line);
            text.push('\n');
        }
        if line.starts_with("-----END") {
            blocks.extend(block.take());
        }
    }
    blocks
}

fn stream_survives() {
    let lab = Lab::of_four("nodes: 3\nfamilies: [ipv4]\nrotationPeriod: 60s\ndataThreads: 4");
    assert_eq!(lab.ask("n1", "status")["data_threads"], 4);
    let server = lab.ip("demo/server", false);
    lab.pings_within("demo/client", server, Duration::from_secs(5));
    // one connection, an echo every 20 ms for 75 s: at least one turn of the epoch, and two kills
    let script = format!(
        "import socket,time\ns=socket.create_connection(('{server}',8080),2)\ns.settimeout(20)\n\
         end=time.time()+75\nworst=0\nn=0\nwhile time.time()<end:\n t=time.time()\n s.sendall(b'%08d'%n)\n d=b''\n\
         \x20while len(d)<8: d+=s.recv(8-len(d))\n assert d==b'%08d'%n\n n+=1\n worst=max(worst,time.time()-t)\n time.sleep(0.02)\n\
         print(n,worst)"
    );
    let stream = lab.spawn("demo/client", &["python3", "-c", &script]);
    let capture = lab.capture();
    let epochs = |lab: &Lab| lab.ask("n1", "peers").as_array().and_then(|p| p.iter().find_map(|p| p["epoch"].as_u64()));
    let first = epochs(&lab);
    for node in ["n1", "n2"] {
        let old = lab.node(node)["pid"].clone();
        run("kill", &["-9", &old.to_string()]);
        eventually("the daemon is back", Duration::from_secs(10), || {
            let now = lab.node(node);
            (now["pid"] != old && now["ready"] == true).then_some(())
        });
    }
    eventually("another epoch is in use", Duration::from_secs(70), || (epochs(&lab) > first).then_some(()));
    let output = stream.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "the stream broke: {text}{}", String::from_utf8_lossy(&output.stderr));
    let mut figures = text.split_whitespace();
    let echoes: u32 = figures.next().and_then(|n| n.parse().ok()).expect("a count");
    let worst: f64 = figures.next().and_then(|w| w.parse().ok()).expect("seconds");
    println!("{echoes} echoes, longest pause {worst:.3} s");
    assert!(worst < 5.0, "a pause of {worst} s");
    drop(capture.stop());
}
