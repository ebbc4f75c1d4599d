//! One watch per kind, resumed from where it was; a full list only at the start and when the server has forgotten.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::{Stream, StreamExt as _};
use kube::runtime::utils::Backoff;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio::sync::mpsc;

use super::super::{Event, Refusals, Source, convert};
use super::gather::{Gather, Heard};
use super::object::{KindName, Raw, WATCHED};

/// Events that wait for the consumer; beyond it the watches wait.
const EVENTS_MAX: usize = 1_024;
/// Objects per page of a list: a page of large pods is about 5 MiB while it is read.
const PAGE: u32 = 250;

/// First wait after a failure; each further one is twice as long.
const WAIT_MIN: Duration = Duration::from_millis(250);
/// Longest wait: a node that heard nothing for long is up to date this soon after the server is back.
const WAIT_MAX: Duration = Duration::from_secs(4);
/// The same for a kind that may never be installed.
const OPTIONAL_WAIT_MAX: Duration = Duration::from_secs(30);

/// Watches every kind.
pub(super) fn watch(client: &Client) -> Source {
    let (send, events) = mpsc::channel(EVENTS_MAX);
    let refusals = Refusals::default();
    tokio::spawn(follow(client.clone(), send, refusals.clone()));
    Source { events, refusals }
}

async fn follow(client: Client, events: mpsc::Sender<Event>, refusals: Refusals) {
    let mut gather = Gather::new(WATCHED.iter().map(|kind| format!("{} of {}", kind.plural, group(kind))));
    let streams = WATCHED.iter().enumerate().map(|(number, kind)| one_kind(&client, number, *kind).boxed());
    let mut heard = futures::stream::select_all(streams);
    let mut shown = Vec::new();
    loop {
        let next = tokio::select! {
            next = heard.next() => next,
            () = events.closed() => return,
        };
        let Some((number, heard)) = next else { return };
        for event in gather.handle(number, heard) {
            if events.send(event).await.is_err() {
                return;
            }
        }
        let now = gather.refusals();
        if now != shown {
            for refusal in now.iter().filter(|refusal| !shown.contains(refusal)) {
                tracing::warn!(%refusal, "Not used; what was known before stays");
            }
            refusals.replace(now.clone());
            shown = now;
        }
    }
}

/// Waits between tries: doubled up to a limit, and spread, so that many nodes do not come back as one.
struct Patience {
    next: Duration,
    most: Duration,
}

impl Patience {
    fn new(most: Duration) -> Self {
        Self { next: WAIT_MIN, most }
    }
}

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = self.next;
        self.next = (wait * 2).min(self.most);
        // any spread does: the clock's last digits are as good as dice
        let dice = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos() % 1_000;
        Some(wait / 2 + wait * dice / 2_000)
    }
}

impl Backoff for Patience {
    fn reset(&mut self) {
        self.next = WAIT_MIN;
    }
}

fn group(kind: &KindName) -> &'static str {
    if kind.group.is_empty() { "Kubernetes" } else { kind.group }
}

fn one_kind(client: &Client, number: usize, kind: KindName) -> impl Stream<Item = (usize, Heard)> + use<> {
    let api: Api<Raw> = Api::all_with(client.clone(), &kind.resource());
    let config = watcher::Config::default().page_size(PAGE);
    let stream = watcher(api, config).backoff(Patience::new(if kind.optional { OPTIONAL_WAIT_MAX } else { WAIT_MAX }));
    stream.flat_map(move |event| futures::stream::iter(hear(&kind, event)).map(move |heard| (number, heard)))
}

fn hear(kind: &KindName, event: Result<watcher::Event<Raw>, watcher::Error>) -> Vec<Heard> {
    match event {
        Ok(watcher::Event::Init) => vec![Heard::Init],
        Ok(watcher::Event::InitApply(object)) => apply(kind, object, true),
        Ok(watcher::Event::Apply(object)) => apply(kind, object, false),
        Ok(watcher::Event::Delete(object)) => kind.key(&object).map(Heard::Delete).into_iter().collect(),
        Ok(watcher::Event::InitDone) => vec![Heard::InitDone],
        Err(error) => fault(kind, &error),
    }
}

fn apply(kind: &KindName, object: Raw, listed: bool) -> Vec<Heard> {
    let Some(key) = kind.key(&object) else { return Vec::new() };
    // every object of a server has its creation time; the fallback is never used
    let manifest = convert::manifest(&key, &object.into_manifest(), 0).map(Box::new);
    vec![Heard::Apply { key, listed, manifest }]
}

fn fault(kind: &KindName, error: &watcher::Error) -> Vec<Heard> {
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => Some(status),
        watcher::Error::WatchError(status) => Some(status),
        watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchStartFailed(_)
        | watcher::Error::WatchFailed(_)
        | watcher::Error::NoResourceVersion => None,
    };
    let code = status.map(|status| status.code);
    match code {
        // somebody else's kind that is not installed: an empty list, looked at again with the backoff's patience
        Some(404) if kind.optional => vec![Heard::Init, Heard::InitDone],
        // too old: the watcher lists again by itself
        Some(410) => Vec::new(),
        Some(404) => vec![Heard::Fault(format!(
            "{}.{} is not installed: kubectl apply -k manifests/overlays/default",
            kind.plural, kind.group
        ))],
        Some(401 | 403) => {
            let message = status.map(|status| status.message.clone()).unwrap_or_default();
            vec![Heard::Fault(format!("the API server refuses: {message} (is the RBAC of manifests/base applied?)"))]
        }
        _ => vec![Heard::Fault(format!("{:#}", chain(error)))],
    }
}

/// An error with its causes in one line.
fn chain(error: &watcher::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let next = cause.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        source = cause.source();
    }
    text
}
