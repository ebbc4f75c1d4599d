//! What the data path has carried and dropped: atomics that a data thread adds to and anybody reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use linux::fault::Fault;
use wg::DropReason;

/// Packets and bytes that passed one door.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Traffic {
    /// So many packets passed, of so many bytes together.
    pub(super) fn add(&self, packets: usize, bytes: usize) {
        self.packets.fetch_add(packets as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Packets and bytes so far.
    fn read(&self) -> (u64, u64) {
        (self.packets.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

/// Labels of what the TUN device did not take or give, in the order of [`Fault::ALL`].
const TUN_LABELS: [&str; Fault::ALL.len()] =
    ["tun_full", "tun_too_big", "tun_unreachable", "tun_forbidden", "tun_down", "tun_gone", "tun_other"];

/// Labels of what the UDP sockets did not take or give, in the order of [`Fault::ALL`].
const UDP_LABELS: [&str; Fault::ALL.len()] =
    ["udp_full", "udp_too_big", "udp_unreachable", "udp_forbidden", "udp_down", "udp_gone", "udp_other"];

/// Everything that one data thread counted, since the daemon started. Inner packets are counted at the TUN, outer datagrams at the UDP port.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Inner packets that came out of the TUN, on their way out.
    pub(crate) tun_read: Traffic,
    /// Inner packets handed to the TUN, on their way to a local workload.
    pub(crate) tun_written: Traffic,
    /// Outer datagrams received.
    pub(crate) udp_received: Traffic,
    /// Outer datagrams sent.
    pub(crate) udp_sent: Traffic,
    engine: [AtomicU64; DropReason::ALL.len()],
    tun: [AtomicU64; Fault::ALL.len()],
    udp: [AtomicU64; Fault::ALL.len()],
    events_lost: AtomicU64,
    fallbacks: AtomicU64,
    congested: AtomicU64,
    too_long: AtomicU64,
    handed_on: AtomicU64,
    exchange_full: AtomicU64,
}

/// The counters of all data threads together: each thread has its own, so that none waits for another's cache line.
#[derive(Debug)]
pub(crate) struct Totals(Vec<Arc<Counters>>);

/// Label of packets that met congestion and whose senders do not know of congestion marks (RFC 6040 §4.2).
const CONGESTED: &str = "congested";

/// Label of packets that the path does not carry and nobody may cut; their senders are told.
const TOO_LONG: &str = "path_mtu";

/// Label of packets and datagrams that came to one data thread while the queue of the one that they are for was full.
const EXCHANGE_FULL: &str = "exchange_full";

impl Totals {
    pub(super) fn new(threads: Vec<Arc<Counters>>) -> Self {
        Self(threads)
    }

    /// Every reason with its count, those that never happened included. Labels are stable and unique.
    pub(crate) fn drops(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let mut all: Vec<(&str, u64)> = Vec::new();
        for counters in &self.0 {
            for (at, (label, count)) in counters.drops().enumerate() {
                match all.get_mut(at) {
                    Some((_, sum)) => *sum += count,
                    None => all.push((label, count)),
                }
            }
        }
        all.into_iter()
    }

    /// Inner packets that came out of the TUN, and their bytes.
    pub(crate) fn tun_read(&self) -> (u64, u64) {
        self.traffic(|counters| &counters.tun_read)
    }

    /// Inner packets handed to the TUN, and their bytes.
    pub(crate) fn tun_written(&self) -> (u64, u64) {
        self.traffic(|counters| &counters.tun_written)
    }

    /// Outer datagrams sent, and their bytes.
    #[cfg(test)]
    pub(crate) fn udp_sent(&self) -> (u64, u64) {
        self.traffic(|counters| &counters.udp_sent)
    }

    /// How often a batch was refused and its packets went singly.
    pub(crate) fn fallbacks(&self) -> u64 {
        self.sum(|counters| &counters.fallbacks)
    }

    /// Events that control did not read in time.
    pub(crate) fn events_lost(&self) -> u64 {
        self.sum(|counters| &counters.events_lost)
    }

    /// How often a data thread had to hand something to another.
    pub(crate) fn handed_on(&self) -> u64 {
        self.sum(|counters| &counters.handed_on)
    }

    fn sum(&self, of: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        self.0.iter().map(|counters| of(counters).load(Ordering::Relaxed)).sum()
    }

    fn traffic(&self, of: impl Fn(&Counters) -> &Traffic) -> (u64, u64) {
        let each = self.0.iter().map(|counters| of(counters).read());
        each.fold((0, 0), |(packets, bytes), more| (packets + more.0, bytes + more.1))
    }
}

impl Counters {
    /// Every reason with its count, those that never happened included. Labels are stable and unique.
    pub(crate) fn drops(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let engine = DropReason::ALL.into_iter().map(DropReason::as_str).zip(&self.engine);
        let tun = TUN_LABELS.into_iter().zip(&self.tun);
        let udp = UDP_LABELS.into_iter().zip(&self.udp);
        let own = [(CONGESTED, &self.congested), (TOO_LONG, &self.too_long), (EXCHANGE_FULL, &self.exchange_full)];
        engine.chain(tun).chain(udp).chain(own).map(|(label, count)| (label, count.load(Ordering::Relaxed)))
    }

    /// How much was handed to other threads, and how much was not because their queues were full.
    #[cfg(test)]
    pub(super) fn handed(&self) -> (u64, u64) {
        (self.handed_on.load(Ordering::Relaxed), self.exchange_full.load(Ordering::Relaxed))
    }

    pub(super) fn handed_on(&self) {
        self.handed_on.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn exchange_full(&self) {
        self.exchange_full.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn fell_back(&self) {
        self.fallbacks.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn congested(&self) {
        self.congested.fetch_add(1, Ordering::Relaxed);
    }

    /// A packet of so many bytes came out of the TUN and is longer than its path.
    pub(super) fn too_long(&self, bytes: usize) {
        self.tun_read.add(1, bytes);
        self.too_long.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn tun_faults(&self, fault: Fault, count: usize) {
        add(&self.tun, fault as usize, count);
    }

    pub(super) fn udp_faults(&self, fault: Fault, count: usize) {
        add(&self.udp, fault as usize, count);
    }

    pub(super) fn event_lost(&self) {
        self.events_lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Shows the engine's own counts, which only rise.
    pub(super) fn show_engine(&self, drops: &wg::DropCounters) {
        for (shown, (_, count)) in self.engine.iter().zip(drops.iter()) {
            shown.store(count, Ordering::Relaxed);
        }
    }
}

fn add(counts: &[AtomicU64], at: usize, by: usize) {
    if let Some(count) = counts.get(at) {
        count.fetch_add(by as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_fault_has_its_own_label_at_either_door() {
        let counters = Counters::default();
        let labels: Vec<_> = counters.drops().map(|(label, _)| label).collect();
        assert_eq!(labels.iter().collect::<BTreeSet<_>>().len(), labels.len(), "labels are unique");
        for fault in Fault::ALL {
            counters.tun_faults(fault, 1);
            counters.udp_faults(fault, 1);
            for door in ["tun", "udp"] {
                let label = format!("{door}_{fault}");
                assert!(counters.drops().any(|(shown, count)| shown == label && count == 1), "{label}");
            }
        }
    }
}
