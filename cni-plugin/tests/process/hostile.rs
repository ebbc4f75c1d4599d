//! A runtime that says nonsense: on stdin, in the environment, or nothing at all.

use std::io::Write as _;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::daemon::Daemon;
use crate::runtime::{Runtime, ended, finish, within};

const VERBS: [&str; 5] = ["ADD", "DEL", "CHECK", "GC", "STATUS"];

#[test]
fn cn_08_nonsense_on_stdin_is_refused_at_once_in_little_memory() {
    let deep = "[".repeat(100_000);
    let deep_object = format!("{{\"a\":{}", "{\"a\":".repeat(100_000));
    let long = vec![b' '; 100 << 20];
    let wide = format!("{{\"a\":[{}0]}}", "0,".repeat(500_000));
    let inputs: [&[u8]; 14] = [
        b"",
        b"garbage",
        b"{\"cniVersion\":\"1.1.0\",\"name\":\"n",
        b"{\"cniVersion\":\"1.1.0\",\"name\":\"\xff\xfe\"}",
        b"\0\0\0\0",
        b"{\"cniVersion\":\"1.1.0\",\"name\":\"n\",\"timeoutSeconds\":1e999999}",
        b"{\"cniVersion\":\"1.1.0\",\"name\":\"n\",\"timeoutSeconds\":99999999999999999999999999}",
        b"{\"cniVersion\":\"1.1.0\",\"name\":\"n\\u0000\"}",
        b"[]",
        b"null",
        deep.as_bytes(),
        deep_object.as_bytes(),
        &long,
        wide.as_bytes(),
    ];
    for verb in VERBS {
        for input in inputs {
            let called = within(Duration::from_secs(1), || {
                let runtime = Runtime::new(verb);
                let _daemon = Daemon::agreeing(&runtime.socket());
                // 64 MiB of address space: more than the resident memory that it may need
                let limited = format!("ulimit -v 65536; exec '{}'", env!("CARGO_BIN_EXE_mesh-cni"));
                let mut command = runtime.start_with("/bin/sh".as_ref());
                command.args(["-c", &limited]);
                finish(command, input)
            });
            let start = input.get(..60).unwrap_or(input).escape_ascii();
            assert!(matches!(called.code(), 5..=7), "{verb} {start}: {}", called.stdout);
            let refused_by_length = called.stdout.contains("longer than 1048576 bytes");
            assert_eq!(refused_by_length, input.len() > 1 << 20, "{verb} {start}: {}", called.stdout);
        }
    }
}

#[test]
fn cn_08_of_a_duplicate_key_the_last_counts() {
    let runtime = Runtime::new("STATUS");
    let daemon = Daemon::agreeing(&runtime.socket());
    let text = runtime.config.to_string().replacen('{', r#"{"cniVersion":"0.0.1","name":"-","#, 1);
    assert!(runtime.call_with(text.as_bytes()).success);
    assert_eq!(daemon.next_question().conf.name, "net");
}

#[test]
fn cn_08_a_stdin_that_is_never_closed_is_waited_for_only_so_long() {
    let ask = |verb| {
        let started = Instant::now();
        let runtime = Runtime::new(verb);
        let mut child = runtime.plugin().spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(runtime.config.to_string().as_bytes()).unwrap();
        ended(child, started)
    };
    std::thread::scope(|scope| {
        for verb in VERBS {
            scope.spawn(move || assert_eq!(within(Duration::from_secs(5), || ask(verb)).code(), 5, "{verb}"));
        }
    });
}

#[test]
fn cn_09_each_missing_variable_is_named_on_stdout() {
    for verb in VERBS {
        let needed: &[&str] = match verb {
            "ADD" | "CHECK" => &["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            "DEL" => &["CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME"],
            _ => &["CNI_COMMAND"],
        };
        for name in needed {
            let mut runtime = Runtime::new(verb);
            runtime.environment.retain(|(found, _)| found != name);
            let error = runtime.call().error();
            assert_eq!(error.code.0, 4);
            assert!(error.msg.contains(name), "{verb} without {name}: {error}");
        }
    }
}

#[test]
fn cn_09_each_bad_variable_is_named_on_stdout() {
    let bad = [
        ("CNI_COMMAND", "add"),
        ("CNI_CONTAINERID", "../../etc"),
        ("CNI_CONTAINERID", "-x"),
        ("CNI_IFNAME", "sixteen-letters-"),
        ("CNI_IFNAME", "."),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "a/b"),
        ("CNI_IFNAME", "a:b"),
        ("CNI_IFNAME", "a b"),
        ("CNI_NETNS", "pod"),
        ("CNI_ARGS", "nonsense"),
    ];
    for (name, value) in bad {
        let mut runtime = Runtime::new("ADD");
        let daemon = Daemon::agreeing(&runtime.socket());
        runtime.set(name, value);
        let error = runtime.call().error();
        assert_eq!(error.code.0, 4);
        assert!(error.msg.contains(name), "{name}={value}: {error}");
        assert!(daemon.asked().is_empty());
    }
}

#[test]
fn cn_10_every_version_is_answered_in_itself() {
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let mut runtime = Runtime::new("ADD");
        runtime.config["cniVersion"] = version.into();
        let _daemon = Daemon::agreeing(&runtime.socket());
        let called = runtime.call();
        let printed: serde_json::Value = serde_json::from_str(&called.stdout).unwrap();
        assert!(called.success, "{printed}");
        assert_eq!(printed["cniVersion"], version);
        assert_eq!(printed["ips"][0].get("version").is_some(), version.starts_with('0'));
    }
}

#[test]
fn cn_10_errors_too_are_in_the_version_that_was_asked_for() {
    let mut runtime = Runtime::new("ADD");
    runtime.config["cniVersion"] = "0.4.0".into();
    let printed: serde_json::Value = serde_json::from_str(&runtime.call().stdout).unwrap();
    assert_eq!((&printed["cniVersion"], &printed["code"]), (&json!("0.4.0"), &json!(11)));
}

#[test]
fn cn_10_version_needs_no_other_variable_and_no_daemon() {
    let mut runtime = Runtime::new("VERSION");
    runtime.environment.retain(|(name, _)| name == "CNI_COMMAND");
    let called = runtime.call_with(br#"{"cniVersion":"1.0.0"}"#);
    assert!(called.success);
    let printed: serde_json::Value = serde_json::from_str(&called.stdout).unwrap();
    assert_eq!(printed, json!({ "cniVersion": "1.0.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] }));
}

#[test]
fn by_hand_it_says_what_it_is() {
    let mut runtime = Runtime::new("ADD");
    // cnitool's users have this one set
    runtime.environment.retain(|(name, _)| name == "CNI_PATH");
    let called = runtime.call_with(b"");
    assert!(called.success && called.stdout.is_empty());
    assert!(called.stderr.contains("CNI protocol versions supported: 0.3.1, 0.4.0, 1.0.0, 1.1.0"), "{}", called.stderr);
    let mut command = runtime.plugin();
    command.arg("--version");
    let called = finish(command, b"");
    assert!(called.success && called.stdout.starts_with(&format!("mesh-cni {}", env!("CARGO_PKG_VERSION"))));
}
