//! How many workloads each PeerAuthentication governs, and how many of them are where it wants them: for its status.

use std::collections::BTreeMap;

use identity::NodeName;

use crate::desired::enrolled_mode_from;
use crate::view::{ClusterView, EndpointSlice, Phase};

/// Counts of one PeerAuthentication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Governed {
    /// Live workloads whose mode is this object's, and no other's: pods that are enrolled, have a network of their own and have not
    /// ended, from their creation on.
    pub workloads: u64,
    /// Those of them that are published so at each of their addresses: as [`Phase::Enforced`]; where the object says DISABLE,
    /// as [`Phase::Outside`].
    pub enforced: u64,
}

/// How a workload is published: the least and the most of its addresses' phases, and how many addresses.
type Published = (Phase, Phase, usize);

/// Counts by namespace and name of the object; who governs nobody is not there. One whose own mode is UNSET governs nobody: the mode
/// of its workloads is that of a wider object, or nobody's.
#[must_use]
pub fn governed<'a>(
    view: &'a ClusterView,
    root_namespace: &str,
    slices: &BTreeMap<NodeName, EndpointSlice>,
) -> BTreeMap<(&'a str, &'a str), Governed> {
    let mut published: BTreeMap<&str, Published> = BTreeMap::new();
    // what has no namespace is a node's own
    let endpoints = slices.values().flat_map(|slice| slice.endpoints.values()).filter(|e| !e.namespace.is_empty());
    for endpoint in endpoints {
        let phase = endpoint.phase();
        let (least, most, count) = published.entry(&endpoint.uid).or_insert((phase, phase, 0));
        (*least, *most, *count) = (phase.min(*least), phase.max(*most), *count + 1);
    }
    let mut counts: BTreeMap<_, Governed> = BTreeMap::new();
    for pod in view.pods.values() {
        let Some((mode, Some(policy))) = enrolled_mode_from(view, root_namespace, pod) else { continue };
        let wanted = if mode.is_keyed() { Phase::Enforced } else { Phase::Outside };
        let is_there =
            |(least, most, count): &Published| *least == wanted && *most == wanted && *count >= pod.ips.len();
        let count = counts.entry((policy.namespace.as_str(), policy.name.as_str())).or_default();
        count.workloads += 1;
        count.enforced += u64::from(published.get(pod.uid.as_str()).is_some_and(is_there));
    }
    counts
}

#[cfg(test)]
mod tests {
    use policy::{EffectiveMode, Mode};

    use super::*;
    use crate::view::{Endpoint, Event, Namespace, Object, Pod};
    use crate::world::{ROOT, ip, mesh_label, node, pod, policy, spiffe};

    struct World {
        view: ClusterView,
        slices: BTreeMap<NodeName, EndpointSlice>,
    }

    impl World {
        /// An enrolled namespace `shop`, with what is given.
        fn new(objects: impl IntoIterator<Item = Object>) -> Self {
            let mut view = ClusterView::default();
            let namespace = Object::Namespace(Namespace { name: "shop".to_owned(), labels: mesh_label("enabled") });
            let applied = [namespace].into_iter().chain(objects).map(Event::Apply);
            for event in [Event::Init].into_iter().chain(applied).chain([Event::InitDone]) {
                view.handle(event).unwrap();
            }
            let slice =
                EndpointSlice { node: node("n1"), node_uid: "u".to_owned(), revision: 1, endpoints: BTreeMap::new() };
            Self { view, slices: BTreeMap::from([(node("n1"), slice)]) }
        }

        /// A pod of `shop` is published at an address in that phase.
        fn publish(&mut self, name: &str, address: &str, phase: Phase) {
            let mode = |mode| Some(EffectiveMode { mode, ..EffectiveMode::default() });
            let identity = (phase != Phase::Outside).then(|| spiffe(name));
            let mode = if phase >= Phase::Switched { mode(Mode::Strict) } else { mode(Mode::Disable) };
            let enforced = matches!(phase, Phase::Outside | Phase::Enforced);
            let (namespace, uid, name) = ("shop".to_owned(), format!("uid-{name}"), name.to_owned());
            let endpoint = Endpoint { identity, mode, enforced, namespace, name, uid };
            assert_eq!(endpoint.phase(), phase);
            self.slices.get_mut(&node("n1")).unwrap().endpoints.insert(ip(address), endpoint);
        }

        fn shown(&self) -> Vec<String> {
            let counts = governed(&self.view, ROOT, &self.slices);
            counts.iter().map(|((ns, name), g)| format!("{ns}/{name} {}/{}", g.enforced, g.workloads)).collect()
        }
    }

