//! The node daemon's loop: the world comes in, the whole wish goes to the kernel and to the engine, a report goes out.

mod admission;
mod adopt;
mod answers;
mod check;
mod keys;
mod policies;
mod refused;
mod report;
mod trace;
mod trust;
mod underlay;
mod watch;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use identity::{Epoch, JoinToken, NodeName, NodeSecret};
use plan::desired::Standing;
use plan::{ClusterView, Desired, Here, LocalAttachment, PeerName, engine_peers};
use tokio::sync::mpsc;

use crate::clock::wall;
use crate::cluster::kubernetes::ViewFile;
use crate::cluster::{Cluster, Publish, Source, api};
use crate::config::NodeConfig;
use crate::datapath::{self, Order};
use crate::install::Install;
use crate::kernel::{Kernel, MARK_OUTER, Underlay};
use crate::line_socket::Asked;
use crate::ready::ReadyFile;
use crate::store::{AttachmentStore, DirLock, FloorStore, GuardStore, NodeFiles, RecentPairStore, Tombstones};

pub(crate) use self::admission::stopping;
use self::admission::{Attached, WaitingAdd};
use self::adopt::Outside;
use self::keys::Keys;
use self::policies::PolicyState;
use self::refused::Refused;
use self::trace::Trace;
use self::trust::Trust;
use self::underlay::Following;

/// How often is looked after what nobody announces: tombstones, key turns, somebody else's hands on our kernel state.
const ROUND: Duration = Duration::from_millis(500);
/// How often is asked whether somebody else changed packet filter rules.
const GLANCE: Duration = Duration::from_millis(200);
/// Questions and manifests taken in before the kernel is looked after: a burst is applied once, and not each by each.
const BURST_MAX: usize = 256;

/// File of the state folder with the node's settings as they were before Weft.
pub(crate) const SYSCTLS: &str = "sysctls";

/// Everything the node daemon knows.
pub(crate) struct Node {
    config: NodeConfig,
    uid: String,
    /// Secrets of this node, and where they are.
    files: NodeFiles,
    token: Option<JoinToken>,
    view: ClusterView,
    /// Counts the view's changes.
    view_number: u64,
    policies: PolicyState,
    refused: Refused,
    trace: Option<Trace>,
    raw_nodes: BTreeMap<NodeName, Box<api::MeshNode>>,
    raw_slices: BTreeMap<NodeName, api::MeshEndpointSlice>,
    trust: Trust,
    keys: Keys,
    attachments: AttachmentStore<Attached>,
    patient: BTreeMap<(String, String), bool>,
    tombstones: Tombstones,
    recent: RecentPairStore,
    guard: GuardStore,
    kernel: Kernel,
    underlay: Underlay,
    following: Following,
    data: datapath::Handle,
    publisher: Box<dyn Publish>,
    install: Option<Install>,
    /// Present until the start-up taint is being taken off.
    taint: Option<Cluster>,
    desired: Option<Desired>,
    /// What that follows from: number of the view's changes, and what is known beside it.
    follows_from: Option<(u64, Here)>,
    /// What the view says of it ([`ClusterView::is_anybody_waited_for`]), which asks every endpoint of the cluster.
    is_anybody_waited_for: bool,
    observed_revision: u64,
    published: Option<api::MeshNodeSpec>,
    published_at: Instant,
    sequence: u64,
    waiting: Vec<WaitingAdd>,
    started: Instant,
    trouble: BTreeMap<&'static str, String>,
    greeted: bool,
    /// Present where a runtime that uses libcni runs the pods.
    adopts: bool,
    outside: Outside,
    ready: ReadyFile,
}

/// What the loop listens to.
pub(crate) struct Inputs {
    pub(crate) source: Source,
    pub(crate) cni: mpsc::Receiver<Asked>,
    pub(crate) admin: mpsc::Receiver<Asked>,
    pub(crate) data: mpsc::Receiver<datapath::Event>,
}

