//! What comes in beside questions: manifests, news of the data path, and the regular round.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use identity::NodeName;
use plan::ClusterView;
use plan::view::{Event as ViewEvent, Object};

use super::{Node, ROUND};
use crate::clock::wall;
use crate::cluster::{Event, Manifest, api};
use crate::datapath;
use crate::pace::GATHER;
use crate::store::RecentPair;

impl Node {
    /// Takes one change of the cluster in. What needs proof enters the view only with it.
    pub(super) fn take_event(&mut self, event: Event) {
        match event {
            Event::Init => self.view_handle(ViewEvent::Init),
            Event::InitDone => {
                self.view_handle(ViewEvent::InitDone);
                self.hear();
            }
            // the primary network enforces these; a Baseline rule needs to know of every NetworkPolicy
            Event::Apply(Manifest::Plain(Object::NetworkPolicy(_) | Object::ClusterPolicy(_)))
                if self.config.no_network_policy => {}
            Event::Apply(Manifest::Plain(object)) => self.view_handle(ViewEvent::Apply(object)),
            // that is the controller's to say
            Event::Judged(_) | Event::Counted(_) => {}
            Event::Apply(Manifest::MeshNode(node)) => {
                let name = NodeName(node.metadata.name.clone());
                let before = self.raw_nodes.insert(name.clone(), node);
                self.judge_node(&name);
                // an answer to this node is waited for; what others report is followed by a slice
                let is_answer = before.map(|node| node.status) != self.raw_nodes.get(&name).map(|n| n.status.clone());
                let wait = if is_answer { Duration::ZERO } else { GATHER };
                self.pace.hear(wait, Instant::now());
            }
            Event::Apply(Manifest::MeshEndpointSlice(slice)) => {
                let name = NodeName(slice.metadata.name.clone());
                self.raw_slices.insert(name.clone(), slice);
                self.judge_slice(&name);
                self.hear();
            }
            Event::Apply(Manifest::MeshTrust(trust)) => match self.trust.handle_bundle(&trust, wall()) {
                Ok(true) => {
                    self.judge_all();
                    self.pin_root();
                    self.hear();
                }
                Ok(false) => {}
                Err(error) => self.note_trouble("trust bundle", &error),
            },
            Event::Delete(key) => {
                let name = NodeName(key.name.clone());
                match key.kind {
                    "MeshNode" => {
                        self.raw_nodes.remove(&name);
                        if name == self.config.node {
                            // somebody removed our report: it is written anew
                            self.published = None;
                        }
                        self.trust.handle_node_gone(&name);
                    }
                    "MeshEndpointSlice" => {
                        self.raw_slices.remove(&name);
                        self.judge_bindings(&name);
                    }
                    // certificates that were believed stay believed
                    "MeshTrust" => return,
                    _ => {}
                }
                self.view_handle(ViewEvent::Delete(key));
            }
        }
    }

    fn view_handle(&mut self, event: ViewEvent) {
        let wait = wait_for(&self.view, &event);
        match self.view.handle(event) {
            Ok(true) => {
                self.view_number += 1;
                self.pace.hear(wait, Instant::now());
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "An object is left out"),
        }
    }

    /// Holds on to the root that is believed, so that another one is refused after a restart too.
    fn pin_root(&mut self) {
        if let Some(root) = self.trust.root()
            && let Err(error) = self.files.pin_root(root)
        {
            self.note_trouble("trust bundle", &error.into());
        }
    }

    /// Looks at every unproven object again: there is another bundle to prove them by.
    fn judge_all(&mut self) {
        self.trouble.remove("trust bundle");
        for name in self.raw_nodes.keys().cloned().collect::<Vec<_>>() {
            self.judge_node(&name);
        }
        for name in self.raw_slices.keys().cloned().collect::<Vec<_>>() {
            self.judge_slice(&name);
        }
    }

    fn judge_node(&mut self, name: &NodeName) {
        let Some(node) = self.raw_nodes.get(name).and_then(|raw| raw.to_view()) else { return };
        self.judge_bindings(name);
        self.view_handle(ViewEvent::Apply(Object::MeshNode(Box::new(node))));
    }

