//! Who talks to whom, as people type it: `shop/web`, `192.0.2.1`, `shop/cart:80/tcp`, `[fd00::9]:dns/udp`, `shop/cart:icmp`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use thiserror::Error;

use crate::rule_set::{RuleSet, Subject};
use crate::verdict::End;
use crate::workload::{NamedPort, Protocol, WorkloadId};

/// IP protocol 1 (IANA).
const ICMP: u8 = 1;
/// IP protocol 58 (IANA).
const ICMP_V6: u8 = 58;
/// Names that are near to one that is not there: as many are told.
const NEAR_MAX: usize = 8;

/// Why a question cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum QuestionError {
    /// No name and no address.
    #[error(
        "`{text}` is neither namespace/pod nor an address: say shop/web or 192.0.2.1; before a port, an IPv6 address is in \
         brackets, [fd00::9]:80"
    )]
    NoParty {
        /// What was typed.
        text: String,
    },
    /// A name that nobody has.
    #[error(
        "there is no pod {text} ({near}); a pod on the host's network, or one that has ended, is no workload: name its \
         address instead"
    )]
    Unknown {
        /// What was typed.
        text: String,
        /// Names that are near.
        near: String,
    },
    /// Nothing is asked for at the destination.
    #[error(
        "`{text}` names no port: say namespace/pod:PORT/PROTOCOL, such as shop/cart:80/tcp, shop/cart:http or \
         shop/cart:icmp"
    )]
    NoPort {
        /// What was typed.
        text: String,
    },
    /// A protocol that policies cannot name.
    #[error("`{text}` is no tcp, udp or sctp; protocols without ports are :icmp and :ip/NUMBER")]
    NoProtocol {
        /// What was typed.
        text: String,
    },
    /// `ip/` without the number of a protocol that has no ports.
    #[error("`{text}` is no IP protocol without ports, such as ip/47")]
    NoNumber {
        /// What was typed.
        text: String,
    },
    /// A number that is no port.
    #[error("`{text}` is no port: 1 to 65535, or the name of a container port")]
    NoPortNumber {
        /// What was typed.
        text: String,
    },
    /// A port name that the destination does not have.
    #[error("{party} has no container port named `{name}`")]
    NoNamedPort {
        /// Whose port.
        party: String,
        /// The port's name.
        name: String,
    },
    /// Two parties that cannot talk at all.
    #[error("{from} and {to} have no address of the same family, so they cannot talk")]
    NoFamily {
        /// Who connects.
        from: String,
        /// To whom.
        to: String,
    },
}

/// One side of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// As it was typed.
    pub name: String,
    /// A workload; otherwise `addresses` is one address.
    pub workload: Option<WorkloadId>,
    /// All its addresses; none while a workload has none.
    pub addresses: BTreeSet<IpAddr>,
}

/// What is asked for at the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// A port of TCP, UDP or SCTP.
    Port(Protocol, u16),
    /// ICMP, of the family that is judged.
    Icmp,
    /// Another protocol, by its number.
    Other(u8),
}

impl Service {
    /// Protocol number and port, for one family.
    #[must_use]
    pub fn of_family(self, is_v6: bool) -> (u8, Option<u16>) {
        match self {
            Self::Port(protocol, port) => (protocol.number(), Some(port)),
            Self::Icmp => (if is_v6 { ICMP_V6 } else { ICMP }, None),
            Self::Other(number) => (number, None),
        }
    }

    /// `80/tcp`, `icmp`, `protocol 47`.
    #[must_use]
    pub fn shown(self) -> String {
        match self {
            Self::Port(protocol, port) => format!("{port}/{}", protocol.as_str().to_lowercase()),
            Self::Icmp => "icmp".to_owned(),
            Self::Other(number) => format!("protocol {number}"),
        }
    }
}

impl Party {
    /// A workload of a rule set.
    #[must_use]
    pub fn of(id: &WorkloadId, subject: &Subject) -> Self {
        Self { name: id.to_string(), workload: Some(id.clone()), addresses: subject.addresses.clone() }
    }

