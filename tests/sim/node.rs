//! One node: the real engine, planner and identity cores, with the glue of `meshd/src/node` between them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use identity::key_ring::{Input, KeyRing};
use identity::{
    CLOCK_SKEW, Epoch, EpochFloor, NodeName, NodeSecret, SLICE_DOMAIN, SignedBinding, SpiffeId, Suite, TrustDomain,
    UnixTime, Verifier, wireguard_key,
};
use plan::view::{Event, MeshNode, Object, Pod, ReportedAttachment, RequestedKey};
use plan::{
    BoundKey, BoundKeys, ClusterView, Desired, Here, LocalAttachment, PeerName, RouteTable, RouteTarget, Standing,
    engine_peers, engine_suite,
};
use wg::{Engine, LocalConfig, LocalKey, PublicKey};

use crate::directory::{Entry, slice_bytes};

pub const ROOT_NAMESPACE: &str = "weft-system";

pub type NodeEngine = Engine<SpiffeId, PeerName>;

/// A workload attached here; written down, so that a restart finds it again.
#[derive(Clone, Debug)]
pub struct Attached {
    pub pod: Pod,
    pub ips: BTreeSet<IpAddr>,
}

/// A verified public key and until when it counts.
type Known = (BoundKey, UnixTime);

pub struct Node {
    pub name: NodeName,
    pub uid: String,
    pub at: SocketAddr,
    /// How far its wall clock is from the true one, in seconds.
    pub skew: i64,
    pub attachments: Vec<Attached>,
    /// What its kernel holds; it outlives the daemon.
    pub kernel: Desired,
    /// `None` while the daemon is down.
    pub daemon: Option<Daemon>,
    /// Where a traitor pretends that another's address is his: that identity of his, and the address.
    pub lie: Option<(SpiffeId, IpAddr)>,
    trust_domain: TrustDomain,
    verifier: Verifier,
    secret: NodeSecret,
    /// What its processor is good at.
    suite: Suite,
    period: Duration,
    pub floor: EpochFloor,
    recent: BTreeSet<(SpiffeId, PeerName)>,
}

/// What is lost when the daemon dies.
pub struct Daemon {
    pub engine: NodeEngine,
    pub view: ClusterView,
    pub desired: Option<Desired>,
    specs: BTreeMap<NodeName, MeshNode>,
    statuses: BTreeMap<NodeName, Vec<String>>,
    bindings: BTreeMap<PeerName, BTreeMap<Epoch, Known>>,
    rings: BTreeMap<SpiffeId, KeyRing>,
    public: BTreeMap<(SpiffeId, Epoch), RequestedKey>,
    patient: BTreeMap<String, bool>,
    reported: Option<MeshNode>,
    lie: Option<(SpiffeId, IpAddr)>,
    greeted: bool,
}

impl Node {
    pub fn new(
        number: u8,
        (trust_domain, verifier): (TrustDomain, Verifier),
        secret: [u8; 32],
        period: Duration,
    ) -> Self {
        let name = NodeName(format!("n{number}"));
        Self {
            uid: format!("uid-{name}"),
            name,
            at: SocketAddr::from(([192, 0, 2, number], 51840)),
            skew: 0,
            attachments: Vec::new(),
            kernel: Desired::default(),
            daemon: None,
            lie: None,
            trust_domain,
            verifier,
            secret: NodeSecret::from_bytes(secret),
            suite: if number.is_multiple_of(3) { Suite::ChaCha20Poly1305 } else { Suite::Aes256Gcm },
            period,
            floor: EpochFloor::default(),
            recent: BTreeSet::new(),
        }
    }

    pub fn wall(&self, truth: UnixTime) -> UnixTime {
        UnixTime(truth.0.saturating_add_signed(self.skew))
    }

    /// Comes up with what was written down and what the directory holds. `fraction` is of the true second.
    pub fn start(
        &mut self,
        seed: [u8; 32],
        entries: Vec<Entry>,
        truth: UnixTime,
        (fraction, now): (Duration, Instant),
    ) {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(self.wall(truth).0) + fraction;
        let mut daemon = Daemon::new(seed, wall, now);
        daemon.take(Event::Init);
        self.daemon = Some(daemon);
        entries.into_iter().for_each(|entry| self.hear(entry, truth));
        if let Some(daemon) = &mut self.daemon {
            daemon.take(Event::InitDone);
        }
    }

