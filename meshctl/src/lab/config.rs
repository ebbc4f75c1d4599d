//! lab.yaml: how many nodes, which address families, which MTU, which manifests. Every field has a default.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

/// The most nodes a lab may have.
pub(super) const NODES_MAX: u8 = 64;

/// What a lab is like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct LabConfig {
    /// How many nodes, n1 to nN: 1 to 64, 3 where absent.
    pub(super) nodes: u8,
    /// Address families of the underlay; both where absent.
    pub(super) families: Vec<Family>,
    /// Address families of pods; those of the underlay where absent.
    pub(super) pod_families: Vec<Family>,
    /// MTU of the underlay and of pods, in bytes: 1280 to 9000, 1500 where absent.
    pub(super) mtu: u16,
    /// How long a key is used, `60s` to `30d`; 24h where absent.
    pub(super) rotation_period: String,
    /// Nodes whose daemon speaks no data cipher but WireGuard's own, as on a processor without AES instructions.
    pub(super) chacha_nodes: Vec<String>,
    /// How many data threads a node's daemon has: 1, 2, 4, 8 or 16; what the machine suggests where absent.
    pub(super) data_threads: Option<u8>,
    /// How many flows of one pod the kernel holds at most; the daemon's own default where absent.
    pub(super) flows_per_pod: Option<u32>,
    /// The plugin that mesh-cni is chained after.
    pub(super) primary: Primary,
    /// Manifests (files or folders, relative to lab.yaml) instead of the lab's own few pods; an empty list is an
    /// empty lab.
    pub(super) manifests: Option<Vec<PathBuf>>,
    /// The trust domain of every identity.
    pub(super) trust_domain: String,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// The primary CNI plugins that the lab knows how to configure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Primary {
    /// A routed veth a pod.
    Ptp,
    /// A Linux bridge a node.
    Bridge,
}

impl fmt::Display for Primary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ptp => "ptp",
            Self::Bridge => "bridge",
        })
    }
}

impl Default for LabConfig {
    fn default() -> Self {
        Self {
            nodes: 3,
            families: vec![Family::Ipv4, Family::Ipv6],
            pod_families: Vec::new(),
            mtu: 1500,
            rotation_period: "24h".to_owned(),
            chacha_nodes: Vec::new(),
            data_threads: None,
            flows_per_pod: None,
            primary: Primary::Ptp,
            manifests: None,
            trust_domain: "weft.lab".to_owned(),
        }
    }
}

impl LabConfig {
    /// Reads lab.yaml; without one it is the default.
    ///
    /// # Errors
    /// The file cannot be read, has an unknown field, or a value out of range.
    pub(super) fn read(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Self::default().checked() };
        let shown = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
        let mut config = Self::parse(&text).with_context(|| format!("{shown} is no lab file"))?;
        let base = path.parent().unwrap_or(Path::new(""));
        for manifest in config.manifests.iter_mut().flatten() {
            let found = base.join(&*manifest);
            *manifest = found.canonicalize().with_context(|| format!("{shown} names {}", found.display()))?;
        }
        Ok(config)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        // an empty file, or one of comments only, says nothing: the defaults
        let config: Option<Self> = serde_saphyr::from_str(text)?;
        config.unwrap_or_default().checked()
    }

    fn checked(mut self) -> anyhow::Result<Self> {
        ensure!((1..=NODES_MAX).contains(&self.nodes), "nodes: {} is out of range, 1 to {NODES_MAX}", self.nodes);
        ensure!((1280..=9000).contains(&self.mtu), "mtu: {} is out of range, 1280 to 9000", self.mtu);
        if self.pod_families.is_empty() {
            self.pod_families.clone_from(&self.families);
        }
        for (field, families) in [("families", &self.families), ("podFamilies", &self.pod_families)] {
            match families.as_slice() {
                [Family::Ipv4 | Family::Ipv6] | [Family::Ipv4, Family::Ipv6] | [Family::Ipv6, Family::Ipv4] => {}
                _ => bail!("{field}: one of [ipv4], [ipv6], [ipv4, ipv6]"),
            }
        }
        if let Some(threads) = self.data_threads {
            ensure!([1, 2, 4, 8, 16].contains(&threads), "dataThreads: {threads} is none of 1, 2, 4, 8, 16");
        }
        for node in &self.chacha_nodes {
            let exists = (1..=self.nodes).any(|number| *node == format!("n{number}"));
            ensure!(exists, "chachaNodes: there is no node {node}, there are n1 to n{}", self.nodes);
        }
        self.trust_domain.parse::<identity::TrustDomain>().context("trustDomain")?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default_lab() {
        for text in ["", "# nothing\n", "{}"] {
            let config = LabConfig::parse(text).unwrap();
            assert_eq!((config.nodes, config.mtu), (3, 1500), "{text:?}");
            assert!(config.pod_families.contains(&Family::Ipv6) && config.manifests.is_none());
        }
    }

    #[test]
    fn every_field_is_read() {
        let text = "nodes: 5\nfamilies: [ipv6]\npodFamilies: [ipv4]\nmtu: 9000\nrotationPeriod: 60s\nprimary: bridge\n\
                    manifests: []\ntrustDomain: a.example\nchachaNodes: [n5]\n";
        let config = LabConfig::parse(text).unwrap();
        assert_eq!(config.nodes, 5);
        assert_eq!((config.families, config.pod_families), (vec![Family::Ipv6], vec![Family::Ipv4]));
        assert_eq!(config.primary, Primary::Bridge);
        assert_eq!(config.manifests, Some(vec![]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("nodes: 0", "nodes"),
            ("nodes: 65", "nodes"),
            ("chachaNodes: [n4]", "n4"),
            ("dataThreads: 3", "dataThreads"),
            ("mtu: 576", "mtu"),
            ("families: []", "families"),
            ("families: [ipv4, ipv4]", "families"),
            ("families: [ipx]", "ipx"),
            ("trustDomain: UPPER", "trustDomain"),
            ("node: 3", "node"),
        ] {
            let error = format!("{:#}", LabConfig::parse(text).unwrap_err());
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
