//! Flags and environment, checked as a whole; the only place where the daemon reads either.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use identity::{NodeName, Suite, TrustDomain};
use wg::Shard;

use crate::datapath::ClassPolicy;
use crate::install::Places;

/// The Weft daemon. Run `meshd node` on every node and `meshd controller` once per cluster.
#[derive(Debug, Parser)]
#[command(name = "meshd", version, about, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// What to run.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The daemon's two programs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The node daemon: attaches workloads, holds the kernel state, encrypts.
    Node(Box<NodeConfig>),
    /// The controller: signs key bindings and says which address belongs to which identity.
    Controller(ControllerConfig),
    /// Takes every rule, route, table and device of Weft away from this node; workloads then talk in clear text.
    Clean(CleanConfig),
    /// The data path alone, between two fixed keys, without a cluster: for measuring it and to meet other WireGuard
    /// programs.
    #[command(hide = true)]
    Tunnel(TunnelConfig),
    /// Takes everything of Weft away from this node: what `clean` does, the plugin, its entry in the network list, and
    /// the state folder.
    Uninstall(UninstallConfig),
    /// Succeeds while the daemon of this container is ready: what a probe calls.
    #[command(hide = true)]
    Ready(ReadyConfig),
    /// Prints the CustomResourceDefinitions of Weft's kinds, as manifests/base/crds.yaml has them.
    Crds,
}

/// What both programs are told.
#[derive(Clone, Debug, Args)]
pub(crate) struct SharedConfig {
    /// Folder of manifests that is watched instead of an API server; it must exist.
    #[arg(long, env = "WEFT_DIRECTORY", value_name = "DIR", conflicts_with_all = ["kubeconfig", "context"])]
    pub(crate) directory: Option<PathBuf>,
    /// Kubeconfig of the API server; without it and without --directory the pod's own service account is used.
    #[arg(long, env = "WEFT_KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig; by default its current one.
    #[arg(long, env = "WEFT_CONTEXT", value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Namespace whose selector-less PeerAuthentication counts for the whole mesh.
    #[arg(long, env = "WEFT_ROOT_NAMESPACE", default_value = "weft-system", value_name = "NAME")]
    pub(crate) root_namespace: String,
    /// How long a WireGuard key is used before the next epoch's takes over: 60s to 30d, for example 24h. The same
    /// on every node and on the controller.
    #[arg(long, env = "WEFT_ROTATION_PERIOD", default_value = "24h", value_name = "DURATION", value_parser = rotation_period)]
    pub(crate) rotation_period: Duration,
    /// Address and port on which metrics are told by HTTP (docs/metrics.md); by default nowhere. Nobody is asked who they
    /// are there.
    #[arg(long, env = "WEFT_METRICS_ADDRESS", value_name = "ADDRESS:PORT")]
    pub(crate) metrics_address: Option<SocketAddr>,
    /// What to log: a level or a list of target=level (tracing's filter syntax).
    #[arg(long, env = "WEFT_LOG", default_value = "info", value_name = "FILTER")]
    pub(crate) log: String,
    /// Log as JSON lines.
    #[arg(long, env = "WEFT_LOG_JSON")]
    pub(crate) log_json: bool,
}

