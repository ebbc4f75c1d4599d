//! CN, MF: the daemon is dead, stopped or stopping, its disk refuses, its tools fail; and then it is back.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::cni::empty;
use crate::lab::{Lab, MARKER, markers, namespace, peer_authentication, pod};
use crate::runtime::{Called, Runtime, Sandbox, end, finish};
use crate::shell::{eventually, run};

pub const CASES: &[(&str, fn())] = &[
    ("cn_03_cn_06_a_dead_daemon_refuses_add_and_gets_its_dels_later", dead),
    ("cn_06_a_stopping_daemon_says_so_to_who_waits", stopping),
    ("cn_07_a_stopped_daemon_is_waited_for_only_so_long_and_keeps_no_ghost", hanging),
    ("up_02_a_daemon_takes_over_from_the_one_that_ends", takes_over),
    ("cn_13_mf_08_a_disk_that_takes_nothing_refuses_add_and_lets_del_through", full_disk),
    ("mf_07_a_damaged_state_file_opens_nothing_and_stops_nobody_else", damaged_state),
    ("cn_14_mf_10_what_the_kernel_refuses_is_taken_back_and_tried_again", kernel_refuses),
];

/// An ADD for a pod that no manifest stands for: the daemon holds it for five seconds.
fn ghost(name: &str) -> Sandbox {
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME=ghost".to_owned();
    Sandbox { args, ..Sandbox::new(name) }
}

fn dead() {
    let (lab, runtime) = empty(1);
    let before = runtime.traces();
    let [lives, dies, refused] = ["lives", "dies", "refused"].map(Sandbox::new);
    let [kept, gone] = [&lives, &dies].map(|sandbox| runtime.must_add(sandbox));
    let with_both = runtime.traces();
    runtime.daemon_down("-9");
    let called = runtime.add(&refused).expect_err("nobody is home");
    assert_eq!(called.code(), 11, "{called:?}");
    assert!(called.took < Duration::from_secs(2), "{called:?}");
    assert!(called.stdout.contains("meshd node"), "what to do is not said: {called:?}");
    assert!(!refused.has_interface(), "half an interface stays");
    // that runtime undid its ADD, and nobody was home for that either
    assert_eq!(runtime.tombstones(), ["case-refused@eth0.json"]);
    assert_eq!(runtime.mesh_status().code(), 50);
    assert_eq!(runtime.mesh("CHECK", &lives, Some(&kept)).code(), 11);
    for _twice in 0..2 {
        runtime.del(&dies, Some(&gone));
    }
    assert_eq!(runtime.tombstones(), ["case-dies@eth0.json", "case-refused@eth0.json"]);
    assert_ne!(runtime.traces(), with_both, "the primary plugin's part is gone at once");
    let runtime = runtime.daemon_up(&lab);
    eventually("the DELs are replayed", Duration::from_secs(5), || runtime.tombstones().is_empty().then_some(()));
    assert_eq!(runtime.attachments().len(), 1);
    let checked = runtime.mesh("CHECK", &lives, Some(&kept));
    assert!(checked.success, "who was not deleted stays: {checked:?}");
    let again = runtime.must_add(&dies);
    // a second round of the burial must not take the one that lives again
    eventually("the daemon has made a few rounds", Duration::from_secs(10), || {
        let uptime = lab.ask("n1", "status")["uptime_s"].as_u64();
        assert!(runtime.mesh("CHECK", &dies, Some(&again)).success, "a late DEL took the new attachment");
        (uptime >= Some(2)).then_some(())
    });
    runtime.del(&lives, Some(&kept));
    runtime.del(&dies, Some(&again));
    runtime.nothing_left(&before);
}

fn stopping() {
    let (lab, runtime) = empty(1);
    let sandbox = ghost("waits");
    let previous = runtime.add_primary(&sandbox);
    let begin = Instant::now();
    let add = runtime.start("ADD", &runtime.conf(1, Some(&previous)), Some(&sandbox));
    // the question is with the daemon once its plugin waits for the answer
    eventually("the ADD is asked", Duration::from_secs(5), || {
        runtime.shell("ss -xH state established").contains("cni.sock").then_some(())
    });
    // conversations are taken in turn: once this one is over, the one before is known to the daemon
    assert!(runtime.mesh_status().success);
    runtime.daemon_down("-TERM");
    let called = finish(add, begin);
    assert_eq!(called.code(), 11, "{called:?}");
    assert!(called.stdout.contains("is stopping"), "the daemon hung up: {called:?}");
    assert!(called.took < Duration::from_secs(4), "{called:?}");
    assert_eq!(runtime.tombstones(), Vec::<String>::new(), "it was refused for certain: nothing is to be taken back");
    assert!(!runtime.state("../run/cni.sock").exists(), "the socket of a daemon that has ended stays");
    let runtime = runtime.daemon_up(&lab);
    assert_eq!(runtime.attachments(), Vec::<String>::new());
}

