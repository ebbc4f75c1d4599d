//! Who comes and goes: ADD, DEL, CHECK, GC and STATUS as the node decides them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use cni::args::PodRef;
use cni::request::{Call, Question};
use cni::wire::Answer;
use cni::{Attachment, Code, Error as CniError};
use plan::view::Pod;
use plan::{Desired, Here};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::Node;
use super::check::Expected;
use crate::line_socket::Asked;

/// How long ADD waits for the pod's manifest: the runtime may be quicker than the watch. Shorter than the plugin's own
/// patience (10 s), so that the answer is ours.
const MANIFEST_PATIENCE: Duration = Duration::from_secs(5);
/// ADDs that wait at once.
const WAITING_MAX: usize = 512;

/// What the plugin is told by a daemon that is stopping: the runtime calls again, and a DEL is left as a tombstone.
pub(crate) fn stopping() -> Answer {
    let hint = "it is being restarted or stopped: the runtime tries again by itself";
    Answer::Refused(CniError::new(Code::TRY_AGAIN_LATER, "meshd on this node is stopping", hint))
}

/// An attached workload, as written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attached {
    /// Counts up: where two hold one address, the younger has it.
    pub(super) order: u64,
    pub(super) netns: String,
    pub(super) link: String,
    pub(super) mac: [u8; 6],
    pub(super) ips: BTreeSet<IpAddr>,
    /// Absent for a sandbox that no manifest stands for.
    pub(super) pod: Option<PodRecord>,
    /// The network of its ADD: a GC speaks for one network. Absent where it was written down before networks were.
    pub(super) network: Option<String>,
}

/// A pod as it was when it was attached, for as long as its manifest is not at hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PodRecord {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    labels: BTreeMap<String, String>,
    service_account: String,
}

/// An ADD that waits for its pod's manifest, or for the kernel.
pub(super) struct WaitingAdd {
    question: Question,
    reply: oneshot::Sender<Vec<u8>>,
    until: Instant,
    attached: bool,
    /// By libcni's notes, and not by the runtime.
    is_adopted: bool,
}

impl Node {
    /// Takes one question of the plugin.
    pub(super) async fn take_cni(&mut self, asked: Asked) {
        let question = match Question::decode(&asked.line) {
            Ok(question) => question,
            Err(error) => return answer(asked.reply, &Answer::Refused(error.into())),
        };
        let done = Answer::Done { result: None };
        let outcome = match &question.call {
            Call::Add { .. } => return self.take_add(question, asked.reply, false).await,
            Call::Status => return answer(asked.reply, &self.status().map_or_else(Answer::Refused, |()| done)),
            Call::Del { attachment, .. } => {
                let attachment = attachment.clone();
                self.detach(&attachment).map(|()| done)
            }
            Call::Check { attachment, netns, previous } => {
                let (attachment, netns) = (attachment.clone(), netns.clone());
                let expected = Expected::of(previous, &attachment);
                self.check(&attachment, &netns, &expected).await.map(|()| done)
            }
            Call::Gc { valid } => {
                let valid = valid.clone();
                self.collect_garbage(&question.conf.name, &valid).map(|()| done)
            }
        };
        self.hear();
        answer(asked.reply, &outcome.unwrap_or_else(Answer::Refused));
    }

    pub(super) async fn take_add(&mut self, question: Question, reply: oneshot::Sender<Vec<u8>>, is_adopted: bool) {
        if self.waiting.len() >= WAITING_MAX {
            let error = CniError::new(
                Code::TRY_AGAIN_LATER,
                format!("{WAITING_MAX} pods wait to be attached on this node already"),
                "the runtime tries again by itself",
            );
            return answer(reply, &Answer::Refused(error));
        }
        if self.is_spare_of_held(&question) {
            if let Some(install) = self.install.as_mut() {
                install.handle_add(true);
            }
            return answer(reply, &Answer::Done { result: None });
        }
        let until = Instant::now() + MANIFEST_PATIENCE;
        let mut add = WaitingAdd { question, reply, until, attached: false, is_adopted };
        match self.try_attach(&mut add).await {
            Ok(()) => self.waiting.push(add),
            Err(error) => answer(add.reply, &Answer::Refused(error)),
        }
    }

