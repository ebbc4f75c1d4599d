//! Waits for several descriptors, a deadline or another thread's call; and is that call: the waker.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec};
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};

/// How many events one wait takes from the kernel: those of a TUN queue, UDP of both families, the waker and the clock,
/// and some room. What does not fit is there at the next wait.
const EVENTS_MAX: usize = 8;

/// What a deadline beyond the kernel's clock becomes.
const LONGEST: Timespec = Timespec { tv_sec: i32::MAX as i64, tv_nsec: 0 };

/// A timeout that does not wait.
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Marks of the events that are not of a source; sources have their number.
const CALL: u64 = u64::MAX;
const CLOCK: u64 = u64::MAX - 1;

/// Wakes a thread that waits. Cheap to clone; every clone wakes the same thread. Calls add up: one wait ends them all.
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// Ends the current wait, or the next one if nobody waits. Never blocks.
    pub fn wake(&self) {
        // the only failure of a valid eventfd is a counter at its end, and then it is readable anyway
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }
}

/// Why [`Poll::wait`] came back; all false when it was the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Woken<const N: usize> {
    /// Somebody called [`Waker::wake`] since the last wait.
    pub called: bool,
    /// By number of the source: there is something to read, or an error to be had by reading.
    pub ready: [bool; N],
}

/// What one thread waits for: up to `N` sources, a deadline, and its [`Waker`].
///
/// The kernel is told of a source once and not at every wait (epoll(7), level-triggered), and of a deadline only when
/// it comes before the one it knows: most deadlines move away before they come.
#[derive(Debug)]
pub struct Poll<const N: usize> {
    epoll: OwnedFd,
    waker: Waker,
    clock: OwnedFd,
    /// When the clock rings.
    rings: Option<Instant>,
    watched: [Option<RawFd>; N],
}

