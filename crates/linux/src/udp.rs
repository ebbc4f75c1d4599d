//! One UDP port on both IP families: batched receiving with GRO, sending with GSO, and replies from the address that was
//! addressed.
//!
//! Receiving is a thin coat over quinn-udp, which knows the control messages. What is ours: the two sockets of one port,
//! the mark, the buffers, fragmentation, sending with a traffic class, and falling over to another source address when a
//! remembered one is gone.
//!
//! Fragmentation of the outer packets is allowed in both families, as kernel WireGuard does: the device's MTU leaves
//! room for the outer headers on this host's underlay, so a fragment is made only where a path further on is narrower,
//! and there it beats a black hole.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::{array, fmt};

use quinn_udp::{RecvMeta, UdpSocketState};
use rustix::io::Errno;
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use socket2::{Domain, MsgHdr, Protocol, Socket, Type};

mod control;
mod group;

use control::Control;
pub use group::Steering;

/// Size of the kernel's receive and send buffers that is asked for, for each socket: about 2,700 full packets, a
/// quarter of a second at 1 Gbit/s. Beyond `net.core.rmem_max` it takes CAP_NET_ADMIN, which a marked socket needs
/// anyway.
pub const BUFFER_BYTES: usize = 4 << 20;

/// Datagrams that one send call may carry: `UDP_MAX_SEGMENTS` of linux/udp.h before Linux 6.9.
pub const SEGMENTS_MAX: usize = 64;

/// Bytes that one send call may carry: what an IPv4 packet holds beside its own header and UDP's.
pub const SEND_BYTES_MAX: usize = 65_535 - 20 - 8;

/// Messages that one receive call may fill. With GRO each can hold 64 datagrams of one sender.
pub const MESSAGES_MAX: usize = 8;

/// Room for one message: the kernel never merges beyond it (UDP_GRO, udp(7)).
const MESSAGE_BYTES: usize = 65_535;

/// How often another port is tried when the kernel's choice for one family is taken in the other.
const PORT_TRIES: usize = 16;

/// An IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Why a port cannot be had.
#[derive(Debug)]
pub enum UdpError {
    /// The port of one family cannot be bound.
    Bind {
        /// Which family.
        family: Family,
        /// Which port; 0 asked the kernel to choose.
        port: u16,
        /// Why not.
        source: io::Error,
    },
    /// An option of the socket cannot be set.
    Option {
        /// Which.
        option: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The kernel has neither IP family.
    NoFamily,
}

impl fmt::Display for UdpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind { family, port, source } => {
                write!(f, "cannot bind UDP port {port} on {family}: {source}")?;
                match source.kind() {
                    io::ErrorKind::AddrInUse => {
                        write!(f, "; another process has it (`ss -lunp`): stop it or choose another port")
                    }
                    io::ErrorKind::PermissionDenied => write!(f, "; a port below 1024 takes CAP_NET_BIND_SERVICE"),
                    _ => Ok(()),
                }
            }
            Self::Option { option, source } => {
                write!(f, "cannot set {option} of the UDP socket: {source}")?;
                match source.kind() {
                    io::ErrorKind::PermissionDenied => write!(f, "; it takes CAP_NET_ADMIN"),
                    _ => Ok(()),
                }
            }
            Self::NoFamily => f.write_str("this host has neither IPv4 nor IPv6"),
        }
    }
}

impl std::error::Error for UdpError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Bind { source, .. } | Self::Option { source, .. } => Some(source),
            Self::NoFamily => None,
        }
    }
}

/// One UDP port, on whichever IP families the host has.
#[derive(Debug)]
pub struct Udp {
    v4: Option<Half>,
    v6: Option<Half>,
    port: u16,
    mark: u32,
}

/// Datagrams to send.
#[derive(Clone, Copy, Debug)]
pub struct Transmit<'a> {
    /// Where to.
    pub to: SocketAddr,
    /// From which of our addresses, if there is a preference. One of the other family is no preference.
    pub from: Option<IpAddr>,
    /// Traffic class: six bits of DSCP, two of ECN.
    pub class: u8,
    /// One datagram after the other, at most [`SEGMENTS_MAX`] and [`SEND_BYTES_MAX`].
    pub datagrams: &'a [u8],
    /// Length of each but the last, which may be shorter; as long as `datagrams` or longer for a single one.
    pub segment_bytes: usize,
}