    /// Whether the entry in the list has brought this interface a moment ago, all of it in the kernel, and this is the spare
    /// entry beside it: nothing is to be done.
    fn is_spare_of_held(&self, question: &Question) -> bool {
        let Call::Add { attachment, netns, .. } = &question.call else { return false };
        let held = self.attachments.record(attachment.container_id(), attachment.ifname());
        let is_done = held.is_some_and(|held| held.netns == *netns && self.kernel.holds_pin(&held.link));
        question.conf.spare && is_done && !self.trouble.contains_key("kernel")
    }

    /// Attaches if the pod's manifest is at hand; else leaves the ADD waiting.
    async fn try_attach(&mut self, add: &mut WaitingAdd) -> Result<(), CniError> {
        let Call::Add { attachment, netns, previous } = &add.question.call else { return Ok(()) };
        if let Some(held) = self.attachments.record(attachment.container_id(), attachment.ifname()) {
            // the entry in the list has brought it a moment ago, and this is the spare one beside it
            if add.question.conf.spare && held.netns == *netns {
                add.attached = true;
                return Ok(());
            }
            return Err(CniError::new(
                Code::ALREADY_ATTACHED,
                format!("{attachment} is attached already"),
                "DEL it before it is added again",
            ));
        }
        let pod = match add.question.args.pod() {
            Some(reference) => match self.known_pod(&reference) {
                Some(pod) => Some(pod),
                None => return Ok(()),
            },
            None => None,
        };
        if self.trust.trust_domain().is_none() || !self.view.is_synced() {
            return Ok(());
        }
        let link = self.kernel.host_link(Path::new(netns), attachment.ifname()).await.map_err(|error| {
            let hint = "mesh-cni needs a network namespace with a veth interface that a plugin before it made";
            CniError::new(Code::INVALID_ENVIRONMENT, format!("CNI_NETNS {netns}: {error:#}"), hint)
        })?;
        let named: BTreeSet<IpAddr> = previous.view().addresses(attachment.ifname()).into_iter().collect();
        if !named.is_subset(&link.ips) {
            let what = format!("prevResult gives {} the addresses {named:?}, and it has {:?}", attachment, link.ips);
            return Err(CniError::new(Code::INVALID_CONFIG, what, "look at the plugin before mesh-cni in the chain"));
        }
        // one interface, one attachment: names and MACs of veths are random, so that a new one is never taken for an old one
        let holds = |(_, held): &(&_, &Attached)| held.link == link.name && held.mac == link.mac;
        if let Some(((container, ifname), _)) = self.attachments.records().iter().find(holds) {
            let what = format!("the interface of {attachment} is attached already, as {container}@{ifname}");
            return Err(CniError::new(Code::ALREADY_ATTACHED, what, "DEL that one first"));
        }
        let ips = if named.is_empty() { link.ips } else { named };
        if let Err(error) = self.kernel.forget_former_holders(link.bridge, &ips).await {
            // the pod is reached all the same, some seconds later
            tracing::warn!(%attachment, error = format!("{error:#}"), "Who had the addresses before is still remembered");
        }
        let order = self.attachments.records().values().map(|a| a.order).max().unwrap_or(0) + 1;
        let record = pod.as_ref().map(PodRecord::of);
        let network = Some(add.question.conf.name.clone());
        let netns = netns.clone();
        let attached = Attached { order, netns, link: link.name, mac: link.mac, ips, pod: record, network };
        self.attachments.save(attachment.container_id(), attachment.ifname(), attached).map_err(|error| {
            CniError::new(Code::IO_FAILURE, format!("the attachment cannot be written down: {error}"), "")
        })?;
        // one that is no member now is reachable in clear text until its senders have switched (decision 0008)
        let member = self.here().zip(pod).is_some_and(|(here, pod)| is_member(&self.view, &here, &pod));
        self.patient.insert(key(attachment), !member);
        add.attached = true;
        self.hear();
        Ok(())
    }

    /// Tries again what waits for its manifest, and answers what the kernel holds now.
    pub(super) async fn settle_waiting(&mut self) {
        for mut add in std::mem::take(&mut self.waiting) {
            if add.attached {
                self.waiting.push(add);
                continue;
            }
            match self.try_attach(&mut add).await {
                Ok(()) => self.waiting.push(add),
                Err(error) => answer(add.reply, &Answer::Refused(error)),
            }
        }
    }

