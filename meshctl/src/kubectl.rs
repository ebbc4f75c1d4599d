//! A cluster as kubectl reaches it: the same kubeconfig, context and credentials, whatever they are, because it is kubectl that is run.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

/// Weft's own namespace, unless it is told otherwise.
const NAMESPACE: &str = "weft-system";
/// A server that takes connections and says nothing is waited for so long.
const ANSWERED_WITHIN: &str = "--request-timeout=20s";
/// What to do where there is nothing of Weft.
const NOT_FOUND: &str = "\nIs Weft in this cluster, and in this namespace (-n NAME)? `meshctl install` brings it";
/// What to do where the server knows who asks, and refuses.
const FORBIDDEN: &str = "\nThe user of this context may not do that (kubectl auth whoami names them): ask for the right, or name another with --context";

/// Which cluster. As `kubectl mesh` it is kubectl's current one.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ClusterChoice {
    /// The cluster of this kubeconfig.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The cluster of this context of the kubeconfig.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The namespace that Weft itself runs in [default: weft-system]
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
}

/// A daemon's container.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    choice: ClusterChoice,
    name: String,
    container: &'static str,
}

impl ClusterChoice {
    /// Whether a cluster is meant at all.
    pub(crate) fn is_made(&self) -> bool {
        let named = self.kubeconfig.is_some() || self.context.is_some() || self.namespace.is_some();
        let own = std::env::args_os().next().map(PathBuf::from);
        let is_plugin = own.as_deref().and_then(Path::file_name).is_some_and(|name| name == "kubectl-mesh");
        named || is_plugin
    }

    /// Weft's namespace.
    pub(crate) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or(NAMESPACE)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        if let Some(kubeconfig) = &self.kubeconfig {
            command.arg("--kubeconfig").arg(kubeconfig);
        }
        if let Some(context) = &self.context {
            command.args(["--context", context]);
        }
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs kubectl; its failure is an answer too.
    ///
    /// # Errors
    /// There is no kubectl.
    pub(crate) fn attempt(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        self.command(arguments).output().context("cannot run kubectl: is it installed and in PATH?")
    }

    /// Runs kubectl and returns what it prints.
    ///
    /// # Errors
    /// It fails; with what it said, and what to do where the cluster does not answer or the person may not ask.
    pub(crate) fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.attempt(arguments)?;
        if !output.status.success() {
            self.answers()?;
            let said = complaint(&output.stderr);
            bail!("kubectl {}: {said}{}", arguments.join(" "), advice(&said));
        }
        String::from_utf8(output.stdout).context("kubectl printed something else than text")
    }

    /// The manifests of a kustomization, for which no cluster is asked.
    ///
    /// # Errors
    /// kubectl fails; with what it said.
    pub(crate) fn kustomize(&self, folder: &str) -> anyhow::Result<String> {
        let output = self.attempt(&["kustomize", folder])?;
        ensure!(output.status.success(), "kubectl kustomize: {}", complaint(&output.stderr));
        String::from_utf8(output.stdout).context("kubectl printed something else than text")
    }

    /// Whether the cluster answers at all.
    ///
    /// # Errors
    /// It does not; with what to do.
    pub(crate) fn answers(&self) -> anyhow::Result<()> {
        let output = self.attempt(&["get", "--raw", "/version", ANSWERED_WITHIN])?;
        ensure!(
            output.status.success(),
            "no cluster answers: {}\nName one with --kubeconfig FILE or --context NAME (kubectl config get-contexts lists them)",
            complaint(&output.stderr)
        );
        Ok(())
    }

    /// Runs kubectl so that people see what it prints.
    ///
    /// # Errors
    /// It fails.
    pub(crate) fn show(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let status = self.command(arguments).status().context("cannot run kubectl: is it installed and in PATH?")?;
        ensure!(status.success(), "kubectl {} failed", arguments.join(" "));
        Ok(())
    }

    /// An object, or a list of them.
    ///
    /// # Errors
    /// As [`ClusterChoice::run`].
    pub(crate) fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let text = self.run(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).context("kubectl printed something else than JSON")
    }

    /// The node daemons, or that of one node.
    ///
    /// # Errors
    /// The cluster does not answer, or there is none.
    pub(crate) fn nodes(&self, node: Option<&str>) -> anyhow::Result<Vec<Pod>> {
        let pods = self.pods("weft-node", "node", |pod| {
            node.is_none_or(|node| pod.pointer("/spec/nodeName").and_then(Value::as_str) == Some(node))
        })?;
        let namespace = self.namespace();
        ensure!(
            !pods.is_empty(),
            "no daemon of Weft runs in namespace {namespace}: name another with -n NAME, or install it with `meshctl install`"
        );
        Ok(pods)
    }

    /// The controller that leads.
    ///
    /// # Errors
    /// The cluster does not answer, or nobody leads.
    pub(crate) fn controller(&self) -> anyhow::Result<Pod> {
        let lease = self.json(&["-n", self.namespace(), "get", "lease", "weft-controller"])?;
        let holder = lease.pointer("/spec/holderIdentity").and_then(Value::as_str).unwrap_or_default().to_owned();
        // the controller shares its node's name: <node>_<when it started>
        let node = holder.rsplit_once('_').map_or("", |(node, _)| node);
        let pods = self.pods("weft-controller", "controller", |pod| {
            pod.pointer("/spec/nodeName").and_then(Value::as_str) == Some(node)
        })?;
        pods.into_iter()
            .next()
            .with_context(|| format!("no controller runs on {node}, where the lease of weft-controller is"))
    }

    fn pods(&self, app: &str, container: &'static str, is_meant: impl Fn(&Value) -> bool) -> anyhow::Result<Vec<Pod>> {
        let label = format!("app.kubernetes.io/name={app}");
        let list =
            self.json(&["-n", self.namespace(), "get", "pods", "-l", &label, "--field-selector=status.phase=Running"])?;
        let items = list.get("items").and_then(Value::as_array).into_iter().flatten();
        let meant = items.filter(|pod| pod.pointer("/metadata/deletionTimestamp").is_none() && is_meant(pod));
        let names = meant.filter_map(|pod| pod.pointer("/metadata/name").and_then(Value::as_str));
        Ok(names.map(|name| Pod { choice: self.clone(), name: name.to_owned(), container }).collect())
    }
}

