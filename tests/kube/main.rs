//! Weft in a real Kubernetes: etcd, API server, controllers, scheduler, and two nodes with containerd, kubelet and kube-proxy.
//!
//! `scripts/test kubernetes` runs all; words after `--` choose by name. The cluster is made once and the cases take turns on it, in
//! their order: the last one takes Weft away. It lives in namespaces of its own and ends with this process; what remains in
//! the control groups is swept. `WEFT_KUBE_KEEP=1` leaves its folder with all logs behind, `WEFT_KUBE_HOLD=1` the whole cluster up
//! until this process is ended.

mod cases;
mod cluster;
mod control_plane;
mod list;
mod load;
mod pod;
mod promise;
mod proxy;
mod report;
#[path = "../netns/shell.rs"]
mod shell;
mod weft;

use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Instant;

use libtest_mimic::{Arguments, Trial};

/// Says that this process is inside the namespaces, and who is outside.
const INSIDE: &str = "WEFT_KUBE_INSIDE";

fn main() -> ExitCode {
    if std::env::var_os(INSIDE).is_none() {
        return outside();
    }
    let (options, words): (Vec<_>, Vec<_>) = std::env::args().partition(|word| word.starts_with('-'));
    let words = words.get(1..).unwrap_or_default();
    let mut arguments = Arguments::from_iter([words.first().cloned().unwrap_or_default()].into_iter().chain(options));
    arguments.filter = None;
    arguments.test_threads = Some(1);
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(words, None)).exit_code();
    }
    let cluster = Arc::new(cluster::Cluster::up());
    let conclusion = libtest_mimic::run(&arguments, trials(words, Some(&cluster)));
    if conclusion.has_failed() {
        cluster.show_logs();
    }
    if std::env::var_os("WEFT_KUBE_HOLD").is_some() {
        eprintln!("the cluster stays: nsenter -t $(pgrep -P $(pgrep -P {})) -a", outer());
        loop {
            std::thread::park();
        }
    }
    cluster.down();
    conclusion.exit_code()
}

/// Process number of the outer process, which names what this run makes outside its namespaces.
pub fn outer() -> String {
    std::env::var(INSIDE).unwrap_or_default()
}

/// The cases that one of the words names; without words all but figures, outages and versions. f17, which installs Weft, always.
fn trials(words: &[String], cluster: Option<&Arc<cluster::Cluster>>) -> Vec<Trial> {
    let trial = |(name, case): (&'static str, cases::Case)| {
        let cluster = cluster.cloned();
        Trial::test(name, move || {
            if let Some(cluster) = &cluster {
                cluster.plane.recover();
                let begin = Instant::now();
                case(cluster);
                eprint!("{:.0} s ", begin.elapsed().as_secs_f64());
            }
            Ok(())
        })
    };
    let is_named = |name: &str| match ["figure", "outage", "versions"].into_iter().find(|kind| name.starts_with(kind)) {
        // these take long; figures tell nothing on a machine that has something else to do
        Some(kind) => words.iter().any(|word| word.starts_with(kind) && name.contains(word.as_str())),
        None => words.is_empty() || words.iter().any(|word| name.contains(word.as_str())),
    };
    let chosen = cases::all().into_iter().filter(|(name, _)| name.starts_with("f17_") || is_named(name));
    chosen.map(trial).collect()
}

/// Runs this program again with a network, mounts and processes of its own, and sweeps the control groups after it.
fn outside() -> ExitCode {
    let me = std::env::current_exe().expect("a test binary has a path");
    let prepare = "mount -t tmpfs none /run && mkdir -p /run/netns && ip link set lo up && exec \"$0\" \"$@\"";
    cluster::sweep_stale_control_groups();
    let own = std::process::id().to_string();
    // when this process ends, however it does, so does everything inside
    let status = Command::new("setpriv")
        .args([
            "--pdeathsig",
            "KILL",
            "unshare",
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child",
            "sh",
            "-c",
            prepare,
        ])
        .arg(me)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, &own)
        // every run's API server has the same address, and what kubectl remembers of one is wrong of the next
        .env("KUBECACHEDIR", cluster::folder_of(&own).join("kubectl"))
        .status()
        .expect("setpriv (util-linux) runs");
    cluster::sweep_control_groups(&own);
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
