//! A node is believed only about what is its own; a workload goes into the mesh and out of it phase by phase.

use std::time::Duration;

use identity::Epoch;
use policy::{Labels, Mode};
use proptest::prelude::*;

use super::*;
use crate::view::{Event, Node, Object, ObjectKey, ReportedAttachment};
use crate::world::{ROOT, ip, key, mesh_label, mesh_node, namespace, node, pod, policy, range, some_instant, spiffe};

struct World {
    view: ClusterView,
    assigner: Assigner,
    revoked: BTreeSet<SpiffeId>,
    now: Instant,
}

fn assigner(published: BTreeMap<NodeName, EndpointSlice>) -> Assigner {
    Assigner::new("td".parse().unwrap(), ROOT.to_owned(), published, UnixTime(1_000))
}

impl World {
    /// Two joined nodes with a range each, an enrolled namespace, nothing attached.
    fn new() -> Self {
        let (view, assigner) = (ClusterView::default(), assigner(BTreeMap::new()));
        let mut world = Self { view, assigner, revoked: BTreeSet::new(), now: some_instant() };
        world.handle(Event::Init);
        world.handle(Event::InitDone);
        world.apply(namespace("enabled"));
        for (name, cidr, address) in [("n1", "10.1.0.0/16", "192.0.2.1"), ("n2", "10.2.0.0/16", "192.0.2.2")] {
            world.apply(range(name, cidr, address));
            world.report(name, |_| {});
        }
        world
    }

    fn handle(&mut self, event: Event) {
        self.view.handle(event).unwrap();
    }

    fn apply(&mut self, object: Object) {
        self.handle(Event::Apply(object));
    }

    /// Ranges and addresses of nodes are unknown from here on.
    fn forget_ranges(&mut self) {
        for name in ["n1", "n2"] {
            self.apply(Object::Node(Node {
                name: node(name),
                uid: format!("uid-{name}"),
                labels: Labels::new(),
                pod_cidrs: vec![],
                addresses: vec![],
            }));
        }
    }

    fn report(&mut self, name: &str, edit: impl FnOnce(&mut MeshNode)) {
        let mut report = self.view.mesh_nodes.get(&node(name)).cloned().unwrap_or_else(|| mesh_node(name));
        edit(&mut report);
        self.apply(Object::MeshNode(Box::new(report)));
    }

    /// Pod and interface; the node asks for the key of its identity too.
    fn attach(&mut self, on: &str, name: &str, address: &str) {
        self.apply(Object::Pod(pod(name, on)));
        self.report_attached(on, name, address);
        self.report(on, |report| report.keys.push(key(on, spiffe(name))));
    }

    fn report_attached(&mut self, on: &str, name: &str, address: &str) {
        let (namespace, pod, uid) = ("shop".to_owned(), name.to_owned(), format!("uid-{name}"));
        let ips = BTreeSet::from([ip(address)]);
        self.report(on, |report| report.attachments.push(ReportedAttachment { namespace, pod, uid, ips }));
    }

    fn assign(&mut self) -> Assignments {
        self.assigner.handle_view(&self.view, &self.revoked, self.now).unwrap()
    }

    fn endpoint(&mut self, on: &str, address: &str) -> Option<Endpoint> {
        self.assign().slices[&node(on)].endpoints.get(&ip(address)).cloned()
    }

    fn phase(&mut self, on: &str, address: &str) -> Option<Phase> {
        self.endpoint(on, address).map(|endpoint| endpoint.phase())
    }

    /// These nodes have put everything published into their kernel.
    fn observe(&mut self, names: &[&str]) {
        let revision = self.assigner.published.values().map(|slice| slice.revision).max().unwrap();
        for name in names {
            self.report(name, |report| report.observed_revision = revision);
        }
    }

    fn reasons(&mut self) -> Vec<RefusalReason> {
        self.assign().refusals.into_iter().map(|refusal| refusal.reason).collect()
    }
}