    /// Takes one change in; what needs proof enters the view only with it.
    pub fn hear(&mut self, entry: Entry, truth: UnixTime) {
        let wall = self.wall(truth);
        let Some(daemon) = &mut self.daemon else { return };
        let node = match entry {
            Entry::Plain(object) => return daemon.take(Event::Apply(object)),
            Entry::Gone(key) => return daemon.take(Event::Delete(key)),
            Entry::Slice(slice, signature) => {
                if self.verifier.verify(SLICE_DOMAIN, &slice_bytes(&slice), &signature).is_ok() {
                    // an old one that comes back is refused there
                    let _refused = daemon.view.handle(Event::Apply(Object::MeshEndpointSlice(slice)));
                }
                return;
            }
            Entry::Spec(spec) => {
                let name = spec.name.clone();
                daemon.specs.insert(name.clone(), *spec);
                name
            }
            Entry::Status(name, bindings) => {
                daemon.statuses.insert(name.clone(), bindings);
                name
            }
        };
        let Some(object) = daemon.specs.get(&node).cloned() else { return };
        let bindings = daemon.statuses.get(&node).cloned().unwrap_or_default();
        daemon.believe((&object, &bindings), (&self.verifier, &mut self.floor), wall);
        daemon.take(Event::Apply(Object::MeshNode(Box::new(object))));
    }

    /// ADD: refused (asked again later) while the manifest is not at hand.
    pub fn attach(&mut self, pod: &Pod, ips: &BTreeSet<IpAddr>, truth: UnixTime) -> bool {
        let here = self.here(truth);
        let Some(daemon) = &mut self.daemon else { return false };
        let known = daemon.view.pods.get(&(pod.namespace.clone(), pod.name.clone()));
        let Some(known) = known.filter(|known| known.uid == pod.uid && daemon.view.is_synced()) else { return false };
        let member = Desired::membership(&daemon.view, &here, known).is_some();
        self.attachments.push(Attached { pod: known.clone(), ips: ips.clone() });
        daemon.patient.insert(pod.uid.clone(), !member);
        true
    }

    /// DEL.
    pub fn detach(&mut self, uid: &str) {
        self.attachments.retain(|attached| attached.pod.uid != uid);
    }

    /// The whole wish, and what changed of it to kernel and engine; what is new to report.
    pub fn reconcile(&mut self, truth: UnixTime, now: Instant) -> Option<Entry> {
        let wall = self.wall(truth);
        if !self.daemon.as_ref()?.view.is_synced() {
            return None;
        }
        let here = self.here(truth);
        let daemon = self.daemon.as_mut()?;
        for attachment in &here.attachments {
            if let Some(pod) = &attachment.pod {
                let patient = Standing::of(&daemon.view, &here, attachment).is_patient_after();
                daemon.patient.insert(pod.uid.clone(), patient);
            }
        }
        let attached: BTreeSet<&str> = self.attachments.iter().map(|attached| attached.pod.uid.as_str()).collect();
        daemon.patient.retain(|uid, _| attached.contains(uid.as_str()));
        let here = self.here(truth);
        let daemon = self.daemon.as_mut()?;
        let desired = Desired::of(&daemon.view, &here);
        let keys_changed =
            daemon.follow_keys(&desired, (&self.name, &self.uid, &self.secret, self.suite), self.period, wall);
        let before = daemon.desired.take();
        let lie_changed = daemon.lie != self.lie;
        if keys_changed || lie_changed || before.as_ref().is_none_or(|b| b.locals != desired.locals) {
            daemon.lie.clone_from(&self.lie);
            let locals = daemon.engine_locals(&desired, (&self.uid, &self.secret, self.suite));
            daemon.engine.set_locals(locals, now);
        }
        if before.as_ref().is_none_or(|b| b.peers != desired.peers) {
            daemon.engine.set_peers(engine_peers(&desired), now);
        }
        self.kernel = desired.clone();
        daemon.desired = Some(desired);
        self.greet_once(now);
        self.report()
    }

    /// What nobody announces: who talks to whom is written down, and old floors are forgotten.
    pub fn go_round(&mut self, truth: UnixTime, now: Instant) {
        self.floor.forget_ended(self.wall(truth));
        let Some(daemon) = self.daemon.as_ref().filter(|daemon| daemon.greeted) else { return };
        self.recent = daemon.engine.recent_pairs(now).map(|(local, peer)| (local.clone(), peer.clone())).collect();
    }

