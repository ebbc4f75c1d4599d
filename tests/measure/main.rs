//! Figures of a whole lab with real binaries: how long things take, and how much memory they need.
//!
//! `scripts/measure` builds for release and runs all; words choose sections, `-o json` prints one object a figure. A figure has a goal
//! where the project has set one; a missed goal is said, and is no failure: figures of a busy machine mean little.

mod attack;
mod churn;
#[path = "../netns/lab.rs"]
#[allow(dead_code, reason = "the namespace cases use all of it")]
mod lab;
mod policies;
mod policy;
mod programs;
mod report;
mod sections;
#[path = "../netns/shell.rs"]
#[allow(dead_code, reason = "the namespace cases use all of it")]
mod shell;

use std::process::{Command, ExitCode};

use report::Report;

/// Set in the child that has namespaces of its own.
const INSIDE: &str = "WEFT_MEASURE_INSIDE";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if std::env::var_os(INSIDE).is_none() {
        return isolated(&arguments);
    }
    let json = arguments.windows(2).any(|pair| pair == ["-o", "json"]);
    let words: Vec<&str> = arguments.iter().map(String::as_str).filter(|word| !["-o", "json"].contains(word)).collect();
    let unknown = words.iter().find(|word| !sections::ALL.iter().any(|(name, _)| name == *word));
    if let Some(word) = unknown {
        let names: Vec<&str> = sections::ALL.iter().map(|(name, _)| *name).collect();
        eprintln!("measure: no section is called {word}; there are: {}", names.join(", "));
        return ExitCode::FAILURE;
    }
    let mut report = Report::new(json);
    for (name, section) in sections::ALL {
        if words.is_empty() || words.contains(name) {
            eprintln!("measure: {name}");
            section(&mut report);
            shell::run(&lab::program("meshctl"), &["lab", "down"]);
        }
    }
    report.end();
    ExitCode::SUCCESS
}

/// Runs everything in a child with a network, mounts and processes of its own: nothing of it is left, however it ends.
fn isolated(arguments: &[String]) -> ExitCode {
    let me = std::env::current_exe().expect("a program has a path");
    let prepare = "mount -t tmpfs none /run && mkdir -p /run/netns && mount -t sysfs none /sys && ip link set lo up && exec \"$0\" \"$@\"";
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", prepare])
        .arg(me)
        .args(arguments)
        .env(INSIDE, "1")
        .status()
        .expect("unshare (util-linux) runs");
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