/// What the data path is made with.
fn data_path(config: &NodeConfig, mesh_mtu: u32) -> datapath::Config {
    datapath::Config {
        tun: config.tun.clone(),
        port: config.listen_port,
        mark: MARK_OUTER,
        mtu: usize::try_from(mesh_mtu).unwrap_or(usize::MAX),
        offload: !config.no_offload,
        class: config.dscp,
        probes: true,
        threads: config.data_threads,
    }
}

impl Node {
    /// Opens everything that outlives the daemon, starts the data thread, and makes the kernel ready. What can be
    /// missing was looked at before ([`crate::start::await_turn`]).
    pub(crate) async fn open(
        config: NodeConfig,
        cluster: &Cluster,
        lock: &DirLock,
        ready: ReadyFile,
    ) -> anyhow::Result<(Self, mpsc::Receiver<datapath::Event>)> {
        let files = NodeFiles::open(&config.state_dir, &config.node, lock)?;
        let token = if cluster.attests_nodes() { None } else { join_token(&config, &files)? };
        let pinned = files.pinned_root()?;
        let period = config.shared.rotation_period;
        let least = Epoch::at(wall(), period).previous();
        let (floor, lost_floor) = FloorStore::open(files.dir(), &files.uid, least);
        let (attachments, lost) = AttachmentStore::open(files.dir(), &files.uid)?;
        let (recent, lost_pairs) = RecentPairStore::open(files.dir(), &files.uid);
        let (guard, lost_guard) = GuardStore::open(files.dir(), &files.uid);
        for error in lost.iter().chain(&lost_floor).chain(&lost_pairs).chain(&lost_guard) {
            tracing::warn!(%error, "A state file cannot be believed");
        }
        let tombstones = Tombstones::open(&files.dir().join("tombstones"))?;
        let mut kernel = Kernel::open(&config.tun, config.flows_per_pod)?;
        kernel.remember_sysctls_in(files.dir().join(SYSCTLS));
        // before anything that can take long or fail (decision 0022)
        if kernel.guard(guard.ranges()).await? {
            tracing::info!(ranges = ?guard.ranges(), "The kernel knows nothing of the mesh: pods are cut off until it does");
        }
        let underlay = kernel.underlay(config.underlay_link.as_deref()).await?;
        let (data, events) = datapath::spawn(&data_path(&config, underlay.mesh_mtu))?;
        kernel.prepare(underlay.mtu).await?;
        let (uid, secret) = (files.uid.clone(), NodeSecret::from_bytes(*files.secret.expose()));
        let node = Self {
            keys: Keys::new(secret, uid.clone(), period, config.data_cipher),
            trust: Trust::new(pinned, floor),
            publisher: cluster.publisher("weft-node"),
            install: config.install.places(&config.state_dir, &config.run_dir).map(Install::new),
            taint: config.startup_taint.then(|| cluster.clone()),
            view: ClusterView::default(),
            view_number: 0,
            policies: PolicyState::default(),
            refused: Refused::default(),
            trace: None,
            raw_nodes: BTreeMap::new(),
            raw_slices: BTreeMap::new(),
            patient: BTreeMap::new(),
            desired: None,
            follows_from: None,
            is_anybody_waited_for: false,
            observed_revision: 0,
            published: None,
            published_at: Instant::now(),
            sequence: 0,
            waiting: Vec::new(),
            started: Instant::now(),
            trouble: BTreeMap::new(),
            greeted: false,
            adopts: cluster.attests_nodes(),
            outside: Outside::default(),
            ready,
            config,
            uid,
            files,
            token,
            attachments,
            tombstones,
            recent,
            guard,
            kernel,
            underlay,
            following: Following::new(Instant::now()),
            data,
        };
        Ok((node, events))
    }

    /// Where the last known view of an API server is kept.
    pub(crate) fn view_file(&self) -> ViewFile {
        ViewFile::new(self.files.dir(), &self.uid, self.trust.root())
    }

