//! Long-lived TCP connections under steady traffic: every record must come back, in order, and gaps are measured.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde::Serialize;

use super::wire::payload;
use crate::screen;

/// Bytes of one record.
const RECORD_BYTES: usize = 128;
/// How long a connection may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// How long the last answers may take once nothing more is sent.
const LAST_PATIENCE: Duration = Duration::from_secs(10);

/// What streams are like.
#[derive(Clone, Debug)]
pub(in super::super) struct Plan {
    /// The echo server.
    pub(in super::super) target: SocketAddr,
    /// How many connections.
    pub(in super::super) connections: u16,
    /// Between two records on each.
    pub(in super::super) interval: Duration,
    /// What records are made of.
    pub(in super::super) marker: String,
}

/// What came of all connections together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in super::super) struct Tally {
    /// How many connections were made.
    pub(in super::super) connections: u16,
    /// How many of them ended before they were told to, or gave back something else than they were given.
    pub(in super::super) broken: usize,
    /// Bytes that came back, unchanged and in order.
    pub(in super::super) bytes: u64,
    /// The longest time without a byte on any connection, in milliseconds.
    pub(in super::super) longest_stall_ms: u64,
    /// What ended the first connection that broke.
    pub(in super::super) error: Option<String>,
}

/// What the threads of all connections write down.
#[derive(Default)]
struct Ledger {
    bytes: AtomicU64,
    longest_stall_ms: AtomicU64,
    errors: Mutex<Vec<String>>,
    is_over: AtomicBool,
}

/// Running connections.
pub(in super::super) struct Streams {
    ledger: Arc<Ledger>,
    threads: Vec<JoinHandle<()>>,
    connections: u16,
}

/// Connects and begins. To be called inside the namespace it is for: sockets stay where they were opened.
///
/// # Errors
/// One of the connections cannot be made.
pub(in super::super) fn begin(plan: &Plan) -> anyhow::Result<Streams> {
    let ledger = Arc::new(Ledger::default());
    let mut streams = Streams { ledger, threads: Vec::new(), connections: plan.connections };
    for _ in 0..plan.connections {
        let stream = TcpStream::connect_timeout(&plan.target, CONNECT_PATIENCE)
            .with_context(|| format!("cannot connect to {}", plan.target))?;
        let (plan, ledger) = (plan.clone(), Arc::clone(&streams.ledger));
        let talk = move || {
            if let Err(error) = talk(stream, &plan, &ledger) {
                ledger.errors.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{error:#}"));
            }
        };
        streams
            .threads
            .push(thread::Builder::new().stack_size(256 * 1024).spawn(talk).context("cannot start a thread")?);
    }
    Ok(streams)
}

impl Streams {
    /// What has come of it so far.
    pub(in super::super) fn tally(&self) -> Tally {
        let errors = self.ledger.errors.lock().unwrap_or_else(PoisonError::into_inner);
        Tally {
            connections: self.connections,
            broken: errors.len(),
            bytes: self.ledger.bytes.load(Ordering::Relaxed),
            longest_stall_ms: self.ledger.longest_stall_ms.load(Ordering::Relaxed),
            error: errors.first().cloned(),
        }
    }

    /// Sends nothing more, waits for the last answers and returns the final tally.
    pub(in super::super) fn end(mut self) -> Tally {
        self.ledger.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
        self.tally()
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.ledger.is_over.store(true, Ordering::Relaxed);
    }
}

/// One connection: a record every interval, and what comes back is compared byte by byte.
fn talk(mut stream: TcpStream, plan: &Plan, ledger: &Ledger) -> anyhow::Result<()> {
    stream.set_nodelay(true).context("cannot set TCP_NODELAY")?;
    stream.set_write_timeout(Some(LAST_PATIENCE)).context("cannot set a time limit")?;
    let mut expected: VecDeque<u8> = VecDeque::new();
    let mut buffer = [0; 16 * 1024];
    let (mut number, mut due, mut last_byte) = (0, Instant::now(), Instant::now());
    let mut over_since = None;
    loop {
        let now = Instant::now();
        if over_since.is_none() && ledger.is_over.load(Ordering::Relaxed) {
            over_since = Some(now);
        }
        match over_since {
            Some(_) if expected.is_empty() => return Ok(()),
            Some(since) if now - since > LAST_PATIENCE => bail!("{} bytes did not come back", expected.len()),
            None if now >= due => {
                let record = payload(&plan.marker, number, RECORD_BYTES);
                stream.write_all(&record).context("cannot send")?;
                expected.extend(record);
                number += 1;
                due = now + plan.interval;
            }
            _ => {}
        }
        let wait =
            due.saturating_duration_since(Instant::now()).clamp(Duration::from_millis(1), Duration::from_millis(50));
        stream.set_read_timeout(Some(wait)).context("cannot set a time limit")?;
        let read = match stream.read(&mut buffer) {
            Ok(0) => bail!("the other side closed the connection"),
            Ok(read) => read,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => 0,
            Err(e) => return Err(e).context("cannot receive"),
        };
        let stall = u64::try_from(last_byte.elapsed().as_millis()).unwrap_or(u64::MAX);
        ledger.longest_stall_ms.fetch_max(stall, Ordering::Relaxed);
        if read > 0 {
            last_byte = Instant::now();
            let got = buffer.get(..read).unwrap_or_default();
            ensure!(got.len() <= expected.len(), "more came back than was sent");
            ensure!(expected.drain(..read).eq(got.iter().copied()), "something else came back than was sent");
            ledger.bytes.fetch_add(u64::try_from(read).unwrap_or(0), Ordering::Relaxed);
        }
    }
}

/// A line of `meshctl lab probe stream`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    at_ms: u128,
    done: bool,
    #[serde(flatten)]
    tally: Tally,
}

/// Runs streams until the time is over or stdin ends, with a JSON line every `period` and one at the end; whether all
/// connections lived.
///
/// # Errors
/// A connection cannot be made, or stdout is gone.
pub(super) fn report_until_told(plan: &Plan, limit: Option<Duration>, period: Duration) -> anyhow::Result<bool> {
    let begin_at = Instant::now();
    let streams = begin(plan)?;
    let (told, tell) = std::sync::mpsc::channel();
    if limit.is_none() {
        thread::spawn(move || {
            let _closed = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            let _nobody_waits = told.send(());
        });
        report(&streams, begin_at, period, |wait| tell.recv_timeout(wait).is_ok())?;
    } else {
        let end = begin_at + limit.unwrap_or_default();
        report(&streams, begin_at, period, |wait| {
            thread::sleep(wait.min(end.saturating_duration_since(Instant::now())));
            Instant::now() >= end
        })?;
    }
    let tally = streams.end();
    let is_well = tally.broken == 0;
    screen::out(&serde_json::to_string(&Line { at_ms: begin_at.elapsed().as_millis(), done: true, tally })?)?;
    Ok(is_well)
}

/// A line every `period` until `is_over`, which waits that long.
fn report(
    streams: &Streams,
    begin: Instant,
    period: Duration,
    mut is_over: impl FnMut(Duration) -> bool,
) -> anyhow::Result<()> {
    loop {
        let line = Line { at_ms: begin.elapsed().as_millis(), done: false, tally: streams.tally() };
        screen::out(&serde_json::to_string(&line)?)?;
        if is_over(period.max(Duration::from_millis(10))) {
            return Ok(());
        }
    }
}
