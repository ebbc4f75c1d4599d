//! `meshctl policy`: what policies say of a connection, what is wrong with them, and what a change would change. From
//! manifests alone, by the same judge that the kernel's rules are held against; `trace` asks a mesh that runs.

mod diff;
mod lint;
mod manifests;
mod trace;
mod verdict;

use std::process::ExitCode;

use clap::Subcommand;

use crate::screen;

/// Exit code where nothing could be judged.
const NOT_JUDGED: u8 = 2;

/// `meshctl policy …`.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyVerb {
    /// Would this connection be allowed, and by which rule.
    ///
    /// Exit code: 0 allowed, 1 denied, 2 it could not be judged.
    #[command(after_help = VERDICT_EXAMPLES)]
    Verdict(verdict::VerdictArgs),
    /// The same of a running mesh: what its nodes' rules say, and what their kernels count meanwhile.
    ///
    /// Asks the nodes of both ends, and counts the packets of that one connection for a while: how many came to be forwarded,
    /// how many were, how many a policy refused. Exit code: 0 allowed, 1 denied, 2 it could not be judged.
    #[command(after_help = TRACE_EXAMPLES)]
    Trace(trace::TraceArgs),
    /// Fields that are refused, policies about nobody, rules that never decide.
    ///
    /// Exit code: 0 nothing was found, 1 something was, 2 the manifests could not be read.
    #[command(after_help = LINT_EXAMPLES)]
    Lint(lint::LintArgs),
    /// Which pairs of workloads may talk after a change and could not before, or the reverse.
    ///
    /// Workloads that both folders have are compared, each with each, on every port that any policy tells apart.
    /// Exit code: 0 nothing changes, 1 something does, 2 the manifests could not be read.
    #[command(after_help = DIFF_EXAMPLES)]
    Diff(diff::DiffArgs),
}

const VERDICT_EXAMPLES: &str = "\
Examples:
  meshctl policy verdict shop/web shop/cart:80/tcp --from manifests/
  meshctl policy verdict shop/web shop/dns:53/udp --from manifests/ -o json
  meshctl policy verdict shop/web shop/cart:http --from manifests/       a named port
  meshctl policy verdict 192.0.2.1 shop/cart:icmp --from manifests/      from outside, a protocol without ports
  meshctl policy verdict shop/web '[fd00::9]:443' --from manifests/      to an address";

const TRACE_EXAMPLES: &str = "\
Examples:
  meshctl policy trace shop/web shop/cart:80/tcp --lab demo             the nodes of a lab
  meshctl policy trace shop/web shop/cart:80/tcp --kubeconfig FILE      the nodes of a cluster
  meshctl policy trace shop/web shop/cart:http --seconds 30 -o json     counters before and after half a minute
  meshctl policy trace shop/web shop/cart:80/tcp --seconds 0            the verdict alone";

const LINT_EXAMPLES: &str = "\
Examples:
  meshctl policy lint manifests/
  meshctl policy lint manifests/ -o json | jq -r '.[] | .policy'";

const DIFF_EXAMPLES: &str = "\
Examples:
  meshctl policy diff before/ after/
  git worktree add /tmp/before main && meshctl policy diff /tmp/before/manifests manifests";

impl PolicyVerb {
    /// Does what was asked. The exit code is part of the answer, so that errors have one of their own.
    ///
    /// # Errors
    /// When nobody reads the answer any more.
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let outcome = match self {
            Self::Verdict(args) => verdict::run(args),
            Self::Trace(args) => trace::run(args),
            Self::Lint(args) => lint::run(args),
            Self::Diff(args) => diff::run(args),
        };
        match outcome {
            Ok(true) => Ok(ExitCode::SUCCESS),
            Ok(false) => Ok(ExitCode::FAILURE),
            Err(error) if screen::is_broken_pipe(&error) => Err(error),
            Err(error) => {
                screen::note(&format!("meshctl: {error:#}"));
                Ok(ExitCode::from(NOT_JUDGED))
            }
        }
    }
}