    /// Runs until `stop` is done. Nothing is taken away at the end: workloads stay attached and protected.
    pub(crate) async fn run(&mut self, mut inputs: Inputs, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        tokio::pin!(stop);
        let mut round = tokio::time::interval(ROUND);
        round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut glance = tokio::time::interval(GLANCE);
        glance.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut admin = Vec::new();
        loop {
            tokio::select! {
                () = &mut stop => return Ok(()),
                event = inputs.source.events.recv() => {
                    self.take_event(event.context("the cluster is not watched any more")?);
                }
                Some(asked) = inputs.cni.recv() => self.take_cni(asked).await,
                Some(asked) = inputs.admin.recv() => admin.push(asked),
                Some(event) = inputs.data.recv() => self.take_data(event).await,
                () = self.kernel.news() => self.follow_underlay(true).await,
                _ = round.tick() => self.go_round().await,
                _ = glance.tick() => {
                    if !self.kernel.is_disturbed() {
                        continue;
                    }
                    self.put_back().await;
                }
            }
            for _ in 0..BURST_MAX {
                if let Ok(event) = inputs.source.events.try_recv() {
                    self.take_event(event);
                } else if let Ok(asked) = inputs.cni.try_recv() {
                    self.take_cni(asked).await;
                } else if let Ok(event) = inputs.data.try_recv() {
                    self.take_data(event).await;
                } else {
                    break;
                }
            }
            self.settle_waiting().await;
            self.reconcile().await;
            self.say_ready();
            for asked in admin.drain(..) {
                self.answer_admin(asked, &inputs.source).await;
            }
        }
    }

    /// Computes the whole wish, makes it so where it changed, and reports.
    async fn reconcile(&mut self) {
        self.trust.remember_keys(wall());
        let Some(mut here) = self.here() else { return self.answer_waiting() };
        if !self.view.is_synced() {
            return self.answer_waiting();
        }
        if self.follow_patience(&here) {
            here = self.here().unwrap_or(here);
        }
        let from = (self.view_number, here);
        let before = self.desired.take();
        // most rounds nothing is new, and a large cluster's wish takes long to compute
        let same = before.is_some() && self.follows_from.as_ref() == Some(&from);
        let (desired, before) = match before {
            Some(desired) if same => (desired, None),
            before => (Desired::of(&self.view, &from.1), before),
        };
        if !same {
            self.is_anybody_waited_for = self.view.is_anybody_waited_for();
        }
        let bound = self.trust.bound(&self.config.node, wall());
        let keys_changed = self.keys.follow(&desired, bound, wall());
        if keys_changed || !(same || before.as_ref().is_some_and(|b| b.locals == desired.locals)) {
            self.tell_data(Order::SetLocals(self.keys.engine_locals(&desired)));
        }
        if !(same || before.as_ref().is_some_and(|b| b.peers == desired.peers)) {
            self.tell_data(Order::SetPeers(engine_peers(&desired)));
        }
        let kernel_same = same || {
            let members = plan::policies::members(&desired.filter);
            let rules_changed = self.policies.follow(&self.view, self.view_number, &from.1, members);
            !rules_changed && before.is_some_and(|b| b.filter == desired.filter && b.routes == desired.routes)
        };
        if !kernel_same || self.trouble.contains_key("kernel") {
            match self.kernel.apply(&desired, self.policies.program()).await {
                Ok(_) => drop(self.trouble.remove("kernel")),
                Err(error) => self.note_trouble("kernel", &error),
            }
        }
        let applied = !self.trouble.contains_key("kernel");
        if let Err(error) = self.guard.write(&desired.filter.own_ranges) {
            self.note_trouble("state folder", &error.into());
        }
        (self.desired, self.follows_from) = (Some(desired), Some(from));
        if applied {
            self.observed_revision = self.view.revision();
        }
        self.publish_report();
        self.answer_waiting();
        self.greet_once();
    }