#[test]
fn an_attached_pods_address_and_key_are_granted_at_once() {
    let mut world = World::new();
    world.attach("n1", "a", "10.1.0.5");
    let out = world.assign();
    assert_eq!(out.refusals, []);
    assert_eq!(out.grants[&node("n1")], [key("n1", spiffe("a"))]);
    let endpoint = &out.slices[&node("n1")].endpoints[&ip("10.1.0.5")];
    assert_eq!((endpoint.identity.as_ref(), endpoint.phase()), (Some(&spiffe("a")), Phase::Enforced));
    assert_eq!(world.assigner.poll_timeout(), None, "born into the mesh, it waits for nobody");
}

#[test]
fn nothing_is_said_before_the_view_is_complete() {
    let view = ClusterView::default();
    assert_eq!(assigner(BTreeMap::new()).handle_view(&view, &BTreeSet::new(), some_instant()), None);
}

#[test]
fn id_14_a_node_is_not_believed_about_what_is_not_its_own() {
    let mut world = World::new();
    world.attach("n1", "a", "10.1.0.5");
    world.assign();
    world.apply(Object::Pod(pod("thief", "n2")));
    let stolen = ["10.1.0.5", "0.0.0.0", "::", "127.0.0.1", "192.0.2.1", "224.0.0.1", "169.254.1.1", "10.1.9.9"];
    let odd = ["255.255.255.255", "240.0.0.1", "0.1.2.3", "::ffff:10.2.0.9", "::10.2.0.9", "fe80::1", "ff02::1", "::1"];
    for address in stolen.into_iter().chain(odd) {
        world.report("n2", |r| r.attachments.clear());
        world.report_attached("n2", "thief", address);
        let out = world.assign();
        assert_eq!(out.refusals.len(), 1, "{address}: {:?}", out.refusals);
        assert!(out.slices[&node("n2")].endpoints.is_empty(), "{address} was given away");
        assert!(out.slices[&node("n1")].endpoints.contains_key(&ip("10.1.0.5")), "the holder lost it");
    }
    world.report("n2", |r| r.addresses = ["192.0.2.1", "10.1.0.5", "192.0.2.2"].map(ip).into());
    let endpoints = world.assign().slices[&node("n2")].endpoints.keys().copied().collect::<Vec<_>>();
    assert_eq!(endpoints, [ip("192.0.2.2")]);
}

/// A cloud gives a new node the address of one that it took away, whose report is still there.
#[test]
fn id_14_a_node_whose_object_is_gone_keeps_no_address_that_another_lists() {
    let mut world = World::new();
    world.report("n1", |r| r.addresses = [ip("192.0.2.1")].into());
    assert!(world.endpoint("n1", "192.0.2.1").is_some());
    world.handle(Event::Delete(ObjectKey { kind: "Node", namespace: String::new(), name: "n1".to_owned() }));
    assert!(world.endpoint("n1", "192.0.2.1").is_some(), "nobody else has it");
    world.apply(range("n3", "10.3.0.0/16", "192.0.2.1"));
    world.report("n3", |r| r.addresses = [ip("192.0.2.1")].into());
    let out = world.assign();
    assert!(out.slices[&node("n1")].endpoints.is_empty());
    assert!(out.slices[&node("n3")].endpoints.contains_key(&ip("192.0.2.1")));
}

/// ID-14 where no range is known: it is status and who came first that decide.
#[test]
fn id_14_without_ranges_the_holder_keeps_its_address() {
    let mut world = World::new();
    world.forget_ranges();
    world.attach("n2", "a", "10.9.0.1");
    assert!(world.endpoint("n2", "10.9.0.1").is_some());
    world.attach("n1", "b", "10.9.0.1");
    let out = world.assign();
    assert!(out.slices[&node("n2")].endpoints.contains_key(&ip("10.9.0.1")));
    assert!(out.slices[&node("n1")].endpoints.is_empty());
    let reason = RefusalReason::Address { ip: ip("10.9.0.1"), pod: "shop/b".to_owned(), why: AddressFault::Held };
    assert!(out.refusals.contains(&Refusal { node: node("n1"), key: None, reason }));
    // nor does it get it by calling itself the node's own
    world.report("n1", |r| {
        r.attachments.clear();
        r.addresses.insert(ip("10.9.0.1"));
    });
    assert!(world.assign().slices[&node("n1")].endpoints.is_empty());
}