/// How a datagram left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// From the address asked for, or there was no preference.
    AsAsked,
    /// From another address, because the one asked for is not ours any more or leads nowhere.
    SourceGone,
}

/// The socket of one family.
#[derive(Debug)]
struct Half {
    socket: Socket,
    state: UdpSocketState,
}

impl Udp {
    /// Binds `port` (0: one that is free in both families) on all addresses of the calling thread's network
    /// namespace. `mark` is put on every packet sent (`SO_MARK`; 0 for none). A family that the kernel does not have is
    /// left out; one whose addresses are merely disabled now is bound and works once it has some.
    ///
    /// # Errors
    /// [`UdpError`] says which and what to do.
    pub fn bind(port: u16, mark: u32) -> Result<Self, UdpError> {
        let mut tries = PORT_TRIES;
        loop {
            let v4 = Half::bind(Family::V4, port, mark, false)?;
            let chosen = match &v4 {
                Some(half) => half.port(Family::V4)?,
                None => port,
            };
            match Half::bind(Family::V6, chosen, mark, false) {
                Err(UdpError::Bind { source, .. })
                    if port == 0 && tries > 0 && source.kind() == io::ErrorKind::AddrInUse =>
                {
                    tries -= 1;
                }
                Err(error) => return Err(error),
                Ok(v6) => {
                    let port = match (&v4, &v6) {
                        (Some(_), _) => chosen,
                        (None, Some(half)) => half.port(Family::V6)?,
                        (None, None) => return Err(UdpError::NoFamily),
                    };
                    return Ok(Self { v4, v6, port, mark });
                }
            }
        }
    }

