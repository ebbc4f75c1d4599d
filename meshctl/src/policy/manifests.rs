//! A folder of manifests as policies and the world they are about, with the place of everything that is not used.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use policy::manifest::{Gathered, Gatherer, lay_over};
use policy::{Compiler, End, NamedPort, RuleSet, Workload, WorkloadId};
use serde_json::Value;

use crate::lab::document::{self, Document};

/// Where the manifests are, and what they do not say themselves.
#[derive(Debug, clap::Args)]
pub(crate) struct Cluster {
    /// The trust domain of the pods' identities.
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    trust_domain: String,
    /// The namespace whose AuthorizationPolicies are about the whole mesh.
    #[arg(long, value_name = "NAME", default_value = "weft-system")]
    root_namespace: String,
}

/// Manifests, read and compiled.
pub(crate) struct Manifests {
    /// What they say.
    pub(crate) gathered: Gathered,
    /// Compiled for every workload.
    pub(crate) rules: RuleSet,
    /// Whom the mesh can prove: its members, and nodes.
    pub(crate) provable: BTreeSet<WorkloadId>,
    /// What of them is not used.
    pub(crate) unused: Vec<Unused>,
}

/// A manifest, or a part of one, that is not used.
pub(crate) struct Unused {
    /// The file, and the line of the document where it is known.
    pub(crate) place: String,
    /// `NetworkPolicy shop/p`; empty where it could not even be read as an object.
    pub(crate) object: String,
    /// What is wrong and what follows.
    pub(crate) reason: String,
}

impl Cluster {
    /// Reads every manifest under `folder`.
    ///
    /// # Errors
    /// It cannot be read, or there is no manifest in it.
    pub(crate) fn read(&self, folder: &Path) -> anyhow::Result<Manifests> {
        let files = document::files(folder).with_context(|| format!("no manifests at {}", folder.display()))?;
        let mut gatherer = Gatherer::new(&self.trust_domain, &self.root_namespace);
        let mut unused = Vec::new();
        let overlays = overlays(folder, &mut unused)?;
        let mut count = 0_usize;
        for file in &files {
            for read in document::read(file)? {
                let Document { object, mut value, .. } = match read {
                    Ok(document) => document,
                    Err(error) => {
                        unused.push(broken(&error));
                        continue;
                    }
                };
                count += 1;
                if let Some(overlay) = overlays.get(&(object.namespace.clone(), object.name.clone()))
                    && object.kind == "Pod"
                {
                    lay_over(&mut value, overlay);
                }
                let name = match object.namespace.as_str() {
                    "" => format!("{} {}", object.kind, object.name),
                    namespace => format!("{} {namespace}/{}", object.kind, object.name),
                };
                unused.extend(gatherer.add(&value).into_iter().map(|refusal| Unused {
                    place: file.display().to_string(),
                    object: name.clone(),
                    reason: refusal.to_string(),
                }));
            }
        }
        if let Some(Unused { place, reason, .. }) = unused.first().filter(|_| count == 0) {
            bail!("no manifest in {} can be read: {place}: {reason}", folder.display());
        }
        ensure!(
            count > 0,
            "there is no manifest (*.yaml, *.yml, *.json) in {}: name the folder that has them",
            folder.display()
        );
        let gathered = gatherer.finish();
        let rules = Compiler::default().compile(&gathered.policies, &gathered.world, None);
        let members = gathered.world.workloads.iter().filter(|workload| workload.enrolled).map(Workload::id);
        let nodes = gathered.world.nodes.keys().map(|name| WorkloadId::of_node(name));
        let provable = members.chain(nodes).collect();
        Ok(Manifests { gathered, rules, provable, unused })
    }
}

impl Manifests {
    /// Whether the mesh proves who is at both ends: members, and nodes.
    pub(crate) fn is_proven(&self, source: &End, destination: &End) -> bool {
        let is_known = |end: &End| end.workload.as_ref().is_some_and(|id| self.provable.contains(id));
        is_known(source) && is_known(destination)
    }

    /// The named container ports of a pod.
    pub(crate) fn named_ports(&self, id: &WorkloadId) -> Option<&BTreeSet<NamedPort>> {
        let found = self.gathered.world.workloads.iter().find(|workload| workload.id() == *id);
        found.map(|workload| &workload.ports)
    }
}

fn broken(error: &anyhow::Error) -> Unused {
    let text = format!("{error:#}");
    let (place, reason) = text.split_once(": ").unwrap_or(("", &text));
    Unused { place: place.to_owned(), object: String::new(), reason: reason.to_owned() }
}

/// What scheduler and kubelet said of pods, where the folder is the directory back end's.
fn overlays(folder: &Path, unused: &mut Vec<Unused>) -> anyhow::Result<BTreeMap<(String, String), Value>> {
    let place: PathBuf = folder.join("weft.dev/overlays/pods");
    let mut overlays = BTreeMap::new();
    if !place.is_dir() {
        return Ok(overlays);
    }
    for file in document::files(&place)? {
        for read in document::read(&file)? {
            match read {
                Ok(document) => {
                    overlays.insert((document.object.namespace, document.object.name), document.value);
                }
                Err(error) => unused.push(broken(&error)),
            }
        }
    }
    Ok(overlays)
}