/// `meshd node`.
#[derive(Clone, Debug, Args)]
pub(crate) struct NodeConfig {
    #[command(flatten)]
    pub(crate) shared: SharedConfig,
    /// This node's name, as the cluster calls it.
    #[arg(long, alias = "node-name", env = "WEFT_NODE", value_name = "NAME", value_parser = node_name)]
    pub(crate) node: NodeName,
    /// Where secrets and attachments outlive the daemon.
    #[arg(long, env = "WEFT_STATE_DIR", default_value = "/var/lib/weft", value_name = "DIR")]
    pub(crate) state_dir: PathBuf,
    /// Where the sockets are: cni.sock for the plugin, admin.sock for meshctl.
    #[arg(long, env = "WEFT_RUN_DIR", default_value = "/run/weft", value_name = "DIR")]
    pub(crate) run_dir: PathBuf,
    /// File with the one-time join token of `meshctl node token`; needed until this node has joined
    /// where manifests come from a folder. An API server vouches for its nodes itself.
    #[arg(long, env = "WEFT_JOIN_TOKEN_FILE", value_name = "FILE")]
    pub(crate) join_token_file: Option<PathBuf>,
    /// The UDP port of all identities' sessions.
    #[arg(long, env = "WEFT_LISTEN_PORT", default_value_t = 51840, value_name = "PORT")]
    pub(crate) listen_port: u16,
    /// The link whose addresses peers reach this node at; by default the one that the default route leaves by.
    #[arg(long, env = "WEFT_UNDERLAY_LINK", value_name = "LINK")]
    pub(crate) underlay_link: Option<String>,
    /// Name of the TUN device.
    #[arg(long, env = "WEFT_TUN", default_value = "mesh0", value_name = "LINK")]
    pub(crate) tun: String,
    /// Use none of the kernel's segmentation offload: one packet a call, several times slower. To find out whether a
    /// kernel or a network card gets it wrong.
    #[arg(long, env = "WEFT_NO_OFFLOAD")]
    pub(crate) no_offload: bool,
    /// DSCP of the encrypted packets: 0 to 63 for all, or `inherit` for that of the packet inside, which the underlay
    /// then sees. Congestion marks (ECN) are always carried over.
    #[arg(long, env = "WEFT_DSCP", default_value = "0", value_name = "DSCP", value_parser = dscp)]
    pub(crate) dscp: ClassPolicy,
    /// Threads that encrypt and decrypt: 1, 2, 4, 8 or 16, or `auto` for one where there are up to three processors, two up
    /// to seven, and four beyond. All sessions with one peer are one thread's.
    #[arg(long, env = "WEFT_DATA_THREADS", default_value = "auto", value_name = "COUNT", value_parser = data_threads)]
    pub(crate) data_threads: usize,
    /// Leave NetworkPolicy and the administrator's tiers around it to the primary network, which enforces them itself.
    /// AuthorizationPolicy is enforced all the same.
    #[arg(long, env = "WEFT_NO_NETWORK_POLICY")]
    pub(crate) no_network_policy: bool,
    /// How many flows of one pod the kernel's table of connections holds at most, which all pods of a node share: one more
    /// is dropped (`flows_exceeded`). 0 is no bound. A sixteenth of the smallest table that kube-proxy sets (131,072). A new flow costs the
    /// kernel about 30 ns for each that its pod has: a high bound is expensive.
    #[arg(long, env = "WEFT_FLOWS_PER_POD", default_value_t = 8_192, value_name = "COUNT")]
    pub(crate) flows_per_pod: u32,
    /// The best cipher for data between this node and others of the mesh: chacha20-poly1305, aes-256-gcm, or auto (AES where
    /// the processor has instructions for it). Two nodes use what both have. Stock WireGuard peers always get ChaCha20.
    #[arg(long, env = "WEFT_DATA_CIPHER", default_value = "auto", value_name = "CIPHER", value_parser = data_cipher)]
    pub(crate) data_cipher: Suite,
    /// Take the taint `weft.dev/not-ready` off this node once it can serve: nodes that come with that taint run no pod
    /// before. Needs manifests/components/startup-taint.
    #[arg(long, env = "WEFT_STARTUP_TAINT", conflicts_with = "directory")]
    pub(crate) startup_taint: bool,
    /// Where another daemon serves this node, wait until it ends and go on in its place at once, instead of refusing to start.
    #[arg(long, env = "WEFT_TAKE_OVER")]
    pub(crate) take_over: bool,
    /// File that is there while this daemon is ready: it serves this node, or waits to take over.
    #[arg(long, env = "WEFT_READY_FILE", value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) install: InstallConfig,
}

/// Where the CNI plugin goes.
#[derive(Clone, Debug, Args)]
pub(crate) struct InstallConfig {
    /// Folder of CNI network lists in which mesh-cni is chained; without it nothing is installed.
    #[arg(long, env = "WEFT_CNI_CONF_DIR", value_name = "DIR", requires = "cni_bin_dir")]
    pub(crate) cni_conf_dir: Option<PathBuf>,
    /// Folder of CNI plugins that mesh-cni is copied to.
    #[arg(long, env = "WEFT_CNI_BIN_DIR", value_name = "DIR")]
    pub(crate) cni_bin_dir: Option<PathBuf>,
    /// Name of the network list; by default the first of the folder, as the runtime takes it.
    #[arg(long, env = "WEFT_CNI_CONFLIST", value_name = "NAME")]
    pub(crate) cni_conflist: Option<String>,
    /// The plugin to install.
    #[arg(long, env = "WEFT_CNI_PLUGIN", default_value = "/usr/local/bin/mesh-cni", value_name = "FILE")]
    pub(crate) cni_plugin: PathBuf,
    /// Folder in which libcni remembers what it added.
    #[arg(long, env = "WEFT_CNI_CACHE", default_value = "/var/lib/cni", value_name = "DIR")]
    pub(crate) cni_cache: PathBuf,
}

