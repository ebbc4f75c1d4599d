//! The controller: signs bindings and says which address belongs to whom.

mod answers;
mod believed;
pub(crate) mod ca;
mod enforced;
pub(crate) mod issuer;
mod issuing;
mod outside;
mod registry;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use identity::NodeName;
use jiff::Timestamp;
use plan::view::{Event as ViewEvent, Object};
use plan::{Assigner, ClusterView};
use tokio::sync::mpsc;

use self::enforced::Enforced;
use self::issuer::Issuer;
use self::issuing::{Issued, still_granted};
use self::outside::Outside;
use self::registry::{Claim, Registry};
use crate::clock::wall;
use crate::cluster::{Event, Lead, Manifest, Publish, Source, api};
use crate::line_socket::Asked;
use crate::store::{self, DirLock, Kind};

const REGISTRY: Kind = Kind {
    name: "registry",
    version: 1,
    remedy: "restore it from a backup, or remove it and let every node join again with a new token",
};
/// How often the issuer's own certificate is looked at, and bindings that end are renewed.
const ROUND: Duration = Duration::from_secs(10);
/// How often is published anew what may follow from nothing but the time: a key whose epoch was too early to be bound. With
/// thousands of pods all of it takes a tenth of a second of a core.
const WHOLE_LOOK: Duration = Duration::from_secs(60);
/// Changes taken in before the next answer: a burst is answered once.
const BURST_MAX: usize = 256;

/// Everything the controller knows.
pub(crate) struct Controller {
    issuer: Box<dyn Issuer>,
    publisher: Box<dyn Publish>,
    registry: Registry,
    registry_path: PathBuf,
    trust_domain: String,
    view: ClusterView,
    raw: BTreeMap<NodeName, Box<api::MeshNode>>,
    refused_claims: BTreeMap<NodeName, String>,
    assigner: Option<Assigner>,
    root_namespace: String,
    period: Duration,
    attested: bool,
    /// Why the cluster does not vouch for its nodes although it should.
    unvouched: Option<String>,
    /// The state folder changed and is not kept elsewhere yet.
    unkept: bool,
    issued: Issued,
    outside: Outside,
    enforced: Enforced,
    published: BTreeSet<NodeName>,
    /// What is published does not follow yet from what is known.
    behind: bool,
    held_slices: BTreeMap<NodeName, plan::view::EndpointSlice>,
    _lock: DirLock,
}

/// What a controller is made with.
pub(crate) struct Parts {
    pub(crate) issuer: Box<dyn Issuer>,
    pub(crate) publisher: Box<dyn Publish>,
    pub(crate) state_dir: PathBuf,
    pub(crate) lock: DirLock,
    pub(crate) root_namespace: String,
    pub(crate) period: Duration,
    /// The cluster vouches that a MeshNode was written by its node: no join token is asked for.
    pub(crate) attested: bool,
}

impl Controller {
    /// Reads what the last life wrote down and publishes the trust bundle.
    pub(crate) fn open(parts: Parts) -> anyhow::Result<Self> {
        let registry_path = parts.state_dir.join("registry");
        let registry = store::load(&registry_path, REGISTRY, "controller")?.unwrap_or_default();
        let trust_domain = parts.issuer.verifier().trust_domain().to_string();
        let controller = Self {
            registry,
            registry_path,
            trust_domain,
            view: ClusterView::default(),
            raw: BTreeMap::new(),
            refused_claims: BTreeMap::new(),
            assigner: None,
            root_namespace: parts.root_namespace,
            period: parts.period,
            attested: parts.attested,
            unvouched: None,
            unkept: false,
            issued: Issued::default(),
            outside: Outside::default(),
            enforced: Enforced::default(),
            published: BTreeSet::new(),
            behind: false,
            held_slices: BTreeMap::new(),
            issuer: parts.issuer,
            publisher: parts.publisher,
            _lock: parts.lock,
        };
        controller.publish_trust()?;
        Ok(controller)
    }

