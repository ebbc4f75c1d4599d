//! The five-tuple of a packet, and what a fragment has instead of ports.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::ip::{IpPacket, protocol};

/// Who talks to whom, over what. Seen from one packet: the reply has source and destination exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Upper-layer protocol number.
    pub protocol: u8,
    /// Ports, where there are any to see.
    pub ports: Ports,
}

/// The ports of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ports {
    /// TCP, UDP, UDP-Lite, SCTP or DCCP, with the ports in this packet.
    Both {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// A fragment that is not the first: its ports travelled in another packet with the same identification.
    Fragment {
        /// The identification that all fragments of one packet share.
        identification: u32,
    },
    /// The protocol has no ports, or the packet ends before them.
    None,
}

impl Ports {
    /// The source port, where it is in this packet.
    #[must_use]
    pub const fn source(&self) -> Option<u16> {
        match self {
            Self::Both { source, .. } => Some(*source),
            Self::Fragment { .. } | Self::None => None,
        }
    }

    /// The destination port, where it is in this packet.
    #[must_use]
    pub const fn destination(&self) -> Option<u16> {
        match self {
            Self::Both { destination, .. } => Some(*destination),
            Self::Fragment { .. } | Self::None => None,
        }
    }
}

impl Flow {
    /// The flow that a packet belongs to.
    #[must_use]
    pub fn of(packet: &IpPacket<'_>) -> Self {
        let ports = match packet.fragment() {
            Some(fragment) if !fragment.is_first() => Ports::Fragment { identification: fragment.identification },
            _ => read_ports(packet),
        };
        Self { source: packet.source(), destination: packet.destination(), protocol: packet.protocol(), ports }
    }

    /// The same conversation seen from the other side.
    #[must_use]
    pub const fn reversed(&self) -> Self {
        let ports = match self.ports {
            Ports::Both { source, destination } => Ports::Both { source: destination, destination: source },
            other @ (Ports::Fragment { .. } | Ports::None) => other,
        };
        Self { source: self.destination, destination: self.source, protocol: self.protocol, ports }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ports {
            Ports::Both { source, destination } => write!(
                out,
                "{} -> {} protocol {}",
                SocketAddr::new(self.source, source),
                SocketAddr::new(self.destination, destination),
                self.protocol
            ),
            Ports::Fragment { identification } => write!(
                out,
                "{} -> {} protocol {} fragment {identification:#x}",
                self.source, self.destination, self.protocol
            ),
            Ports::None => write!(out, "{} -> {} protocol {}", self.source, self.destination, self.protocol),
        }
    }
}

/// The five protocols that begin with source and destination port.
fn read_ports(packet: &IpPacket<'_>) -> Ports {
    let has_ports = matches!(
        packet.protocol(),
        protocol::TCP | protocol::UDP | protocol::UDP_LITE | protocol::SCTP | protocol::DCCP
    );
    match packet.payload() {
        [s0, s1, d0, d1, ..] if has_ports => {
            Ports::Both { source: u16::from_be_bytes([*s0, *s1]), destination: u16::from_be_bytes([*d0, *d1]) }
        }
        _ => Ports::None,
    }
}

#[cfg(test)]
mod tests;
