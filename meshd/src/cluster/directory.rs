//! The directory back end: a watched folder of manifests, and our own objects written into it.
//!
//! ```text
//! *.yaml *.yml *.json                     what people write, in any folders
//! weft.dev/meshnodes/<node>.yaml          a node's report, by that node
//! weft.dev/meshnodes/<node>.status.yaml   the controller's answer
//! weft.dev/meshendpointslices/<node>.yaml by the controller
//! weft.dev/trust.yaml                     by the controller
//! weft.dev/overlays/pods/<ns>.<name>.yaml uid, nodeName and status of a pod, by whoever schedules and runs pods
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use notify::{RecursiveMode, Watcher as _};
use plan::ObjectKey;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::api;
use super::collection::{Change, Collection};
use super::parse::{FILE_BYTES_MAX, Refusal};
use super::{Event, Judgement, Publish, Refusals, Source};
use crate::store::{atomic_write, remove_durably};

/// Events that wait for the consumer; beyond it the watcher waits.
const EVENTS_MAX: usize = 1_024;
/// Changes within this time are taken together: a copied folder is one change and not a hundred.
const DEBOUNCE: Duration = Duration::from_millis(5);
/// How often the folder is walked although nothing was heard: what a watch misses is found then.
const RESCAN: Duration = Duration::from_secs(2);
/// Folders deeper than this are not walked.
const DEPTH_MAX: usize = 16;

/// What tells one state of a file from another.
type Stamp = (u64, i64, i64, u64);

/// Watches a folder; the watcher ends when the events' receiver is dropped.
///
/// # Errors
/// The folder is not there or cannot be read or watched; the message says what to do.
pub(crate) fn watch(root: &Path) -> anyhow::Result<Source> {
    fs::read_dir(root).with_context(|| {
        format!("cannot read the manifest folder {}: make it, or name another with --directory", root.display())
    })?;
    let (poke, poked) = mpsc::channel(1);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // that somebody reads is no news: all programs of the mesh read this folder, and would wake each other for ever
        if !event.is_ok_and(|event| event.kind.is_access()) {
            // full means that a look is due anyway
            let _due = poke.try_send(());
        }
    })
    .context("cannot watch files (inotify): raise fs.inotify.max_user_instances")?;
    watcher
        .watch(root, RecursiveMode::Recursive)
        .with_context(|| format!("cannot watch {}: raise fs.inotify.max_user_watches", root.display()))?;
    let (send, events) = mpsc::channel(EVENTS_MAX);
    let refusals = Refusals::default();
    let folder = Folder { root: root.to_path_buf(), stamps: BTreeMap::new(), collection: Collection::default() };
    tokio::spawn(follow(folder, watcher, poked, send, refusals.clone()));
    Ok(Source { events, refusals })
}

struct Folder {
    root: PathBuf,
    stamps: BTreeMap<Arc<Path>, Stamp>,
    collection: Collection,
}

async fn follow(
    mut folder: Folder,
    mut watcher: notify::RecommendedWatcher,
    mut poked: mpsc::Receiver<()>,
    events: mpsc::Sender<Event>,
    refusals: Refusals,
) {
    let mut first = true;
    loop {
        let lost = folder.look();
        let changes = folder.collection.poll_changes();
        let mut refused = folder.collection.refusals();
        refused.extend(lost.clone());
        refusals.replace(refused);
        let begin = first.then_some(Event::Init);
        let end = first.then_some(Event::InitDone);
        first = false;
        for event in begin.into_iter().chain(changes.into_iter().map(Event::from)).chain(end) {
            if events.send(event).await.is_err() {
                return;
            }
        }
        tokio::select! {
            heard = poked.recv() => if heard.is_none() { return },
            () = tokio::time::sleep(RESCAN) => {
                // a folder that went and came back is another inode: watch that one
                if lost.is_some() {
                    let _again = watcher.watch(&folder.root, RecursiveMode::Recursive);
                }
            }
            () = events.closed() => return,
        }
        tokio::time::sleep(DEBOUNCE).await;
        let _taken_together = poked.try_recv();
    }
}

impl From<Change> for Event {
    fn from(change: Change) -> Self {
        match change {
            Change::Apply(manifest) => Self::Apply(manifest),
            Change::Delete(key) => Self::Delete(key),
        }
    }
}

