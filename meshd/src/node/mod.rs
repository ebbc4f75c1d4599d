//! The node daemon's loop: the world comes in, the whole wish goes to the kernel and to the engine, a report goes out.

mod admission;
mod adopt;
mod answers;
mod check;
mod departed;
mod keys;
mod known;
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
use plan::{ClusterView, Desired, PeerName, engine_peers};
use tokio::sync::mpsc;

use crate::clock::wall;
use crate::cluster::kubernetes::ViewFile;
use crate::cluster::{Cluster, Publish, Source, api};
use crate::config::NodeConfig;
use crate::datapath::{self, Order};
use crate::install::Install;
use crate::kernel::{Kernel, MARK_OUTER, Underlay};
use crate::line_socket::Asked;
use crate::pace::{Pace, await_due};
use crate::ready::ReadyFile;
use crate::store::{AttachmentStore, DirLock, FloorStore, GuardStore, NodeFiles, RecentPairStore, Tombstones};

pub(crate) use self::admission::stopping;
use self::admission::{Attached, WaitingAdd};
use self::adopt::Outside;
use self::departed::Departed;
use self::keys::Keys;
use self::known::Known;
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
    /// What that follows from.
    follows_from: Option<Known>,
    /// When it is looked at again.
    pace: Pace,
    /// The report is looked at although nothing of the wish changed.
    is_report_due: bool,
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
    departed: Departed,
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
            pace: Pace::default(),
            is_report_due: false,
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
            departed: Departed::default(),
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
                Some(asked) = inputs.admin.recv() => {
                    admin.push(asked);
                    self.hear();
                }
                Some(event) = inputs.data.recv() => self.take_data(event).await,
                () = self.kernel.news() => {
                    self.follow_underlay(true).await;
                    self.hear();
                }
                () = await_due(self.pace.poll_timeout()) => {}
                _ = round.tick() => self.go_round().await,
                _ = glance.tick() => {
                    if !self.kernel.is_disturbed() {
                        continue;
                    }
                    self.put_back().await;
                    self.hear();
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
            if !self.pace.take_due(Instant::now()) {
                continue;
            }
            self.reconcile().await;
            self.say_ready();
            for asked in admin.drain(..) {
                self.answer_admin(asked, &inputs.source).await;
            }
        }
    }

    /// Something was heard that does not wait.
    fn hear(&mut self) {
        self.pace.hear(Duration::ZERO, Instant::now());
    }

    /// Computes the whole wish where something changed, makes it so, and reports.
    async fn reconcile(&mut self) {
        self.trust.remember_keys(wall());
        let known = self.known();
        if known.trust_domain.is_none() || !self.view.is_synced() {
            return self.answer_waiting();
        }
        // most rounds nothing is new, and a large cluster's wish takes long to compute
        let (desired, here, before) = match self.desired.take() {
            Some(desired) if self.follows_from.as_ref() == Some(&known) => (desired, None, None),
            before => {
                let Some(here) = self.here_followed() else { return self.answer_waiting() };
                (Desired::of(&self.view, &here), Some(here), before)
            }
        };
        let same = here.is_none();
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
        let kernel_same = here.is_none_or(|here| {
            let members = plan::policies::members(&desired.filter);
            let rules_changed = self.policies.follow(&self.view, self.view_number, &here, members);
            !rules_changed && before.is_some_and(|b| b.filter == desired.filter && b.routes == desired.routes)
        });
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
        (self.desired, self.follows_from) = (Some(desired), Some(known));
        if applied {
            self.observed_revision = self.view.revision();
        }
        // a pod waits for its answer, and for the report nobody here does
        self.answer_waiting();
        if std::mem::take(&mut self.is_report_due) || !same || keys_changed {
            self.publish_report();
        }
        self.greet_once();
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
