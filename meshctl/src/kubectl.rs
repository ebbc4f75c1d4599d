//! A cluster as kubectl reaches it: the same kubeconfig, context and credentials, whatever they are, because it is kubectl that is run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use crate::screen;

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
    node: String,
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

    /// Whether kubectl would find a cluster although none is named.
    pub(crate) fn is_at_hand() -> bool {
        if let Some(listed) = std::env::var_os("KUBECONFIG").filter(|listed| !listed.is_empty()) {
            return std::env::split_paths(&listed).any(|path| path.exists());
        }
        std::env::var_os("HOME").is_some_and(|home| Path::new(&home).join(".kube/config").exists())
    }

    /// Refuses another namespace than the manifests'.
    ///
    /// # Errors
    /// Another is named.
    pub(crate) fn is_usual_namespace(&self) -> anyhow::Result<()> {
        let named = self.namespace();
        ensure!(
            named == NAMESPACE,
            "-n {named}: Weft's manifests are for the namespace {NAMESPACE}, which the policy weft-meshnodes names too; leave -n away"
        );
        Ok(())
    }

    /// Says which cluster is asked, where nobody has named one.
    pub(crate) fn says_whose(&self) {
        if !self.is_made() {
            screen::note("(of kubectl's current context: nothing of Weft listens on this machine)");
        }
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
        self.understood(arguments, self.attempt(arguments)?)
    }

    fn understood(&self, arguments: &[&str], output: Output) -> anyhow::Result<String> {
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
        if !output.status.success() {
            bail!(unreachable(&complaint(&output.stderr)));
        }
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

    /// The node daemons, one a node, or that of one node; also those that do not run, so that they are missed.
    ///
    /// # Errors
    /// The cluster does not answer, or there is none.
    pub(crate) fn nodes(&self, node: Option<&str>) -> anyhow::Result<Vec<Pod>> {
        let namespace = self.namespace();
        let all = self.pods("weft-node", "node")?;
        ensure!(
            !all.is_empty(),
            "no daemon of Weft is in namespace {namespace}: name another with -n NAME, or install it with `meshctl install`"
        );
        let names: Vec<_> = all.iter().map(|pod| pod.node.clone()).collect();
        let meant: Vec<_> = all.into_iter().filter(|pod| node.is_none_or(|node| pod.node == node)).collect();
        let wanted = node.unwrap_or_default();
        ensure!(!meant.is_empty(), "no daemon of Weft is on node {wanted}; there are daemons on: {}", names.join(", "));
        Ok(meant)
    }

    /// The controller that leads.
    ///
    /// # Errors
    /// The cluster does not answer, or nobody leads.
    pub(crate) fn controller(&self) -> anyhow::Result<Pod> {
        let lease = self.json(&["-n", self.namespace(), "get", "lease", "weft-controller"])?;
        let holder = lease.pointer("/spec/holderIdentity").and_then(Value::as_str).unwrap_or_default().to_owned();
        let namespace = self.namespace();
        ensure!(
            !holder.is_empty(),
            "no controller leads: kubectl -n {namespace} get pods -l app.kubernetes.io/name=weft-controller says whether any runs"
        );
        // the controller shares its node's name: <node>_<when it started>
        let node = holder.rsplit_once('_').map_or("", |(node, _)| node);
        let pods = self.all("weft-controller", "controller")?;
        let mut pods: Vec<_> = pods.into_iter().filter(|(pod, rank)| pod.node == node && *rank == Rank::Runs).collect();
        // on a cluster of one node both are there, and only the one that leads answers
        if pods.len() > 1 {
            pods.retain(|(pod, _)| pod.ask(&serde_json::json!({"verb": "status"})).is_ok());
        }
        let found = pods.into_iter().next();
        found.map(|(pod, _)| pod).with_context(|| {
            format!("no controller answers on node {node}, where the lease of weft-controller is: kubectl -n {namespace} get pods")
        })
    }

    /// The pods of an app, the best one of each node.
    fn pods(&self, app: &str, container: &'static str) -> anyhow::Result<Vec<Pod>> {
        let mut best = BTreeMap::<String, (Pod, Rank)>::new();
        for (pod, rank) in self.all(app, container)? {
            if best.get(&pod.node).is_none_or(|(_, held)| *held < rank) {
                best.insert(pod.node.clone(), (pod, rank));
            }
        }
        Ok(best.into_values().map(|(pod, _)| pod).collect())
    }

    /// The pods of an app that are placed on a node.
    fn all(&self, app: &str, container: &'static str) -> anyhow::Result<Vec<(Pod, Rank)>> {
        let label = format!("app.kubernetes.io/name={app}");
        let list = self.json(&["-n", self.namespace(), "get", "pods", "-l", &label])?;
        let items = list.get("items").and_then(Value::as_array).into_iter().flatten();
        let placed = items.filter_map(|pod| {
            let text = |path: &str| pod.pointer(path).and_then(Value::as_str).map(str::to_owned);
            let node = text("/spec/nodeName")?;
            let rank = match text("/status/phase").as_deref() {
                Some("Running") if text("/metadata/deletionTimestamp").is_none() => Rank::Runs,
                Some("Running") => Rank::Ends,
                _ => Rank::Is,
            };
            Some((Pod { choice: self.clone(), name: text("/metadata/name")?, node, container }, rank))
        });
        Ok(placed.collect())
    }
}

