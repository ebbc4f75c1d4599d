//! MF-05: an API server that refuses, hangs, resets, forgets, lists half, says nonsense, or tells changes twice and too late.
//!
//! The daemons of both nodes ask it through a proxy (`load/proxy.py`); the controller, the kubelets and everybody else ask the
//! server itself, so that pods and policies go on changing meanwhile. Each fault holds for seconds, where MF-05 speaks of an
//! hour: nothing in a daemon ends with a longer one but what ends by its date, and waits are at their longest after ten.

use std::time::{Duration, Instant};

use super::Case;
use crate::cluster::Cluster;
use crate::pod::{MARKER, Pod, at, peer_authentication};
use crate::promise::keeps;
use crate::proxy::{DAEMONS, Proxy};
use crate::shell::eventually;
use crate::weft;

/// The cases of this file.
pub const CASES: &[(&str, Case)] =
    &[("mf_05_a_server_that_answers_wrongly_opens_nothing_and_is_not_stormed", answers_wrongly)];

/// How long each fault holds.
const FAULT: Duration = Duration::from_secs(6);
/// Lists of one kind by one node while a fault holds. Waits of 1/4, 1/2, 1, 2 and 4 s, the half of each by chance, make six; without
/// them it is more than a hundred.
const LISTS_MAX: usize = 10;
/// Until what changed meanwhile is in force once the server answers again, in seconds (the catalogue's MF-05).
pub const RESYNCED_MAX: f64 = 10.0;

/// Who talks with whom.
struct World<'a> {
    cluster: &'a Cluster,
    proxy: Proxy<'a>,
    client: &'a Pod,
    server: &'a Pod,
    stranger: &'a Pod,
}

impl World<'_> {
    fn set_mode(&self, mode: &str) {
        self.cluster.apply(&peer_authentication("wrong", mode));
    }

    fn is_open(&self) -> bool {
        let asks = |ip| self.stranger.reaches(&at(ip, 8080));
        std::thread::scope(|scope| {
            let asking: Vec<_> = self.server.ips.iter().map(|ip| scope.spawn(move || asks(*ip))).collect();
            asking.into_iter().any(|one| one.join().expect("it asks"))
        })
    }

    /// Waits until strangers are let in, or not; how long that took.
    fn await_open(&self, what: &str, wanted: bool) -> f64 {
        let what = format!("{what}: strangers {} let in", if wanted { "are" } else { "are not" });
        eventually(&what, Duration::from_secs(120), || (self.is_open() == wanted).then_some(())).1.as_secs_f64()
    }

    /// One fault from its begin to the end of its consequences. A change that is written at its begin must not be half known:
    /// `seen` says that it may get through as a whole, and is then written at the end. How long after the fault it is in force.
    fn suffers(&self, fault: &str, seen: bool) -> f64 {
        self.proxy.forget();
        let talks: Vec<_> = self.server.ips.iter().map(|ip| self.client.talk(*ip, 600)).collect();
        self.proxy.set(fault);
        let begin = Instant::now();
        if !seen {
            self.set_mode("PERMISSIVE");
        }
        while begin.elapsed() < FAULT {
            assert!(!self.is_open(), "{fault}: STRICT holds until another mode is known");
        }
        assert_eq!(
            self.client.echo(self.server.ip(false), MARKER).as_deref(),
            Some(MARKER),
            "{fault}: a new connection"
        );
        if seen {
            self.set_mode("PERMISSIVE");
        }
        self.proxy.set("pass");
        // what was longer than it should be, a list each two seconds (the half of the longest wait)
        let lists_max = LISTS_MAX + usize::try_from((begin.elapsed() - FAULT).as_secs()).expect("some seconds") / 2;
        let opened = self.await_open(fault, true);
        self.set_mode("STRICT");
        let closed = self.await_open(fault, false);
        for talk in talks {
            talk.enough();
        }
        eprintln!("{fault}: in force {opened:.1} s after its end, the next change after {closed:.1} s");
        if let Some((lists, which)) = self.proxy.most_lists(fault) {
            eprintln!("{fault}: at most {lists} lists ({which})");
            assert!(lists <= lists_max, "{fault}: {lists} lists of {which}");
        }
        opened
    }

    /// Changes that are told twice and too late: the last word counts.
    fn suffers_shuffling(&self) {
        let exception = "apiVersion: weft.dev/v1alpha1\nkind: PeerAuthentication\nmetadata: {name: server, namespace: wrong}\n\
                         spec: {selector: {matchLabels: {app: server}}, mtls: {mode: PERMISSIVE}}\n";
        let stays_closed = |what: &str| {
            self.await_open(what, false);
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(2) {
                assert!(!self.is_open(), "{what}: what is over came back");
            }
        };
        self.proxy.set("shuffle");
        self.set_mode("PERMISSIVE");
        self.await_open("shuffle", true);
        self.set_mode("STRICT");
        stays_closed("a mode that was changed back");
        self.cluster.apply(exception);
        self.await_open("shuffle", true);
        self.cluster.kubectl(&["-n", "wrong", "delete", "pa", "server"]);
        stays_closed("an exception that is deleted");
        self.proxy.set("pass");
        let (lists, which) = self.proxy.most_lists("shuffle").expect("the proxy counts them");
        assert!(lists <= LISTS_MAX, "shuffle: {lists} lists of {which}");
    }
}

fn answers_wrongly(cluster: &Cluster) {
    let plain = cluster.pods("wrong-plain", false, &[("stranger", "n1")]);
    let pods = cluster.pods("wrong", true, &[("client", "n1"), ("server", "n2")]);
    // more than a page of them where pages hold two, so that none of their lists is complete
    let more = |n: u32| {
        format!(
            "apiVersion: weft.dev/v1alpha1\nkind: PeerAuthentication\nmetadata: {{name: other{n}, namespace: wrong}}\n\
             spec: {{selector: {{matchLabels: {{app: none{n}}}}}, mtls: {{mode: STRICT}}}}\n---\n"
        )
    };
    cluster.apply(&(0..3).map(more).collect::<String>());
    let world = World {
        cluster,
        proxy: Proxy::up(cluster, &[DAEMONS]),
        client: &pods[0],
        server: &pods[1],
        stranger: &plain[0],
    };
    weft::await_ready(cluster);
    eventually("both daemons ask through the proxy", Duration::from_secs(60), || {
        (world.proxy.peers() == ["10.77.0.11", "10.77.0.12"]).then_some(())
    });
    world.set_mode("STRICT");
    world.await_open("without a fault", false);
    let capture = cluster.capture();
    for (fault, seen) in
        [("refuse", false), ("hang", false), ("flap", true), ("gone", true), ("half", false), ("garbage", false)]
    {
        keeps(&format!("from the end of `{fault}` until what changed is in force"), RESYNCED_MAX, || {
            world.suffers(fault, seen)
        });
    }
    world.suffers_shuffling();
    assert_eq!(capture.markers(), 0, "clear text while the API server answered wrongly");
    world.proxy.down();
    weft::await_ready(cluster);
    cluster.delete_namespaces(&["wrong", "wrong-plain"]);
}
