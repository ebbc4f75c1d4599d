//! Namespaces made and entered for real; names are made in a mount namespace of the test's own.

use super::*;
use std::io::Read as _;
use std::process::Stdio;

/// Runs `work` where /run is an empty file system that nobody else sees, and which ends with it.
fn with_private_run<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    on_thread(|| {
        // SAFETY: NEWNS does not touch the table of file descriptors.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
            .expect("these tests need root: run them under `unshare -rnm`");
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).unwrap();
        rustix::mount::mount("tmpfs", "/run", "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
        work()
    })
    .unwrap()
}

fn link_count() -> usize {
    std::fs::read_to_string("/proc/thread-self/net/dev").unwrap().lines().count() - 2
}

#[test]
fn a_new_namespace_is_another_one_with_loopback_only() {
    let own = Netns::current().unwrap();
    let new = Netns::create().unwrap();
    assert_ne!(own, new);
    let (inside, links) = new.within(|| (Netns::current().unwrap(), link_count())).unwrap();
    assert_eq!(inside, new);
    // lo, and whatever fallback tunnels the kernel makes by default: never the host's eth0
    assert!(links >= 1);
    assert!(own.is_current().unwrap(), "the caller itself does not move");
}

#[test]
fn within_may_borrow_and_answers() {
    let new = Netns::create().unwrap();
    let mut text = String::new();
    let answer = new.within(|| text.push_str("seen")).map(|()| 7).unwrap();
    assert_eq!((answer, text.as_str()), (7, "seen"));
}

#[test]
fn a_socket_stays_where_it_was_opened() {
    let new = Netns::create().unwrap();
    let inside = new.within(|| std::net::UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    let port = inside.local_addr().unwrap().port();
    // lo of the new namespace is down: nothing can be sent there, whoever holds the socket
    assert!(inside.send_to(b"x", ("127.0.0.1", port)).is_err());
}

#[test]
fn a_panic_inside_goes_on_outside() {
    let new = Netns::create().unwrap();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        new.within(|| std::panic::panic_any("inside")).unwrap();
    }));
    assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"inside"));
}

#[test]
fn a_command_runs_inside() {
    let new = Netns::create().unwrap();
    let mut command = Command::new("readlink");
    command.arg("/proc/self/ns/net").stdout(Stdio::piped());
    let mut child = new.spawn_in(command).unwrap();
    let mut seen = String::new();
    child.stdout.take().unwrap().read_to_string(&mut seen).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(seen.trim(), format!("net:[{}]", new.key().inode));
}

#[test]
fn what_is_no_network_namespace_is_refused() {
    for path in ["/proc/thread-self/ns/mnt", "/proc/version", "/etc/passwd", "/"] {
        let refused = Netns::open(path).unwrap_err();
        assert!(matches!(refused, NetnsError::NotNetwork { .. }), "{path}: {refused}");
    }
    let gone = Netns::open("/run/netns/there-is-none").unwrap_err();
    assert_eq!(gone.io_kind(), Some(io::ErrorKind::NotFound));
    assert!(gone.to_string().contains("/run/netns/there-is-none"), "{gone}");
}

#[test]
fn a_named_namespace_is_found_by_name_until_deleted() {
    with_private_run(|| {
        let made = Netns::create_named("a").unwrap();
        assert_eq!(Netns::open_named("a").unwrap(), made);
        let listed = Command::new("ip").args(["netns", "list"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&listed.stdout).trim(), "a", "iproute2 sees it too");
        let taken = Netns::create_named("a").unwrap_err();
        assert_eq!(taken.io_kind(), Some(io::ErrorKind::AlreadyExists));
        assert_eq!(Netns::open_named("a").unwrap(), made, "the one that was there is untouched");
        Netns::create_named("b").unwrap();
        Netns::delete_named("a").unwrap();
        Netns::delete_named("a").unwrap();
        assert!(Netns::open_named("a").is_err());
        assert!(Netns::open_named("b").is_ok());
        Netns::delete_named("b").unwrap();
        assert_eq!(std::fs::read_dir(NAMED_DIR).unwrap().count(), 0);
    });
}

#[test]
fn a_name_is_one_path_component() {
    for bad in ["", ".", "..", "a/b", "../../etc/x", &"n".repeat(256), "nul\0"] {
        assert!(matches!(Netns::create_named(bad), Err(NetnsError::Name { .. })), "{bad:?} was taken");
        assert!(matches!(Netns::delete_named(bad), Err(NetnsError::Name { .. })), "{bad:?} was taken");
    }
}
