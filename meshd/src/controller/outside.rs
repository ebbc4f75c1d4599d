//! Pods that should be in the mesh and that no node protects: found by comparing labels with what nodes report attached.
//!
//! A node adopts such a pod by itself within seconds (decision 0011). What remains is told: a pod whose sandbox nobody knows,
//! or a node on which no daemon runs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use identity::NodeName;
use jiff::Timestamp;
use plan::ClusterView;

use crate::cluster::api::Condition;

/// How long a node may take to attach a running pod before it is told: adoption takes two seconds and a try.
const PATIENCE: Duration = Duration::from_secs(5);
/// The condition's type on a MeshNode.
const ATTACHED: &str = "PodsAttached";
/// Pods that a message names; more are counted.
const NAMES_MAX: usize = 20;

/// Enrolled pods without protection, by node and name, and since when.
#[derive(Default)]
pub(super) struct Outside {
    since: BTreeMap<(NodeName, String), Instant>,
    told: BTreeSet<(NodeName, String)>,
    next: Option<Instant>,
}

impl Outside {
    /// Looks at the cluster; a pod that is outside for too long is told once.
    pub(super) fn handle_view(&mut self, view: &ClusterView, now: Instant) {
        let found = outside(view);
        self.since.retain(|pod, _| found.contains(pod));
        for pod in found {
            self.since.entry(pod).or_insert(now);
        }
        let is_late = |since: &Instant| now.duration_since(*since) >= PATIENCE;
        let told: BTreeSet<_> = self.since.iter().filter(|(_, since)| is_late(since)).map(|(p, _)| p.clone()).collect();
        for (node, pod) in told.difference(&self.told) {
            tracing::warn!(%node, pod, "A pod is outside the mesh although it is labelled into it: see `meshctl status` on its node");
        }
        self.told = told;
        self.next = self.since.values().filter(|since| !is_late(since)).min().map(|since| *since + PATIENCE);
    }

    /// When to look again although nothing changed.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// The pods that are told of, each with its node.
    pub(super) fn told(&self) -> impl Iterator<Item = (&NodeName, &str)> {
        self.told.iter().map(|(node, pod)| (node, pod.as_str()))
    }

    /// What the status of a node's MeshNode says about its pods.
    pub(super) fn condition(&self, node: &NodeName, now: Timestamp) -> Condition {
        let pods: Vec<_> = self.told().filter(|(of, _)| *of == node).map(|(_, pod)| pod).collect();
        let reason = if pods.is_empty() { "AllAttached" } else { "PodsOutside" };
        let mut message = pods.iter().take(NAMES_MAX).copied().collect::<Vec<_>>().join(", ");
        if pods.len() > NAMES_MAX {
            message = format!("{message} and {} more", pods.len() - NAMES_MAX);
        }
        if !pods.is_empty() {
            message = format!("labelled into the mesh, and not protected by it: {message}");
        }
        Condition::new(ATTACHED, pods.is_empty(), (reason, message), now)
    }
}

/// Every enrolled pod that runs and that its node has not reported attached.
fn outside(view: &ClusterView) -> BTreeSet<(NodeName, String)> {
    let attached: BTreeSet<_> = view
        .mesh_nodes
        .values()
        .flat_map(|node| node.attachments.iter().map(move |attachment| (&node.name, attachment.uid.as_str())))
        .collect();
    let pods = view.pods.values().filter(|pod| !pod.host_network && !pod.finished && !pod.ips.is_empty());
    let placed = pods.filter_map(|pod| Some((pod.node.as_ref()?, pod)));
    let strays = placed.filter(|(node, pod)| !attached.contains(&(*node, pod.uid.as_str())) && view.is_enrolled(pod));
    strays.map(|(node, pod)| (node.clone(), format!("{}/{}", pod.namespace, pod.name))).collect()
}

#[cfg(test)]
mod tests {
    use plan::view::{Event, MeshNode, Namespace, Object, Pod, ReportedAttachment};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn pod(name: &str) -> Object {
        Object::Pod(Pod {
            namespace: "demo".to_owned(),
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            labels: BTreeMap::new(),
            node: Some(NodeName("n1".to_owned())),
            service_account: "default".to_owned(),
            host_network: false,
            finished: false,
            ips: ["10.1.0.2".parse().unwrap()].into(),
            ports: BTreeSet::new(),
        })
    }

