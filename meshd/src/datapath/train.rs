//! Opened packets that follow each other and will be written to the TUN device as one.

use std::io::IoSlice;

use packet::{HEAD_MAX, Head, RUN_MAX, Run};

/// The packets of one run, which lie where they were opened: in one datagram or in several.
pub(super) struct Train<'a> {
    /// `None` while it is empty.
    run: Option<Run>,
    packets: [&'a [u8]; RUN_MAX],
    /// Where in each packet after the first its payload begins.
    payloads: [u16; RUN_MAX],
}

impl<'a> Train<'a> {
    /// An empty one.
    pub(super) const fn new() -> Self {
        Self { run: None, packets: [&[]; RUN_MAX], payloads: [0; RUN_MAX] }
    }

    /// Begins with any packet; what was there before is forgotten.
    pub(super) fn begin(&mut self, packet: &'a [u8]) -> &Run {
        let [first, ..] = &mut self.packets;
        *first = packet;
        self.run.insert(Run::new(packet))
    }

    /// The run so far.
    pub(super) const fn run(&self) -> Option<&Run> {
        self.run.as_ref()
    }

    /// Whether a packet could follow.
    pub(super) fn is_open(&self) -> bool {
        self.run.as_ref().is_some_and(Run::is_open)
    }

    /// Takes a packet if it follows those that are there.
    pub(super) fn join(&mut self, packet: &'a [u8]) -> bool {
        let (Some(run), [first, ..]) = (&mut self.run, &self.packets) else { return false };
        let at = run.count();
        let Some(payload_at) = run.join(first, packet) else { return false };
        if let (Some(place), Some(payload)) = (self.packets.get_mut(at), self.payloads.get_mut(at)) {
            *place = packet;
            *payload = u16::try_from(payload_at).unwrap_or_default();
        }
        true
    }

    /// Empties it of its packets.
    pub(super) fn take(&mut self) -> Option<&[&'a [u8]]> {
        self.packets.get(..self.run.take()?.count())
    }

    /// Its parts as they are written: the head, which is made in `head`, and the payloads.
    pub(super) fn parts<'b>(&'b self, head: &'b mut [u8; HEAD_MAX], parts: &mut [IoSlice<'b>; RUN_MAX + 1]) -> usize {
        let (Some(run), [first, ..]) = (&self.run, &self.packets) else { return 0 };
        let Head { length, payload_at } = run.write_head(first, head);
        let payloads = self.packets.iter().zip(&self.payloads).skip(1).take(run.count() - 1);
        let payloads = payloads.map(|(packet, at)| packet.get(usize::from(*at)..));
        let all = [head.get(..length), first.get(payload_at..)].into_iter().chain(payloads);
        for (part, bytes) in parts.iter_mut().zip(all) {
            *part = IoSlice::new(bytes.unwrap_or_default());
        }
        run.count() + 1
    }
}

#[cfg(test)]
mod tests {
    use packet::{Gso, OFFLOAD_HEADER, Offload, Segments, checksum};

    use super::*;

