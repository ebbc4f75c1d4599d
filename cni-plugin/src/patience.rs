//! Waits for what may block for ever, but only so long.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Instant;

/// Does `work` on a thread of its own and waits for it until `deadline`. What is late is abandoned: the process is
/// about to end, and the thread with it. Unlike timeouts on a socket this bounds `connect` and a trickle of bytes too.
///
/// # Errors
/// `TimedOut` at the deadline; otherwise that no thread could be started.
pub(crate) fn within<T: Send + 'static>(deadline: Instant, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (done, wait) = sync_channel(1);
    // who no longer waits needs no answer
    thread::Builder::new().spawn(move || drop(done.send(work())))?;
    wait.recv_timeout(deadline.saturating_duration_since(Instant::now())).map_err(|error| match error {
        RecvTimeoutError::Timeout => io::Error::new(io::ErrorKind::TimedOut, "it took too long"),
        RecvTimeoutError::Disconnected => io::Error::other("the thread that did it has ended"),
    })
}
