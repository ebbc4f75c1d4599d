//! The door to the overlay: one queue of the TUN device, which may be deleted under us.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use linux::fault::Fault;
use linux::tun::{HEADER_BYTES, PACKET_BYTES_MAX, Tun, TunError, TunOffload};
use packet::{HEAD_MAX, OFFLOAD_HEADER, Offload, RUN_MAX, Run};

use super::counters::Counters;
use super::train::Train;

const _: () = assert!(HEADER_BYTES == OFFLOAD_HEADER, "both are struct virtio_net_hdr");

/// The TUN device, or its absence.
pub(super) struct Inner {
    name: String,
    tun: Option<Tun>,
    wanted: TunOffload,
    /// What the kernel leaves to us.
    offload: TunOffload,
    /// What we leave to the kernel: as much, until it refuses some.
    join: TunOffload,
    packet: Box<[u8]>,
    counters: Arc<Counters>,
}

impl Inner {
    /// Opens a queue of the device `name`, with as much offload as is wanted and the kernel has.
    pub(super) fn open(name: &str, wanted: TunOffload, counters: Arc<Counters>) -> Result<Self, TunError> {
        let packet = vec![0; PACKET_BYTES_MAX].into_boxed_slice();
        let (offload, join) = (TunOffload::None, TunOffload::None);
        let mut inner = Self { name: name.to_owned(), tun: None, wanted, offload, join, packet, counters };
        inner.reopen()?;
        Ok(inner)
    }

    /// Opens it once more, if it is gone.
    pub(super) fn reopen(&mut self) -> Result<(), TunError> {
        if self.tun.is_none() {
            let tun = Tun::open(&self.name)?;
            self.offload = tun.set_offload(self.wanted);
            self.join = self.offload;
            self.tun = Some(tun);
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

    /// What the kernel leaves to us, and what we leave to it.
    pub(super) fn offloads(&self) -> (TunOffload, TunOffload) {
        (self.offload, self.join)
    }

    /// What to wait on.
    pub(super) fn source(&self) -> Option<BorrowedFd<'_>> {
        self.tun.as_ref().map(|tun| tun.as_fd())
    }

    /// The next packet on its way out with what is left to do on it, `None` when there is none now.
    pub(super) fn read(&mut self) -> Option<(Offload, &[u8])> {
        loop {
            match self.tun.as_ref()?.recv(&mut self.packet) {
                Ok(Some(length)) => {
                    let Some(header) = self.packet.first_chunk().filter(|_| length > OFFLOAD_HEADER) else { continue };
                    // nothing that was not asked for comes
                    let Some(offload) = Offload::parse(header) else { continue };
                    return Some((offload, self.packet.get(OFFLOAD_HEADER..length)?));
                }
                Ok(None) => return None,
                Err(error) => {
                    // whatever it is, the device would be readable for ever: better to have it opened anew
                    self.lose(&error, 1);
                    return None;
                }
            }
        }
    }

    /// Hands on a packet to a local workload. Packets of one flow that follow each other go as one, so it may stay in
    /// `train` until another one comes that does not follow, or until [`write_train`](Self::write_train).
    pub(super) fn write<'a>(&mut self, train: &mut Train<'a>, packet: &'a [u8]) {
        if !train.join(packet) {
            self.write_train(train);
            let run = train.begin(packet);
            let may_join = match self.join {
                TunOffload::None => false,
                TunOffload::Tcp => !run.is_udp(),
                TunOffload::Udp => true,
            };
            if may_join && run.is_open() {
                return;
            }
            self.write_train(train);
        } else if !train.is_open() {
            self.write_train(train);
        }
    }

    /// Hands on what is in `train`.
    pub(super) fn write_train(&mut self, train: &mut Train<'_>) {
        let Some(run) = train.run().copied() else { return };
        let mut head = [0; HEAD_MAX];
        let mut parts = [IoSlice::new(&[]); RUN_MAX + 1];
        let count = train.parts(&mut head, &mut parts);
        let is_refused = !self.write_parts(parts.get(..count).unwrap_or_default(), &run);
        let Some(packets) = train.take() else { return };
        if is_refused {
            let header = Offload::default().to_bytes();
            for packet in packets {
                self.write_parts(&[IoSlice::new(&header), IoSlice::new(packet)], &Run::new(packet));
            }
        }
    }

    /// Writes one packet or super packet; false if it was a super packet that has to be written in single packets.
    fn write_parts(&mut self, parts: &[IoSlice<'_>], run: &Run) -> bool {
        let Some(tun) = &self.tun else {
            self.counters.tun_faults(Fault::Gone, run.count());
            return true;
        };
        match tun.send(parts) {
            Ok(()) => self.counters.tun_written.add(run.count(), run.total_length()),
            Err(error) if Fault::of(&error) == Fault::Gone => self.lose(&error, run.count()),
            Err(error) if run.count() > 1 && Fault::of(&error) == Fault::Other => {
                self.refuse(run.is_udp(), &error);
                return false;
            }
            Err(error) => self.counters.tun_faults(Fault::of(&error), run.count()),
        }
        true
    }

    /// The kernel does not take super packets after all (some do not, whatever they say): from now on it gets packets.
    fn refuse(&mut self, is_udp: bool, error: &io::Error) {
        self.join = if is_udp { TunOffload::Tcp } else { TunOffload::None };
        self.counters.fell_back();
        tracing::warn!(link = %self.name, %error, now = self.join.label(), "The TUN device refuses super packets");
    }

    /// A packet was dropped because its sender could not have seen that the path is congested.
    pub(super) fn congested(&self) {
        self.counters.congested();
    }

    /// The device is gone, and so many packets with it.
    fn lose(&mut self, error: &io::Error, count: usize) {
        self.counters.tun_faults(Fault::Gone, count);
        self.tun = None;
        tracing::warn!(link = %self.name, %error, "The TUN device is gone");
    }
}