#[test]
fn id_14_a_pod_that_only_its_status_speaks_of_holds_its_address_against_other_nodes() {
    let mut world = World::new();
    world.forget_ranges();
    let mut old = pod("old", "n2");
    old.labels = mesh_label("disabled");
    old.ips.insert(ip("10.9.0.1"));
    world.apply(Object::Pod(old));
    assert_eq!(world.phase("n2", "10.9.0.1"), Some(Phase::Outside), "spoken for, though never attached");
    world.attach("n1", "thief", "10.9.0.1");
    assert_eq!(world.phase("n1", "10.9.0.1"), None);
    world.report("n1", |r| r.attachments.clear());
    world.attach("n2", "young", "10.9.0.1");
    assert_eq!(world.endpoint("n2", "10.9.0.1").unwrap().name, "young", "its own node knows better");
}

/// PL-13: the old pod's object lingers while its address goes to another node's pod.
#[test]
fn pl_13_an_address_is_free_once_the_node_says_that_the_pod_is_gone() {
    let mut world = World::new();
    world.forget_ranges();
    world.attach("n2", "a", "10.9.0.1");
    let mut lingering = pod("a", "n2");
    lingering.ips.insert(ip("10.9.0.1"));
    world.apply(Object::Pod(lingering));
    world.assign();
    world.attach("n1", "b", "10.9.0.1");
    assert_eq!(world.phase("n1", "10.9.0.1"), None, "a is still there");
    world.report("n2", |r| r.attachments.clear());
    assert_eq!(world.phase("n1", "10.9.0.1"), Some(Phase::Enforced));
    assert!(world.assign().slices[&node("n2")].endpoints.is_empty());
}

/// PL-13: outside the mesh, detached, its object lingers: its status speaks for the address no more.
#[test]
fn pl_13_a_pod_that_was_detached_is_not_known_to_be_clear_by_its_status() {
    let mut world = World::new();
    world.apply(namespace("disabled"));
    world.attach("n1", "a", "10.1.0.5");
    let mut lingering = pod("a", "n1");
    lingering.ips.insert(ip("10.1.0.5"));
    world.apply(Object::Pod(lingering));
    assert_eq!(world.phase("n1", "10.1.0.5"), Some(Phase::Outside));
    world.report("n1", |r| r.attachments.clear());
    assert_eq!(world.phase("n1", "10.1.0.5"), None);
}

#[test]
fn a_pod_of_another_node_or_uid_or_that_finished_is_not_attached() {
    let mut world = World::new();
    world.apply(Object::Pod(pod("a", "n1")));
    world.report_attached("n2", "a", "10.2.0.5");
    assert_eq!(world.endpoint("n2", "10.2.0.5"), None);
    assert_eq!(world.reasons(), [RefusalReason::NotScheduled { pod: "shop/a".to_owned() }]);
    world.report("n2", |r| r.attachments.clear());
    world.attach("n1", "a", "10.1.0.5");
    world.report("n1", |r| r.attachments[0].uid = "old".to_owned());
    assert_eq!(world.endpoint("n1", "10.1.0.5"), None);
    world.report("n1", |r| r.attachments[0].uid = "uid-a".to_owned());
    assert!(world.endpoint("n1", "10.1.0.5").is_some());
    let edits: [fn(&mut crate::view::Pod); 2] = [|pod| pod.finished = true, |pod| pod.host_network = true];
    for edit in edits {
        let mut it = pod("a", "n1");
        edit(&mut it);
        world.apply(Object::Pod(it));
        assert_eq!(world.endpoint("n1", "10.1.0.5"), None);
    }
}

