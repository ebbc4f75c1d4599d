//! Several watches made one: a list that is complete when every kind is, and then only what really changed. Pure.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::hash::{BuildHasher as _, Hasher};

use plan::ObjectKey;

use super::super::{Counted, Event, Judgement, Manifest, Refusal};
use super::cache::Cached;

/// Objects whose refusals are remembered.
const REFUSALS_MAX: usize = 1_000;
/// Objects of a kind that are remembered as gone until the next list: what a watch says again comes soon after.
const GONE_MAX: usize = 1_000;

/// What one kind's watch says.
pub(super) enum Heard {
    /// A list of this kind begins.
    Init,
    /// An object as it is, or why it cannot be used.
    Apply { key: ObjectKey, version: u64, listed: bool, manifest: Result<Box<Manifest>, String>, told: Box<Told> },
    /// An object is gone, since that version.
    Delete { key: ObjectKey, version: u64 },
    /// The list of this kind is complete.
    InitDone,
    /// The watch does not get through; what is known stays.
    Fault(String),
    /// The watch gets through again, and there is nothing new.
    Stands,
}

/// What is to be told of an object that is used.
#[derive(Default)]
pub(super) struct Told {
    /// Parts of it that are not.
    pub(super) parts: Vec<String>,
    /// What its status is to say, where that says something else.
    pub(super) judgement: Option<Judgement>,
    /// What its status says of its workloads.
    pub(super) counted: Option<Counted>,
    /// Its line in the file of the last known view.
    pub(super) line: Option<String>,
}

/// What is known of an object: a fingerprint, so that memory does not grow with what objects hold.
struct Print {
    hash: u64,
    version: u64,
}

/// What is known of one kind.
#[derive(Default)]
struct Known {
    objects: BTreeMap<ObjectKey, Print>,
    /// The version of an object's end.
    gone: BTreeMap<ObjectKey, u64>,
    listed: bool,
    /// It was listed by the server, and not by a file of ours.
    live: bool,
    seen: BTreeSet<ObjectKey>,
    /// Changes that a list has brought, until it is complete; one that breaks off hands them to the next.
    held_back: BTreeMap<ObjectKey, Manifest>,
    refused: BTreeMap<ObjectKey, Vec<String>>,
    fault: Option<String>,
}

impl Known {
    /// Remembers that an object is gone; of too many, the one that went first is forgotten.
    fn note_gone(&mut self, key: ObjectKey, version: u64) {
        self.gone.insert(key, version);
        if self.gone.len() > GONE_MAX {
            let first = self.gone.iter().min_by_key(|(_, version)| **version).map(|(key, _)| key.clone());
            first.map(|first| self.gone.remove(&first));
        }
    }
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

    /// Whether a watch says something that is older than what is known of the object: it must not undo that. A list is
    /// what it is, also of a server that was set back.
    pub(super) fn is_stale(&self, kind: usize, heard: &Heard) -> bool {
        let (key, version) = match heard {
            Heard::Apply { key, version, listed: false, .. } | Heard::Delete { key, version } => (key, *version),
            Heard::Init | Heard::Apply { .. } | Heard::InitDone | Heard::Fault(_) | Heard::Stands => return false,
        };
        let Some((_, known)) = self.kinds.get(kind) else { return false };
        let held = known.objects.get(key).map(|print| print.version).or_else(|| known.gone.get(key).copied());
        held.is_some_and(|held| version < held)
    }

