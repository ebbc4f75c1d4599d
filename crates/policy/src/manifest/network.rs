//! NetworkPolicy manifests (`networking.k8s.io/v1`), field by field as the API documentation says.

use serde_json::Value;

use super::place::{Notes, Place, is_port_name};
use super::{Effect, Fault, Parsed};
use crate::network_policy::{NetworkPeer, NetworkPolicy, NetworkPort, NetworkRule};
use crate::selector::Selector;

/// Reads a NetworkPolicy. A peer, port or rule that cannot be read matches nothing, and the rest works; a podSelector that
/// cannot be read isolates every pod of the namespace, and lets nobody in. A field of `spec` that is not known isolates in
/// both directions.
#[must_use]
pub fn network_policy(namespace: &str, name: &str, manifest: &Value) -> Parsed<NetworkPolicy> {
    let mut notes = Notes::default();
    let spec = Place::of(manifest, "spec");
    let known = ["podSelector", "policyTypes", "ingress", "egress"];
    let mut policy =
        NetworkPolicy { namespace: namespace.to_owned(), name: name.to_owned(), ..NetworkPolicy::default() };
    if !spec.is_null() && !spec.value.is_object() {
        notes.wrong_type(&spec, "an object", Effect::Closed);
        (policy.ingress, policy.egress) = (Some(Vec::new()), Some(Vec::new()));
        return notes.parsed(policy);
    }
    // a field that is not known may have been one that isolates (`egres`), so that neither direction stays open
    let is_known = spec.is_null() || notes.is_object(&spec, &known, Effect::Closed);
    let selector = spec.field("podSelector").map(|place| notes.selector(&place, Effect::Closed));
    let is_selector_read = !matches!(selector, Some(None));
    policy.selector = selector.flatten().unwrap_or_default();
    let (is_ingress, is_egress) = types(&spec, &mut notes);
    let (is_ingress, is_egress) = (is_ingress || !is_known, is_egress || !is_known);
    let mut list = |name, peers| spec.field(name).map_or_else(Vec::new, |place| rules(&place, peers, &mut notes));
    let (ingress, egress) = (list("ingress", "from"), list("egress", "to"));
    let used = |rules: Vec<NetworkRule>| if is_selector_read { rules } else { Vec::new() };
    policy.ingress = is_ingress.then(|| used(ingress));
    policy.egress = is_egress.then(|| used(egress));
    notes.parsed(policy)
}

/// Which directions it is about. Without policyTypes: ingress always, egress where there is a rule for it.
fn types(spec: &Place<'_>, notes: &mut Notes) -> (bool, bool) {
    let has_egress = spec.field("egress").is_some_and(|place| place.items().is_none_or(|items| !items.is_empty()));
    let default = (true, has_egress);
    let Some(place) = spec.field("policyTypes") else { return default };
    let Some(items) = place.items() else {
        notes.wrong_type(&place, "a list", Effect::Closed);
        return (true, true);
    };
    if items.is_empty() {
        return default;
    }
    let mut said = (false, false);
    for item in items {
        match item.value.as_str() {
            Some("Ingress") => said.0 = true,
            Some("Egress") => said.1 = true,
            _ => {
                notes.malformed(&item, "policy type (Ingress, Egress), so it is taken for both", Effect::Closed);
                said = (true, true);
            }
        }
    }
    said
}

fn rules(place: &Place<'_>, peers: &str, notes: &mut Notes) -> Vec<NetworkRule> {
    let Some(items) = place.items() else {
        notes.wrong_type(place, "a list of rules", Effect::RuleNothing);
        return Vec::new();
    };
    // an unreadable rule keeps its place, so that the others keep their numbers
    items.iter().map(|item| rule(item, peers, notes).unwrap_or_else(nothing)).collect()
}

fn nothing() -> NetworkRule {
    NetworkRule { peers: Some(Vec::new()), ports: None }
}