    /// Answers the ADDs whose host side is in place, and takes back those whose is not.
    pub(super) fn answer_waiting(&mut self) {
        for add in std::mem::take(&mut self.waiting) {
            if !add.attached {
                self.waiting.push(add);
                continue;
            }
            let Some(attachment) = add.question.attachment().cloned() else { continue };
            let link = self.attachments.record(attachment.container_id(), attachment.ifname()).map(|a| a.link.clone());
            let in_place = link.is_some_and(|link| self.kernel.holds_pin(&link));
            match self.trouble.get("kernel") {
                None if in_place => {
                    if let Some(install) = self.install.as_mut().filter(|_| !add.is_adopted) {
                        install.handle_add(add.question.conf.spare);
                    }
                    answer(add.reply, &Answer::Done { result: None });
                }
                trouble => {
                    let why = trouble.cloned().unwrap_or_else(|| "the pod's host-side link is gone".to_owned());
                    let error =
                        CniError::new(Code::TRY_AGAIN_LATER, format!("{attachment} cannot be protected: {why}"), "");
                    // rollback: nothing half-done stays; what cannot be removed is tried again
                    let _tried_again = self.detach(&attachment);
                    self.desired = None;
                    answer(add.reply, &Answer::Refused(error));
                }
            }
        }
    }

