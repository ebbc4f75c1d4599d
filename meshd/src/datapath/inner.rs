//! The door to the overlay: one queue of the TUN device, which may be deleted under us.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use linux::fault::Fault;
use linux::tun::{HEADER_BYTES, PACKET_BYTES_MAX, Tun, TunError, TunOffload};
use packet::{OFFLOAD_HEADER, Offload, RUN_MAX, Run};

use super::counters::Counters;

const _: () = assert!(HEADER_BYTES == OFFLOAD_HEADER, "both are struct virtio_net_hdr");

/// The longest headers that joining rewrites: IPv6 and TCP with all its options.
const HEADERS_MAX: usize = 40 + 60;

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
                    self.lose(&error);
                    return None;
                }
            }
        }
    }

    /// Hands on packets to local workloads: where they lie in `message`, each with at least [`OFFLOAD_HEADER`] bytes in
    /// front of it that nobody needs any more. Those of one flow that follow each other go as one.
    pub(super) fn write(&mut self, message: &mut [u8], mut packets: &[Range<usize>]) {
        while let Some((first, others)) = packets.split_first() {
            let (run, payloads) = self.join(message, first, others);
            let (_, rest) = others.split_at(run.count() - 1);
            self.write_run(message, first, &run, others, &payloads);
            packets = rest;
        }
    }

    /// Finds the run that begins with `first`, and where the payload of each packet after it begins.
    fn join(&self, message: &[u8], first: &Range<usize>, others: &[Range<usize>]) -> (Run, [u16; RUN_MAX]) {
        let head = message.get(first.clone()).unwrap_or_default();
        let mut payloads = [0; RUN_MAX];
        let mut run = Run::new(head);
        let may_join = match self.join {
            TunOffload::None => false,
            TunOffload::Tcp => !run.is_udp(),
            TunOffload::Udp => true,
        };
        if may_join {
            for (other, payload) in others.iter().zip(&mut payloads) {
                let packet = message.get(other.clone()).unwrap_or_default();
                let Some(at) = run.join(head, packet) else { break };
                *payload = u16::try_from(at).unwrap_or_default();
            }
        }
        (run, payloads)
    }

    fn write_run(
        &mut self,
        message: &mut [u8],
        first: &Range<usize>,
        run: &Run,
        others: &[Range<usize>],
        payloads: &[u16; RUN_MAX],
    ) {
        let mut headers = [0; HEADERS_MAX];
        let head = message.get_mut(first.clone()).unwrap_or_default();
        let saved = head.len().min(HEADERS_MAX);
        headers.iter_mut().zip(&*head).for_each(|(to, from)| *to = *from);
        let offload = run.finish(head);
        let Some(begin) = first.start.checked_sub(OFFLOAD_HEADER) else { return };
        if let Some(place) = message.get_mut(begin..).and_then(|rest| rest.first_chunk_mut()) {
            *place = offload.to_bytes();
        }
        let others = others.get(..run.count() - 1).unwrap_or_default();
        let mut parts = [IoSlice::new(&[]); RUN_MAX];
        let ranges = others.iter().zip(payloads).map(|(other, at)| other.start + usize::from(*at)..other.end);
        for (part, range) in parts.iter_mut().zip(std::iter::once(begin..first.end).chain(ranges)) {
            *part = IoSlice::new(message.get(range).unwrap_or_default());
        }
        let Some(tun) = &self.tun else {
            self.counters.tun_fault(Fault::Gone);
            return;
        };
        match tun.send(parts.get(..run.count()).unwrap_or_default()) {
            Ok(()) => self.counters.tun_written.add(run.count(), run.total_length()),
            Err(error) if Fault::of(&error) == Fault::Gone => self.lose(&error),
            Err(error) if run.count() > 1 && Fault::of(&error) == Fault::Other => {
                self.refuse(run.is_udp(), &error);
                if let Some(head) = message.get_mut(first.clone()).and_then(|head| head.get_mut(..saved)) {
                    head.iter_mut().zip(&headers).for_each(|(to, from)| *to = *from);
                }
                self.write_singly(message, first, others);
            }
            Err(error) => self.counters.tun_fault(Fault::of(&error)),
        }
    }

    /// The kernel does not take super packets after all (some do not, whatever they say): from now on it gets packets.
    fn refuse(&mut self, is_udp: bool, error: &io::Error) {
        self.join = if is_udp { TunOffload::Tcp } else { TunOffload::None };
        self.counters.fell_back();
        tracing::warn!(link = %self.name, %error, now = self.join.label(), "The TUN device refuses super packets");
    }

    fn write_singly(&mut self, message: &mut [u8], first: &Range<usize>, others: &[Range<usize>]) {
        for packet in std::iter::once(first).chain(others) {
            let alone = Run::new(message.get(packet.clone()).unwrap_or_default());
            self.write_run(message, packet, &alone, &[], &[0; RUN_MAX]);
        }
    }

    /// A packet was dropped because its sender could not have seen that the path is congested.
    pub(super) fn congested(&self) {
        self.counters.congested();
    }

    fn lose(&mut self, error: &io::Error) {
        self.counters.tun_fault(Fault::Gone);
        self.tun = None;
        tracing::warn!(link = %self.name, %error, "The TUN device is gone");
    }
}