fn hanging() {
    let (lab, runtime) = empty(1);
    let before = runtime.traces();
    let slow = runtime.with_mesh(&json!({"timeoutSeconds": 2}));
    let [there, new] = ["there", "new"].map(Sandbox::new);
    let late = ghost("late");
    let (result, previous) = (slow.must_add(&there), slow.add_primary(&late));
    run("kill", &["-STOP", &runtime.daemon()]);
    let in_time = |called: &Called| assert!(called.took < Duration::from_secs(3), "{called:?}");
    let called = slow.add(&new).expect_err("nobody answers");
    assert_eq!(called.code(), 11, "{called:?}");
    in_time(&called);
    assert!(!new.has_interface());
    // its runtime leaves the interface in place, and only says DEL to us
    for (verb, sandbox, prev, code) in [
        ("ADD", &late, &previous, 11),
        ("DEL", &late, &previous, 0),
        ("CHECK", &there, &result, 11),
        ("DEL", &there, &result, 0),
    ] {
        let called = slow.mesh(verb, sandbox, Some(prev));
        assert_eq!(called.code(), code, "{verb}: {called:?}");
        in_time(&called);
    }
    let called = slow.mesh_status();
    assert_eq!(called.code(), 50, "{called:?}");
    in_time(&called);
    assert_eq!(runtime.tombstones().len(), 3);
    run("kill", &["-CONT", &runtime.daemon()]);
    // it takes up ADDs whose plugins have gone: they must not be attached, not even when their manifest comes
    eventually("the DELs are replayed", Duration::from_secs(5), || runtime.tombstones().is_empty().then_some(()));
    lab.put("ghost.yaml", &[namespace("demo", true), pod("demo", "ghost", "n1", "ghost", "")].concat());
    eventually("the lab attaches its own sandbox of that pod", Duration::from_secs(10), || {
        let pods = lab.status();
        let ghost = pods["pods"].as_array()?.iter().find(|p| p["name"] == "ghost")?.clone();
        ghost["addresses"].as_array().is_some_and(|all| !all.is_empty()).then_some(())
    });
    let held = runtime.attachments();
    assert!(held.len() == 1 && !held[0].starts_with("case-"), "a ghost is attached: {held:?}");
    lab.remove("ghost.yaml");
    runtime.del(&late, Some(&previous));
    runtime.del(&there, Some(&result));
    runtime.nothing_left(&before);
    let result = runtime.must_add(&new);
    runtime.del(&new, Some(&result));
    runtime.nothing_left(&before);
}

fn full_disk() {
    let (_lab, runtime) = empty(1);
    let before = runtime.traces();
    let [there, new] = ["there", "new"].map(Sandbox::new);
    let result = runtime.must_add(&there);
    let folder = runtime.state("attachments").display().to_string();
    run("mount", &["--bind", &folder, &folder]);
    run("mount", &["-o", "remount,ro,bind", &folder]);
    let called = runtime.add(&new).expect_err("nothing can be written down");
    assert_eq!(called.code(), 5, "{called:?}");
    assert!(called.stdout.contains("attachments"), "the place is not named: {called:?}");
    assert!(!new.has_interface());
    let checked = runtime.mesh("CHECK", &there, Some(&result));
    assert!(checked.success, "who is attached is not affected: {checked:?}");
    runtime.del(&there, Some(&result));
    assert_eq!(runtime.mesh("CHECK", &there, Some(&result)).code(), 3);
    eventually("the daemon says what is wrong", Duration::from_secs(5), || {
        let status = runtime.mesh_status();
        (status.code() == 50 && status.stdout.contains("state folder")).then_some(())
    });
    run("umount", &[&folder]);
    eventually("it is over by itself", Duration::from_secs(5), || runtime.mesh_status().success.then_some(()));
    runtime.nothing_left(&before);
    let result = runtime.must_add(&new);
    runtime.del(&new, Some(&result));
    runtime.nothing_left(&before);
}

/// Puts a script over a program, for this case's processes alone.
fn cover(program: &str, script: &str) {
    let file = crate::lab::scratch("cover");
    std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("the case's folder takes files");
    run("chmod", &["755", &file]);
    run("mount", &["--bind", &file, program]);
}

/// Where the shell finds a program, symbolic links followed.
fn found(program: &str) -> String {
    let path = run("sh", &["-c", &format!("command -v {program}")]);
    let path = Path::new(path.trim()).canonicalize().expect("it is there");
    path.display().to_string()
}

