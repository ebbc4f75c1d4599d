//! `meshctl node`: lets nodes join the mesh.

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::{Value, json};

use crate::screen::{self, Format};
use crate::target::ControllerTarget;

/// `meshctl node`.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeVerb {
    /// Makes a one-time token with which the node of that name may join; printed alone, for a file of mode 0600.
    Token {
        /// The node's name, as the cluster calls it.
        node: String,
        #[command(flatten)]
        target: ControllerTarget,
        /// How to print it.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// The nodes that have joined.
    List {
        #[command(flatten)]
        target: ControllerTarget,
        /// How to print it.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
}

impl NodeVerb {
    /// Does what was asked.
    ///
    /// # Errors
    /// The controller does not answer, or refuses.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        match self {
            Self::Token { node, target, output } => {
                let result = target.door()?.ask(&json!({ "verb": "token", "node": node }))?;
                match output {
                    Format::Json => screen::out_json(&result),
                    Format::Text => {
                        let token =
                            result.get("token").and_then(Value::as_str).context("the controller gave no token")?;
                        screen::out(token)
                    }
                }
            }
            Self::List { target, output } => {
                let result = target.door()?.ask(&json!({ "verb": "status" }))?;
                let nodes = result.get("nodes").cloned().unwrap_or_default();
                match output {
                    Format::Json => screen::out_json(&nodes),
                    Format::Text => {
                        let names: Vec<&str> =
                            nodes.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                        screen::out(&names.join("\n"))
                    }
                }
            }
        }
    }
}
