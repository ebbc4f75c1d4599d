//! Nobody home: the daemon is absent, has ended, or hangs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use serde_json::{Value, json};

use crate::daemon::{Daemon, Reply, refusal};
use crate::runtime::Runtime;

const AT_ONCE: Duration = Duration::from_secs(2);

#[test]
fn cn_06_without_a_daemon_add_says_try_again_and_what_to_check() {
    let runtime = Runtime::new("ADD");
    let called = runtime.call();
    let error = called.error();
    assert_eq!(error.code.0, 11);
    let socket = runtime.socket();
    for words in [socket.to_str().unwrap(), "`meshd node`", "on this node", "`socket`"] {
        assert!(error.details.contains(words), "{words}: {error}");
    }
    assert!(called.took < AT_ONCE, "{:?}", called.took);
    assert!(!runtime.tombstones().exists(), "nothing has happened that would have to be undone");
}

#[test]
fn cn_06_a_stale_socket_is_as_good_as_none() {
    let runtime = Runtime::new("ADD");
    drop(UnixListener::bind(runtime.socket()).unwrap());
    let error = runtime.call().error();
    assert_eq!(error.code.0, 11);
    assert!(error.details.contains("has ended"), "{error}");
}

#[test]
fn cn_06_without_a_daemon_the_other_verbs_say_so_too() {
    for (verb, code) in [("CHECK", 11), ("GC", 11), ("STATUS", 50)] {
        let called = Runtime::new(verb).call();
        assert_eq!(called.code(), code, "{verb}");
        assert!(called.took < AT_ONCE, "{verb} {:?}", called.took);
    }
}

#[test]
fn cn_03_without_a_daemon_del_leaves_a_tombstone_and_succeeds_again_and_again() {
    let mut runtime = Runtime::new("DEL");
    for netns in ["/run/netns/pod", "", "/run/netns/gone"] {
        runtime.set("CNI_NETNS", netns);
        let called = runtime.call();
        assert!(called.success, "{}", called.stdout);
        assert_eq!(called.stdout, "");
        assert!(called.stderr.contains("DEL of c0ffee@eth0 is left in"), "{}", called.stderr);
        let tombstone: Value = serde_json::from_slice(&fs::read(runtime.tombstone()).unwrap()).unwrap();
        let netns = Some(netns).filter(|netns| !netns.is_empty());
        assert_eq!(tombstone, json!({ "containerID": "c0ffee", "ifname": "eth0", "netns": netns }));
        assert_eq!(fs::read_dir(runtime.tombstones()).unwrap().count(), 1, "no temporary file stays");
    }
}

#[test]
fn tombstones_are_for_their_owner_alone() {
    let runtime = Runtime::new("DEL");
    assert!(runtime.call().success);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&runtime.tombstones()), mode(&runtime.tombstone())), (0o700, 0o600));
}

#[test]
fn f41_where_weft_is_gone_from_the_node_del_succeeds_and_leaves_no_file() {
    let runtime = Runtime::new("DEL");
    fs::remove_dir(runtime.folder().join("state")).unwrap();
    let called = runtime.call();
    assert!(called.success && called.stderr.contains("Weft is gone from this node"), "{}", called.stderr);
    assert_eq!(fs::read_dir(runtime.folder()).unwrap().count(), 0, "a file nobody would ever read");
}

#[test]
fn cn_04_del_without_netns_and_without_prev_result_is_carried() {
    let mut runtime = Runtime::new("DEL");
    runtime.environment.retain(|(name, _)| name != "CNI_NETNS");
    runtime.config.as_object_mut().unwrap().remove("prevResult");
    let daemon = Daemon::agreeing(&runtime.socket());
    assert!(runtime.call().success);
    assert_eq!(daemon.asked(), ["DEL c0ffee@eth0"]);
    assert!(!runtime.tombstones().exists());
}

#[test]
fn cn_13_a_del_that_can_be_neither_done_nor_left_is_an_error() {
    for tombstones in ["/dev/null/tombstones", "/proc/sys/tombstones"] {
        let mut runtime = Runtime::new("DEL");
        runtime.config["tombstones"] = tombstones.into();
        let error = runtime.call().error();
        assert_eq!(error.code.0, 5);
        assert!(error.details.contains(tombstones) && error.details.contains("there is no socket"), "{error}");
    }
}

#[test]
fn cn_13_on_a_full_disk_del_says_so_and_leaves_nothing() {
    let mut runtime = Runtime::new("DEL");
    fs::create_dir_all(runtime.tombstones()).unwrap();
    // the folder itself is the only inode that this file system has
    let script = format!(
        "mount -t tmpfs -o nr_inodes=1 tmpfs '{0}' && '{1}'; code=$?; ls -A '{0}' >&2; exit $code",
        runtime.tombstones().display(),
        env!("CARGO_BIN_EXE_mesh-cni")
    );
    runtime.set("PATH", &std::env::var("PATH").unwrap());
    let mut command = runtime.start_with("unshare".as_ref());
    command.args(["-rm", "sh", "-c", &script]);
    let called = crate::runtime::finish(command, runtime.config.to_string().as_bytes());
    let error = called.error();
    assert_eq!((error.code.0, called.stderr.as_str()), (5, ""));
    assert!(error.details.contains("No space left on device"), "{error}");
}

