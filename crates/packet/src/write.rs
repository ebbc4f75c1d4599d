//! Reads and writes 16-bit fields of a header; what is out of bounds reads as 0 and is not written.

/// A value of a 16-bit field.
pub(crate) trait Field {
    fn field(self) -> u16;
}

impl Field for u16 {
    fn field(self) -> u16 {
        self
    }
}

impl Field for usize {
    /// Lengths are at most those of an IP packet.
    fn field(self) -> u16 {
        u16::try_from(self).unwrap_or(u16::MAX)
    }
}

pub(crate) fn get16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |pair| u16::from_be_bytes(*pair))
}

pub(crate) fn put16(bytes: &mut [u8], at: usize, value: impl Field) {
    if let Some(pair) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *pair = value.field().to_be_bytes();
    }
}

pub(crate) fn get32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_be_bytes(*word))
}
