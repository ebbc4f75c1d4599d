//! A node's network list, and the file that mesh-cni has beside it.

use std::time::Duration;

use crate::cluster::Cluster;
use crate::shell::eventually;

/// The primary's list.
pub const LIST: &str = "/etc/cni/net.d/10-pods.conflist";
/// Ours, of the network that the list names.
pub const BESIDE: &str = "/etc/cni/net.d/pods/50-mesh-cni.conf";
/// Prints the list as its owner wrote it.
pub const OWN: &str = "python3 -c \"import json; kept=json.load(open('/var/lib/weft/cni-original'))['before']; \
                       print(kept or open('/etc/cni/net.d/10-pods.conflist').read(), end='')\"";
/// The same list, which takes no files from beside it (`sed`), and the other way.
const CLOSE: &str = "s/^{/{\"loadOnlyInlinedPlugins\":true,/";
const OPEN: &str = "s/\"loadOnlyInlinedPlugins\":true,//";

/// The primary's agent writes its list again, whole, as this makes of it (a filter in a shell).
fn rewritten(filter: &str) -> String {
    format!("{OWN} | {filter} >{LIST}.new && mv {LIST}.new {LIST}")
}

impl Cluster {
    /// Writes the list of n2 again, as the primary's agent would.
    pub fn rewrite_list(&self) {
        self.must_on("n2", &rewritten("cat"));
    }

    /// Whether a node's list has an entry of ours.
    pub fn is_listed(&self, node: &str) -> bool {
        self.must_on(node, &format!("cat {LIST}")).contains("mesh-cni")
    }

    /// Waits until a node's runtime is told of mesh-cni, by the list or by the file beside it.
    pub fn await_chained(&self, node: &str) {
        eventually("mesh-cni is chained", Duration::from_secs(120), || {
            let is_beside = || self.on_node(node, &["grep", "-q", "mesh-cni", BESIDE]).status.success();
            (self.is_listed(node) || is_beside()).then_some(())
        });
    }

    /// Waits until a node's runtime has been seen to read the file beside the list, and the list is its owner's again.
    pub fn await_given_back(&self, node: &str) {
        let is_beside = || self.on_node(node, &["test", "-e", BESIDE]).status.success();
        eventually("the list is given back", Duration::from_secs(120), || {
            (!self.is_listed(node) && is_beside()).then_some(())
        });
    }
}

/// The list of n2 takes no files from beside it while this lives, as with a runtime that does not know them: our entry is in it.
pub struct Closed<'a>(&'a Cluster);

impl<'a> Closed<'a> {
    pub fn begin(cluster: &'a Cluster) -> Self {
        let closed = Self(cluster);
        cluster.must_on("n2", &rewritten(&format!("sed '{CLOSE}'")));
        closed.await_listed();
        closed
    }

    /// Waits until the entry is in the list.
    pub fn await_listed(&self) {
        eventually("mesh-cni is in the list", Duration::from_secs(180), || self.0.is_listed("n2").then_some(()));
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        // until the daemon has seen it
        let wait = "for i in $(seq 100); do grep -q loadOnly /var/lib/weft/cni-original || break; sleep 0.1; done";
        let open = rewritten(&format!("sed '{OPEN}'"));
        self.0.on_node("n2", &["sh", "-c", &format!("{open}; {wait}")]);
    }
}
