//! Manifests of the administrator's tiers (`policy.networking.k8s.io`): ClusterNetworkPolicy, and AdminNetworkPolicy and
//! BaselineAdminNetworkPolicy that it grew out of.

use serde_json::Value;

use super::network;
use super::place::{Notes, Place, is_port_name};
use super::{Effect, Fault, Parsed};
use crate::cluster_policy::{ClusterAction, ClusterPeer, ClusterPolicy, ClusterPort, ClusterRule, ClusterTier, PodsOf};
use crate::network_policy::NetworkPort;
use crate::selector::Selector;
use crate::verdict::PolicyKind;
use crate::workload::Protocol;

const DOMAINS: &str = "names are not addresses, and packets carry addresses: write networks";

/// The highest `spec.priority` (API documentation of ClusterNetworkPolicy).
const PRIORITY_MAX: u64 = 1000;

/// Reads a policy of one of the three kinds. Its API says how a rule that cannot be read fails closed: one that accepts
/// matches nothing, one that denies or passes denies everything. When the policy's tier, priority or subject cannot be read,
/// only its rules that deny are left, for every pod. When there is no `spec`, or a field in it that nobody knows (which may be
/// the list of rules, misspelled), whatever the rules leave over is denied, both ways.
#[must_use]
pub fn cluster_policy(kind: PolicyKind, name: &str, manifest: &Value) -> Parsed<ClusterPolicy> {
    let mut notes = Notes::default();
    let spec = Place::of(manifest, "spec");
    let known: &[&str] = match kind {
        PolicyKind::BaselineAdminNetworkPolicy => &["subject", "ingress", "egress"],
        PolicyKind::AdminNetworkPolicy => &["priority", "subject", "ingress", "egress"],
        PolicyKind::ClusterNetworkPolicy | PolicyKind::NetworkPolicy | PolicyKind::AuthorizationPolicy => {
            &["tier", "priority", "subject", "ingress", "egress"]
        }
    };
    let is_whole = notes.is_object(&spec, known, Effect::Closed);
    let tier = tier(kind, &spec, &mut notes);
    let priority = priority(kind, &spec, &mut notes);
    let subject = subject(&spec, &mut notes);
    let is_read = tier.is_some() && priority.is_some() && subject.is_some();
    let mut list = |name, peers| {
        let mut rules = spec.field(name).map_or_else(Vec::new, |place| rules(&place, peers, &mut notes));
        if !is_read {
            rules.iter_mut().filter(|rule| rule.action != ClusterAction::Deny).for_each(|rule| *rule = nothing());
        }
        if !is_whole {
            rules.push(deny_all());
        }
        rules
    };
    let policy = ClusterPolicy {
        kind,
        name: name.to_owned(),
        ingress: list("ingress", "from"),
        egress: list("egress", "to"),
        tier: tier.unwrap_or(ClusterTier::Admin),
        priority: priority.unwrap_or(0),
        subject: subject.unwrap_or_default(),
    };
    notes.parsed(policy)
}

fn tier(kind: PolicyKind, spec: &Place<'_>, notes: &mut Notes) -> Option<ClusterTier> {
    match kind {
        PolicyKind::AdminNetworkPolicy => return Some(ClusterTier::Admin),
        PolicyKind::BaselineAdminNetworkPolicy => return Some(ClusterTier::Baseline),
        PolicyKind::ClusterNetworkPolicy | PolicyKind::NetworkPolicy | PolicyKind::AuthorizationPolicy => {}
    }
    match spec.value.get("tier").and_then(Value::as_str) {
        Some("Admin") => Some(ClusterTier::Admin),
        Some("Baseline") => Some(ClusterTier::Baseline),
        _ => {
            notes.refuse(spec, Fault::Inconsistent { rule: "tier is Admin or Baseline" }, Effect::Closed);
            None
        }
    }
}

fn priority(kind: PolicyKind, spec: &Place<'_>, notes: &mut Notes) -> Option<u16> {
    if kind == PolicyKind::BaselineAdminNetworkPolicy {
        return Some(0);
    }
    let said = spec.value.get("priority").and_then(Value::as_u64).filter(|priority| *priority <= PRIORITY_MAX);
    if said.is_none() {
        notes.refuse(spec, Fault::Inconsistent { rule: "priority is a number from 0 to 1000" }, Effect::Closed);
    }
    said.and_then(|priority| u16::try_from(priority).ok())
}

