//! Opens a persistent multi-queue TUN device; reads and writes its packets and super packets.

use std::ffi::c_char;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::{fmt, io};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// The door to all TUN devices (Documentation/networking/tuntap.rst).
const DOOR: &str = "/dev/net/tun";

/// One packet a read, without the four bytes of `tun_pi` and with a `struct virtio_net_hdr`; several readers of one
/// device. A device made without the header can be opened with it.
const FLAGS: libc::c_int = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE | libc::IFF_VNET_HDR;

/// `TUN_F_USO4` and `TUN_F_USO6` of linux/if_tun.h (Linux 6.2).
const TUN_F_USO: libc::c_uint = 0x20 | 0x40;
const TUN_F_TSO: libc::c_uint = libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;

/// Length in bytes of the header in front of each packet (`struct virtio_net_hdr`, the default of `TUNSETVNETHDRSZ`).
pub const HEADER_BYTES: usize = 10;

/// The longest packet there is, with its header; a buffer of this size never cuts one short. RFC 8200 §3: 40 bytes and a
/// payload length of 16 bits. A jumbogram (RFC 2675) never comes out of a TUN device.
pub const PACKET_BYTES_MAX: usize = HEADER_BYTES + 40 + 65_535;

/// One queue of a TUN device.
///
/// The device is persistent: it stays, with its routes, when the last queue is closed. Until somebody opens it again
/// the kernel drops what is routed to it. `ip link del NAME` ends it.
#[derive(Debug)]
pub struct Tun {
    queue: OwnedFd,
}

/// What the kernel leaves to whoever reads the device. Each includes those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TunOffload {
    /// Nothing: every packet is finished.
    #[default]
    None,
    /// Completing checksums and cutting TCP.
    Tcp,
    /// Cutting UDP, too.
    Udp,
}

impl TunOffload {
    /// A stable name.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tcp => "tcp",
            Self::Udp => "tcp and udp",
        }
    }
}

/// Why there is no TUN device.
#[derive(Debug)]
pub enum TunError {
    /// `/dev/net/tun` cannot be opened.
    Door {
        /// Why not.
        source: io::Error,
    },
    /// The kernel's TUN lacks something that we need.
    Feature {
        /// What.
        feature: &'static str,
    },
    /// The device can be neither made nor attached to.
    Attach {
        /// Its name.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// A name of a link has 1 to 15 bytes, none of which is `/`, `:`, `%` or white space (dev_valid_name() of
    /// net/core/dev.c; `%d` would be a template).
    Name {
        /// What was given instead.
        name: String,
    },
}

impl fmt::Display for TunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Door { source } => {
                let remedy = match source.kind() {
                    io::ErrorKind::NotFound => {
                        "`modprobe tun`, then `mkdir -p /dev/net && mknod /dev/net/tun c 10 200` if it is still missing; \
                         a container needs the host's device"
                    }
                    io::ErrorKind::PermissionDenied => "run as root, and let the device cgroup allow `c 10:200 rwm`",
                    _ => "`modprobe tun`, or a kernel with CONFIG_TUN",
                };
                write!(f, "cannot open {DOOR}: {source}; {remedy}")
            }
            Self::Feature { feature } => write!(f, "the kernel's TUN has no {feature}; Linux 3.8 and later has it"),
            Self::Attach { name, source } => {
                write!(f, "cannot open TUN device {name}: {source}")?;
                match Errno::from_io_error(source) {
                    Some(Errno::PERM | Errno::ACCESS) => write!(f, "; it takes CAP_NET_ADMIN"),
                    Some(Errno::INVAL) => {
                        write!(
                            f,
                            "; there is another kind of link of that name: `ip link del {name}`, or choose another"
                        )
                    }
                    Some(Errno::BUSY | Errno::TOOBIG) => {
                        write!(f, "; another process has it open: is a daemon running?")
                    }
                    _ => Ok(()),
                }
            }
            Self::Name { name } => {
                write!(f, "{name:?} is no name for a link: 1 to 15 bytes without `/`, `:`, `%` and white space")
            }
        }
    }
}

impl std::error::Error for TunError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Door { source } | Self::Attach { source, .. } => Some(source),
            Self::Feature { .. } | Self::Name { .. } => None,
        }
    }
}

