//! Opens a persistent multi-queue TUN device; reads and writes its packets.

use std::ffi::c_char;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::{fmt, io};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// The door to all TUN devices (Documentation/networking/tuntap.rst).
const DOOR: &str = "/dev/net/tun";

/// One packet a read, without the four bytes of `tun_pi`; several readers of one device. The virtio header for
/// segmentation offload will be one more flag here, and a device made without it can be opened with it.
const FLAGS: libc::c_int = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE;

/// The longest packet there is; a buffer of this size never cuts one short. RFC 791 §3.1: total length of 16 bits. A
/// jumbogram (RFC 2675) never comes out of a TUN device.
pub const PACKET_BYTES_MAX: usize = 65_535;

/// One queue of a TUN device.
///
/// The device is persistent: it stays, with its routes, when the last queue is closed. Until somebody opens it again
/// the kernel drops what is routed to it. `ip link del NAME` ends it.
#[derive(Debug)]
pub struct Tun {
    queue: OwnedFd,
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
    if features & libc::IFF_MULTI_QUEUE.cast_unsigned() == 0 {
        return Err(TunError::Feature { feature: "multi-queue" });
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

    /// Reads one packet that was routed to the device, `None` when there is none now. Never blocks. What does not fit
    /// into `packet` is cut off: give it [`PACKET_BYTES_MAX`].
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

    /// Hands one IP packet to the kernel as if it had come in by this device. Never blocks.
    ///
    /// # Errors
    /// Sorted by [`crate::fault::Fault`]: `Down` while the link is down, `Gone` once it was deleted, `Full` when the
    /// kernel has no memory, `Other` when it is no IP packet.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        loop {
            match rustix::io::write(&self.queue, packet) {
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