#[test]
fn a_pod_with_other_addresses_in_its_status_is_refused_the_one_it_claims() {
    let mut world = World::new();
    world.attach("n1", "a", "10.1.0.5");
    let mut it = pod("a", "n1");
    it.ips.insert(ip("10.1.0.6"));
    world.apply(Object::Pod(it));
    let (pod, why) = ("shop/a".to_owned(), AddressFault::Status);
    assert_eq!(world.reasons()[0], RefusalReason::Address { ip: ip("10.1.0.5"), pod, why });
    assert_eq!(world.endpoint("n1", "10.1.0.5"), None);
}

/// ID-16: nothing of an identity comes from labels.
#[test]
fn id_16_labels_change_who_is_enrolled_and_nothing_else() {
    let mut world = World::new();
    world.attach("n1", "a", "10.1.0.5");
    let before = world.endpoint("n1", "10.1.0.5").unwrap().identity;
    let mut it = pod("a", "n1");
    for (key, value) in [
        ("weft.dev/identity", "spiffe://td/ns/kube-system/sa/admin"),
        ("kubernetes.io/metadata.name", "kube-system"),
        ("io.kubernetes.pod.namespace", "kube-system"),
        ("spiffe.io/spiffe-id", "admin"),
        ("weft.dev/node", "n2"),
    ] {
        it.labels.insert(key.to_owned(), value.to_owned());
    }
    world.apply(Object::Pod(it));
    assert_eq!(world.endpoint("n1", "10.1.0.5").unwrap().identity, before);
}

#[test]
fn a_key_without_a_live_workload_or_revoked_is_refused() {
    let mut world = World::new();
    world.report("n1", |r| r.keys = vec![key("n1", spiffe("a")), key("n1", "spiffe://td/node/n1".parse().unwrap())]);
    assert_eq!(world.assign().grants[&node("n1")].len(), 1, "the node's own identity alone");
    world.report("n1", |r| r.keys.push(key("n1", "spiffe://td/node/n2".parse().unwrap())));
    assert_eq!(world.assign().grants[&node("n1")].len(), 1, "another node's identity was granted");
    world.apply(Object::Pod(pod("a", "n1")));
    world.report_attached("n1", "a", "10.1.0.5");
    assert_eq!(world.assign().grants[&node("n1")].len(), 2);
    world.revoked.insert(spiffe("a"));
    assert_eq!(world.assign().grants[&node("n1")].len(), 1);
    assert!(world.reasons().contains(&RefusalReason::Revoked { identity: spiffe("a") }));
    world.revoked.clear();
    world.report("n1", |r| r.attachments.clear());
    assert_eq!(world.assign().grants[&node("n1")].len(), 1, "its last workload is gone");
}

#[test]
fn a_pod_that_is_not_enrolled_has_an_address_and_no_key() {
    let mut world = World::new();
    world.apply(namespace("disabled"));
    world.attach("n1", "a", "10.1.0.5");
    let out = world.assign();
    assert_eq!(out.slices[&node("n1")].endpoints[&ip("10.1.0.5")].identity, None);
    assert_eq!(out.grants[&node("n1")], []);
    world.apply(namespace("enabled"));
    world.apply(Object::PeerAuthentication(policy(None, Some(Mode::Disable))));
    assert_eq!(world.endpoint("n1", "10.1.0.5").unwrap().mode.unwrap().mode, Mode::Disable, "worth showing");
    assert_eq!(world.assign().grants[&node("n1")], [], "DISABLE is as good as not enrolled");
}

