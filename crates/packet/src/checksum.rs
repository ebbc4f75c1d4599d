//! The internet checksum (RFC 1071): sum, fold, and adjust in place (RFC 1624).

use std::net::IpAddr;

/// A running one's-complement sum of 16-bit words.
///
/// Data is added in order; only the last piece may have an odd number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// An empty sum.
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// Adds bytes, as big-endian words; an odd last byte is padded with zero.
    #[must_use]
    pub fn add_bytes(mut self, bytes: &[u8]) -> Self {
        // Sums of wider words in the machine's own order fold to the same 16 bits, with the bytes exchanged (RFC 1071
        // §2 B and C); the compiler makes vector instructions of it.
        let (blocks, rest) = bytes.as_chunks::<32>();
        let mut lanes = [0_u64; 8];
        for block in blocks {
            let (words, _) = block.as_chunks::<4>();
            for (lane, word) in lanes.iter_mut().zip(words) {
                *lane += u64::from(u32::from_ne_bytes(*word));
            }
        }
        // at most 2^16 blocks of an IP packet: no lane overflows, nor does their sum
        let [low, high] = fold(lanes.iter().sum()).to_ne_bytes();
        self.0 += u64::from(u16::from_be_bytes([low, high]));
        let (words, odd) = rest.as_chunks::<2>();
        for word in words {
            self.0 += u64::from(u16::from_be_bytes(*word));
        }
        if let [last] = odd {
            self.0 += u64::from(*last) << 8;
        }
        self
    }

    /// Adds one 16-bit word.
    #[must_use]
    pub const fn add_word(mut self, word: u16) -> Self {
        self.0 += word as u64;
        self
    }

    /// Adds the pseudo header of TCP, UDP and ICMPv6 (RFC 9293 §3.1, RFC 8200 §8.1): both addresses, the protocol
    /// and the upper-layer length in bytes.
    #[must_use]
    pub fn add_pseudo_header(self, source: IpAddr, destination: IpAddr, protocol: u8, length: u32) -> Self {
        let both = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.add_bytes(&source.octets()).add_bytes(&destination.octets())
            }
            (source, destination) => self.add_bytes(&octets_v6(source)).add_bytes(&octets_v6(destination)),
        };
        both.add_bytes(&length.to_be_bytes()).add_word(u16::from(protocol))
    }

    /// Folds the sum into the checksum field's value: the complement of the 16-bit one's-complement sum.
    #[must_use]
    pub const fn checksum(self) -> u16 {
        !self.folded()
    }

    /// Folds the sum without complementing it: what the checksum field holds while the checksum is to be completed.
    #[must_use]
    pub const fn folded(self) -> u16 {
        fold(self.0)
    }
}

const fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // the loop leaves at most sixteen bits
    let [.., high, low] = sum.to_be_bytes();
    u16::from_be_bytes([high, low])
}

/// The checksum of some bytes. Over bytes that contain a correct checksum the result is 0.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    Sum::new().add_bytes(bytes).checksum()
}

/// The checksum after one word under it changed from `old` to `new` (RFC 1624 equation 3).
#[must_use]
pub const fn adjust(checksum: u16, old: u16, new: u16) -> u16 {
    Sum::new().add_word(!checksum).add_word(!old).add_word(new).checksum()
}

fn octets_v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rfc_1071_section_3_example() {
        let sum = Sum::new().add_bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.checksum(), !0xddf2);
    }

    #[test]
    fn a_known_ipv4_header() {
        let header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01, 0xc0, 0xa8,
            0x00, 0xc7,
        ];
        assert_eq!(checksum(&header), 0);
    }

    #[test]
    fn pseudo_header_of_a_known_udp_datagram() {
        // 10.0.0.1:1 -> 10.0.0.2:2, empty: 0a00+0001+0a00+0002 + 0011 + 0008 + 0001+0002+0008+0000
        let sum = Sum::new()
            .add_pseudo_header([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 17, 8)
            .add_bytes(&[0, 1, 0, 2, 0, 8, 0, 0]);
        assert_eq!(sum.checksum(), !0x1427);
    }

    proptest! {
        #[test]
        fn a_stored_checksum_verifies(mut words in prop::collection::vec(any::<u16>(), 1..800)) {
            words[0] = 0;
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            words[0] = checksum(&bytes);
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            prop_assert_eq!(checksum(&bytes), 0);
        }

        #[test]
        fn adjusting_equals_summing_again(
            mut words in prop::collection::vec(any::<u16>(), 2..100), at in any::<prop::sample::Index>(), new in any::<u16>()
        ) {
            // an all-zero message has two representations of zero; real headers never are all zero
            words.push(1);
            let before: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            let at = at.index(words.len() - 1);
            let old = std::mem::replace(&mut words[at], new);
            let after: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            prop_assert_eq!(adjust(checksum(&before), old, new), checksum(&after));
        }

        #[test]
        fn pieces_sum_like_the_whole(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..100) {
            let cut = (cut * 2).min(bytes.len() & !1);
            let (left, right) = bytes.split_at(cut);
            prop_assert_eq!(Sum::new().add_bytes(left).add_bytes(right).checksum(), checksum(&bytes));
        }
    }
}
