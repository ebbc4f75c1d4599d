//! Weft in a real Kubernetes: etcd, API server, controllers, scheduler, and two nodes with containerd, kubelet and kube-proxy.
//!
//! `scripts/test kubernetes` runs all; a word filters by name. The cluster is made once and the cases take turns on it, in
//! their order: the last one takes Weft away. It lives in namespaces of its own and ends with this process; what remains in
//! the control groups is swept. `WEFT_KUBE_KEEP=1` leaves its folder with all logs behind.

mod cases;
mod cluster;
mod control_plane;
mod pod;
mod shell;
mod weft;

use std::process::{Command, ExitCode};
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};

/// Says that this process is inside the namespaces.
const INSIDE: &str = "WEFT_KUBE_INSIDE";

fn main() -> ExitCode {
    if std::env::var_os(INSIDE).is_none() {
        return outside();
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(None)).exit_code();
    }
    let cluster = Arc::new(cluster::Cluster::up());
    let conclusion = libtest_mimic::run(&arguments, trials(Some(&cluster)));
    if conclusion.has_failed() {
        cluster.show_logs();
    }
    cluster.down();
    conclusion.exit_code()
}

fn trials(cluster: Option<&Arc<cluster::Cluster>>) -> Vec<Trial> {
    let trial = |(name, case): (&'static str, cases::Case)| {
        let cluster = cluster.cloned();
        Trial::test(name, move || {
            cluster.as_deref().map(case);
            Ok(())
        })
    };
    cases::all().into_iter().map(trial).collect()
}

/// Runs this program again with a network, mounts and processes of its own, and sweeps the control groups after it.
fn outside() -> ExitCode {
    let me = std::env::current_exe().expect("a test binary has a path");
    let prepare = "mount -t tmpfs none /run && mkdir -p /run/netns && ip link set lo up && exec \"$0\" \"$@\"";
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", prepare])
        .arg(me)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .status()
        .expect("unshare (util-linux) runs");
    cluster::sweep_control_groups();
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
