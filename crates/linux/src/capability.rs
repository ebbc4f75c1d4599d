//! Which of the capabilities that Weft needs the process has.

use std::{fmt, fs, io};

/// A Linux capability (capabilities(7)) that one of our programs needs. The value is its bit number of
/// linux/capability.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Capability {
    /// Links, routes, rules, nft, TUN and socket marks.
    NetAdmin = 12,
    /// Raw sockets.
    NetRaw = 13,
    /// Entering network namespaces.
    SysAdmin = 21,
}

impl Capability {
    /// All that are known here.
    pub const ALL: [Self; 3] = [Self::NetAdmin, Self::NetRaw, Self::SysAdmin];

    /// As the manual, setcap(8) and a pod's `securityContext` (there without `CAP_`) spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::NetRaw => "CAP_NET_RAW",
            Self::SysAdmin => "CAP_SYS_ADMIN",
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The effective capabilities of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effective(u64);

impl Effective {
    /// Reads those of the calling thread.
    ///
    /// # Errors
    /// When `/proc` is not mounted, or (kind `InvalidData`) does not look like Linux's.
    pub fn read() -> io::Result<Self> {
        Self::parse(&fs::read_to_string("/proc/thread-self/status")?)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no CapEff line in /proc/thread-self/status"))
    }

    /// Finds the `CapEff` line of a proc_pid_status(5) text.
    fn parse(status: &str) -> Option<Self> {
        let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        u64::from_str_radix(bits.trim(), 16).ok().map(Self)
    }

    /// Whether it is among them.
    #[must_use]
    pub fn has(self, capability: Capability) -> bool {
        self.0 >> (capability as u8) & 1 == 1
    }

    /// Those of `needed` that are not there, in their order.
    pub fn missing<'a>(self, needed: &'a [Capability]) -> impl Iterator<Item = Capability> + 'a {
        needed.iter().copied().filter(move |&capability| !self.has(capability))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_line_is_read_bit_by_bit() {
        let status = "Name:\tx\nCapPrm:\tffffffffffffffff\nCapEff:\t0000000000003000\nCapBnd:\tffffffffffffffff\n";
        let effective = Effective::parse(status).unwrap();
        assert!(effective.has(Capability::NetAdmin));
        assert!(effective.has(Capability::NetRaw));
        assert_eq!(effective.missing(&Capability::ALL).collect::<Vec<_>>(), [Capability::SysAdmin]);
    }

    #[test]
    fn another_text_is_no_status() {
        for text in ["", "CapPrm:\t00\n", "CapEff:\tzz\n", "CapEff:\n"] {
            assert_eq!(Effective::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn our_own_can_be_read() {
        Effective::read().unwrap();
    }
}
