//! Calls CNI plugins as a container runtime does (CNI spec 1.1.0, section 3 and appendix): a chain, results cached.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use linux::netns::Netns;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::config::Primary;
use super::facts::{Facts, Node, write_whole};
use super::layout::Layout;
use super::process;

/// How long one plugin may take; a runtime's own limit is of this order.
const PLUGIN_PATIENCE: Duration = Duration::from_secs(30);

/// The interface's name inside every pod.
pub(super) const IFNAME: &str = "eth0";

/// What calls a node's plugins.
pub(super) struct CniRuntime {
    node_netns: Netns,
    path: String,
    conflist: Conflist,
    cache: PathBuf,
}

/// A network configuration list.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conflist {
    cni_version: String,
    name: String,
    plugins: Vec<Value>,
}

/// What a pod is to the plugins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sandbox {
    /// 64 hexadecimal digits, another one for every sandbox.
    pub(super) container_id: String,
    /// Path of its network namespace.
    pub(super) netns: PathBuf,
    /// Of the pod.
    pub(super) namespace: String,
    /// Of the pod.
    pub(super) pod: String,
    /// Of the pod.
    pub(super) uid: String,
}

/// Writes a node's network configuration list.
///
/// # Errors
/// The lab's folder does not take it.
pub(super) fn write_conflist(facts: &Facts, layout: &Layout, node: &Node) -> anyhow::Result<()> {
    let default_route =
        |cidr: &ipnet::IpNet| json!({ "dst": if cidr.addr().is_ipv4() { "0.0.0.0/0" } else { "::/0" } });
    let ipam = json!({
        "type": "host-local",
        "dataDir": layout.node_cni(&node.name).join("leases"),
        "ranges": node.pod_cidrs.iter().map(|c| json!([{ "subnet": c }])).collect::<Vec<_>>(),
        "routes": node.pod_cidrs.iter().map(default_route).collect::<Vec<_>>(),
    });
    let mtu = facts.config.mtu;
    let primary = match facts.config.primary {
        Primary::Ptp => json!({ "type": "ptp", "mtu": mtu, "ipam": ipam }),
        Primary::Bridge => json!({
            "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "mtu": mtu, "ipam": ipam,
        }),
    };
    let mut plugins = vec![primary];
    if facts.mesh {
        plugins.push(json!({
            "type": "mesh-cni",
            "socket": layout.cni_socket(&node.name),
            "tombstones": layout.node_state(&node.name).join("tombstones"),
        }));
    }
    let conflist = Conflist { cni_version: "1.1.0".to_owned(), name: "weft-lab".to_owned(), plugins };
    let path = layout.conflist(&node.name);
    for folder in path.parent().into_iter().chain([layout.node_cni(&node.name).join("cache").as_path()]) {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    write_whole(&path, &serde_json::to_vec_pretty(&conflist)?)
}

impl CniRuntime {
    /// The runtime of `node`, whose configuration list has been written.
    ///
    /// # Errors
    /// The node's namespace or its list is not there.
    pub(super) fn new(facts: &Facts, layout: &Layout, node: &Node) -> anyhow::Result<Self> {
        let path = layout.conflist(&node.name);
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let folders = [&facts.programs.cni_bin_dir, &facts.programs.mesh_cni_dir];
        Ok(Self {
            node_netns: Netns::open_named(&node.host.namespace)?,
            path: folders.map(|f| f.display().to_string()).join(":"),
            conflist: serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))?,
            cache: layout.node_cni(&node.name).join("cache"),
        })
    }

    /// ADD through the chain; the final result. When a plugin fails, what the others did is undone.
    ///
    /// # Errors
    /// The plugin that failed and what it said.
    pub(super) fn add(&self, sandbox: &Sandbox) -> anyhow::Result<Value> {
        let mut result = Value::Null;
        for plugin in &self.conflist.plugins {
            match self.call("ADD", plugin, sandbox, &result) {
                Ok(Some(next)) => result = next,
                Ok(None) => {}
                Err(error) => {
                    return Err(match self.del_chain(sandbox, &result) {
                        Ok(()) => error,
                        Err(undoing) => anyhow!("{error:#}; and undoing it: {undoing:#}"),
                    });
                }
            }
        }
        write_whole(&self.cached(sandbox), &serde_json::to_vec(&result)?)?;
        Ok(result)
    }

    /// DEL through the chain, last plugin first, with the cached result. Doing it again is fine.
    ///
    /// # Errors
    /// What the plugins that failed said; the others were called all the same.
    pub(super) fn del(&self, sandbox: &Sandbox) -> anyhow::Result<()> {
        let cached = fs::read(self.cached(sandbox)).ok().and_then(|text| serde_json::from_slice(&text).ok());
        self.del_chain(sandbox, &cached.unwrap_or(Value::Null))?;
        match fs::remove_file(self.cached(sandbox)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).context("cannot remove the cached result"),
            _ => Ok(()),
        }
    }

    fn del_chain(&self, sandbox: &Sandbox, result: &Value) -> anyhow::Result<()> {
        let call = |plugin| self.call("DEL", plugin, sandbox, result).err().map(|e| format!("{e:#}"));
        let failures: Vec<String> = self.conflist.plugins.iter().rev().filter_map(call).collect();
        if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("; ")) }
    }

    fn cached(&self, sandbox: &Sandbox) -> PathBuf {
        self.cache.join(format!("{}-{IFNAME}.json", sandbox.container_id))
    }

    fn call(&self, verb: &str, plugin: &Value, sandbox: &Sandbox, prev: &Value) -> anyhow::Result<Option<Value>> {
        let mut conf = plugin.clone();
        let fields = conf.as_object_mut().context("a plugin's configuration is an object")?;
        fields.insert("cniVersion".to_owned(), json!(self.conflist.cni_version));
        fields.insert("name".to_owned(), json!(self.conflist.name));
        if !prev.is_null() {
            fields.insert("prevResult".to_owned(), prev.clone());
        }
        let kind = plugin.get("type").and_then(Value::as_str).context("a plugin without `type`")?;
        let program = self.program(kind)?;
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &sandbox.container_id)
            .env("CNI_NETNS", &sandbox.netns)
            .env("CNI_IFNAME", IFNAME)
            .env("CNI_PATH", &self.path)
            .env("CNI_ARGS", sandbox.args());
        let said = process::run(&self.node_netns, command, conf.to_string().as_bytes(), PLUGIN_PATIENCE)?;
        if !said.status.success() {
            bail!("{kind} {verb}: {}", complaint(&said));
        }
        if verb != "ADD" {
            return Ok(None);
        }
        serde_json::from_slice(&said.stdout).map(Some).with_context(|| format!("{kind} {verb}: its result is no JSON"))
    }

    fn program(&self, kind: &str) -> anyhow::Result<PathBuf> {
        let places = self.path.split(':').filter(|f| !f.is_empty()).map(|f| Path::new(f).join(kind));
        places.into_iter().find(|p| p.is_file()).with_context(|| format!("plugin {kind} is not in {}", self.path))
    }
}

