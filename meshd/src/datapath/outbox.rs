//! Datagrams of one endpoint and one length, sealed where they lie and sent with one call.

use std::net::SocketAddr;

use linux::udp::{SEGMENTS_MAX, SEND_BYTES_MAX};

/// Datagrams one after the other: all of one length but the last, which may be shorter and ends the batch (`UDP_SEGMENT`,
/// udp(7)).
pub(super) struct Outbox {
    buffer: Box<[u8]>,
    used: usize,
    count: usize,
    heading: Option<Heading>,
    is_closed: bool,
}

/// What all datagrams of a batch have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heading {
    /// Where to.
    pub(super) to: SocketAddr,
    /// Traffic class of the outer packets.
    pub(super) class: u8,
    /// Length of each datagram but the last in bytes.
    pub(super) length: usize,
}

impl Outbox {
    pub(super) fn new() -> Self {
        // a datagram of any length finds room in an empty one
        let buffer = vec![0; SEND_BYTES_MAX].into_boxed_slice();
        Self { buffer, used: 0, count: 0, heading: None, is_closed: false }
    }

    /// Where a datagram with this heading can be made; `None` when what is there has to be sent first.
    pub(super) fn slot(&mut self, heading: Heading) -> Option<&mut [u8]> {
        let follows = match self.heading {
            None => true,
            Some(Heading { to, class, length }) => {
                !self.is_closed && to == heading.to && class == heading.class && heading.length <= length
            }
        };
        if !follows || self.count >= SEGMENTS_MAX {
            return None;
        }
        self.buffer.get_mut(self.used..self.used + heading.length)
    }

    /// The datagram was made in its slot.
    pub(super) fn keep(&mut self, heading: Heading) {
        let first = *self.heading.get_or_insert(heading);
        self.is_closed = heading.length < first.length;
        self.used += heading.length;
        self.count += 1;
    }

    /// What is to be sent, and how many datagrams it is.
    pub(super) fn filled(&self) -> Option<(Heading, &[u8], usize)> {
        Some((self.heading?, self.buffer.get(..self.used)?, self.count))
    }

    /// It was sent.
    pub(super) fn clear(&mut self) {
        (self.used, self.count, self.heading, self.is_closed) = (0, 0, None, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heading(port: u16, class: u8, length: usize) -> Heading {
        Heading { to: SocketAddr::new([192, 0, 2, 1].into(), port), class, length }
    }

    fn takes(outbox: &mut Outbox, heading: Heading) -> bool {
        let takes = outbox.slot(heading).is_some_and(|slot| slot.len() == heading.length);
        if takes {
            outbox.keep(heading);
        }
        takes
    }

    #[test]
    fn equal_lengths_follow_each_other_and_a_shorter_one_is_the_last() {
        let mut outbox = Outbox::new();
        assert!(outbox.filled().is_none());
        assert!(takes(&mut outbox, heading(1, 0, 1000)) && takes(&mut outbox, heading(1, 0, 1000)));
        for other in [heading(2, 0, 1000), heading(1, 1, 1000), heading(1, 0, 1001)] {
            assert!(!takes(&mut outbox, other), "{other:?}");
        }
        assert!(takes(&mut outbox, heading(1, 0, 999)));
        assert!(!takes(&mut outbox, heading(1, 0, 999)), "nothing follows a shorter one");
        assert_eq!(
            outbox.filled().map(|(heading, bytes, count)| (heading.length, bytes.len(), count)),
            Some((1000, 2999, 3))
        );
        outbox.clear();
        assert!(takes(&mut outbox, heading(2, 1, 65_507)));
    }

    #[test]
    fn one_send_carries_so_many_and_so_much() {
        let mut outbox = Outbox::new();
        assert_eq!((0..100).filter(|_| takes(&mut outbox, heading(1, 0, 100))).count(), SEGMENTS_MAX);
        outbox.clear();
        assert_eq!((0..100).filter(|_| takes(&mut outbox, heading(1, 0, 1452))).count(), SEND_BYTES_MAX / 1452);
    }
}
