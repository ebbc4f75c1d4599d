//! MF-05, in full length and in short: a way to the API server on which every packet vanishes, while pods come, go and talk.
//!
//! Daemons and controllers ask over that way; kubelets ask the server itself, so that the runtime attaches and detaches pods
//! meanwhile. Nobody tells a connection of such a death: it must notice by itself.

use std::time::{Duration, Instant};

use super::Case;
use super::figures::lists;
use super::wrong_answers::RESYNCED_MAX;
use crate::cluster::{Cluster, NODES};
use crate::pod::{MARKER, READY, at, peer_authentication, pod};
use crate::promise::keeps;
use crate::proxy::{CONTROLLERS, DAEMONS, Proxy, Way};
use crate::shell::eventually;
use crate::weft;

/// The cases of this file.
pub const CASES: &[(&str, Case)] =
    &[("mf_05_a_way_to_the_api_server_that_dies_without_a_word", |cluster| outages(cluster, Duration::from_secs(50)))];
/// Too long for every run: `scripts/measure kubernetes outage`.
pub const LONG: &[(&str, Case)] = &[
    ("outage_mf_05_of_ten_minutes", |cluster| outages(cluster, Duration::from_secs(600))),
    ("outage_mf_05_of_a_server_that_keeps_its_connections_and_says_nothing", says_nothing),
];

/// When a dead connection is given up (`meshd`, `cluster/kubernetes/connect.rs`): after 30 s, and where something is said on it just
/// before, 30 s after that; and some for a busy machine.
const NOTICED: Duration = Duration::from_secs(75);
/// Longest silence of a connection (`meshd`, the same file), and some for a busy machine.
const SILENCE: Duration = Duration::from_secs(90 + 60);
/// How long everything hangs: longer than a watch is silent, and then waits for the begin of an answer, which is given up after 60 s.
const HANGS: Duration = Duration::from_secs(180);
/// Full lists of one outage, of four programs with sixteen kinds each, where those that are not installed are asked for again.
const LISTS_MAX: usize = 150;

/// Ends a pod's sandbox behind the kubelet's back: a DEL, and an ADD of a pod that the daemon knows.
fn end_sandbox(cluster: &Cluster, node: &str, namespace: &str, name: &str) {
    let uid = cluster.kubectl(&["-n", namespace, "get", "pod", name, "-o", "jsonpath={.metadata.uid}"]);
    // the sandbox's own process is the pod image's sleep
    let script = format!(
        "grep -l {} /proc/[0-9]*/cgroup | cut -d/ -f3 | xargs -n1 sh -c \
        'tr \"\\0\" \" \" </proc/$0/cmdline | grep -q 2147483647 && kill -9 $0 || true'",
        uid.trim()
    );
    cluster.must_on(node, &script);
}

fn outages(cluster: &Cluster, how_long: Duration) {
    let what = "from when the way to the server is mended until what changed meanwhile is in force";
    keeps(what, RESYNCED_MAX, || outage(cluster, how_long));
}

/// One outage; how long after it what was changed meanwhile is in force.
fn outage(cluster: &Cluster, how_long: Duration) -> f64 {
    let plain = cluster.pods("outage-plain", false, &[("stranger", "n1")]);
    let pods = cluster.pods("outage", true, &[("client", "n1"), ("server", "n2"), ("anew", "n2"), ("goes", "n2")]);
    cluster.apply(&peer_authentication("outage", "STRICT"));
    let (client, server, stranger) = (&pods[0], &pods[1], &plain[0]);
    for ip in server.ips.iter().chain(&pods[2].ips) {
        client.pings_within(*ip, Duration::from_secs(90));
        stranger.gets(&at(*ip, 8080), false);
    }
    let way = Way::up(cluster, &[DAEMONS, CONTROLLERS]);
    weft::await_ready(cluster);
    eventually("all ask over it", Duration::from_secs(60), || (way.connections() >= 2 * NODES.len()).then_some(()));
    let capture = cluster.capture();
    let seconds = u32::try_from(how_long.as_secs()).expect("some minutes") + 20;
    let talks: Vec<_> = server.ips.iter().map(|ip| client.talk(*ip, seconds)).collect();
    let listed = lists(cluster);

    way.cut();
    let begin = Instant::now();
    // one that nobody knows yet, one that goes, and one whose sandbox is made anew
    cluster.apply(&pod("outage", "comes", "n2", READY));
    end_sandbox(cluster, "n2", "outage", "anew");
    cluster.kubectl(&["-n", "outage", "delete", "pod", "goes", "--timeout=240s"]);
    eventually("dead connections are given up", NOTICED, || (way.connections() == 0).then_some(()));
    let noticed = begin.elapsed().as_secs_f64();
    let (anew, took) = eventually("the pod has another sandbox", Duration::from_secs(240), || {
        let pod = cluster.pod("outage/anew");
        (pod.ips != pods[2].ips).then_some(pod)
    });
    eprintln!(
        "without a server: noticed after {noticed:.0} s, a sandbox made anew {:.0} s after that",
        took.as_secs_f64()
    );
    // what changes now is not known before the end
    cluster.apply(&peer_authentication("outage", "PERMISSIVE"));
    while begin.elapsed() < how_long {
        for ip in &server.ips {
            assert!(stranger.is_refused_by(&at(*ip, 8080)), "STRICT until another mode is known");
            assert_eq!(client.echo(*ip, MARKER).as_deref(), Some(MARKER), "a new connection without a server");
        }
        for ip in &anew.ips {
            assert!(stranger.is_refused_by(&at(*ip, 8080)), "a STRICT pod whose sandbox was made without a server");
        }
        std::thread::sleep(Duration::from_millis(500));
    }

    way.mend();
    let mended = Instant::now();
    eventually("what was changed is in force", Duration::from_secs(120), || {
        stranger.reaches(&at(server.ip(false), 8080)).then_some(())
    });
    let resynced = mended.elapsed().as_secs_f64();
    let comes = cluster.pod("outage/comes");
    for ip in anew.ips.iter().chain(&comes.ips) {
        client.pings_within(*ip, Duration::from_secs(120));
    }
    let reached = mended.elapsed().as_secs_f64();
    for talk in talks {
        let (lines, gap) = talk.finish();
        eprintln!("{} s without a server: {lines} lines, none lost, longest wait {gap:.2} s", how_long.as_secs());
    }
    let (full, absent) = lists(cluster);
    let (full, absent) = (full - listed.0, absent - listed.1);
    eprintln!(
        "in force {resynced:.1} s after the way was mended, pods made meanwhile reached after {reached:.1} s; \
         {full} full lists since the cut, {absent} looks for kinds that are not installed"
    );
    assert!(full <= LISTS_MAX, "{full} full lists");
    assert_eq!(capture.markers(), 0, "clear text while there was no server");
    way.down();
    weft::await_ready(cluster);
    // it may come again
    cluster.kubectl(&["delete", "namespace", "outage", "outage-plain", "--timeout=240s"]);
    resynced
}

