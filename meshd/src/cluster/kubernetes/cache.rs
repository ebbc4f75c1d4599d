//! The last known view on disk: what a node daemon starts from when it is restarted while the API server is away.
//!
//! ```text
//! STATE/view     a checked state file (kind view, owned by the node's UID) whose body is lines:
//!                {"written": <seconds since 1970>}
//!                {"group": …, "kind": …, "object": {…}}      one a line, only the fields that Weft reads
//! ```
//!
//! It is believed whole or not at all: not when it is too old, not when its certificates do not go back to the root that
//! this node has pinned. Bindings and slices in it are verified as those from the server are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use identity::{Fingerprint, TrustBundle, UnixTime};
use plan::ObjectKey;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::api::MeshTrust;
use super::super::{Manifest, convert};
use super::object::{KindName, Raw, WATCHED};
use crate::store::{Kind, read_checked, write_checked};

const VIEW: Kind = Kind { name: "view", version: 1, remedy: "the next list of the API server takes its place" };
/// A view over this age is not started from: keys of that time have ended, and so may have what they were allowed to.
const AGE_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Objects in one file; a cluster with more is not kept, and a restart waits for its server.
const OBJECTS_MAX: usize = 100_000;

/// Where a node keeps its last known view, and by what it is believed.
#[derive(Clone, Debug)]
pub(crate) struct ViewFile {
    path: PathBuf,
    owner: String,
    pinned: Option<Fingerprint>,
}

/// An object out of the file, with the number of its kind's watch.
#[derive(Clone, Debug)]
pub(super) struct Cached {
    pub(super) kind: usize,
    pub(super) key: ObjectKey,
    pub(super) manifest: Manifest,
    /// As it stands in the file.
    pub(super) line: String,
}

/// What is to be in the file: the text of each object that is used.
#[derive(Default)]
pub(super) struct Kept {
    objects: BTreeMap<ObjectKey, String>,
}

impl Kept {
    pub(super) fn insert(&mut self, key: ObjectKey, line: String) {
        self.objects.insert(key, line);
    }

    /// The same, where nothing newer is known.
    pub(super) fn insert_old(&mut self, key: ObjectKey, line: &str) {
        self.objects.entry(key).or_insert_with(|| line.to_owned());
    }

    pub(super) fn remove(&mut self, key: &ObjectKey) {
        self.objects.remove(key);
    }

    fn count(&self) -> usize {
        self.objects.len()
    }

    fn body(&self, now: UnixTime) -> String {
        let mut body = json!({"written": now.0}).to_string();
        for line in self.objects.values() {
            body.push('\n');
            body.push_str(line);
        }
        body
    }
}

/// One object as its line in the file: only what Weft reads of it.
pub(super) fn line(kind: &KindName, manifest: &Value) -> String {
    json!({"group": kind.group, "kind": kind.kind, "object": trimmed(kind, manifest)}).to_string()
}

/// Only the fields that [`convert`] reads, where whole objects are much larger.
fn trimmed(kind: &KindName, manifest: &Value) -> Value {
    let at = |pointer: &str| manifest.pointer(pointer).cloned().unwrap_or(Value::Null);
    let metadata = at("/metadata");
    match kind.kind {
        "Namespace" => json!({"metadata": metadata}),
        "Node" => {
            let spec = json!({"podCIDR": at("/spec/podCIDR"), "podCIDRs": at("/spec/podCIDRs")});
            json!({"metadata": metadata, "spec": spec, "status": {"addresses": at("/status/addresses")}})
        }
        "Pod" => {
            let container = |container: &Value| {
                let ports = container.get("ports")?;
                Some(json!({"ports": ports, "restartPolicy": container.get("restartPolicy")}))
            };
            let containers = |pointer: &str| -> Vec<Value> {
                let list = manifest.pointer(pointer).and_then(Value::as_array);
                list.into_iter().flatten().filter_map(container).collect()
            };
            let spec = json!({
                "nodeName": at("/spec/nodeName"),
                "serviceAccountName": at("/spec/serviceAccountName"),
                "hostNetwork": manifest.pointer("/spec/hostNetwork").and_then(Value::as_bool).unwrap_or(false),
                "containers": containers("/spec/containers"),
                "initContainers": containers("/spec/initContainers"),
            });
            let status =
                json!({"phase": at("/status/phase"), "podIP": at("/status/podIP"), "podIPs": at("/status/podIPs")});
            json!({"metadata": metadata, "spec": spec, "status": status})
        }
        "MeshNode" => without_svids(manifest, "/status/bindings"),
        "MeshEndpointSlice" => without_svids(manifest, "/spec/bindings"),
        _ => manifest.clone(),
    }
}