    /// Runs until `stop` is done, or until the right to write is lost: that is looked after whatever else is waited for.
    pub(crate) async fn run(
        &mut self,
        source: Source,
        admin: mpsc::Receiver<Asked>,
        lead: &Lead,
        stop: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        tokio::select! {
            biased;
            lost = lead.hold() => Err(lost),
            outcome = self.work(source, admin, lead, stop) => outcome,
        }
    }

    async fn work(
        &mut self,
        mut source: Source,
        mut admin: mpsc::Receiver<Asked>,
        lead: &Lead,
        stop: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        tokio::pin!(stop);
        let mut round = tokio::time::interval(ROUND);
        let mut due = Instant::now() + WHOLE_LOOK;
        loop {
            tokio::select! {
                () = &mut stop => return Ok(()),
                event = source.events.recv() => self.take_event(event.context("the cluster is not watched any more")?),
                Some(asked) = admin.recv() => self.answer(asked),
                () = tokio::time::sleep_until(due.into()) => {}
                _ = round.tick() => self.go_round(lead).await?,
            }
            for _ in 0..BURST_MAX {
                match source.events.try_recv() {
                    Ok(event) => self.take_event(event),
                    Err(_) => break,
                }
            }
            if self.unkept {
                match lead.keep().await {
                    Ok(()) => self.unkept = false,
                    Err(error) => tracing::error!(error = format!("{error:#}"), "The controller's state is not kept"),
                }
            }
            if self.behind || Instant::now() >= due {
                self.behind = false;
                let next = Instant::now() + WHOLE_LOOK;
                due = self.publish_all().map_or(next, |due| due.min(next));
            }
        }
    }

    /// What nobody announces: certificates that end, and whether the cluster still holds its nodes to their own reports.
    async fn go_round(&mut self, lead: &Lead) -> anyhow::Result<()> {
        if self.issuer.renew(wall())? {
            self.unkept = true;
            self.publish_trust()?;
        }
        // of a server that does not answer no news comes either
        let Ok(fault) = lead.admission_fault().await else { return Ok(()) };
        if fault == self.unvouched {
            return Ok(());
        }
        match &fault {
            Some(why) => tracing::error!(why, "Nodes are believed only by the credentials that they have joined with"),
            None => tracing::info!("The API server holds nodes to their own reports again"),
        }
        self.unvouched = fault;
        self.behind = true;
        for name in self.refused_claims.keys().cloned().collect::<Vec<_>>() {
            if let Some(node) = self.raw.get(&name).cloned() {
                self.take_node(node);
            }
        }
        Ok(())
    }

    fn publish_trust(&self) -> anyhow::Result<()> {
        let bundle = self.issuer.bundle();
        let metadata = api::Metadata { name: "local".to_owned(), ..api::Metadata::default() };
        let (root, intermediate) = (bundle.root_pem(), bundle.intermediate_pem());
        let spec = api::MeshTrustSpec { trust_domain: self.trust_domain.clone(), root, intermediate };
        self.publisher.put_trust(&api::MeshTrust { metadata, spec })
    }

    fn take_event(&mut self, event: Event) {
        let event = match event {
            Event::Init => ViewEvent::Init,
            // what is published may be another life's
            Event::InitDone => {
                self.behind = true;
                ViewEvent::InitDone
            }
            Event::Apply(Manifest::Plain(object)) => ViewEvent::Apply(object),
            Event::Apply(Manifest::MeshNode(node)) => return self.take_node(node),
            Event::Apply(Manifest::MeshEndpointSlice(slice)) => {
                // our own words of a former life, if they are
                if self.assigner.is_none() && slice.is_signed_by(self.issuer.verifier()) {
                    self.held_slices.insert(slice.spec.node.clone(), slice.to_view());
                }
                return;
            }
            Event::Apply(Manifest::MeshTrust(_)) => return,
            Event::Judged(judgement) => {
                if let Err(error) = self.publisher.put_judgement(&judgement) {
                    tracing::error!(error = format!("{error:#}"), "The status of an object cannot be written");
                }
                return;
            }
            Event::Counted(counted) => {
                self.behind |= self.enforced.handle_counted(counted);
                return;
            }
            Event::Delete(key) => {
                let name = NodeName(key.name.clone());
                match key.kind {
                    "PeerAuthentication" => self.enforced.handle_gone(&key),
                    "MeshNode" => {
                        self.raw.remove(&name);
                        self.refused_claims.remove(&name);
                        self.issued.forget_answer(&name);
                        self.forget_absent();
                        self.behind = true;
                    }
                    // somebody removed our word: it is published anew
                    "MeshEndpointSlice" => {
                        self.issued.forget_slice(&name);
                        self.behind = true;
                    }
                    _ => {}
                }
                ViewEvent::Delete(key)
            }
        };
        self.view_handle(event);
    }