    fn greet_once(&mut self, now: Instant) {
        let Some(daemon) = &mut self.daemon else { return };
        let Some(desired) = &daemon.desired else { return };
        if daemon.greeted || desired.peers.values().all(|peer| peer.keys.is_empty()) {
            return;
        }
        daemon.greeted = true;
        for (local, peer) in &self.recent {
            if desired.locals.contains_key(local) && desired.peers.contains_key(peer) {
                // a peer without keys yet is met by its first packet
                let _refused = daemon.engine.greet(local, peer, now);
            }
        }
    }

    pub fn link(uid: &str) -> String {
        format!("veth-{uid}")
    }

    fn here(&self, truth: UnixTime) -> Here {
        let wall = self.wall(truth);
        let newest = |attached: &Attached| {
            let record = &attached.pod;
            let pods = self.daemon.as_ref().map(|daemon| &daemon.view.pods);
            let known = pods.and_then(|pods| pods.get(&(record.namespace.clone(), record.name.clone())));
            known.filter(|pod| pod.uid == record.uid).unwrap_or(record).clone()
        };
        let local = |attached: &Attached| LocalAttachment {
            pod: Some(newest(attached)),
            link: Self::link(&attached.pod.uid),
            mac: [2, 0, 0, 0, 0, 1],
            ips: attached.ips.clone(),
            patient: self.daemon.as_ref().and_then(|d| d.patient.get(&attached.pod.uid)).copied().unwrap_or(false),
        };
        Here {
            node: self.name.clone(),
            trust_domain: self.trust_domain.clone(),
            root_namespace: ROOT_NAMESPACE.to_owned(),
            addresses: BTreeSet::from([self.at.ip()]),
            attachments: self.attachments.iter().map(local).collect(),
            keys: self.daemon.as_ref().map(|daemon| daemon.keys(wall)).unwrap_or_default().into(),
        }
    }

    fn report(&mut self) -> Option<Entry> {
        let daemon = self.daemon.as_mut()?;
        let attachment = |attached: &Attached| ReportedAttachment {
            namespace: attached.pod.namespace.clone(),
            pod: attached.pod.name.clone(),
            uid: attached.pod.uid.clone(),
            ips: attached.ips.clone(),
        };
        let report = MeshNode {
            name: self.name.clone(),
            uid: self.uid.clone(),
            endpoints: vec![self.at],
            addresses: BTreeSet::from([self.at.ip()]),
            keys: daemon.public.values().cloned().collect(),
            attachments: self.attachments.iter().map(attachment).collect(),
            observed_revision: daemon.view.revision(),
        };
        let is_same = daemon.reported.as_ref().is_some_and(|reported| {
            let observed =
                if daemon.view.is_anybody_waited_for() { report.observed_revision } else { reported.observed_revision };
            *reported == MeshNode { observed_revision: observed, ..report.clone() }
        });
        if is_same {
            return None;
        }
        daemon.reported = Some(report.clone());
        Some(Entry::Spec(Box::new(report)))
    }

    /// Whether a packet of this attached workload goes into the tunnel: marked by its pin, and led there by a route.
    pub fn leads_into_mesh(&self, uid: &str, source: IpAddr, destination: IpAddr) -> bool {
        let pin = self.kernel.filter.pins.get(&Self::link(uid));
        if !pin.is_some_and(|pin| pin.enrolled && pin.addresses.contains(&source)) {
            return false;
        }
        let longest = |table: RouteTable| {
            let routes = self.kernel.routes.iter().filter(|r| r.table == table && r.prefix.contains(&destination));
            routes.max_by_key(|route| route.prefix.prefix_len()).map(|route| route.target)
        };
        [RouteTable::Pods, RouteTable::Nodes].into_iter().any(|table| longest(table) == Some(RouteTarget::Mesh))
    }
}

impl Daemon {
    fn new(seed: [u8; 32], wall: SystemTime, now: Instant) -> Self {
        Self {
            engine: Engine::new(seed, wall, now),
            view: ClusterView::default(),
            desired: None,
            specs: BTreeMap::new(),
            statuses: BTreeMap::new(),
            bindings: BTreeMap::new(),
            rings: BTreeMap::new(),
            public: BTreeMap::new(),
            patient: BTreeMap::new(),
            reported: None,
            lie: None,
            greeted: false,
        }
    }