    /// A workload of these rules, or an address.
    ///
    /// # Errors
    /// It is neither; the message lists names that are near.
    pub fn parse(text: &str, rules: &RuleSet) -> Result<Self, QuestionError> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            let workload = rules.end(address).workload;
            return Ok(Self { name: text.to_owned(), workload, addresses: [address].into() });
        }
        let Some((namespace, name)) = text.split_once('/') else {
            return Err(QuestionError::NoParty { text: text.to_owned() });
        };
        let id = WorkloadId::new(namespace, name);
        if let Some(subject) = rules.workloads.get(&id) {
            return Ok(Self::of(&id, subject));
        }
        let is_near = |id: &&str| id.split_once('/').is_some_and(|(of, own)| of == namespace || own == name);
        let near: Vec<_> = rules.workloads.keys().map(WorkloadId::as_str).filter(is_near).take(NEAR_MAX).collect();
        let near = if near.is_empty() { "none is near".to_owned() } else { format!("there are: {}", near.join(", ")) };
        Err(QuestionError::Unknown { text: text.to_owned(), near })
    }

    /// This side in each address that it has of a family, or once when only its labels can be judged.
    fn ends(&self, rules: &RuleSet, is_v6: Option<bool>) -> Vec<End> {
        match is_v6 {
            None => vec![End { workload: self.workload.clone(), address: self.addresses.first().copied() }],
            Some(is_v6) => {
                let of_family = self.addresses.iter().filter(|address| address.is_ipv6() == is_v6);
                of_family.map(|address| rules.end(*address)).collect()
            }
        }
    }

    fn has(&self, is_v6: bool) -> bool {
        self.addresses.iter().any(|address| address.is_ipv6() == is_v6)
    }
}

/// Every pair of ends of a connection between two parties, with the family (`Some(true)` is IPv6; `None` where a workload
/// has no address yet and only its labels can be judged).
///
/// # Errors
/// They have addresses, and none of the same family.
pub fn pairs(rules: &RuleSet, from: &Party, to: &Party) -> Result<Vec<(Option<bool>, End, End)>, QuestionError> {
    let families: Vec<_> = if from.addresses.is_empty() || to.addresses.is_empty() {
        vec![None]
    } else {
        [false, true].into_iter().filter(|is_v6| from.has(*is_v6) && to.has(*is_v6)).map(Some).collect()
    };
    if families.is_empty() {
        return Err(QuestionError::NoFamily { from: from.name.clone(), to: to.name.clone() });
    }
    let mut pairs = Vec::new();
    for family in families {
        for source in from.ends(rules, family) {
            for destination in to.ends(rules, family) {
                pairs.push((family, source.clone(), destination));
            }
        }
    }
    Ok(pairs)
}

