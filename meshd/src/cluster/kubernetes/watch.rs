//! The watch of one kind, resumed from where it was; a full list only at the start and when the server has forgotten.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt as _;
use futures::stream::BoxStream;
use jiff::Timestamp;
use kube::Api;
use kube::runtime::watcher;
use tokio::time::Instant;

use super::super::convert;
use super::cache;
use super::connect::{ANSWER_TIMEOUT, CONNECT_TIMEOUT};
use super::gather::{Heard, Told};
use super::judge;
use super::object::{KindName, Raw};

/// Objects per page of a list: a page of large pods is about 5 MiB while it is read.
const PAGE: u32 = 250;

/// First wait after a failure; each further one is twice as long.
const WAIT_MIN: Duration = Duration::from_millis(250);
/// Longest wait: a node that heard nothing for long is up to date this soon after the server is back.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(4);
/// The same for a kind that may never be installed, and how often one that is missing is looked for.
pub(super) const OPTIONAL_WAIT_MAX: Duration = Duration::from_secs(30);
/// A list of which so long nothing came is asked for again: what holds the connection answers no more. An API server gives up
/// a request of its own after 60 s, but says something of a list within a few.
const LIST_SILENCE: Duration = Duration::from_secs(30);
/// A watch that was asked for again after a failure, and has not failed for so long, stands: nothing is said of one that begins.
const SETTLED: Duration = CONNECT_TIMEOUT.saturating_add(ANSWER_TIMEOUT);

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
        spread(wait)
    }
}

/// Between half of a wait and all of it. Any spread does: the clock's last digits are as good as dice.
pub(super) fn spread(wait: Duration) -> Duration {
    let dice = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos() % 1_000;
    wait / 2 + wait * dice / 2_000
}

/// The watch of one kind.
pub(super) struct Watch {
    api: Api<Raw>,
    stream: BoxStream<'static, watcher::Result<watcher::Event<Raw>>>,
    patience: Patience,
    wait: Duration,
    /// A list is under way.
    lists: bool,
    /// Its last word was a failure; how long it must not fail to stand again.
    failed: bool,
    settled: Duration,
}

/// What a watch says.
#[expect(clippy::large_enum_variant, reason = "each is looked at once and never kept")]
pub(super) enum Said {
    Result(watcher::Result<watcher::Event<Raw>>),
    /// It stands again after a failure, and has nothing to tell.
    Stands,
    /// Nothing, in the middle of a list.
    Silence,
}

impl Watch {
    /// Waits `most` between failures in the end.
    pub(super) fn new(api: Api<Raw>, most: Duration) -> Self {
        let stream = begin(&api);
        let patience = Patience::new(most);
        Self { api, stream, patience, wait: Duration::ZERO, lists: false, failed: false, settled: SETTLED }
    }

    /// What it says next.
    pub(super) async fn next(mut self) -> Option<(Said, Self)> {
        if !self.wait.is_zero() {
            tokio::time::sleep(self.wait).await;
        }
        self.wait = Duration::ZERO;
        let (limit, otherwise) = match (self.lists, self.failed) {
            (true, _) => (Some(LIST_SILENCE), Said::Silence),
            (false, true) => (Some(self.settled), Said::Stands),
            (false, false) => (None, Said::Stands),
        };
        let said = match limit {
            Some(limit) => match tokio::time::timeout(limit, self.stream.next()).await {
                Ok(said) => Said::Result(said?),
                Err(_elapsed) => otherwise,
            },
            None => Said::Result(self.stream.next().await?),
        };
        self.failed = matches!(&said, Said::Result(Err(_)) | Said::Silence);
        match &said {
            Said::Result(Ok(watcher::Event::Init)) => self.lists = true,
            Said::Result(Ok(watcher::Event::InitDone)) => self.lists = false,
            Said::Result(Ok(_)) | Said::Stands => {}
            Said::Result(Err(error)) => {
                self.wait = self.patience.after_failure(Instant::now());
                if is_forgotten_at_start(error) {
                    // the library would ask for the same place for ever
                    self.stream = begin(&self.api);
                }
            }
            Said::Silence => {
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

pub(super) fn hear(kind: &KindName, said: Said, is_kept: bool) -> Vec<Heard> {
    let event = match said {
        Said::Result(event) => event,
        Said::Stands => return vec![Heard::Stands],
        Said::Silence => {
            let seconds = LIST_SILENCE.as_secs();
            return vec![Heard::Fault(format!("the API server said nothing for {seconds} s in the middle of a list"))];
        }
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
        // nothing happened for a while: it goes on where it was, and whether the server lives is seen by that
        Err(error) if is_silence(&error) => Vec::new(),
        Err(error) => fault(kind, &error),
    }
}

/// A watch whose connection said nothing for as long as one may, and no other failure.
fn is_silence(error: &watcher::Error) -> bool {
    let watcher::Error::WatchFailed(kube::Error::ReadEvents(error)) = error else { return false };
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if cause.downcast_ref::<std::io::Error>().is_some_and(|cause| cause.kind() == std::io::ErrorKind::TimedOut) {
            return true;
        }
        // an error made of another does not name it as its source
        let inner = cause.downcast_ref::<std::io::Error>().and_then(|cause| cause.get_ref());
        source = inner.map(|inner| inner as &(dyn std::error::Error + 'static)).or_else(|| cause.source());
    }
    false
}

pub(super) fn apply(kind: &KindName, object: Raw, listed: bool, is_kept: bool) -> Vec<Heard> {
    let Some(key) = kind.key(&object) else { return Vec::new() };
    let (held, counted) = (judge::Held::of(kind, &object), judge::counted(kind, &key, &object));
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
    vec![Heard::Apply { key, version, listed, manifest, told: Box::new(Told { parts, judgement, counted, line }) }]
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
        // somebody else's kind that is not installed: an empty list
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
        _ => vec![Heard::Fault(chain(error))],
    }
}

/// An error with its causes in one line.
fn chain(error: &watcher::Error) -> String {
    let unanswered = match error {
        watcher::Error::InitialListFailed(kube::Error::Service(cause))
        | watcher::Error::WatchStartFailed(kube::Error::Service(cause)) => Some(cause),
        watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchStartFailed(_)
        | watcher::Error::WatchError(_)
        | watcher::Error::WatchFailed(_)
        | watcher::Error::NoResourceVersion => None,
    };
    let (mut text, mut source) = match unanswered {
        Some(cause) => (format!("the API server does not answer: {cause}"), cause.source()),
        None => (error.to_string(), std::error::Error::source(error)),
    };
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
