//! A question between our own nodes: does a datagram of this length arrive? And the answer to it.
//!
//! Both travel as data messages whose inside is no IP packet: its version is 0. Who does not know them drops them as
//! malformed, which is what WireGuard does with such an inside.

/// Length of both in bytes; what follows in a question makes it long.
pub(crate) const PROBE: usize = 16;

/// What every one begins with: no version of IP, and a name that nothing else has.
const MARK: [u8; 7] = *b"\0weft p";

/// One of the two, with the number that tells questions apart: nobody who has not read the question can answer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    Question(u64),
    Answer(u64),
}

impl Probe {
    /// Reads what a data message held.
    pub(crate) fn parse(inside: &[u8]) -> Option<Self> {
        let (head, number) = inside.get(..PROBE)?.split_first_chunk::<8>()?;
        let number = u64::from_le_bytes(*number.first_chunk()?);
        match head.strip_prefix(&MARK)? {
            [1] => Some(Self::Question(number)),
            [2] => Some(Self::Answer(number)),
            _ => None,
        }
    }

    /// What a data message holds at its beginning.
    pub(crate) fn to_bytes(self) -> [u8; PROBE] {
        let (kind, number) = match self {
            Self::Question(number) => (1, number),
            Self::Answer(number) => (2, number),
        };
        let mut bytes = [0; PROBE];
        bytes[..7].copy_from_slice(&MARK);
        bytes[7] = kind;
        bytes[8..].copy_from_slice(&number.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_read_as_they_were_written_and_nothing_else_is() {
        for probe in [Probe::Question(7), Probe::Answer(u64::MAX)] {
            let bytes = probe.to_bytes();
            assert_eq!(Probe::parse(&[&bytes[..], &[0; 1400]].concat()), Some(probe));
            assert_eq!(Probe::parse(&bytes[..PROBE - 1]), None);
            assert!(packet::IpPacket::parse(&bytes).is_err());
            for at in 0..8 {
                let mut other = bytes;
                other[at] ^= 0x80;
                assert_eq!(Probe::parse(&other), None, "byte {at}");
            }
        }
    }
}
