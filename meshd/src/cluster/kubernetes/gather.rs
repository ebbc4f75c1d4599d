//! Several watches made one: a list that is complete when every kind is, and then only what really changed. Pure.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::hash::{BuildHasher as _, Hasher};

use plan::ObjectKey;

use super::super::{Event, Manifest, Refusal};

/// Refusals that are remembered; more are counted by the one that says so.
const REFUSALS_MAX: usize = 1_000;

/// What one kind's watch says.
pub(super) enum Heard {
    /// A list of this kind begins.
    Init,
    /// An object as it is, or why it cannot be used.
    Apply { key: ObjectKey, listed: bool, manifest: Result<Box<Manifest>, String> },
    /// An object is gone.
    Delete(ObjectKey),
    /// The list of this kind is complete.
    InitDone,
    /// The watch does not get through; what is known stays.
    Fault(String),
}

/// What is known of one kind: a fingerprint of each object, so that memory does not grow with what objects hold.
#[derive(Default)]
struct Known {
    objects: BTreeMap<ObjectKey, u64>,
    listed: bool,
    seen: BTreeSet<ObjectKey>,
    held_back: Vec<Manifest>,
    refused: BTreeMap<ObjectKey, String>,
    fault: Option<String>,
}

/// The state of all watches.
pub(super) struct Gather {
    kinds: Vec<(String, Known)>,
    fingerprint: RandomState,
    begun: bool,
    complete: bool,
}

impl Gather {
    /// Waits for the lists of all these kinds.
    pub(super) fn new(kinds: impl IntoIterator<Item = String>) -> Self {
        let kinds = kinds.into_iter().map(|title| (title, Known::default())).collect();
        Self { kinds, fingerprint: RandomState::new(), begun: false, complete: false }
    }

    /// Takes in what the watch of one kind says; what follows from it comes back in order.
    pub(super) fn handle(&mut self, kind: usize, heard: Heard) -> Vec<Event> {
        let mut out = Vec::new();
        if !std::mem::replace(&mut self.begun, true) {
            out.push(Event::Init);
        }
        let Some((_, known)) = self.kinds.get_mut(kind) else { return out };
        if let Heard::Fault(reason) = heard {
            known.fault = Some(reason);
            return out;
        }
        known.fault = None;
        match heard {
            Heard::Init => {
                known.seen.clear();
                known.held_back.clear();
            }
            Heard::Apply { key, listed, manifest } => {
                if listed {
                    known.seen.insert(key.clone());
                }
                self.take(kind, key, listed, manifest, &mut out);
            }
            Heard::Delete(key) => {
                known.refused.remove(&key);
                if known.objects.remove(&key).is_some() {
                    out.push(Event::Delete(key));
                }
            }
            Heard::InitDone => self.end_list(kind, &mut out),
            Heard::Fault(_) => {}
        }
        out
    }

    fn take(
        &mut self,
        kind: usize,
        key: ObjectKey,
        listed: bool,
        manifest: Result<Box<Manifest>, String>,
        out: &mut Vec<Event>,
    ) {
        let manifest = manifest.map(|manifest| (self.print(&manifest), *manifest));
        let Some((_, known)) = self.kinds.get_mut(kind) else { return };
        let (print, manifest) = match manifest {
            Ok(manifest) => manifest,
            Err(reason) => {
                // the last good one stays
                if known.refused.len() < REFUSALS_MAX {
                    known.refused.insert(key, reason);
                }
                return;
            }
        };
        known.refused.remove(&key);
        if known.objects.insert(key, print) == Some(print) {
            return;
        }
        if listed && known.listed {
            known.held_back.push(manifest);
        } else {
            out.push(Event::Apply(manifest));
        }
    }

    /// A list is complete: what was not in it is gone. Slices of a later list come in the order of their revisions, so
    /// that whoever has taken one in has taken in all before it.
    fn end_list(&mut self, kind: usize, out: &mut Vec<Event>) {
        if let Some((_, known)) = self.kinds.get_mut(kind) {
            known.listed = true;
            let mut changed = std::mem::take(&mut known.held_back);
            changed.sort_by_key(|manifest| match manifest {
                Manifest::MeshEndpointSlice(slice) => slice.spec.revision,
                Manifest::MeshNode(_) | Manifest::MeshTrust(_) | Manifest::Plain(_) => 0,
            });
            out.extend(changed.into_iter().map(Event::Apply));
            let seen = std::mem::take(&mut known.seen);
            let gone: Vec<_> = known.objects.keys().filter(|key| !seen.contains(*key)).cloned().collect();
            known.refused.retain(|key, _| seen.contains(key));
            for key in gone {
                known.objects.remove(&key);
                out.push(Event::Delete(key));
            }
        }
        if !self.complete && self.kinds.iter().all(|(_, known)| known.listed) {
            self.complete = true;
            out.push(Event::InitDone);
        }
    }

    /// Everything that cannot be used, and every watch that does not get through.
    pub(super) fn refusals(&self) -> Vec<Refusal> {
        let slash = |key: &ObjectKey| if key.namespace.is_empty() { "" } else { "/" };
        let refused = self.kinds.iter().flat_map(|(_, known)| &known.refused);
        let objects = refused.map(|(key, reason)| {
            let file = format!("{} {}{}{}", key.kind, key.namespace, slash(key), key.name);
            Refusal { file, line: 0, reason: reason.clone() }
        });
        let faults = self.kinds.iter().filter_map(|(title, known)| {
            let reason = known.fault.clone()?;
            Some(Refusal { file: format!("watch of {title}"), line: 0, reason })
        });
        faults.chain(objects).collect()
    }

    fn print(&self, manifest: &Manifest) -> u64 {
        let mut sink = Sink(self.fingerprint.build_hasher());
        // hashing cannot fail
        let _written = write!(sink, "{manifest:?}");
        sink.0.finish()
    }
}

/// Text that is hashed while it is written.
struct Sink<H>(H);

impl<H: Hasher> std::fmt::Write for Sink<H> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
#[path = "gather_tests.rs"]
mod tests;
