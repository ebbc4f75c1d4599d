//! Pods that the plugin was never called for: those from before it was chained, and those of a runtime that skipped it.
//!
//! What is known of them comes from libcni's own notes, which only root writes:
//!
//! ```text
//! CACHE/results/<network>-<container>-<ifname>   {"kind":"cniCacheV1","containerId":…,"ifName":…,"netns":…,"networkName":…,
//!                                                 "cniArgs":[["K8S_POD_UID",…],…],"result":{…}}
//! ```
//!
//! They make the ADD that should have come, and it goes the way of every other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use cni::request::Question;
use plan::view::Pod;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::Node;
use super::admission::is_member;

/// How long a running pod may be without attachment before it is adopted: its ADD or DEL is on the way in the meantime.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long until one that could not be adopted is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Notes of libcni that are looked through: more than a node has pods, several times.
const NOTES_MAX: usize = 4_096;
/// A note over this is passed by.
const NOTE_BYTES_MAX: u64 = 1 << 20;

/// Running pods of this node without attachment: since when, and what came of it.
#[derive(Default)]
pub(super) struct Outside {
    pods: BTreeMap<String, Stray>,
    /// The view and the attached pods with which there were none.
    none_with: Option<(u64, BTreeSet<String>)>,
}

struct Stray {
    name: String,
    enrolled: bool,
    next: Instant,
    outcome: Option<String>,
    answer: Option<oneshot::Receiver<Vec<u8>>>,
}

/// One note of libcni.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Note {
    container_id: String,
    if_name: String,
    netns: String,
    #[serde(default = "unnamed")]
    network_name: String,
    #[serde(default)]
    cni_args: Vec<(String, String)>,
    result: Value,
    /// When the ADD was done.
    #[serde(skip, default = "never")]
    done: SystemTime,
}

fn never() -> SystemTime {
    SystemTime::UNIX_EPOCH
}

/// The name of a network that a note does not name.
fn unnamed() -> String {
    "adopted".to_owned()
}

impl Note {
    fn argument(&self, name: &str) -> Option<&str> {
        self.cni_args.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn addresses(&self) -> BTreeSet<IpAddr> {
        let ips = self.result.get("ips").and_then(Value::as_array).into_iter().flatten();
        let text = ips.filter_map(|ip| ip.get("address")?.as_str()?.split('/').next()?.parse().ok());
        text.collect()
    }

    /// The ADD that should have come, as a line of the plugin.
    fn line(&self) -> Vec<u8> {
        let version = self.result.get("cniVersion").cloned().unwrap_or(Value::Null);
        let args: BTreeMap<_, _> = self.cni_args.iter().cloned().collect();
        let question = json!({
            "version": cni::wire::WIRE_VERSION,
            "verb": "ADD",
            "containerID": self.container_id,
            "ifname": self.if_name,
            "netns": self.netns,
            "args": args,
            "config": {"cniVersion": version, "name": self.network_name, "type": "mesh-cni", "prevResult": self.result},
        });
        question.to_string().into_bytes()
    }
}

impl Outside {
    /// Enrolled pods that are not protected, and why.
    pub(super) fn rows(&self) -> Vec<Value> {
        let waiting = "mesh-cni was not called for it; it is looked for in libcni's notes";
        let strays = self.pods.values().filter(|stray| stray.enrolled);
        strays.map(|s| json!({"pod": s.name, "reason": s.outcome.as_deref().unwrap_or(waiting)})).collect()
    }
}

impl Node {
    /// Finds running pods without attachment and attaches them.
    pub(super) async fn adopt_strays(&mut self) {
        if !self.view.is_synced() || self.trust.trust_domain().is_none() {
            return;
        }
        let attached: BTreeSet<_> =
            self.attachments.records().values().filter_map(|held| Some(held.pod.as_ref()?.uid.clone())).collect();
        // asking every pod of the cluster takes long, and most rounds nothing is new
        let with = (self.view_number, attached);
        if self.outside.none_with.as_ref() == Some(&with) {
            return;
        }
        let strays = self.strays(&with.1);
        self.outside.none_with = strays.is_empty().then_some(with);
        let now = Instant::now();
        let held = &mut self.outside.pods;
        held.retain(|uid, _| strays.contains_key(uid));
        for (uid, (pod, enrolled)) in &strays {
            let name = format!("{}/{}", pod.namespace, pod.name);
            let first = Stray { name, enrolled: *enrolled, next: now + PATIENCE, outcome: None, answer: None };
            held.entry(uid.clone()).or_insert(first).enrolled = *enrolled;
        }
        for stray in held.values_mut() {
            stray.hear();
        }
        let due: Vec<_> = held.iter().filter(|(_, stray)| stray.next <= now).map(|(uid, _)| uid.clone()).collect();
        if due.is_empty() {
            return;
        }
        let notes = read_notes(&self.config.install.cni_cache);
        for uid in due {
            let found = strays.get(&uid).and_then(|(pod, _)| note_of(&notes, pod));
            let Some(stray) = self.outside.pods.get_mut(&uid) else { continue };
            stray.next = now + RETRY;
            let Some(note) = found else {
                let place = self.config.install.cni_cache.display();
                stray.tell(format!("libcni has no note of it in {place}: delete the pod, so that it is made anew"));
                continue;
            };
            tracing::info!(pod = stray.name, "A pod that mesh-cni was not called for is attached");
            if let Some(install) = self.install.as_mut() {
                install.handle_missed(&note.network_name, note.done);
            }
            match Question::decode(&note.line()) {
                Ok(question) => {
                    let (reply, answer) = oneshot::channel();
                    stray.answer = Some(answer);
                    self.take_add(question, reply, true).await;
                }
                Err(error) => {
                    stray.tell(format!("libcni's note of it cannot be used: {error}"));
                    continue;
                }
            }
            // it was reachable in clear text until now: in after its senders (decision 0008)
            self.patient.insert((note.container_id.clone(), note.if_name.clone()), true);
        }
    }