/// What to do about a complaint of the server's.
fn advice(said: &str) -> &'static str {
    if said.contains("(Forbidden)") {
        FORBIDDEN
    } else if said.contains("(NotFound)") || said.contains("doesn't have a resource type") {
        NOT_FOUND
    } else {
        ""
    }
}

/// What kubectl complains of: its last words, without the log of the library below it.
fn complaint(errors: &[u8]) -> String {
    let text = String::from_utf8_lossy(errors);
    // klog: a letter, month and day, a time
    let is_log = |line: &&str| {
        let mut letters = line.chars();
        letters.next().is_some_and(|first| "IWEF".contains(first))
            && letters.take(4).all(|digit| digit.is_ascii_digit())
    };
    let words: Vec<_> = text.lines().filter(|line| !is_log(line)).collect();
    if words.is_empty() { text.trim().to_owned() } else { words.join("\n").trim().to_owned() }
}

impl Pod {
    /// Asks the daemon in this pod one question, through the meshctl beside it.
    ///
    /// # Errors
    /// The pod cannot be reached, or the daemon refuses.
    pub(crate) fn ask(&self, question: &Value) -> anyhow::Result<Value> {
        let text = question.to_string();
        let namespace = self.choice.namespace();
        let answer = self.choice.run(&[
            "-n",
            namespace,
            "exec",
            &self.name,
            "-c",
            self.container,
            "--",
            "meshctl",
            "ask",
            self.container,
            &text,
        ])?;
        serde_json::from_str(&answer).with_context(|| format!("pod {namespace}/{} gave no proper answer", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubectls_complaint_is_told_without_its_librarys_log() {
        let log = "E1121 21:17:53.599154   32286 memcache.go:265] \"Unhandled Error\"\n";
        let words = "The connection to the server localhost:8080 was refused\n";
        assert_eq!(complaint(format!("{log}{log}{words}").as_bytes()), words.trim());
        assert_eq!(complaint(log.as_bytes()), log.trim(), "better than nothing");
        assert_eq!(complaint(b"Error from server: no"), "Error from server: no");
    }

    #[test]
    fn what_the_server_refuses_or_lacks_comes_with_what_to_do() {
        let refused = "Error from server (Forbidden): pods is forbidden: User \"a\" cannot list resource";
        assert!(advice(refused).contains("ask for the right"));
        for missing in [
            "Error from server (NotFound): namespaces \"a\" not found",
            "error: the server doesn't have a resource type \"meshnodes\"",
        ] {
            assert!(advice(missing).contains("meshctl install"), "{missing}");
        }
        assert_eq!(advice("error: unable to upgrade connection"), "");
    }
}