    /// Bindings count with or without the slice that they came in: each is signed by itself.
    fn judge_bindings(&mut self, name: &NodeName) {
        let Some(node) = self.raw_nodes.get(name) else { return };
        let uid = node.spec.node_uid.clone();
        let issued = issued_to(name, &self.raw_nodes, &self.raw_slices);
        let texts: Vec<_> = issued.into_iter().map(|issued| issued.binding.as_str()).collect();
        self.trust.handle_bindings((name, &uid), &texts, wall());
    }

    fn judge_slice(&mut self, name: &NodeName) {
        self.judge_bindings(name);
        let Some(slice) = self.raw_slices.get(name) else { return };
        if self.trust.trust_domain().is_none() {
            return;
        }
        if !self.trust.is_genuine(slice) {
            tracing::warn!(node = %name, "An endpoint slice is not signed by the issuer: the last good one stays");
            return;
        }
        let slice = slice.to_view();
        self.view_handle(ViewEvent::Apply(Object::MeshEndpointSlice(slice)));
    }

    /// News of the data path: new sessions are told with both identities, a lost device is put back.
    pub(super) async fn take_data(&mut self, event: datapath::Event) {
        match event {
            datapath::Event::TunGone => {
                self.hear();
                let outcome = match self.data.open_tun().await {
                    Ok(()) => self.kernel.prepare(self.underlay.mtu).await,
                    Err(error) => Err(error),
                };
                match outcome {
                    // the routes went with the device
                    Ok(()) => self.desired = None,
                    Err(error) => self.note_trouble("mesh device", &error),
                }
            }
            datapath::Event::Engine(wg::Event::HandshakeCompleted { local, peer, endpoint, initiator, .. }) => {
                // the handshake proves both keys, and both keys are bound by the issuer: that is what this line says
                tracing::info!(
                    local = %local, remote = %peer.identity, node = %peer.node, %endpoint, initiator,
                    "Session: requiring authentication, validated binding, successfully authenticated"
                );
            }
            datapath::Event::Engine(event) => tracing::debug!(?event, "Data path"),
        }
    }

    /// What nobody announces: key turns come with the reconcile that follows.
    pub(super) async fn go_round(&mut self) {
        self.is_report_due = true;
        self.hear();
        self.bury_dead();
        self.give_up_waiting();
        if self.adopts {
            self.adopt_strays().await;
        }
        self.forget_departed().await;
        if let Err(error) = self.attachments.retry_removals() {
            self.note_trouble("state folder", &error.into());
        } else if let Err(error) = self.trust.write_floor(wall()) {
            self.note_trouble("state folder", &error);
        } else {
            self.trouble.remove("state folder");
        }
        self.remember_pairs().await;
        self.keep_installed();
        self.welcome_pods();
        self.tell_refused().await;
        self.forget_trace().await;
        self.follow_underlay(false).await;
        self.put_back().await;
    }

    /// Looks for somebody else's hands on our kernel state, and has the next reconcile put it right.
    pub(super) async fn put_back(&mut self) {
        match self.kernel.drift().await {
            Ok(drift) if drift.is_empty() => {}
            Ok(drift) => {
                tracing::warn!(?drift, "Somebody changed kernel state of ours: it is put back");
                if let Err(error) = self.kernel.prepare(self.underlay.mtu).await {
                    self.note_trouble("kernel", &error);
                }
                self.desired = None;
            }
            Err(error) => self.note_trouble("kernel", &error),
        }
    }

    /// Chains mesh-cni once this node can serve it, and again when somebody took it out.
    fn keep_installed(&mut self) {
        const WHAT: &str = "installation";
        let others = self.blocked_on().len() > usize::from(self.trouble.contains_key(WHAT));
        let Some(install) = self.install.as_mut().filter(|_| !others) else { return };
        match install.ensure() {
            Ok(()) => drop(self.trouble.remove(WHAT)),
            Err(error) => self.note_trouble(WHAT, &error),
        }
    }

    /// Takes the start-up taint off once this node serves, mesh-cni chained and all.
    fn welcome_pods(&mut self) {
        if self.blocked_on().is_empty()
            && let Some(cluster) = self.taint.take()
        {
            let node = self.config.node.clone();
            tokio::spawn(async move { cluster.clear_taint(&node).await });
        }
    }

