//! The controller: signs bindings and says which address belongs to whom.

mod answers;
mod believed;
pub(crate) mod ca;
mod enforced;
pub(crate) mod issuer;
mod issuing;
mod outside;
mod publishing;
mod registry;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use identity::NodeName;
use plan::view::{Event as ViewEvent, Object};
use plan::{Assigner, ClusterView};
use tokio::sync::mpsc;

use self::enforced::Enforced;
use self::issuer::Issuer;
use self::issuing::Issued;
use self::outside::Outside;
use self::registry::{Claim, Registry};
use crate::clock::wall;
use crate::cluster::{Event, Lead, Manifest, Publish, Source, api};
use crate::line_socket::Asked;
use crate::pace::{GATHER, Pace, await_due};
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
    /// When it is to follow from what may wait.
    pace: Pace,
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
            pace: Pace::default(),
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
                () = await_due(Some(self.pace.poll_timeout().map_or(due, |pace| pace.min(due)))) => {}
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
            let now = Instant::now();
            if self.behind || now >= due || self.pace.poll_timeout().is_some_and(|due| now >= due) {
                self.behind = false;
                self.pace = Pace::default();
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
        let is_pod = matches!(&event, ViewEvent::Apply(Object::Pod(_)))
            || matches!(&event, ViewEvent::Delete(key) if key.kind == "Pod");
        match self.view.handle(event) {
            // an address is published once its node reports it, and that does not wait
            Ok(true) if is_pod => self.pace.hear(GATHER, Instant::now()),
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
}
