//! The command line as a whole: which verbs there are, and who answers them.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::ca::CaVerb;
use crate::identity::{IdentityVerb, ProofVerb};
use crate::policy::PolicyVerb;
use crate::{check, door, identity, install, lab, node, peers, status};

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
  meshctl check --strict shop           who still talks to the namespace in clear text
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
    /// Does Weft work in the cluster; could it be installed (--pre); could a namespace be STRICT (--strict NAMESPACE).
    ///
    /// Exit code: 0 it does, 1 it does not.
    Check(check::CheckArgs),
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::error::ErrorKind;

    use super::*;

    /// What people are told to type: whole lines of shell code, and words between backticks.
    fn commands(text: &str) -> Vec<(bool, String)> {
        let mut found = Vec::new();
        let mut is_code = false;
        for line in text.lines() {
            if line.starts_with("```") {
                is_code = !is_code;
            } else if is_code {
                let words = line.trim_start_matches("target/debug/").split(" # ").next().unwrap();
                let each = words.split(['|', ';', '>']).flat_map(|part| part.split("&&")).map(str::trim);
                found.extend(each.filter(|part| part.starts_with("meshctl ")).map(|part| (true, part.to_owned())));
            } else {
                let quoted = line.split('`').skip(1).step_by(2).map(|part| part.split(" | ").next().unwrap());
                found.extend(quoted.filter(|part| part.starts_with("meshctl ")).map(|part| (false, part.to_owned())));
            }
        }
        // the rest of such a line is the reader's to fill in
        found.retain(|(_, command)| !command.contains(['…', '[', '{', '$']) && !command.contains("..."));
        found
    }

    #[test]
    fn every_command_in_the_documents_is_one() {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let pages = std::fs::read_dir(top.join("docs")).unwrap().map(|entry| entry.unwrap().path());
        let pages = pages.filter(|path| path.extension().is_some_and(|end| end == "md"));
        let (mut count, mut wrong) = (0, Vec::new());
        for page in pages.chain([top.join("README.md"), top.join("CONTRIBUTING.md")]) {
            for (is_whole, command) in commands(&std::fs::read_to_string(&page).unwrap()) {
                count += 1;
                let Err(error) = Cli::try_parse_from(command.split_whitespace()) else { continue };
                // in a sentence a command may be named without what it needs
                let is_unknown = [ErrorKind::UnknownArgument, ErrorKind::InvalidSubcommand].contains(&error.kind());
                let is_help = [ErrorKind::DisplayHelp, ErrorKind::DisplayVersion].contains(&error.kind());
                if !is_help && (is_whole || is_unknown) {
                    wrong.push(format!("{}: {command}\n{error}", page.display()));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(count > 40, "only {count} commands were found in the documents");
    }

    #[test]
    fn the_program_has_no_word_twice() {
        Cli::command().debug_assert();
    }
}
