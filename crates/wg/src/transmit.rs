//! Datagrams that wait to be sent, in buffers that are used again.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::message::INITIATION;

/// How many datagrams wait for the shell at most. A shell drains them after every call; a released queue of staged
/// packets is the most that comes of one.
pub const TRANSMITS_MAX: usize = 512;
/// What one session may want to send at once: a keepalive and a handshake message.
const ROOM: usize = 2;
/// How many empty buffers are kept for the next datagrams.
const SPARE_MAX: usize = 64;
/// Larger buffers are given back to the allocator, so that one jumbo packet does not pin memory, in bytes.
const SPARE_BYTES_MAX: usize = 16_384;

/// A datagram to send.
#[derive(Debug, PartialEq, Eq)]
pub struct Transmit<'a> {
    /// The peer's endpoint.
    pub to: SocketAddr,
    /// The whole UDP payload. Valid until the next call; copy it into the batch to send.
    pub datagram: &'a [u8],
}

/// A buffer that a datagram is written into.
#[derive(Default)]
pub(crate) struct Buffer(Vec<u8>);

impl Buffer {
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// The queue.
pub(crate) struct Transmits {
    waiting: VecDeque<(SocketAddr, Buffer, usize)>,
    spare: Vec<Buffer>,
    lent: Buffer,
}

impl Transmits {
    pub(crate) fn new() -> Self {
        Self { waiting: VecDeque::new(), spare: Vec::new(), lent: Buffer::default() }
    }

    /// A buffer of at least `length` bytes and of at least a handshake message; `None` when the queue is full.
    pub(crate) fn take(&mut self, length: usize) -> Option<Buffer> {
        if self.waiting.len() >= TRANSMITS_MAX {
            return None;
        }
        let mut buffer = self.spare.pop().unwrap_or_default();
        let length = length.max(INITIATION);
        if buffer.0.len() < length {
            buffer.0.resize(length, 0);
        }
        Some(buffer)
    }

    /// Whether there is room for what one session may want to send at once.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.len() + ROOM <= TRANSMITS_MAX
    }

    /// Queues the first `length` bytes of the buffer.
    pub(crate) fn push(&mut self, to: SocketAddr, buffer: Buffer, length: usize) {
        self.waiting.push_back((to, buffer, length));
    }

    /// The buffer was not needed after all.
    pub(crate) fn give_back(&mut self, buffer: Buffer) {
        if self.spare.len() < SPARE_MAX && buffer.0.len() <= SPARE_BYTES_MAX {
            self.spare.push(buffer);
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Transmit<'_>> {
        let (to, buffer, length) = self.waiting.pop_front()?;
        let sent = std::mem::replace(&mut self.lent, buffer);
        self.give_back(sent);
        Some(Transmit { to, datagram: self.lent.0.get(..length).unwrap_or_default() })
    }
}
