//! Packets as views over bytes: parse once, then getters that cannot fail.
//!
//! It holds no state, knows no socket and allocates nothing; hostile bytes give an error, never a panic. It is *not* a
//! network stack: it reads what the mesh needs to route, to police and to show, and writes only what cutting a packet up
//! and putting it together again takes.
//!
//! Its main types: [`IpPacket`], the header view; [`Flow`], the five-tuple; [`Segments`] and [`Run`], which cut super
//! packets apart and join what follows each other; [`checksum::Sum`], the internet checksum.
//!
//! ```
//! let bytes = [
//!     0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, // IPv4, UDP
//!     0x30, 0x39, 0, 53, 0, 8, 0, 0, // 12345 -> 53
//! ];
//! let packet = packet::IpPacket::parse(&bytes)?;
//! assert_eq!(packet.source().to_string(), "10.0.0.1");
//! assert_eq!(packet::Flow::of(&packet).ports.destination(), Some(53));
//! # Ok::<(), packet::ParseError>(())
//! ```

pub mod checksum;
mod coalesce;
pub mod ecn;
pub mod flow;
mod fragment;
pub mod ip;
mod offload;
mod segment;
mod too_big;
mod write;

pub use coalesce::{HEAD_MAX, Head, RUN_MAX, Run};
pub use flow::{Flow, Ports};
pub use fragment::Fragments;
pub use ip::{Fragment, IpPacket, ParseError, Version};
pub use offload::{Gso, OFFLOAD_HEADER, Offload};
pub use segment::{SegmentError, Segments};
pub use too_big::{TOO_BIG_MAX, too_big};