    fn with(name: &str, edit: impl FnOnce(&mut Pod)) -> Object {
        let mut pod = pod(name, "n1");
        edit(&mut pod);
        Object::Pod(pod)
    }

    fn plain(name: &str) -> Object {
        with(name, |_| {})
    }

    fn mode(app: Option<&str>, mode: Option<Mode>) -> Object {
        Object::PeerAuthentication(policy(app, mode))
    }

    fn mesh_wide(mode: Mode) -> Object {
        Object::PeerAuthentication(policy::PeerAuthentication {
            namespace: ROOT.to_owned(),
            ..policy(None, Some(mode))
        })
    }

    #[test]
    fn f11_each_workload_counts_once_under_the_one_object_whose_mode_it_has() {
        let strict = Some(Mode::Strict);
        let objects = [mesh_wide(Mode::Permissive), mode(None, strict), mode(Some("a"), Some(Mode::Permissive))];
        let mut world = World::new(objects.into_iter().chain([plain("a"), plain("b"), plain("c")]));
        assert_eq!(world.shown(), ["shop/a 0/1", "shop/default 0/2"], "the widest governs nobody here");
        world.publish("a", "10.1.0.1", Phase::Enforced);
        world.publish("b", "10.1.0.2", Phase::Enforced);
        assert_eq!(world.shown(), ["shop/a 1/1", "shop/default 1/2"]);
        world.view.handle(Event::Apply(mode(Some("a"), None))).unwrap();
        assert_eq!(world.shown(), ["shop/default 2/3"], "one that is UNSET governs nobody");
        world.view.handle(Event::Apply(mode(None, None))).unwrap();
        assert_eq!(world.shown(), ["weft-system/default 2/3"]);
    }

    #[test]
    fn of_two_in_one_scope_the_older_governs_all() {
        let young = policy::PeerAuthentication { name: "a".to_owned(), created: 2, ..policy(None, Some(Mode::Strict)) };
        let objects = [Object::PeerAuthentication(young), mode(None, Some(Mode::Strict)), plain("a")];
        assert_eq!(World::new(objects).shown(), ["shop/default 0/1"]);
    }

    #[test]
    fn who_is_not_enrolled_has_ended_or_is_its_nodes_own_is_nobodys() {
        let objects = [
            mode(None, Some(Mode::Strict)),
            with("out", |pod| pod.labels.extend(mesh_label("disabled"))),
            with("done", |pod| pod.finished = true),
            with("host", |pod| pod.host_network = true),
            with("waits", |pod| pod.node = None),
        ];
        assert_eq!(World::new(objects).shown(), ["shop/default 0/1"], "one that waits for a node is not in yet");
    }

    #[test]
    fn a_workload_counts_as_enforced_only_at_all_of_its_addresses_and_in_no_earlier_phase() {
        let two = with("a", |pod| pod.ips = ["10.1.0.1", "fd00::1"].map(ip).into());
        let mut world = World::new([mode(None, Some(Mode::Strict)), two]);
        for phase in [Phase::Outside, Phase::Ready, Phase::Switched] {
            world.publish("a", "10.1.0.1", phase);
            world.publish("a", "fd00::1", Phase::Enforced);
            assert_eq!(world.shown(), ["shop/default 0/1"], "{phase:?}");
        }
        world.publish("a", "10.1.0.1", Phase::Enforced);
        assert_eq!(world.shown(), ["shop/default 1/1"]);
        world.slices.get_mut(&node("n1")).unwrap().endpoints.remove(&ip("fd00::1"));
        assert_eq!(world.shown(), ["shop/default 0/1"], "an address of its own that is not published");
    }

    #[test]
    fn where_the_object_says_disable_those_count_that_are_outside() {
        let mut world = World::new([mode(None, Some(Mode::Disable)), plain("a"), plain("b")]);
        world.publish("a", "10.1.0.1", Phase::Outside);
        for phase in [Phase::Ready, Phase::Switched, Phase::Enforced] {
            world.publish("b", "10.1.0.2", phase);
            assert_eq!(world.shown(), ["shop/default 1/2"], "{phase:?}: on its way out");
        }
        let mut with_port = policy(Some("a"), Some(Mode::Disable));
        with_port.ports = BTreeMap::from([(80, Some(Mode::Strict))]);
        world.view.handle(Event::Apply(Object::PeerAuthentication(with_port))).unwrap();
        assert_eq!(world.shown(), ["shop/a 0/1", "shop/default 0/1"], "who has a port in the mesh is in it");
        world.publish("a", "10.1.0.1", Phase::Enforced);
        assert_eq!(world.shown()[0], "shop/a 1/1");
    }
}
