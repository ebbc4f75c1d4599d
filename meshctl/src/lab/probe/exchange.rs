//! Sends marked payloads one after the other and checks each answer.

use std::fmt;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::str::FromStr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use packet::ip::protocol;
use serde::Serialize;
use socket2::{Domain, Socket, Type};

use super::wire::{any_of, echo_request, is_reply_to, payload, raw_payload, raw_socket};

/// How payloads travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Protocol {
    /// A connection each.
    Tcp,
    /// A datagram each, in fragments when it is large.
    Udp,
    /// An echo request each.
    Icmp,
    /// A packet of that IP protocol each.
    Raw(u8),
}

/// What is sent.
#[derive(Clone, Debug)]
pub(in super::super) struct Exchange {
    /// How.
    pub(in super::super) protocol: Protocol,
    /// To whom.
    pub(in super::super) target: IpAddr,
    /// Of TCP and UDP.
    pub(in super::super) port: u16,
    /// How many.
    pub(in super::super) count: u32,
    /// Payload bytes.
    pub(in super::super) size: usize,
    /// What the payload is made of.
    pub(in super::super) marker: String,
    /// Between two.
    pub(in super::super) interval: Duration,
    /// How long an answer may take.
    pub(in super::super) patience: Duration,
    /// From which address.
    pub(in super::super) source: Option<IpAddr>,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in super::super) struct Report {
    /// As it was asked.
    pub(in super::super) protocol: String,
    /// As it was asked.
    pub(in super::super) target: String,
    /// How many were tried.
    pub(in super::super) sent: u32,
    /// How many came back unchanged, in time.
    pub(in super::super) received: u32,
    /// The quickest, in microseconds.
    pub(in super::super) rtt_min_micros: u64,
    /// The slowest, in microseconds.
    pub(in super::super) rtt_max_micros: u64,
    /// Why the last one that failed did.
    pub(in super::super) error: Option<String>,
}

impl Report {
    /// Whether everything came back.
    pub(in super::super) fn is_whole(&self) -> bool {
        self.sent > 0 && self.received == self.sent
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "icmp" => Ok(Self::Icmp),
            number => {
                number.parse().map(Self::Raw).map_err(|e| format!("`{text}` is not tcp, udp, icmp or 0 to 255: {e}"))
            }
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("tcp"),
            Self::Udp => f.write_str("udp"),
            Self::Icmp => f.write_str("icmp"),
            Self::Raw(number) => write!(f, "protocol {number}"),
        }
    }
}

impl Exchange {
    /// Sends and waits, one after the other.
    pub(in super::super) fn run(&self) -> Report {
        let mut report =
            Report { protocol: self.protocol.to_string(), target: self.target.to_string(), ..Report::default() };
        let mut socket = None;
        for number in 0..self.count {
            report.sent += 1;
            let begin = Instant::now();
            match self.one(number, &mut socket) {
                Ok(()) => {
                    let micros = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
                    let is_first = report.received == 0;
                    report.rtt_min_micros = if is_first { micros } else { report.rtt_min_micros.min(micros) };
                    report.rtt_max_micros = report.rtt_max_micros.max(micros);
                    report.received += 1;
                }
                Err(error) => report.error = Some(format!("{error:#}")),
            }
            std::thread::sleep(self.interval);
        }
        report
    }

    fn one(&self, number: u32, socket: &mut Option<UdpSocket>) -> anyhow::Result<()> {
        let payload = payload(&self.marker, number, self.size);
        if self.protocol == Protocol::Tcp {
            return self.over_tcp(&payload);
        }
        let socket = match socket {
            Some(socket) => socket,
            None => socket.insert(self.socket()?),
        };
        let is_v4 = self.target.is_ipv4();
        match self.protocol {
            Protocol::Icmp => {
                static NEXT_ID: AtomicU16 = AtomicU16::new(1);
                let own = u16::try_from(std::process::id() % 65_536).unwrap_or(0);
                let id = own.wrapping_add(NEXT_ID.fetch_add(1, Ordering::Relaxed));
                let request = echo_request(is_v4, id, number, &payload);
                self.datagram(socket, &request, &|bytes| is_reply_to(&request, raw_payload(is_v4, bytes)))
            }
            Protocol::Raw(_) => {
                // questions begin with `?`, answers with `!`: two echo servers have nothing to say to each other
                let question = [b"?", payload.as_slice()].concat();
                let is_answer = |bytes: &[u8]| raw_payload(is_v4, bytes).strip_prefix(b"!") == Some(&payload);
                self.datagram(socket, &question, &is_answer)
            }
            Protocol::Udp | Protocol::Tcp => self.datagram(socket, &payload, &|bytes| bytes == payload),
        }
    }

    fn socket(&self) -> anyhow::Result<UdpSocket> {
        let is_v4 = self.target.is_ipv4();
        let from = self.source.map_or_else(|| any_of(self.target), |source| SocketAddr::new(source, 0));
        let (socket, port) = match self.protocol {
            Protocol::Icmp => (raw_socket(is_v4, if is_v4 { protocol::ICMP } else { protocol::ICMPV6 })?, 0),
            Protocol::Raw(number) => (raw_socket(is_v4, number)?, 0),
            Protocol::Udp | Protocol::Tcp => (UdpSocket::bind(from).context("cannot bind")?, self.port),
        };
        if let (Some(source), Protocol::Icmp | Protocol::Raw(_)) = (self.source, self.protocol) {
            socket2::SockRef::from(&socket).bind(&SocketAddr::new(source, 0).into()).context("cannot bind")?;
        }
        socket.connect((self.target, port)).with_context(|| format!("cannot reach {}", self.target))?;
        Ok(socket)
    }

    /// Sends one datagram and waits for its answer, past whatever else comes in.
    fn datagram(&self, socket: &UdpSocket, bytes: &[u8], is_answer: &dyn Fn(&[u8]) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + self.patience;
        let sent = match socket.send(bytes) {
            // an ICMP error for an earlier one shows up here; this one has not been sent
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => socket.send(bytes),
            other => other,
        };
        sent.with_context(|| format!("cannot send to {}", self.target))?;
        let mut buffer = vec![0; 70_000];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "no answer within {} ms", self.patience.as_millis());
            socket.set_read_timeout(Some(left)).context("cannot set a time limit")?;
            match socket.recv(&mut buffer) {
                Ok(length) if buffer.get(..length).is_some_and(is_answer) => return Ok(()),
                Ok(_) => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) => return Err(e).context("no answer"),
            }
        }
    }

    fn over_tcp(&self, payload: &[u8]) -> anyhow::Result<()> {
        let target = SocketAddr::new(self.target, self.port);
        let mut stream = match self.source {
            None => TcpStream::connect_timeout(&target, self.patience).context("no connection")?,
            Some(source) => {
                let socket = Socket::new(Domain::for_address(target), Type::STREAM, None).context("no socket")?;
                socket.bind(&SocketAddr::new(source, 0).into()).context("cannot bind")?;
                socket.connect_timeout(&target.into(), self.patience).context("no connection")?;
                socket.into()
            }
        };
        stream.set_read_timeout(Some(self.patience)).context("cannot set a time limit")?;
        stream.set_write_timeout(Some(self.patience)).context("cannot set a time limit")?;
        stream.write_all(payload).context("cannot send")?;
        let mut answer = vec![0; payload.len()];
        stream.read_exact(&mut answer).context("no answer")?;
        ensure!(answer == payload, "the answer is not what was sent");
        Ok(())
    }
}
