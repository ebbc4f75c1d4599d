//! One watch per kind, resumed from where it was; a full list only at the start and when the server has forgotten.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use jiff::Timestamp;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::super::{Event, Refusals, Source, convert};
use super::cache::{self, ViewFile};
use super::gather::{Gather, Heard, Told};
use super::judge;
use super::keeper::Keeper;
use super::object::{KindName, Raw, WATCHED};

/// Events that wait for the consumer; beyond it the watches wait.
const EVENTS_MAX: usize = 1_024;
/// Objects per page of a list: a page of large pods is about 5 MiB while it is read.
const PAGE: u32 = 250;

/// How often is looked after the file of the last known view.
const ROUND: Duration = Duration::from_millis(500);
/// First wait after a failure; each further one is twice as long.
const WAIT_MIN: Duration = Duration::from_millis(250);
/// Longest wait: a node that heard nothing for long is up to date this soon after the server is back.
const WAIT_MAX: Duration = Duration::from_secs(4);
/// The same for a kind that may never be installed.
const OPTIONAL_WAIT_MAX: Duration = Duration::from_secs(30);
/// A list of which so long nothing came is asked for again: what holds the connection answers no more. An API server gives up
/// a request of its own after 60 s, but says something of a list within a few.
const LIST_SILENCE: Duration = Duration::from_secs(30);

/// Watches every kind; a node keeps what it knows in a file, and starts from that while the server does not answer.
pub(super) fn watch(client: &Client, file: Option<ViewFile>) -> Source {
    let (send, events) = mpsc::channel(EVENTS_MAX);
    let refusals = Refusals::default();
    tokio::spawn(follow(client.clone(), send, refusals.clone(), file));
    Source { events, refusals }
}

async fn follow(client: Client, events: mpsc::Sender<Event>, refusals: Refusals, file: Option<ViewFile>) {
    let mut gather = Gather::new(WATCHED.iter().map(|kind| format!("{} of {}", kind.plural, group(kind))));
    let is_kept = file.is_some();
    let streams = WATCHED.iter().enumerate().map(|(number, kind)| one_kind(&client, number, *kind, is_kept).boxed());
    let mut heard = futures::stream::select_all(streams);
    let mut keeper = Keeper::new(file);
    let mut round = tokio::time::interval(ROUND);
    round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut shown = Vec::new();
    loop {
        let out = tokio::select! {
            next = heard.next() => {
                let Some((number, mut heard)) = next else { return };
                if gather.is_stale(number, &heard) {
                    continue;
                }
                keeper.note(&mut heard);
                let out = gather.handle(number, heard);
                keeper.follow(&out, gather.is_current()).await;
                out
            }
            _ = round.tick(), if is_kept => keeper.go_round(&mut gather).await,
            () = events.closed() => return,
        };
        for event in out {
            if events.send(event).await.is_err() {
                return;
            }
        }
        let mut now = gather.refusals();
        now.extend(keeper.refusal());
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
    failed: Option<Instant>,
}

impl Patience {
    fn new(most: Duration) -> Self {
        Self { next: WAIT_MIN, most, failed: None }
    }

    /// How long to wait after a failure. Only time without one begins anew: a server whose lists succeed and whose watches
    /// fail, or that gives the first page and no second, would be asked for lists without end.
    fn after_failure(&mut self, now: Instant) -> Duration {
        // a failure follows its wait, and what it interrupts takes a while
        let quiet = self.most * 2 + LIST_SILENCE;
        if self.failed.is_some_and(|failed| now.duration_since(failed) > quiet) {
            self.next = WAIT_MIN;
        }
        self.failed = Some(now);
        let wait = self.next;
        self.next = (wait * 2).min(self.most);
        // any spread does: the clock's last digits are as good as dice
        let dice = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos() % 1_000;
        wait / 2 + wait * dice / 2_000
    }
}

fn group(kind: &KindName) -> &'static str {
    if kind.group.is_empty() { "Kubernetes" } else { kind.group }
}

/// The watch of one kind.
struct Watch {
    api: Api<Raw>,
    stream: BoxStream<'static, watcher::Result<watcher::Event<Raw>>>,
    patience: Patience,
    wait: Duration,
    /// A list is under way.
    lists: bool,
}

