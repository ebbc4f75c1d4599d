//! Who talks to whom, as people type it: `shop/web`, `192.0.2.1`, `shop/cart:80/tcp`, `[fd00::9]:dns/udp`, `shop/cart:icmp`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context as _, bail, ensure};
use policy::rule_set::Subject;
use policy::{End, Protocol, RuleSet, WorkloadId};

use super::manifests::Manifests;

/// IP protocol 1 (IANA).
const ICMP: u8 = 1;
/// IP protocol 58 (IANA).
const ICMP_V6: u8 = 58;

/// One side of a connection.
pub(crate) struct Party {
    /// As it was typed.
    pub(crate) name: String,
    /// A workload; otherwise `addresses` is one address.
    pub(crate) workload: Option<WorkloadId>,
    addresses: BTreeSet<IpAddr>,
}

/// What is asked for at the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// A port of TCP, UDP or SCTP.
    Port(Protocol, u16),
    /// ICMP, of the family that is judged.
    Icmp,
    /// Another protocol, by its number.
    Other(u8),
}

impl Service {
    /// Protocol number and port, for one family.
    pub(crate) fn of_family(self, is_v6: bool) -> (u8, Option<u16>) {
        match self {
            Self::Port(protocol, port) => (protocol.number(), Some(port)),
            Self::Icmp => (if is_v6 { ICMP_V6 } else { ICMP }, None),
            Self::Other(number) => (number, None),
        }
    }

    /// `80/tcp`, `icmp`, `protocol 47`.
    pub(crate) fn shown(self) -> String {
        match self {
            Self::Port(protocol, port) => format!("{port}/{}", protocol.as_str().to_lowercase()),
            Self::Icmp => "icmp".to_owned(),
            Self::Other(number) => format!("protocol {number}"),
        }
    }
}

impl Party {
    /// A workload that the manifests have.
    pub(crate) fn of(id: &WorkloadId, subject: &Subject) -> Self {
        Self { name: id.to_string(), workload: Some(id.clone()), addresses: subject.addresses.clone() }
    }

    /// A workload of the manifests, or an address.
    ///
    /// # Errors
    /// It is neither; the message lists names that are near.
    pub(crate) fn parse(text: &str, manifests: &Manifests) -> anyhow::Result<Self> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            let workload = manifests.rules.end(address).workload;
            return Ok(Self { name: text.to_owned(), workload, addresses: [address].into() });
        }
        let Some((namespace, name)) = text.split_once('/') else {
            bail!("`{text}` is neither namespace/pod nor an address");
        };
        let id = WorkloadId::new(namespace, name);
        if let Some(subject) = manifests.rules.workloads.get(&id) {
            return Ok(Self::of(&id, subject));
        }
        let near: Vec<_> = manifests.rules.workloads.keys().map(WorkloadId::as_str).collect();
        let near: Vec<_> =
            near.into_iter().filter(|id| id.ends_with(&format!("/{name}")) || is_in(id, namespace)).take(8).collect();
        let hint = if near.is_empty() { "none is near".to_owned() } else { format!("there are: {}", near.join(", ")) };
        bail!(
            "no pod {text} in the manifests ({hint}); a pod on the host's network, or one that has ended, is no workload: \
             name its address instead"
        )
    }

    /// This side in each family that it has with `other`, or once without addresses when one of them has none.
    fn end(&self, rules: &RuleSet, is_v6: Option<bool>) -> Vec<End> {
        match is_v6 {
            None => vec![End { workload: self.workload.clone(), address: self.addresses.first().copied() }],
            Some(is_v6) => self
                .addresses
                .iter()
                .filter(|address| address.is_ipv6() == is_v6)
                .map(|address| rules.end(*address))
                .collect(),
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
pub(crate) fn pairs(rules: &RuleSet, from: &Party, to: &Party) -> anyhow::Result<Vec<(Option<bool>, End, End)>> {
    let families: Vec<_> = if from.addresses.is_empty() || to.addresses.is_empty() {
        vec![None]
    } else {
        [false, true].into_iter().filter(|is_v6| from.has(*is_v6) && to.has(*is_v6)).map(Some).collect()
    };
    ensure!(
        !families.is_empty(),
        "{} and {} have no address of the same family, so they cannot talk",
        from.name,
        to.name
    );
    let mut pairs = Vec::new();
    for family in families {
        for source in from.end(rules, family) {
            for destination in to.end(rules, family) {
                pairs.push((family, source.clone(), destination));
            }
        }
    }
    Ok(pairs)
}

/// `shop/cart:80/tcp` as the party and what is asked of it.
///
/// # Errors
/// No service is named, or one that the pod does not have.
pub(crate) fn parse_target(text: &str, manifests: &Manifests) -> anyhow::Result<(Party, Service)> {
    let how = "say namespace/pod:PORT/PROTOCOL, such as shop/cart:80/tcp, shop/cart:http or shop/cart:icmp";
    // an IPv6 address has colons of its own, and is in brackets
    let after = text.rfind(']').map_or(0, |at| at + 1);
    let at = text.get(after..).and_then(|rest| rest.find(':')).map(|at| at + after);
    let at = at.with_context(|| format!("`{text}` names no port: {how}"))?;
    let (party, service) = text.split_at(at);
    let party = Party::parse(party, manifests)?;
    let service = service.trim_start_matches(':');
    let (port, protocol) = match service.split_once('/') {
        Some((port, protocol)) => (port, Some(protocol)),
        None => (service, None),
    };
    if protocol.is_none() && port.eq_ignore_ascii_case("icmp") {
        return Ok((party, Service::Icmp));
    }
    if port.eq_ignore_ascii_case("ip") {
        let number =
            protocol.and_then(|number| number.parse().ok()).filter(|number| Protocol::of_number(*number).is_none());
        let number = number.with_context(|| format!("`{service}` is no IP protocol without ports, such as ip/47"))?;
        return Ok((party, Service::Other(number)));
    }
    let protocol = match protocol {
        None => None,
        Some(name) => Some(
            Protocol::of_name(&name.to_uppercase())
                .with_context(|| format!("`{name}` is no tcp, udp or sctp: {how}"))?,
        ),
    };
    if let Ok(number) = port.parse::<u16>() {
        return Ok((party, Service::Port(protocol.unwrap_or(Protocol::Tcp), number)));
    }
    let Some((protocol, number)) = named_port(&party, port, protocol, manifests) else {
        bail!("{} has no container port named `{port}`: {how}", party.name);
    };
    Ok((party, Service::Port(protocol, number)))
}

fn named_port(party: &Party, name: &str, protocol: Option<Protocol>, manifests: &Manifests) -> Option<(Protocol, u16)> {
    let id = party.workload.as_ref()?;
    let workload = manifests.gathered.world.workloads.iter().find(|workload| workload.id() == *id)?;
    let found = workload
        .ports
        .iter()
        .find(|port| port.name == name && protocol.is_none_or(|wanted| wanted == port.protocol))?;
    Some((found.protocol, found.port))
}

fn is_in(id: &str, namespace: &str) -> bool {
    id.split_once('/').is_some_and(|(of, _)| of == namespace)
}

/// Whether the mesh proves who is at both ends: members, and nodes.
pub(crate) fn is_proven(manifests: &Manifests, source: &End, destination: &End) -> bool {
    let is_known = |end: &End| end.workload.as_ref().is_some_and(|id| manifests.provable.contains(id));
    is_known(source) && is_known(destination)
}
