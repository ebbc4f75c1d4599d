//! The objects of a folder: files in, events out; what becomes unreadable stays as it last was. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use plan::ObjectKey;
use serde_json::Value;

use super::convert::{self, Manifest};
use super::parse::{self, Refusal};

/// Objects over this are refused and counted.
const OBJECTS_MAX: usize = 20_000;

/// A change of the collection.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    Apply(Manifest),
    Delete(ObjectKey),
}

/// One document as last read well.
#[derive(Clone, Debug, PartialEq)]
struct Held {
    line: usize,
    value: Value,
}

/// What one file holds.
#[derive(Clone, Debug, Default)]
struct FileState {
    changed: u64,
    documents: BTreeMap<ObjectKey, Held>,
    refusals: Vec<Refusal>,
}

/// All files of a folder and the objects that they make together.
#[derive(Debug, Default)]
pub(super) struct Collection {
    files: BTreeMap<PathBuf, FileState>,
    objects: BTreeMap<ObjectKey, Manifest>,
    /// Refusals that only show when files are put together.
    conflicts: Vec<Refusal>,
}

/// Which part of an object a file speaks for: programs write parts of objects beside the manifests of people.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Whole,
    Overlay,
}

fn part_of(path: &Path) -> Part {
    let text = path.to_string_lossy();
    if text.contains("weft.dev/overlays/") || text.ends_with(".status.yaml") { Part::Overlay } else { Part::Whole }
}

impl Collection {
    /// A file is there with this text; `changed` in seconds since 1970.
    pub(super) fn handle_file(&mut self, path: &Path, text: &str, changed: u64) {
        let before = self.files.remove(path).unwrap_or_default();
        let mut state = FileState { changed, ..FileState::default() };
        let file = path.display().to_string();
        let mut nameless = false;
        for document in parse::documents(text) {
            match document {
                Ok(document) => {
                    let Some(key) = convert::key(&document.name) else { continue };
                    if state.documents.contains_key(&key) {
                        let reason = format!("{} {} stands in this file already", key.kind, key.name);
                        state.refusals.push(Refusal { file: file.clone(), line: document.line, reason });
                        continue;
                    }
                    state.documents.insert(key, Held { line: document.line, value: document.value });
                }
                Err((line, reason)) => {
                    nameless = true;
                    state.refusals.push(Refusal { file: file.clone(), line, reason });
                }
            }
        }
        if nameless {
            // nobody can tell which object the unreadable text was: what is missing now stays as it was
            for (key, held) in before.documents {
                state.documents.entry(key).or_insert(held);
            }
        }
        self.files.insert(path.to_path_buf(), state);
    }

    /// A file cannot be read: its objects stay.
    pub(super) fn handle_unreadable(&mut self, path: &Path, reason: String) {
        let state = self.files.entry(path.to_path_buf()).or_default();
        state.refusals = vec![Refusal { file: path.display().to_string(), line: 0, reason }];
    }

    /// A file is gone, and with it its objects.
    pub(super) fn handle_gone(&mut self, path: &Path) {
        self.files.remove(path);
    }

    /// The files that are known.
    pub(super) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.keys()
    }

    /// Puts the files together and returns what changed since the last time.
    pub(super) fn poll_changes(&mut self) -> Vec<Change> {
        self.conflicts.clear();
        let mut fresh = BTreeMap::new();
        for (key, (value, changed, at)) in self.merged() {
            match convert::manifest(&key, &value, changed) {
                Ok(manifest) => drop(fresh.insert(key, manifest)),
                Err(reason) => {
                    self.conflicts.push(Refusal { reason, ..at });
                    // the last good one stays
                    if let Some(held) = self.objects.get(&key) {
                        fresh.insert(key, held.clone());
                    }
                }
            }
        }
        let mut changes = Vec::new();
        for (key, manifest) in &fresh {
            if self.objects.get(key) != Some(manifest) {
                changes.push(Change::Apply(manifest.clone()));
            }
        }
        let gone = self.objects.keys().filter(|key| !fresh.contains_key(*key));
        changes.extend(gone.cloned().map(Change::Delete));
        self.objects = fresh;
        changes
    }

    /// Every object as it is now.
    #[cfg(test)]
    fn objects(&self) -> impl Iterator<Item = &Manifest> {
        self.objects.values()
    }

    /// Everything that could not be used, in order.
    pub(super) fn refusals(&self) -> Vec<Refusal> {
        let all = self.files.values().flat_map(|file| &file.refusals).chain(&self.conflicts);
        all.cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn merged(&mut self) -> BTreeMap<ObjectKey, (Value, u64, Refusal)> {
        let mut wholes: BTreeMap<ObjectKey, (Value, u64, Refusal)> = BTreeMap::new();
        let mut overlays = Vec::new();
        for (path, state) in &self.files {
            for (key, held) in &state.documents {
                let at = Refusal { file: path.display().to_string(), line: held.line, reason: String::new() };
                if part_of(path) == Part::Overlay {
                    overlays.push((key.clone(), held.value.clone()));
                } else if let Some((_, _, first)) = wholes.get(key) {
                    let reason = format!("{} {} is taken from {}:{}", key.kind, key.name, first.file, first.line);
                    self.conflicts.push(Refusal { reason, ..at });
                } else if wholes.len() >= OBJECTS_MAX {
                    let reason = format!("over the limit of {OBJECTS_MAX} objects");
                    self.conflicts.push(Refusal { reason, ..at });
                } else {
                    wholes.insert(key.clone(), (held.value.clone(), state.changed, at));
                }
            }
        }
        for (key, overlay) in overlays {
            if let Some((value, _, _)) = wholes.get_mut(&key) {
                lay_over(value, &overlay);
            }
        }
        wholes
    }
}

/// Merges maps key by key; anything else is replaced.
fn lay_over(base: &mut Value, overlay: &Value) {
    match (base, overlay) {
        (Value::Object(base), Value::Object(overlay)) => {
            for (key, value) in overlay {
                lay_over(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, overlay) => *base = overlay.clone(),
    }
}

#[cfg(test)]
mod tests;