    /// Writes down who talks to whom, for the greeting after a restart.
    async fn remember_pairs(&mut self) {
        let Ok(snapshot) = self.data.snapshot().await else { return };
        let live = snapshot.sessions.into_iter().filter(|session| session.established);
        let mut pairs: Vec<_> = live
            .map(|s| RecentPair { local: s.local, node: s.peer.node, remote: s.peer.identity, endpoint: s.endpoint })
            .collect();
        pairs.sort_by(|a, b| (&a.local, &a.node, &a.remote).cmp(&(&b.local, &b.node, &b.remote)));
        pairs.dedup_by(|a, b| (&a.local, &a.node, &a.remote) == (&b.local, &b.node, &b.remote));
        if self.greeted
            && let Err(error) = self.recent.write(pairs)
        {
            self.note_trouble("recent pairs", &error.into());
        }
    }
}

/// How long a change of the view may wait for others. A pod without an address, of which nothing was known, is nobody to the
/// kernel; the ADD that waits for it does not wait for this. A node's report alone changes where its keys are.
fn wait_for(view: &ClusterView, event: &ViewEvent) -> Duration {
    match event {
        ViewEvent::Apply(Object::Pod(pod)) => {
            let is_known = view.pods.contains_key(&(pod.namespace.clone(), pod.name.clone()));
            if is_known || !pod.ips.is_empty() { GATHER } else { ROUND }
        }
        ViewEvent::Delete(key) if key.kind == "Pod" => GATHER,
        ViewEvent::Apply(Object::MeshNode(_)) => GATHER,
        ViewEvent::Apply(_) | ViewEvent::Delete(_) | ViewEvent::Init | ViewEvent::InitDone => Duration::ZERO,
    }
}

/// What the controller has bound of a node's keys: in its slice, and where an earlier version wrote it, in the node's status
/// (decision 0024). Of one identity's binding of one epoch the slice's counts.
pub(super) fn issued_to<'a>(
    name: &NodeName,
    nodes: &'a BTreeMap<NodeName, Box<api::MeshNode>>,
    slices: &'a BTreeMap<NodeName, api::MeshEndpointSlice>,
) -> Vec<&'a api::IssuedBinding> {
    let former = nodes.get(name).into_iter().flat_map(|node| &node.status.bindings);
    let present = slices.get(name).into_iter().flat_map(|slice| &slice.spec.bindings);
    let all: BTreeMap<_, _> = former.chain(present).map(|b| ((&b.identity, b.epoch), b)).collect();
    all.into_values().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use plan::view::{Namespace, ObjectKey, Pod};

    use super::*;

    fn pod(name: &str, ip: Option<&str>) -> ViewEvent {
        ViewEvent::Apply(Object::Pod(Pod {
            namespace: "n".to_owned(),
            name: name.to_owned(),
            uid: name.to_owned(),
            labels: BTreeMap::new(),
            node: Some(NodeName("n1".to_owned())),
            service_account: "default".to_owned(),
            host_network: false,
            finished: false,
            ips: ip.map(|ip| ip.parse().unwrap()).into_iter().collect(),
            ports: BTreeSet::new(),
        }))
    }

    /// Decision 0028.
    #[test]
    fn a_pods_change_waits_a_moment_one_without_an_address_longer_and_what_people_write_not_at_all() {
        let mut view = ClusterView::default();
        let gone = |kind| ViewEvent::Delete(ObjectKey { kind, namespace: "n".to_owned(), name: "a".to_owned() });
        let namespace = Namespace { name: "n".to_owned(), labels: BTreeMap::new() };
        assert_eq!(wait_for(&view, &pod("a", None)), ROUND, "nobody yet");
        assert_eq!(wait_for(&view, &pod("a", Some("10.1.0.2"))), GATHER);
        for event in [ViewEvent::Init, pod("a", None), ViewEvent::InitDone] {
            view.handle(event).unwrap();
        }
        assert_eq!(wait_for(&view, &pod("a", None)), GATHER, "its labels may be others");
        assert_eq!(wait_for(&view, &gone("Pod")), GATHER);
        let prompt = [ViewEvent::Apply(Object::Namespace(namespace)), gone("PeerAuthentication"), ViewEvent::InitDone];
        for event in prompt {
            assert_eq!(wait_for(&view, &event), Duration::ZERO, "{event:?}");
        }
    }
}
