//! The command line as a whole: which verbs there are, and who answers them.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::lab;

/// See, check and try Weft, the identity-keyed mesh.
#[derive(Debug, Parser)]
#[command(name = "meshctl", version, about, arg_required_else_help = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "\
Examples:
  meshctl lab demo                      the whole story, with real traffic, on this machine
  meshctl lab up                        three nodes and a few pods in network namespaces
  meshctl lab exec demo/client -- ping -c1 10.244.2.2
  meshctl lab down                      leaves nothing behind
  meshctl completions bash > /etc/bash_completion.d/meshctl";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Nodes, pods and a stranger in network namespaces on this machine, with the real programs.
    Lab(lab::LabArgs),
    /// Prints a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

impl Cli {
    /// Does what was asked.
    ///
    /// # Errors
    /// Whatever went wrong, told so that a person can act on it.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.verb {
            Verb::Lab(args) => args.run(),
            Verb::Completions { shell } => {
                clap_complete::generate(shell, &mut Self::command(), "meshctl", &mut std::io::stdout());
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}
