//! Our objects out: a queue, and one task that applies what is in it by server-side apply, in order, again and again.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::ensure;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use plan::ObjectKey;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::super::{Judgement, Publish, api};
use super::events::Events;
use super::object::{
    AUTHORIZATION_POLICY, KindName, MESH_ENDPOINT_SLICE, MESH_NODE, MESH_TRUST, NODE, PEER_AUTHENTICATION, Raw,
};

/// Writes that wait: more than there are nodes, twice.
const QUEUE_MAX: usize = 20_000;
/// Waits between tries while the server does not answer or refuses.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// Longest time for one write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Tries of a write that the server refuses before the writes behind it go first.
const REFUSED_TRIES_MAX: u32 = 3;

/// What is written: of which kind, and whether it is the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    NodeSpec,
    NodeStatus,
    Slice,
    Trust,
    Judgement(&'static str),
    Enforcement,
}

impl Part {
    fn kind(self) -> KindName {
        match self {
            Self::NodeSpec | Self::NodeStatus => MESH_NODE,
            Self::Slice => MESH_ENDPOINT_SLICE,
            Self::Trust => MESH_TRUST,
            Self::Judgement("AuthorizationPolicy") => AUTHORIZATION_POLICY,
            Self::Judgement(_) | Self::Enforcement => PEER_AUTHENTICATION,
        }
    }
}

impl Part {
    fn is_status(self) -> bool {
        matches!(self, Self::NodeStatus | Self::Judgement(_) | Self::Enforcement)
    }

    /// Who an API server remembers the fields by. What a writer leaves out of an apply and has applied before goes: of two
    /// parts of one status, each needs a name of its own.
    fn manager(self, writer: &str) -> Cow<'_, str> {
        match self {
            Self::Enforcement => Cow::Owned(format!("{writer}-enforcement")),
            Self::NodeSpec | Self::NodeStatus | Self::Slice | Self::Trust | Self::Judgement(_) => Cow::Borrowed(writer),
        }
    }
}

/// One write; no value means delete.
#[derive(Clone, Debug)]
struct Wish {
    part: Part,
    /// Empty for what is the cluster's.
    namespace: String,
    name: String,
    value: Option<Value>,
    tries: u32,
}

impl Wish {
    fn is_of(&self, other: &Self) -> bool {
        self.part == other.part && self.namespace == other.namespace && self.name == other.name
    }
}

/// The queue as both sides see it.
#[derive(Default)]
struct Queue {
    wishes: VecDeque<Wish>,
    /// Why the first write does not get through, while it does not.
    fault: Option<String>,
}

/// Writes our objects to the API server.
pub(crate) struct Publisher {
    queue: Arc<Mutex<Queue>>,
    poke: Arc<Notify>,
    events: Events,
}

