//! Traffic with a mark in it, its answers checked: what the demo and the tests send inside a lab's namespaces.

pub(super) mod exchange;
pub(super) mod forge;
pub(super) mod stream;
pub(super) mod wire;

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;

use super::pcap;
use crate::screen;
use exchange::{Exchange, Protocol};
use forge::Forgery;

/// `meshctl lab probe`.
#[derive(Debug, Subcommand)]
pub(super) enum Probe {
    /// Sends marked payloads and checks that they come back unchanged; prints one JSON object.
    Send {
        /// tcp, udp, icmp, or the number of an IP protocol (253 is answered by the echo server).
        protocol: Protocol,
        /// To whom.
        target: IpAddr,
        /// Of TCP and UDP.
        #[arg(long, default_value_t = 8080)]
        port: u16,
        /// How many, each on a connection of its own for TCP.
        #[arg(long, default_value_t = 3)]
        count: u32,
        /// Payload bytes; more than the MTU makes fragments of UDP.
        #[arg(long, default_value_t = 64)]
        size: usize,
        /// What the payload is made of.
        #[arg(long, default_value = "weft-probe")]
        marker: String,
        /// Between two, in milliseconds.
        #[arg(long, default_value_t = 0)]
        interval: u64,
        /// How long an answer may take, in milliseconds.
        #[arg(long, default_value_t = 1000)]
        timeout: u64,
        /// From which of our addresses.
        #[arg(long)]
        source: Option<IpAddr>,
    },
    /// Keeps TCP connections to an echo server under steady traffic, until stdin ends or the time is over; prints a
    /// JSON line now and then, and one at the end.
    Stream {
        /// To whom.
        target: IpAddr,
        /// The echo server's port.
        #[arg(long, default_value_t = 8080)]
        port: u16,
        /// How many.
        #[arg(long, default_value_t = 1)]
        connections: u16,
        /// For how long; until stdin ends where absent.
        #[arg(long)]
        seconds: Option<u64>,
        /// Between two records, in milliseconds.
        #[arg(long, default_value_t = 10)]
        interval: u64,
        /// Between two reports, in milliseconds.
        #[arg(long, default_value_t = 1000)]
        report: u64,
        /// What the records are made of.
        #[arg(long, default_value = "weft-stream")]
        marker: String,
    },
    /// Sends a packet with any source address: whoever owns it.
    Forge {
        /// The address that is not ours.
        #[arg(long)]
        from: IpAddr,
        /// To whom.
        #[arg(long)]
        to: IpAddr,
        /// tcp (a SYN), udp, icmp, or a number.
        #[arg(long, default_value = "udp")]
        protocol: Protocol,
        /// Destination port.
        #[arg(long, default_value_t = 8080)]
        port: u16,
        /// How many.
        #[arg(long, default_value_t = 1)]
        count: u32,
        /// What the payload is made of.
        #[arg(long, default_value = "weft-forged")]
        marker: String,
    },
    /// Sends captured UDP datagrams again as they were, sources included.
    Replay {
        /// The capture.
        #[arg(long)]
        pcap: PathBuf,
        /// Those to this port.
        #[arg(long, default_value_t = super::facts::MESH_PORT)]
        port: u16,
        /// At most so many.
        #[arg(long, default_value_t = 1000)]
        max: usize,
        /// Change one bit of the last byte.
        #[arg(long)]
        flip: bool,
    },
}

impl Probe {
    /// Does what was asked; the exit code says whether every answer came.
    ///
    /// # Errors
    /// Nothing could be sent at all.
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let is_well = match self {
            Self::Send { protocol, target, port, count, size, marker, interval, timeout, source } => {
                let exchange = Exchange {
                    protocol,
                    target,
                    port,
                    count,
                    size,
                    marker,
                    interval: Duration::from_millis(interval),
                    patience: Duration::from_millis(timeout.max(1)),
                    source,
                };
                let report = exchange.run();
                screen::out(&serde_json::to_string(&report)?)?;
                report.is_whole()
            }
            Self::Stream { target, port, connections, seconds, interval, report, marker } => {
                let plan = stream::Plan {
                    target: (target, port).into(),
                    connections,
                    interval: Duration::from_millis(interval.max(1)),
                    marker,
                };
                stream::report_until_told(&plan, seconds.map(Duration::from_secs), Duration::from_millis(report))?
            }
            Self::Forge { from, to, protocol, port, count, marker } => {
                let packet = Forgery { from, to, protocol, port, marker }.packet()?;
                for _ in 0..count {
                    forge::send(&packet)?;
                }
                true
            }
            Self::Replay { pcap, port, max, flip } => {
                let bytes = std::fs::read(&pcap).with_context(|| format!("cannot read {}", pcap.display()))?;
                let packets = pcap::udp_to(&bytes, port)?;
                for packet in packets.into_iter().take(max) {
                    forge::send(&if flip { forge::flipped(packet) } else { packet })?;
                }
                true
            }
        };
        Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