/// ID-18: two nodes with the same key.
#[test]
fn id_18_a_public_key_has_one_holder() {
    for copied_first in [false, true] {
        let mut world = World::new();
        let (owner, thief) = if copied_first { ("n2", "n1") } else { ("n1", "n2") };
        let (mine, theirs) = if copied_first { ("10.2.0.5", "10.1.0.5") } else { ("10.1.0.5", "10.2.0.5") };
        world.attach(owner, "a", mine);
        assert_eq!(world.assign().grants[&node(owner)].len(), 1);
        world.apply(Object::Pod(pod("b", thief)));
        world.report_attached(thief, "b", theirs);
        let copied = RequestedKey { identity: spiffe("b"), ..key(owner, spiffe("a")) };
        world.report(thief, |r| r.keys.push(copied));
        let out = world.assign();
        assert_eq!((out.grants[&node(owner)].len(), out.grants[&node(thief)].len()), (1, 0));
        let reason = RefusalReason::KeyHeld { node: node(owner), holder: spiffe("a") };
        assert!(out.refusals.iter().any(|r| r.node == node(thief) && r.reason == reason), "{:?}", out.refusals);
    }
}

#[test]
fn no_more_keys_than_a_rotation_needs() {
    let mut world = World::new();
    world.attach("n1", "a", "10.1.0.5");
    world.report("n1", |r| {
        r.keys = (0..9).map(|epoch| RequestedKey { epoch: Epoch(epoch), ..key("n1", spiffe("a")) }).collect();
    });
    let out = world.assign();
    assert_eq!((out.grants[&node("n1")].len(), out.refusals.len()), (KEYS_PER_IDENTITY_MAX, 9 - KEYS_PER_IDENTITY_MAX));
}

/// The way in: everybody knows it, everybody sends by the tunnel, clear text is refused; each step waits for all.
#[test]
fn a_workload_goes_in_phase_by_phase_and_waits_for_every_node() {
    let mut world = World::new();
    world.apply(namespace("disabled"));
    world.attach("n1", "a", "10.1.0.5");
    world.report("n1", |r| r.keys.clear());
    assert_eq!(world.phase("n1", "10.1.0.5"), Some(Phase::Outside));
    world.apply(namespace("enabled"));
    assert_eq!(world.phase("n1", "10.1.0.5"), Some(Phase::Ready));
    world.observe(&["n1", "n2"]);
    assert_eq!(world.phase("n1", "10.1.0.5"), Some(Phase::Ready), "its node has asked for no key, it cannot receive");
    world.report("n1", |r| r.keys.push(key("n1", spiffe("a"))));
    assert_eq!(world.phase("n1", "10.1.0.5"), Some(Phase::Switched));
    world.observe(&["n1"]);
    assert_eq!(world.phase("n1", "10.1.0.5"), Some(Phase::Switched), "n2 has not seen it");
    world.observe(&["n2"]);
    assert_eq!(world.phase("n1", "10.1.0.5"), Some(Phase::Enforced));
    assert_eq!(world.assigner.poll_timeout(), None);
}

#[test]
fn a_workload_goes_out_phase_by_phase_and_keeps_its_key_until_the_end() {
    let mut world = World::new();
    world.attach("n1", "a", "10.1.0.5");
    assert_eq!(world.phase("n1", "10.1.0.5"), Some(Phase::Enforced));
    world.apply(namespace("disabled"));
    for phase in [Phase::Switched, Phase::Ready, Phase::Outside] {
        let out = world.assign();
        let endpoint = &out.slices[&node("n1")].endpoints[&ip("10.1.0.5")];
        assert_eq!(endpoint.phase(), phase);
        assert_eq!(out.grants[&node("n1")].len(), usize::from(phase != Phase::Outside), "{phase:?}");
        world.observe(&["n1", "n2"]);
    }
    assert_eq!(world.assigner.poll_timeout(), None);
}

#[test]
fn a_change_of_mode_that_leaves_the_key_alone_opens_nothing_in_between() {
    let mut world = World::new();
    world.apply(Object::PeerAuthentication(policy(None, Some(Mode::Strict))));
    world.attach("n1", "a", "10.1.0.5");
    let before = world.endpoint("n1", "10.1.0.5").unwrap();
    let mut auth = policy(None, Some(Mode::Strict));
    auth.outbound = Some(policy::Outbound::RequireMesh);
    world.apply(Object::PeerAuthentication(auth));
    let after = world.endpoint("n1", "10.1.0.5").unwrap();
    assert!(before != after && after.phase() == Phase::Enforced);
}

