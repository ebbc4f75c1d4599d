//! Waits for several descriptors, a deadline or another thread's call, and is that call: the waker.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;

/// How many descriptors [`Waker::wait`] takes beside the waker itself: a TUN queue, UDP of both families and some
/// room.
pub const SOURCES_MAX: usize = 7;

/// What a deadline beyond the kernel's clock becomes.
const LONGEST: Timespec = Timespec { tv_sec: i32::MAX as i64, tv_nsec: 0 };

/// Wakes a thread that waits. Cheap to clone; every clone wakes the same thread. Calls add up: one wait ends them all.
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

/// Why [`Waker::wait`] came back; all false when it was the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Woken<const N: usize> {
    /// Somebody called [`Waker::wake`] since the last wait.
    pub called: bool,
    /// In the order of the sources: there is something to read, or an error to be had by reading.
    pub ready: [bool; N],
}

impl Waker {
    /// Makes a waker.
    ///
    /// # Errors
    /// When the process has no file descriptors left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// Ends the current wait, or the next one if nobody waits. Never blocks.
    pub fn wake(&self) {
        // the only failure of a valid eventfd is a counter at its end, and then it is readable anyway
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }

    /// Waits until one of `sources` can be read, or `deadline` comes (`None`: never), or [`Waker::wake`] is called.
    /// An absent source is never ready. Returns at once, with what is ready, when the deadline has passed. Deadlines
    /// are kept to the millisecond, never early.
    ///
    /// # Errors
    /// When the kernel is out of memory; an interrupted wait goes on.
    pub fn wait<const N: usize>(
        &self,
        sources: [Option<BorrowedFd<'_>>; N],
        deadline: Option<Instant>,
    ) -> io::Result<Woken<N>> {
        const { assert!(N <= SOURCES_MAX) };
        let own = self.0.as_fd();
        // slot 0 is the waker; a slot whose source is absent asks it for nothing
        let mut polled = [(); SOURCES_MAX + 1].map(|()| PollFd::from_borrowed_fd(own, PollFlags::empty()));
        for (slot, source) in polled.iter_mut().zip([Some(own)].into_iter().chain(sources)) {
            if let Some(fd) = source {
                *slot = PollFd::from_borrowed_fd(fd, PollFlags::IN);
            }
        }
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let timeout = left.map(|left| Timespec::try_from(left).unwrap_or(LONGEST));
            match rustix::event::poll(&mut polled, timeout.as_ref()) {
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(_) => break,
            }
        }
        let mut ready = [false; N];
        for (ready, slot) in ready.iter_mut().zip(polled.iter().skip(1)) {
            *ready = !slot.revents().is_empty();
        }
        let called = polled.first().is_some_and(|waker| !waker.revents().is_empty());
        if called {
            // back to zero; it was readable, so this neither blocks nor fails
            let _ = rustix::io::read(own, &mut [0_u8; 8]);
        }
        Ok(Woken { called, ready })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn a_deadline_that_has_passed_returns_at_once() {
        let waker = Waker::new().unwrap();
        let woken = waker.wait([None], Some(Instant::now())).unwrap();
        assert_eq!(woken, Woken { called: false, ready: [false] });
    }

    #[test]
    fn a_deadline_is_never_early() {
        let waker = Waker::new().unwrap();
        let deadline = Instant::now() + Duration::from_millis(5);
        waker.wait([], Some(deadline)).unwrap();
        assert!(Instant::now() >= deadline);
    }

    #[test]
    fn calls_from_another_thread_add_up_to_one() {
        let waker = Waker::new().unwrap();
        let caller = waker.clone();
        thread::spawn(move || (0..3).for_each(|_| caller.wake())).join().unwrap();
        assert!(waker.wait([], None).unwrap().called);
        assert!(!waker.wait([], Some(Instant::now())).unwrap().called);
    }

    #[test]
    fn a_waiting_thread_is_woken() {
        let waker = Waker::new().unwrap();
        let sleeper = waker.clone();
        let thread = thread::spawn(move || sleeper.wait([], None).unwrap().called);
        waker.wake();
        assert!(thread.join().unwrap());
    }

    #[test]
    fn the_source_that_is_ready_is_named() {
        let waker = Waker::new().unwrap();
        let quiet = UdpSocket::bind("127.0.0.1:0").unwrap();
        let loud = UdpSocket::bind("127.0.0.1:0").unwrap();
        loud.send_to(b"x", loud.local_addr().unwrap()).unwrap();
        let sources = [Some(quiet.as_fd()), None, Some(loud.as_fd())];
        assert_eq!(waker.wait(sources, None).unwrap(), Woken { called: false, ready: [false, false, true] });
    }
}