    fn take(&mut self, event: Event) {
        self.view.handle(event).unwrap();
    }

    /// Replaces what is known of one node's keys by what the controller says now, each binding verified.
    fn believe(
        &mut self,
        (node, bindings): (&MeshNode, &[String]),
        (verifier, floor): (&Verifier, &mut EpochFloor),
        wall: UnixTime,
    ) {
        self.bindings.retain(|peer, _| peer.node != node.name);
        for text in bindings {
            let signed = SignedBinding::decode(text).unwrap();
            let believed = verifier.verify_binding_of((&node.name, &node.uid), &signed, wall, CLOCK_SKEW);
            if believed.is_err() || floor.admit(&signed.binding, wall).is_err() {
                continue;
            }
            let binding = signed.binding;
            let peer = PeerName { node: binding.node, identity: binding.spiffe_id };
            let bound = BoundKey { public_key: binding.public_key, suite: binding.suite };
            let known = (bound, binding.not_after);
            self.bindings.entry(peer).or_default().insert(binding.epoch, known);
        }
    }

    fn keys(&self, wall: UnixTime) -> BoundKeys {
        let standing = |epochs: &BTreeMap<Epoch, Known>| -> BTreeMap<Epoch, BoundKey> {
            epochs.iter().filter(|(_, known)| known.1 >= wall).map(|(epoch, known)| (*epoch, known.0)).collect()
        };
        let all = self.bindings.iter().map(|(peer, epochs)| (peer.clone(), standing(epochs)));
        all.filter(|(_, epochs)| !epochs.is_empty()).collect()
    }

    fn follow_keys(
        &mut self,
        desired: &Desired,
        (name, uid, secret, suite): (&NodeName, &str, &NodeSecret, Suite),
        period: Duration,
        wall: UnixTime,
    ) -> bool {
        let before: Vec<_> = self.public.keys().cloned().collect();
        let mut bound: BTreeMap<SpiffeId, BTreeSet<Epoch>> = BTreeMap::new();
        for (peer, epochs) in self.keys(wall).into_iter().filter(|(peer, _)| peer.node == *name) {
            bound.insert(peer.identity, epochs.into_keys().collect());
        }
        self.rings.retain(|identity, _| desired.locals.contains_key(identity));
        for identity in desired.locals.keys() {
            let ring = self.rings.entry(identity.clone()).or_insert_with(|| KeyRing::new(period).unwrap());
            ring.handle(Input::Bound(bound.get(identity).cloned().unwrap_or_default()), wall);
            ring.handle(Input::Tick, wall);
        }
        let rings = self.rings.iter();
        let held: BTreeSet<_> =
            rings.flat_map(|(id, ring)| ring.held().iter().map(move |epoch| (id.clone(), *epoch))).collect();
        self.public.retain(|key, _| held.contains(key));
        for (identity, epoch) in held {
            self.public.entry((identity.clone(), epoch)).or_insert_with(|| {
                let public_key = PublicKey::from(&wireguard_key(secret, &identity, uid, epoch, suite)).to_bytes();
                RequestedKey { identity, epoch, public_key, svid_key: [0; 32], suite }
            });
        }
        !before.iter().eq(self.public.keys())
    }

    fn engine_locals(
        &self,
        desired: &Desired,
        (uid, secret, suite): (&str, &NodeSecret, Suite),
    ) -> BTreeMap<SpiffeId, LocalConfig> {
        let keys = |identity: &SpiffeId| {
            let epochs = self.public.keys().filter(|(id, _)| id == identity).map(|(_, epoch)| *epoch);
            epochs
                .map(|e| LocalKey {
                    epoch: e.0,
                    secret: wireguard_key(secret, identity, uid, e, suite),
                    suite: engine_suite(suite),
                })
                .collect()
        };
        let config = |(id, local): (&SpiffeId, &plan::LocalIdentity)| {
            let mut addresses = local.addresses.clone();
            addresses.extend(self.lie.iter().filter(|(liar, _)| liar == id).map(|(_, ip)| *ip));
            (id.clone(), LocalConfig { keys: keys(id), addresses })
        };
        desired.locals.iter().map(config).collect()
    }
}
