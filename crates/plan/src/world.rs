//! A small cluster for tests: a controller and nodes that read one log, each as far as it has come.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use identity::{Epoch, NodeName, SpiffeId, Suite, UnixTime};
use policy::{Labels, Mode, PeerAuthentication};

use crate::assign::{Assigner, Assignments};
use crate::desired::{BoundKey, BoundKeys, Desired, Here, LocalAttachment, PeerName, Standing};
use crate::path::{Fate, Origin, Packet, Ports, Site, follow};
use crate::view::{
    ClusterView, Event, MeshNode, Namespace, Node, Object, ObjectKey, Pod, ReportedAttachment, RequestedKey,
};

pub(crate) const ROOT: &str = "weft-system";

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn node(name: &str) -> NodeName {
    NodeName(name.to_owned())
}

pub(crate) fn spiffe(account: &str) -> SpiffeId {
    format!("spiffe://td/ns/shop/sa/{account}").parse().unwrap()
}

pub(crate) fn mesh_label(value: &str) -> Labels {
    BTreeMap::from([("weft.dev/mesh".to_owned(), value.to_owned())])
}

/// Pod `name` of namespace `shop`, service account as its name, scheduled on `on`.
pub(crate) fn pod(name: &str, on: &str) -> Pod {
    Pod {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
        node: Some(node(on)),
        service_account: name.to_owned(),
        host_network: false,
        finished: false,
        ips: BTreeSet::new(),
        ports: BTreeSet::new(),
    }
}

pub(crate) fn namespace(mesh: &str) -> Object {
    Object::Namespace(Namespace { name: "shop".to_owned(), labels: mesh_label(mesh) })
}

pub(crate) fn range(name: &str, cidr: &str, address: &str) -> Object {
    Object::Node(Node {
        labels: Labels::new(),
        name: node(name),
        uid: format!("uid-{name}"),
        pod_cidrs: vec![cidr.parse().unwrap()],
        addresses: vec![address.parse().unwrap()],
    })
}

/// A policy for all of `shop`, or for the pods of one app.
pub(crate) fn policy(app: Option<&str>, mode: Option<Mode>) -> PeerAuthentication {
    let selector = app.map(|app| policy::Selector {
        match_labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
        ..policy::Selector::default()
    });
    let name = app.unwrap_or("default").to_owned();
    let (namespace, ports) = ("shop".to_owned(), BTreeMap::new());
    PeerAuthentication { namespace, name, created: 1, selector, mode, ports, outbound: None }
}

pub(crate) fn mesh_node(name: &str) -> MeshNode {
    MeshNode {
        name: node(name),
        uid: format!("uid-{name}"),
        endpoints: vec![],
        addresses: BTreeSet::new(),
        keys: vec![],
        attachments: vec![],
        observed_revision: 0,
    }
}

/// A key that no other (node, identity) has.
pub(crate) fn key(on: &str, identity: SpiffeId) -> RequestedKey {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    (on, &identity).hash(&mut hasher);
    let mut public_key = [1; 32];
    public_key[..8].copy_from_slice(&hasher.finish().to_le_bytes());
    RequestedKey { identity, epoch: Epoch(7), public_key, svid_key: [2; 32], suite: Suite::default() }
}

/// What a binding says of a key.
pub(crate) fn bound(public_key: [u8; 32]) -> BoundKey {
    BoundKey { public_key, suite: Suite::default() }
}

#[expect(clippy::disallowed_methods, reason = "tests need some instant to begin with")]
pub(crate) fn some_instant() -> Instant {
    Instant::now()
}

#[derive(Clone)]
enum Entry {
    Event(Event),
    /// Bindings, as everybody verifies them for himself.
    Keys(Arc<BoundKeys>),
}

pub(crate) struct TestNode {
    pub(crate) view: ClusterView,
    pub(crate) here: Here,
    pub(crate) desired: Desired,
    read: usize,
    reported: Option<MeshNode>,
}