fn subject(spec: &Place<'_>, notes: &mut Notes) -> Option<PodsOf> {
    let choices = "subject.namespaces and subject.pods";
    let Some(place) = spec.field("subject") else {
        notes.refuse(spec, Fault::NotOne { choices }, Effect::Closed);
        return None;
    };
    if !notes.is_object(&place, &["namespaces", "pods"], Effect::Closed) {
        return None;
    }
    match (place.field("namespaces"), place.field("pods")) {
        (Some(namespaces), None) => whole(&namespaces, notes, Effect::Closed),
        (None, Some(pods)) => pods_of(&pods, notes, Effect::Closed),
        (Some(_), Some(_)) | (None, None) => {
            notes.refuse(&place, Fault::NotOne { choices }, Effect::Closed);
            None
        }
    }
}

fn whole(place: &Place<'_>, notes: &mut Notes, effect: Effect) -> Option<PodsOf> {
    Some(PodsOf { namespaces: notes.selector(place, effect)?, pods: Selector::default() })
}

fn pods_of(place: &Place<'_>, notes: &mut Notes, effect: Effect) -> Option<PodsOf> {
    let is_read = notes.is_object(place, &["namespaceSelector", "podSelector"], effect);
    let mut read = |name| match place.field(name) {
        Some(selector) => notes.selector(&selector, effect),
        None => Some(Selector::default()),
    };
    let (namespaces, pods) = (read("namespaceSelector"), read("podSelector"));
    Some(PodsOf { namespaces: namespaces?, pods: pods? }).filter(|_| is_read)
}

/// A rule that matches everything.
fn deny_all() -> ClusterRule {
    ClusterRule { action: ClusterAction::Deny, peers: None, ports: None }
}

/// A rule that matches nothing; it keeps the place of one.
fn nothing() -> ClusterRule {
    ClusterRule { action: ClusterAction::Pass, peers: Some(Vec::new()), ports: None }
}

fn rules(place: &Place<'_>, peers: &str, notes: &mut Notes) -> Vec<ClusterRule> {
    let Some(items) = place.items() else {
        notes.wrong_type(place, "a list of rules", Effect::Closed);
        return vec![deny_all()];
    };
    let one = |item: &Place<'_>| {
        let action = match item.value.get("action").and_then(Value::as_str) {
            Some("Accept" | "Allow") => Some(ClusterAction::Accept),
            Some("Deny") => Some(ClusterAction::Deny),
            Some("Pass") => Some(ClusterAction::Pass),
            _ => {
                notes.refuse(item, Fault::Inconsistent { rule: "action is Accept, Deny or Pass" }, Effect::Closed);
                None
            }
        };
        let accepts = action == Some(ClusterAction::Accept);
        let read = action.and_then(|action| rule(item, action, peers, notes));
        read.unwrap_or_else(|| if accepts { nothing() } else { deny_all() })
    };
    items.iter().map(one).collect()
}

fn rule(place: &Place<'_>, action: ClusterAction, peers: &str, notes: &mut Notes) -> Option<ClusterRule> {
    let effect = if action == ClusterAction::Accept { Effect::RuleNothing } else { Effect::Closed };
    let is_read = notes.is_object(place, &["name", "action", peers, "ports", "protocols"], effect);
    let Some(from) = place.field(peers) else {
        notes.refuse(place, Fault::Empty { needed: "a rule needs at least one peer" }, effect);
        return None;
    };
    let Some(items) = from.items().filter(|items| !items.is_empty()) else {
        notes.refuse(&from, Fault::Empty { needed: "a rule needs at least one peer" }, effect);
        return None;
    };
    let found: Vec<_> = items.iter().map(|item| peer(item, peers == "to", notes, effect)).collect();
    let ports = match (place.field("protocols"), place.field("ports")) {
        (None, None) => Some(None),
        (Some(list), None) => listed(&list, notes, effect, protocol).map(Some),
        (None, Some(list)) => listed(&list, notes, effect, admin_port).map(Some),
        (Some(_), Some(_)) => {
            notes.refuse(place, Fault::NotOne { choices: "protocols and ports" }, effect);
            None
        }
    };
    let peers = found.into_iter().collect::<Option<Vec<_>>>()?;
    Some(ClusterRule { action, peers: Some(peers), ports: ports? }).filter(|_| is_read)
}

