//! When numbers are told: soon after people wrote, else late and seldom, never twice.

use std::collections::BTreeSet;

use plan::Governed;
use plan::view::{Endpoint, Event, Namespace, Object, Pod};
use policy::{EffectiveMode, Mode, PeerAuthentication};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn key(name: &str) -> ObjectKey {
    ObjectKey { kind: "PeerAuthentication", namespace: "shop".to_owned(), name: name.to_owned() }
}

fn text(generation: i64, enforced: u64, workloads: u64) -> Enforcement {
    Enforcement::new(generation, Governed { workloads, enforced })
}

/// What the API server says of `default`, or of another.
fn counted(generation: i64, held: Option<Enforcement>) -> Counted {
    Counted { key: key("default"), generation, held }
}

struct World {
    enforced: Enforced,
    view: ClusterView,
    slices: BTreeMap<NodeName, EndpointSlice>,
    begin: Instant,
}

impl World {
    fn new() -> Self {
        let (enforced, view) = (Enforced::default(), ClusterView::default());
        let mut world = Self { enforced, view, slices: BTreeMap::new(), begin: Instant::now() };
        world.count(0, 0);
        world
    }

    /// So many workloads of namespace `shop`, which is STRICT by its object `default`, and so many of them enforced.
    fn count(&mut self, enforced: u64, workloads: u64) {
        let labels = [("weft.dev/mesh".to_owned(), "enabled".to_owned())].into();
        let (namespace, name) = ("shop".to_owned(), "default".to_owned());
        let (mode, ports) = (Some(Mode::Strict), BTreeMap::new());
        let policy = PeerAuthentication { namespace, name, created: 1, selector: None, mode, ports, outbound: None };
        let pod = |n: u64| Pod {
            namespace: "shop".to_owned(),
            name: format!("p{n}"),
            uid: format!("u{n}"),
            labels: BTreeMap::new(),
            node: Some(NodeName("n1".to_owned())),
            service_account: "default".to_owned(),
            host_network: false,
            finished: false,
            ips: BTreeSet::new(),
            ports: BTreeSet::new(),
        };
        let endpoint = |n: u64| Endpoint {
            identity: Some("spiffe://td/ns/shop/sa/default".parse().unwrap()),
            mode: Some(EffectiveMode { mode: Mode::Strict, ..EffectiveMode::default() }),
            enforced: true,
            namespace: "shop".to_owned(),
            name: format!("p{n}"),
            uid: format!("u{n}"),
        };
        let ip = |n: u64| format!("10.1.0.{n}").parse().unwrap();
        let objects =
            [Object::Namespace(Namespace { name: "shop".to_owned(), labels }), Object::PeerAuthentication(policy)];
        let objects = objects.into_iter().chain((1..=workloads).map(|n| Object::Pod(pod(n)))).map(Event::Apply);
        for event in [Event::Init].into_iter().chain(objects).chain([Event::InitDone]) {
            self.view.handle(event).unwrap();
        }
        let endpoints = (1..=enforced).map(|n| (ip(n), endpoint(n))).collect();
        let node = NodeName("n1".to_owned());
        let slice = EndpointSlice { node: node.clone(), node_uid: "u".to_owned(), revision: 1, endpoints };
        self.slices = BTreeMap::from([(node, slice)]);
    }

    fn say(&mut self, counted: Counted) {
        self.enforced.handle_counted(counted);
    }

    /// What is written at this moment, and when it is to be looked again.
    fn look(&mut self, at: Duration) -> (Vec<Enforcement>, Option<Duration>) {
        let out = self.enforced.handle_view(&self.view, ("weft-system", &self.slices), self.begin + at);
        (out.into_iter().map(|(_, said)| said).collect(), self.timeout())
    }

    fn timeout(&self) -> Option<Duration> {
        self.enforced.poll_timeout().map(|due| due.duration_since(self.begin))
    }

    /// Looks whenever it is time to, until then; what was written, each with its time.
    fn run(&mut self, from: Duration, until: Duration) -> Vec<(Duration, Enforcement)> {
        let (mut at, mut out) = (from, Vec::new());
        loop {
            let (written, next) = self.look(at);
            out.extend(written.into_iter().map(|said| (at, said)));
            match next.filter(|next| *next < until) {
                Some(next) => assert!(next > at, "it would look for ever"),
                None => return out,
            }
            at = next.unwrap();
        }
    }
}

#[test]
fn an_object_that_was_just_made_is_told_of_once_its_numbers_stand() {
    let mut world = World::new();
    world.count(0, 2);
    world.say(counted(1, None));
    assert_eq!(world.look(Duration::ZERO), (vec![], Some(SETTLED)));
    // they come into the mesh one after another
    world.count(1, 2);
    assert_eq!(world.look(SECOND / 2), (vec![], Some(SECOND / 2 + SETTLED)));
    world.count(2, 2);
    assert_eq!(world.look(SECOND), (vec![], Some(SECOND + SETTLED)));
    assert_eq!(world.look(SECOND + SETTLED), (vec![text(1, 2, 2)], None));
    assert_eq!(world.run(SECOND * 2, LATE * 10), [], "and that is all");
}

