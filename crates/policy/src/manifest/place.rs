//! A place in a manifest: a value with its path, and the notes of what was wrong there.

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde_json::Value;

use super::{Effect, Fault, Parsed, Refusal};
use crate::selector::{Expression, Selector};
use crate::workload::Protocol;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Place<'a> {
    pub(super) path: String,
    pub(super) value: &'a Value,
}

impl<'a> Place<'a> {
    pub(super) fn of(manifest: &'a Value, field: &str) -> Self {
        Self { path: field.to_owned(), value: manifest.get(field).unwrap_or(&Value::Null) }
    }

    /// A field; `None` when it is missing or null, which is the same in Kubernetes.
    pub(super) fn field(&self, name: &str) -> Option<Self> {
        let value = self.value.get(name).filter(|value| !value.is_null())?;
        Some(Self { path: format!("{}.{name}", self.path), value })
    }

    /// A field's path, for a note about one that is missing or unknown.
    fn beside(&self, name: &str) -> Self {
        Self { path: format!("{}.{name}", self.path), value: self.value }
    }

    /// The elements of a list; `None` when it is none.
    pub(super) fn items(&self) -> Option<Vec<Self>> {
        let list = self.value.as_array()?;
        let item = |(at, value)| Self { path: format!("{}[{at}]", self.path), value };
        Some(list.iter().enumerate().map(item).collect())
    }

    pub(super) fn is_null(&self) -> bool {
        self.value.is_null()
    }
}

/// What is noted on the way.
#[derive(Debug, Default)]
pub(super) struct Notes {
    refusals: Vec<Refusal>,
}

impl Notes {
    pub(super) fn parsed<T>(self, value: T) -> Parsed<T> {
        Parsed { value, refusals: self.refusals }
    }

    pub(super) fn refuse(&mut self, place: &Place<'_>, fault: Fault, effect: Effect) {
        self.refusals.push(Refusal { path: place.path.clone(), fault, effect });
    }

    pub(super) fn wrong_type(&mut self, place: &Place<'_>, expected: &'static str, effect: Effect) {
        self.refuse(place, Fault::WrongType { expected, found: found(place.value) }, effect);
    }

    pub(super) fn malformed(&mut self, place: &Place<'_>, expected: &'static str, effect: Effect) {
        let text = place.value.as_str().map_or_else(|| place.value.to_string(), str::to_owned);
        self.refuse(place, Fault::Malformed { text: text.chars().take(100).collect(), expected }, effect);
    }

    /// Whether it is an object with no other than these fields; what is not is noted.
    pub(super) fn is_object(&mut self, place: &Place<'_>, known: &[&str], effect: Effect) -> bool {
        self.is_object_beside(place, known, &[], effect)
    }

