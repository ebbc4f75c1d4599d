//! The door to the overlay: one queue of the TUN device, which may be deleted under us.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use linux::fault::Fault;
use linux::tun::{PACKET_BYTES_MAX, Tun, TunError};

use super::counters::Counters;

/// The TUN device, or its absence.
pub(super) struct Inner {
    name: String,
    tun: Option<Tun>,
    packet: Box<[u8]>,
    counters: Arc<Counters>,
}

impl Inner {
    /// Opens a queue of the device `name`.
    pub(super) fn open(name: &str, counters: Arc<Counters>) -> Result<Self, TunError> {
        let tun = Tun::open(name)?;
        let packet = vec![0; PACKET_BYTES_MAX].into_boxed_slice();
        Ok(Self { name: name.to_owned(), tun: Some(tun), packet, counters })
    }

    /// Opens it once more, if it is gone.
    pub(super) fn reopen(&mut self) -> Result<(), TunError> {
        if self.tun.is_none() {
            self.tun = Some(Tun::open(&self.name)?);
        }
        Ok(())
    }

    /// Where it counts.
    pub(super) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Whether the device is open.
    pub(super) fn is_open(&self) -> bool {
        self.tun.is_some()
    }

    /// What to wait on.
    pub(super) fn source(&self) -> Option<BorrowedFd<'_>> {
        self.tun.as_ref().map(|tun| tun.as_fd())
    }

    /// The next packet on its way out, `None` when there is none now.
    pub(super) fn read(&mut self) -> Option<&[u8]> {
        match self.tun.as_ref()?.recv(&mut self.packet) {
            Ok(Some(length)) => {
                self.counters.tun_read.count(length);
                self.packet.get(..length)
            }
            Ok(None) => None,
            Err(error) => {
                // whatever it is, the device would be readable for ever: better to have it opened anew
                self.lose(&error);
                None
            }
        }
    }

    /// Hands on a packet to a local workload.
    pub(super) fn write(&mut self, packet: &[u8]) {
        let Some(tun) = &self.tun else {
            self.counters.tun_fault(Fault::Gone);
            return;
        };
        match tun.send(packet) {
            Ok(()) => self.counters.tun_written.count(packet.len()),
            Err(error) if Fault::of(&error) == Fault::Gone => self.lose(&error),
            Err(error) => self.counters.tun_fault(Fault::of(&error)),
        }
    }

    fn lose(&mut self, error: &io::Error) {
        self.counters.tun_fault(Fault::Gone);
        self.tun = None;
        tracing::warn!(link = %self.name, %error, "The TUN device is gone");
    }
}
