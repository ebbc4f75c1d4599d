//! What is to be said of an object that people wrote: whether every part of it is read and in force. In its status where
//! that is ours, by an Event where not. Pure.

use jiff::Timestamp;
use plan::ObjectKey;
use serde_json::Value;

use super::super::api::{Condition, Enforcement};
use super::super::{Counted, Judgement, Referent, convert};
use super::object::{ADMINISTRATORS, AUTHORIZATION_POLICY, ISTIO, KindName, NETWORK_POLICY, PEER_AUTHENTICATION, Raw};

/// The condition's type.
const ACCEPTED: &str = "Accepted";
/// Parts that a message names; more are counted.
const PARTS_MAX: usize = 20;
/// Longest word on one part, in characters.
const PART_LENGTH_MAX: usize = 500;

/// What the status of an object of ours says now; of others, whom an Event would be about.
pub(super) struct Held {
    condition: Option<Condition>,
    generation: Option<i64>,
    referent: Option<Referent>,
}

impl Held {
    /// `None` for kinds that have no place for it, or are not ours to speak of.
    pub(super) fn of(kind: &KindName, object: &Raw) -> Option<Self> {
        let generation = object.metadata.generation;
        // NetworkPolicy has no status, and those of the administrator's tiers and of Istio's kind are not ours to write
        if [NETWORK_POLICY.group, ADMINISTRATORS, ISTIO].contains(&kind.group) {
            let (name, uid) = (object.metadata.name.clone()?, object.metadata.uid.clone()?);
            let referent = Referent { api_version: kind.resource().api_version, name, uid };
            return Some(Self { condition: None, generation, referent: Some(referent) });
        }
        let ours = [PEER_AUTHENTICATION, AUTHORIZATION_POLICY];
        if !ours.iter().any(|our| our.kind == kind.kind && our.group == kind.group) {
            return None;
        }
        let conditions = object.status.get("conditions").and_then(Value::as_array).into_iter().flatten();
        let mut conditions = conditions.filter_map(|value| serde_json::from_value::<Condition>(value.clone()).ok());
        let condition = conditions.find(|condition| condition.kind == ACCEPTED);
        Some(Self { condition, generation, referent: None })
    }

    /// What it is to say, where that is something else; `refused` when the object as a whole cannot be used.
    pub(super) fn judge(
        &self,
        key: &ObjectKey,
        refused: Option<&str>,
        parts: &[String],
        now: Timestamp,
    ) -> Option<Judgement> {
        if self.referent.is_some() && refused.is_none() && parts.is_empty() {
            // an Event tells what happened: that all is well is none
            return None;
        }
        let (holds, why) = match (refused, parts) {
            (Some(why), _) => (false, ("Refused", format!("{}; what was known before stays", short(key, why)))),
            (None, []) => (true, ("Read", String::new())),
            (None, parts) => (false, ("PartsUnreadable", message(key, parts))),
        };
        let condition = Condition::new(ACCEPTED, holds, why, now).after(self.condition.as_slice());
        let condition = Condition { observed_generation: self.generation, ..condition };
        let referent = self.referent.clone();
        (Some(&condition) != self.condition.as_ref()).then(|| Judgement { key: key.clone(), condition, referent })
    }
}

/// What the status of a PeerAuthentication of ours says of its workloads; `None` for other kinds, and for Istio's, whose
/// status is not ours.
pub(super) fn counted(kind: &KindName, key: &ObjectKey, object: &Raw) -> Option<Counted> {
    if kind.kind != PEER_AUTHENTICATION.kind || kind.group != PEER_AUTHENTICATION.group {
        return None;
    }
    let held = serde_json::from_value::<Enforcement>(object.status.clone()).ok();
    // every object of a server has a generation
    Some(Counted { key: key.clone(), generation: object.metadata.generation.unwrap_or(0), held })
}

fn message(key: &ObjectKey, parts: &[String]) -> String {
    let mut lines: Vec<_> = parts.iter().take(PARTS_MAX).map(|part| short(key, part)).collect();
    if parts.len() > PARTS_MAX {
        lines.push(format!("and {} more", parts.len() - PARTS_MAX));
    }
    lines.join("\n")
}

