//! AuthorizationPolicy manifests (`weft.dev`, with Istio's field names): what packets can be judged by, and a sentence about
//! the rest.

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde_json::Value;

use super::place::{Notes, Place};
use super::{Effect, Fault, Parsed};
use crate::authorization_policy::{AuthorizationAction, AuthorizationPolicy, AuthorizationRule, PeerTerms, Target};
use crate::selector::Selector;
use crate::verdict::Direction;

const HTTP: &str = "it would take reading HTTP inside the connection, and Weft judges packets: allow by principal and port \
                    here, and let the application judge requests";
const TOKEN: &str = "it is about a JSON web token inside HTTP, which packets do not show: use principals";
const FORWARDED: &str = "it is about an HTTP header (X-Forwarded-For), which packets do not show: use ipBlocks";

/// Fields of `source` that need more than packets, each with why and what to write instead.
pub const SOURCE_REFUSED: [(&str, &str); 6] = [
    ("requestPrincipals", TOKEN),
    ("notRequestPrincipals", TOKEN),
    ("remoteIpBlocks", FORWARDED),
    ("notRemoteIpBlocks", FORWARDED),
    ("serviceAccounts", "write it as a principal: <trust domain>/ns/<namespace>/sa/<service account>"),
    ("notServiceAccounts", "write it as a notPrincipal: <trust domain>/ns/<namespace>/sa/<service account>"),
];

/// Fields of `operation` that need more than packets, each with why and what to write instead.
pub const OPERATION_REFUSED: [(&str, &str); 6] =
    [("hosts", HTTP), ("notHosts", HTTP), ("methods", HTTP), ("notMethods", HTTP), ("paths", HTTP), ("notPaths", HTTP)];

const WHEN: &str = "conditions are about requests: what packets can be judged by stands in `from` and `to`";
const TARGETS: &str = "gateways and waypoints are proxies, and Weft has none: use a selector";
const PROVIDER: &str = "asking an external authorizer takes a proxy that holds the request, and Weft has none";

const SOURCE: [&str; 6] = ["principals", "notPrincipals", "namespaces", "notNamespaces", "ipBlocks", "notIpBlocks"];

/// Fields of `spec` that need more than packets, each with why and what to write instead.
pub const SPEC_REFUSED: [(&str, &str); 3] = [("targetRef", TARGETS), ("targetRefs", TARGETS), ("provider", PROVIDER)];

/// Fields of a rule that need more than packets, each with why and what to write instead.
pub const RULE_REFUSED: [(&str, &str); 1] = [("when", WHEN)];

/// Reads an AuthorizationPolicy. What cannot be read never opens: in an ALLOW or AUDIT rule it matches nothing, in a DENY
/// rule it counts as fulfilled. An ALLOW policy whose selector or action cannot be read lets nobody in. A direction that
/// cannot be read is taken for inbound.
#[must_use]
pub fn authorization_policy(namespace: &str, name: &str, manifest: &Value) -> Parsed<AuthorizationPolicy> {
    let mut notes = Notes::default();
    let spec = Place::of(manifest, "spec");
    let known = ["selector", "action", "direction", "rules"];
    let mut is_read = spec.is_null() || notes.is_object_beside(&spec, &known, &SPEC_REFUSED, Effect::Closed);
    let action = action(&spec, &mut notes);
    let direction = direction(&spec, &mut notes);
    let selector = match spec.field("selector") {
        Some(place) => notes.selector(&place, Effect::Closed),
        None => Some(Selector::default()),
    };
    is_read &= action.is_some() && direction.is_some() && selector.is_some();
    let mut policy = AuthorizationPolicy {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        selector: selector.unwrap_or_default(),
        action: action.unwrap_or(AuthorizationAction::Allow),
        direction: direction.unwrap_or(Direction::Inbound),
        rules: Vec::new(),
    };
    let mut reader =
        Reader { notes: &mut notes, denies: policy.action == AuthorizationAction::Deny, direction: policy.direction };
    let rules = reader.rules(&spec);
    // a DENY about more than was meant is closed; the others are without their rules
    if is_read || policy.action == AuthorizationAction::Deny {
        policy.rules = rules;
    }
    notes.parsed(policy)
}

fn action(spec: &Place<'_>, notes: &mut Notes) -> Option<AuthorizationAction> {
    let Some(place) = spec.field("action") else { return Some(AuthorizationAction::Allow) };
    match place.value.as_str() {
        Some("ALLOW") => Some(AuthorizationAction::Allow),
        Some("DENY") => Some(AuthorizationAction::Deny),
        Some("AUDIT") => Some(AuthorizationAction::Audit),
        Some("CUSTOM") => {
            notes.refuse(&place, Fault::Layer7 { reason: PROVIDER }, Effect::Closed);
            None
        }
        _ => {
            notes.malformed(&place, "action (ALLOW, DENY, AUDIT)", Effect::Closed);
            None
        }
    }
}

