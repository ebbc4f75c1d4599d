//! Bad input: what a daemon lacks at start is told at once, and a lab file that is wrong is refused whole.

use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use super::Case;
use crate::lab::{Lab, program, scratch};
use crate::shell::{attempt, eventually, run};

pub const CASES: &[Case] = &[
    ("start_problems_are_all_told_at_once_each_with_its_remedy", start_problems),
    ("a_bad_lab_file_is_refused_by_line_and_leaves_nothing", bad_lab_file),
    ("bad_manifests_are_in_status_with_file_line_and_reason", bad_manifests),
];

/// Nobody's user and group (Debian base-passwd).
const NOBODY: u32 = 65534;

fn start_problems() {
    // nobody gets at what is built: a copy may be run by all
    let meshd = scratch("meshd");
    std::fs::copy(program("meshd"), &meshd).expect("the case's folder takes files");
    let (state, sockets, manifests) = (scratch("state"), scratch("sockets"), scratch("manifests"));
    for folder in [&state, &sockets, &manifests] {
        std::fs::create_dir(folder).expect("the case's folder takes folders");
    }
    std::fs::set_permissions(&manifests, std::fs::Permissions::from_mode(0o700)).expect("it is root's");
    let secret = format!("{state}/node.secret");
    std::fs::write(&secret, "not for nobody").expect("a secret");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).expect("it is root's");
    std::os::unix::fs::chown(&state, Some(NOBODY), Some(NOBODY)).expect("root may");
    // the mounts are the case's own
    run("mount", &["--bind", "/dev/null", "/dev/net/tun"]);
    let port = UdpSocket::bind("[::]:51840").expect("nobody has it here");
    let arguments = [
        &*meshd,
        "node",
        "--node",
        "n1",
        "--state-dir",
        &state,
        "--run-dir",
        &sockets,
        "--directory",
        &manifests,
        "--join-token-file",
        "/nowhere/token",
    ];
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"];
    let started = attempt("setpriv", &[&nobody[..], &arguments].concat());
    told(
        &started,
        &[
            ("NET_ADMIN", "run meshd as root"),
            ("SYS_ADMIN", "run meshd as root"),
            ("/dev/net/tun", "load the kernel module tun"),
            ("nft", "install nftables"),
            ("node.secret", "run as the user that owns it"),
            (&sockets, "give that user access"),
            (&manifests, "give that user access"),
            ("UDP port 51840", "--listen-port"),
            ("/nowhere/token", "meshctl node token n1"),
        ],
    );
    assert!(!Path::new(&sockets).join("cni.sock").exists(), "a socket without a daemon");
    drop(port);
    // as root, without the program nft and with a secret that others could read
    std::os::unix::fs::chown(&state, Some(0), Some(0)).expect("root may");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).expect("it is root's");
    let started = attempt("env", &[&["PATH=/nowhere"], &arguments[..]].concat());
    told(
        &started,
        &[("/dev/net/tun", "load the kernel module tun"), ("nft", "install nftables"), ("node.secret", "chmod 600")],
    );
    assert!(!attempt("ip", &["link", "show", "mesh0"]).status.success(), "a refused start left a device");
    assert_eq!(run("nft", &["list", "ruleset"]), "", "a refused start left rules");
}

/// One message with all of these, each on one line with its remedy.
fn told(output: &Output, problems: &[(&str, &str)]) {
    assert!(!output.status.success(), "it started");
    let text = String::from_utf8_lossy(&output.stderr);
    for (what, remedy) in problems {
        let is_told = text.lines().any(|line| line.starts_with("  ") && line.contains(what) && line.contains(remedy));
        assert!(is_told, "{what} with the remedy `{remedy}` is not in:\n{text}");
    }
}

fn bad_lab_file() {
    let file = scratch("lab.yaml");
    for (text, why) in [
        ("nodes: many\n", "nodes"),
        ("nodes: 3\nnoodles: 4\n", "noodles"),
        ("nodes: 100000\n", "nodes"),
        ("nodes: [\n", "lab.yaml"),
        ("manifests: [/nowhere.yaml]\n", "/nowhere.yaml"),
    ] {
        std::fs::write(&file, text).expect("the case's folder takes files");
        let output = attempt(&program("meshctl"), &["lab", "up", "-f", &file]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains(why), "{text}: {told}");
        assert_eq!(run("ip", &["netns", "list"]), "", "{text}: something stayed");
    }
}

fn bad_manifests() {
    let lab = Lab::of_four("nodes: 3\nfamilies: [ipv4]");
    let policy = |namespace: &str, mode: &str| {
        let head = "apiVersion: weft.dev/v1alpha1\nkind: PeerAuthentication";
        format!("{head}\nmetadata: {{name: default, namespace: {namespace}}}\nspec: {{mtls: {{mode: {mode}}}}}\n---\n")
    };
    // five lines each, and a document that is no YAML
    lab.put("policies.yaml", &format!("{}{}kind: [\n", policy("demo", "STRICT"), policy("plain", "LOOSE")));
    let text = eventually("both are told", Duration::from_secs(10), || {
        let output = attempt(&program("meshctl"), &["status", "--node", "n1"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (text.contains("policies.yaml:6: ") && text.contains("policies.yaml:11: ")).then_some(text)
    })
    .0;
    let line = text.lines().find(|line| line.contains("policies.yaml:6: ")).expect("it was there");
    assert!(line.contains("not used") && line.contains("LOOSE") && line.contains("STRICT"), "{line}");
    // the good document of the same file counts
    let server = lab.ip("demo/server", false);
    eventually("STRICT counts", Duration::from_secs(5), || {
        lab.tcp_echo("plain/client", server, 8080, "x").is_none().then_some(())
    });
    lab.pings_within("demo/client", server, Duration::from_secs(5));
}