impl<const N: usize> Poll<N> {
    /// Watches nothing but its waker.
    ///
    /// # Errors
    /// When the process has no file descriptors left.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let waker = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let clock = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        for (own, mark) in [(&waker, CALL), (&clock, CLOCK)] {
            epoll::add(&epoll, own, EventData::new_u64(mark), EventFlags::IN)?;
        }
        Ok(Self { epoll, waker: Waker(Arc::new(waker)), clock, rings: None, watched: [None; N] })
    }

    /// What wakes the thread that waits here.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// From now on source number `at` is this one; `None`: there is none. Costs nothing while it stays the same, by the
    /// number of its descriptor: who closes one and opens another, which may get the same number, says `None` in
    /// between.
    ///
    /// # Errors
    /// When the kernel is out of memory or of watches (fs.epoll.max_user_watches), or `at` is `N` or more.
    pub fn watch(&mut self, at: usize, source: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let Some(watched) = self.watched.get_mut(at) else { return Err(Errno::INVAL.into()) };
        let new = source.map(|fd| fd.as_raw_fd());
        if *watched == new {
            return Ok(());
        }
        if let Some(old) = watched.take() {
            // SAFETY: EPOLL_CTL_DEL takes numbers and no pointer; a number that names nothing here is refused, which is
            // as good: what is closed is not watched.
            unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, old, std::ptr::null_mut()) };
        }
        if let Some(source) = source {
            epoll::add(&self.epoll, source, EventData::new_u64(at as u64), EventFlags::IN)?;
            *watched = new;
        }
        Ok(())
    }

    /// Waits until a source can be read, or `deadline` comes (`None`: never), or [`Waker::wake`] is called. An absent
    /// source is never ready. Returns at once, with what is ready, when the deadline has passed. A deadline is never
    /// early.
    ///
    /// # Errors
    /// When the kernel is out of memory; an interrupted wait goes on.
    pub fn wait(&mut self, deadline: Option<Instant>) -> io::Result<Woken<N>> {
        loop {
            let waits = self.set_clock(deadline)?;
            let woken = self.look(waits)?;
            if woken.called
                || woken.ready.contains(&true)
                || deadline.is_some_and(|deadline| deadline <= Instant::now())
            {
                return Ok(woken);
            }
        }
    }

    /// What is ready now.
    ///
    /// # Errors
    /// As of [`wait`](Self::wait).
    pub fn ready(&mut self) -> io::Result<Woken<N>> {
        self.look(false)
    }

    /// Makes sure that the clock rings no later than the deadline; false if that has passed.
    fn set_clock(&mut self, deadline: Option<Instant>) -> io::Result<bool> {
        let Some(deadline) = deadline else { return Ok(true) };
        if self.rings.is_some_and(|rings| rings <= deadline) {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left == Duration::ZERO {
            return Ok(false);
        }
        let it_value = Timespec::try_from(left).unwrap_or(LONGEST);
        let once = Itimerspec { it_interval: AT_ONCE, it_value };
        rustix::time::timerfd_settime(&self.clock, TimerfdTimerFlags::empty(), &once)?;
        self.rings = Some(deadline);
        Ok(true)
    }

    fn look(&mut self, waits: bool) -> io::Result<Woken<N>> {
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; EVENTS_MAX];
        let timeout = (!waits).then_some(&AT_ONCE);
        let filled = loop {
            match epoll::wait(&self.epoll, &mut events, timeout) {
                Err(Errno::INTR) => {}
                other => break other?,
            }
        };
        let mut woken = Woken { called: false, ready: [false; N] };
        for event in events.iter().take(filled) {
            match event.data.u64() {
                CALL => {
                    woken.called = true;
                    // back to zero; it was readable, so this neither blocks nor fails
                    let _ = rustix::io::read(&*self.waker.0, &mut [0_u8; 8]);
                }
                CLOCK => {
                    self.rings = None;
                    // the same
                    let _ = rustix::io::read(&self.clock, &mut [0_u8; 8]);
                }
                // a child that has not become another program yet keeps what we have closed
                at => {
                    if let (Some(ready), Some(Some(_))) =
                        (woken.ready.get_mut(at as usize), self.watched.get(at as usize))
                    {
                        *ready = true;
                    }
                }
            }
        }
        Ok(woken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixDatagram;
    use std::thread;

    /// A socket with something to read, and what keeps it from its end.
    fn readable() -> (UnixDatagram, UnixDatagram) {
        let (socket, other) = UnixDatagram::pair().unwrap();
        other.send(b"x").unwrap();
        (socket, other)
    }

    #[test]
    fn a_deadline_that_has_passed_returns_at_once() {
        let mut poll = Poll::new().unwrap();
        for _ in 0..2 {
            let woken = poll.wait(Some(Instant::now())).unwrap();
            assert_eq!(woken, Woken { called: false, ready: [false] });
        }
        let (loud, _other) = readable();
        poll.watch(0, Some(loud.as_fd())).unwrap();
        let past = Instant::now().checked_sub(Duration::from_secs(1));
        assert_eq!(poll.wait(past).unwrap(), Woken { called: false, ready: [true] }, "with what is ready");
    }

    #[test]
    fn a_deadline_is_never_early_whichever_way_it_moves() {
        let mut poll = Poll::<0>::new().unwrap();
        let begun = Instant::now();
        // the clock is set for the first, stays for the second, and has to be set for the third and the fourth
        poll.waker().wake();
        assert!(poll.wait(Some(begun + Duration::from_millis(20))).unwrap().called);
        for ms in [40, 45, 50] {
            let deadline = begun + Duration::from_millis(ms);
            poll.wait(Some(deadline)).unwrap();
            assert!(Instant::now() >= deadline, "{ms} ms");
        }
        poll.waker().wake();
        poll.wait(Some(begun + Duration::from_secs(3600))).unwrap();
        let deadline = Instant::now() + Duration::from_millis(5);
        poll.wait(Some(deadline)).unwrap();
        assert!((deadline..deadline + Duration::from_secs(60)).contains(&Instant::now()), "nor an hour late");
    }

    #[test]
    fn a_clock_that_rings_for_an_old_deadline_ends_no_wait() {
        let mut poll = Poll::<0>::new().unwrap();
        let (waker, begun) = (poll.waker(), Instant::now());
        waker.wake();
        poll.wait(Some(begun + Duration::from_millis(5))).unwrap();
        let caller = thread::spawn(move || {
            while begun.elapsed() < Duration::from_millis(20) {
                thread::yield_now();
            }
            waker.wake();
        });
        assert!(poll.wait(None).unwrap().called, "the deadline was another wait's");
        caller.join().unwrap();
    }

    #[test]
    fn calls_from_another_thread_add_up_to_one() {
        let mut poll = Poll::<0>::new().unwrap();
        let caller = poll.waker();
        thread::spawn(move || (0..3).for_each(|_| caller.wake())).join().unwrap();
        assert!(poll.wait(None).unwrap().called);
        assert!(!poll.ready().unwrap().called);
    }

    #[test]
    fn a_waiting_thread_is_woken() {
        let mut poll = Poll::<0>::new().unwrap();
        let waker = poll.waker();
        let thread = thread::spawn(move || poll.wait(None).unwrap().called);
        waker.wake();
        assert!(thread.join().unwrap());
    }

    #[test]
    fn the_source_that_is_ready_is_named_until_it_is_read_or_given_up() {
        let (quiet, _silent) = UnixDatagram::pair().unwrap();
        let (loud, _other) = readable();
        let mut poll = Poll::<3>::new().unwrap();
        poll.watch(0, Some(quiet.as_fd())).unwrap();
        poll.watch(2, Some(loud.as_fd())).unwrap();
        for _ in 0..2 {
            assert_eq!(poll.wait(None).unwrap(), Woken { called: false, ready: [false, false, true] });
        }
        poll.watch(2, None).unwrap();
        assert_eq!(poll.ready().unwrap().ready, [false; 3]);
        poll.watch(1, Some(loud.as_fd())).unwrap();
        assert_eq!(poll.wait(None).unwrap().ready, [false, true, false]);
        loud.recv(&mut [0; 1]).unwrap();
        assert_eq!(poll.ready().unwrap().ready, [false; 3]);
    }

    #[test]
    fn another_descriptor_of_the_same_number_is_watched_anew() {
        let mut poll = Poll::<1>::new().unwrap();
        let (first, _other) = readable();
        poll.watch(0, Some(first.as_fd())).unwrap();
        // another test may take the number first: then this is about two descriptors, which has to work, too
        drop(first);
        let (second, _third) = readable();
        poll.watch(0, None).unwrap();
        poll.watch(0, Some(second.as_fd())).unwrap();
        assert_eq!(poll.wait(None).unwrap().ready, [true]);
    }
}