/// Connections that live, by all that TCP knows, and on which no more comes: first those that were there, as behind a balancer whose
/// server is gone; then all, as of a server that hangs.
fn says_nothing(cluster: &Cluster) {
    let plain = cluster.pods("silent-plain", false, &[("stranger", "n1")]);
    let pods = cluster.pods("silent", true, &[("client", "n1"), ("server", "n2")]);
    let (client, server, stranger) = (&pods[0], &pods[1], &plain[0]);
    cluster.apply(&peer_authentication("silent", "STRICT"));
    let proxy = Proxy::up(cluster, &[DAEMONS]);
    weft::await_ready(cluster);
    let is_open = |open: bool| server.ips.iter().all(|ip| stranger.reaches(&at(*ip, 8080)) == open).then_some(());
    eventually("STRICT is in force", NOTICED, || is_open(false));
    let capture = cluster.capture();
    let talks: Vec<_> = server.ips.iter().map(|ip| client.talk(*ip, 900)).collect();
    let listed = lists(cluster).0;

    proxy.set("mute");
    // the proxy looks at its word every 20 ms
    std::thread::sleep(Duration::from_secs(1));
    cluster.apply(&peer_authentication("silent", "PERMISSIVE"));
    let ((), opened) = eventually("a change is heard of over another connection", SILENCE, || is_open(true));
    assert!(opened > Duration::from_secs(5), "the old connections still spoke: in force after {opened:?}");
    cluster.apply(&peer_authentication("silent", "STRICT"));
    let ((), closed) = eventually("so is the next one", NOTICED, || is_open(false));
    let full = lists(cluster).0 - listed;
    eprintln!(
        "connections that say no more: a change in force after {:.0} s, the next after {:.1} s; {full} full lists, {} watches anew",
        opened.as_secs_f64(),
        closed.as_secs_f64(),
        proxy.watches("mute")
    );
    assert_eq!(full, 0, "a watch that goes on where it was needs no list");

    proxy.set("hang");
    let begin = Instant::now();
    cluster.apply(&peer_authentication("silent", "PERMISSIVE"));
    while begin.elapsed() < HANGS {
        for ip in &server.ips {
            assert!(stranger.is_refused_by(&at(*ip, 8080)), "STRICT until another mode is known");
            assert_eq!(client.echo(*ip, MARKER).as_deref(), Some(MARKER), "a new connection without a server");
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    let asked = proxy.watches("hang");
    assert!(asked > 0, "nobody noticed that the server says nothing");
    proxy.set("pass");
    let ((), opened) = eventually("what was changed is in force", NOTICED, || is_open(true));
    eprintln!(
        "{} s in which it answers nothing: {asked} watches asked for anew; in force {:.1} s after its end",
        HANGS.as_secs(),
        opened.as_secs_f64()
    );
    for talk in talks {
        let (lines, gap) = talk.enough();
        eprintln!("meanwhile {lines} lines, none lost, longest wait {gap:.2} s");
    }
    assert_eq!(capture.markers(), 0, "clear text while the server said nothing");
    proxy.down();
    weft::await_ready(cluster);
    cluster.delete_namespaces(&["silent", "silent-plain"]);
}
