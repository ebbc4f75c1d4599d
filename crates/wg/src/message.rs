//! The four WireGuard messages as seen from outside: type, length, and the fields that travel in the clear.

use std::ops::Range;

/// Length of an initiation in bytes (WireGuard paper §5.4.2).
pub(crate) const INITIATION: usize = 148;
/// Length of a response in bytes (§5.4.3).
pub(crate) const RESPONSE: usize = 92;
/// Length of a cookie reply in bytes (§5.4.7).
pub(crate) const COOKIE_REPLY: usize = 64;
/// Length in bytes of what comes before the inner packet in a data message (§5.4.6): type, receiver index, counter.
pub const HEADROOM: usize = 16;
/// Length in bytes of what comes after it: the authentication tag.
pub const TAG: usize = 16;
/// What a data message adds to the inner packet.
pub(crate) const DATA_OVERHEAD: usize = HEADROOM + TAG;

/// One message, by type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Initiation { ephemeral: [u8; 32] },
    Response { receiver: u32, ephemeral: [u8; 32] },
    CookieReply { receiver: u32 },
    Data { receiver: u32, counter: u64 },
}

impl Message {
    /// Reads type, reserved zeros and length; `None` for anything else than the four messages.
    pub(crate) fn parse(datagram: &[u8]) -> Option<Self> {
        Some(match (u32_at(datagram, 0)?, datagram.len()) {
            (1, INITIATION) => Self::Initiation { ephemeral: *datagram.get(8..)?.first_chunk()? },
            (2, RESPONSE) => {
                Self::Response { receiver: u32_at(datagram, 8)?, ephemeral: *datagram.get(12..)?.first_chunk()? }
            }
            (3, COOKIE_REPLY) => Self::CookieReply { receiver: u32_at(datagram, 4)? },
            (4, DATA_OVERHEAD..) => {
                let counter = u64::from_le_bytes(*datagram.get(8..)?.first_chunk()?);
                Self::Data { receiver: u32_at(datagram, 4)?, counter }
            }
            _ => return None,
        })
    }
}

/// A little-endian word of a message.
pub(crate) fn u32_at(datagram: &[u8], at: usize) -> Option<u32> {
    datagram.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word))
}

/// A part of a message of known length; `None` where the message is shorter.
pub(crate) fn part<const N: usize>(message: &[u8], range: Range<usize>) -> Option<&[u8; N]> {
    message.get(range)?.try_into().ok()
}