    /// A TCP segment of 10.0.0.1:`port` with so many bytes of payload, and what is left to do on it.
    fn segment(port: u8, length: usize, step: u16) -> (Vec<u8>, Offload) {
        let total = u16::try_from(40 + length).unwrap().to_be_bytes();
        let mut packet = vec![0x45, 0, total[0], total[1], 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let header = checksum::checksum(&packet).to_be_bytes();
        packet[10..12].copy_from_slice(&header);
        packet.extend([0, port, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
        packet.extend((0..length).map(|n| u8::try_from(n % 253).unwrap()));
        let offload = Offload {
            needs_checksum: true,
            gso: Gso::TcpV4,
            segment_bytes: step,
            checksum_start: 20,
            checksum_offset: 16,
            ..Offload::default()
        };
        (packet, offload)
    }

    /// Packets as they come out of a peer's datagrams: with right checksums.
    fn cut(packet: &[u8], offload: &Offload) -> Vec<Vec<u8>> {
        let mut segments = Segments::new(offload, packet, 65_535).unwrap();
        let mut all = Vec::new();
        while let Some(length) = segments.next_length() {
            let mut out = vec![0; length];
            segments.write_next(&mut out).unwrap();
            all.push(out);
        }
        all
    }

    /// Their identifications count up from the first of each train; where fragmenting is forbidden they mean nothing.
    fn without_id(packets: impl IntoIterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
        let plain = |mut packet: Vec<u8>| {
            packet[4..6].fill(0);
            packet[10..12].fill(0);
            packet
        };
        packets.into_iter().map(plain).collect()
    }

    /// What is written: each time how many packets, and these cut apart again.
    fn write(train: &mut Train<'_>, written: &mut Vec<(usize, Vec<Vec<u8>>)>) {
        let mut head = [0; HEAD_MAX];
        let mut parts = [IoSlice::new(&[]); RUN_MAX + 1];
        let count = train.parts(&mut head, &mut parts);
        let bytes = parts[..count].iter().flat_map(|part| part.to_vec()).collect::<Vec<_>>();
        let Some(packets) = train.take() else { return };
        let offload = Offload::parse(bytes.first_chunk().unwrap()).unwrap();
        written.push((packets.len(), cut(&bytes[OFFLOAD_HEADER..], &offload)));
    }

    /// Hands on packets as the data path does.
    fn carry(packets: &[Vec<u8>]) -> Vec<(usize, Vec<Vec<u8>>)> {
        let (mut train, mut written) = (Train::new(), Vec::new());
        for packet in packets {
            if !train.join(packet) {
                write(&mut train, &mut written);
                train.begin(packet);
            }
            if !train.is_open() {
                write(&mut train, &mut written);
            }
        }
        write(&mut train, &mut written);
        written
    }

    /// Packets that lie in memory of their own each, as those of several messages do.
    #[test]
    fn a_train_is_bounded_and_comes_apart_again() {
        let (packet, offload) = segment(7, 64_000, 640);
        let packets = cut(&packet, &offload);
        assert_eq!(packets.len(), 100);
        let written = carry(&packets);
        assert_eq!(written.iter().map(|(count, _)| *count).collect::<Vec<_>>(), [RUN_MAX, 100 - RUN_MAX]);
        let apart = without_id(written.into_iter().flat_map(|(_, packets)| packets));
        assert_eq!(apart, without_id(packets));
    }

    /// What nothing can follow does not wait for what comes next.
    #[test]
    fn a_full_train_and_one_with_a_shorter_last_packet_are_closed() {
        for (length, count) in [(64_000, RUN_MAX), (1500, 3)] {
            let (packet, offload) = segment(7, length, 640);
            let packets = cut(&packet, &offload);
            let mut train = Train::new();
            train.begin(&packets[0]);
            for packet in &packets[1..count] {
                assert!(train.is_open() && train.join(packet));
            }
            assert!(!train.is_open(), "{count} of {length} bytes");
        }
    }

    #[test]
    fn flows_that_alternate_stay_in_order() {
        let [(a, offload), (b, _)] = [segment(7, 3000, 1000), segment(8, 3000, 1000)];
        let (ours, theirs) = (cut(&a, &offload), cut(&b, &offload));
        let mixed = [&ours[..2], &theirs[..1], &ours[2..], &theirs[1..]].concat();
        let written = carry(&mixed);
        assert_eq!(written.iter().map(|(count, _)| *count).collect::<Vec<_>>(), [2, 1, 1, 2]);
        let port = |packet: &[u8]| packet[21];
        let order: Vec<_> = written.iter().flat_map(|(_, packets)| packets.iter().map(|packet| port(packet))).collect();
        assert_eq!(order, mixed.iter().map(|packet| port(packet)).collect::<Vec<_>>());
        // a missing one is not joined over
        let with_gap = [&ours[..1], &ours[2..]].concat();
        assert_eq!(carry(&with_gap).len(), 2);
    }
}
