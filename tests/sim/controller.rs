//! The controller: the planner's assigner and the issuer, with the glue of `meshd/src/controller`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use identity::key_ring::{requestable, validity};
use identity::{Binding, CLOCK_SKEW, IssuerKey, NodeName, SLICE_DOMAIN, SpiffeId, TrustDomain, UnixTime, Verifier};
use plan::view::{EndpointSlice, Event, Object, RequestedKey};
use plan::{Assigner, ClusterView};
use ring::rand::SystemRandom;

use crate::directory::{Entry, slice_bytes};
use crate::node::ROOT_NAMESPACE;

pub struct Controller {
    issuer: IssuerKey,
    trust_domain: TrustDomain,
    period: Duration,
    pub revoked: BTreeSet<SpiffeId>,
    /// `None` while it is away.
    brain: Option<Brain>,
}

#[derive(Default)]
struct Brain {
    view: ClusterView,
    assigner: Option<Assigner>,
    /// Our own words of a former life.
    held: BTreeMap<NodeName, EndpointSlice>,
    slices: BTreeMap<NodeName, EndpointSlice>,
    signed: BTreeMap<NodeName, BTreeMap<RequestedKey, String>>,
    answered: BTreeMap<NodeName, Vec<String>>,
}

impl Controller {
    pub fn new(trust_domain: TrustDomain, period: Duration) -> Self {
        let random = SystemRandom::new();
        let issuer = IssuerKey::from_pkcs8(&IssuerKey::generate_pkcs8(&random).unwrap(), random).unwrap();
        Self { issuer, trust_domain, period, revoked: BTreeSet::new(), brain: None }
    }

    pub fn verifier(&self) -> Verifier {
        self.issuer.verifier(self.trust_domain.clone())
    }

    pub fn is_there(&self) -> bool {
        self.brain.is_some()
    }

    pub fn leave(&mut self) {
        self.brain = None;
    }

    /// Comes back with nothing but its key, what was revoked, and what the directory holds.
    pub fn list(&mut self, entries: Vec<Entry>) {
        let mut brain = Brain::default();
        brain.take(Event::Init);
        entries.into_iter().for_each(|entry| brain.hear(entry));
        brain.take(Event::InitDone);
        self.brain = Some(brain);
    }

    pub fn hear(&mut self, entry: Entry) {
        if let Some(brain) = &mut self.brain {
            brain.hear(entry);
        }
    }

    /// What is new to publish, and when to ask again.
    pub fn publish(&mut self, now: Instant, wall: UnixTime) -> (Vec<Entry>, Option<Instant>) {
        let mut out = Vec::new();
        let Some(brain) = &mut self.brain else { return (out, None) };
        let held = std::mem::take(&mut brain.held);
        let begin = || Assigner::new(self.trust_domain.clone(), ROOT_NAMESPACE.to_owned(), held, wall);
        let assigner = brain.assigner.get_or_insert_with(begin);
        let Some(assignments) = assigner.handle_view(&brain.view, &self.revoked, now) else { return (out, None) };
        let due = assigner.poll_timeout();
        for slice in assignments.slices_in_order() {
            if brain.slices.get(&slice.node) != Some(slice) {
                let signature = self.issuer.sign(SLICE_DOMAIN, &slice_bytes(slice)).unwrap();
                out.push(Entry::Slice(slice.clone(), signature));
                brain.slices.insert(slice.node.clone(), slice.clone());
            }
        }
        let epochs = requestable(self.period, wall, CLOCK_SKEW);
        for (node, keys) in &assignments.grants {
            let uid = brain.view.mesh_nodes[node].uid.clone();
            let signed = brain.signed.entry(node.clone()).or_default();
            signed.retain(|key, _| keys.contains(key));
            for key in keys.iter().filter(|key| epochs.contains(&key.epoch)) {
                signed.entry(key.clone()).or_insert_with(|| sign(&self.issuer, (node, &uid), key, self.period));
            }
            let bindings: Vec<String> = signed.values().cloned().collect();
            if brain.answered.get(node) != Some(&bindings) {
                out.push(Entry::Status(node.clone(), bindings.clone()));
                brain.answered.insert(node.clone(), bindings);
            }
        }
        (out, due)
    }
}

impl Brain {
    fn take(&mut self, event: Event) {
        self.view.handle(event).unwrap();
    }

    fn hear(&mut self, entry: Entry) {
        match entry {
            Entry::Plain(object) => self.take(Event::Apply(object)),
            Entry::Gone(key) => self.take(Event::Delete(key)),
            Entry::Spec(node) => self.take(Event::Apply(Object::MeshNode(node))),
            Entry::Slice(slice, _) if self.assigner.is_none() => drop(self.held.insert(slice.node.clone(), slice)),
            Entry::Slice(..) | Entry::Status(..) => {}
        }
    }
}

fn sign(issuer: &IssuerKey, (node, uid): (&NodeName, &str), key: &RequestedKey, period: Duration) -> String {
    let (not_before, not_after) = validity(key.epoch, period);
    let binding = Binding {
        trust_domain: key.identity.trust_domain().clone(),
        spiffe_id: key.identity.clone(),
        public_key: key.public_key,
        node: node.clone(),
        node_uid: uid.to_owned(),
        epoch: key.epoch,
        not_before,
        not_after,
        suite: key.suite,
    };
    binding.check().unwrap();
    binding.sign(issuer).unwrap().encode()
}