fn rule(place: &Place<'_>, peers: &str, notes: &mut Notes) -> Option<NetworkRule> {
    if !notes.is_object(place, &[peers, "ports"], Effect::RuleNothing) {
        return None;
    }
    let mut rule = NetworkRule::default();
    if let Some(list) = place.field(peers) {
        let Some(items) = list.items() else {
            notes.wrong_type(&list, "a list of peers", Effect::RuleNothing);
            return None;
        };
        // "if this field is empty or missing, this rule matches all"
        rule.peers = (!items.is_empty()).then(|| exact(items.iter().filter_map(|item| peer(item, notes))));
    }
    if let Some(list) = place.field("ports") {
        let Some(items) = list.items() else {
            notes.wrong_type(&list, "a list of ports", Effect::RuleNothing);
            return None;
        };
        rule.ports = (!items.is_empty()).then(|| exact(items.iter().filter_map(|item| port(item, notes))));
    }
    Some(rule)
}

/// A list without room for more: there are many of them, and they do not grow.
fn exact<T>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut list: Vec<T> = items.collect();
    list.shrink_to_fit();
    list
}

fn peer(place: &Place<'_>, notes: &mut Notes) -> Option<NetworkPeer> {
    let effect = Effect::PeerNobody;
    if !notes.is_object(place, &["podSelector", "namespaceSelector", "ipBlock"], effect) {
        return None;
    }
    let (pods, namespaces) = (place.field("podSelector"), place.field("namespaceSelector"));
    match (pods, namespaces, place.field("ipBlock")) {
        (None, None, Some(block)) => ip_block(&block, notes),
        (None, None, None) | (_, _, Some(_)) => {
            let choices = "ipBlock, or podSelector and namespaceSelector";
            notes.refuse(place, Fault::NotOne { choices }, effect);
            None
        }
        (pods, namespaces, None) => {
            let pods = pods.map(|place| notes.selector(&place, effect));
            let namespaces = namespaces.map(|place| notes.selector(&place, effect));
            // read both, so that both are told of
            let pods = pods.unwrap_or(Some(Selector::default()))?;
            let namespaces = match namespaces {
                Some(read) => Some(read?),
                None => None,
            };
            Some(NetworkPeer::Pods { namespaces, pods })
        }
    }
}

fn ip_block(place: &Place<'_>, notes: &mut Notes) -> Option<NetworkPeer> {
    let effect = Effect::PeerNobody;
    if !notes.is_object(place, &["cidr", "except"], effect) {
        return None;
    }
    let Some(cidr) = place.field("cidr") else {
        notes.refuse(place, Fault::Inconsistent { rule: "an ipBlock needs a cidr" }, effect);
        return None;
    };
    let cidr = notes.cidr(&cidr, effect);
    let mut except = Vec::new();
    if let Some(list) = place.field("except") {
        let Some(items) = list.items() else {
            notes.wrong_type(&list, "a list of prefixes", effect);
            return None;
        };
        // without one of its exceptions the peer would be wider than meant
        for item in items {
            except.push(notes.cidr(&item, effect));
        }
    }
    Some(NetworkPeer::Block { cidr: cidr?, except: except.into_iter().collect::<Option<_>>()? })
}

pub(super) fn port(place: &Place<'_>, notes: &mut Notes) -> Option<NetworkPort> {
    let effect = Effect::PortNothing;
    if !notes.is_object(place, &["protocol", "port", "endPort"], effect) {
        return None;
    }
    let protocol = notes.protocol(place.field("protocol"), effect);
    let (port, end) = (place.field("port"), place.field("endPort"));
    let Some(port) = port else {
        if end.is_some() {
            notes.refuse(place, Fault::Inconsistent { rule: "endPort needs a port" }, effect);
            return None;
        }
        return protocol.map(NetworkPort::Every);
    };
    if let Some(name) = port.value.as_str() {
        if end.is_some() {
            notes.refuse(
                place,
                Fault::Inconsistent { rule: "endPort goes with a port number, not with a name" },
                effect,
            );
            return None;
        }
        if !is_port_name(name) {
            notes.malformed(
                &port,
                "port name (a-z, 0-9, '-', at most 15, a letter in it); a number has no quotes",
                effect,
            );
            return None;
        }
        return protocol.map(|protocol| NetworkPort::Named(protocol, name.to_owned()));
    }
    let first = notes.port(&port, effect);
    let last = match end {
        Some(end) => notes.port(&end, effect),
        None => first,
    };
    let (protocol, first, last) = (protocol?, first?, last?);
    if last < first {
        notes.refuse(place, Fault::Inconsistent { rule: "endPort is not below port" }, effect);
        return None;
    }
    Some(NetworkPort::Range(protocol, first, last))
}