impl InstallConfig {
    /// The places, where an installation is wanted.
    pub(crate) fn places(&self, state_dir: &Path, run_dir: &Path) -> Option<Places> {
        let (conf_dir, bin_dir) = self.cni_conf_dir.clone().zip(self.cni_bin_dir.clone())?;
        let (conflist, plugin) = (self.cni_conflist.clone(), self.cni_plugin.clone());
        Some(Places {
            conf_dir,
            bin_dir,
            conflist,
            plugin,
            state_dir: state_dir.to_owned(),
            run_dir: run_dir.to_owned(),
        })
    }
}

/// `meshd ready`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ReadyConfig {
    /// The file of `meshd node --ready-file`.
    #[arg(long, env = "WEFT_READY_FILE", value_name = "FILE")]
    pub(crate) ready_file: PathBuf,
}

/// `meshd uninstall`.
#[derive(Clone, Debug, Args)]
pub(crate) struct UninstallConfig {
    #[command(flatten)]
    pub(crate) install: InstallConfig,
    /// Where secrets and attachments were kept.
    #[arg(long, env = "WEFT_STATE_DIR", default_value = "/var/lib/weft", value_name = "DIR")]
    pub(crate) state_dir: PathBuf,
    /// Where the sockets were.
    #[arg(long, env = "WEFT_RUN_DIR", default_value = "/run/weft", value_name = "DIR")]
    pub(crate) run_dir: PathBuf,
    /// Name of the TUN device.
    #[arg(long, env = "WEFT_TUN", default_value = "mesh0", value_name = "LINK")]
    pub(crate) tun: String,
    /// Stay until told to stop, as a DaemonSet's container has to.
    #[arg(long, env = "WEFT_STAY")]
    pub(crate) stay: bool,
}

/// `meshd clean`.
#[derive(Clone, Debug, Args)]
pub(crate) struct CleanConfig {
    /// Name of the TUN device.
    #[arg(long, env = "WEFT_TUN", default_value = "mesh0", value_name = "LINK")]
    pub(crate) tun: String,
}

/// `meshd tunnel`.
#[derive(Clone, Debug, Args)]
pub(crate) struct TunnelConfig {
    /// Name of the TUN device; made if it is not there.
    #[arg(long, default_value = "mesh0", value_name = "LINK")]
    pub(crate) tun: String,
    /// File with our private key, as `wg genkey` makes it.
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: PathBuf,
    /// The UDP port.
    #[arg(long, default_value_t = 51840, value_name = "PORT")]
    pub(crate) listen_port: u16,
    /// An address on our side; several are allowed.
    #[arg(long, value_name = "IP")]
    pub(crate) address: Vec<IpAddr>,
    /// The peer's public key, as `wg pubkey` makes it.
    #[arg(long, value_name = "KEY")]
    pub(crate) peer_key: String,
    /// File with a preshared key, as `wg genpsk` makes it.
    #[arg(long, value_name = "FILE")]
    pub(crate) preshared_key_file: Option<PathBuf>,
    /// An address on the peer's side; several are allowed.
    #[arg(long, value_name = "IP")]
    pub(crate) peer_address: Vec<IpAddr>,
    /// Where the peer is; it may also come to us.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) endpoint: Option<SocketAddr>,
    /// As many peers more that never speak.
    #[arg(long, default_value_t = 0, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(..=65_535))]
    pub(crate) idle_peers: u32,
    /// As of `meshd node`.
    #[arg(long)]
    pub(crate) no_offload: bool,
    /// As of `meshd node`.
    #[arg(long, default_value = "0", value_name = "DSCP", value_parser = dscp)]
    pub(crate) dscp: ClassPolicy,
    /// As of `meshd node`, but one unless said otherwise.
    #[arg(long, default_value = "1", value_name = "COUNT", value_parser = data_threads)]
    pub(crate) data_threads: usize,
    /// As of `meshd node`; both ends have to be told the same, and a stock peer has only this one.
    #[arg(long, default_value = "chacha20-poly1305", value_name = "CIPHER", value_parser = data_cipher)]
    pub(crate) data_cipher: Suite,
}