/// Whether this machine can have TUN devices, without making one.
///
/// # Errors
/// [`TunError::Door`] and [`TunError::Feature`]; whether the privilege to make one is there is the business of
/// [`crate::capability`].
pub fn probe() -> Result<(), TunError> {
    let door = open_door()?;
    let mut features: libc::c_uint = 0;
    // SAFETY: TUNGETFEATURES writes one unsigned int to where the pointer points, which is one.
    let answer = unsafe { libc::ioctl(door.as_raw_fd(), libc::TUNGETFEATURES, &raw mut features) };
    if answer < 0 {
        return Err(TunError::Door { source: io::Error::last_os_error() });
    }
    for (flag, feature) in [(libc::IFF_MULTI_QUEUE, "multi-queue"), (libc::IFF_VNET_HDR, "virtio header")] {
        if features & flag.cast_unsigned() == 0 {
            return Err(TunError::Feature { feature });
        }
    }
    Ok(())
}

impl Tun {
    /// Opens a queue of the device `name` of the calling thread's network namespace, and makes the device if there is
    /// none. A new device is down and has the MTU 1500 and no address.
    ///
    /// # Errors
    /// [`TunError`] says which and what to do.
    pub fn open(name: &str) -> Result<Self, TunError> {
        let ifr_name = link_name(name).ok_or_else(|| TunError::Name { name: name.to_owned() })?;
        let queue = open_door()?;
        let attach = |source| TunError::Attach { name: name.to_owned(), source };
        #[expect(clippy::cast_possible_truncation, reason = "a field of 16 bits, as the kernel declares the flags")]
        let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_flags: FLAGS as libc::c_short };
        let mut request = libc::ifreq { ifr_name, ifr_ifru };
        // SAFETY: TUNSETIFF reads and writes one struct ifreq where the pointer points, which is one.
        let answer = unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        if answer < 0 {
            return Err(attach(io::Error::last_os_error()));
        }
        // SAFETY: TUNSETPERSIST takes its argument by value.
        let answer = unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETPERSIST, 1) };
        if answer < 0 {
            return Err(attach(io::Error::last_os_error()));
        }
        Ok(Self { queue })
    }

    /// Asks the kernel to leave as much as it can and as `wanted` says to whoever reads the device; says what it does.
    pub fn set_offload(&self, wanted: TunOffload) -> TunOffload {
        let all = [
            (TunOffload::Udp, libc::TUN_F_CSUM | TUN_F_TSO | TUN_F_USO),
            (TunOffload::Tcp, libc::TUN_F_CSUM | TUN_F_TSO),
        ];
        for (offload, flags) in all.into_iter().filter(|(offload, _)| *offload <= wanted) {
            if self.offload(flags) {
                return offload;
            }
        }
        // never refused; and what a device of an earlier process was left with is taken back
        self.offload(0);
        TunOffload::None
    }

    fn offload(&self, flags: libc::c_uint) -> bool {
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        let answer = unsafe { libc::ioctl(self.queue.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) };
        answer >= 0
    }

    /// Reads one packet that was routed to the device, behind its header of [`HEADER_BYTES`]; `None` when there is none
    /// now. Never blocks. What does not fit into `packet` is cut off: give it [`PACKET_BYTES_MAX`].
    ///
    /// # Errors
    /// [`crate::fault::Fault::Gone`] once the device was deleted.
    pub fn recv(&self, packet: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match rustix::io::read(&self.queue, &mut *packet) {
                Ok(length) => return Ok(Some(length)),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Hands one IP packet to the kernel as if it had come in by this device: its header of [`HEADER_BYTES`] and itself,
    /// in as many parts as the caller likes up to 1,024. Never blocks.
    ///
    /// # Errors
    /// Sorted by [`crate::fault::Fault`]: `Down` while the link is down, `Gone` once it was deleted, `Full` when the
    /// kernel has no memory, `Other` when it is no IP packet or the kernel does not believe the header.
    pub fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        loop {
            match rustix::io::writev(&self.queue, parts) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

fn open_door() -> Result<OwnedFd, TunError> {
    rustix::fs::open(DOOR, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| TunError::Door { source: errno.into() })
}

/// A link's name as the kernel takes it, ending in zero.
fn link_name(name: &str) -> Option<[c_char; libc::IFNAMSIZ]> {
    let bad = |b: u8| b.is_ascii_whitespace() || matches!(b, b'/' | b':' | b'%' | 0 | 0x0b);
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name == "." || name == ".." || name.bytes().any(bad) {
        return None;
    }
    let mut bytes = [0; libc::IFNAMSIZ];
    for (to, from) in bytes.iter_mut().zip(name.bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
