//! Real binaries, real kernel, private namespaces: each case is a process with a network, mounts and processes of its own.
//!
//! `cargo netns` runs all; a word filters by name. When a case's process ends, everything it made ends with it. To look inside a
//! case that hangs: `nsenter -t PID -a` with the PID that the case prints first.

mod agent;
mod cases;
mod lab;
mod runtime;
mod shell;
mod stock;

use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Failed, Trial};

/// Names the case that a child process is to run.
const CASE: &str = "WEFT_NETNS_CASE";
/// Cases at once: each runs a handful of daemons, so not more than the machine has cores.
const AT_ONCE: usize = 2;

fn main() -> ExitCode {
    let cases = cases::all();
    if let Ok(wanted) = std::env::var(CASE) {
        let Some((_, case)) = cases.iter().find(|(name, _)| *name == wanted) else {
            eprintln!("there is no case {wanted}");
            return ExitCode::FAILURE;
        };
        println!("inside: nsenter -t {} -a", std::process::id());
        case();
        return ExitCode::SUCCESS;
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(arguments.test_threads.unwrap_or(AT_ONCE).min(AT_ONCE));
    let trials = cases.into_iter().map(|(name, _)| Trial::test(name, move || isolated(name))).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Runs one case in a child with namespaces of its own; its output is shown only when it fails.
fn isolated(name: &'static str) -> Result<(), Failed> {
    let me = std::env::current_exe().map_err(|e| format!("cannot find this test's own binary: {e}"))?;
    // a tmpfs over /run gives `ip netns` room of its own, and one over /var/lib/cni libcni; /sys must be the new network's
    let prepare = "mount -t tmpfs none /run && mkdir -p /run/netns /var/lib/cni && mount -t tmpfs none /var/lib/cni \
                   && mount -t sysfs none /sys && ip link set lo up && exec \"$0\"";
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", prepare])
        .arg(me)
        .env(CASE, name)
        // as in a container: no terminal, and no database of any
        .env("TERM", "none")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("cannot run unshare (util-linux): {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if text.contains("unshare failed") {
        return Err(format!("{text}\nthe namespace cases need root: run them as root, for example with sudo -E").into());
    }
    Err(text.into())
}
