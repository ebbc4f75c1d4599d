//! Workloads, their kubelets, and what they send.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use identity::SpiffeId;
use plan::path::{Origin, Packet, Ports, Site};
use plan::view::{Namespace, Node as NodeObject, Object, ObjectKey, Pod};
use plan::{Cause, Fate, PeerName, follow};

use crate::checks::Sent;
use crate::directory::Entry;
use crate::node::Node;
use crate::payload;
use crate::world::{Happening, World};

/// Service accounts; pods of one share an identity.
const ACCOUNTS: [&str; 4] = ["cart", "front", "pay", "log"];
const LABEL: &str = "weft.dev/mesh";

/// A workload as the cluster wants it.
#[derive(Clone)]
pub struct Workload {
    pub pod: Pod,
    /// One address of each family.
    pub ips: [IpAddr; 2],
    pub node: usize,
    pub attached: bool,
    /// It is in the mesh from its birth on, and nobody changes that.
    pub born_in: bool,
}

impl World {
    pub fn make_cluster(&mut self) {
        for (name, value) in [("shop", "enabled"), ("misc", "disabled")] {
            let labels = BTreeMap::from([(LABEL.to_owned(), value.to_owned())]);
            self.put(Entry::Plain(Object::Namespace(Namespace { name: name.to_owned(), labels })));
        }
        for index in 0..self.nodes.len() {
            let own = [format!("10.{}.0.0/16", index + 1), format!("fd00:{}::/32", index + 1)];
            // a range from which an address can move to another node
            let shared = ["10.250.0.0/16".to_owned(), "fd00:250::/32".to_owned()];
            let pod_cidrs = own.iter().chain(&shared).map(|range| range.parse().unwrap()).collect();
            let (name, addresses) = (self.nodes[index].name.clone(), vec![self.ip_of(index)]);
            self.put(Entry::Plain(Object::Node(NodeObject {
                name,
                uid: String::new(),
                pod_cidrs,
                addresses,
                labels: BTreeMap::new(),
            })));
        }
    }

    pub fn identity_of(&self, pod: &Pod) -> SpiffeId {
        SpiffeId::for_service_account(&self.trust_domain, &pod.namespace, &pod.service_account).unwrap()
    }

    /// A new pod, with these addresses or with new ones.
    pub fn birth(&mut self, node: usize, namespace: &str, ips: Option<[IpAddr; 2]>) {
        self.ids += 1;
        let (id, account) = (self.ids, *self.dice.pick(&ACCOUNTS).unwrap());
        // a name may come back, a UID never
        let name = format!("{account}-{}", id % 40);
        if self.workloads.iter().any(|other| other.pod.namespace == namespace && other.pod.name == name) {
            return;
        }
        let ips = ips.unwrap_or_else(|| {
            let net = if self.dice.percent(50) { 250 } else { node + 1 };
            let [high, low] = u16::try_from(id).unwrap().to_be_bytes();
            let v4 = IpAddr::from([10, u8::try_from(net).unwrap(), high, low + 1]);
            [v4, format!("fd00:{net}::{id:x}").parse().unwrap()]
        });
        let pod = Pod {
            namespace: namespace.to_owned(),
            name,
            uid: format!("pod-{id}"),
            labels: BTreeMap::new(),
            node: Some(self.nodes[node].name.clone()),
            service_account: account.to_owned(),
            host_network: false,
            finished: false,
            ips: BTreeSet::new(),
            ports: BTreeSet::new(),
        };
        self.put(Entry::Plain(Object::Pod(pod.clone())));
        self.workloads.push(Workload { pod, ips, node, attached: false, born_in: namespace == "shop" });
    }

    /// DEL and the end of the manifest, in either order.
    pub fn death(&mut self, which: usize) -> Workload {
        let workload = self.workloads.swap_remove(which);
        let pod = &workload.pod;
        let (namespace, name) = (pod.namespace.clone(), pod.name.clone());
        let gone = Entry::Gone(ObjectKey { kind: "Pod", namespace, name });
        let first = self.dice.percent(50);
        if first {
            self.put(gone.clone());
        }
        self.nodes[workload.node].detach(&pod.uid);
        self.reconcile(workload.node);
        if !first {
            self.put(gone);
        }
        workload
    }

    /// Changes a pod's own label.
    pub fn label(&mut self, which: usize, value: &str) {
        let workload = &mut self.workloads[which];
        workload.pod.labels.insert(LABEL.to_owned(), value.to_owned());
        workload.born_in = false;
        let object = Object::Pod(workload.pod.clone());
        self.put(Entry::Plain(object));
    }

    pub fn is_wanted(&self, workload: &Workload) -> bool {
        match workload.pod.labels.get(LABEL).map(String::as_str) {
            Some(value) => value == "enabled",
            None => workload.pod.namespace == "shop",
        }
    }

