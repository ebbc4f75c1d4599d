//! What one data thread hands to another: what came by a queue or a socket that is not that of the thread it is for.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use linux::poll::Waker;
use linux::udp::Message;
use packet::Offload;
use wg::Shard;

use super::counters::Counters;

/// What may wait for one thread; beyond it what comes is dropped and counted. Most of it is single packets; were all of it
/// super packets, it would be 16 MiB.
const HANDED_MAX: usize = 256;

/// What a thread takes in one turn, so that its own doors are never far.
const TAKEN_MAX: usize = 64;

/// One thing for another thread.
pub(super) enum Handed {
    /// A packet from the TUN with what is left to do on it.
    Packet(Offload, Vec<u8>),
    /// Datagrams of one sender, as the kernel merged them.
    Datagrams(Datagrams),
    /// An initiation that was looked into, where it came from, and which of our addresses it was sent to.
    Initiation(SocketAddr, Option<IpAddr>, Vec<u8>),
}

/// A [`Message`] that owns its bytes.
pub(super) struct Datagrams {
    from: SocketAddr,
    to: Option<IpAddr>,
    ecn: u8,
    stride: usize,
    bytes: Vec<u8>,
}

impl Datagrams {
    pub(super) fn message(&mut self) -> Message<'_> {
        let Self { from, to, ecn, stride, ref mut bytes } = *self;
        Message { from, to, ecn, stride, bytes }
    }
}

/// The way to one thread.
struct Door {
    queue: SyncSender<Handed>,
    waker: Waker,
    /// Whether it was given something since it was last woken.
    has_news: bool,
}

/// The ways between one thread and all others. Nobody ever waits.
pub(super) struct Exchange {
    shard: Shard,
    doors: Vec<Door>,
    received: Receiver<Handed>,
    counters: Arc<Counters>,
}

impl Exchange {
    /// Those of as many threads as there are wakers and counters, each with its shard. `None` unless that is a number of
    /// shards.
    pub(super) fn group(wakers: &[Waker], counters: &[Arc<Counters>]) -> Option<Vec<Self>> {
        let count = wakers.len();
        let (queues, receivers): (Vec<_>, Vec<_>) = wakers.iter().map(|_| sync_channel(HANDED_MAX)).unzip();
        let doors = || {
            let door = |(queue, waker): (&SyncSender<Handed>, &Waker)| Door {
                queue: queue.clone(),
                waker: waker.clone(),
                has_news: false,
            };
            queues.iter().zip(wakers).map(door).collect()
        };
        let all = receivers.into_iter().zip(counters).enumerate();
        all.map(|(at, (received, counters))| {
            let shard = Shard::new(at, count)?;
            Some(Self { shard, doors: doors(), received, counters: Arc::clone(counters) })
        })
        .collect()
    }

    /// Which thread this is.
    pub(super) fn shard(&self) -> Shard {
        self.shard
    }

    /// Gives something to another thread; [`wake`](Self::wake) tells it.
    pub(super) fn give(&mut self, to: usize, what: Handed) {
        let Some(door) = self.doors.get_mut(to) else { return };
        match door.queue.try_send(what) {
            Ok(()) => {
                door.has_news = true;
                self.counters.handed_on();
            }
            // a thread that has ended is the end of the daemon
            Err(_) => self.counters.exchange_full(),
        }
    }

    /// Wakes every thread that was given something.
    pub(super) fn wake(&mut self) {
        for door in self.doors.iter_mut().filter(|door| door.has_news) {
            door.has_news = false;
            door.waker.wake();
        }
    }

    /// What others have given to this thread, as much as one turn takes; there will be another turn for the rest.
    pub(super) fn take(&mut self) -> Vec<Handed> {
        let taken: Vec<_> = self.received.try_iter().take(TAKEN_MAX).collect();
        if taken.len() == TAKEN_MAX
            && let Some(own) = self.doors.get(self.shard.at())
        {
            own.waker.wake();
        }
        taken
    }