/// `meshd controller`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ControllerConfig {
    #[command(flatten)]
    pub(crate) shared: SharedConfig,
    /// The trust domain of every identity; fixed at the first start.
    #[arg(long, env = "WEFT_TRUST_DOMAIN", default_value = "cluster.local", value_name = "NAME")]
    pub(crate) trust_domain: TrustDomain,
    /// Where the CA's keys and the join tokens are kept, mode 0700.
    #[arg(long, env = "WEFT_CONTROLLER_STATE_DIR", default_value = "/var/lib/weft-controller", value_name = "DIR")]
    pub(crate) state_dir: PathBuf,
    /// Where controller.sock is, for meshctl.
    #[arg(long, env = "WEFT_RUN_DIR", default_value = "/run/weft", value_name = "DIR")]
    pub(crate) run_dir: PathBuf,
}

fn dscp(text: &str) -> Result<ClassPolicy, String> {
    match text.parse() {
        _ if text == "inherit" => Ok(ClassPolicy::Inherit),
        Ok(dscp) if dscp < 64 => Ok(ClassPolicy::Fixed(dscp)),
        _ => Err(format!("`{text}` is no DSCP: 0 to 63, or inherit")),
    }
}

fn data_threads(text: &str) -> Result<usize, String> {
    if text == "auto" {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        return Ok(threads_for(processors));
    }
    let count = text.parse().ok().filter(|count| Shard::new(0, *count).is_some());
    count.ok_or_else(|| format!("`{text}` is no number of data threads: 1, 2, 4, 8, 16, or auto"))
}

/// Half of the processors and at most four threads: the rest is for the kernel's share of the packets, and for workloads.
/// Decision 0005.
const fn threads_for(processors: usize) -> usize {
    match processors {
        0..=3 => 1,
        4..=7 => 2,
        _ => 4,
    }
}

fn data_cipher(text: &str) -> Result<Suite, String> {
    if text == "auto" { Ok(best_cipher()) } else { text.parse().map_err(|error| format!("{error}, or auto")) }
}

/// AES where the processor has instructions for it and for GCM's multiplication: without them it would be slower than ChaCha20.
fn best_cipher() -> Suite {
    #[cfg(target_arch = "x86_64")]
    let is_fast = std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    let is_fast = std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let is_fast = false;
    if is_fast { Suite::Aes256Gcm } else { Suite::ChaCha20Poly1305 }
}

fn node_name(text: &str) -> Result<NodeName, String> {
    text.parse::<NodeName>().map_err(|error| error.to_string())
}

/// Reads `90s`, `15m`, `24h`, `7d`.
fn rotation_period(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration: a whole number and s, m, h or d, for example 24h");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds_per = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text.trim_end_matches(unit).parse().map_err(|_not_a_number| wrong())?;
    let seconds = number.checked_mul(seconds_per).ok_or_else(wrong)?;
    if !(60..=30 * 86_400).contains(&seconds) {
        return Err(format!("{text} is out of range: 60s to 30d"));
    }
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_period_is_read_with_its_unit_and_range() {
        assert_eq!(rotation_period("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(rotation_period("24h"), Ok(Duration::from_secs(86_400)));
        for bad in ["", "59s", "31d", "1w", "-5s", "s", "99999999999999999999h"] {
            assert!(rotation_period(bad).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn data_threads_are_a_power_of_two_and_auto_leaves_processors_to_others() {
        for count in [1, 2, 4, 8, 16] {
            assert_eq!(data_threads(&count.to_string()), Ok(count));
        }
        for bad in ["", "0", "3", "32", "-1", "many"] {
            assert!(data_threads(bad).is_err(), "{bad} was taken");
        }
        for (processors, threads) in [(1, 1), (2, 1), (3, 1), (4, 2), (7, 2), (8, 4), (64, 4)] {
            assert_eq!(threads_for(processors), threads, "{processors} processors");
            assert!(Shard::new(0, threads_for(processors)).is_some());
        }
        assert!(data_threads("auto").is_ok());
    }

    #[test]
    fn a_node_name_is_an_rfc_1123_subdomain() {
        assert!(node_name("n1.example").is_ok());
        for bad in ["", "N1", "-n", "n-", "a/b", "a b", "..", &"a".repeat(254)] {
            assert!(node_name(bad).is_err(), "{bad} was taken");
        }
    }
}