/// A sentence without the object's name, which the reader knows.
fn short(key: &ObjectKey, text: &str) -> String {
    let title = format!("{}: ", convert::title(key));
    text.strip_prefix(&title).unwrap_or(text).chars().take(PART_LENGTH_MAX).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::object::WATCHED;
    use super::*;

    fn raw(status: Value) -> Raw {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "generation": 3}, "status": status}))
            .unwrap()
    }

    fn key() -> ObjectKey {
        ObjectKey { kind: "AuthorizationPolicy", namespace: "n".to_owned(), name: "p".to_owned() }
    }

    fn judged(held: Value, parts: &[String], second: i64) -> Option<Condition> {
        let held = Held::of(&AUTHORIZATION_POLICY, &raw(held)).unwrap();
        let now = Timestamp::from_second(second).unwrap();
        held.judge(&key(), None, parts, now).map(|judgement| judgement.condition)
    }

    #[test]
    fn a_status_is_said_once_and_again_only_when_it_is_another() {
        let good = judged(Value::Null, &[], 60).unwrap();
        assert_eq!((good.status.as_str(), good.observed_generation), ("True", Some(3)));
        let held = json!({"conditions": [{"type": "Somebody's", "status": "True"}, good]});
        assert_eq!(judged(held.clone(), &[], 120), None, "nothing is new");
        let bad = judged(held, &["AuthorizationPolicy n/p: spec.x: bad".to_owned()], 120).unwrap();
        assert_eq!((bad.status.as_str(), bad.message.as_str()), ("False", "spec.x: bad"));
        assert_eq!(bad.last_transition_time, "1970-01-01T00:02:00Z");
        let worse = judged(json!({"conditions": [bad]}), &["spec.y: bad".to_owned()], 180).unwrap();
        assert_eq!(worse.last_transition_time, "1970-01-01T00:02:00Z", "it is bad since then");
    }

    #[test]
    fn a_message_is_bounded() {
        let parts: Vec<_> = (0..1_000).map(|n| format!("spec.rules[{n}]: {}", "x".repeat(2_000))).collect();
        let condition = judged(Value::Null, &parts, 0).unwrap();
        assert!(condition.message.len() < 16_384 && condition.message.ends_with("and 980 more"));
    }

    #[test]
    fn what_has_no_status_of_ours_is_told_of_by_an_event_when_something_is_wrong() {
        let key = ObjectKey { kind: "NetworkPolicy", namespace: "n".to_owned(), name: "p".to_owned() };
        let object = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 2}});
        let held = Held::of(&NETWORK_POLICY, &serde_json::from_value(object).unwrap()).unwrap();
        assert_eq!(held.judge(&key, None, &[], Timestamp::UNIX_EPOCH), None, "all is well");
        let parts = ["NetworkPolicy n/p: spec.x: bad".to_owned()];
        let judgement = held.judge(&key, None, &parts, Timestamp::UNIX_EPOCH).unwrap();
        let (api_version, name) = ("networking.k8s.io/v1".to_owned(), "p".to_owned());
        let referent = Referent { api_version, name, uid: "u".to_owned() };
        assert_eq!((judgement.condition.message.as_str(), judgement.referent), ("spec.x: bad", Some(referent)));
    }

    #[test]
    fn istios_kind_is_told_of_by_an_event_about_its_own_name() {
        let istio = WATCHED.iter().find(|kind| kind.group == ISTIO).unwrap();
        let object = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}});
        let object = serde_json::from_value(object).unwrap();
        let key = istio.key(&object).unwrap();
        let held = Held::of(istio, &object).unwrap();
        assert_eq!(held.judge(&key, None, &[], Timestamp::UNIX_EPOCH), None, "all is well");
        let why = format!("PeerAuthentication n/{ISTIO}/p: portLevelMtls needs a selector");
        let judgement = held.judge(&key, Some(&why), &[], Timestamp::UNIX_EPOCH).unwrap();
        assert!(judgement.condition.message.starts_with("portLevelMtls"), "{}", judgement.condition.message);
        let (api_version, name) = (format!("{ISTIO}/v1"), "p".to_owned());
        assert_eq!(judgement.referent, Some(Referent { api_version, name, uid: "u".to_owned() }));
    }

    #[test]
    fn what_a_status_says_of_workloads_is_read_whole_or_not_at_all_and_of_our_kind_alone() {
        let whole = json!({"conditions": [], "observedGeneration": 2, "workloads": 3, "enforcedWorkloads": 2, "enforced": "2/3"});
        let key = ObjectKey { kind: "PeerAuthentication", ..key() };
        let of = |kind: &KindName, status: &Value| counted(kind, &key, &raw(status.clone()));
        let held = Enforcement::new(2, plan::Governed { workloads: 3, enforced: 2 });
        let expected = Counted { key: key.clone(), generation: 3, held: Some(held) };
        assert_eq!(of(&PEER_AUTHENTICATION, &whole), Some(expected.clone()));
        let nothing = Counted { held: None, ..expected };
        assert_eq!(of(&PEER_AUTHENTICATION, &Value::Null), Some(nothing.clone()));
        for field in ["observedGeneration", "workloads", "enforcedWorkloads", "enforced"] {
            let mut part = whole.clone();
            part.as_object_mut().unwrap().remove(field);
            assert_eq!(of(&PEER_AUTHENTICATION, &part), Some(nothing.clone()), "without {field}");
        }
        let istio = WATCHED.iter().find(|kind| kind.group == ISTIO).unwrap();
        assert_eq!((of(istio, &whole), of(&AUTHORIZATION_POLICY, &whole)), (None, None));
    }

    #[test]
    fn other_kinds_are_not_ours_to_speak_of() {
        assert!(Held::of(&super::super::object::MESH_NODE, &raw(Value::Null)).is_none());
    }
}