    /// Attaches what is scheduled here and is not attached yet; then the pod's status has its addresses.
    pub fn kubelet(&mut self, index: usize) {
        let truth = self.truth();
        for which in 0..self.workloads.len() {
            let workload = &mut self.workloads[which];
            if workload.node != index || workload.attached {
                continue;
            }
            let ips = BTreeSet::from(workload.ips);
            if self.nodes[index].attach(&workload.pod, &ips, truth) {
                workload.attached = true;
                workload.pod.ips = ips;
                let object = Object::Pod(workload.pod.clone());
                self.put(Entry::Plain(object));
            }
        }
    }

    pub fn start_traffic(&mut self, every: Duration) {
        self.traffic = Some(every);
        self.after(every, Happening::Traffic);
    }

    /// Two workloads, one packet.
    pub fn chatter(&mut self) {
        let (from, to) = (self.dice.below(self.workloads.len()), self.dice.below(self.workloads.len()));
        let family = self.dice.below(2);
        if from != to && from < self.workloads.len() {
            self.send(from, to, family);
        }
        for index in 0..self.nodes.len() {
            self.tell_lie(index, family);
        }
    }

    /// Sends a packet; says whether it went into a tunnel.
    pub fn send(&mut self, from: usize, to: usize, family: usize) -> bool {
        let (sender, receiver) = (self.workloads[from].clone(), self.workloads[to].clone());
        if !sender.attached || !receiver.attached {
            return false;
        }
        let (source, destination) = (sender.ips[family], receiver.ips[family]);
        if !self.nodes[sender.node].leads_into_mesh(&sender.pod.uid, source, destination) {
            self.check_outside(&sender, &receiver, family);
            return false;
        }
        let peer = PeerName { node: self.nodes[sender.node].name.clone(), identity: self.identity_of(&sender.pod) };
        let pair = (sender.pod.uid, receiver.pod.uid);
        self.put_in(sender.node, peer, pair, (source, destination), false);
        true
    }

    fn put_in(
        &mut self,
        node: usize,
        by: PeerName,
        pair: (String, String),
        (source, destination): (IpAddr, IpAddr),
        forged: bool,
    ) {
        self.ids += 1;
        let packet = payload::build(source, destination, self.ids);
        let (at, now) = (self.at, self.now());
        self.ledger.sent.insert(self.ids, Sent { at, packet: packet.clone(), by, pair, forged, delivered: false });
        if let Some(daemon) = &mut self.nodes[node].daemon {
            // a drop is counted by its reason
            let _refused = daemon.engine.handle_packet(&packet, now);
            self.drain(node);
        }
    }

    /// What does not go into a tunnel: between two that were always in the mesh nothing goes in clear text.
    fn check_outside(&mut self, sender: &Workload, receiver: &Workload, family: usize) {
        let fate = self.fate(sender, receiver, family);
        if !sender.born_in || !receiver.born_in {
            return;
        }
        let leaves = matches!(
            fate,
            Fate::Clear | Fate::Dropped(Cause::PlaintextDenied) | Fate::Dropped(Cause::PlaintextFromKeyed)
        );
        assert!(
            !leaves,
            "i1: clear text leaves {} for {} at {:?}: {fate:?}",
            sender.pod.uid, receiver.pod.uid, self.at
        );
    }

    pub fn fate(&self, sender: &Workload, receiver: &Workload, family: usize) -> Fate {
        let (from, to) = (&self.nodes[sender.node], &self.nodes[receiver.node]);
        let packet = Packet {
            source: sender.ips[family],
            destination: receiver.ips[family],
            ports: Some(Ports { source: 7000, destination: 7001 }),
            is_reply: false,
            origin: Origin::Link(Node::link(&sender.pod.uid)),
        };
        follow(Site { node: &from.name, desired: &from.kernel }, Site { node: &to.name, desired: &to.kernel }, &packet)
    }

    /// A traitor sends under his own key what claims to come from another's address.
    fn tell_lie(&mut self, index: usize, family: usize) {
        let Some((liar, victim)) = self.nodes[index].lie.clone() else { return };
        let to = self.dice.below(self.workloads.len());
        let Some(receiver) = self.workloads.get(to).filter(|w| w.node != index).cloned() else { return };
        let family = if victim.is_ipv4() { 0 } else { family };
        if receiver.ips[family].is_ipv4() != victim.is_ipv4() {
            return;
        }
        let by = PeerName { node: self.nodes[index].name.clone(), identity: liar };
        let pair = ("liar".to_owned(), receiver.pod.uid);
        self.put_in(index, by, pair, (victim, receiver.ips[family]), true);
        self.ledger.lies += 1;
    }
}