/// How good an answer a pod may give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// It waits to be made, or has failed.
    Is,
    /// It runs and is being deleted.
    Ends,
    /// It runs.
    Runs,
}

/// What to do where not even the version is told.
fn unreachable(said: &str) -> String {
    if said.contains("(Unauthorized)") || said.contains("must be logged in") {
        return format!(
            "the cluster does not know these credentials: {said}\nLog in anew, or name others with --kubeconfig FILE or --context NAME"
        );
    }
    if said.contains("x509:") {
        return format!(
            "the cluster is not the one that the kubeconfig is for, or its certificate has changed: {said}\nFetch the kubeconfig anew"
        );
    }
    format!(
        "no cluster answers: {said}\nName one with --kubeconfig FILE or --context NAME (kubectl config get-contexts lists them)"
    )
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

/// What the meshctl in a daemon's container says, without who carried it here.
fn inner(errors: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(errors);
    let said = text.lines().find_map(|line| line.strip_prefix("meshctl: "))?;
    let socket = said.split_once(": ").filter(|(before, _)| before.starts_with('/') && before.ends_with(".sock"));
    Some(socket.map_or(said, |(_, rest)| rest).to_owned())
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
    /// The node that it is on.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    /// Asks the daemon in this pod one question, through the meshctl beside it.
    ///
    /// # Errors
    /// The pod cannot be reached, or the daemon refuses.
    pub(crate) fn ask(&self, question: &Value) -> anyhow::Result<Value> {
        let text = question.to_string();
        let namespace = self.choice.namespace();
        let words =
            ["-n", namespace, "exec", &self.name, "-c", self.container, "--", "meshctl", "ask", self.container, &text];
        let output = self.choice.attempt(&words)?;
        if let Some(refusal) = Some(&output).filter(|it| !it.status.success()).and_then(|it| inner(&it.stderr)) {
            bail!(refusal);
        }
        let answer = self.choice.understood(&words, output)?;
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
    fn a_daemons_refusal_is_told_in_its_own_words() {
        let of = |text: &str| inner(format!("{text}\ncommand terminated with exit code 1\n").as_bytes());
        let refused = "meshctl: /run/weft/admin.sock: there is no pod shop/nobody (there are: shop/web)";
        assert_eq!(of(refused).as_deref(), Some("there is no pod shop/nobody (there are: shop/web)"));
        let silent = "meshctl: no answer from /run/weft/admin.sock within 10 s: Resource temporarily unavailable";
        assert_eq!(of(silent).as_deref(), silent.strip_prefix("meshctl: "));
        assert_eq!(of("error: unable to upgrade connection: container not found (\"node\")"), None);
    }

    #[test]
    fn who_is_not_let_in_is_not_told_that_there_is_no_cluster() {
        let said = "error: You must be logged in to the server (Unauthorized)";
        assert!(unreachable(said).starts_with("the cluster does not know these credentials"));
        let said = "Unable to connect to the server: tls: failed to verify certificate: x509: certificate signed by unknown authority";
        assert!(unreachable(said).contains("Fetch the kubeconfig anew"));
        for said in ["error: context \"a\" does not exist", "The connection to the server localhost:8080 was refused"] {
            assert!(unreachable(said).starts_with("no cluster answers") && unreachable(said).contains("--context"));
        }
    }

    #[test]
    fn weft_is_installed_where_its_manifests_say() {
        let named = |name: Option<&str>| ClusterChoice { namespace: name.map(str::to_owned), ..Default::default() };
        assert!(named(None).is_usual_namespace().is_ok() && named(Some("weft-system")).is_usual_namespace().is_ok());
        assert!(named(Some("mesh")).is_usual_namespace().unwrap_err().to_string().contains("weft-system"));
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
