//! `meshctl ca`: does the issuer work, and for whom.

use anyhow::ensure;
use clap::Subcommand;
use serde_json::{Value, json};

use crate::screen::{self, Format};
use crate::target::ControllerTarget;

/// `meshctl ca`.
#[derive(Debug, Subcommand)]
pub(crate) enum CaVerb {
    /// Asks the issuer itself: whether it is healthy, its trust domain, and how many nodes have joined.
    Healthcheck {
        #[command(flatten)]
        target: ControllerTarget,
        /// How to print it.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
}

impl CaVerb {
    /// Does what was asked.
    ///
    /// # Errors
    /// The controller does not answer, or says that it is not healthy.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let Self::Healthcheck { target, output } = self;
        let result = target.door()?.ask(&json!({ "verb": "status" }))?;
        let healthy = result.get("healthy").and_then(Value::as_bool).unwrap_or(false);
        ensure!(healthy, "the issuer answers and says that it is not healthy: read the log of weft-controller");
        match output {
            Format::Json => screen::out_json(&result),
            Format::Text => {
                let domain = result.get("trust_domain").and_then(Value::as_str).unwrap_or("-");
                let count = |field: &str| result.get(field).and_then(Value::as_array).map_or(0, Vec::len);
                let (nodes, refused) = (count("nodes"), count("refused"));
                screen::out(&format!(
                    "Server is healthy\ntrust domain {domain}, {nodes} nodes have joined, {refused} nodes asked for what they may not have"
                ))
            }
        }
    }
}
