//! Whether a datagram of some length arrives: asked, and answered to whoever is authentic.

use std::fmt::Debug;
use std::hash::Hash;
use std::net::SocketAddr;
use std::time::Instant;

use super::Engine;
use super::outbound::Path;
use crate::drop::DropReason;
use crate::event::Event;
use crate::index::Slot;
use crate::probe::{PROBE, Probe};

impl<L: Clone + Ord + Debug, P: Clone + Ord + Hash + Debug> Engine<L, P> {
    /// Asks the other end of a path whether a datagram arrives that is as long as one with a packet of `length` bytes, at
    /// least 16. The answer comes as [`Event::ProbeAnswered`] with the number that is given here. `None`: it cannot be asked
    /// now. A stock peer does not answer, and is not to be asked.
    pub fn probe(&mut self, path: &Path, length: usize, now: Instant) -> Option<u64> {
        let number = self.random.draw();
        let mut inside = vec![0; length.max(PROBE)];
        *inside.first_chunk_mut()? = Probe::Question(number).to_bytes();
        self.seal(path.slot, &inside, now).ok()?;
        Some(number)
    }

    /// Takes what a data message of the peer at `from` held that is no packet. An answer is never longer than its question.
    pub(super) fn take_probe(
        &mut self,
        slot: Slot,
        from: SocketAddr,
        probe: Option<Probe>,
        now: Instant,
    ) -> Result<(), DropReason> {
        match probe.ok_or(DropReason::Malformed)? {
            Probe::Question(number) => self.seal(slot, &Probe::Answer(number).to_bytes(), now),
            Probe::Answer(number) => {
                self.events.push(Event::ProbeAnswered { from, number });
                Ok(())
            }
        }
    }
}
