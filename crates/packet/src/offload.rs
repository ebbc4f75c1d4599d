//! The header in front of a packet that the kernel has left work on, or will find work on: `struct virtio_net_hdr`.

/// Length of the header in bytes (virtio 1.2 §5.1.6 without `num_buffers`; linux/virtio_net.h).
pub const OFFLOAD_HEADER: usize = 10;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the checksum field holds the pseudo header's sum only.
const NEEDS_CHECKSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_ECN`: the first segment alone carries CWR.
const ECN: u8 = 0x80;

/// What a packet is to be cut into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gso {
    /// It is one packet.
    #[default]
    None,
    /// TCP segments over IPv4.
    TcpV4,
    /// TCP segments over IPv6.
    TcpV6,
    /// UDP datagrams over either, each with a header of its own (`UDP_L4`, Linux 6.2).
    Udp,
}

/// What is left to do on a packet, as the kernel tells it and is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The checksum is to be completed: the field holds the folded sum of the pseudo header.
    pub needs_checksum: bool,
    /// Whether and into what it is to be cut.
    pub gso: Gso,
    /// Length of all headers in bytes; a hint.
    pub header_length: u16,
    /// Payload bytes of each segment but the last; 0 where it is one packet.
    pub segment_bytes: u16,
    /// Where the checksummed part begins, in bytes from the start of the packet.
    pub checksum_start: u16,
    /// Where the checksum is, in bytes from there.
    pub checksum_offset: u16,
}

impl Offload {
    /// Reads the header. `None` for a kind of segmentation that nobody asked the kernel for.
    #[must_use]
    pub fn parse(bytes: &[u8; OFFLOAD_HEADER]) -> Option<Self> {
        let [flags, kind, h0, h1, s0, s1, c0, c1, o0, o1] = *bytes;
        // linux/virtio_net.h, VIRTIO_NET_HDR_GSO_*
        let gso = match kind & !ECN {
            0 => Gso::None,
            1 => Gso::TcpV4,
            4 => Gso::TcpV6,
            5 => Gso::Udp,
            _ => return None,
        };
        Some(Self {
            needs_checksum: flags & NEEDS_CHECKSUM != 0,
            gso,
            header_length: u16::from_ne_bytes([h0, h1]),
            segment_bytes: u16::from_ne_bytes([s0, s1]),
            checksum_start: u16::from_ne_bytes([c0, c1]),
            checksum_offset: u16::from_ne_bytes([o0, o1]),
        })
    }

    /// Writes the header.
    #[must_use]
    pub const fn to_bytes(&self) -> [u8; OFFLOAD_HEADER] {
        let kind = match self.gso {
            Gso::None => 0,
            Gso::TcpV4 => 1,
            Gso::TcpV6 => 4,
            Gso::Udp => 5,
        };
        let [h0, h1] = self.header_length.to_ne_bytes();
        let [s0, s1] = self.segment_bytes.to_ne_bytes();
        let [c0, c1] = self.checksum_start.to_ne_bytes();
        let [o0, o1] = self.checksum_offset.to_ne_bytes();
        [if self.needs_checksum { NEEDS_CHECKSUM } else { 0 }, kind, h0, h1, s0, s1, c0, c1, o0, o1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_the_unknown_refused() {
        for gso in [Gso::None, Gso::TcpV4, Gso::TcpV6, Gso::Udp] {
            for needs_checksum in [false, true] {
                let offload = Offload {
                    needs_checksum,
                    gso,
                    header_length: 52,
                    segment_bytes: 1368,
                    checksum_start: 20,
                    checksum_offset: 16,
                };
                assert_eq!(Offload::parse(&offload.to_bytes()), Some(offload));
                let mut with_cwr = offload.to_bytes();
                with_cwr[1] |= 0x80;
                assert_eq!(Offload::parse(&with_cwr), Some(offload));
            }
        }
        // UFO, which nothing since Linux 4.14 sends
        assert_eq!(Offload::parse(&[0, 3, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