    /// Running pods of this node, with addresses, that nothing is attached for; by UID, and whether they are enrolled.
    fn strays(&self, attached: &BTreeSet<String>) -> BTreeMap<String, (Pod, bool)> {
        let Some(here) = self.here() else { return BTreeMap::new() };
        let is_stray = |pod: &&Pod| {
            let here = pod.node.as_ref() == Some(&self.config.node) && !pod.host_network && !pod.finished;
            here && !pod.ips.is_empty() && !attached.contains(&pod.uid)
        };
        let strays = self.view.pods.values().filter(is_stray);
        strays.map(|pod| (pod.uid.clone(), (pod.clone(), is_member(&self.view, &here, pod)))).collect()
    }
}

impl Stray {
    fn hear(&mut self) {
        let Some(line) = self.answer.as_mut().and_then(|answer| answer.try_recv().ok()) else { return };
        self.answer = None;
        let answer: Value = serde_json::from_slice(&line).unwrap_or_default();
        if let Some(message) = answer.pointer("/error/msg").and_then(Value::as_str) {
            self.tell(message.to_owned());
        }
    }

    fn tell(&mut self, outcome: String) {
        if self.outcome.as_ref() != Some(&outcome) {
            tracing::warn!(pod = self.name, enrolled = self.enrolled, outcome, "A pod is outside the mesh");
        }
        self.outcome = Some(outcome);
    }
}

/// The note whose addresses are the pod's; a pod may have more interfaces than that of the pod network.
fn note_of<'a>(notes: &'a [Note], pod: &Pod) -> Option<&'a Note> {
    let is_it = |note: &&Note| {
        note.argument("K8S_POD_UID") == Some(&pod.uid)
            && note.argument("K8S_POD_NAMESPACE") == Some(&pod.namespace)
            && pod.ips.is_subset(&note.addresses())
    };
    notes.iter().find(is_it)
}

fn read_notes(cache: &Path) -> Vec<Note> {
    let entries = std::fs::read_dir(cache.join("results")).into_iter().flatten().filter_map(Result::ok).take(NOTES_MAX);
    let read = |entry: std::fs::DirEntry| -> Option<Note> {
        let metadata = entry.metadata().ok().filter(|m| m.is_file() && m.len() <= NOTE_BYTES_MAX)?;
        let note: Note = serde_json::from_slice(&std::fs::read(entry.path()).ok()?).ok()?;
        Some(Note { done: metadata.modified().ok()?, ..note })
    };
    entries.filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, ip: &str) -> Pod {
        Pod {
            namespace: "demo".to_owned(),
            name: "web".to_owned(),
            uid: uid.to_owned(),
            labels: BTreeMap::new(),
            node: None,
            service_account: "default".to_owned(),
            host_network: false,
            finished: false,
            ips: [ip.parse().unwrap()].into(),
            ports: BTreeSet::new(),
        }
    }

    #[test]
    fn a_note_of_libcni_becomes_the_add_that_should_have_come() {
        let cache = tempfile::tempdir().unwrap();
        let results = cache.path().join("results");
        std::fs::create_dir(&results).unwrap();
        let note = |address: &str| {
            json!({
                "kind": "cniCacheV1", "containerId": "c0ffee", "config": "e30=", "ifName": "eth0", "networkName": "pods",
                "netns": "/var/run/netns/p",
                "cniArgs": [["K8S_POD_NAMESPACE", "demo"], ["K8S_POD_NAME", "web"], ["K8S_POD_UID", "u1"]],
                "result": {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/var/run/netns/p"}],
                    "ips": [{"address": address, "interface": 0}], "dns": {}},
            })
        };
        std::fs::write(results.join("cni-loopback-c0ffee-lo"), note("127.0.0.1/8").to_string()).unwrap();
        std::fs::write(results.join("pods-c0ffee-eth0"), note("10.1.0.2/24").to_string()).unwrap();
        std::fs::write(results.join("broken"), "{").unwrap();
        let notes = read_notes(cache.path());
        assert_eq!(notes.len(), 2);
        assert!(note_of(&notes, &pod("u2", "10.1.0.2")).is_none());
        assert!(note_of(&notes, &pod("u1", "10.1.0.3")).is_none());
        let found = note_of(&notes, &pod("u1", "10.1.0.2")).unwrap();
        let question = Question::decode(&found.line()).unwrap();
        assert_eq!(question.attachment().unwrap().container_id(), "c0ffee");
        assert_eq!(question.args.pod().unwrap().uid, Some("u1"));
        assert_eq!(question.conf.name, "pods", "a GC of its network is about it");
    }
}
