//! `meshctl install`, `check` and `uninstall`: Weft's own manifests, which this program carries, applied by kubectl.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::ValueEnum as _;
use serde_json::Value;

use crate::installed;
use crate::kubectl::ClusterChoice;
use crate::manifests::lay_out;
use crate::screen;

/// The oldest Kubernetes (1.x) that has ValidatingAdmissionPolicy in v1.
pub(crate) const MINOR_MIN: u32 = 30;
/// How long nodes may take to clean up.
const UNINSTALL_PATIENCE: Duration = Duration::from_secs(120);
/// What a node says when nothing of Weft is left on it (meshd's `uninstall`).
pub(crate) const GONE: &str = "Weft is gone from this node";
const CONTROLLER: &str = "deployment/weft-controller";
const DAEMONS: &str = "daemonset/weft-node";

/// How Weft is installed.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Overlay {
    /// PERMISSIVE, in the usual folders.
    #[default]
    Default,
    /// Everybody enrolled takes nothing but the mesh.
    Strict,
    /// k3s' folders.
    K3s,
    /// Harvester: Canal behind Multus.
    Harvester,
    /// Both IP families; the default takes them too.
    DualStack,
    /// NetworkPolicy is left to the primary network.
    NoPolicy,
}

/// The names of the overlays that can be chosen.
#[cfg(test)]
pub(crate) fn overlays() -> impl Iterator<Item = String> {
    Overlay::value_variants().iter().filter_map(|overlay| Some(overlay.to_possible_value()?.get_name().to_owned()))
}

/// `meshctl install`.
#[derive(Debug, clap::Args)]
pub(crate) struct InstallArgs {
    #[command(flatten)]
    cluster: ClusterChoice,
    /// Which installation.
    #[arg(long, value_enum, default_value_t)]
    overlay: Overlay,
    /// Weft's image where the nodes find it, e.g. registry.example/weft:1 [default: localhost/weft:dev, already on the nodes]
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Nodes come with the taint weft.dev/not-ready (kubelet --register-with-taints): the daemon takes it off once it serves.
    #[arg(long)]
    startup_taint: bool,
    /// Print the manifests as one file and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Write the Helm chart into this folder and change nothing else.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["dry_run", "overlay", "image", "startup_taint"])]
    chart: Option<std::path::PathBuf>,
}

/// `meshctl check`.
#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    cluster: ClusterChoice,
    /// Whether Weft could be installed, rather than whether it works.
    #[arg(long)]
    pre: bool,
}

/// `meshctl uninstall`.
#[derive(Debug, clap::Args)]
pub(crate) struct UninstallArgs {
    #[command(flatten)]
    cluster: ClusterChoice,
    /// Do it: workloads talk in clear text from then on.
    #[arg(long)]
    yes: bool,
}

impl InstallArgs {
    /// Applies the manifests, or prints them.
    ///
    /// # Errors
    /// kubectl fails.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        if let Some(folder) = &self.chart {
            return crate::chart::write(folder);
        }
        let folder = lay_out()?;
        let name = self.overlay.to_possible_value().context("every overlay can be chosen")?;
        let name = name.get_name();
        let overlay = if self.image.is_some() || self.startup_taint {
            put(&folder, &installed::own(name, self.image.as_deref(), self.startup_taint))?
        } else {
            folder.path().join("overlays").join(name).display().to_string()
        };
        if self.dry_run {
            return screen::out(self.cluster.kustomize(&overlay)?.trim_end());
        }
        self.cluster.answers()?;
        let definitions = folder.path().join("base/crds.yaml").display().to_string();
        self.apply(&definitions, &overlay)?;
        screen::note("Weft is there; enrol a namespace: kubectl label namespace NAME weft.dev/mesh=enabled");
        Ok(())
    }

    /// The definitions first: an object of a kind is taken once the kind is. Then the rest; where Weft is there already, its
    /// daemons before its controllers (docs/upgrade.md).
    fn apply(&self, definitions: &str, overlay: &str) -> anyhow::Result<()> {
        let (cluster, namespace) = (&self.cluster, self.cluster.namespace());
        let again = "Weft is not installed, or not all of it: kubectl says above what was refused, `meshctl check --pre` whether you may; the \
                     same command again goes on from there";
        cluster.show(&["apply", "-f", definitions]).context(again)?;
        cluster.show(&["wait", "--for=condition=Established", "--timeout=60s", "-f", definitions]).context(again)?;
        let pause = |is_paused: bool| {
            let patch = format!("{{\"spec\":{{\"paused\":{is_paused}}}}}");
            cluster.run(&["-n", namespace, "patch", CONTROLLER, "-p", &patch]).map(drop)
        };
        let is_led = cluster.controller().is_ok();
        if is_led {
            pause(true)?;
        }
        cluster.show(&["apply", "-k", overlay]).context(again)?;
        if is_led {
            let kept = "the controllers stay as they were, and paused, until the same command has gone through";
            self.await_rolled(DAEMONS).context(kept)?;
        }
        // also where somebody left it so: daemons that were never here wait for a controller
        pause(false)?;
        self.await_rolled(CONTROLLER)?;
        self.await_rolled(DAEMONS)
    }

    fn await_rolled(&self, what: &str) -> anyhow::Result<()> {
        let namespace = self.cluster.namespace();
        let Err(error) = self.cluster.show(&["-n", namespace, "rollout", "status", what, "--timeout=120s"]) else {
            return Ok(());
        };
        let pods = self.cluster.json(&["-n", namespace, "get", "pods", "-l", "app.kubernetes.io/part-of=weft"])?;
        let why = installed::waiting(&pods);
        Err(error.context(format!("Weft is not there yet\n{}", why.join("\n"))))
    }
}