#[test]
fn a_node_that_is_down_holds_a_change_up_once_and_not_at_every_phase() {
    let mut world = World::new();
    world.apply(namespace("disabled"));
    world.attach("n1", "a", "10.1.0.5");
    world.assign();
    world.apply(namespace("enabled"));
    assert_eq!(world.phase("n1", "10.1.0.5"), Some(Phase::Ready));
    world.observe(&["n1"]);
    let due = world.assigner.poll_timeout().unwrap();
    assert_eq!(due, world.now + PATIENCE);
    world.now = due - Duration::from_nanos(1);
    assert_eq!(world.phase("n1", "10.1.0.5"), Some(Phase::Ready));
    world.now = due;
    assert_eq!(world.phase("n1", "10.1.0.5"), Some(Phase::Switched));
    world.observe(&["n1"]);
    assert_eq!(world.phase("n1", "10.1.0.5"), Some(Phase::Enforced), "n2 is not waited for again");
    world.observe(&["n2"]);
    world.apply(namespace("disabled"));
    assert_eq!(world.phase("n1", "10.1.0.5"), Some(Phase::Switched));
    world.observe(&["n1"]);
    assert_eq!(world.phase("n1", "10.1.0.5"), Some(Phase::Switched), "n2 is back and waited for");
}

/// istio/istio#48290: a namespace goes from DISABLE to STRICT while its pods talk to each other.
#[test]
fn nobody_rejects_before_the_others_that_come_along_have_switched() {
    let mut world = World::new();
    world.apply(namespace("disabled"));
    world.attach("n1", "a", "10.1.0.5");
    world.attach("n2", "b", "10.2.0.5");
    world.report("n2", |r| r.keys.clear());
    world.assign();
    world.apply(namespace("enabled"));
    for _ in 0..3 {
        world.assign();
        world.observe(&["n1", "n2"]);
    }
    assert_eq!(world.phase("n1", "10.1.0.5"), Some(Phase::Switched), "b does not send by the tunnel yet");
    let other = world.now + PATIENCE;
    world.now = other;
    assert_eq!(world.phase("n1", "10.1.0.5"), Some(Phase::Enforced), "and is not waited for for ever");
    assert_eq!(world.phase("n2", "10.2.0.5"), Some(Phase::Ready));
}

#[test]
fn a_pod_from_before_our_plugin_stays_outside_until_it_is_attached() {
    let mut world = World::new();
    world.apply(namespace("disabled"));
    let mut old = pod("old", "n1");
    old.ips.insert(ip("10.1.0.5"));
    world.apply(Object::Pod(old));
    assert_eq!(world.phase("n1", "10.1.0.5"), Some(Phase::Outside));
    world.apply(namespace("enabled"));
    assert_eq!(world.phase("n1", "10.1.0.5"), Some(Phase::Outside), "what worked goes on");
    assert_eq!(world.reasons(), [RefusalReason::NotAttached { pod: "shop/old".to_owned() }]);
    let mut young = pod("young", "n1");
    young.ips.insert(ip("10.1.0.6"));
    world.apply(Object::Pod(young));
    assert_eq!(world.phase("n1", "10.1.0.6"), None, "never known to be outside, so never spoken to in clear");
}

#[test]
fn nothing_changed_nothing_rises_and_a_restart_goes_on_from_there() {
    let mut world = World::new();
    world.attach("n1", "a", "10.1.0.5");
    let settled = world.assign().slices;
    assert_eq!(world.assign().slices, settled);
    world.assigner = assigner(settled.clone());
    assert_eq!(world.assign().slices, settled);
    world.attach("n1", "b", "10.1.0.6");
    let newer = world.assign();
    assert!(newer.slices[&node("n1")].revision > settled[&node("n2")].revision.max(settled[&node("n1")].revision));
    assert_eq!(newer.slices_in_order().last().unwrap().node, node("n1"));
}

