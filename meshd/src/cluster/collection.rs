//! The objects of a folder: files in, events out; what becomes unreadable stays as it last was. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use plan::ObjectKey;
use policy::manifest::lay_over;
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
    /// As JSON: a tenth of what the tree of it takes.
    text: Box<str>,
}

impl Held {
    fn value(&self) -> Option<Value> {
        serde_json::from_str(&self.text).ok()
    }
}

/// What one file holds.
#[derive(Clone, Debug, Default)]
struct FileState {
    changed: u64,
    /// In order of their keys. Mostly it is one: a map of it would be ten times as large.
    documents: Box<[(ObjectKey, Held)]>,
    refusals: Vec<Refusal>,
}

impl FileState {
    fn document(&self, key: &ObjectKey) -> Option<&Held> {
        let at = self.documents.binary_search_by(|(of, _)| of.cmp(key)).ok()?;
        self.documents.get(at).map(|(_, held)| held)
    }
}

/// All files of a folder and the objects that they make together.
#[derive(Debug, Default)]
pub(super) struct Collection {
    files: BTreeMap<Arc<Path>, FileState>,
    /// The files that speak of an object, in the order of their names.
    holders: BTreeMap<ObjectKey, Vec<Arc<Path>>>,
    /// Objects that one of their files has touched since they were put together.
    touched: BTreeSet<ObjectKey>,
    /// Objects as they were last told of; boxed, since most kinds are much smaller than the largest.
    objects: BTreeMap<ObjectKey, Box<Manifest>>,
    /// Refusals that only show when files are put together.
    conflicts: BTreeMap<ObjectKey, Vec<Refusal>>,
    /// Objects over the limit: they are looked at again when there is room.
    beyond: BTreeSet<ObjectKey>,
}

/// An object as its files give it.
struct Merged {
    value: Value,
    /// When its file was changed, in seconds since 1970.
    changed: u64,
    at: Refusal,
}

/// Which part of an object a file speaks for: programs write parts of objects beside the manifests of people.
#[derive(Clone, Copy, PartialEq, Eq)]
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
        let before = self.take_away(path);
        let (mut documents, mut refusals) = (BTreeMap::new(), Vec::new());
        let file = path.display().to_string();
        let mut nameless = false;
        for document in parse::documents(text) {
            match document {
                Ok(document) => {
                    let Some(key) = convert::key(&document.name) else { continue };
                    if !convert::is_of_its_group(&key, &document.value) {
                        continue;
                    }
                    if documents.contains_key(&key) {
                        let reason = format!("{} {} stands in this file already", key.kind, key.name);
                        refusals.push(Refusal { file: file.clone(), line: document.line, reason });
                        continue;
                    }
                    documents.insert(key, Held { line: document.line, text: document.value.to_string().into() });
                }
                Err((line, reason)) => {
                    nameless = true;
                    refusals.push(Refusal { file: file.clone(), line, reason });
                }
            }
        }
        if nameless {
            // nobody can tell which object the unreadable text was: what is missing now stays as it was
            for (key, held) in before.documents {
                documents.entry(key).or_insert(held);
            }
        }
        let path: Arc<Path> = path.into();
        for key in documents.keys() {
            let holders = self.holders.entry(key.clone()).or_default();
            if let Err(at) = holders.binary_search(&path) {
                holders.reserve_exact(1);
                holders.insert(at, Arc::clone(&path));
            }
            self.touched.insert(key.clone());
        }
        self.files.insert(path, FileState { changed, documents: documents.into_iter().collect(), refusals });
    }

    /// Forgets what a file held, and returns it.
    fn take_away(&mut self, path: &Path) -> FileState {
        let state = self.files.remove(path).unwrap_or_default();
        for (key, _) in &state.documents {
            if let Some(holders) = self.holders.get_mut(key) {
                holders.retain(|holder| **holder != *path);
                if holders.is_empty() {
                    self.holders.remove(key);
                }
            }
            self.touched.insert(key.clone());
        }
        state
    }

    /// A file cannot be read: its objects stay.
    pub(super) fn handle_unreadable(&mut self, path: &Path, reason: String) {
        let state = self.files.entry(path.into()).or_default();
        state.refusals = vec![Refusal { file: path.display().to_string(), line: 0, reason }];
    }

    /// A file is gone, and with it its objects.
    pub(super) fn handle_gone(&mut self, path: &Path) {
        self.take_away(path);
    }

    /// The files that are known.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Arc<Path>> {
        self.files.keys()
    }

    /// Puts together what was touched, and returns what changed since the last time.
    pub(super) fn poll_changes(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        for key in std::mem::take(&mut self.touched) {
            changes.extend(self.put_together(key));
        }
        while self.objects.len() < OBJECTS_MAX {
            let Some(key) = self.beyond.pop_first() else { break };
            changes.extend(self.put_together(key));
        }
        changes
    }

    fn put_together(&mut self, key: ObjectKey) -> Option<Change> {
        self.conflicts.remove(&key);
        self.beyond.remove(&key);
        let Some(merged) = self.merged(&key) else {
            return self.objects.remove(&key).map(|_| Change::Delete(key));
        };
        if !self.objects.contains_key(&key) && self.objects.len() >= OBJECTS_MAX {
            let reason = format!("over the limit of {OBJECTS_MAX} objects");
            self.conflicts.entry(key.clone()).or_default().push(Refusal { reason, ..merged.at });
            self.beyond.insert(key);
            return None;
        }
        match convert::manifest(&key, &merged.value, merged.changed) {
            Ok(convert::Converted { manifest, unused }) => {
                if !unused.is_empty() {
                    let told = unused.into_iter().map(|reason| Refusal { reason, ..merged.at.clone() });
                    self.conflicts.entry(key.clone()).or_default().extend(told);
                }
                if self.objects.get(&key).is_some_and(|held| **held == manifest) {
                    return None;
                }
                self.objects.insert(key, Box::new(manifest.clone()));
                Some(Change::Apply(manifest))
            }
            Err(reason) => {
                // the last good one stays
                self.conflicts.entry(key).or_default().push(Refusal { reason, ..merged.at });
                None
            }
        }
    }

    /// Every object as it is now.
    #[cfg(test)]
    fn objects(&self) -> impl Iterator<Item = &Manifest> {
        self.objects.values().map(AsRef::as_ref)
    }

    /// Everything that could not be used, in order.
    pub(super) fn refusals(&self) -> Vec<Refusal> {
        let all = self.files.values().flat_map(|file| &file.refusals).chain(self.conflicts.values().flatten());
        all.cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// An object of all its files: the first that has it whole, with what overlays add to it.
    fn merged(&mut self, key: &ObjectKey) -> Option<Merged> {
        let mut whole: Option<Merged> = None;
        let mut overlays = Vec::new();
        for path in self.holders.get(key).into_iter().flatten() {
            let Some(state) = self.files.get(path) else { continue };
            let Some(held) = state.document(key) else { continue };
            let at = Refusal { file: path.display().to_string(), line: held.line, reason: String::new() };
            if part_of(path) == Part::Overlay {
                overlays.extend(held.value());
            } else if let Some(Merged { at: first, .. }) = &whole {
                let reason = format!("{} {} is taken from {}:{}", key.kind, key.name, first.file, first.line);
                self.conflicts.entry(key.clone()).or_default().push(Refusal { reason, ..at });
            } else if let Some(value) = held.value() {
                whole = Some(Merged { value, changed: state.changed, at });
            }
        }
        let mut whole = whole?;
        for overlay in overlays {
            lay_over(&mut whole.value, &overlay);
        }
        Some(whole)
    }
}

#[cfg(test)]
mod tests;
