//! The generation of this namespace's nft rules: a number that each change counts up, and so tells whether anybody made one.

use anyhow::{Context as _, bail};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

/// `NFT_MSG_GETGEN` of the nf_tables subsystem (linux/netfilter/nfnetlink.h and nf_tables.h: subsystem 10, message 16).
const GET_GENERATION: u16 = (10 << 8) | 16;
/// `NLM_F_REQUEST` (netlink(7)).
const REQUEST: u16 = 1;
/// Length of `struct nlmsghdr` and `struct nfgenmsg` in bytes.
const HEADERS_BYTES: usize = 20;
/// `NFTA_GEN_ID`: an attribute of four bytes in network order (linux/netfilter/nf_tables.h).
const GENERATION_ID: u16 = 1;

/// Reads the generation of the calling thread's network namespace.
pub(super) fn read() -> anyhow::Result<u32> {
    let ask = || -> std::io::Result<Vec<u8>> {
        let socket = Socket::new(NETLINK_NETFILTER)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.send(&request(), 0)?;
        Ok(socket.recv_from_full()?.0)
    };
    let answer = ask().context("cannot ask for the generation of the nft rules")?;
    match generation(&answer) {
        Some(generation) => Ok(generation),
        None => bail!("the kernel does not tell the generation of its nft rules: is nf_tables there?"),
    }
}

fn request() -> Vec<u8> {
    let length = u32::try_from(HEADERS_BYTES).unwrap_or_default();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(GET_GENERATION.to_ne_bytes());
    bytes.extend(REQUEST.to_ne_bytes());
    // sequence and port number, then family, version and resource: all zero
    bytes.resize(HEADERS_BYTES, 0);
    bytes
}

/// Finds the attribute; an error message or anything else has none.
fn generation(answer: &[u8]) -> Option<u32> {
    let kind = u16::from_ne_bytes(*answer.get(4..)?.first_chunk()?);
    // NFT_MSG_NEWGEN is one less than the request
    if kind != GET_GENERATION - 1 {
        return None;
    }
    let mut rest = answer.get(HEADERS_BYTES..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?);
        if kind == GENERATION_ID {
            return Some(u32::from_be_bytes(*rest.get(4..)?.first_chunk()?));
        }
        rest = rest.get(length.max(4).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_and_nothing_else_is_mistaken_for_one() {
        let mut answer = request();
        answer[4..6].copy_from_slice(&(GET_GENERATION - 1).to_ne_bytes());
        assert_eq!(generation(&answer), None, "no attribute");
        answer.extend([&6_u16.to_ne_bytes()[..], &9_u16.to_ne_bytes(), &[1, 2, 0, 0]].concat());
        answer.extend([&8_u16.to_ne_bytes()[..], &1_u16.to_ne_bytes(), &7_u32.to_be_bytes()].concat());
        assert_eq!(generation(&answer), Some(7));
        assert_eq!(generation(&answer[..answer.len() - 1]), None, "cut short");
        answer[4..6].copy_from_slice(&2_u16.to_ne_bytes());
        assert_eq!(generation(&answer), None, "an error");
        assert_eq!(generation(&[]), None);
    }
}