    fn view_handle(&mut self, event: ViewEvent) {
        match self.view.handle(event) {
            Ok(changed) => self.behind |= changed,
            Err(error) => tracing::warn!(%error, "An object is left out"),
        }
    }

    /// Takes a node's report in if it is that node's own.
    fn take_node(&mut self, node: Box<api::MeshNode>) {
        let name = NodeName(node.metadata.name.clone());
        let same = self.raw.get(&name).is_some_and(|held| held.spec == node.spec);
        if same && !self.refused_claims.contains_key(&name) {
            // only the status that we wrote ourselves is new
            self.raw.insert(name, node);
            return;
        }
        self.behind = true;
        match self.admit(&name, &node.spec) {
            Ok(()) => {
                self.refused_claims.remove(&name);
                if let Some(view) = node.to_view() {
                    self.view_handle(ViewEvent::Apply(Object::MeshNode(Box::new(view))));
                }
            }
            Err(error) => {
                let reason = format!("{error:#}");
                if self.refused_claims.get(&name) != Some(&reason) {
                    tracing::warn!(node = %name, reason, "A node's report is not believed");
                }
                self.refused_claims.insert(name.clone(), reason);
            }
        }
        self.raw.insert(name, node);
    }

    fn admit(&mut self, name: &NodeName, spec: &api::MeshNodeSpec) -> anyhow::Result<()> {
        let credential = spec.credential_key().context("the credential is not 32 bytes of base64")?;
        let signature = BASE64.decode(&spec.signature).context("the signature is no base64")?;
        let proof =
            spec.join.as_ref().map(|join| BASE64.decode(&join.proof)).transpose().context("the proof is no base64")?;
        let join =
            spec.join.as_ref().zip(proof.as_ref()).map(|(join, proof)| (join.token_id.as_str(), proof.as_slice()));
        let (signed, uid, sequence) = (spec.signed_bytes(), spec.node_uid.as_str(), spec.sequence);
        let claim = Claim { node: name, uid, credential, sequence, signed: &signed, signature: &signature, join };
        let known = self.registry.nodes().any(|node| node == name);
        let changed = if self.attested {
            self.registry.handle_attested(&claim, self.unvouched.as_deref())?
        } else {
            self.registry.handle_claim(&claim, wall())?
        };
        if changed {
            self.write_registry()?;
        }
        if !known {
            tracing::info!(node = %name, "Node joined");
        }
        Ok(())
    }

    /// Where the cluster vouches for its nodes, one that comes again joins again: what is remembered of nodes does not grow
    /// with all that there ever were.
    fn forget_absent(&mut self) {
        if self.attested
            && self.registry.retain(|name| self.raw.contains_key(name))
            && let Err(error) = self.write_registry()
        {
            tracing::error!(error = format!("{error:#}"), "The registry cannot be written");
        }
    }

    fn write_registry(&mut self) -> anyhow::Result<()> {
        self.unkept = true;
        Ok(store::save(&self.registry_path, REGISTRY, "controller", &self.registry)?)
    }

    /// Publishes what follows from the view; returns when to look again. What could not be published is left behind. Bindings go out in the slices that rest on them
    /// (decision 0024), and slices in the order of their revisions: who has seen one has seen all before it.
    fn publish_all(&mut self) -> Option<Instant> {
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

    fn publish_slice(&mut self, slice: &plan::view::EndpointSlice) -> anyhow::Result<()> {
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
        keys: &[plan::view::RequestedKey],
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
}
