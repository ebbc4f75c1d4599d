//! What the controller says: trust, slices, and the status of nodes and policies, each written where it changed.

use std::collections::BTreeMap;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use identity::NodeName;
use jiff::Timestamp;
use plan::Assigner;
use plan::view::{EndpointSlice, RequestedKey};

use super::issuing::still_granted;
use super::{Controller, believed};
use crate::clock::wall;
use crate::cluster::api;

impl Controller {
    pub(super) fn publish_trust(&self) -> anyhow::Result<()> {
        let bundle = self.issuer.bundle();
        let metadata = api::Metadata { name: "local".to_owned(), ..api::Metadata::default() };
        let (root, intermediate) = (bundle.root_pem(), bundle.intermediate_pem());
        let spec = api::MeshTrustSpec { trust_domain: self.trust_domain.clone(), root, intermediate };
        self.publisher.put_trust(&api::MeshTrust { metadata, spec })
    }

    /// Publishes what follows from the view; returns when to look again. What could not be published is left behind. Bindings go out in the slices that rest on them
    /// (decision 0024), and slices in the order of their revisions: who has seen one has seen all before it.
    pub(super) fn publish_all(&mut self) -> Option<Instant> {
        if !self.view.is_synced() {
            return None;
        }
        let trust_domain = self.issuer.verifier().trust_domain().clone();
        if self.assigner.is_none() {
            self.forget_absent();
        }
        let held = std::mem::take(&mut self.held_slices);
        // what a former life published for nodes that are gone by now goes too
        self.published.extend(held.keys().filter(|name| !self.raw.contains_key(name)).cloned());
        let root_namespace = &self.root_namespace;
        let begin = || Assigner::new(trust_domain, root_namespace.clone(), held, wall());
        let assigner = self.assigner.get_or_insert_with(begin);
        let now = Instant::now();
        let assignments = assigner.handle_view(&self.view, self.registry.revoked(), now)?;
        self.outside.handle_view(&self.view, now);
        let due = [assigner.poll_timeout(), self.outside.poll_timeout()].into_iter().flatten().min();
        let due = due.into_iter().chain(self.publish_enforced(&assignments.slices, now)).min();
        for (node, keys) in &assignments.grants {
            let refused = assignments.refusals.iter().filter(|refusal| refusal.node == *node);
            let refused = refused.map(|r| api::Refused {
                identity: r.key.as_ref().map(|(identity, _)| identity.clone()),
                epoch: r.key.as_ref().map(|(_, epoch)| *epoch),
                reason: r.reason.to_string(),
            });
            let refused = refused.collect();
            let uid = self.view.mesh_nodes.get(node).map(|n| n.uid.clone()).unwrap_or_default();
            self.issued.follow(self.issuer.as_ref(), (node, &uid), keys, self.period, wall());
            if let Err(error) = self.publish_status(node, keys, refused, Timestamp::now()) {
                self.fall_behind(node, "A node cannot be answered", &error);
            }
        }
        self.answer_strangers();
        for slice in assignments.slices_in_order() {
            if let Err(error) = self.publish_slice(slice) {
                self.fall_behind(&slice.node, "An endpoint slice cannot be published", &error);
            }
        }
        let gone: Vec<_> =
            self.published.iter().filter(|name| !assignments.slices.contains_key(*name)).cloned().collect();
        for name in gone {
            match self.publisher.delete_slice(&name.0) {
                Ok(()) => drop(self.published.remove(&name)),
                Err(error) => self.fall_behind(&name, "A slice cannot be removed", &error),
            }
        }
        due
    }

    /// Tells nodes that have not joined why their reports are not believed.
    fn answer_strangers(&mut self) {
        let joined = &self.view.mesh_nodes;
        let strangers: Vec<_> = self.refused_claims.keys().filter(|name| !joined.contains_key(name)).cloned().collect();
        for name in strangers {
            if let Err(error) = self.publish_status(&name, &[], Vec::new(), Timestamp::now()) {
                self.fall_behind(&name, "A node cannot be answered", &error);
            }
        }
    }

    /// Tells what could not be published; it is tried again with the next change, or in the next round.
    fn fall_behind(&mut self, node: &NodeName, what: &str, error: &anyhow::Error) {
        self.behind = true;
        tracing::error!(%node, error = format!("{error:#}"), "{what}");
    }

    fn publish_slice(&mut self, slice: &EndpointSlice) -> anyhow::Result<()> {
        self.published.insert(slice.node.clone());
        if self.issued.is_published(slice) {
            return Ok(());
        }
        let mut manifest = api::MeshEndpointSlice::unsigned(slice, self.issued.bindings(&slice.node));
        manifest.spec.signature = BASE64.encode(self.issuer.sign_slice(&manifest.signed_bytes())?);
        self.publisher.put_slice(&manifest)?;
        self.issued.note_published(slice);
        Ok(())
    }

    fn publish_status(
        &mut self,
        node: &NodeName,
        keys: &[RequestedKey],
        refused: Vec<api::Refused>,
        now: Timestamp,
    ) -> anyhow::Result<()> {
        let held = self.issued.answer(node).or_else(|| self.raw.get(node).map(|raw| &raw.status));
        let bindings = held.map(|status| still_granted(&status.bindings, keys)).unwrap_or_default();
        let held = held.map_or(&[][..], |status| &status.conditions);
        let refusal = self.refused_claims.get(node).map(String::as_str);
        let conditions =
            vec![believed::condition(refusal, now).after(held), self.outside.condition(node, now).after(held)];
        // of a node that was rebuilt and is not believed yet, what stays is the former one's
        let uid = self.raw.get(node).map(|raw| &raw.spec.node_uid);
        let joined = self.view.mesh_nodes.get(node).is_some_and(|known| Some(&known.uid) == uid);
        let status = api::MeshNodeStatus { joined, bindings, refused, conditions };
        if self.issued.is_answered(node, &status) {
            return Ok(());
        }
        self.publisher.put_node_status(&node.0, &status)?;
        self.issued.note_answered(node, status);
        Ok(())
    }

    /// Tells the numbers that are due; returns when the next ones are.
    fn publish_enforced(&mut self, slices: &BTreeMap<NodeName, EndpointSlice>, now: Instant) -> Option<Instant> {
        for (key, enforcement) in self.enforced.handle_view(&self.view, (&self.root_namespace, slices), now) {
            if let Err(error) = self.publisher.put_enforcement(&key, &enforcement) {
                tracing::error!(error = format!("{error:#}"), "The status of an object cannot be written");
                self.enforced.handle_failure(&key, now);
            }
        }
        self.enforced.poll_timeout()
    }
}
