//! Finds the programs that a lab runs: meshd, mesh-cni and the CNI project's plugins.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::config::Primary;
use super::facts::Programs;

/// Where distributions put CNI plugins.
const SYSTEM_CNI: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];

/// What the command line says about where programs are.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct ProgramArgs {
    /// Folder of the CNI project's plugins (ptp, bridge, host-local); where absent: .tools/cni beside the workspace,
    /// then /opt/cni/bin and /usr/lib/cni.
    #[arg(long, env = "WEFT_CNI_BIN", value_name = "DIR")]
    cni_bin_dir: Option<PathBuf>,
    /// Folder of meshd and mesh-cni; where absent: meshctl's own.
    #[arg(long, env = "WEFT_BIN_DIR", value_name = "DIR")]
    bin_dir: Option<PathBuf>,
}

/// Finds everything, or says what is missing and how to get it.
///
/// # Errors
/// A program is nowhere to be found.
pub(super) fn find(args: &ProgramArgs, primary: Primary, mesh: bool) -> anyhow::Result<Programs> {
    let meshctl = std::env::current_exe().context("cannot tell where meshctl itself is")?;
    let own = meshctl.parent().unwrap_or(Path::new("/")).to_owned();
    let cni_bin_dir = cni_bin_dir(args, &own, primary)?;
    let bin_dir = args.bin_dir.clone().unwrap_or(own);
    if !mesh {
        return Ok(Programs { meshctl, meshd: PathBuf::new(), mesh_cni_dir: PathBuf::new(), cni_bin_dir });
    }
    for program in ["meshd", "mesh-cni"] {
        if !bin_dir.join(program).is_file() {
            bail!(
                "{program} is not in {}: build it (cargo build -p meshd -p mesh-cni), or say where it is with --bin-dir",
                bin_dir.display()
            );
        }
    }
    let bin_dir = bin_dir.canonicalize().with_context(|| format!("cannot follow {}", bin_dir.display()))?;
    Ok(Programs { meshctl, meshd: bin_dir.join("meshd"), mesh_cni_dir: bin_dir, cni_bin_dir })
}

fn cni_bin_dir(args: &ProgramArgs, own: &Path, primary: Primary) -> anyhow::Result<PathBuf> {
    let needed = [primary.to_string(), "host-local".to_owned()];
    let beside_workspace = own.ancestors().map(|a| a.join(".tools/cni"));
    let here = std::env::current_dir().into_iter().map(|d| d.join(".tools/cni"));
    let places: Vec<PathBuf> = match &args.cni_bin_dir {
        Some(place) => vec![place.clone()],
        None => beside_workspace.chain(here).chain(SYSTEM_CNI.map(PathBuf::from)).collect(),
    };
    let has_all = |place: &&PathBuf| needed.iter().all(|p| place.join(p).is_file());
    match places.iter().find(has_all) {
        Some(place) => place.canonicalize().with_context(|| format!("cannot follow {}", place.display())),
        None => bail!(
            "the CNI plugins {} are in none of {}: run scripts/setup demo, or say where they are with --cni-bin-dir",
            needed.join(" and "),
            places.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
        ),
    }
}
