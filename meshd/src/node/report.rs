//! What this node says of itself: its MeshNode, signed with its credential.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::Node;
use crate::cluster::api;

/// Time after which a report that did not appear was overwritten by an older one.
const ARRIVAL: Duration = Duration::from_secs(10);

impl Node {
    /// Publishes the report where it differs from the last one.
    pub(super) fn publish_report(&mut self) {
        let Some(owner) = self.owner() else { return };
        let mut spec = self.spec();
        let held = self.raw_nodes.get(&self.config.node).map(|node| &node.spec);
        if let Some(last) = self.published.as_ref().or(held) {
            spec.sequence = last.sequence;
            spec.signature.clone_from(&last.signature);
            let observed = spec.observed_revision;
            if !self.is_anybody_waited_for {
                // nobody asks how far this node is: a slice that changes must not make every node of the cluster write
                spec.observed_revision = last.observed_revision;
            }
            // the same report again, and it is still there or on its way
            if spec == *last && !held.is_some_and(|held| self.is_overwritten(last, held)) {
                return;
            }
            spec.observed_revision = observed;
        }
        let seen = held.map_or(0, |held| held.sequence).max(self.sequence);
        spec.sequence = seen + 1;
        spec.signature = BASE64.encode(self.files.credential.sign_spec(&self.config.node, &spec.signed_bytes()));
        match self.publisher.put_node_spec((&self.config.node.0, &owner), &spec) {
            Ok(()) => {
                self.trouble.remove("report");
                self.sequence = spec.sequence;
                self.published_at = Instant::now();
                self.published = Some(spec);
            }
            Err(error) => self.note_trouble("report", &error),
        }
    }

    /// UID of the Node object that the report goes with. An API server's node that has none was deleted: a report of it would
    /// stay for ever. A folder's node needs none.
    fn owner(&self) -> Option<String> {
        let own = self.view.nodes.get(&self.config.node).map(|node| node.uid.clone());
        let is_folder = self.config.shared.directory.is_some();
        own.filter(|uid| !uid.is_empty()).or_else(|| is_folder.then(String::new))
    }

    /// Whether what the cluster holds is another's doing, and not only our former report that the new one has not
    /// replaced yet.
    fn is_overwritten(&self, last: &api::MeshNodeSpec, held: &api::MeshNodeSpec) -> bool {
        held != last && (held.sequence >= last.sequence || self.published_at.elapsed() > ARRIVAL)
    }

    fn spec(&self) -> api::MeshNodeSpec {
        let credential = self.files.credential.public_key();
        let join = self.token.as_ref().filter(|_| !self.has_joined()).map(|token| api::Join {
            token_id: token.id().to_owned(),
            proof: BASE64.encode(token.proof(&self.config.node, &self.uid, &credential)),
        });
        let port = self.data.port();
        let attachment = |attached: &super::admission::Attached| {
            let pod = attached.pod.as_ref()?;
            let (namespace, name, uid) = (pod.namespace.clone(), pod.name.clone(), self.pod_of(attached)?.uid);
            Some(api::ReportedAttachment { namespace, pod: name, uid, ips: attached.ips.clone() })
        };
        let mut attachments: Vec<_> = self.attachments.records().values().filter_map(attachment).collect();
        attachments.sort_by(|a, b| (&a.namespace, &a.pod, &a.uid).cmp(&(&b.namespace, &b.pod, &b.uid)));
        api::MeshNodeSpec {
            node_uid: self.uid.clone(),
            credential: BASE64.encode(credential),
            join,
            endpoints: self.underlay.addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect(),
            addresses: self.underlay.addresses.clone(),
            keys: self.keys.requested().map(api::RequestedKey::from).collect(),
            attachments,
            observed_revision: self.observed_revision,
            sequence: 0,
            signature: String::new(),
        }
    }

    /// Tells a probe whether this node carries packets and takes pods.
    pub(super) fn say_ready(&mut self) {
        const WHAT: &str = "readiness";
        let is_ready = self.blocked_on().len() == usize::from(self.trouble.contains_key(WHAT));
        match self.ready.set(is_ready) {
            Ok(()) => drop(self.trouble.remove(WHAT)),
            Err(error) => self.note_trouble(WHAT, &error),
        }
    }

    /// Whether the controller has taken this node in, with this very UID.
    pub(super) fn has_joined(&self) -> bool {
        let own = self.raw_nodes.get(&self.config.node);
        own.is_some_and(|node| node.status.joined && node.spec.node_uid == self.uid)
    }
}