fn kernel_refuses() {
    let lab = Lab::of_four("nodes: 3");
    let runtime = Runtime::of(&lab, "n1");
    let server = lab.ips("demo/server");
    for ip in server {
        lab.pings_within("demo/client", ip, Duration::from_secs(5));
    }
    let nft = found("nft");
    // leases, links and files: pins cannot be asked for while nft is covered
    let attachments = runtime.attachments();
    for (script, said) in [
        ("cat >/dev/null; echo 'Error: Device or resource busy' >&2; exit 1", "Device or resource busy"),
        ("cat >/dev/null; echo 'Error: No buffer space available' >&2; exit 1", "No buffer space"),
        ("cat >/dev/null; echo 'Error: Operation not permitted' >&2; exit 1", "Operation not permitted"),
        ("kill -9 $$", "nft"),
    ] {
        // what stays and takes one line after the other is ended, and cannot be had anew
        cover(&nft, &format!("[ \"$1\" = -i ] && exit 1; {script}"));
        end_interpreters(&lab);
        let sandbox = Sandbox::new("refused");
        let called = runtime.add(&sandbox).expect_err("its pin cannot be set");
        assert_eq!(called.code(), 11, "{called:?}");
        assert!(called.stdout.contains(said), "what the kernel said is not passed on: {called:?}");
        assert!(!sandbox.has_interface());
        sandbox.delete();
        assert_eq!(runtime.attachments(), attachments);
        assert_eq!(runtime.mesh_status().code(), 50);
        // who was attached before goes on, sealed
        for ip in server {
            assert!(lab.pings("demo/client", ip), "{script}: an attached pod lost its connection");
        }
        // lazily: a run of it may be under way
        run("umount", &["-l", &nft]);
        eventually("it is tried again until it works", Duration::from_secs(10), || {
            runtime.mesh_status().success.then_some(())
        });
    }
    let before = runtime.traces();
    let sandbox = Sandbox::new("served");
    let result = runtime.must_add(&sandbox);
    end_interpreters(&lab);
    runtime.del(&sandbox, Some(&result));
    let result = runtime.must_add(&sandbox);
    runtime.del(&sandbox, Some(&result));
    runtime.nothing_left(&before);
}

/// Ends every `nft` that stays, of the daemon of n1.
fn end_interpreters(lab: &Lab) {
    let pid = lab.node("n1")["pid"].to_string();
    let _may_be_none = lab.exec("node/n1", &["pkill", "-9", "-P", &pid, "-f", "^nft -i"]);
}

/// Every state file of a daemon that has ended is damaged in some way; what it still knows goes on, what it does not
/// know is closed.
fn damaged_state() {
    let manifests = [
        namespace("demo", true),
        namespace("plain", false),
        pod("demo", "client", "n1", "client", ""),
        pod("demo", "lost", "n2", "lost", ""),
        pod("demo", "kept", "n2", "kept", ""),
        pod("plain", "client", "n1", "client", ""),
        peer_authentication("demo", "STRICT"),
    ];
    let lab = Lab::up("nodes: 2\nfamilies: [ipv4]", &manifests.concat());
    let [lost, kept] = ["demo/lost", "demo/kept"].map(|pod| lab.ip(pod, false));
    for ip in [lost, kept] {
        lab.pings_within("demo/client", ip, Duration::from_secs(5));
    }
    assert!(!lab.pings("plain/client", lost), "STRICT does not hold before anything is damaged");
    let container = lab.pod("demo/lost")["containerId"].as_str().expect("a container").to_owned();
    let mut runtime = Runtime::of(&lab, "n2");
    let (state, log) = (runtime.state(""), lab.node("n2")["log"].as_str().expect("a log").to_owned());
    for (round, harm) in
        [truncate as fn(&[u8]) -> Vec<u8>, flip, |_| Vec::new(), |_| vec![b' '; 1 << 20]].iter().enumerate()
    {
        runtime.daemon_down("-9");
        let mut damaged = 0;
        for path in state_files(&state) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.contains(&container) || ["floor", "recent-pairs"].contains(&&*name) {
                let bytes = std::fs::read(&path).expect("a state file");
                std::fs::write(&path, harm(&bytes)).expect("it can be damaged");
                damaged += 1;
            }
        }
        assert_eq!(damaged, 3, "round {round}: these are not all the files in {}", state.display());
        runtime = runtime.daemon_up(&lab);
        // who greets nobody waits until the other side has missed an answer (KEEPALIVE + REKEY_TIMEOUT, 15 s)
        lab.pings_within("demo/client", kept, Duration::from_secs(25));
        assert!(!lab.pings("demo/client", lost), "who is not known cannot be reached by tunnel");
        // clear text both ways: refused in, and not sent
        assert_eq!(lab.tcp_echo("plain/client", lost, 8080, MARKER), None, "a lost file opened a STRICT pod");
        assert!(!lab.pings("plain/client", lost), "a lost file opened a STRICT pod");
        let capture = lab.capture();
        assert_eq!(lab.udp_echo("demo/lost", lab.ip("demo/client", false), 8080, MARKER), None);
        assert_eq!(markers(&capture.stop()), 0, "a pod that is not known sends clear text to a member");
        assert!(lab.must("node/n2", &["cat", &log]).matches("cannot be believed").count() > round, "nobody is told");
    }
    assert_eq!(lab.node("n2")["restarts"], 4, "the daemon ended by itself");
    // its runtime makes it anew
    run(&crate::lab::program("meshctl"), &["lab", "delete", "pod/demo/lost"]);
    lab.put("again.yaml", &pod("demo", "lost", "n2", "lost", ""));
    let again = eventually("it is there again", Duration::from_secs(15), || {
        let pods = lab.status();
        let pod = pods["pods"]
            .as_array()?
            .iter()
            .find(|p| p["name"] == "lost" && p["containerId"] != container.as_str())?
            .clone();
        pod["addresses"][0].as_str()?.parse().ok()
    });
    lab.pings_within("demo/client", again.0, Duration::from_secs(10));
}

