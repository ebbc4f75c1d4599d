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

/// Daemons that are asked at the same time: each question to a cluster is a kubectl of its own.
const AT_ONCE: usize = 16;

/// Asks all, several at a time; the answers come in the order of the doors.
pub(crate) fn each<T: Send>(doors: &[Door], ask: impl Fn(&Door) -> T + Sync) -> Vec<T> {
    let ask = &ask;
    let together = |doors: &[Door]| {
        std::thread::scope(|scope| {
            let running: Vec<_> = doors.iter().map(|door| scope.spawn(move || ask(door))).collect();
            let answers =
                running.into_iter().map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            answers.collect::<Vec<_>>()
        })
    };
    doors.chunks(AT_ONCE).flat_map(together).collect()
}

impl Door {
    /// Where it is: the node, or the socket's path.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Socket(path) => path.display().to_string(),
            Self::Pod(pod) => pod.node().to_owned(),
        }
    }

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
        let question = json!({ "verb": verb });
        let result = match self {
            Self::Socket(_) => self.ask(&question).context("is meshd running?")?,
            Self::Pod(_) => self.ask(&question)?,
        };
        serde_json::from_value(result)
            .with_context(|| format!("`{verb}` was answered in a form that this meshctl ({}) does not know: use the one of Weft's version there", env!("CARGO_PKG_VERSION")))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_in_the_order_of_the_doors() {
        let doors: Vec<_> = (0..AT_ONCE * 2 + 1).map(|n| Door::Socket(format!("/nowhere/{n}").into())).collect();
        let names: Vec<_> = doors.iter().map(Door::name).collect();
        assert_eq!(each(&doors, Door::name), names);
        assert!(each(&doors, |door| door.ask(&json!({}))).iter().all(Result::is_err));
    }
}