    /// Gives away the datagrams of a message that are for other threads. `None`: all of them were. The kernel merges what one
    /// sender has sent in a row, whichever sessions it is of.
    pub(super) fn sort<'a>(&mut self, message: Message<'a>) -> Option<Message<'a>> {
        let (shard, stride) = (self.shard, message.stride);
        if message.bytes.chunks(stride).all(|datagram| shard.of_datagram(datagram) == shard.at()) {
            return Some(message);
        }
        let Message { from, to, ecn, bytes, .. } = message;
        let (mut begin, mut kept) = (0, 0);
        while let Some(rest) = bytes.get(begin..).filter(|rest| !rest.is_empty()) {
            let owner = shard.of_datagram(rest);
            let run = rest.chunks(stride).take_while(|datagram| shard.of_datagram(datagram) == owner);
            let end = begin + run.map(<[u8]>::len).sum::<usize>();
            if owner == shard.at() {
                // only the last one may be shorter, and it stays the last
                bytes.copy_within(begin..end, kept);
                kept += end - begin;
            } else {
                let bytes = bytes.get(begin..end).unwrap_or_default().to_vec();
                self.give(owner, Handed::Datagrams(Datagrams { from, to, ecn, stride, bytes }));
            }
            begin = end;
        }
        let bytes = bytes.get_mut(..kept).filter(|bytes| !bytes.is_empty())?;
        Some(Message { from, to, ecn, stride, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use linux::poll::Poll;

    fn group(count: usize) -> (Vec<Poll<1>>, Vec<Arc<Counters>>, Vec<Exchange>) {
        let polls: Vec<_> = (0..count).map(|_| Poll::new().unwrap()).collect();
        let counters: Vec<_> = (0..count).map(|_| Arc::default()).collect();
        let wakers: Vec<_> = polls.iter().map(Poll::waker).collect();
        let exchanges = Exchange::group(&wakers, &counters).unwrap();
        (polls, counters, exchanges)
    }

    /// Data messages of eight bytes, which end in the index's first byte and three of their own.
    fn merged(datagrams: &[(u8, u8)]) -> Vec<u8> {
        datagrams.iter().flat_map(|(index, n)| [4, 0, 0, 0, *index, *n, *n, *n]).collect()
    }

    fn message(bytes: &mut [u8]) -> Message<'_> {
        Message {
            from: "192.0.2.2:1".parse().unwrap(),
            to: Some("192.0.2.1".parse().unwrap()),
            ecn: 1,
            stride: 8,
            bytes,
        }
    }

    #[test]
    fn each_thread_gets_its_own_of_what_the_kernel_merged() {
        let (mut polls, counters, mut exchanges) = group(2);
        let mut bytes = merged(&[(2, 1), (3, 2), (5, 3), (0, 4), (1, 5)]);
        // the last one may be shorter
        bytes.pop();
        let kept = exchanges[0].sort(message(&mut bytes)).unwrap();
        assert_eq!(kept.bytes, merged(&[(2, 1), (0, 4)]));
        exchanges[0].wake();
        assert!(polls[1].ready().unwrap().called && !polls[0].ready().unwrap().called);
        let mut taken = exchanges[1].take();
        let mut all = Vec::new();
        for one in &mut taken {
            let Handed::Datagrams(datagrams) = one else { panic!("datagrams") };
            let Message { from, to, ecn, stride, bytes } = datagrams.message();
            assert_eq!((from.port(), to.is_some(), ecn, stride), (1, true, 1, 8));
            all.push(bytes.to_vec());
        }
        let mut last = merged(&[(1, 5)]);
        last.pop();
        assert_eq!(all, [merged(&[(3, 2), (5, 3)]), last]);
        assert_eq!(counters[0].handed(), (2, 0));
        let mut foreign = merged(&[(1, 1)]);
        assert!(exchanges[0].sort(message(&mut foreign)).is_none());
        let mut own = merged(&[(2, 1), (4, 2)]);
        assert_eq!(exchanges[0].sort(message(&mut own)).unwrap().bytes, merged(&[(2, 1), (4, 2)]));
    }

    #[test]
    fn what_waits_is_bounded_and_a_turn_is() {
        let (mut polls, counters, mut exchanges) = group(4);
        for _ in 0..HANDED_MAX + 3 {
            exchanges[0].give(3, Handed::Packet(Offload::default(), Vec::new()));
        }
        assert_eq!(counters[0].handed(), (HANDED_MAX as u64, 3));
        for _ in 0..HANDED_MAX / TAKEN_MAX {
            assert_eq!(exchanges[3].take().len(), TAKEN_MAX);
            assert!(polls[3].ready().unwrap().called, "there may be more");
        }
        assert!(exchanges[3].take().is_empty());
        assert!(!polls[3].ready().unwrap().called);
    }
}
