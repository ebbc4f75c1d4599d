//! The two questions that nf_tables is asked all the time, without a program in between: the generation of this namespace's
//! rules, a number that each change counts up, and what one named counter says.
//!
//! ```text
//! struct nlmsghdr   length u32, type u16 (subsystem 10, message), flags u16, sequence u32, port u32     (native order)
//! struct nfgenmsg   family u8, version u8, resource id u16
//! attributes        length u16, type u16 (native order), value (network order), padded to 4 bytes
//! ```
//!
//! linux/netlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h.

use anyhow::{Context as _, bail};
use rtnetlink::IpVersion;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// The nf_tables subsystem, in the upper byte of a message's type.
const SUBSYSTEM: u16 = 10 << 8;
/// `NFT_MSG_GETGEN`; the answer, `NFT_MSG_NEWGEN`, is one less.
const GET_GENERATION: u16 = SUBSYSTEM | 16;
/// `NFT_MSG_GETOBJ`; the answer, `NFT_MSG_NEWOBJ`, is one less.
const GET_OBJECT: u16 = SUBSYSTEM | 19;
/// Length of both headers in bytes.
const HEADERS_BYTES: usize = 20;
/// `NFTA_GEN_ID`.
const GENERATION_ID: u16 = 1;
/// `NFTA_OBJ_TABLE`.
const OBJECT_TABLE: u16 = 1;
/// `NFTA_OBJ_NAME`.
const OBJECT_NAME: u16 = 2;
/// `NFTA_OBJ_TYPE`.
const OBJECT_TYPE: u16 = 3;
/// `NFTA_OBJ_DATA`.
const OBJECT_DATA: u16 = 4;
/// `NFT_OBJECT_COUNTER`.
const COUNTER: u32 = 1;
/// `NFTA_COUNTER_PACKETS`.
const COUNTER_PACKETS: u16 = 2;
/// The bits of an attribute's type that are no flags (`NLA_TYPE_MASK`).
const TYPE_MASK: u16 = 0x3fff;

/// A socket in the network namespace of the thread that first asked, kept from one question to the next.
#[derive(Default)]
pub(super) struct Questions(Option<Socket>);

impl Questions {
    /// Reads the generation of the network namespace's rules.
    pub(super) fn generation(&mut self) -> anyhow::Result<u32> {
        let answer = self.ask(&request(GET_GENERATION, 0, &[]));
        match read_generation(&answer.context("cannot ask for the generation of the nft rules")?) {
            Some(generation) => Ok(generation),
            None => bail!("the kernel does not tell the generation of its nft rules: is nf_tables there?"),
        }
    }

    /// Packets that a named counter of a table of this family (`ip` or `ip6`) has counted; `None` where there is no such counter.
    pub(super) fn counted(&mut self, version: &IpVersion, table: &str, name: &str) -> anyhow::Result<Option<u64>> {
        // NFPROTO_IPV4, NFPROTO_IPV6 (linux/netfilter.h)
        let family = match version {
            IpVersion::V4 => 2,
            IpVersion::V6 => 10,
        };
        let text = |text: &str| [text.as_bytes(), &[0]].concat();
        let (table_name, counter) = (text(table), text(name));
        let attributes: [(u16, &[u8]); 3] =
            [(OBJECT_TABLE, &table_name), (OBJECT_NAME, &counter), (OBJECT_TYPE, &COUNTER.to_be_bytes())];
        let answer = self.ask(&request(GET_OBJECT, family, &attributes)).context("cannot ask for a counter of nft")?;
        Ok(read_counter(&answer))
    }

    /// Each question has one answer. After an error it is not known whose the next one is: there is another socket then.
    fn ask(&mut self, request: &[u8]) -> std::io::Result<Vec<u8>> {
        let socket = match self.0.take() {
            Some(socket) => socket,
            None => {
                let socket = Socket::new(NETLINK_NETFILTER)?;
                socket.connect(&SocketAddr::new(0, 0))?;
                socket
            }
        };
        socket.send(request, 0)?;
        let (answer, _from) = socket.recv_from_full()?;
        self.0 = Some(socket);
        Ok(answer)
    }
}

fn request(kind: u16, family: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut rest = Vec::new();
    for (kind, value) in attributes {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        rest.extend([length.to_ne_bytes(), kind.to_ne_bytes()].concat());
        rest.extend(*value);
        rest.resize(rest.len().next_multiple_of(4), 0);
    }
    let length = u32::try_from(HEADERS_BYTES + rest.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend([kind.to_ne_bytes(), REQUEST.to_ne_bytes()].concat());
    // sequence and port number, then version and resource: all zero
    bytes.resize(16, 0);
    bytes.push(family);
    bytes.resize(HEADERS_BYTES, 0);
    bytes.extend(rest);
    bytes
}

/// The attributes of the answer to a question of this kind; an error message or anything else has none.
fn attributes_of(answer: &[u8], question: u16) -> Option<&[u8]> {
    let kind = u16::from_ne_bytes(*answer.get(4..)?.first_chunk()?);
    answer.get(HEADERS_BYTES..).filter(|_| kind == question - 1)
}

/// The value of one attribute.
fn attribute(mut rest: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?)).max(4);
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?) & TYPE_MASK;
        if kind == wanted {
            return rest.get(4..length);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

fn read_generation(answer: &[u8]) -> Option<u32> {
    let value = attribute(attributes_of(answer, GET_GENERATION)?, GENERATION_ID)?;
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

fn read_counter(answer: &[u8]) -> Option<u64> {
    let data = attribute(attributes_of(answer, GET_OBJECT)?, OBJECT_DATA)?;
    Some(u64::from_be_bytes(attribute(data, COUNTER_PACKETS)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_read_and_nothing_else_is_mistaken_for_one() {
        let answer = |attributes: &[(u16, &[u8])]| request(GET_GENERATION - 1, 0, attributes);
        assert_eq!(read_generation(&answer(&[])), None, "no attribute");
        let mut whole = answer(&[(9, &[1, 2]), (GENERATION_ID, &7_u32.to_be_bytes())]);
        assert_eq!(read_generation(&whole), Some(7));
        assert_eq!(read_generation(&whole[..whole.len() - 1]), None, "cut short");
        whole[4..6].copy_from_slice(&2_u16.to_ne_bytes());
        assert_eq!(read_generation(&whole), None, "an error");
        assert_eq!(read_generation(&[]), None);
    }

    #[test]
    fn a_counter_is_read_out_of_its_object() {
        let counts = request(0, 0, &[(1, &9_u64.to_be_bytes()), (COUNTER_PACKETS, &5_u64.to_be_bytes())]);
        let nested = OBJECT_DATA | 0x8000;
        let object = request(GET_OBJECT - 1, 2, &[(OBJECT_TABLE, b"t\0"), (nested, &counts[HEADERS_BYTES..])]);
        assert_eq!(read_counter(&object), Some(5));
        assert_eq!(read_counter(&object[..object.len() - 4]), None, "cut short");
        assert_eq!(read_counter(&request(GET_OBJECT - 1, 2, &[(OBJECT_TABLE, b"t\0")])), None);
        assert_eq!(object[16], 2, "the family is said");
    }
}
