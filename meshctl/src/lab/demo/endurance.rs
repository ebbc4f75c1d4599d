//! Acts g and h: a long connection, through the death of the node daemon and through the rotation of keys.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal};
use serde_json::json;

use super::super::capture::Capture;
use super::super::probe::stream::{self, Plan, Streams, Tally};
use super::story::{SOON, Story, seen};
use crate::admin_reply::Peer;

const CLIENT: &str = "long/client";
const SERVER: &str = "long/server";
const MARKER: &str = "weft-demo-stream";
/// The epoch of the demo's lab is a minute; the next one is at most that far away, and a moment.
const ROTATION: Duration = Duration::from_secs(70);

/// The connection and the capture that watches it.
pub(super) struct Endurance {
    streams: Streams,
    capture: Capture,
    epoch: u64,
}

/// Opens the connection, under a capture.
pub(super) fn begin(story: &mut Story<'_>) -> anyhow::Result<Endurance> {
    for pod in [CLIENT, SERVER] {
        story.wait_mode(pod, Some("PERMISSIVE"))?;
    }
    let server = story.ipv4(SERVER)?;
    story.wait("the long connection's pods reach each other", SOON, || {
        Ok(story.reaches(CLIENT, server)?.then_some(()))
    })?;
    let capture = story.capture()?;
    let plan = Plan {
        target: (server, 8080).into(),
        connections: 1,
        interval: Duration::from_millis(5),
        marker: MARKER.to_owned(),
    };
    let streams = story.netns(CLIENT)?.within(|| stream::begin(&plan))??;
    let epoch = epoch(story)?.context("the long connection has no session")?;
    Ok(Endurance { streams, capture, epoch })
}

/// The generation of the key under which n1 sends to the long connection's server.
fn epoch(story: &Story<'_>) -> anyhow::Result<Option<u64>> {
    let peers: Vec<Peer> = story.rows("n1", "peers")?;
    let is_it = |p: &&Peer| p.node == "n3" && p.identity.ends_with("/ns/long/sa/server") && p.state == "session";
    Ok(peers.iter().find(is_it).and_then(|p| p.epoch))
}

impl Endurance {
    /// Kills the daemon, waits for the next epoch, and judges the connection.
    pub(super) fn finish(self, story: &mut Story<'_>) -> anyhow::Result<()> {
        story.report.section("g  The node daemon is killed with -9 under a TCP stream")?;
        let before = self.streams.tally();
        let took = kill(story)?;
        story.wait("the stream goes on", SOON, || {
            let now = self.streams.tally();
            Ok((now.broken > 0 || now.bytes > before.bytes + 10_000).then_some(()))
        })?;
        let tally = self.streams.tally();
        let mut observed = figures(&tally);
        insert(&mut observed, "daemonBackAfterMilliseconds", json!(u64::try_from(took.as_millis())?));
        story.report.check("g: the stream survives kill -9 of meshd node", tally.broken == 0, &observed)?;

        story.report.section("h  Keys turn over under the same stream")?;
        let look = || {
            // right after a restart there is a moment without an answer
            Ok(epoch(story).ok().flatten().filter(|now| *now > self.epoch))
        };
        let turned = story.wait("another epoch is in use", ROTATION, look);
        let bytes = self.streams.tally().bytes;
        story.wait("the stream goes on", SOON, || {
            let now = self.streams.tally();
            Ok((now.broken > 0 || now.bytes > bytes + 10_000).then_some(()))
        })?;
        let tally = self.streams.end();
        let mut observed = figures(&tally);
        insert(&mut observed, "epochBefore", json!(self.epoch));
        insert(&mut observed, "epochAfter", json!(turned.as_ref().ok().map(|(epoch, _)| epoch)));
        let ok = turned.is_ok() && tally.broken == 0;
        story.report.check("h: the stream survives the rotation of keys", ok, &observed)?;
        let (markers, observed) = seen(&self.capture.end()?, MARKER)?;
        story.report.check(
            "g and h: nothing of the stream was ever in clear",
            markers == 0 && tally.bytes > 0,
            &observed,
        )
    }
}

/// Kills n1's daemon; how long until another one is ready.
fn kill(story: &Story<'_>) -> anyhow::Result<Duration> {
    let pid_of = || anyhow::Ok(story.lab.live()?.nodes.get("n1").and_then(|daemon| daemon.pid));
    let old = pid_of()?.context("n1 has no daemon")?;
    let begin = Instant::now();
    rustix::process::kill_process(Pid::from_raw(old).context("not a process")?, Signal::KILL)
        .context("cannot kill the daemon")?;
    story.wait("the daemon is back", SOON, || {
        let is_new = pid_of()?.is_some_and(|pid| pid != old);
        Ok((is_new && story.status("n1").is_ok_and(|status| status.ready)).then_some(()))
    })?;
    Ok(begin.elapsed())
}

fn figures(tally: &Tally) -> serde_json::Value {
    json!({
        "bytesEchoed": tally.bytes,
        "broken": tally.broken,
        "longestStallMilliseconds": tally.longest_stall_ms,
        "error": tally.error,
    })
}

fn insert(observed: &mut serde_json::Value, name: &str, value: serde_json::Value) {
    if let Some(fields) = observed.as_object_mut() {
        fields.insert(name.to_owned(), value);
    }
}