    /// What this node knows beside the cluster; `None` until its trust domain is known.
    fn here(&self) -> Option<Here> {
        let mut attachments: Vec<_> = self.attachments.records().iter().collect();
        attachments.sort_by_key(|(_, attached)| attached.order);
        let local = |(key, attached): &(&(String, String), &Attached)| LocalAttachment {
            pod: self.pod_of(attached),
            link: attached.link.clone(),
            mac: attached.mac,
            ips: attached.ips.clone(),
            patient: self.patient.get(*key).copied().unwrap_or(false),
        };
        Some(Here {
            node: self.config.node.clone(),
            trust_domain: self.trust.trust_domain()?.clone(),
            root_namespace: self.config.shared.root_namespace.clone(),
            addresses: self.underlay.addresses.clone(),
            attachments: attachments.iter().map(local).collect(),
            keys: self.trust.keys(wall()),
        })
    }

    /// Follows how far each workload is, so that one that was reachable in clear text goes in after its senders; true when
    /// that changed for one.
    fn follow_patience(&mut self, here: &Here) -> bool {
        let mut changed = false;
        let mut keys: Vec<_> = self.attachments.records().iter().map(|(k, a)| (a.order, k.clone())).collect();
        keys.sort();
        for ((_, key), attachment) in keys.into_iter().zip(&here.attachments) {
            let is_patient = Standing::of(&self.view, here, attachment).is_patient_after();
            changed |= self.patient.insert(key, is_patient).unwrap_or(false) != is_patient;
        }
        let records = self.attachments.records();
        self.patient.retain(|key, _| records.contains_key(key));
        changed
    }

    /// After a restart, shakes hands again with whoever this node talked to, so that nobody waits for a packet.
    fn greet_once(&mut self) {
        let Some(desired) = &self.desired else { return };
        if self.greeted || desired.peers.values().all(|peer| peer.keys.is_empty()) {
            return;
        }
        self.greeted = true;
        let known = self.recent.pairs().iter().map(|pair| {
            let peer = PeerName { node: pair.node.clone(), identity: pair.remote.clone() };
            (pair.local.clone(), peer)
        });
        let pairs: Vec<_> = known
            .filter(|(local, peer)| desired.locals.contains_key(local) && desired.peers.contains_key(peer))
            .collect();
        for (local, peer) in pairs {
            self.tell_data(Order::Greet { local, peer });
        }
    }

    fn tell_data(&mut self, order: Order) {
        if let Err(error) = self.data.send(order) {
            self.note_trouble("datapath", &error);
        }
    }

    fn note_trouble(&mut self, what: &'static str, error: &anyhow::Error) {
        let text = format!("{error:#}");
        if self.trouble.get(what) != Some(&text) {
            tracing::error!(what, error = %text, "Something is wrong and is tried again");
        }
        self.trouble.insert(what, text);
    }
}

/// Reads the join token, and pins the root that it names; a node that has joined needs none.
fn join_token(config: &NodeConfig, files: &NodeFiles) -> anyhow::Result<Option<JoinToken>> {
    let read = |path: &std::path::Path| -> anyhow::Result<JoinToken> {
        let text = std::fs::read_to_string(path).with_context(|| {
            format!("cannot read the join token {}: make one with `meshctl node token`", path.display())
        })?;
        Ok(text.trim().parse::<JoinToken>()?)
    };
    let joined = files.pinned_root()?.is_some();
    let token = match &config.join_token_file {
        Some(path) if path.exists() || !joined => Some(read(path)?),
        None if !joined => anyhow::bail!(
            "this node has not joined: name the file with the token of `meshctl node token {}` by --join-token-file",
            config.node
        ),
        _ => None,
    };
    if let Some(token) = &token {
        files.pin_root(token.root())?;
    }
    Ok(token)
}
