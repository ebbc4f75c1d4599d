//! Events about objects that people wrote and whose status is not ours: what of them is not used, where `kubectl events` shows
//! it. A courtesy: they have a line and a pace of their own, and what cannot be written is left out.

use std::collections::BTreeMap;
use std::hash::Hasher as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use plan::ObjectKey;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::super::{Referent, api};
use super::object::{EVENT, Raw};

/// Objects that wait to be told of; of more there is no Event, and the status of the nodes says it all the same.
const WAITING_MAX: usize = 1_000;
/// Between two Events, whatever happens: a storm of bad policies is told of at this pace.
const PAUSE: Duration = Duration::from_millis(500);
/// Longest time for one write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest message of an Event in bytes (Kubernetes, `pkg/apis/core/validation/events.go`: 1024).
const MESSAGE_MAX: usize = 1_000;
/// Where Events about objects without namespace are (client-go, `tools/record`).
const NOBODYS_NAMESPACE: &str = "default";

/// Events that wait, by the UID of what they are about: of one object the newest alone.
type Waiting = Mutex<BTreeMap<String, Value>>;

/// The line of Events.
pub(super) struct Events {
    waiting: Arc<Waiting>,
    poke: Arc<Notify>,
    writer: &'static str,
}

impl Events {
    /// Starts the task that writes them; it ends when this is dropped.
    pub(super) fn spawn(client: &Client, writer: &'static str) -> Self {
        let events = Self { waiting: Arc::default(), poke: Arc::default(), writer };
        let (waiting, poke, client) = (Arc::downgrade(&events.waiting), Arc::clone(&events.poke), client.clone());
        tokio::spawn(async move {
            let mut told = String::new();
            loop {
                let Some(shared) = waiting.upgrade() else { return };
                let next = lock(&shared).pop_first();
                drop(shared);
                let Some((_, event)) = next else {
                    poke.notified().await;
                    continue;
                };
                if let Err(reason) = write(&client, writer, &event).await
                    && reason != told
                {
                    tracing::warn!(reason, "An Event is not written: what it says is in the status of the nodes");
                    told = reason;
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        events
    }

    /// Tells of an object what the condition says of it.
    pub(super) fn tell(&self, key: &ObjectKey, referent: &Referent, condition: &api::Condition) {
        let mut waiting = lock(&self.waiting);
        if waiting.len() < WAITING_MAX || waiting.contains_key(&referent.uid) {
            waiting.insert(referent.uid.clone(), event(self.writer, key, referent, condition));
            self.poke.notify_one();
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // the task finds the line gone
        self.poke.notify_one();
    }
}

fn lock(waiting: &Waiting) -> MutexGuard<'_, BTreeMap<String, Value>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The Event as the API server takes it. The same words about the same object are the same Event, seen later.
fn event(writer: &str, key: &ObjectKey, referent: &Referent, condition: &api::Condition) -> Value {
    let mut message = condition.message.clone();
    if message.len() > MESSAGE_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_MAX));
        message.push('…');
    }
    let mut hash = std::hash::DefaultHasher::new();
    hash.write(referent.uid.as_bytes());
    hash.write(message.as_bytes());
    // names of objects are ASCII (RFC 1123), and the whole has to be one of at most 253
    let start: String = referent.name.chars().take(200).collect();
    let name = format!("{}.{:016x}", start.trim_end_matches(['.', '-']), hash.finish());
    // an empty namespace is none to the server
    let about = json!({
        "apiVersion": referent.api_version, "kind": key.kind, "namespace": key.namespace, "name": referent.name,
        "uid": referent.uid,
    });
    let namespace = if key.namespace.is_empty() { NOBODYS_NAMESPACE } else { &key.namespace };
    json!({
        "apiVersion": "v1", "kind": EVENT.kind,
        "metadata": {"name": name, "namespace": namespace, "labels": {"app.kubernetes.io/managed-by": "weft"}},
        "involvedObject": about,
        "type": "Warning", "reason": condition.reason, "message": message,
        "source": {"component": writer}, "count": 1,
        "firstTimestamp": condition.last_transition_time, "lastTimestamp": condition.last_transition_time,
    })
}

async fn write(client: &Client, writer: &str, event: &Value) -> Result<(), String> {
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let api: Api<Raw> = Api::namespaced_with(client.clone(), text("/metadata/namespace"), &EVENT.resource());
    let params = PatchParams::apply(writer).force();
    let patch = Patch::Apply(event);
    let work = api.patch(text("/metadata/name"), &params, &patch);
    match tokio::time::timeout(WRITE_TIMEOUT, work).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) => Err(format!("{} ({})", status.message, status.code)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_elapsed) => Err(format!("no answer within {} s", WRITE_TIMEOUT.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(name: &str, namespace: &str, message: &str) -> Value {
        let key = ObjectKey { kind: "NetworkPolicy", namespace: namespace.to_owned(), name: name.to_owned() };
        let referent = Referent {
            api_version: "networking.k8s.io/v1".to_owned(),
            name: name.to_owned(),
            uid: format!("uid of {name}"),
        };
        let condition = api::Condition {
            kind: "Accepted".to_owned(),
            status: "False".to_owned(),
            reason: "PartsUnreadable".to_owned(),
            message: message.to_owned(),
            observed_generation: Some(1),
            last_transition_time: "1970-01-01T00:00:00Z".to_owned(),
        };
        event("weft-controller", &key, &referent, &condition)
    }

    #[test]
    fn the_same_words_are_the_same_event_and_others_another() {
        let name = |event: &Value| event["metadata"]["name"].as_str().unwrap().to_owned();
        let one = told("p", "n", "spec.x: bad");
        assert_eq!(name(&one), name(&told("p", "n", "spec.x: bad")));
        assert_ne!(name(&one), name(&told("p", "n", "spec.y: bad")));
        assert_eq!(
            (one["metadata"]["namespace"].as_str(), one["involvedObject"]["namespace"].as_str()),
            (Some("n"), Some("n"))
        );
        let of_nobody = told("p", "", "spec.x: bad");
        assert_eq!(of_nobody["metadata"]["namespace"], "default");
        assert_eq!(of_nobody["involvedObject"]["namespace"], "");
    }

    #[test]
    fn names_and_messages_fit_what_the_server_takes() {
        let long = told(&format!("{}.{}", "a".repeat(199), "b".repeat(53)), "n", &"ü".repeat(4_000));
        let name = long["metadata"]["name"].as_str().unwrap();
        assert!(name.len() <= 253 && !name.contains(".."), "{name}");
        assert!(long["message"].as_str().unwrap().len() <= 1_024);
    }
}