    /// The same, with fields that are refused for a reason of their own.
    pub(super) fn is_object_beside(
        &mut self,
        place: &Place<'_>,
        known: &[&str],
        refused: &[(&str, &'static str)],
        effect: Effect,
    ) -> bool {
        let Some(object) = place.value.as_object() else {
            self.wrong_type(place, "an object", effect);
            return false;
        };
        let mut is_good = true;
        for name in object.keys().filter(|name| !known.contains(&name.as_str())) {
            is_good = false;
            let fault = match refused.iter().find(|(field, _)| field == name) {
                Some((_, reason)) => Fault::Layer7 { reason },
                None => Fault::UnknownField { known: known.join(", ") },
            };
            self.refuse(&place.beside(name), fault, effect);
        }
        is_good
    }

    /// A label selector; `None` when any part of it cannot be read.
    pub(super) fn selector(&mut self, place: &Place<'_>, effect: Effect) -> Option<Selector> {
        if !self.is_object(place, &["matchLabels", "matchExpressions"], effect) {
            return None;
        }
        let mut selector = Selector::default();
        let mut is_good = true;
        if let Some(labels) = place.field("matchLabels") {
            let Some(object) = labels.value.as_object() else {
                self.wrong_type(&labels, "an object of labels", effect);
                return None;
            };
            for (key, value) in object {
                if let Some(value) = value.as_str() {
                    selector.match_labels.insert(key.clone(), value.to_owned());
                } else {
                    let at = Place { path: format!("{}.{key}", labels.path), value };
                    self.wrong_type(&at, "a text (quote numbers and truths)", effect);
                    is_good = false;
                }
            }
        }
        if let Some(list) = place.field("matchExpressions") {
            let Some(items) = list.items() else {
                self.wrong_type(&list, "a list", effect);
                return None;
            };
            selector.expressions.reserve_exact(items.len());
            for item in items {
                let expression = self.expression(&item, effect);
                is_good &= expression.is_some();
                selector.expressions.extend(expression);
            }
        }
        is_good.then_some(selector)
    }

    fn expression(&mut self, place: &Place<'_>, effect: Effect) -> Option<Expression> {
        if !self.is_object(place, &["key", "operator", "values"], effect) {
            return None;
        }
        let text = |name: &str| place.value.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let Some(key) = text("key").map(str::to_owned) else {
            self.refuse(place, Fault::Inconsistent { rule: "an expression needs a key" }, effect);
            return None;
        };
        let values = match place.field("values") {
            Some(values) => self.texts(&values, effect)?,
            None => BTreeSet::new(),
        };
        let fault = match (text("operator").unwrap_or_default(), values.is_empty()) {
            ("In", false) => return Some(Expression::In(key, values)),
            ("NotIn", false) => return Some(Expression::NotIn(key, values)),
            ("Exists", true) => return Some(Expression::Exists(key)),
            ("DoesNotExist", true) => return Some(Expression::DoesNotExist(key)),
            ("In" | "NotIn", true) => Fault::Inconsistent { rule: "In and NotIn need values" },
            ("Exists" | "DoesNotExist", false) => {
                Fault::Inconsistent { rule: "Exists and DoesNotExist take no values" }
            }
            (other, _) => {
                Fault::Malformed { text: other.to_owned(), expected: "operator (In, NotIn, Exists, DoesNotExist)" }
            }
        };
        self.refuse(place, fault, effect);
        None
    }

    fn texts(&mut self, place: &Place<'_>, effect: Effect) -> Option<BTreeSet<String>> {
        let Some(items) = place.items() else {
            self.wrong_type(place, "a list of texts", effect);
            return None;
        };
        let mut texts = BTreeSet::new();
        let mut is_good = true;
        for item in items {
            if let Some(text) = item.value.as_str() {
                texts.insert(text.to_owned());
            } else {
                self.wrong_type(&item, "a text (quote numbers and truths)", effect);
                is_good = false;
            }
        }
        is_good.then_some(texts)
    }

    /// A prefix of either family.
    pub(super) fn cidr(&mut self, place: &Place<'_>, effect: Effect) -> Option<IpNet> {
        let parsed = place.value.as_str().and_then(|text| text.parse().ok());
        if parsed.is_none() {
            self.malformed(place, "prefix (such as 10.0.0.0/8, or fd00::1/128 for one address)", effect);
        }
        parsed
    }

    /// `TCP`, `UDP` or `SCTP`; TCP where it is missing.
    pub(super) fn protocol(&mut self, place: Option<Place<'_>>, effect: Effect) -> Option<Protocol> {
        let Some(place) = place else { return Some(Protocol::Tcp) };
        let protocol = place.value.as_str().and_then(Protocol::of_name);
        if protocol.is_none() {
            self.malformed(&place, "protocol (TCP, UDP, SCTP)", effect);
        }
        protocol
    }

    /// A port number, 1 to 65535.
    pub(super) fn port(&mut self, place: &Place<'_>, effect: Effect) -> Option<u16> {
        let port = place.value.as_u64().and_then(|n| u16::try_from(n).ok()).filter(|port| *port != 0);
        if port.is_none() {
            self.malformed(place, "port number (1 to 65535)", effect);
        }
        port
    }
}

fn found(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing (null)",
        Value::Bool(_) => "a truth",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Whether a text is the name of a port (IANA service name, RFC 6335 §5.1).
pub(super) fn is_port_name(text: &str) -> bool {
    let good = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let edges = text.starts_with('-') || text.ends_with('-') || text.contains("--");
    good && !edges && (1..=15).contains(&text.len()) && text.bytes().any(|b| b.is_ascii_lowercase())
}