fn truncate(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.len() / 2].to_vec()
}

fn flip(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if let Some(middle) = bytes.len().checked_div(2).and_then(|at| bytes.get_mut(at)) {
        *middle ^= 1;
    }
    bytes
}

fn state_files(state: &Path) -> Vec<std::path::PathBuf> {
    let list = |folder: &Path| -> Vec<std::path::PathBuf> {
        std::fs::read_dir(folder).expect("a folder").flatten().map(|e| e.path()).filter(|p| p.is_file()).collect()
    };
    [list(state), list(&state.join("attachments"))].concat()
}

/// A second daemon stands by; the first one ends, and the conversations of its pods go on within a moment.
fn takes_over() {
    let lab = Lab::of_four("nodes: 3");
    let server = lab.ip("demo/server", false);
    lab.pings_within("demo/client", server, Duration::from_secs(5));
    let runtime = Runtime::of(&lab, "n1");
    let words = std::fs::read_to_string(format!("/proc/{}/cmdline", runtime.daemon())).expect("the daemon runs");
    let words: Vec<_> = words.split('\0').filter(|word| !word.is_empty()).collect();
    let (ready, log) = (crate::lab::scratch("ready"), crate::lab::scratch("next.log"));
    let talk = "import socket,sys,time\ns=socket.create_connection((sys.argv[1],8080),5)\nf=s.makefile('rb')\nend=time.time()+6\ngap=0\n\
                while time.time()<end:\n b=time.time(); s.sendall(b'x\\n'); assert f.readline()==b'x\\n'; gap=max(gap,time.time()-b)\n time.sleep(0.02)\nprint(gap)";
    let mut talk = lab.spawn("demo/client", &["python3", "-c", talk, &server.to_string()]);
    let refused = runtime.shell(&format!("{} 2>&1", words.join(" ")));
    assert!(refused.contains("another meshd"), "a second daemon that is not to follow starts: {refused}");
    let next = format!("{} --take-over --ready-file {ready} >{log} 2>&1 & echo $!", words.join(" "));
    let next = runtime.shell(&next);
    eventually("it stands by", Duration::from_secs(5), || Path::new(&ready).exists().then_some(()));
    assert!(runtime.mesh_status().success, "the first one serves");
    let said = || std::fs::metadata(&ready).and_then(|file| file.modified()).expect("it says that it is ready");
    let stood_by = said();
    runtime.daemon_down("-TERM");
    eventually("the next one serves", Duration::from_secs(10), || runtime.mesh_status().success.then_some(()));
    eventually("it says so", Duration::from_secs(10), || Path::new(&ready).exists().then_some(()));
    assert!(said() > stood_by, "what it said while it stood by was not taken back when its turn came");
    assert!(talk.try_wait().expect("it is ours").is_none(), "the conversation was over before");
    let output = talk.wait_with_output().expect("python3 ends");
    let gap = String::from_utf8_lossy(&output.stdout).trim().parse::<f64>();
    let gap = gap.unwrap_or_else(|_| panic!("the connection broke: {}", String::from_utf8_lossy(&output.stderr)));
    println!("one daemon after the other: the longest wait was {gap:.2} s");
    assert!(gap < 3.0, "{gap} s without an answer");
    end("-TERM", next.trim());
    runtime.daemon_up(&lab);
}
