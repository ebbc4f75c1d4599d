//! Where a daemon is asked: at its socket, or in its pod.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::kubectl::Pod;
use crate::rpc;

/// How long a daemon may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// One daemon that can be asked.
#[derive(Clone, Debug)]
pub(crate) enum Door {
    /// On this machine.
    Socket(PathBuf),
    /// In a cluster.
    Pod(Pod),
}

impl Door {
    /// Asks and returns the `result`.
    ///
    /// # Errors
    /// Nobody answers, or the daemon refuses.
    pub(crate) fn ask(&self, question: &Value) -> anyhow::Result<Value> {
        match self {
            Self::Socket(path) => rpc::ask(path, question, PATIENCE),
            Self::Pod(pod) => pod.ask(question),
        }
    }

    /// Asks and reads the answer as `T`.
    ///
    /// # Errors
    /// As [`Door::ask`], and when the answer has another shape.
    pub(crate) fn ask_for<T: serde::de::DeserializeOwned>(&self, verb: &str) -> anyhow::Result<T> {
        let result = self.ask(&json!({ "verb": verb })).context("is meshd running?")?;
        serde_json::from_value(result)
            .with_context(|| format!("`{verb}` was answered in a form this meshctl does not know"))
    }
}

/// `meshctl ask`: what [`Pod::ask`] runs beside a daemon.
#[derive(Debug, clap::Args)]
pub(crate) struct AskArgs {
    /// `node` or `controller`.
    of: String,
    /// The question, as the socket takes it.
    question: String,
}

impl AskArgs {
    /// Prints the answer.
    ///
    /// # Errors
    /// Nobody answers, or the daemon refuses.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let question = serde_json::from_str(&self.question).context("the question is no JSON")?;
        // a controller in a pod has a folder of its own
        let places: &[&str] = if self.of == "controller" {
            &["/run/weft/controller/controller.sock", "/run/weft/controller.sock"]
        } else {
            &["/run/weft/admin.sock"]
        };
        let found = places.iter().map(Path::new).find(|path| path.exists());
        let socket = found.with_context(|| format!("no {} listens in this container", self.of))?;
        crate::screen::out(&rpc::ask(socket, &question, PATIENCE)?.to_string())
    }
}