    /// The port, which is the same in both families.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What to wait on for one family, if the host has it.
    #[must_use]
    pub fn source(&self, family: Family) -> Option<BorrowedFd<'_>> {
        self.half(family).map(|half| half.socket.as_fd())
    }

    /// Receives what is there into `batch`, at most [`MESSAGES_MAX`] messages; whether there was anything. Never
    /// blocks. A family that the host lacks has nothing.
    ///
    /// # Errors
    /// Sorted by [`crate::fault::Fault`]; none of them breaks the socket.
    pub fn recv(&self, family: Family, batch: &mut Batch) -> io::Result<bool> {
        batch.filled = 0;
        let Some(half) = self.half(family) else { return Ok(false) };
        let mut buffers = batch.buffers.each_mut().map(|buffer| IoSliceMut::new(buffer));
        match half.state.recv((&half.socket).into(), &mut buffers, &mut batch.metas) {
            Ok(filled) => {
                batch.filled = filled;
                Ok(filled > 0)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether many datagrams can go with one call (`UDP_SEGMENT`, Linux 4.18). That the kernel knows the option does not
    /// say that every link can: see the errors of [`send`](Self::send).
    #[must_use]
    pub fn has_gso(&self, family: Family) -> bool {
        // setting it to 0 is how it is
        self.half(family).is_some_and(|half| set_option(&half.socket, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok())
    }

    /// Whether the kernel gives many datagrams of one sender with one call (`UDP_GRO`, Linux 5.0).
    #[must_use]
    pub fn has_gro(&self, family: Family) -> bool {
        self.half(family).is_some_and(|half| half.state.gro_segments() > 1)
    }

    /// The MTU in bytes of the path to `to`, as far as the kernel knows it: the link's, the route's, or what a router on
    /// the way has said (`IP_MTU` of ip(7), `IPV6_MTU` of ipv6(7)). Asks a socket of its own.
    ///
    /// # Errors
    /// There is no way there, or no socket to be had.
    pub fn path_mtu(&self, to: SocketAddr) -> io::Result<usize> {
        let (domain, level, option) = match Family::of(to.ip()) {
            Family::V4 => (Domain::IPV4, libc::IPPROTO_IP, libc::IP_MTU),
            Family::V6 => (Domain::IPV6, libc::IPPROTO_IPV6, libc::IPV6_MTU),
        };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        if self.mark != 0 {
            socket.set_mark(self.mark)?;
        }
        socket.connect(&to.into())?;
        let mtu = get_option(&socket, level, option)?;
        usize::try_from(mtu).map_err(|_negative| io::Error::from(Errno::INVAL))
    }

    /// Sends datagrams, from the local address `from` if there is a preference. When that address is not ours any more
    /// the kernel chooses, and [`Sent::SourceGone`] says that `from` should be forgotten. Never blocks.
    ///
    /// # Errors
    /// Sorted by [`crate::fault::Fault`]: `Full`, `TooBig`, `Unreachable` (also for a family that the host lacks),
    /// `Forbidden`, `Other`. None of them breaks the socket. Several datagrams may be refused where each alone would
    /// pass: `EIO` by a link that cannot checksum, `EINVAL` or `EMSGSIZE` where one is longer than the path.
    pub fn send(&self, transmit: &Transmit<'_>) -> io::Result<Sent> {
        let family = Family::of(transmit.to.ip());
        let half = self.half(family).ok_or_else(|| io::Error::from(Errno::NETUNREACH))?;
        let from = transmit.from.filter(|from| Family::of(*from) == family);
        match half.send(transmit, family, from) {
            Ok(()) => Ok(Sent::AsAsked),
            Err(error) if from.is_some() && is_source_gone(&error) => {
                half.send(transmit, family, None)?;
                Ok(Sent::SourceGone)
            }
            Err(error) => Err(error),
        }
    }

    fn half(&self, family: Family) -> Option<&Half> {
        match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        }
    }
}

/// What the kernel says to a source address that is not ours: IPv4 EINVAL (ip_route_output_key_hash_rcu()), IPv6
/// EINVAL (ip6_datagram_send_ctl()) or EADDRNOTAVAIL; and when no route suits it, ENETUNREACH.
fn is_source_gone(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::INVAL | Errno::ADDRNOTAVAIL | Errno::NETUNREACH | Errno::HOSTUNREACH)
    )
}

impl Half {
    /// `None` when the kernel lacks the family. `shared`: with other sockets of this user.
    fn bind(family: Family, port: u16, mark: u32, shared: bool) -> Result<Option<Self>, UdpError> {
        let (domain, any): (_, IpAddr) = match family {
            Family::V4 => (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into()),
            Family::V6 => (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()),
        };
        let failed = |source| UdpError::Bind { family, port, source };
        let socket = match Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)) {
            Err(error) if is_family_missing(&error) => return Ok(None),
            other => other.map_err(failed)?,
        };
        if family == Family::V6 {
            socket.set_only_v6(true).map_err(|source| UdpError::Option { option: "IPV6_V6ONLY", source })?;
        }
        if mark != 0 {
            socket.set_mark(mark).map_err(|source| UdpError::Option { option: "SO_MARK", source })?;
        }
        set_buffers(&socket)?;
        if shared {
            group::share(&socket)?;
        }
        match socket.bind(&SocketAddr::new(any, port).into()) {
            Err(error) if is_family_missing(&error) => return Ok(None),
            other => other.map_err(failed)?,
        }
        let state = state_of(&socket, family)?;
        Ok(Some(Self { socket, state }))
    }

    fn send(&self, transmit: &Transmit<'_>, family: Family, from: Option<IpAddr>) -> io::Result<()> {
        let mut control = Control::new();
        control.put_class(family, transmit.class);
        if let Some(from) = from {
            control.put_source(from);
        }
        if transmit.datagrams.len() > transmit.segment_bytes {
            control.put_segment_bytes(transmit.segment_bytes);
        }
        let (to, buffers) = (transmit.to.into(), [IoSlice::new(transmit.datagrams)]);
        let message = MsgHdr::new().with_addr(&to).with_buffers(&buffers).with_control(control.bytes());
        loop {
            match self.socket.sendmsg(&message, libc::MSG_DONTWAIT) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn port(&self, family: Family) -> Result<u16, UdpError> {
        let address = self.socket.local_addr().map_err(|source| UdpError::Bind { family, port: 0, source })?;
        Ok(address.as_socket().map_or(0, |address| address.port()))
    }
}

fn is_family_missing(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL | Errno::PROTONOSUPPORT))
}