/// `shop/cart:80/tcp` as the party and what is asked of it; `ports` knows the named container ports of a workload.
///
/// # Errors
/// No service is named, or one that the pod does not have.
pub fn target<'p>(
    text: &str,
    rules: &RuleSet,
    ports: impl FnOnce(&WorkloadId) -> Option<&'p BTreeSet<NamedPort>>,
) -> Result<(Party, Service), QuestionError> {
    // an IPv6 address has colons of its own, and is in brackets
    let after = text.rfind(']').map_or(0, |at| at + 1);
    let colon = text.get(after..).and_then(|rest| rest.find(':')).map(|at| at + after);
    let at = colon.ok_or_else(|| QuestionError::NoPort { text: text.to_owned() })?;
    let (party, service) = text.split_at(at);
    let party = Party::parse(party, rules)?;
    let service = service.trim_start_matches(':');
    let (port, protocol) = match service.split_once('/') {
        Some((port, protocol)) => (port, Some(protocol)),
        None => (service, None),
    };
    if protocol.is_none() && port.eq_ignore_ascii_case("icmp") {
        return Ok((party, Service::Icmp));
    }
    if port.eq_ignore_ascii_case("ip") {
        let number = protocol.and_then(|number| number.parse().ok());
        let number = number.filter(|number| Protocol::of_number(*number).is_none());
        let number = number.ok_or_else(|| QuestionError::NoNumber { text: service.to_owned() })?;
        return Ok((party, Service::Other(number)));
    }
    let named = |name: &str| {
        let known = Protocol::of_name(&name.to_uppercase());
        known.ok_or_else(|| QuestionError::NoProtocol { text: name.to_owned() })
    };
    let protocol = protocol.map(named).transpose()?;
    // a container port's name has a letter (RFC 6335 section 5.1)
    if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) {
        let number = port.parse().ok().filter(|number| *number != 0);
        let number = number.ok_or_else(|| QuestionError::NoPortNumber { text: port.to_owned() })?;
        return Ok((party, Service::Port(protocol.unwrap_or(Protocol::Tcp), number)));
    }
    if port.is_empty() {
        return Err(QuestionError::NoPort { text: text.to_owned() });
    }
    let is_meant = |of: &&NamedPort| of.name == port && protocol.is_none_or(|wanted| wanted == of.protocol);
    let found = party.workload.as_ref().and_then(ports).and_then(|ports| ports.iter().find(is_meant));
    match found {
        Some(found) => Ok((party, Service::Port(found.protocol, found.port))),
        None => Err(QuestionError::NoNamedPort { party: party.name, name: port.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> RuleSet {
        let mut rules = RuleSet::default();
        for (name, ip) in [("web", "10.0.0.1"), ("cart", "10.0.0.2")] {
            let (id, ip) = (WorkloadId::new("shop", name), ip.parse().unwrap());
            rules.addresses.insert(ip, id.clone());
            rules.workloads.insert(id, Subject { addresses: [ip].into(), ..Subject::default() });
        }
        rules
    }

    #[test]
    fn parties_and_services_are_read_as_people_type_them() {
        let (rules, dns) = (rules(), [NamedPort { name: "dns".into(), protocol: Protocol::Udp, port: 53 }].into());
        let read = |text| target(text, &rules, |_| Some(&dns)).map(|(party, service)| (party.name, service));
        let port = |number| Service::Port(Protocol::Tcp, number);
        assert_eq!(read("shop/cart:80"), Ok(("shop/cart".into(), port(80))));
        assert_eq!(read("shop/cart:dns"), Ok(("shop/cart".into(), Service::Port(Protocol::Udp, 53))));
        assert_eq!(read("[fd00::9]:53/udp"), Ok(("[fd00::9]".into(), Service::Port(Protocol::Udp, 53))));
        assert_eq!(read("10.0.0.2:icmp"), Ok(("10.0.0.2".into(), Service::Icmp)));
        assert_eq!(read("shop/cart:ip/47"), Ok(("shop/cart".into(), Service::Other(47))));
        for (bad, why) in [
            ("shop/cart", "names no port"),
            ("shop/carts:80", "there are: shop/cart, shop/web"),
            ("cart:80", "neither namespace/pod nor an address"),
            ("shop/cart:80/quic", "no tcp, udp or sctp"),
            ("shop/cart:dns/tcp", "no container port named `dns`"),
            ("shop/cart:0", "`0` is no port"),
            ("shop/cart:65536/udp", "`65536` is no port"),
            ("shop/cart:", "names no port"),
            ("fd00::9:80", "in brackets"),
            ("shop/cart:ip/6", "no IP protocol without ports"),
        ] {
            let error = read(bad).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn only_families_that_both_have_are_paired() {
        let rules = rules();
        let party = |text| Party::parse(text, &rules).unwrap();
        assert_eq!(pairs(&rules, &party("shop/web"), &party("10.0.0.2")).unwrap().len(), 1);
        let none = pairs(&rules, &party("shop/web"), &party("fd00::1")).unwrap_err();
        assert!(none.to_string().contains("no address of the same family"));
    }
}