impl Sandbox {
    /// `CNI_ARGS` as kubelet's runtimes fill it.
    fn args(&self) -> String {
        format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
            self.namespace, self.pod, self.container_id, self.uid
        )
    }
}

/// What a failed plugin said: its error object on stdout, or whatever there is.
fn complaint(said: &process::Said) -> String {
    let error: Option<Value> = serde_json::from_slice(&said.stdout).ok();
    let field = |name: &str| error.as_ref()?.get(name)?.as_str().filter(|t| !t.is_empty()).map(str::to_owned);
    match (field("msg"), field("details")) {
        (Some(msg), Some(details)) => format!("{msg}: {details}"),
        (Some(msg), None) => msg,
        (None, _) => {
            let text = [&said.stdout, &said.stderr].map(|t| String::from_utf8_lossy(t).trim().to_owned()).join(" ");
            format!("{} {}", said.status, text.trim())
        }
    }
}

/// The addresses in a result.
pub(super) fn addresses(result: &Value) -> Vec<String> {
    let ips = result.get("ips").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let bare = |text: &str| text.split('/').next().unwrap_or(text).to_owned();
    ips.iter().filter_map(|ip| ip.get("address")?.as_str().map(bare)).collect()
}

/// The link at the node's end: the last interface of the result that is in no sandbox (a bridge comes before its port).
pub(super) fn host_link(result: &Value) -> Option<String> {
    let outside = |i: &&Value| i.get("sandbox").and_then(Value::as_str).is_none_or(str::is_empty);
    let link = result.get("interfaces")?.as_array()?.iter().rev().find(outside)?;
    link.get("name")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_a_bridge_is_the_host_link_and_not_the_bridge() {
        let result = json!({
            "interfaces": [{ "name": "cni0" }, { "name": "veth1" }, { "name": "eth0", "sandbox": "/run/netns/x" }],
            "ips": [{ "address": "10.244.1.2/24" }, { "address": "fd00::2/64" }],
        });
        assert_eq!(host_link(&result).as_deref(), Some("veth1"));
        assert_eq!(addresses(&result), ["10.244.1.2", "fd00::2"]);
        assert_eq!(host_link(&Value::Null), None);
    }
}
