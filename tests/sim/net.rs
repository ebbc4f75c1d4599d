//! The network between nodes, and Eve, who sees all of it and puts in what she likes.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::dice::Dice;

/// How many datagrams Eve remembers.
const MEMORY: usize = 512;
/// The longest that anything is under way, in milliseconds; what is older has arrived or is lost.
pub const LONGEST_WAY: u64 = 400;

#[derive(Clone, Debug)]
pub struct Datagram {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
}

/// What the network does to datagrams.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub loss: u32,
    pub duplicates: u32,
    /// Of how many percent the way is so long that others overtake them.
    pub late: u32,
}

impl Weather {
    pub const FAIR: Self = Self { loss: 0, duplicates: 0, late: 0 };
}

struct Remembered {
    datagram: Datagram,
    at: Duration,
    arrived: bool,
}

pub struct Net {
    pub weather: Weather,
    /// Nodes whose cable is pulled.
    pub cut: BTreeSet<IpAddr>,
    memory: VecDeque<Remembered>,
}

impl Net {
    pub fn new() -> Self {
        Self { weather: Weather::FAIR, cut: BTreeSet::new(), memory: VecDeque::new() }
    }

    /// How long each copy of a datagram is under way; none where it is lost.
    pub fn carry(&mut self, datagram: &Datagram, dice: &mut Dice, at: Duration) -> Vec<Duration> {
        let is_cut = self.cut.contains(&datagram.from.ip()) || self.cut.contains(&datagram.to.ip());
        let lost = is_cut || dice.percent(self.weather.loss);
        if self.memory.len() == MEMORY {
            self.memory.pop_front();
        }
        self.memory.push_back(Remembered { datagram: datagram.clone(), at, arrived: !lost });
        if lost {
            return Vec::new();
        }
        let copies = if dice.percent(self.weather.duplicates) { 2 } else { 1 };
        let mut way = || {
            let late = dice.percent(self.weather.late);
            if late { dice.millis(1, LONGEST_WAY) } else { Duration::from_millis(1) }
        };
        (0..copies).map(|_| way()).collect()
    }

    /// Something that Eve puts into the wire: an old datagram again, from elsewhere, cut, or with bits flipped.
    ///
    /// She does not deliver first, from her own address, what its sender sent: that is roaming, and WireGuard allows it.
    pub fn forge(&mut self, dice: &mut Dice, at: Duration) -> Option<Datagram> {
        let old = dice.below(self.memory.len());
        let Remembered { datagram, at: seen, arrived } = self.memory.get(old)?;
        if at < *seen + Duration::from_millis(LONGEST_WAY) {
            return None;
        }
        let mut forged = datagram.clone();
        let eve = SocketAddr::from(([203, 0, 113, 66], 666));
        match dice.below(6) {
            0 if *arrived => forged.from = eve,
            0 | 1 => {}
            2 => {
                let bit = dice.below(forged.bytes.len() * 8);
                forged.bytes[bit / 8] ^= 1 << (bit % 8);
                forged.from = eve;
            }
            3 => {
                forged.bytes.truncate(dice.below(forged.bytes.len()));
                forged.from = eve;
            }
            4 => {
                // somebody else's answer to somebody else's question
                let other = dice.below(self.memory.len());
                forged.to = self.memory[other].datagram.to;
                forged.from = eve;
                if forged.to == datagram.to {
                    return None;
                }
            }
            _ => {
                let length = [32, 64, 92, 148][dice.below(4)];
                forged.bytes = std::iter::repeat_with(|| dice.bytes()).flatten().take(length).collect();
                let kind = u8::try_from(1 + dice.below(4)).unwrap();
                forged.bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
                forged.from = eve;
            }
        }
        Some(forged)
    }
}