/// Everybody reads the log at his own pace; whatever anybody says is appended to it.
pub(crate) struct Cluster {
    log: Vec<Entry>,
    pub(crate) nodes: BTreeMap<NodeName, TestNode>,
    pub(crate) view: ClusterView,
    read: usize,
    pub(crate) assigner: Assigner,
    pub(crate) revoked: BTreeSet<SpiffeId>,
    pub(crate) now: Instant,
    published: Assignments,
}

impl Cluster {
    /// Nodes `n1`, `n2`, ... with ranges `10.<i>.0.0/16` and addresses `192.0.2.<i>`, and nothing else.
    pub(crate) fn new(count: usize) -> Self {
        let assigner = Assigner::new("td".parse().unwrap(), ROOT.to_owned(), BTreeMap::new(), UnixTime(1));
        let mut cluster = Self {
            log: vec![Entry::Event(Event::Init), Entry::Event(Event::InitDone)],
            nodes: BTreeMap::new(),
            view: ClusterView::default(),
            read: 0,
            assigner,
            revoked: BTreeSet::new(),
            now: some_instant(),
            published: Assignments::default(),
        };
        for index in 1..=count {
            let name = format!("n{index}");
            cluster.apply(range(&name, &format!("10.{index}.0.0/16"), &format!("192.0.2.{index}")));
            let here = Here {
                node: node(&name),
                trust_domain: "td".parse().unwrap(),
                root_namespace: ROOT.to_owned(),
                addresses: BTreeSet::from([ip(&format!("192.0.2.{index}"))]),
                attachments: vec![],
                keys: Arc::default(),
            };
            let (view, desired) = (ClusterView::default(), Desired::default());
            cluster.nodes.insert(node(&name), TestNode { view, here, desired, read: 0, reported: None });
        }
        cluster
    }

    pub(crate) fn apply(&mut self, object: Object) {
        self.log.push(Entry::Event(Event::Apply(object)));
    }

    pub(crate) fn delete(&mut self, kind: &'static str, namespace: &str, name: &str) {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        self.log.push(Entry::Event(Event::Delete(ObjectKey { kind, namespace, name })));
    }

    /// Attaches a pod as a node's ADD does: patient unless it is in the mesh by what the node knows now.
    pub(crate) fn attach(&mut self, on: &str, pod: Pod, address: &str) {
        self.apply(Object::Pod(pod.clone()));
        let mut attachment = LocalAttachment {
            link: format!("veth-{}", pod.name),
            pod: Some(pod),
            mac: [2, 0, 0, 0, 0, 1],
            ips: BTreeSet::from([ip(address)]),
            patient: false,
        };
        let node = &self.nodes[&node(on)];
        let member = Desired::membership(&node.view, &node.here, attachment.pod.as_ref().unwrap());
        attachment.patient = member.is_none();
        here_of(&mut self.nodes, on).attachments.push(attachment);
    }

    pub(crate) fn detach(&mut self, on: &str, pod: &str) {
        here_of(&mut self.nodes, on).attachments.retain(|a| a.pod.as_ref().unwrap().name != pod);
    }

    /// The controller reads up to `count` entries and publishes.
    pub(crate) fn controller_reads(&mut self, count: usize) {
        for entry in self.log[self.read..].iter().take(count) {
            if let Entry::Event(event) = entry {
                let _taken = self.view.handle(event.clone());
            }
        }
        self.read = (self.read + count).min(self.log.len());
        let Some(out) = self.assigner.handle_view(&self.view, &self.revoked, self.now) else { return };
        if out.grants != self.published.grants {
            let mut keys = BoundKeys::new();
            for (node, granted) in &out.grants {
                for key in granted {
                    let peer = PeerName { node: node.clone(), identity: key.identity.clone() };
                    let bound = BoundKey { public_key: key.public_key, suite: key.suite };
                    keys.entry(peer).or_default().insert(key.epoch, bound);
                }
            }
            self.log.push(Entry::Keys(keys.into()));
        }
        for slice in out.slices_in_order() {
            if self.published.slices.get(&slice.node) != Some(slice) {
                self.log.push(Entry::Event(Event::Apply(Object::MeshEndpointSlice(slice.clone()))));
            }
        }
        self.published = out;
    }