fn listed(
    place: &Place<'_>,
    notes: &mut Notes,
    effect: Effect,
    one: fn(&Place<'_>, &mut Notes, Effect) -> Option<ClusterPort>,
) -> Option<Vec<ClusterPort>> {
    let Some(items) = place.items().filter(|items| !items.is_empty()) else {
        notes.refuse(place, Fault::Empty { needed: "list a port, or leave the field out to mean all" }, effect);
        return None;
    };
    // read all, so that all are told of
    let read: Vec<_> = items.iter().map(|item| one(item, notes, effect)).collect();
    read.into_iter().collect()
}

fn peer(place: &Place<'_>, outbound: bool, notes: &mut Notes, effect: Effect) -> Option<ClusterPeer> {
    let known: &[&str] = if outbound { &["namespaces", "pods", "nodes", "networks"] } else { &["namespaces", "pods"] };
    if !notes.is_object_beside(place, known, &[("domainNames", DOMAINS)], effect) {
        return None;
    }
    let given: Vec<_> = known.iter().filter_map(|name| Some((*name, place.field(name)?))).collect();
    let [(name, field)] = given.as_slice() else {
        notes.refuse(place, Fault::NotOne { choices: "namespaces, pods, nodes and networks" }, effect);
        return None;
    };
    match *name {
        "namespaces" => whole(field, notes, effect).map(ClusterPeer::Pods),
        "pods" => pods_of(field, notes, effect).map(ClusterPeer::Pods),
        "nodes" => notes.selector(field, effect).map(ClusterPeer::Nodes),
        _ => {
            let Some(items) = field.items() else {
                notes.wrong_type(field, "a list of prefixes", effect);
                return None;
            };
            let cidrs: Vec<_> = items.iter().map(|item| notes.cidr(item, effect)).collect();
            cidrs.into_iter().collect::<Option<_>>().map(ClusterPeer::Networks)
        }
    }
}

/// One element of `protocols` (ClusterNetworkPolicy).
fn protocol(place: &Place<'_>, notes: &mut Notes, effect: Effect) -> Option<ClusterPort> {
    let known = ["tcp", "udp", "sctp", "destinationNamedPort"];
    if !notes.is_object(place, &known, effect) {
        return None;
    }
    let given: Vec<_> = known.iter().filter_map(|name| Some((*name, place.field(name)?))).collect();
    let [(name, field)] = given.as_slice() else {
        notes.refuse(place, Fault::NotOne { choices: "tcp, udp, sctp and destinationNamedPort" }, effect);
        return None;
    };
    let protocol = match *name {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return named(field, notes, effect),
    };
    if !notes.is_object(field, &["destinationPort"], effect) {
        return None;
    }
    let Some(port) = field.field("destinationPort") else {
        return Some(ClusterPort::One(NetworkPort::Every(protocol)));
    };
    if !notes.is_object(&port, &["number", "range"], effect) {
        return None;
    }
    match (port.field("number"), port.field("range")) {
        (Some(number), None) => {
            let number = notes.port(&number, effect)?;
            Some(ClusterPort::One(NetworkPort::Range(protocol, number, number)))
        }
        (None, Some(range)) => span(&range, protocol, notes, effect),
        (Some(_), Some(_)) | (None, None) => {
            notes.refuse(&port, Fault::NotOne { choices: "number and range" }, effect);
            None
        }
    }
}

/// One element of `ports` (AdminNetworkPolicy, BaselineAdminNetworkPolicy).
fn admin_port(place: &Place<'_>, notes: &mut Notes, effect: Effect) -> Option<ClusterPort> {
    let known = ["portNumber", "portRange", "namedPort"];
    if !notes.is_object(place, &known, effect) {
        return None;
    }
    let given: Vec<_> = known.iter().filter_map(|name| Some((*name, place.field(name)?))).collect();
    let [(name, field)] = given.as_slice() else {
        notes.refuse(place, Fault::NotOne { choices: "portNumber, portRange and namedPort" }, effect);
        return None;
    };
    match *name {
        "namedPort" => named(field, notes, effect),
        "portRange" => {
            let protocol = notes.protocol(field.field("protocol"), effect)?;
            span(field, protocol, notes, effect)
        }
        _ => match network::port(field, notes)? {
            port @ NetworkPort::Range(..) => Some(ClusterPort::One(port)),
            NetworkPort::Every(_) | NetworkPort::Named(..) => {
                notes.refuse(field, Fault::Inconsistent { rule: "portNumber needs a port number" }, effect);
                None
            }
        },
    }
}

fn named(place: &Place<'_>, notes: &mut Notes, effect: Effect) -> Option<ClusterPort> {
    let name = place.value.as_str().filter(|name| is_port_name(name));
    if name.is_none() {
        notes.malformed(place, "port name (a-z, 0-9, '-', at most 15, a letter in it)", effect);
    }
    name.map(|name| ClusterPort::Named(name.to_owned()))
}

fn span(place: &Place<'_>, protocol: Protocol, notes: &mut Notes, effect: Effect) -> Option<ClusterPort> {
    let mut edge = |name| place.field(name).and_then(|edge| notes.port(&edge, effect));
    let (start, end) = (edge("start"), edge("end"));
    let range = start.zip(end).filter(|(start, end)| start <= end);
    if range.is_none() {
        notes.refuse(
            place,
            Fault::Inconsistent { rule: "a range has a start and an end that is not below it" },
            effect,
        );
    }
    range.map(|(start, end)| ClusterPort::One(NetworkPort::Range(protocol, start, end)))
}
