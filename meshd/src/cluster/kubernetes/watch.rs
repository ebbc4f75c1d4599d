//! One watch per kind, resumed from where it was; a full list only at the start and when the server has forgotten.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::{Stream, StreamExt as _};
use jiff::Timestamp;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::mpsc;

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
}

impl Patience {
    fn new(most: Duration) -> Self {
        Self { next: WAIT_MIN, most }
    }

    /// How long to wait after what a watch said. That a list begins is no success yet: it begins at every try.
    fn after<T>(&mut self, said: &Result<watcher::Event<T>, watcher::Error>) -> Duration {
        match said {
            Ok(watcher::Event::Init) => Duration::ZERO,
            Ok(_) => {
                self.next = WAIT_MIN;
                Duration::ZERO
            }
            Err(_) => {
                let wait = self.next;
                self.next = (wait * 2).min(self.most);
                // any spread does: the clock's last digits are as good as dice
                let dice = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos() % 1_000;
                wait / 2 + wait * dice / 2_000
            }
        }
    }
}

fn group(kind: &KindName) -> &'static str {
    if kind.group.is_empty() { "Kubernetes" } else { kind.group }
}

fn one_kind(
    client: &Client,
    number: usize,
    kind: KindName,
    is_kept: bool,
) -> impl Stream<Item = (usize, Heard)> + use<> {
    let api: Api<Raw> = Api::all_with(client.clone(), &kind.resource());
    let config = watcher::Config::default().page_size(PAGE);
    let patience = Patience::new(if kind.optional { OPTIONAL_WAIT_MAX } else { WAIT_MAX });
    let begin = (watcher(api, config).boxed(), patience, Duration::ZERO);
    let said = futures::stream::unfold(begin, |(mut watch, mut patience, wait)| async move {
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let said = watch.next().await?;
        let wait = patience.after(&said);
        Some((said, (watch, patience, wait)))
    });
    said.flat_map(move |said| futures::stream::iter(hear(&kind, said, is_kept)).map(move |heard| (number, heard)))
}

fn hear(kind: &KindName, event: Result<watcher::Event<Raw>, watcher::Error>, is_kept: bool) -> Vec<Heard> {
    match event {
        Ok(watcher::Event::Init) => vec![Heard::Init],
        Ok(watcher::Event::InitApply(object)) => apply(kind, object, true, is_kept),
        Ok(watcher::Event::Apply(object)) => apply(kind, object, false, is_kept),
        Ok(watcher::Event::Delete(object)) => kind.key(&object).map(Heard::Delete).into_iter().collect(),
        Ok(watcher::Event::InitDone) => vec![Heard::InitDone],
        Err(error) => fault(kind, &error),
    }
}

pub(super) fn apply(kind: &KindName, object: Raw, listed: bool, is_kept: bool) -> Vec<Heard> {
    let Some(key) = kind.key(&object) else { return Vec::new() };
    let held = judge::Held::of(kind, &object);
    let value = object.into_manifest();
    // every object of a server has its creation time; the fallback is never used
    let manifest = convert::manifest(&key, &value, 0).map(Box::new);
    let parts = if manifest.is_ok() { convert::unused_parts(&key, &value) } else { Vec::new() };
    let refused = manifest.as_ref().err().map(String::as_str);
    let judgement = held.and_then(|held| held.judge(&key, refused, &parts, Timestamp::now()));
    let line = (is_kept && manifest.is_ok()).then(|| cache::line(kind, &value));
    vec![Heard::Apply { key, listed, manifest, told: Box::new(Told { parts, judgement, line }) }]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mf_05_a_server_that_refuses_is_asked_less_and_less_often() {
        let mut patience = Patience::new(WAIT_MAX);
        let failed = || Err(watcher::Error::NoResourceVersion);
        let mut waits = Vec::new();
        for _ in 0..8 {
            assert_eq!(patience.after::<Raw>(&Ok(watcher::Event::Init)), Duration::ZERO);
            waits.push(patience.after::<Raw>(&failed()));
        }
        assert!(waits.is_sorted_by(|a, b| *b >= *a / 2) && waits[7] >= WAIT_MAX / 2, "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= WAIT_MAX), "{waits:?}");
        patience.after::<Raw>(&Ok(watcher::Event::InitDone));
        assert!(patience.after::<Raw>(&failed()) <= WAIT_MIN, "after a success it begins anew");
    }
}
