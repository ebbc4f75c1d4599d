//! Sorts the errors of a packet's read or write by what the data path does about them.

use std::fmt;
use std::io;

use rustix::io::Errno;

/// Why the kernel did not take or give a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// A queue or buffer is full, or memory is short: drop this one, the next may pass.
    Full,
    /// The packet is larger than the link or the route takes.
    TooBig,
    /// No route, no such neighbour, no address to send from, or the network is down.
    Unreachable,
    /// A firewall of this host forbids it.
    Forbidden,
    /// The device is there but down.
    Down,
    /// The device was deleted: it has to be opened again.
    Gone,
    /// Anything else.
    Other,
}

impl Fault {
    /// All of them; a label each for counters.
    pub const ALL: [Self; 7] =
        [Self::Full, Self::TooBig, Self::Unreachable, Self::Forbidden, Self::Down, Self::Gone, Self::Other];

    /// Sorts an error of [`crate::tun::Tun`] or [`crate::udp::Udp`].
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        let Some(errno) = Errno::from_io_error(error) else { return Self::Other };
        match errno {
            Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM => Self::Full,
            Errno::MSGSIZE => Self::TooBig,
            Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::NETDOWN | Errno::HOSTDOWN | Errno::ADDRNOTAVAIL => {
                Self::Unreachable
            }
            // what a dropping rule in an output chain looks like from here
            Errno::PERM | Errno::ACCESS => Self::Forbidden,
            // tun_get_user() of drivers/net/tun.c: the link is not up
            Errno::IO => Self::Down,
            // the same file: the queue's device was unregistered
            Errno::BADFD | Errno::NODEV | Errno::NXIO => Self::Gone,
            _ => Self::Other,
        }
    }

    /// A stable name, for counters.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::TooBig => "too_big",
            Self::Unreachable => "unreachable",
            Self::Forbidden => "forbidden",
            Self::Down => "down",
            Self::Gone => "gone",
            Self::Other => "other",
        }
    }
}

/// Why the kernel did not take several datagrams with one call, where each alone may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BatchRefusal {
    /// The link cannot: no checksum offload, a transformation on the way (`EIO` of udp_send_skb() in net/ipv4/udp.c).
    Link,
    /// A datagram is longer than the path (`EINVAL`, since Linux 6.9 `EMSGSIZE`, of the same function). Kernels say `EINVAL` of a
    /// link that cannot, too: whether it is the path, its MTU tells.
    Path,
}

impl BatchRefusal {
    /// Sorts an error of [`crate::udp::Udp::send`]; `None` when it is another matter.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<Self> {
        match Errno::from_io_error(error)? {
            Errno::IO | Errno::OPNOTSUPP => Some(Self::Link),
            Errno::INVAL | Errno::MSGSIZE => Some(Self::Path),
            _ => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_batch_is_told_from_a_lost_one() {
        let of = |errno: Errno| BatchRefusal::of(&errno.into());
        assert_eq!([Errno::IO, Errno::OPNOTSUPP].map(of), [Some(BatchRefusal::Link); 2]);
        assert_eq!([Errno::INVAL, Errno::MSGSIZE].map(of), [Some(BatchRefusal::Path); 2]);
        assert_eq!([Errno::AGAIN, Errno::NOBUFS, Errno::PERM, Errno::NETUNREACH].map(of), [None; 4]);
    }
}