    /// Gives up on ADDs whose manifest does not come.
    pub(super) fn give_up_waiting(&mut self) {
        let now = Instant::now();
        let (over, going): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|add| !add.attached && now >= add.until);
        self.waiting = going;
        for add in over {
            let pod = add.question.args.pod().map(|p| format!("{}/{}", p.namespace, p.name)).unwrap_or_default();
            let blocked = self.blocked_on();
            let (what, hint) = if blocked.is_empty() {
                (
                    format!("no manifest of pod {pod} is known on this node"),
                    "is the pod still there, with this UID?".to_owned(),
                )
            } else {
                ("the node daemon is not ready".to_owned(), format!("it waits for: {}", blocked.join(", ")))
            };
            answer(add.reply, &Answer::Refused(CniError::new(Code::TRY_AGAIN_LATER, what, hint)));
        }
    }

    /// Forgets an attachment; one that is not there is as good. The kernel follows with the reconcile that comes next.
    pub(super) fn detach(&mut self, attachment: &Attachment) -> Result<(), CniError> {
        self.call_off(attachment.container_id(), attachment.ifname(), None);
        let removed = self.attachments.remove(attachment.container_id(), attachment.ifname());
        self.patient.remove(&key(attachment));
        // gone from memory, and so from the kernel; the file is tried again each round
        if let Err(error) = removed.on_disk {
            self.note_trouble("state folder", &error.into());
        }
        Ok(())
    }

    /// Refuses ADDs of this name that still wait for their manifest: what has been deleted must not be attached later,
    /// when nobody knows of it any more. Where a namespace is given, only those for it.
    fn call_off(&mut self, container_id: &str, ifname: &str, netns: Option<&str>) {
        let is_meant = |add: &WaitingAdd| {
            let Call::Add { attachment, netns: own, .. } = &add.question.call else { return false };
            let same = attachment.container_id() == container_id && attachment.ifname() == ifname;
            same && !add.attached && netns.is_none_or(|netns| netns == own)
        };
        let (off, on): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting).into_iter().partition(is_meant);
        self.waiting = on;
        for add in off {
            let what = format!("{container_id} was deleted while its ADD waited for its manifest");
            answer(add.reply, &Answer::Refused(CniError::new(Code::TRY_AGAIN_LATER, what, "")));
        }
    }

    /// Replays DELs that found nobody home.
    pub(super) fn bury_dead(&mut self) {
        let (dead, refused) = match self.tombstones.list() {
            Ok(listed) => listed,
            Err(error) => return self.note_trouble("tombstones", &error.into()),
        };
        for error in refused {
            self.note_trouble("tombstones", &error.into());
        }
        for tombstone in dead {
            // taken away since it was listed: an ADD of the same name has settled it, and may be attached by now
            if !self.tombstones.is_there(&tombstone) {
                continue;
            }
            // a container id may live again: the tombstone is of the sandbox that it names
            let netns = tombstone.netns.as_deref().filter(|netns| !netns.is_empty());
            self.call_off(&tombstone.container_id, &tombstone.ifname, netns);
            let held = self.attachments.record(&tombstone.container_id, &tombstone.ifname);
            if held.is_some_and(|held| netns.is_none_or(|netns| netns == held.netns)) {
                let removed = self.attachments.remove(&tombstone.container_id, &tombstone.ifname);
                tracing::info!(container = tombstone.container_id, removed = removed.record.is_some(), "A late DEL");
            }
            if let Err(error) = self.tombstones.remove(&tombstone) {
                self.note_trouble("tombstones", &error.into());
            }
        }
    }

    /// Detaches everything of a network that is not valid any more.
    fn collect_garbage(&mut self, network: &str, valid: &BTreeSet<Attachment>) -> Result<(), CniError> {
        let is_meant = |held: &Attached| held.network.as_deref().is_none_or(|name| name == network);
        let records = self.attachments.records().iter();
        let stale: Vec<_> = records.filter(|(_, held)| is_meant(held)).map(|(key, _)| key.clone()).collect();
        for (container, ifname) in stale {
            let Ok(attachment) = Attachment::new(&container, &ifname) else { continue };
            // an ADD that is just being answered is younger than the list
            let is_new = self.waiting.iter().any(|add| add.question.attachment() == Some(&attachment));
            if !valid.contains(&attachment) && !is_new {
                self.detach(&attachment)?;
            }
        }
        Ok(())
    }

    /// Whether an ADD could be served.
    fn status(&self) -> Result<(), CniError> {
        let blocked = self.blocked_on();
        if blocked.is_empty() {
            return Ok(());
        }
        let hint = "see `meshctl status` on this node";
        Err(CniError::new(Code::NOT_AVAILABLE, format!("meshd waits for: {}", blocked.join(", ")), hint))
    }

    /// What is still missing, by name.
    pub(super) fn blocked_on(&self) -> Vec<String> {
        let mut blocked = Vec::new();
        if self.trust.trust_domain().is_none() {
            blocked.push("the trust bundle (is `meshd controller` running?)".to_owned());
        } else if !self.has_joined() {
            blocked.push("the controller to take this node in".to_owned());
        }
        if !self.view.is_synced() {
            blocked.push("the first list of manifests".to_owned());
        }
        blocked.extend(self.trouble.iter().map(|(what, why)| format!("{what}: {why}")));
        blocked
    }

    /// The manifest of the pod that the runtime names, if it is that very pod.
    fn known_pod(&self, reference: &PodRef<'_>) -> Option<Pod> {
        let pod = self.view.pods.get(&(reference.namespace.to_owned(), reference.name.to_owned()))?;
        let same = reference.uid.is_none_or(|uid| uid == pod.uid);
        let here = pod.node.as_ref() == Some(&self.config.node);
        (same && here && !pod.finished).then(|| pod.clone())
    }

    /// The manifest of the very pod that was written down.
    pub(super) fn listed(&self, record: &PodRecord) -> Option<&Pod> {
        let pod = self.view.pods.get(&(record.namespace.clone(), record.name.clone()))?;
        (pod.uid == record.uid).then_some(pod)
    }

    /// The pod of an attachment: its manifest, or what was written down while that is not at hand.
    pub(super) fn pod_of(&self, attached: &Attached) -> Option<Pod> {
        let record = attached.pod.as_ref()?;
        if let Some(pod) = self.listed(record) {
            return Some(pod.clone());
        }
        Some(Pod {
            namespace: record.namespace.clone(),
            name: record.name.clone(),
            uid: record.uid.clone(),
            labels: record.labels.clone(),
            node: Some(self.config.node.clone()),
            service_account: record.service_account.clone(),
            host_network: false,
            finished: false,
            ips: attached.ips.clone(),
            ports: BTreeSet::new(),
        })
    }
}

impl PodRecord {
    fn of(pod: &Pod) -> Self {
        Self {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            labels: pod.labels.clone(),
            service_account: pod.service_account.clone(),
        }
    }
}

/// Whether a pod of this node is enrolled.
pub(super) fn is_member(view: &plan::ClusterView, here: &Here, pod: &Pod) -> bool {
    Desired::membership(view, here, pod).is_some()
}

fn key(attachment: &Attachment) -> (String, String) {
    (attachment.container_id().to_owned(), attachment.ifname().to_owned())
}

/// Answers; a plugin that went away has nobody to tell.
fn answer(reply: oneshot::Sender<Vec<u8>>, answer: &Answer) {
    if let Ok(mut line) = answer.encode() {
        line.pop();
        let _gone = reply.send(line);
    }
}
