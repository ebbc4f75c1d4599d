//! Log lines on their way to stderr, on a thread of their own: a sink that takes nothing stops nobody (MF-09).

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait for the sink; more are dropped and counted.
const LINES_MAX: usize = 4096;
/// How long a daemon that ends waits for its last lines to be taken.
const FAREWELL: Duration = Duration::from_secs(1);

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Where lines are put; it never waits.
#[derive(Clone)]
pub(crate) struct Log {
    lines: SyncSender<Message>,
    /// Lines that found no room since the last one that did.
    dropped: Arc<AtomicU64>,
}

/// One line while it is written; it goes on its way when dropped.
pub(crate) struct Line<'a> {
    text: Vec<u8>,
    log: &'a Log,
}

impl Log {
    /// Starts the thread that writes into `sink`.
    ///
    /// # Errors
    /// There is no room for a thread.
    pub(crate) fn open(sink: impl Write + Send + 'static) -> io::Result<Self> {
        let (sender, lines) = sync_channel(LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let missed = Arc::clone(&dropped);
        std::thread::Builder::new().name("mesh-log".to_owned()).spawn(move || write_all(sink, &lines, &missed))?;
        Ok(Self { lines: sender, dropped })
    }

    /// Waits until everything that was put is written, a second at most.
    pub(crate) fn flush(&self) {
        let (done, written) = sync_channel(1);
        if self.lines.try_send(Message::Flush(done)).is_ok() {
            let _in_time = written.recv_timeout(FAREWELL);
        }
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { text: Vec::new(), log: self }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if self.log.lines.try_send(Message::Line(std::mem::take(&mut self.text))).is_err() {
            self.log.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write_all(mut sink: impl Write, lines: &Receiver<Message>, missed: &AtomicU64) {
    for message in lines {
        // whoever reads the log may have gone; the daemon has not
        let _taken = match message {
            Message::Line(text) => {
                let dropped = missed.swap(0, Ordering::Relaxed);
                let told = if dropped > 0 {
                    writeln!(sink, "{dropped} log lines were dropped: the sink was full")
                } else {
                    Ok(())
                };
                told.and_then(|()| sink.write_all(&text))
            }
            Message::Flush(done) => {
                let flushed = sink.flush();
                let _heard = done.try_send(());
                flushed
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(log: &Log, text: &str) {
        log.make_writer().write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn mf_09_a_sink_that_takes_nothing_stops_nobody_and_is_told_of_what_it_missed() {
        let (reader, sink) = io::pipe().unwrap();
        let log = Log::open(sink).unwrap();
        // a pipe holds 64 KiB (pipe(7)): it and the queue are full long before this ends
        let line = format!("{}\n", "x".repeat(1023));
        for _ in 0..LINES_MAX * 2 {
            put(&log, &line);
        }
        let mut lines = io::BufRead::lines(io::BufReader::new(reader));
        let told = lines.by_ref().take(LINES_MAX).map_while(Result::ok).any(|line| line.contains("lines were dropped"));
        assert!(told, "nobody says that lines are missing");
    }

    #[test]
    fn the_last_lines_are_written_before_the_end() {
        let (mut reader, sink) = io::pipe().unwrap();
        let log = Log::open(sink).unwrap();
        put(&log, "goodbye\n");
        log.flush();
        let mut text = [0; 8];
        io::Read::read_exact(&mut reader, &mut text).unwrap();
        assert_eq!(&text, b"goodbye\n");
    }
}
