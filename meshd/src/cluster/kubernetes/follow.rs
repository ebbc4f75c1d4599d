//! All kinds together: each watched by itself, gathered to events in one order.

use std::time::Duration;

use futures::{Stream, StreamExt as _};
use kube::{Api, Client};
use tokio::sync::mpsc;

use super::super::{Event, Refusals, Source};
use super::cache::ViewFile;
use super::gather::{Gather, Heard};
use super::keeper::Keeper;
use super::object::{KindName, Raw, WATCHED};
use super::optional::{Optional, Served};
use super::watch::{WAIT_MAX, Watch, hear};

/// Events that wait for the consumer; beyond it the watches wait.
const EVENTS_MAX: usize = 1_024;
/// How often is looked after the file of the last known view.
const ROUND: Duration = Duration::from_millis(500);

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
    let served = Served::new(&client);
    let streams =
        WATCHED.iter().enumerate().map(|(number, kind)| one_kind(&client, &served, number, *kind, is_kept).boxed());
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

fn one_kind(
    client: &Client,
    served: &Served,
    number: usize,
    kind: KindName,
    is_kept: bool,
) -> impl Stream<Item = (usize, Heard)> + use<> {
    let said = if kind.optional {
        futures::stream::unfold(Optional::new(kind, served), Optional::next).left_stream()
    } else {
        let api: Api<Raw> = Api::all_with(client.clone(), &kind.resource());
        futures::stream::unfold(Watch::new(api, WAIT_MAX), Watch::next).right_stream()
    };
    said.flat_map(move |said| futures::stream::iter(hear(&kind, said, is_kept)).map(move |heard| (number, heard)))
}

fn group(kind: &KindName) -> &'static str {
    if kind.group.is_empty() { "Kubernetes" } else { kind.group }
}
