//! What becomes of one packet from the TUN: segments by TCP or UDP, or fragments by IPv4.

use packet::{Fragments, Segments};

/// One packet in pieces that the path carries.
#[derive(Clone, Debug)]
pub(super) enum Pieces<'a> {
    /// Cut by its transport, or whole.
    Segments(Segments<'a>),
    /// Cut by IPv4.
    Fragments(Fragments<'a>),
}

impl Pieces<'_> {
    /// Length of the next piece in bytes; `None` when there are no more.
    pub(super) fn next_length(&self) -> Option<usize> {
        match self {
            Self::Segments(segments) => segments.next_length(),
            Self::Fragments(fragments) => fragments.next_length(),
        }
    }

    /// Writes the next piece to the start of `out` and gives its length; `None` when there are no more, or no room.
    pub(super) fn write_next(&mut self, out: &mut [u8]) -> Option<usize> {
        match self {
            Self::Segments(segments) => segments.write_next(out),
            Self::Fragments(fragments) => fragments.write_next(out),
        }
    }
}
