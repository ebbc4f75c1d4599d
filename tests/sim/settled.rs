//! When trouble is over: everybody who may talk does, and nothing is held that nobody needs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use identity::SpiffeId;
use plan::{Fate, PeerName};

use crate::world::World;

/// i6: within 15 s of virtual time.
const PATIENCE: Duration = Duration::from_secs(15);
/// After this long nobody tries a handshake any more that was begun in the time of trouble: a packet waits for 90 s, the
/// last session begun for it tries for 90 s (REKEY_ATTEMPT_TIME of the WireGuard paper, section 6.1), and what it sent is
/// parked for two.
const GIVEN_UP: Duration = Duration::from_secs(190);
const PROBE: Duration = Duration::from_millis(500);

impl World {
    /// i6, then i5.
    pub fn check_settles(&mut self) {
        let end = self.at + PATIENCE;
        self.traffic = None;
        self.ledger.first.clear();
        let mut silent = Vec::new();
        while self.at < end {
            silent = self.silent();
            if silent.is_empty() {
                break;
            }
            for (from, to) in &silent {
                self.send(*from, *to, 0);
                self.send(*from, *to, 1);
            }
            self.run(PROBE);
        }
        if !silent.is_empty() {
            silent = self.silent();
        }
        let told: Vec<String> = silent.iter().map(|pair| self.tell(*pair)).collect();
        assert!(silent.is_empty(), "i6: these do not talk {PATIENCE:?} after all trouble ended:\n{}", told.join("\n"));
        self.run(GIVEN_UP);
        self.check_fates();
        self.check_nothing_is_left();
    }

    fn may_tunnel(&self, from: usize, to: usize) -> bool {
        let (a, b) = (&self.workloads[from], &self.workloads[to]);
        let all = [a, b].iter().all(|workload| {
            self.is_wanted(workload) && !self.controller.revoked.contains(&self.identity_of(&workload.pod))
        });
        all && a.node != b.node
    }

    /// Pairs of indices that may talk through a tunnel and have not been heard.
    fn silent(&self) -> Vec<(usize, usize)> {
        let all = 0..self.workloads.len();
        let pairs = all.clone().flat_map(|from| all.clone().map(move |to| (from, to)));
        let heard = |(from, to): (usize, usize)| {
            let uid = |which: usize| self.workloads[which].pod.uid.clone();
            self.ledger.first.contains_key(&(uid(from), uid(to)))
        };
        pairs.filter(|pair| self.may_tunnel(pair.0, pair.1) && !heard(*pair)).collect()
    }

    fn tell(&self, (from, to): (usize, usize)) -> String {
        let (a, b) = (&self.workloads[from], &self.workloads[to]);
        let fate = self.fate(a, b, 0);
        let name = |w: &crate::pods::Workload| format!("{} {} on n{}", w.pod.uid, self.identity_of(&w.pod), w.node + 1);
        format!("  {} -> {}: attached {} {}, fate {fate:?}", name(a), name(b), a.attached, b.attached)
    }

    /// What the planner's own model of a packet's path says must be what is wanted, for each pair and family.
    fn check_fates(&self) {
        for (a, b) in self.workloads.iter().flat_map(|a| self.workloads.iter().map(move |b| (a, b))) {
            if a.pod.uid == b.pod.uid {
                continue;
            }
            let (identity, revoked) = (self.identity_of(&a.pod), &self.controller.revoked);
            let out = [&identity, &self.identity_of(&b.pod)].iter().any(|id| revoked.contains(*id));
            for family in 0..2 {
                let fate = self.fate(a, b, family);
                let right = match (self.is_wanted(a) && self.is_wanted(b), a.node == b.node) {
                    (true, true) => fate == Fate::Local,
                    (true, false) if out => matches!(fate, Fate::Dropped(_)),
                    (true, false) => matches!(&fate, Fate::Tunnel { from, .. } if *from == identity),
                    (false, _) => fate == Fate::Clear,
                };
                assert!(right, "{} -> {}: {fate:?}", a.pod.uid, b.pod.uid);
            }
        }
    }

    /// i5: what a node holds follows from who is attached now, and nothing waits.
    fn check_nothing_is_left(&self) {
        let mut everybody: BTreeMap<PeerName, BTreeSet<_>> = BTreeMap::new();
        for node in &self.nodes {
            let identity = SpiffeId::for_node(&self.trust_domain, &node.name).unwrap();
            everybody.entry(PeerName { node: node.name.clone(), identity }).or_default().insert(node.at.ip());
        }
        for workload in self.workloads.iter().filter(|workload| self.is_wanted(workload)) {
            let (node, identity) = (self.nodes[workload.node].name.clone(), self.identity_of(&workload.pod));
            everybody.entry(PeerName { node, identity }).or_default().extend(workload.ips);
        }
        for node in &self.nodes {
            let daemon = node.daemon.as_ref().unwrap();
            let here = everybody.iter().filter(|(peer, _)| peer.node == node.name);
            let wanted: BTreeMap<_, _> = here.map(|(peer, ips)| (&peer.identity, ips)).collect();
            let locals: BTreeMap<_, _> = node.kernel.locals.iter().map(|(id, local)| (id, &local.addresses)).collect();
            assert_eq!(locals, wanted, "i5: identities of {}", node.name);
            let there = everybody.iter().filter(|(peer, _)| peer.node != node.name);
            let peers = node.kernel.peers.iter().map(|(peer, remote)| (peer, &remote.addresses));
            assert_eq!(peers.collect::<BTreeMap<_, _>>(), there.collect(), "i5: peers of {}", node.name);
            let occupancy = daemon.engine.occupancy();
            assert_eq!((occupancy.held, occupancy.staged, occupancy.parked), (0, 0, 0), "i5: {}", node.name);
            assert!(node.floor.len() <= self.floor_bound(), "i5: {} remembers too much", node.name);
        }
    }

    /// Each (node, identity) at most once: four accounts in two namespaces and the node itself.
    fn floor_bound(&self) -> usize {
        self.nodes.len() * 9
    }
}