impl UninstallArgs {
    /// Takes Weft from every node, then its objects.
    ///
    /// # Errors
    /// kubectl fails, or a node does not say that it is clean; then its objects stay.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        ensure!(self.yes, "workloads would talk in clear text: say --yes to take Weft away");
        self.cluster.answers()?;
        let folder = lay_out()?;
        let (cluster, namespace) = (&self.cluster, self.cluster.namespace());
        let overlay = put(&folder, &installed::taken_away(&installed::daemons(cluster)?)?)?;
        let again = "the nodes are not clean, and Weft's objects stay: kubectl says above why; the same command again goes on from there";
        cluster.show(&["apply", "-k", &overlay]).context(again)?;
        let rolled = ["-n", namespace, "rollout", "status", DAEMONS, "--timeout=120s"];
        cluster.show(&rolled).context(again)?;
        let begin = Instant::now();
        loop {
            let pods = cluster.json(&["-n", namespace, "get", "pods", "-l", "app.kubernetes.io/name=weft-node"])?;
            let names = pods.get("items").and_then(Value::as_array).into_iter().flatten();
            let names: Vec<_> = names.filter_map(|pod| pod.pointer("/metadata/name")?.as_str()).collect();
            let says = |name: &str| cluster.run(&["-n", namespace, "logs", name]).is_ok_and(|text| text.contains(GONE));
            let left: Vec<_> = names.iter().filter(|name| !says(name)).copied().collect();
            if left.is_empty() {
                break;
            }
            let waited = begin.elapsed() < UNINSTALL_PATIENCE;
            ensure!(waited, "these do not say that their node is clean, look at their logs: {}", left.join(", "));
            std::thread::sleep(Duration::from_secs(1));
        }
        cluster.show(&["delete", "-k", &overlay, "--timeout=120s"])?;
        // what a component added is not in the overlay
        let component = |file: &str| folder.path().join("components/startup-taint").join(file).display().to_string();
        let (rights, admission) = (component("rbac.yaml"), component("admission.yaml"));
        cluster.show(&["delete", "-f", &rights, "-f", &admission, "--ignore-not-found", "--timeout=120s"])
    }
}

/// A kustomization of our own beside the overlays.
fn put(folder: &tempfile::TempDir, text: &str) -> anyhow::Result<String> {
    let own = folder.path().join("overlays/own");
    std::fs::create_dir(&own).with_context(|| format!("cannot make {}", own.display()))?;
    std::fs::write(own.join("kustomization.yaml"), text)
        .with_context(|| format!("cannot write in {}", own.display()))?;
    Ok(own.display().to_string())
}

impl CheckArgs {
    /// Checks one after the other; false when one failed.
    ///
    /// # Errors
    /// There is no kubectl.
    pub(crate) fn run(&self) -> anyhow::Result<bool> {
        let checks = match self.cluster.answers() {
            Err(error) => vec![("the cluster answers", Err(error))],
            Ok(()) if self.pre => self.before(),
            Ok(()) => self.after(),
        };
        let mut all = true;
        for (what, outcome) in checks {
            match outcome {
                Ok(detail) => screen::out(&format!("{} {what}{detail}", screen::good("ok  ")))?,
                Err(error) => {
                    all = false;
                    screen::out(&format!("{} {what}\n     {error:#}", screen::bad("fail")))?;
                }
            }
        }
        screen::out(&format!("Status check results are {}", if all { "ok" } else { "not ok" }))?;
        Ok(all)
    }

