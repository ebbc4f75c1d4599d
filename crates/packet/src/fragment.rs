//! Fragments of an IPv4 packet whose sender allows it (RFC 791 §2.3).

use crate::ip::{IPV4_HEADER_MIN, IpPacket, Version};
use crate::segment::write_ipv4_checksum;
use crate::write::{get16, put16};

/// Flags beside the fragment's offset.
const DONT_FRAGMENT: u16 = 0x4000;
const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
/// Options that are in every fragment (RFC 791 §3.1).
const COPIED: u8 = 0x80;
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;

/// The fragments of one packet, which may be a fragment itself.
#[derive(Clone, Debug)]
pub struct Fragments<'a> {
    packet: &'a [u8],
    header: usize,
    /// Payload bytes of each but the last, a multiple of eight.
    step: usize,
    given: usize,
}

impl<'a> Fragments<'a> {
    /// Prepares to cut `packet` so that nothing is longer than `limit` bytes. `None` where that is forbidden or
    /// impossible: IPv6, don't fragment, no room for eight bytes.
    #[must_use]
    pub fn new(packet: &'a [u8], limit: usize) -> Option<Self> {
        let ip = IpPacket::parse(packet).ok()?;
        if ip.version() != Version::V4 || get16(packet, 6) & DONT_FRAGMENT != 0 {
            return None;
        }
        let header = ip.payload_offset();
        let step = limit.checked_sub(header)? & !7;
        (step > 0).then_some(Self { packet: ip.bytes(), header, step, given: 0 })
    }

    /// Length of the next fragment in bytes; `None` when there are no more.
    #[must_use]
    pub fn next_length(&self) -> Option<usize> {
        let left = self.packet.len() - self.header - self.given;
        (left > 0).then(|| self.header + left.min(self.step))
    }

    /// Writes the next fragment to the start of `out` and gives its length; `None` when there are no more, or when `out`
    /// is shorter than [`next_length`](Self::next_length).
    pub fn write_next(&mut self, out: &mut [u8]) -> Option<usize> {
        let length = self.next_length()?;
        let (header, payload) = out.get_mut(..length)?.split_at_mut_checked(self.header)?;
        let from = self.header + self.given;
        header.copy_from_slice(self.packet.get(..self.header)?);
        payload.copy_from_slice(self.packet.get(from..from + payload.len())?);
        if self.given > 0 {
            drop_uncopied_options(header);
        }
        self.given += payload.len();
        let field = get16(self.packet, 6);
        let is_last = self.given + self.header >= self.packet.len();
        let offset = (field & OFFSET).saturating_add(u16::try_from((from - self.header) / 8).unwrap_or(OFFSET));
        let more = if is_last { field & MORE } else { MORE };
        put16(header, 2, length);
        put16(header, 6, offset & OFFSET | more);
        write_ipv4_checksum(header);
        Some(length)
    }
}

/// Options that only the first fragment carries become no-operations, so that the header keeps its length.
fn drop_uncopied_options(header: &mut [u8]) {
    let mut rest = header.get_mut(IPV4_HEADER_MIN..).unwrap_or_default();
    while let [kind, after @ ..] = rest {
        let length = match (*kind, after.first()) {
            (END_OF_OPTIONS, _) => return,
            (NO_OPERATION, _) => 1,
            (_, Some(length)) if *length >= 2 => usize::from(*length),
            _ => return,
        };
        let is_copied = *kind & COPIED != 0;
        let Some((option, next)) = rest.split_at_mut_checked(length) else { return };
        if !is_copied {
            option.fill(NO_OPERATION);
        }
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ip::{protocol, tests::v4, tests::v6};

    fn cut(packet: &[u8], limit: usize) -> Vec<Vec<u8>> {
        let mut fragments = Fragments::new(packet, limit).unwrap();
        let mut all = Vec::new();
        while let Some(length) = fragments.next_length() {
            let mut out = vec![0; length];
            assert_eq!(fragments.write_next(&mut out), Some(length));
            all.push(out);
        }
        all
    }

    /// What a receiver makes of fragments, straight from RFC 791.
    fn reassemble(fragments: &[Vec<u8>]) -> (Vec<u8>, bool) {
        let mut data = Vec::new();
        let mut more = true;
        for bytes in fragments {
            let ip = IpPacket::parse(bytes).unwrap();
            assert_eq!(crate::checksum::checksum(&bytes[..ip.payload_offset()]), 0);
            let fragment = ip.fragment();
            let offset = fragment.map_or(0, |fragment| usize::from(fragment.offset_bytes));
            data.resize(data.len().max(offset + ip.payload().len()), 0);
            data[offset..offset + ip.payload().len()].copy_from_slice(ip.payload());
            more = fragment.is_some_and(|fragment| fragment.more);
        }
        (data, more)
    }

    #[test]
    fn what_may_not_be_fragmented_is_not() {
        assert!(Fragments::new(&v4(protocol::UDP, 0x4000, 0, &[0; 100]), 60).is_none());
        assert!(Fragments::new(&v6(protocol::UDP, &[0; 100]), 60).is_none());
        assert!(Fragments::new(&v4(protocol::UDP, 0, 0, &[0; 100]), 27).is_none());
        assert!(Fragments::new(b"", 1000).is_none());
    }

    #[test]
    fn options_for_the_first_fragment_only_are_in_the_first_only() {
        let mut packet = v4(protocol::UDP, 0, 4, &[7; 64]);
        // record route, not copied; loose source route, copied; no operation; end
        packet[20..36].copy_from_slice(&[7, 7, 4, 0, 0, 0, 0, 0x83, 7, 4, 0, 0, 0, 0, 1, 0]);
        let fragments = cut(&packet, 70);
        assert_eq!(fragments[0][20..36], packet[20..36]);
        assert_eq!(fragments[1][20..36], [1, 1, 1, 1, 1, 1, 1, 0x83, 7, 4, 0, 0, 0, 0, 1, 0]);
        // an option whose length is a lie ends the list
        packet[21] = 1;
        assert_eq!(cut(&packet, 70)[1][20..36], packet[20..36]);
    }

    proptest! {
        #[test]
        fn fragments_are_the_packet(length in 1usize..5000, limit in 68usize..1500, options in 0usize..10, at in 0u16..100, is_middle: bool) {
            let payload: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect();
            // a whole packet, or a fragment in the middle of another
            let field = if is_middle { MORE | at } else { 0 };
            let packet = v4(protocol::UDP, field, options, &payload);
            let fragments = cut(&packet, limit);
            prop_assert!(fragments.iter().all(|fragment| fragment.len() <= limit));
            let (data, more) = reassemble(&fragments);
            let start = if is_middle { usize::from(at) * 8 } else { 0 };
            prop_assert_eq!(&data[start..], &payload[..]);
            prop_assert_eq!(more, is_middle);
        }
    }
}