/// Asks for packet info and GRO (by quinn-udp), then takes back timestamps, and allows fragments, which quinn-udp forbids.
fn state_of(socket: &Socket, family: Family) -> Result<UdpSocketState, UdpError> {
    let failed = |option| move |source| UdpError::Option { option, source };
    let state = UdpSocketState::new(socket.into()).map_err(failed("IP_PKTINFO"))?;
    // nobody asks when a datagram came, and telling costs a twentieth of receiving it
    set_option(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 0).map_err(failed("SO_TIMESTAMPNS"))?;
    let discovery = |errno: Errno| UdpError::Option { option: "IP_MTU_DISCOVER", source: errno.into() };
    match family {
        Family::V4 => sockopt::set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DONT).map_err(discovery)?,
        Family::V6 => {
            allow_local_fragments_v6(socket).map_err(failed("IPV6_DONTFRAG"))?;
            sockopt::set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::WANT).map_err(discovery)?;
        }
    }
    Ok(state)
}

/// Takes back what quinn-udp sets beside path MTU discovery.
fn allow_local_fragments_v6(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 0)
}

fn set_option(socket: &Socket, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the pointer and the length are those of one c_int, which the options above are and the kernel only reads.
    let answer = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn get_option(socket: &Socket, level: libc::c_int, option: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the pointers are to one c_int and to its length, which the kernel writes within.
    let answer =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut length) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

fn set_buffers(socket: &Socket) -> Result<(), UdpError> {
    let failed = |option| move |errno: Errno| UdpError::Option { option, source: errno.into() };
    sockopt::set_socket_recv_buffer_size_force(socket, BUFFER_BYTES)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(socket, BUFFER_BYTES))
        .map_err(failed("SO_RCVBUF"))?;
    sockopt::set_socket_send_buffer_size_force(socket, BUFFER_BYTES)
        .or_else(|_| sockopt::set_socket_send_buffer_size(socket, BUFFER_BYTES))
        .map_err(failed("SO_SNDBUF"))
}

/// Memory that datagrams are received into: [`MESSAGES_MAX`] times 64 KiB, made once.
pub struct Batch {
    buffers: [Box<[u8]>; MESSAGES_MAX],
    metas: [RecvMeta; MESSAGES_MAX],
    filled: usize,
}

/// A message in a [`Batch`]: one datagram, or several of one sender that the kernel merged.
#[derive(Debug)]
pub struct Message<'a> {
    /// Who sent it.
    pub from: SocketAddr,
    /// Which of our addresses it was sent to, unless the kernel did not say.
    pub to: Option<IpAddr>,
    /// The two bits of ECN that it arrived with.
    pub ecn: u8,
    /// Length of each datagram but the last, which may be shorter. At least 1.
    pub stride: usize,
    /// One datagram after the other.
    pub bytes: &'a mut [u8],
}

impl Batch {
    /// Makes an empty one.
    #[must_use]
    pub fn new() -> Self {
        Self {
            buffers: array::from_fn(|_| vec![0; MESSAGE_BYTES].into_boxed_slice()),
            metas: array::from_fn(|_| RecvMeta::default()),
            filled: 0,
        }
    }

    /// What the last [`Udp::recv`] found, in order of arrival.
    pub fn messages(&mut self) -> impl Iterator<Item = Message<'_>> {
        self.buffers.iter_mut().zip(&self.metas).take(self.filled).map(|(buffer, meta)| Message {
            from: meta.addr,
            to: meta.dst_ip,
            ecn: meta.ecn.map_or(0, |ecn| ecn as u8),
            stride: meta.stride.max(1),
            bytes: buffer.get_mut(..meta.len).unwrap_or_default(),
        })
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("filled", &self.filled).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
