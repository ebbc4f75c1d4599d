//! When mesh-cni is chained: not before the daemon can serve it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;

use super::Case;
use crate::lab::{ask, program, scratch};
use crate::shell::{eventually, run};

pub const CASES: &[Case] =
    &[("mesh_cni_is_chained_when_the_daemon_can_serve_it_and_not_before", chained_when_it_can_serve)];

/// A network list of somebody.
const LIST: &str = "{\"cniVersion\": \"1.0.0\", \"name\": \"pods\", \"plugins\": [{\"type\": \"bridge\"}]}\n";

/// A program that ends with this, as `kill -9` does.
struct Running(Child);

impl Running {
    fn start(words: &[&str]) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(scratch("log")).expect("a log");
        let mut command = Command::new(program("meshd"));
        command.args(words).stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
        Self(command.spawn().expect("meshd runs"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).expect("it runs until then");
    }
}

/// What the folders of network lists and of plugins hold: names, and the list's text.
fn installed() -> (Vec<String>, Vec<String>, String) {
    let names = |folder: &str| {
        let entries = std::fs::read_dir(scratch(folder)).expect("the folder is there");
        entries.map(|entry| entry.expect("a name").file_name().to_string_lossy().into_owned()).collect()
    };
    let list = std::fs::read_to_string(Path::new(&scratch("lists")).join("10-pods.conflist"));
    (names("lists"), names("plugins"), list.expect("somebody's list stays"))
}

/// Waits until the daemon has gone round whole: it buries at the begin of a round, so that the second one found the first one's end.
fn await_round() {
    for name in ["first", "second"] {
        let tombstone = Path::new(&scratch("state")).join(format!("tombstones/{name}.json"));
        let text = json!({"containerID": name, "ifname": "eth0"}).to_string();
        std::fs::write(&tombstone, text).expect("the daemon made the folder");
        eventually("a round begins", Duration::from_secs(30), || (!tombstone.exists()).then_some(()));
    }
}

/// Starts the node's daemon with these words more; returns when it answers.
fn start_node(more: &[&str]) -> Running {
    let folders = ["state", "sockets", "lists", "plugins"].map(scratch);
    let (plugin, ready) = (program("mesh-cni"), scratch("ready"));
    let own = ["node", "--node", "n1", "--underlay-link", "under0", "--cni-plugin", &plugin, "--ready-file", &ready];
    let names = ["--state-dir", "--run-dir", "--cni-conf-dir", "--cni-bin-dir"];
    let places =
        names.iter().copied().zip(folders.iter().map(String::as_str)).flat_map(|(name, folder)| [name, folder]);
    let words: Vec<_> = own.into_iter().chain(places).chain(more.iter().copied()).collect();
    let node = Running::start(&words);
    // one that was killed before leaves its socket
    let socket = format!("{}/admin.sock", folders[1]);
    eventually("the daemon listens", Duration::from_secs(30), || std::os::unix::net::UnixStream::connect(&socket).ok());
    node
}

/// While it cannot serve for this reason, the daemon goes round and nothing of the node's chain is touched.
fn is_left_alone(why: &str, more: &[&str]) {
    let node = start_node(more);
    await_round();
    let status = ask(&format!("{}/admin.sock", scratch("sockets")), &json!({"verb": "status"}));
    assert!(status["blocked_on"].to_string().contains(why), "it waits for {why}: {}", status["blocked_on"]);
    let untouched = (vec!["10-pods.conflist".to_owned()], vec![], LIST.to_owned());
    assert_eq!(installed(), untouched, "a daemon that waits for {why}");
    assert!(!Path::new(&scratch("ready")).exists(), "ready without {why}");
    drop(node);
}

fn chained_when_it_can_serve() {
    for folder in ["state", "sockets", "lists", "plugins", "manifests", "ca", "ca-sockets"] {
        std::fs::create_dir(scratch(folder)).expect("the case's folder takes folders");
    }
    std::fs::write(Path::new(&scratch("lists")).join("10-pods.conflist"), LIST).expect("the folder takes files");
    run(
        "sh",
        &[
            "-ec",
            "ip link set lo up; ip link add under0 type veth peer name under1; ip link set under1 up; ip addr add 10.9.0.1/24 dev under0; ip link set under0 up",
        ],
    );
    let (manifests, ca, sockets, token) =
        (scratch("manifests"), scratch("ca"), scratch("ca-sockets"), scratch("token"));
    let controller =
        || Running::start(&["controller", "--directory", &manifests, "--state-dir", &ca, "--run-dir", &sockets]);
    let trust = Path::new(&manifests).join("weft.dev/trust.yaml");

    // an API server that nobody has seen
    let nowhere = scratch("kubeconfig");
    let config = "apiVersion: v1\nkind: Config\ncurrent-context: a\nclusters: [{name: a, cluster: {server: 'http://127.0.0.1:1'}}]\n\
                  contexts: [{name: a, context: {cluster: a, user: a}}]\nusers: [{name: a, user: {token: t}}]\n";
    std::fs::write(&nowhere, config).expect("the case's folder takes files");
    is_left_alone("the trust bundle", &["--kubeconfig", &nowhere]);
    is_left_alone("the first list of manifests", &["--kubeconfig", &nowhere]);

    // an issuer of which there is a token and no word
    let first = controller();
    eventually("there is a trust bundle", Duration::from_secs(30), || trust.exists().then_some(()));
    let made = ask(&format!("{sockets}/controller.sock"), &json!({"verb": "token", "node": "n1"}));
    std::fs::write(&token, made["token"].as_str().expect("a token")).expect("the case's folder takes files");
    run("chmod", &["600", &token]);
    drop(first);
    let by_folder = ["--directory", &manifests, "--join-token-file", &token];
    let aside = scratch("trust.yaml");
    std::fs::rename(&trust, &aside).expect("the bundle is there");
    is_left_alone("the trust bundle", &by_folder);
    // one that is known and does not answer
    std::fs::rename(&aside, &trust).expect("the folder takes it back");
    is_left_alone("the controller to take this node in", &by_folder);

    let _issuer = controller();
    let _node = start_node(&by_folder);
    eventually("mesh-cni is chained", Duration::from_secs(30), || installed().2.contains("mesh-cni").then_some(()));
    assert_eq!(installed().1, ["mesh-cni"], "an entry names a plugin that is there");
    eventually("it is ready", Duration::from_secs(30), || Path::new(&scratch("ready")).exists().then_some(()));
}