#[test]
fn t11_revisions_rise_even_where_everything_published_was_lost() {
    let published = |wall| {
        let mut world = World::new();
        world.assigner = Assigner::new("td".parse().unwrap(), ROOT.to_owned(), BTreeMap::new(), UnixTime(wall));
        world.assign().slices[&node("n1")].revision
    };
    assert!(published(1_001) > published(1_000) + 100);
}

#[test]
fn a_change_left_half_way_by_a_restart_is_finished() {
    let mut world = World::new();
    world.apply(namespace("disabled"));
    world.attach("n1", "a", "10.1.0.5");
    world.assign();
    world.apply(namespace("enabled"));
    let half_way = world.assign().slices;
    world.assigner = assigner(half_way);
    assert_eq!(world.phase("n1", "10.1.0.5"), Some(Phase::Ready));
    assert_eq!(world.assigner.poll_timeout(), Some(world.now + PATIENCE));
    for _ in 0..2 {
        world.observe(&["n1", "n2"]);
        world.assign();
    }
    assert_eq!(world.phase("n1", "10.1.0.5"), Some(Phase::Enforced));
}

#[test]
fn id_07_a_rebuilt_node_and_a_pod_of_the_same_name_begin_afresh() {
    let mut world = World::new();
    world.attach("n1", "a", "10.1.0.5");
    world.assign();
    world.report("n1", |r| r.uid = "rebuilt".to_owned());
    let out = world.assign();
    assert_eq!(out.slices[&node("n1")].node_uid, "rebuilt");
    // ID-07: same name, another service account, another UID
    let mut it = pod("a", "n1");
    (it.uid, it.service_account) = ("second".to_owned(), "other".to_owned());
    world.apply(Object::Pod(it));
    assert_eq!(world.endpoint("n1", "10.1.0.5"), None, "the report still speaks of the first");
    world.report("n1", |r| {
        r.attachments[0].uid = "second".to_owned();
        r.keys.push(key("n1", spiffe("other")));
    });
    let endpoint = world.endpoint("n1", "10.1.0.5").unwrap();
    assert_eq!((endpoint.identity, endpoint.uid.as_str()), (Some(spiffe("other")), "second"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// ID-14: whatever two nodes report in whatever order, an address has one holder, a holder keeps it while it
    /// reports it, and a revision never falls.
    #[test]
    fn id_14_an_address_has_one_holder_who_keeps_it(
        reports in proptest::collection::vec((0_usize..3, proptest::collection::btree_set(0_u8..6, 0..4)), 1..24),
    ) {
        let mut world = World::new();
        world.forget_ranges();
        world.report("n3", |_| {});
        let names = ["n1", "n2", "n3"];
        for name in names {
            world.apply(Object::Pod(pod(&format!("of-{name}"), name)));
            world.report(name, |r| r.keys.push(key(name, spiffe(&format!("of-{name}")))));
        }
        let mut holders: BTreeMap<IpAddr, NodeName> = BTreeMap::new();
        let mut newest = 0;
        for (index, addresses) in reports {
            let on = names[index];
            let ips: BTreeSet<IpAddr> = addresses.iter().map(|last| ip(&format!("10.9.0.{last}"))).collect();
            world.report(on, |r| r.attachments.clear());
            world.report_attached(on, &format!("of-{on}"), "10.9.0.99");
            world.report(on, |r| r.attachments[0].ips = ips);
            let out = world.assign();
            let mut found: BTreeMap<IpAddr, NodeName> = BTreeMap::new();
            for (name, slice) in &out.slices {
                for address in slice.endpoints.keys() {
                    prop_assert_eq!(found.insert(*address, name.clone()), None, "{} has two holders", address);
                }
            }
            for (address, holder) in &holders {
                let reports_it = world.view.mesh_nodes[holder].attachments.iter().any(|a| a.ips.contains(address));
                if reports_it {
                    prop_assert_eq!(found.get(address), Some(holder), "{} moved", address);
                }
            }
            let revision = out.slices.values().map(|slice| slice.revision).max().unwrap();
            prop_assert!(revision >= newest);
            (newest, holders) = (revision, found);
        }
    }
}
