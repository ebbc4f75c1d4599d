//! `meshctl lab`: nodes, pods and a stranger in network namespaces on this machine, with the real programs.

mod address;
mod apply;
mod capture;
mod cni_runtime;
mod config;
mod container;
mod daemon;
mod demo;
pub(crate) mod document;
mod down;
mod echo;
mod exec;
mod facts;
mod layout;
mod live;
mod logs;
mod netcfg;
mod overlay;
mod pcap;
mod pick;
mod pod;
mod pod_spec;
mod probe;
mod process;
mod programs;
mod ready;
mod record;
mod sandbox;
mod stage;
mod status;
mod supervisor;
mod topology;
mod up;
mod view;
mod watch;

pub(crate) use pick::{LabChoice, all as names};

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

/// `meshctl lab`.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true, after_help = EXAMPLES)]
pub(crate) struct LabArgs {
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "\
Examples:
  meshctl lab demo                                see what it does, checked
  meshctl lab up                                  three nodes, dual stack, four pods
  meshctl lab up -f lab.yaml --name big           another lab beside it
  meshctl lab apply -f pods.yaml                  more pods; the folder is watched
  meshctl lab exec demo/client -- ping -c1 10.244.2.2
  meshctl lab exec node/n1 -- nft list ruleset
  meshctl lab status -o json                      everything a script needs
  meshctl lab down --all

lab.yaml, every field of which may be left out:
  nodes: 3                    # n1, n2, n3; at most 64
  families: [ipv4, ipv6]      # of the underlay
  podFamilies: [ipv4, ipv6]   # of pods; as the underlay where absent
  mtu: 1500                   # of the underlay and of pods
  rotationPeriod: 24h         # of keys, 60s to 30d
  dataThreads: 1              # 1, 2, 4, 8 or 16 that encrypt; as the processors suggest where absent
  primary: ptp                # or bridge: the plugin that mesh-cni is chained after
  trustDomain: weft.lab
  manifests: [pods.yaml]      # instead of the lab's own four pods; [] for an empty lab";

#[derive(Debug, Subcommand)]
enum Verb {
    /// The whole story with real traffic, every claim checked, in about a minute.
    Demo(demo::DemoArgs),
    /// Builds a lab and waits until its pods run.
    Up(up::UpArgs),
    /// Puts manifests into the lab's directory, object by object.
    Apply(apply::ApplyArgs),
    /// Takes objects out of the lab's directory.
    Delete(apply::DeleteArgs),
    /// Runs a command where a pod (or node/n1, stranger, underlay) is.
    Exec(exec::ExecArgs),
    /// Shows what there is.
    Status(status::StatusArgs),
    /// Shows what the lab's programs and pods print.
    Logs(logs::LogsArgs),
    /// Ends a lab and leaves nothing of it.
    Down(down::DownArgs),
    /// Runs a lab: started by `up`.
    #[command(hide = true)]
    Supervise {
        /// The lab's folder.
        #[arg(long)]
        dir: PathBuf,
    },
    /// Sends marked traffic and checks the answers: for tests, inside a namespace.
    #[command(hide = true, subcommand)]
    Probe(probe::Probe),
    /// Captures a wire until stdin ends and says what was on it: for tests.
    #[command(hide = true)]
    Capture(capture::CaptureArgs),
    /// Answers TCP and UDP with what it was sent: what pods without a command run.
    #[command(hide = true)]
    Echo {
        /// Where it listens besides port 7; 8080 where absent.
        ports: Vec<u16>,
    },
}

impl LabArgs {
    /// Does what was asked.
    ///
    /// # Errors
    /// Whatever went wrong, told so that a person can act on it.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.verb {
            Verb::Demo(args) => return demo::run(&args),
            Verb::Up(args) => up::run(&args)?,
            Verb::Apply(args) => apply::run(&args)?,
            Verb::Delete(args) => apply::delete(&args)?,
            Verb::Exec(args) => return exec::run(&args),
            Verb::Status(args) => status::run(&args)?,
            Verb::Logs(args) => logs::run(&args)?,
            Verb::Down(args) => down::run(&args)?,
            Verb::Supervise { dir } => supervisor::run(&dir)?,
            Verb::Probe(probe) => return probe.run(),
            Verb::Capture(args) => capture::run(&args)?,
            Verb::Echo { ports } => echo::run(&ports)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