fn direction(spec: &Place<'_>, notes: &mut Notes) -> Option<Direction> {
    let Some(place) = spec.field("direction") else { return Some(Direction::Inbound) };
    match place.value.as_str() {
        Some("Inbound") => Some(Direction::Inbound),
        Some("Outbound") => Some(Direction::Outbound),
        _ => {
            notes.malformed(&place, "direction (Inbound, Outbound)", Effect::Closed);
            None
        }
    }
}

/// Reads rules, closed on the side that their action closes.
struct Reader<'n> {
    notes: &'n mut Notes,
    denies: bool,
    direction: Direction,
}

/// A list of alternatives where nothing could be read: nobody, or (denying) anybody.
type Alternatives<T> = Option<Vec<T>>;

impl Reader<'_> {
    fn effect(&self) -> Effect {
        if self.denies { Effect::Fulfilled } else { Effect::RuleNothing }
    }

    /// What an unreadable list of alternatives is.
    fn doubted<T>(&self) -> Alternatives<T> {
        if self.denies { None } else { Some(Vec::new()) }
    }

    fn rules(&mut self, spec: &Place<'_>) -> Vec<AuthorizationRule> {
        let Some(place) = spec.field("rules") else { return Vec::new() };
        let Some(items) = place.items() else {
            self.notes.wrong_type(&place, "a list of rules", self.effect());
            return if self.denies { vec![AuthorizationRule::default()] } else { Vec::new() };
        };
        items.iter().map(|item| self.rule(item)).collect()
    }

    fn rule(&mut self, place: &Place<'_>) -> AuthorizationRule {
        let effect = self.effect();
        let is_read = self.notes.is_object_beside(place, &["from", "to"], &RULE_REFUSED, effect);
        let mut rule = AuthorizationRule::default();
        if let Some(from) = place.field("from") {
            if self.direction == Direction::Outbound {
                let rule = "an outbound policy says whom its workloads reach: `to[].destination`, not `from`";
                self.notes.refuse(&from, Fault::Inconsistent { rule }, effect);
            }
            rule.from = self.alternatives(&from, Self::source);
            if self.direction == Direction::Outbound {
                rule.from = self.doubted();
            }
        }
        rule.to = place.field("to").and_then(|to| self.alternatives(&to, Self::target));
        if !is_read && !self.denies {
            rule.from = Some(Vec::new());
        }
        rule
    }

    /// Each element of a list; one that cannot be read is nobody, or (denying) anybody.
    fn alternatives<T: Default>(
        &mut self,
        place: &Place<'_>,
        one: fn(&mut Self, &Place<'_>) -> Option<T>,
    ) -> Alternatives<T> {
        let Some(items) = place.items() else {
            self.notes.wrong_type(place, "a list", self.effect());
            return self.doubted();
        };
        let mut found = Vec::new();
        for item in items {
            let read = one(self, &item);
            found.extend(if self.denies { Some(read.unwrap_or_default()) } else { read });
        }
        Some(found)
    }

    fn source(&mut self, place: &Place<'_>) -> Option<PeerTerms> {
        let effect = self.effect();
        let is_read = self.notes.is_object(place, &["source"], effect);
        let Some(source) = place.field("source") else {
            self.notes.refuse(place, Fault::Empty { needed: "an element of `from` has a `source`" }, effect);
            return None;
        };
        self.terms(&source).filter(|_| is_read || self.denies)
    }

    fn target(&mut self, place: &Place<'_>) -> Option<Target> {
        let effect = self.effect();
        let outbound = self.direction == Direction::Outbound;
        let known: &[&str] = if outbound { &["operation", "destination"] } else { &["operation"] };
        let elsewhere = [("destination", "who the workloads reach is said by a policy of `direction: Outbound`")];
        let mut is_read = self.notes.is_object_beside(place, known, &elsewhere, effect);
        let (operation, destination) = (place.field("operation"), place.field("destination").filter(|_| outbound));
        if operation.is_none() && destination.is_none() {
            self.notes.refuse(place, Fault::Empty { needed: "an element of `to` has an `operation`" }, effect);
            return None;
        }
        let mut target = Target::default();
        if let Some(destination) = destination {
            let terms = self.terms(&destination);
            is_read &= terms.is_some();
            target.destination = terms.unwrap_or_default();
        }
        if let Some(operation) = operation {
            is_read &= self.operation(&operation, &mut target);
        }
        (is_read || self.denies).then_some(target)
    }

    fn operation(&mut self, place: &Place<'_>, target: &mut Target) -> bool {
        let effect = self.effect();
        let mut is_read = self.notes.is_object_beside(place, &["ports", "notPorts"], &OPERATION_REFUSED, effect);
        if place.value.as_object().is_some_and(serde_json::Map::is_empty) {
            self.notes.refuse(place, Fault::Empty { needed: "ports or notPorts" }, effect);
            is_read = false;
        }
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
        let expected = "port (1 to 65535)";
        target.ports = self.included(place, "ports", expected, port);
        let excluded = self.excluded(place, "notPorts", expected, port);
        is_read &= excluded.is_some();
        target.not_ports = excluded.unwrap_or_default().into_iter().collect();
        is_read
    }

    /// Who the other end is; `None` when an ALLOW cannot say it.
    fn terms(&mut self, place: &Place<'_>) -> Option<PeerTerms> {
        let effect = self.effect();
        let mut is_read = self.notes.is_object_beside(place, &SOURCE, &SOURCE_REFUSED, effect);
        if place.value.as_object().is_some_and(serde_json::Map::is_empty) {
            self.notes.refuse(place, Fault::Empty { needed: "principals, namespaces or ipBlocks" }, effect);
            is_read = false;
        }
        let (identity, namespace) = ("SPIFFE ID (<trust domain>/ns/<namespace>/sa/<account>)", "namespace name");
        let prefix = "prefix (such as 10.0.0.0/8) or address";
        let not_principals = self.excluded(place, "notPrincipals", identity, principal);
        let not_namespaces = self.excluded(place, "notNamespaces", namespace, namespace_name);
        let not_ip_blocks = self.excluded(place, "notIpBlocks", prefix, block);
        is_read &= not_principals.is_some() && not_namespaces.is_some() && not_ip_blocks.is_some();
        let terms = PeerTerms {
            principals: self.included(place, "principals", identity, principal),
            not_principals: not_principals.unwrap_or_default(),
            namespaces: self.included(place, "namespaces", namespace, namespace_name),
            not_namespaces: not_namespaces.unwrap_or_default(),
            ip_blocks: self.included(place, "ipBlocks", prefix, block).map(|blocks| blocks.into_iter().collect()),
            not_ip_blocks: not_ip_blocks.unwrap_or_default().into_iter().collect(),
        };
        (is_read || self.denies).then_some(terms)
    }

    /// A list of what is meant. An unreadable element is nobody; a DENY takes the whole list for anybody then.
    fn included<T: Ord>(
        &mut self,
        place: &Place<'_>,
        name: &str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<BTreeSet<T>> {
        let list = place.field(name)?;
        let (found, is_read) = self.list(&list, expected, parse);
        (is_read || !self.denies).then_some(found)
    }

    /// A list of what is not meant; `None` when an element cannot be read and that would let somebody in.
    fn excluded<T: Ord>(
        &mut self,
        place: &Place<'_>,
        name: &str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<BTreeSet<T>> {
        let Some(list) = place.field(name) else { return Some(BTreeSet::new()) };
        let (found, is_read) = self.list(&list, expected, parse);
        (is_read || self.denies).then_some(found)
    }

    fn list<T: Ord>(
        &mut self,
        list: &Place<'_>,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> (BTreeSet<T>, bool) {
        let effect = self.effect();
        let Some(items) = list.items() else {
            self.notes.wrong_type(list, "a list", effect);
            return (BTreeSet::new(), false);
        };
        let mut found = BTreeSet::new();
        let mut is_read = true;
        for item in items {
            // Istio writes ports as texts; numbers are understood too
            let text = item.value.as_str().map(str::to_owned);
            let text = text.or_else(|| item.value.as_u64().map(|number| number.to_string()));
            if let Some(value) = text.as_deref().and_then(&parse) {
                found.insert(value);
                continue;
            }
            is_read = false;
            match text {
                Some(text) if text.contains('*') => self.notes.refuse(&item, Fault::Pattern { text }, effect),
                _ => self.notes.malformed(&item, expected, effect),
            }
        }
        (found, is_read)
    }
}

/// `cluster.local/ns/shop/sa/cart`, as Istio writes it, or with `spiffe://`.
fn principal(text: &str) -> Option<String> {
    let path = text.strip_prefix("spiffe://").unwrap_or(text);
    let (domain, segments) = path.split_once('/')?;
    let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    // SPIFFE ID standard §2.1, §2.2
    let is_domain = (1..=255).contains(&domain.len()) && domain.bytes().all(lower);
    let is_segment = |segment: &str| {
        let good = segment.bytes().all(|b| lower(b) || b.is_ascii_uppercase());
        !segment.is_empty() && good && segment != "." && segment != ".."
    };
    (is_domain && segments.split('/').all(is_segment)).then(|| format!("spiffe://{path}"))
}

/// An RFC 1123 label.
fn namespace_name(text: &str) -> Option<String> {
    let good = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let is_label = (1..=63).contains(&text.len()) && good && !text.starts_with('-') && !text.ends_with('-');
    is_label.then(|| text.to_owned())
}

/// A prefix, or one address.
fn block(text: &str) -> Option<IpNet> {
    let address = || text.parse::<std::net::IpAddr>().ok().map(IpNet::from);
    text.parse().ok().or_else(address)
}