/// Nobody verifies by SVIDs, and they are most of the object.
fn without_svids(manifest: &Value, bindings: &str) -> Value {
    let mut whole = manifest.clone();
    for binding in whole.pointer_mut(bindings).and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(svid) = binding.get_mut("svid") {
            *svid = json!("");
        }
    }
    whole
}

#[derive(Deserialize)]
struct Written {
    written: u64,
}

#[derive(Deserialize)]
struct Line {
    group: String,
    kind: String,
    object: Value,
}

impl ViewFile {
    /// The file of a node's state folder; `pinned` is the root that the node has believed so far.
    pub(crate) fn new(state_dir: &Path, owner: &str, pinned: Option<Fingerprint>) -> Self {
        Self { path: state_dir.join("view"), owner: owner.to_owned(), pinned }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes what is kept, on a thread that may wait for the disk.
    ///
    /// # Errors
    /// It is too much for one file, or the file cannot be written.
    pub(super) async fn write(&self, kept: &Kept, now: UnixTime) -> anyhow::Result<()> {
        let count = kept.count();
        ensure!(count <= OBJECTS_MAX, "{count} objects are too many to be kept: a restart waits for the API server");
        let (file, body) = (self.clone(), kept.body(now));
        let write = move || write_checked(&file.path, VIEW, &file.owner, body.as_bytes());
        Ok(tokio::task::spawn_blocking(write).await??)
    }

    /// Reads what was kept, and how old it is; `None` where nothing was.
    ///
    /// # Errors
    /// Anything about it that cannot be believed: who wrote it, its age, its certificates, any of its lines.
    pub(super) fn read(&self, now: UnixTime) -> anyhow::Result<Option<(Vec<Cached>, Duration)>> {
        let Some(body) = read_checked(&self.path, VIEW, &self.owner)? else { return Ok(None) };
        let text = std::str::from_utf8(&body).context("it is no text")?;
        let mut lines = text.lines();
        let first: Written = serde_json::from_str(lines.next().unwrap_or_default()).context("its first line")?;
        // an age from the future is a clock that was set back: nobody knows how old it is
        let age = now.0.checked_sub(first.written).map(Duration::from_secs);
        let age = age.filter(|age| *age <= AGE_MAX);
        let age = age.context("it is over a day old, or this node's clock was set back")?;
        let cached =
            lines.enumerate().map(|(number, line)| cached(line).with_context(|| format!("line {}", number + 2)));
        let cached = cached.collect::<anyhow::Result<Vec<_>>>()?;
        ensure!(cached.len() <= OBJECTS_MAX, "it holds more than {OBJECTS_MAX} objects");
        self.verify(&cached, now)?;
        Ok(Some((cached, age)))
    }

    /// Its certificates must go back to the root that this node has pinned.
    fn verify(&self, cached: &[Cached], now: UnixTime) -> anyhow::Result<()> {
        let pinned = self.pinned.context("this node has pinned no root yet")?;
        let trusts = cached.iter().filter_map(|cached| match &cached.manifest {
            Manifest::MeshTrust(trust) => Some(trust),
            Manifest::MeshNode(_) | Manifest::MeshEndpointSlice(_) | Manifest::Plain(_) => None,
        });
        let mut count = 0;
        for MeshTrust { spec, .. } in trusts {
            let bundle = TrustBundle::from_pem(spec.trust_domain.parse()?, &spec.root, &spec.intermediate)?;
            bundle.verify(pinned, now)?;
            count += 1;
        }
        ensure!(count > 0, "it holds no certificates");
        Ok(())
    }
}

/// One line as an object.
pub(super) fn cached(text: &str) -> anyhow::Result<Cached> {
    let line: Line = serde_json::from_str(text)?;
    let named = WATCHED.iter().enumerate().find(|(_, kind)| kind.group == line.group && kind.kind == line.kind);
    let (kind, name) = named.with_context(|| format!("kind {}.{} is not known", line.kind, line.group))?;
    let object: Raw = serde_json::from_value(line.object)?;
    let key = name.key(&object).context("it has no name")?;
    match convert::manifest(&key, &object.into_manifest(), 0) {
        Ok(converted) => Ok(Cached { kind, key, manifest: converted.manifest, line: text.to_owned() }),
        Err(reason) => bail!(reason),
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