#[test]
fn cn_13_add_fails_early_where_del_would_have_nowhere_to_go() {
    let mut runtime = Runtime::new("ADD");
    runtime.config["tombstones"] = "/dev/null/tombstones".into();
    let daemon = Daemon::agreeing(&runtime.socket());
    assert_eq!(runtime.call().code(), 5);
    assert!(daemon.asked().is_empty(), "nothing was attached");
}

#[test]
fn cn_07_a_daemon_that_hangs_is_waited_for_only_so_long() {
    for (verb, code) in [("ADD", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)] {
        for reply in [Reply::Nothing, Reply::Trickle] {
            let runtime = Runtime::new(verb);
            let _daemon = Daemon::start(&runtime.socket(), vec![reply]);
            let called = runtime.call();
            assert_eq!(called.code(), code, "{verb}");
            assert!(called.took < AT_ONCE, "{verb} {:?}", called.took);
        }
    }
}

#[test]
fn cn_07_a_socket_that_nobody_accepts_on_is_waited_for_only_so_long() {
    let runtime = Runtime::new("ADD");
    let _listener = UnixListener::bind(runtime.socket()).unwrap();
    let called = runtime.call();
    assert_eq!(called.code(), 11);
    assert!(called.took < AT_ONCE, "{:?}", called.took);
}

#[test]
fn cn_07_a_del_that_hangs_is_left_for_later() {
    let runtime = Runtime::new("DEL");
    let _daemon = Daemon::start(&runtime.socket(), vec![Reply::Nothing]);
    let called = runtime.call();
    assert!(called.success && called.took < AT_ONCE, "{} {:?}", called.stdout, called.took);
    assert!(runtime.tombstone().exists());
}

#[test]
fn cn_07_an_add_of_unknown_outcome_is_taken_back() {
    let mut runtime = Runtime::new("ADD");
    {
        let _daemon = Daemon::start(&runtime.socket(), vec![Reply::Nothing]);
        assert_eq!(runtime.call().code(), 11);
    }
    assert!(runtime.tombstone().exists(), "the daemon may have attached it, and the runtime thinks that it has not");
    // the runtime's DEL, or its next ADD, comes to the daemon before anything else does
    for verb in ["ADD", "DEL"] {
        fs::write(runtime.tombstone(), "{}").unwrap();
        fs::remove_file(runtime.socket()).unwrap();
        runtime.set("CNI_COMMAND", verb);
        let daemon = Daemon::agreeing(&runtime.socket());
        assert!(runtime.call().success);
        let asked = daemon.asked();
        assert_eq!(asked.first().map(String::as_str), Some("DEL c0ffee@eth0"));
        assert_eq!(asked.len(), if verb == "ADD" { 2 } else { 1 });
        assert!(!runtime.tombstone().exists());
    }
}

#[test]
fn cn_21_an_add_does_not_overtake_a_del_that_waits() {
    let mut runtime = Runtime::new("DEL");
    assert!(runtime.call().success, "nobody home");
    runtime.set("CNI_COMMAND", "ADD");
    let busy = refusal(cni::Code::TRY_AGAIN_LATER, "starting");
    let daemon = Daemon::answering(&runtime.socket(), vec![busy]);
    assert_eq!(runtime.call().code(), 11);
    assert_eq!(daemon.asked(), ["DEL c0ffee@eth0"], "no ADD");
    assert!(runtime.tombstone().exists(), "it still waits");
}

#[test]
fn cn_19_two_interfaces_of_a_container_have_two_tombstones() {
    let mut runtime = Runtime::new("DEL");
    assert!(runtime.call().success);
    runtime.set("CNI_IFNAME", "net1");
    assert!(runtime.call().success);
    assert_eq!(fs::read_dir(runtime.tombstones()).unwrap().count(), 2);
    let daemon = Daemon::agreeing(&runtime.socket());
    runtime.set("CNI_COMMAND", "ADD");
    assert!(runtime.call().success);
    assert_eq!(daemon.asked(), ["DEL c0ffee@net1", "ADD c0ffee@net1"]);
    assert!(runtime.tombstone().exists(), "the other one is as it was");
}

#[test]
fn a_daemon_that_is_not_ready_for_del_gets_a_tombstone() {
    let runtime = Runtime::new("DEL");
    let _daemon = Daemon::answering(&runtime.socket(), vec![refusal(cni::Code::TRY_AGAIN_LATER, "starting")]);
    assert!(runtime.call().success);
    assert!(runtime.tombstone().exists());
}
