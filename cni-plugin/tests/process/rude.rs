//! A daemon that is there and does not behave, and a runtime that does not listen.

use std::fs::File;
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use cni::wire::LINE_LENGTH_MAX;
use cni::{Answer, Code};
use serde_json::json;

use crate::daemon::{Daemon, Reply, refusal};
use crate::runtime::{Runtime, ended, finish, within};

#[test]
fn a_rude_answer_is_no_success() {
    let huge = vec![b'['; LINE_LENGTH_MAX + 1];
    let deep = [&b"{\"ok\":true,\"result\":{\"a\":"[..], &[b'['; 100_000]].concat();
    let cases: [&[u8]; 12] = [
        b"",
        b"\n",
        b"garbage\n",
        b"\0\xff\n",
        b"{\"ok\":true}",
        b"{\"ok\":\"true\"}\n",
        b"{\"ok\":true,\"result\":7}\n",
        b"{\"ok\":true,\"result\":{\"ips\":7}}\n",
        b"{\"ok\":false}\n",
        b"[\n",
        &huge,
        &deep,
    ];
    for bytes in cases {
        let start = bytes.get(..40).unwrap_or(bytes).escape_ascii();
        let called = within(Duration::from_secs(2), || {
            let runtime = Runtime::new("ADD");
            let _daemon = Daemon::start(&runtime.socket(), vec![Reply::Bytes(bytes.to_vec())]);
            let called = runtime.call();
            assert!(runtime.tombstone().exists(), "{start}: it may have been attached");
            called
        });
        assert_eq!(called.code(), 11, "{start}");
    }
}

#[test]
fn a_flood_is_not_listened_to() {
    let mut runtime = Runtime::new("ADD");
    runtime.config["timeoutSeconds"] = 60.into();
    let (count, taken) = channel();
    let _daemon = Daemon::start(&runtime.socket(), vec![Reply::Flood(count)]);
    let error = runtime.call().error();
    assert_eq!(error.code.0, 11);
    assert!(error.details.contains("its answer is longer than"), "{error}");
    // what it read, and what the socket's buffers hold
    let taken = taken.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(taken < 2 * LINE_LENGTH_MAX, "{taken}");
}

#[test]
fn for_status_a_rude_daemon_is_not_available() {
    let runtime = Runtime::new("STATUS");
    let _daemon = Daemon::start(&runtime.socket(), vec![Reply::Bytes(b"?\n".to_vec())]);
    assert_eq!(runtime.call().code(), 50);
}

#[test]
fn what_the_daemon_refuses_is_said_as_it_said_it() {
    for verb in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        let runtime = Runtime::new(verb);
        let _daemon = Daemon::answering(&runtime.socket(), vec![refusal(Code(123), "no, \"because\"\n")]);
        let error = runtime.call().error();
        assert_eq!((error.code, error.msg.as_str()), (Code(123), "no, \"because\"\n"), "{verb}");
        assert!(!runtime.tombstones().exists(), "{verb}: its answer is definite");
    }
}

#[test]
fn cn_14_an_add_whose_result_cannot_be_written_is_taken_back() {
    for full in [false, true] {
        let runtime = Runtime::new("ADD");
        let daemon = Daemon::agreeing(&runtime.socket());
        let mut command = runtime.plugin();
        if full {
            command.stdout(File::options().write(true).open("/dev/full").unwrap());
        } else {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            command.stdout(writer);
        }
        let called = finish(command, runtime.config.to_string().as_bytes());
        assert!(!called.success);
        assert_eq!(daemon.asked(), ["ADD c0ffee@eth0", "DEL c0ffee@eth0"]);
        assert!(called.stderr.contains("taking c0ffee@eth0 back"), "{}", called.stderr);
        assert!(!runtime.tombstones().exists());
    }
}

#[test]
fn cn_14_an_add_whose_result_nobody_reads_is_taken_back() {
    let mut runtime = Runtime::new("ADD");
    // more than a pipe holds
    runtime.config["prevResult"]["padding"] = "x".repeat(200_000).into();
    let daemon = Daemon::agreeing(&runtime.socket());
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = runtime.plugin();
    command.stdout(writer);
    let called = finish(command, runtime.config.to_string().as_bytes());
    drop(reader);
    assert!(!called.success);
    assert!(called.took < Duration::from_secs(4), "{:?}", called.took);
    assert_eq!(daemon.asked(), ["ADD c0ffee@eth0", "DEL c0ffee@eth0"]);
}

#[test]
fn cn_14_taken_back_by_tombstone_where_the_daemon_has_gone_meanwhile() {
    let runtime = Runtime::new("ADD");
    let _daemon = Daemon::answering(&runtime.socket(), vec![Answer::Done { result: None }]);
    let mut command = runtime.plugin();
    command.stdout(File::options().write(true).open("/dev/full").unwrap());
    assert!(!finish(command, runtime.config.to_string().as_bytes()).success);
    assert!(runtime.tombstone().exists());
}

#[test]
fn stderr_that_is_gone_changes_nothing() {
    let runtime = Runtime::new("DEL");
    let mut command = runtime.plugin();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command.stderr(writer);
    assert!(finish(command, runtime.config.to_string().as_bytes()).success);
    assert!(runtime.tombstone().exists());
}

#[test]
fn the_daemons_result_is_printed_in_the_version_asked_for() {
    let mut runtime = Runtime::new("ADD");
    runtime.config["cniVersion"] = "0.4.0".into();
    let result =
        json!({ "cniVersion": "1.1.0", "ips": [{ "address": "fd00::2/64" }], "routes": [{ "dst": "::/0", "mtu": 9 }] });
    let _daemon = Daemon::answering(&runtime.socket(), vec![Answer::Done { result: Some(result) }]);
    let called = runtime.call();
    assert!(called.success, "{}", called.stdout);
    let printed: serde_json::Value = serde_json::from_str(&called.stdout).unwrap();
    assert_eq!(
        printed,
        json!({ "cniVersion": "0.4.0", "ips": [{ "version": "6", "address": "fd00::2/64" }], "routes": [{ "dst": "::/0" }] })
    );
}

/// House budget: a plugin runs for each pod, so that a hundred starts at once must be cheap.
#[test]
fn waiting_for_the_daemon_costs_less_than_8_mib() {
    let mut runtime = Runtime::new("ADD");
    runtime.config["timeoutSeconds"] = 60.into();
    let (go, wait) = channel();
    let daemon = Daemon::start(&runtime.socket(), vec![Reply::Held(wait, Answer::Done { result: None })]);
    let started = Instant::now();
    let mut child = runtime.plugin().stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), runtime.config.to_string().as_bytes()).unwrap();
    daemon.next_question();
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    go.send(()).unwrap();
    assert!(ended(child, started).success);
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")).unwrap();
    assert!(peak.parse::<u32>().unwrap() < 8 * 1024, "{peak} kB");
}
