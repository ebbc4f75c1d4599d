//! Policies by the thousand: compiled and applied, and changed one by one.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use policy::nft::{Here, Program, Scribe};
use policy::{Compiler, Policies, World};

use crate::policies::{HERE, Load};
use crate::report::Report;
use crate::shell::run;

/// 10,000 policies, each of which lets ten pods in: 100,000 members of selectors.
const MANY: Load = Load { pods: 1_000, policies: 10_000 };

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Runs a script by `nft` in the calling thread's namespace; how long that took.
fn apply(script: &str) -> Duration {
    let begin = Instant::now();
    let mut child =
        Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("nft runs");
    child.stdin.take().expect("it is piped").write_all(script.as_bytes()).expect("nft reads");
    let output = child.wait_with_output().expect("nft ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    begin.elapsed()
}

fn program((compiler, scribe): &mut (Compiler, Scribe), policies: &Policies, world: &World) -> Program {
    let rules = compiler.compile(policies, world, Some(HERE));
    scribe.program(&rules, &Here { node: HERE, members: &BTreeSet::new() })
}

/// All sections about policies.
pub fn policy(report: &mut Report) {
    compiled(report);
}

fn compiled(report: &mut Report) {
    let (world, mut policies) = (MANY.world(), MANY.policies());
    let mut compiler = Default::default();
    let begin = Instant::now();
    let mut held = program(&mut compiler, &policies, &world);
    let compile = begin.elapsed();
    let script = held.whole(|_| (0, 0));
    let whole = begin.elapsed();
    report.figure("10k policies: compiled", millis(compile), "ms", None);
    report.figure("10k policies: script", script.len() as f64 / 1e6, "MB", None);
    let applied = apply(&script);
    report.figure("10k policies: applied by nft", millis(applied), "ms", None);
    report.figure("10k policies: compiled and applied", (whole + applied).as_secs_f64(), "s", Some(2.0));
    let (mut compiling, mut applying, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..20 {
        let number = round * 401;
        policies.network[number] = MANY.parsed(number, 1).into();
        let begin = Instant::now();
        let wanted = program(&mut compiler, &policies, &world);
        let script = held.difference(&wanted);
        compiling.push(millis(begin.elapsed()));
        applying.push(millis(apply(&script)));
        sizes.push(script.len() as f64 / 1e3);
        held = wanted;
    }
    report.spread("one change among 10k: compiled", compiling, "ms", (None, None));
    report.spread("one change among 10k: applied by nft", applying, "ms", (None, None));
    report.spread("one change among 10k: script", sizes, "kB", (None, None));
    run("nft", &["flush", "ruleset"]);
}
