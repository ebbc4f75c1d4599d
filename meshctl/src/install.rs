//! `meshctl install` and `uninstall`: Weft's own manifests, which this program carries, applied by kubectl.

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
        self.cluster.is_usual_namespace()?;
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
        self.cluster.is_usual_namespace()?;
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
