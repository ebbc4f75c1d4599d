//! A node is believed only about what is its own; who has a key changes in two phases.

use super::*;
use crate::view::{Event, Namespace, Node, Object};
use policy::Labels;

struct World {
    view: ClusterView,
    assigner: Assigner,
    revoked: BTreeSet<SpiffeId>,
    now: Instant,
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn node(name: &str) -> NodeName {
    NodeName(name.to_owned())
}

fn web() -> SpiffeId {
    "spiffe://td/ns/shop/sa/web".parse().unwrap()
}

fn key(identity: SpiffeId) -> RequestedKey {
    RequestedKey { identity, epoch: Epoch(7), public_key: [1; 32], svid_key: [2; 32] }
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to begin with")]
    /// Two joined nodes with a range each, an enrolled namespace, nothing attached.
    fn new() -> Self {
        let assigner = Assigner::new("td".parse().unwrap(), "weft-system".to_owned(), BTreeMap::new());
        let mut world = Self { view: ClusterView::default(), assigner, revoked: BTreeSet::new(), now: Instant::now() };
        world.apply_all([Event::Init, Event::InitDone]);
        world.label("enabled");
        for (name, range, address) in [("n1", "10.1.0.0/16", "192.0.2.1"), ("n2", "10.2.0.0/16", "192.0.2.2")] {
            let pod_cidrs = vec![range.parse().unwrap()];
            world.apply(Object::Node(Node { name: node(name), pod_cidrs, addresses: vec![ip(address)] }));
            world.report(name, |_| {});
        }
        world
    }

    fn apply_all<const N: usize>(&mut self, events: [Event; N]) {
        for event in events {
            self.view.handle(event).unwrap();
        }
    }

    fn apply(&mut self, object: Object) {
        self.apply_all([Event::Apply(object)]);
    }

    fn label(&mut self, mesh: &str) {
        let labels = labels(&[("weft.dev/mesh", mesh)]);
        self.apply(Object::Namespace(Namespace { name: "shop".to_owned(), labels }));
    }

    fn pod(&mut self, name: &str, on: &str) {
        self.apply(Object::Pod(Pod {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            labels: Labels::new(),
            node: Some(node(on)),
            service_account: "web".to_owned(),
            host_network: false,
            finished: false,
            ips: BTreeSet::new(),
        }));
    }

    fn report(&mut self, name: &str, edit: impl FnOnce(&mut MeshNode)) {
        let mut report = self.view.mesh_nodes.get(&node(name)).cloned().unwrap_or(MeshNode {
            name: node(name),
            uid: format!("uid-{name}"),
            endpoints: vec![],
            addresses: BTreeSet::new(),
            keys: vec![],
            attachments: vec![],
            observed_revision: 0,
            bindings: vec![],
        });
        edit(&mut report);
        self.apply(Object::MeshNode(Box::new(report)));
    }

    fn attach(&mut self, on: &str, pod: &str, address: &str) {
        let attachment = ReportedAttachment {
            namespace: "shop".to_owned(),
            pod: pod.to_owned(),
            uid: format!("uid-{pod}"),
            ips: BTreeSet::from([ip(address)]),
        };
        self.report(on, |report| report.attachments.push(attachment));
    }

    fn assign(&mut self) -> Assignments {
        self.assigner.handle_view(&self.view, &self.revoked, self.now)
    }

    fn endpoint(&mut self, on: &str, address: &str) -> Option<Endpoint> {
        self.assign().slices[&node(on)].endpoints.get(&ip(address)).cloned()
    }
}

#[test]
fn an_attached_pods_address_and_key_are_granted() {
    let mut world = World::new();
    world.pod("a", "n1");
    world.attach("n1", "a", "10.1.0.5");
    world.report("n1", |r| r.keys = vec![key(web())]);
    let out = world.assign();
    assert_eq!(out.refusals, []);
    assert_eq!(out.grants[&node("n1")], [key(web())]);
    assert_eq!(out.slices[&node("n1")].endpoints[&ip("10.1.0.5")].identity, Some(web()));
}

#[test]
fn id_14_a_node_is_not_believed_about_what_is_not_its_own() {
    let mut world = World::new();
    world.pod("a", "n1");
    world.attach("n1", "a", "10.1.0.5");
    world.assign();
    world.pod("thief", "n2");
    for address in ["10.1.0.5", "0.0.0.0", "::", "127.0.0.1", "192.0.2.1", "224.0.0.1", "169.254.1.1", "10.1.9.9"] {
        world.report("n2", |r| r.attachments.clear());
        world.attach("n2", "thief", address);
        let out = world.assign();
        assert_eq!(out.refusals.len(), 1, "{address}: {:?}", out.refusals);
        assert!(out.slices[&node("n2")].endpoints.is_empty(), "{address} was given away");
        assert!(out.slices[&node("n1")].endpoints.contains_key(&ip("10.1.0.5")), "the holder lost it");
    }
    world.report("n2", |r| r.addresses = BTreeSet::from([ip("192.0.2.1"), ip("10.1.0.5"), ip("192.0.2.2")]));
    let endpoints = world.assign().slices[&node("n2")].endpoints.keys().copied().collect::<Vec<_>>();
    assert_eq!(endpoints, [ip("192.0.2.2")]);
}

#[test]
fn a_pod_of_another_node_or_uid_or_that_finished_is_not_attached() {
    let mut world = World::new();
    world.pod("a", "n1");
    world.attach("n2", "a", "10.2.0.5");
    assert_eq!(world.endpoint("n2", "10.2.0.5"), None);
    world.report("n2", |r| r.attachments.clear());
    world.attach("n1", "a", "10.1.0.5");
    world.report("n1", |r| r.attachments[0].uid = "old".to_owned());
    assert_eq!(world.endpoint("n1", "10.1.0.5"), None);
    world.report("n1", |r| r.attachments[0].uid = "uid-a".to_owned());
    assert!(world.endpoint("n1", "10.1.0.5").is_some());
    let mut pod = world.view.pods[&("shop".to_owned(), "a".to_owned())].clone();
    pod.finished = true;
    world.apply(Object::Pod(pod));
    assert_eq!(world.endpoint("n1", "10.1.0.5"), None);
}

#[test]
fn two_claims_of_one_address_the_holder_keeps_it() {
    let mut world = World::new();
    // ranges are unknown here, so both claims are possible in themselves
    for name in ["n1", "n2"] {
        world.apply(Object::Node(Node { name: node(name), pod_cidrs: vec![], addresses: vec![] }));
    }
    world.pod("a", "n2");
    world.attach("n2", "a", "10.9.0.1");
    assert!(world.endpoint("n2", "10.9.0.1").is_some());
    world.pod("b", "n1");
    world.attach("n1", "b", "10.9.0.1");
    let out = world.assign();
    assert!(out.slices[&node("n2")].endpoints.contains_key(&ip("10.9.0.1")));
    assert!(out.slices[&node("n1")].endpoints.is_empty());
    assert!(matches!(
        &out.refusals[..],
        [Refusal { reason: RefusalReason::Address { why: AddressFault::Held, .. }, .. }]
    ));
}

#[test]
fn a_key_without_a_live_workload_or_revoked_is_refused() {
    let mut world = World::new();
    world.report("n1", |r| r.keys = vec![key(web()), key("spiffe://td/node/n1".parse().unwrap())]);
    let out = world.assign();
    assert_eq!(out.grants[&node("n1")].len(), 1, "the node's own identity alone");
    world.report("n1", |r| r.keys.push(key("spiffe://td/node/n2".parse().unwrap())));
    assert_eq!(world.assign().grants[&node("n1")].len(), 1, "another node's identity was granted");
    world.pod("a", "n1");
    world.attach("n1", "a", "10.1.0.5");
    assert_eq!(world.assign().grants[&node("n1")].len(), 2);
    world.revoked.insert(web());
    let out = world.assign();
    assert_eq!(out.grants[&node("n1")].len(), 1);
    assert!(out.refusals.iter().any(|r| r.reason == RefusalReason::Revoked { identity: web() }));
}

#[test]
fn who_has_a_key_changes_in_two_phases() {
    let mut world = World::new();
    world.label("disabled");
    world.pod("a", "n1");
    world.attach("n1", "a", "10.1.0.5");
    world.assign();
    world.now += PATIENCE;
    assert!(world.endpoint("n1", "10.1.0.5").unwrap().enforced);
    world.label("enabled");
    let first = world.endpoint("n1", "10.1.0.5").unwrap();
    assert!(first.identity.is_some() && !first.enforced);
    let revision = world.assign().slices[&node("n1")].revision;
    world.report("n1", |r| r.observed_revision = revision);
    assert!(!world.endpoint("n1", "10.1.0.5").unwrap().enforced, "n2 has not seen it");
    world.report("n2", |r| r.observed_revision = revision);
    assert!(world.endpoint("n1", "10.1.0.5").unwrap().enforced);
    assert_eq!(world.assigner.poll_timeout(), None);
}

#[test]
fn a_node_that_is_down_holds_a_change_up_only_for_so_long() {
    let mut world = World::new();
    world.pod("a", "n1");
    world.attach("n1", "a", "10.1.0.5");
    assert!(!world.endpoint("n1", "10.1.0.5").unwrap().enforced);
    let due = world.assigner.poll_timeout().unwrap();
    world.now = due - Duration::from_nanos(1);
    assert!(!world.endpoint("n1", "10.1.0.5").unwrap().enforced);
    world.now = due;
    assert!(world.endpoint("n1", "10.1.0.5").unwrap().enforced);
}

#[test]
fn nothing_changed_nothing_rises_and_a_restart_goes_on_from_there() {
    let mut world = World::new();
    world.pod("a", "n1");
    world.attach("n1", "a", "10.1.0.5");
    world.assign();
    world.now += PATIENCE;
    let settled = world.assign().slices;
    assert_eq!(world.assign().slices, settled);
    let held = settled.clone();
    world.assigner = Assigner::new("td".parse().unwrap(), "weft-system".to_owned(), held);
    assert_eq!(world.assign().slices, settled);
    world.pod("b", "n1");
    world.attach("n1", "b", "10.1.0.6");
    assert!(world.assign().slices[&node("n1")].revision > settled[&node("n1")].revision);
}