impl Folder {
    /// Reads what changed. A folder that is gone or unreadable changes nothing; why is returned.
    fn look(&mut self) -> Option<Refusal> {
        let mut found = BTreeMap::new();
        if let Err(error) = walk(&self.root, 0, &mut found) {
            let reason = format!("the manifest folder cannot be read, the last state stays: {error}");
            return Some(Refusal { file: self.root.display().to_string(), line: 0, reason });
        }
        for (path, stamp) in &found {
            if self.stamps.get(path) != Some(stamp) {
                self.read(path, *stamp);
            }
        }
        let gone: Vec<_> = self.collection.paths().filter(|path| !found.contains_key(*path)).cloned().collect();
        for path in gone {
            self.collection.handle_gone(&path);
        }
        self.stamps = found;
        None
    }

    fn read(&mut self, path: &Path, (size, seconds, _, _): Stamp) {
        if size > FILE_BYTES_MAX {
            let reason = format!("{size} bytes are over the limit of {FILE_BYTES_MAX} for one file");
            return self.collection.handle_unreadable(path, reason);
        }
        match fs::read_to_string(path) {
            Ok(text) => self.collection.handle_file(path, &text, u64::try_from(seconds).unwrap_or(0)),
            Err(error) => self.collection.handle_unreadable(path, format!("it cannot be read: {error}")),
        }
    }
}

fn walk(folder: &Path, depth: usize, found: &mut BTreeMap<Arc<Path>, Stamp>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        // a file may go between listing and looking: then it is gone, and that is all
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() && depth < DEPTH_MAX {
            match walk(&path, depth + 1, found) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        } else if metadata.is_file() && path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") {
            found.insert(path.into(), (metadata.len(), metadata.mtime(), metadata.mtime_nsec(), metadata.ino()));
        }
    }
    Ok(())
}

/// Writes our objects into the folder.
pub(crate) struct Publisher {
    root: PathBuf,
}

impl Publisher {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.join("weft.dev") }
    }

    fn put(&self, file: &str, kind: &str, object: &Value) -> anyhow::Result<()> {
        let path = self.root.join(file);
        let mut manifest = json!({"apiVersion": api::API_VERSION, "kind": kind});
        if let (Value::Object(manifest), Value::Object(object)) = (&mut manifest, object) {
            manifest.extend(object.clone());
        }
        let text = serde_saphyr::to_string(&manifest).context("cannot write YAML")?;
        if fs::read_to_string(&path).is_ok_and(|held| held == text) {
            return Ok(());
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        atomic_write(&path, text.as_bytes(), 0o644).with_context(|| format!("cannot publish {kind}"))?;
        Ok(())
    }
}

fn parts(metadata: &api::Metadata, name: &str, part: impl Serialize) -> anyhow::Result<Value> {
    Ok(json!({"metadata": serde_json::to_value(metadata)?, name: serde_json::to_value(part)?}))
}

impl Publish for Publisher {
    /// A folder has no garbage collector: the UID is of no use there.
    fn put_node_spec(&self, (name, _): (&str, &str), spec: &api::MeshNodeSpec) -> anyhow::Result<()> {
        let metadata = api::Metadata { name: name.to_owned(), ..api::Metadata::default() };
        self.put(&format!("meshnodes/{name}.yaml"), "MeshNode", &parts(&metadata, "spec", spec)?)
    }

    fn put_node_status(&self, name: &str, status: &api::MeshNodeStatus) -> anyhow::Result<()> {
        let metadata = api::Metadata { name: name.to_owned(), ..api::Metadata::default() };
        self.put(&format!("meshnodes/{name}.status.yaml"), "MeshNode", &parts(&metadata, "status", status)?)
    }

    fn put_slice(&self, slice: &api::MeshEndpointSlice) -> anyhow::Result<()> {
        let file = format!("meshendpointslices/{}.yaml", slice.metadata.name);
        self.put(&file, "MeshEndpointSlice", &serde_json::to_value(slice)?)
    }

    fn delete_slice(&self, name: &str) -> anyhow::Result<()> {
        remove_durably(&self.root.join(format!("meshendpointslices/{name}.yaml")))?;
        Ok(())
    }

    /// People's files are theirs alone: what is not used of them is told by `meshctl status`.
    fn put_judgement(&self, _judgement: &Judgement) -> anyhow::Result<()> {
        Ok(())
    }

    /// A folder's nodes tell by `meshctl status` which workload is in which mode and phase.
    fn put_enforcement(&self, _key: &ObjectKey, _enforcement: &api::Enforcement) -> anyhow::Result<()> {
        Ok(())
    }

    fn put_trust(&self, trust: &api::MeshTrust) -> anyhow::Result<()> {
        self.put("trust.yaml", "MeshTrust", &serde_json::to_value(trust)?)
    }
}