    /// A node reads up to `count` entries, makes itself so, and reports what is new.
    pub(crate) fn node_reads(&mut self, name: &str, count: usize) {
        let me = self.nodes.get_mut(&node(name)).unwrap();
        for entry in self.log[me.read..].iter().take(count) {
            match entry {
                Entry::Event(event) => {
                    let _taken = me.view.handle(event.clone());
                }
                Entry::Keys(keys) => me.here.keys.clone_from(keys),
            }
        }
        me.read = (me.read + count).min(self.log.len());
        let pods = &me.view.pods;
        for attachment in &mut me.here.attachments {
            let known = attachment.pod.as_ref().unwrap();
            let newest = pods.get(&(known.namespace.clone(), known.name.clone())).filter(|p| p.uid == known.uid);
            attachment.pod = Some(newest.unwrap_or(known).clone());
        }
        let patience: Vec<bool> =
            me.here.attachments.iter().map(|a| Standing::of(&me.view, &me.here, a).is_patient_after()).collect();
        for (attachment, patient) in me.here.attachments.iter_mut().zip(patience) {
            attachment.patient = patient;
        }
        me.desired = Desired::of(&me.view, &me.here);
        let report = me.report(name);
        if me.reported.as_ref() != Some(&report) {
            me.reported = Some(report.clone());
            self.log.push(Entry::Event(Event::Apply(Object::MeshNode(Box::new(report)))));
        }
    }

    /// Everybody reads everything until nothing new is said.
    pub(crate) fn settle(&mut self) {
        let names: Vec<String> = self.nodes.keys().map(ToString::to_string).collect();
        for _round in 0..40 {
            let before = self.log.len();
            self.controller_reads(usize::MAX / 2);
            names.iter().for_each(|name| self.node_reads(name, usize::MAX / 2));
            if self.log.len() == before && self.read == before {
                return;
            }
        }
        panic!("the cluster does not come to rest");
    }

    pub(crate) fn site(&self, name: &str) -> Site<'_> {
        let (node, state) = self.nodes.get_key_value(&node(name)).unwrap();
        Site { node, desired: &state.desired }
    }

    /// What becomes of a packet between two pods that are attached.
    pub(crate) fn fate(&self, from: &str, to: &str, ports: Option<Ports>, is_reply: bool) -> Fate {
        let (from_node, sender) = self.attachment(from);
        let (to_node, receiver) = self.attachment(to);
        let packet = Packet {
            source: *sender.ips.first().unwrap(),
            destination: *receiver.ips.first().unwrap(),
            ports,
            is_reply,
            origin: Origin::Link(sender.link.clone()),
        };
        follow(self.site(from_node), self.site(to_node), &packet)
    }

    fn attachment(&self, pod: &str) -> (&str, &LocalAttachment) {
        let all = self.nodes.iter().flat_map(|(name, n)| n.here.attachments.iter().map(move |a| (name.0.as_str(), a)));
        all.into_iter().find(|(_, a)| a.pod.as_ref().unwrap().name == pod).unwrap()
    }
}

fn here_of<'a>(nodes: &'a mut BTreeMap<NodeName, TestNode>, name: &str) -> &'a mut Here {
    &mut nodes.get_mut(&node(name)).unwrap().here
}

impl TestNode {
    fn report(&self, name: &str) -> MeshNode {
        let attachment = |a: &LocalAttachment| {
            let pod = a.pod.as_ref().unwrap();
            let (namespace, uid) = (pod.namespace.clone(), pod.uid.clone());
            ReportedAttachment { namespace, pod: pod.name.clone(), uid, ips: a.ips.clone() }
        };
        MeshNode {
            addresses: self.here.addresses.clone(),
            keys: self.desired.locals.keys().map(|identity| key(name, identity.clone())).collect(),
            attachments: self.here.attachments.iter().map(attachment).collect(),
            observed_revision: self.view.revision(),
            ..mesh_node(name)
        }
    }
}
