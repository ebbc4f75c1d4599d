//! One UDP port shared by several readers: the datagram itself says whose it is.

use std::io;
use std::os::fd::AsRawFd as _;

use socket2::Socket;

use super::{Family, Half, Udp, UdpError};

/// Datagrams whose first byte is `kind` have at `place` a byte whose lowest bits are the number of their reader. All others
/// are the first reader's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steering {
    /// The first byte.
    pub kind: u8,
    /// Where the other one is, counted from the first.
    pub place: u8,
}

impl Udp {
    /// Binds a port as [`bind`](Self::bind) does, for `readers` at once (a power of two up to 256), each with sockets of
    /// its own; the kernel gives each datagram to the reader that `steering` names (`SO_ATTACH_REUSEPORT_CBPF` of socket(7),
    /// Linux 4.5), so that it need not be handed on. A port that another process has is refused, also by a process that
    /// shares it among readers of its own.
    ///
    /// # Errors
    /// [`UdpError`] says which and what to do.
    pub fn bind_group(port: u16, mark: u32, readers: usize, steering: &[Steering]) -> Result<Vec<Self>, UdpError> {
        // the first is bound alone, for nobody else to share it; the kernel lets it become one of many afterwards
        let first = Self::bind(port, mark)?;
        if readers <= 1 {
            return Ok(vec![first]);
        }
        for half in first.halves() {
            share(&half.socket)?;
        }
        let port = first.port;
        let mut group = vec![first];
        for _ in 1..readers {
            let half = |family| Half::bind(family, port, mark, true);
            group.push(Self { v4: half(Family::V4)?, v6: half(Family::V6)?, port, mark });
        }
        let program = program(readers, steering);
        for half in group.iter().take(1).flat_map(Self::halves) {
            attach(&half.socket, &program)
                .map_err(|source| UdpError::Option { option: "SO_ATTACH_REUSEPORT_CBPF", source })?;
        }
        Ok(group)
    }

    fn halves(&self) -> impl Iterator<Item = &Half> {
        self.v4.iter().chain(&self.v6)
    }
}

/// Lets sockets of the same user have the same port.
pub(super) fn share(socket: &Socket) -> Result<(), UdpError> {
    socket.set_reuse_port(true).map_err(|source| UdpError::Option { option: "SO_REUSEPORT", source })
}

/// One instruction of a classic BPF program (Documentation/networking/filter.rst).
const fn instruction(code: u32, k: u32, jump_if_false: u8) -> libc::sock_filter {
    // codes have eight bits
    let [code, ..] = code.to_le_bytes();
    libc::sock_filter { code: code as u16, jt: 0, jf: jump_if_false, k }
}

/// Says of a datagram, which begins behind the UDP header, the number of its reader. Reading beyond its end is answering 0.
fn program(readers: usize, steering: &[Steering]) -> Vec<libc::sock_filter> {
    let load_byte = |place: u8| instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, place.into(), 0);
    let mask = u32::try_from(readers - 1).unwrap_or_default();
    let mut program = vec![load_byte(0)];
    for Steering { kind, place } in steering {
        program.extend([
            instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, (*kind).into(), 3),
            load_byte(*place),
            instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask, 0),
            instruction(libc::BPF_RET | libc::BPF_A, 0, 0),
        ]);
    }
    program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, 0));
    program
}

fn attach(socket: &Socket, program: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_long| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    let (option, length) = (libc::SO_ATTACH_REUSEPORT_CBPF, size_of_val(&program) as libc::socklen_t);
    // SAFETY: the pointer and the length are those of one struct sock_fprog, whose own pointer and length are those of a
    // slice that lives here; the kernel copies both and writes to neither.
    let answer =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const program).cast(), length) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

    use super::super::tests::{inside, receive, send};
    use super::*;
    use crate::udp::Batch;

    const STEERING: [Steering; 2] = [Steering { kind: 4, place: 4 }, Steering { kind: 2, place: 8 }];

    #[test]
    fn a_datagram_says_who_reads_it() {
        inside(|| {
            let group = Udp::bind_group(0, 0, 4, &STEERING).unwrap();
            let sender = Udp::bind(0, 0).unwrap();
            for (family, loopback) in
                [(Family::V4, IpAddr::from(Ipv4Addr::LOCALHOST)), (Family::V6, Ipv6Addr::LOCALHOST.into())]
            {
                let to = SocketAddr::new(loopback, group[0].port());
                for (datagram, reader) in [
                    (&[4, 0, 0, 0, 0b1110][..], 2),
                    (&[4, 0, 0, 0, 0b1111, 9], 3),
                    (&[2, 0, 0, 0, 3, 0, 0, 0, 0b0101], 1),
                    (&[4, 0, 0, 0, 0], 0),
                    (&[1, 0, 0, 0, 3, 0, 0, 0, 3], 0),
                    (&[4, 0, 0], 0),
                    (&[7], 0),
                ] {
                    send(&sender, to, None, datagram).unwrap();
                    let received = receive(&group[reader], family);
                    assert_eq!(received.len(), 1, "{datagram:?} is read by {reader}");
                    assert_eq!(received[0].2, datagram);
                }
                for reader in &group {
                    assert!(!reader.recv(family, &mut Batch::new()).unwrap(), "and nothing more");
                }
            }
        });
    }

    #[test]
    fn nobody_else_shares_the_port() {
        inside(|| {
            let group = Udp::bind_group(0, 0, 2, &STEERING).unwrap();
            let port = group[0].port();
            for readers in [1, 2] {
                let refused = Udp::bind_group(port, 0, readers, &STEERING).unwrap_err();
                assert!(matches!(refused, UdpError::Bind { .. }), "{refused}");
            }
        });
    }
}
