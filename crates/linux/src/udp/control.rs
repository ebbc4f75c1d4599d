//! The control messages of one send call (cmsg(3)), written without a pointer.

use std::net::IpAddr;

use super::Family;

/// Length of `struct cmsghdr` as the kernel reads it: a `size_t` and two `int`.
const HEADER: usize = size_of::<usize>() + 8;
/// Room for all three messages: class (an `int`), segment (a `u16`), source (`struct in6_pktinfo`, 20 bytes).
const ROOM: usize = 3 * HEADER + 8 + 8 + 24;

/// Control messages, aligned as the kernel wants them.
#[repr(align(8))]
pub(super) struct Control {
    bytes: [u8; ROOM],
    length: usize,
}

impl Control {
    pub(super) const fn new() -> Self {
        Self { bytes: [0; ROOM], length: 0 }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// `IP_TOS` or `IPV6_TCLASS`.
    pub(super) fn put_class(&mut self, family: Family, class: u8) {
        let (level, kind) = match family {
            Family::V4 => (libc::IPPROTO_IP, libc::IP_TOS),
            Family::V6 => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
        };
        self.put(level, kind, &libc::c_int::from(class).to_ne_bytes());
    }

    /// `UDP_SEGMENT`.
    pub(super) fn put_segment_bytes(&mut self, segment_bytes: usize) {
        let segment_bytes = u16::try_from(segment_bytes).unwrap_or(u16::MAX);
        self.put(libc::SOL_UDP, libc::UDP_SEGMENT, &segment_bytes.to_ne_bytes());
    }

    /// `struct in_pktinfo`: interface, our address, an address that is only told; or `struct in6_pktinfo`: address,
    /// interface. Interface 0 is any.
    pub(super) fn put_source(&mut self, source: IpAddr) {
        match source {
            IpAddr::V4(source) => {
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&source.octets());
                self.put(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            IpAddr::V6(source) => {
                let mut info = [0; 20];
                info[..16].copy_from_slice(&source.octets());
                self.put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
        }
    }

    fn put(&mut self, level: libc::c_int, kind: libc::c_int, value: &[u8]) {
        let length = HEADER + value.len();
        let Some(place) = self.bytes.get_mut(self.length..self.length + length) else { return };
        let parts = [&length.to_ne_bytes()[..], &level.to_ne_bytes(), &kind.to_ne_bytes(), value];
        for (byte, from) in place.iter_mut().zip(parts.into_iter().flatten()) {
            *byte = *from;
        }
        self.length += length.next_multiple_of(size_of::<usize>());
    }
}