impl Watch {
    fn new(api: Api<Raw>, most: Duration) -> Self {
        let stream = begin(&api);
        Self { api, stream, patience: Patience::new(most), wait: Duration::ZERO, lists: false }
    }

    /// What it says next; `None` within for a list that is silent.
    async fn next(mut self) -> Option<(Option<watcher::Result<watcher::Event<Raw>>>, Self)> {
        if !self.wait.is_zero() {
            tokio::time::sleep(self.wait).await;
        }
        self.wait = Duration::ZERO;
        let said = if self.lists {
            match tokio::time::timeout(LIST_SILENCE, self.stream.next()).await {
                Ok(said) => Some(said?),
                Err(_elapsed) => None,
            }
        } else {
            Some(self.stream.next().await?)
        };
        match &said {
            Some(Ok(watcher::Event::Init)) => self.lists = true,
            Some(Ok(watcher::Event::InitDone)) => self.lists = false,
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                self.wait = self.patience.after_failure(Instant::now());
                if is_forgotten_at_start(error) {
                    // the library would ask for the same place for ever
                    self.stream = begin(&self.api);
                }
            }
            None => {
                self.wait = self.patience.after_failure(Instant::now());
                self.stream = begin(&self.api);
            }
        }
        Some((said, self))
    }
}

fn begin(api: &Api<Raw>) -> BoxStream<'static, watcher::Result<watcher::Event<Raw>>> {
    watcher(api.clone(), watcher::Config::default().page_size(PAGE)).boxed()
}

/// The server does not know the place any more at which a watch was to go on, and says so before it begins.
fn is_forgotten_at_start(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 410)
}

fn one_kind(
    client: &Client,
    number: usize,
    kind: KindName,
    is_kept: bool,
) -> impl Stream<Item = (usize, Heard)> + use<> {
    let api: Api<Raw> = Api::all_with(client.clone(), &kind.resource());
    let most = if kind.optional { OPTIONAL_WAIT_MAX } else { WAIT_MAX };
    let said = futures::stream::unfold(Watch::new(api, most), Watch::next);
    said.flat_map(move |said| futures::stream::iter(hear(&kind, said, is_kept)).map(move |heard| (number, heard)))
}

fn hear(kind: &KindName, said: Option<watcher::Result<watcher::Event<Raw>>>, is_kept: bool) -> Vec<Heard> {
    let Some(event) = said else {
        let seconds = LIST_SILENCE.as_secs();
        return vec![Heard::Fault(format!("the API server said nothing for {seconds} s in the middle of a list"))];
    };
    match event {
        Ok(watcher::Event::Init) => vec![Heard::Init],
        Ok(watcher::Event::InitApply(object)) => apply(kind, object, true, is_kept),
        Ok(watcher::Event::Apply(object)) => apply(kind, object, false, is_kept),
        Ok(watcher::Event::Delete(object)) => {
            let version = object.version();
            kind.key(&object).map(|key| Heard::Delete { key, version }).into_iter().collect()
        }
        Ok(watcher::Event::InitDone) => vec![Heard::InitDone],
        Err(error) => fault(kind, &error),
    }
}

pub(super) fn apply(kind: &KindName, object: Raw, listed: bool, is_kept: bool) -> Vec<Heard> {
    let Some(key) = kind.key(&object) else { return Vec::new() };
    let held = judge::Held::of(kind, &object);
    let version = object.version();
    let value = object.into_manifest();
    // every object of a server has its creation time; the fallback is never used
    let (manifest, parts) = match convert::manifest(&key, &value, 0) {
        Ok(convert::Converted { manifest, unused }) => (Ok(Box::new(manifest)), unused),
        Err(reason) => (Err(reason), Vec::new()),
    };
    let refused = manifest.as_ref().err().map(String::as_str);
    let judgement = held.and_then(|held| held.judge(&key, refused, &parts, Timestamp::now()));
    let line = (is_kept && manifest.is_ok()).then(|| cache::line(kind, &value));
    vec![Heard::Apply { key, version, listed, manifest, told: Box::new(Told { parts, judgement, line }) }]
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
        // too old: it is listed again
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

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
