//! How many workloads each PeerAuthentication governs and how many of them are as it says: when its status is told so.
//!
//! A pod that starts or ends changes these numbers, and its start has cost the API server its share of writes already. So they are
//! told late, and many changes at once; soon only where people wait for them, because they wrote the object.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use identity::NodeName;
use plan::view::{EndpointSlice, OBJECTS_MAX};
use plan::{ClusterView, ObjectKey, governed};

use crate::cluster::Counted;
use crate::cluster::api::Enforcement;

/// How long numbers must stand before they are told of an object that was just created or changed: the phases of a change
/// (decision 0008) follow each other within a second. Also how long after a failure a write is tried again.
const SETTLED: Duration = Duration::from_secs(1);
/// How long the status may say other numbers than there are, and so how often they are written at most: a Deployment that
/// rolls is over by then, or costs two writes a minute however large it is.
const LATE: Duration = Duration::from_secs(30);

/// Every PeerAuthentication whose status is ours, with what it says.
#[derive(Default)]
pub(super) struct Enforced {
    objects: BTreeMap<ObjectKey, Known>,
    next: Option<Instant>,
}

struct Known {
    generation: i64,
    /// What the status says, or will as soon as the API server takes what was written.
    said: Option<Enforcement>,
    /// What it should say, and since when.
    wanted: Option<(Enforcement, Instant)>,
    /// Since when it says something else.
    wrong: Option<Instant>,
}

impl Known {
    /// When the status is to be written, where it says something else than the numbers of this moment.
    fn due(&mut self, wanted: Enforcement, now: Instant) -> Option<Instant> {
        if self.said.as_ref() == Some(&wanted) {
            (self.wanted, self.wrong) = (None, None);
            return None;
        }
        let wrong = *self.wrong.get_or_insert(now);
        let is_new = self.said.as_ref().is_none_or(|said| said.observed_generation != wanted.observed_generation);
        let stood = self.wanted.take().filter(|(before, _)| *before == wanted).map_or(now, |(_, since)| since);
        self.wanted = Some((wanted, stood));
        let late = wrong + LATE;
        // numbers that never stand are told all the same
        Some(if is_new { late.min(stood + SETTLED) } else { late })
    }
}

impl Enforced {
    /// Takes in what the status of an object says; true when that is news, so that [`Self::handle_view`] is to be called. What
    /// we wrote ourselves comes back like this, and is none.
    pub(super) fn handle_counted(&mut self, counted: Counted) -> bool {
        let Counted { key, generation, held } = counted;
        if self.objects.len() >= OBJECTS_MAX && !self.objects.contains_key(&key) {
            return false;
        }
        let known = self.objects.entry(key).or_insert(Known { generation, said: None, wanted: None, wrong: None });
        let is_news = known.said.is_none() || (known.generation, &known.said) != (generation, &held);
        (known.generation, known.said) = (generation, held);
        is_news
    }

    /// Forgets an object that is gone.
    pub(super) fn handle_gone(&mut self, key: &ObjectKey) {
        self.objects.remove(key);
    }

    /// Counts, and says which objects' status is to be written now. These are taken for written: [`Self::handle_failure`]
    /// takes that back.
    pub(super) fn handle_view(
        &mut self,
        view: &ClusterView,
        (root_namespace, slices): (&str, &BTreeMap<NodeName, EndpointSlice>),
        now: Instant,
    ) -> Vec<(ObjectKey, Enforcement)> {
        self.next = None;
        if self.objects.is_empty() {
            return Vec::new();
        }
        let counts = governed(view, root_namespace, slices);
        let mut out = Vec::new();
        for (key, known) in &mut self.objects {
            let count = counts.get(&(key.namespace.as_str(), key.name.as_str())).copied();
            let wanted = Enforcement::new(known.generation, count.unwrap_or_default());
            match known.due(wanted.clone(), now) {
                Some(due) if due <= now => {
                    (known.said, known.wanted, known.wrong) = (Some(wanted.clone()), None, None);
                    out.push((key.clone(), wanted));
                }
                due => self.next = self.next.into_iter().chain(due).min(),
            }
        }
        out
    }

    /// A write could not be taken: it is tried again with whatever is right by then.
    pub(super) fn handle_failure(&mut self, key: &ObjectKey, now: Instant) {
        if let Some(known) = self.objects.get_mut(key) {
            (known.said, known.wanted, known.wrong) = (None, None, None);
            self.next = Some(self.next.map_or(now + SETTLED, |next| next.min(now + SETTLED)));
        }
    }

    /// When to call [`Self::handle_view`] again although nothing changed.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }
}

#[cfg(test)]
#[path = "enforced_tests.rs"]
mod tests;