    /// Takes in what the watch of one kind says, unless it is stale; what follows from it comes back in order.
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
        // a list that begins may end like the one before
        if !matches!(heard, Heard::Init) {
            known.fault = None;
        }
        match heard {
            Heard::Init => known.seen.clear(),
            Heard::Apply { key, version, listed, manifest, told } => {
                if listed {
                    known.seen.insert(key.clone());
                }
                let Told { parts, judgement, counted, line: _ } = *told;
                // an Event is about what is new; what a status says was compared with that status
                let said = if let Err(reason) = &manifest { std::slice::from_ref(reason) } else { &parts };
                let is_said = known.refused.get(&key).is_some_and(|before| before == said);
                let judgement = judgement.filter(|judgement| judgement.referent.is_none() || !is_said);
                out.extend(judgement.map(Event::Judged));
                let manifest = manifest.map(|manifest| (manifest, parts));
                self.take(kind, key, (listed, version), manifest, &mut out);
                // of an object that was never usable nothing is counted, nor is its end told
                let is_known =
                    |it: &Counted| self.kinds.get(kind).is_some_and(|(_, of)| of.objects.contains_key(&it.key));
                out.extend(counted.filter(is_known).map(Event::Counted));
            }
            Heard::Delete { key, version } => {
                known.refused.remove(&key);
                known.note_gone(key.clone(), version);
                if known.objects.remove(&key).is_some() {
                    out.push(Event::Delete(key));
                }
            }
            Heard::InitDone => self.end_list(kind, &mut out),
            Heard::Fault(_) | Heard::Stands => {}
        }
        out
    }

    fn take(
        &mut self,
        kind: usize,
        key: ObjectKey,
        (listed, version): (bool, u64),
        manifest: Result<(Box<Manifest>, Vec<String>), String>,
        out: &mut Vec<Event>,
    ) {
        let manifest = manifest.map(|(manifest, parts)| (self.print(&manifest), *manifest, parts));
        let Some((_, known)) = self.kinds.get_mut(kind) else { return };
        known.refused.remove(&key);
        known.gone.remove(&key);
        let has_room = known.refused.len() < REFUSALS_MAX;
        let (hash, manifest) = match manifest {
            Ok((hash, manifest, parts)) => {
                if has_room && !parts.is_empty() {
                    known.refused.insert(key.clone(), parts);
                }
                (hash, manifest)
            }
            Err(reason) => {
                // the last good one stays
                if let Some(print) = known.objects.get_mut(&key) {
                    print.version = version;
                }
                if has_room {
                    known.refused.insert(key, vec![reason]);
                }
                return;
            }
        };
        let before = known.objects.insert(key.clone(), Print { hash, version });
        if before.is_some_and(|before| before.hash == hash) {
            return;
        }
        if listed && known.listed {
            known.held_back.insert(key, manifest);
        } else {
            out.push(Event::Apply(manifest));
        }
    }

    /// A list is complete: what was not in it is gone. Slices of a later list come in the order of their revisions, so
    /// that whoever has taken one in has taken in all before it.
    fn end_list(&mut self, kind: usize, out: &mut Vec<Event>) {
        if let Some((_, known)) = self.kinds.get_mut(kind) {
            (known.listed, known.live) = (true, true);
            let seen = std::mem::take(&mut known.seen);
            let changed = std::mem::take(&mut known.held_back).into_iter();
            let mut changed: Vec<_> = changed.filter(|(key, _)| seen.contains(key)).map(|(_, new)| new).collect();
            changed.sort_by_key(|manifest| match manifest {
                Manifest::MeshEndpointSlice(slice) => slice.spec.revision,
                Manifest::MeshNode(_) | Manifest::MeshTrust(_) | Manifest::Plain(_) => 0,
            });
            out.extend(changed.into_iter().map(Event::Apply));
            known.gone.clear();
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

    /// Takes the last known view for the lists that the server has not given yet; what it gives later comes as changes.
    pub(super) fn prime(&mut self, cached: Vec<Cached>) -> Vec<Event> {
        let mut out = Vec::new();
        if self.complete {
            return out;
        }
        if !std::mem::replace(&mut self.begun, true) {
            out.push(Event::Init);
        }
        for Cached { kind, key, manifest, .. } in cached {
            let hash = self.print(&manifest);
            let Some((_, known)) = self.kinds.get_mut(kind) else { continue };
            if !known.listed && !known.objects.contains_key(&key) {
                // how old it is nobody knows
                known.objects.insert(key, Print { hash, version: 0 });
                out.push(Event::Apply(manifest));
            }
        }
        for (_, known) in &mut self.kinds {
            known.listed = true;
        }
        self.complete = true;
        out.push(Event::InitDone);
        out
    }

    /// Whether every kind was listed, by whomever.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether every kind was listed by the server, and every watch gets through.
    pub(super) fn is_current(&self) -> bool {
        self.kinds.iter().all(|(_, known)| known.live && known.fault.is_none())
    }

    /// Whether a watch does not get through.
    pub(super) fn has_fault(&self) -> bool {
        self.kinds.iter().any(|(_, known)| known.fault.is_some())
    }

    /// Everything that cannot be used, and every watch that does not get through.
    pub(super) fn refusals(&self) -> Vec<Refusal> {
        let slash = |key: &ObjectKey| if key.namespace.is_empty() { "" } else { "/" };
        let refused = self.kinds.iter().flat_map(|(_, known)| &known.refused);
        let objects = refused.flat_map(|(key, reasons)| {
            let file = format!("{} {}{}{}", key.kind, key.namespace, slash(key), key.name);
            reasons.iter().map(move |reason| Refusal { file: file.clone(), line: 0, reason: reason.clone() })
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