impl Publisher {
    /// Starts the task that writes; it ends when this is dropped.
    pub(super) fn spawn(client: &Client, writer: &'static str) -> Self {
        let events = Events::spawn(client, writer);
        let publisher = Self { queue: Arc::default(), poke: Arc::default(), events };
        let (queue, poke) = (Arc::downgrade(&publisher.queue), Arc::clone(&publisher.poke));
        let client = client.clone();
        tokio::spawn(async move {
            let mut wait = RETRY.0;
            loop {
                let Some(shared) = queue.upgrade() else { return };
                let first = lock(&shared).wishes.front().cloned();
                let Some(wish) = first else {
                    drop(shared);
                    poke.notified().await;
                    continue;
                };
                let outcome = write(&client, writer, &wish).await;
                if settle(&mut lock(&shared), &wish, outcome) {
                    wait = RETRY.0;
                } else {
                    drop(shared);
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY.1);
                }
            }
        });
        publisher
    }

    fn put(&self, part: Part, (namespace, name): (&str, &str), value: Option<Value>) -> anyhow::Result<()> {
        let mut queue = lock(&self.queue);
        queue.take(Wish { part, namespace: namespace.to_owned(), name: name.to_owned(), value, tries: 0 })?;
        self.poke.notify_one();
        Ok(())
    }

    /// A part of the status of an object that people wrote.
    fn put_status(&self, part: Part, key: &ObjectKey, content: impl Serialize) -> anyhow::Result<()> {
        let mut value = manifest(part, &key.name, "status", content)?;
        if let Some(metadata) = value.pointer_mut("/metadata").and_then(Value::as_object_mut) {
            metadata.shift_remove("labels");
            metadata.insert("namespace".to_owned(), json!(key.namespace));
        }
        self.put(part, (&key.namespace, &key.name), Some(value))
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // the task finds the queue gone
        self.poke.notify_one();
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Queue {
    /// Queues a write. A later one of the same object takes the place of an earlier; but slices, whose order nodes rely
    /// on, stand in line, and while the server takes nothing they are refused, so that the line does not grow.
    fn take(&mut self, wish: Wish) -> anyhow::Result<()> {
        let same = |held: &&mut Wish| held.is_of(&wish);
        match wish.part {
            Part::Slice => {
                if let Some(fault) = &self.fault {
                    anyhow::bail!("the API server takes no writes, this one is repeated: {fault}");
                }
            }
            Part::NodeSpec | Part::NodeStatus | Part::Trust | Part::Judgement(_) | Part::Enforcement => {
                if let Some(held) = self.wishes.iter_mut().find(same) {
                    *held = wish;
                    return Ok(());
                }
            }
        }
        ensure!(self.wishes.len() < QUEUE_MAX, "{QUEUE_MAX} writes wait for the API server already");
        self.wishes.push_back(wish);
        Ok(())
    }
}

/// Notes how the first write went; true when the next may follow at once.
fn settle(queue: &mut Queue, wish: &Wish, outcome: Result<(), Failure>) -> bool {
    // what was put in its place meanwhile is another write
    let is_first = |held: &Wish| held.is_of(wish) && held.value == wish.value;
    let failure = match outcome {
        Ok(()) => {
            queue.fault = None;
            if queue.wishes.front().is_some_and(is_first) {
                queue.wishes.pop_front();
            }
            return true;
        }
        Err(failure) => failure,
    };
    let reason = format!("{:?} {}: {}", wish.part, wish.name, failure.reason);
    if queue.fault.as_ref() != Some(&reason) {
        tracing::warn!(reason, "A write to the API server failed and is tried again");
    }
    queue.fault = Some(reason);
    if failure.is_refusal
        && let Some(held) = queue.wishes.front_mut()
    {
        held.tries += 1;
        // one object that the server never takes must not stop all others
        if held.tries >= REFUSED_TRIES_MAX
            && let Some(mut last) = queue.wishes.pop_front()
        {
            last.tries = 0;
            queue.wishes.push_back(last);
        }
    }
    false
}

/// Why a write failed: refused for what it says, or not heard.
struct Failure {
    is_refusal: bool,
    reason: String,
}

async fn write(client: &Client, writer: &str, wish: &Wish) -> Result<(), Failure> {
    let resource = wish.part.kind().resource();
    let objects: Api<Raw> = if wish.namespace.is_empty() {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::namespaced_with(client.clone(), &wish.namespace, &resource)
    };
    // the warnings would cost the server a second reading of what it is sent, and the whole object an answer that nobody reads
    let params = PatchParams::apply(&wish.part.manager(writer)).force().validation_ignore();
    let work = async {
        match &wish.value {
            None => objects.delete(&wish.name, &DeleteParams::default()).await.map(drop),
            Some(value) if wish.part.is_status() => {
                objects.patch_status(&wish.name, &params, &Patch::Apply(value)).await.map(drop)
            }
            Some(value) => objects.patch_metadata(&wish.name, &params, &Patch::Apply(value)).await.map(drop),
        }
    };
    let outcome = match tokio::time::timeout(WRITE_TIMEOUT, work).await {
        Ok(outcome) => outcome,
        Err(_elapsed) => {
            let reason = format!("no answer within {} s", WRITE_TIMEOUT.as_secs());
            return Err(Failure { is_refusal: false, reason });
        }
    };
    match outcome {
        Ok(()) => Ok(()),
        // it is gone: there is nothing to delete, and nobody to answer
        Err(kube::Error::Api(status)) if status.code == 404 && is_about_absent(wish) => Ok(()),
        Err(kube::Error::Api(status)) => {
            let is_refusal = matches!(status.code, 400..=499) && !matches!(status.code, 408 | 409 | 429);
            Err(Failure { is_refusal, reason: format!("{} ({})", status.message, status.code) })
        }
        Err(error) => Err(Failure { is_refusal: false, reason: error.to_string() }),
    }
}

fn is_about_absent(wish: &Wish) -> bool {
    wish.value.is_none() || wish.part.is_status()
}

/// The whole object for server-side apply.
fn manifest(part: Part, name: &str, field: &str, content: impl Serialize) -> anyhow::Result<Value> {
    let kind = part.kind();
    Ok(json!({
        "apiVersion": api::API_VERSION,
        "kind": kind.kind,
        "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "weft"}},
        field: serde_json::to_value(content)?,
    }))
}

impl Publish for Publisher {
    fn put_node_spec(&self, (name, uid): (&str, &str), spec: &api::MeshNodeSpec) -> anyhow::Result<()> {
        let mut value = manifest(Part::NodeSpec, name, "spec", spec)?;
        if let Some(metadata) = value.pointer_mut("/metadata").and_then(Value::as_object_mut) {
            let kind = NODE.resource();
            let owner = json!({"apiVersion": kind.api_version, "kind": kind.kind, "name": name, "uid": uid});
            metadata.insert("ownerReferences".to_owned(), json!([owner]));
        }
        self.put(Part::NodeSpec, ("", name), Some(value))
    }

    fn put_node_status(&self, name: &str, status: &api::MeshNodeStatus) -> anyhow::Result<()> {
        let mut value = manifest(Part::NodeStatus, name, "status", status)?;
        // labels are not the status' to write
        value.pointer_mut("/metadata").and_then(Value::as_object_mut).map(|metadata| metadata.shift_remove("labels"));
        self.put(Part::NodeStatus, ("", name), Some(value))
    }

    fn put_slice(&self, slice: &api::MeshEndpointSlice) -> anyhow::Result<()> {
        let name = &slice.metadata.name;
        self.put(Part::Slice, ("", name), Some(manifest(Part::Slice, name, "spec", &slice.spec)?))
    }

    fn delete_slice(&self, name: &str) -> anyhow::Result<()> {
        self.put(Part::Slice, ("", name), None)
    }

    fn put_judgement(&self, judgement: &Judgement) -> anyhow::Result<()> {
        let Judgement { key, condition, referent } = judgement;
        if let Some(referent) = referent {
            self.events.tell(key, referent, condition);
            return Ok(());
        }
        self.put_status(Part::Judgement(key.kind), key, json!({"conditions": [condition]}))
    }

    fn put_enforcement(&self, key: &ObjectKey, enforcement: &api::Enforcement) -> anyhow::Result<()> {
        self.put_status(Part::Enforcement, key, enforcement)
    }

    fn put_trust(&self, trust: &api::MeshTrust) -> anyhow::Result<()> {
        let name = &trust.metadata.name;
        self.put(Part::Trust, ("", name), Some(manifest(Part::Trust, name, "spec", &trust.spec)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(part: Part, name: &str, content: u64) -> Wish {
        Wish { part, namespace: String::new(), name: name.to_owned(), value: Some(json!(content)), tries: 0 }
    }

    fn line(queue: &Queue) -> Vec<String> {
        queue.wishes.iter().map(|w| format!("{} {}", w.name, w.value.clone().unwrap_or_default())).collect()
    }

    fn refusal(is_refusal: bool) -> Result<(), Failure> {
        Err(Failure { is_refusal, reason: "no".to_owned() })
    }

    #[test]
    fn a_later_report_takes_the_place_of_the_earlier_and_slices_stand_in_line() {
        let mut queue = Queue::default();
        for wish in [wish(Part::NodeStatus, "n1", 1), wish(Part::Slice, "n1", 2), wish(Part::Slice, "n2", 3)] {
            queue.take(wish).unwrap();
        }
        queue.take(wish(Part::Slice, "n1", 4)).unwrap();
        queue.take(wish(Part::NodeStatus, "n1", 5)).unwrap();
        assert_eq!(line(&queue), ["n1 5", "n1 2", "n2 3", "n1 4"]);
    }

    #[test]
    fn two_parts_of_one_status_stand_in_line_beside_each_other_and_each_by_its_own_name() {
        let (mut queue, judgement) = (Queue::default(), Part::Judgement("PeerAuthentication"));
        for (part, content) in [(judgement, 1), (Part::Enforcement, 2), (judgement, 3), (Part::Enforcement, 4)] {
            queue.take(wish(part, "default", content)).unwrap();
        }
        assert_eq!(line(&queue), ["default 3", "default 4"]);
        let names = [judgement, Part::Enforcement].map(|part| part.manager("weft-controller").into_owned());
        assert_eq!(names, ["weft-controller", "weft-controller-enforcement"]);
        assert_eq!((Part::Enforcement.kind().plural, Part::Enforcement.is_status()), (judgement.kind().plural, true));
    }

    #[test]
    fn what_was_replaced_while_it_was_written_is_written_again() {
        let mut queue = Queue::default();
        let old = wish(Part::NodeSpec, "n1", 1);
        queue.take(old.clone()).unwrap();
        queue.take(wish(Part::NodeSpec, "n1", 2)).unwrap();
        assert!(settle(&mut queue, &old, Ok(())));
        assert_eq!(line(&queue), ["n1 2"]);
    }

    #[test]
    fn while_the_server_takes_nothing_slices_are_refused_and_the_line_does_not_grow() {
        let mut queue = Queue::default();
        let first = wish(Part::Slice, "n1", 1);
        queue.take(first.clone()).unwrap();
        assert!(!settle(&mut queue, &first, refusal(false)));
        assert!(queue.take(wish(Part::Slice, "n2", 2)).is_err());
        queue.take(wish(Part::NodeStatus, "n1", 3)).unwrap();
        assert!(settle(&mut queue, &first, Ok(())));
        queue.take(wish(Part::Slice, "n2", 2)).unwrap();
        assert_eq!(line(&queue), ["n1 3", "n2 2"]);
    }

    #[test]
    fn a_write_that_is_refused_for_good_lets_the_others_pass() {
        let mut queue = Queue::default();
        let bad = wish(Part::NodeStatus, "bad", 1);
        queue.take(bad.clone()).unwrap();
        queue.take(wish(Part::NodeStatus, "good", 2)).unwrap();
        for _ in 0..REFUSED_TRIES_MAX {
            assert!(!settle(&mut queue, &bad, refusal(true)));
        }
        assert_eq!(line(&queue), ["good 2", "bad 1"]);
    }
}
