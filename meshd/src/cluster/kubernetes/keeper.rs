//! Keeps the file of the last known view current, and starts from it when the API server does not answer.
//!
//! A change of who may do what is in the file before it is handed on; others follow within a second. A daemon that is
//! restarted thus never starts from policies older than those in its kernel, unless two changed within [`PAUSE`].

use std::time::{Duration, Instant};

use identity::UnixTime;
use plan::view::Object;

use super::super::{Event, Manifest, Refusal};
use super::cache::{Kept, ViewFile};
use super::gather::{Gather, Heard};
use crate::clock::wall;

/// A server that refuses connections is waited for so long before the last known view stands in: it may be restarting too.
const REFUSED_WAIT: Duration = Duration::from_secs(2);
/// The same for one that only says nothing: longer than the first lists of a large cluster take.
const SILENT_WAIT: Duration = Duration::from_secs(8);
/// Between two writes.
const PAUSE: Duration = Duration::from_millis(250);
/// A change that is not urgent is written after this.
const DELAY: Duration = Duration::from_secs(1);
/// The file says so often that the view still stands, although nothing changed.
const STAMP: Duration = Duration::from_secs(3_600);

/// The file and what is to be in it.
pub(super) struct Keeper {
    file: Option<ViewFile>,
    kept: Kept,
    started: Instant,
    was_read: bool,
    /// Since when the file is behind.
    behind: Option<Instant>,
    written: Option<Instant>,
    refused: Option<String>,
}

impl Keeper {
    pub(super) fn new(file: Option<ViewFile>) -> Self {
        let started = Instant::now();
        Self { file, kept: Kept::default(), started, was_read: false, behind: None, written: None, refused: None }
    }

    /// Takes the object's line out of what a watch says.
    pub(super) fn note(&mut self, heard: &mut Heard) {
        if let Heard::Apply { key, told, .. } = heard
            && let Some(line) = told.line.take()
        {
            self.kept.insert(key.clone(), line);
        }
    }

    /// Follows what is about to be handed on; what is urgent is written first.
    pub(super) async fn follow(&mut self, out: &[Event], is_current: bool) {
        if self.file.is_none() {
            return;
        }
        let mut is_urgent = false;
        for event in out {
            match event {
                Event::Delete(key) => {
                    self.kept.remove(key);
                    is_urgent |= KINDS_THAT_GRANT.contains(&key.kind);
                }
                Event::Apply(Manifest::Plain(object)) => is_urgent |= grants(object),
                Event::Apply(_) | Event::InitDone => {}
                Event::Init | Event::Judged(_) | Event::Counted(_) => continue,
            }
            self.behind.get_or_insert_with(Instant::now);
        }
        if is_urgent && is_current && self.written.is_none_or(|at| at.elapsed() >= PAUSE) {
            self.write().await;
        }
    }

    /// Writes what is due; reads the file once when the server does not answer.
    pub(super) async fn go_round(&mut self, gather: &mut Gather) -> Vec<Event> {
        if gather.is_current() {
            let is_late = self.behind.is_some_and(|since| since.elapsed() >= DELAY);
            if is_late || self.written.is_some_and(|at| at.elapsed() >= STAMP) {
                self.write().await;
            }
            return Vec::new();
        }
        let wait = if gather.has_fault() { REFUSED_WAIT } else { SILENT_WAIT };
        if self.was_read || gather.is_complete() || self.started.elapsed() < wait {
            return Vec::new();
        }
        self.was_read = true;
        let Some(file) = self.file.clone() else { return Vec::new() };
        let read = tokio::task::spawn_blocking(move || file.read(wall())).await;
        match read.map_err(anyhow::Error::from).and_then(|outcome| outcome) {
            Ok(None) => Vec::new(),
            Ok(Some((cached, age))) => {
                tracing::warn!(
                    objects = cached.len(),
                    age_s = age.as_secs(),
                    "The API server does not answer: starting from the last known view"
                );
                for cached in &cached {
                    // what the server has said meanwhile is newer
                    self.kept.insert_old(cached.key.clone(), &cached.line);
                }
                gather.prime(cached)
            }
            Err(error) => {
                self.refused = Some(format!("the last known view is not started from: {error:#}"));
                Vec::new()
            }
        }
    }

    /// Why the file is not believed or not written.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        let file = self.file.as_ref()?.path().display().to_string();
        self.refused.clone().map(|reason| Refusal { file, line: 0, reason })
    }

    async fn write(&mut self) {
        let Some(file) = &self.file else { return };
        self.written = Some(Instant::now());
        let now: UnixTime = wall();
        match file.write(&self.kept, now).await {
            Ok(()) => (self.behind, self.refused) = (None, None),
            Err(error) => self.refused = Some(format!("the last known view is not kept: {error:#}")),
        }
    }
}

/// Kinds that say who may do what; the others say who is where.
const KINDS_THAT_GRANT: [&str; 7] = [
    "Namespace",
    "PeerAuthentication",
    "NetworkPolicy",
    "AuthorizationPolicy",
    "ClusterNetworkPolicy",
    "AdminNetworkPolicy",
    "BaselineAdminNetworkPolicy",
];

/// Whether an object is of one of those kinds.
fn grants(object: &Object) -> bool {
    matches!(
        object,
        Object::Namespace(_)
            | Object::PeerAuthentication(_)
            | Object::NetworkPolicy(_)
            | Object::AuthorizationPolicy(_)
            | Object::ClusterPolicy(_)
    )
}