    fn node(attached: &[&str]) -> Object {
        let attachment = |name: &&str| ReportedAttachment {
            namespace: "demo".to_owned(),
            pod: (*name).to_owned(),
            uid: format!("uid-{name}"),
            ips: BTreeSet::new(),
        };
        Object::MeshNode(Box::new(MeshNode {
            name: NodeName("n1".to_owned()),
            uid: "u".to_owned(),
            endpoints: Vec::new(),
            addresses: BTreeSet::new(),
            keys: Vec::new(),
            attachments: attached.iter().map(attachment).collect(),
            observed_revision: 0,
        }))
    }

    fn view(label: &str, objects: Vec<Object>) -> ClusterView {
        let labels = [("weft.dev/mesh".to_owned(), label.to_owned())].into();
        let mut view = ClusterView::default();
        let namespace = Object::Namespace(Namespace { name: "demo".to_owned(), labels });
        let applied = [namespace].into_iter().chain(objects).map(Event::Apply);
        for event in [Event::Init].into_iter().chain(applied).chain([Event::InitDone]) {
            view.handle(event).unwrap();
        }
        view
    }

    fn names(outside: &Outside) -> Vec<String> {
        outside.told().map(|(node, pod)| format!("{node} {pod}")).collect()
    }

    #[test]
    fn a_labelled_pod_that_no_node_attaches_is_told_after_its_patience_and_until_it_is_attached() {
        let (mut outside, begin) = (Outside::default(), Instant::now());
        let n1 = NodeName("n1".to_owned());
        let stray = view("enabled", vec![node(&["b"]), pod("a"), pod("b")]);
        outside.handle_view(&stray, begin);
        assert!(names(&outside).is_empty());
        assert_eq!(outside.poll_timeout(), Some(begin + PATIENCE));
        outside.handle_view(&stray, begin + PATIENCE - Duration::from_millis(1));
        assert!(names(&outside).is_empty());
        let good = outside.condition(&n1, at(60));
        assert_eq!((good.status.as_str(), good.last_transition_time.as_str()), ("True", "1970-01-01T00:01:00Z"));
        outside.handle_view(&stray, begin + PATIENCE);
        assert_eq!(names(&outside), ["n1 demo/a"]);
        assert_eq!(outside.poll_timeout(), None);
        let bad = outside.condition(&n1, at(120)).after(&[good]);
        assert_eq!((bad.status.as_str(), bad.last_transition_time.as_str()), ("False", "1970-01-01T00:02:00Z"));
        assert!(bad.message.ends_with(": demo/a"), "{}", bad.message);
        assert_eq!(outside.condition(&n1, at(180)).after(std::slice::from_ref(&bad)), bad, "nothing is new");
        outside.handle_view(&view("enabled", vec![node(&["a", "b"]), pod("a"), pod("b")]), begin + PATIENCE);
        assert!(names(&outside).is_empty());
    }

    #[test]
    fn a_node_without_a_daemon_is_found_and_who_is_not_labelled_is_not() {
        let (mut outside, begin) = (Outside::default(), Instant::now());
        for (label, expected) in [("enabled", vec!["n1 demo/a"]), ("disabled", vec![])] {
            let view = view(label, vec![pod("a")]);
            outside.handle_view(&view, begin);
            outside.handle_view(&view, begin + PATIENCE);
            assert_eq!(names(&outside), expected);
        }
    }

    #[test]
    fn a_message_names_some_and_counts_the_rest() {
        let (mut outside, begin) = (Outside::default(), Instant::now());
        let view = view("enabled", (0..500).map(|n| pod(&format!("pod-{n}"))).collect());
        outside.handle_view(&view, begin);
        outside.handle_view(&view, begin + PATIENCE);
        let condition = outside.condition(&NodeName("n1".to_owned()), at(60));
        assert!(condition.message.ends_with("and 480 more"), "{}", condition.message);
    }
}
