//! The command line as a whole: which verbs there are, and who answers them.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::ca::CaVerb;
use crate::identity::{IdentityVerb, ProofVerb};
use crate::policy::PolicyVerb;
use crate::{door, identity, install, lab, node, peers, status};

/// See, check and try Weft, the identity-keyed mesh.
#[derive(Debug, Parser)]
#[command(name = "meshctl", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "\
Examples:
  meshctl status                        is this node well, who is on it, what was refused
  meshctl peers                         who is known, with whom there is a session
  meshctl identity show demo/client     SPIFFE ID, pods and keys of a service account
  meshctl status --kubeconfig FILE      the nodes of a cluster; also as `kubectl mesh status` under the name kubectl-mesh
  meshctl check --pre --kubeconfig FILE could Weft be installed there
  meshctl node token n4 > n4.token      lets a node join
  meshctl policy verdict shop/web shop/cart:80/tcp --from manifests/
  meshctl policy trace shop/web shop/cart:80/tcp --kubeconfig FILE
  meshctl lab demo                      the whole story, with real traffic, on this machine
  meshctl lab up                        three nodes and a few pods in network namespaces
  meshctl lab exec demo/client -- ping -c1 10.244.2.2
  meshctl lab down                      leaves nothing behind
  meshctl completions bash > /etc/bash_completion.d/meshctl";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Nodes, pods and a stranger in network namespaces on this machine, with the real programs.
    Lab(lab::LabArgs),
    /// Is the node well, who is on it, what was dropped or refused, and why.
    ///
    /// Exit code: 0 all nodes are ready, 1 one is not, or does not answer. docs/status.md explains every field of the JSON.
    Status(status::StatusArgs),
    /// The remote identities that a node knows, and the sessions with them.
    Peers(peers::PeersArgs),
    /// Who lives on a node.
    #[command(subcommand)]
    Identity(IdentityVerb),
    /// X.509-SVIDs, verified against the issuer's certificates.
    #[command(subcommand)]
    Svid(ProofVerb),
    /// Signed statements "this key is that identity on that node", verified against the issuer's certificates.
    #[command(subcommand)]
    Binding(ProofVerb),
    /// What policies say of a connection, what is wrong with them, and what a change would change.
    ///
    /// `trace` asks a mesh that runs; the others judge manifests and need no cluster.
    #[command(subcommand)]
    Policy(PolicyVerb),
    /// The issuer of identities.
    #[command(subcommand)]
    Ca(CaVerb),
    /// Lets nodes join.
    #[command(subcommand)]
    Node(node::NodeVerb),
    /// Brings Weft into a cluster, or prints what it would apply.
    Install(install::InstallArgs),
    /// Takes Weft out of a cluster: from every node first, then its objects.
    Uninstall(install::UninstallArgs),
    /// Does Weft work in the cluster; could it be installed (--pre).
    ///
    /// Exit code: 0 it does, 1 it does not.
    Check(install::CheckArgs),
    /// One question to the daemon in this container.
    #[command(hide = true)]
    Ask(door::AskArgs),
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
        let code = |is_well: bool| if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        match self.verb {
            Verb::Status(args) => Ok(code(status::run(&args)?)),
            Verb::Peers(args) => peers::run(&args).map(|()| ExitCode::SUCCESS),
            Verb::Identity(verb) => verb.run().map(|()| ExitCode::SUCCESS),
            Verb::Svid(verb) => Ok(code(identity::show_svids(&verb)?)),
            Verb::Binding(verb) => Ok(code(identity::show_bindings(&verb)?)),
            Verb::Policy(verb) => verb.run(),
            Verb::Ca(verb) => verb.run().map(|()| ExitCode::SUCCESS),
            Verb::Node(verb) => verb.run().map(|()| ExitCode::SUCCESS),
            Verb::Lab(args) => args.run(),
            Verb::Install(args) => args.run().map(|()| ExitCode::SUCCESS),
            Verb::Uninstall(args) => args.run().map(|()| ExitCode::SUCCESS),
            Verb::Check(args) => Ok(code(args.run()?)),
            Verb::Ask(args) => args.run().map(|()| ExitCode::SUCCESS),
            Verb::Completions { shell } => {
                clap_complete::generate(shell, &mut Self::command(), "meshctl", &mut std::io::stdout());
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}