    fn before(&self) -> Vec<(&'static str, anyhow::Result<String>)> {
        let may = |verb: &str, what: &str| {
            let asked = self.cluster.attempt(&["auth", "can-i", verb, what])?;
            let said = String::from_utf8_lossy(&asked.stdout);
            // a failure without an answer is none
            ensure!(
                asked.status.success() || said.trim_start().starts_with("no"),
                "whether you may {verb} {what} is not told"
            );
            ensure!(asked.status.success(), "you may not {verb} {what}: ask for the role cluster-admin");
            Ok(String::new())
        };
        vec![
            ("the API server is new enough", self.version()),
            ("you may make definitions", may("create", "customresourcedefinitions")),
            ("you may make cluster roles", may("create", "clusterroles")),
            ("you may make admission policies", may("create", "validatingadmissionpolicies")),
            ("you may make namespaces", may("create", "namespaces")),
            ("the nodes run Linux", self.nodes_run_linux()),
        ]
    }

    fn version(&self) -> anyhow::Result<String> {
        let version = self.cluster.json(&["version"])?;
        let of = |field: &str| version.pointer(&format!("/serverVersion/{field}")).and_then(Value::as_str);
        let minor = of("minor").unwrap_or_default().trim_end_matches('+');
        let number: u32 = minor.parse().context("the API server does not say its version")?;
        ensure!(number >= MINOR_MIN, "it is 1.{number}, and ValidatingAdmissionPolicy came with 1.{MINOR_MIN}");
        Ok(format!(": {}", of("gitVersion").unwrap_or_default()))
    }

    fn nodes_run_linux(&self) -> anyhow::Result<String> {
        let nodes = self.cluster.json(&["get", "nodes"])?;
        let items: Vec<_> = nodes.get("items").and_then(Value::as_array).into_iter().flatten().collect();
        for node in &items {
            let of = |path: &str| node.pointer(path).and_then(Value::as_str).unwrap_or_default();
            let (name, system) = (of("/metadata/name"), of("/status/nodeInfo/operatingSystem"));
            ensure!(system == "linux", "{name} runs {system}");
        }
        Ok(format!(": {} of them", items.len()))
    }

    fn after(&self) -> Vec<(&'static str, anyhow::Result<String>)> {
        let lead = self.cluster.controller().map(|_| String::new());
        vec![
            ("a controller leads", lead),
            ("every node runs the daemon", self.daemons()),
            ("every node has joined", self.joined()),
            ("nothing is outside the mesh that should be in it", self.outside()),
            ("mesh-cni stays chained where its list is rewritten", self.chained()),
        ]
    }

    fn daemons(&self) -> anyhow::Result<String> {
        let set = self.cluster.json(&["-n", self.cluster.namespace(), "get", "daemonset", "weft-node"])?;
        let of = |field: &str| set.pointer(&format!("/status/{field}")).and_then(Value::as_u64).unwrap_or(0);
        let (ready, wanted) = (of("numberReady"), of("desiredNumberScheduled"));
        ensure!(ready == wanted && wanted > 0, "{ready} of {wanted} are Ready");
        Ok(format!(": {ready}"))
    }

    fn joined(&self) -> anyhow::Result<String> {
        let nodes = self.cluster.json(&["get", "meshnodes"])?;
        let items: Vec<_> = nodes.get("items").and_then(Value::as_array).into_iter().flatten().collect();
        for node in &items {
            let joined = node.pointer("/status/joined").and_then(Value::as_bool).unwrap_or(false);
            let name = node.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
            ensure!(joined, "{name} has not: kubectl get meshnode {name} -o yaml says why, under status.refused");
        }
        Ok(format!(": {}", items.len()))
    }

    /// No fault of anybody's: who has such nodes should know of it (decision 0025).
    fn chained(&self) -> anyhow::Result<String> {
        let mut gaps = Vec::new();
        for pod in self.cluster.nodes(None)? {
            let status: crate::admin_reply::Status =
                serde_json::from_value(pod.ask(&serde_json::json!({"verb": "status"}))?)?;
            if let Some(gap) = status.chain.as_ref().and_then(crate::admin_reply::Chain::gap) {
                gaps.push(format!(
                    "\n     not on {}: {gap}; it is put back within a second, and after a boot once the daemon runs",
                    status.node
                ));
            }
        }
        Ok(gaps.concat())
    }

    fn outside(&self) -> anyhow::Result<String> {
        for pod in self.cluster.nodes(None)? {
            let status = pod.ask(&serde_json::json!({"verb": "status"}))?;
            let outside = status.get("outside").and_then(Value::as_array).cloned().unwrap_or_default();
            if let Some(first) = outside.first() {
                let of = |field: &str| first.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
                anyhow::bail!("{} pods, the first is {}: {}", outside.len(), of("pod"), of("reason"));
            }
        }
        Ok(String::new())
    }
}