#[test]
fn who_governs_nobody_is_told_so() {
    let mut world = World::new();
    world.say(Counted { key: key("other"), ..counted(1, None) });
    assert_eq!(world.run(Duration::ZERO, LATE), [(SETTLED, text(1, 0, 0))]);
}

#[test]
fn numbers_that_never_stand_are_told_all_the_same_and_seldom() {
    let mut world = World::new();
    world.say(counted(1, None));
    let mut written = Vec::new();
    // a pod every half a second for two minutes
    for half in 0_u32..240 {
        let at = SECOND / 2 * half;
        world.count(u64::from(half % 200), 200);
        written.extend(world.look(at).0.into_iter().map(|_| at));
    }
    assert_eq!(written, [LATE, LATE * 2 + SECOND / 2, LATE * 3 + SECOND], "once in half a minute");
}

#[test]
fn what_pods_change_is_told_late_and_not_at_all_where_it_passes() {
    let mut world = World::new();
    world.count(2, 2);
    world.say(counted(1, Some(text(1, 2, 2))));
    assert_eq!(world.look(Duration::ZERO), (vec![], None));
    // a Deployment rolls: one more, which is not in yet, then in, then one less
    for (at, enforced, workloads) in [(10, 2, 3), (12, 3, 3)] {
        world.count(enforced, workloads);
        assert_eq!(world.look(SECOND * at), (vec![], Some(SECOND * 10 + LATE)));
    }
    world.count(2, 2);
    assert_eq!(world.look(SECOND * 20), (vec![], None), "as it was: nothing to tell");
    world.count(1, 1);
    assert_eq!(world.run(SECOND * 60, LATE * 10), [(SECOND * 60 + LATE, text(1, 1, 1))]);
}

#[test]
fn a_change_of_the_object_is_told_soon_also_where_the_numbers_stay() {
    let mut world = World::new();
    world.count(2, 2);
    world.say(counted(1, Some(text(1, 2, 2))));
    assert_eq!(world.look(Duration::ZERO), (vec![], None));
    assert!(world.enforced.handle_counted(counted(2, Some(text(1, 2, 2)))), "it is looked at at once");
    assert_eq!(world.run(SECOND, LATE * 10), [(SECOND + SETTLED, text(2, 2, 2))]);
}

#[test]
fn what_we_wrote_comes_back_and_is_no_news_what_another_wrote_is_set_right() {
    let mut world = World::new();
    world.count(2, 2);
    world.say(counted(1, None));
    assert_eq!(world.run(Duration::ZERO, LATE).len(), 1);
    for _ in 0..3 {
        assert!(!world.enforced.handle_counted(counted(1, Some(text(1, 2, 2)))), "nothing is to follow from it");
        assert_eq!(world.look(SECOND * 2), (vec![], None));
    }
    world.say(counted(1, Some(text(1, 7, 7))));
    assert_eq!(world.run(SECOND * 3, LATE * 10), [(SECOND * 3 + LATE, text(1, 2, 2))]);
}

#[test]
fn a_controller_that_begins_anew_writes_what_is_wrong_or_missing_and_nothing_else() {
    let mut world = World::new();
    world.count(1, 2);
    world.say(counted(4, Some(text(4, 1, 2))));
    world.say(Counted { key: key("changed-meanwhile"), ..counted(3, Some(text(2, 5, 5))) });
    world.say(Counted { key: key("emptied-meanwhile"), ..counted(1, Some(text(1, 5, 5))) });
    assert_eq!(world.run(Duration::ZERO, LATE * 10), [(SETTLED, text(3, 0, 0)), (LATE, text(1, 0, 0))]);
}

#[test]
fn a_write_that_fails_is_tried_again_with_what_is_right_by_then() {
    let mut world = World::new();
    world.count(1, 2);
    world.say(counted(1, None));
    world.look(Duration::ZERO);
    assert_eq!(world.look(SETTLED), (vec![text(1, 1, 2)], None));
    let failed = world.begin + SETTLED;
    world.enforced.handle_failure(&key("default"), failed);
    assert_eq!(world.timeout(), Some(SETTLED * 2));
    world.count(2, 2);
    assert_eq!(world.run(SETTLED * 2, LATE * 10), [(SETTLED * 3, text(1, 2, 2))]);
}

#[test]
fn objects_that_are_gone_are_forgotten_and_cost_nothing() {
    let mut world = World::new();
    world.say(counted(1, None));
    world.enforced.handle_gone(&key("default"));
    assert_eq!(world.run(Duration::ZERO, LATE), []);
    assert!(world.enforced.objects.is_empty());
}
