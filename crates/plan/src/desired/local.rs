//! What lives here: pins, identities, and how far each workload is in the mesh.

use std::collections::BTreeMap;
use std::net::IpAddr;

use identity::SpiffeId;
use policy::{EffectiveMode, Outbound};

use super::{Desired, Here, LocalAttachment, Pin};
use crate::view::{ClusterView, Endpoint, Phase};

/// How a local workload takes part in the mesh right now.
///
/// Its manifests say where it goes, its own published endpoint says how far everybody else is, and whether it is
/// `patient` says whether it waits for them. A controller that is away or wrong can keep a workload from going in, and
/// cannot bring one out or open it that its manifests hold in the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whose packets it sends and takes by the tunnel; `None` where it is wholly outside.
    pub identity: Option<SpiffeId>,
    /// What its manifests say while they hold it in the mesh.
    pub mode: Option<EffectiveMode>,
    /// How far it is as published; `None` where nothing is published of it.
    pub phase: Option<Phase>,
    /// Whether it sends by the tunnel.
    pub is_switched: bool,
    patient: bool,
}

impl Standing {
    /// Looks it up.
    #[must_use]
    pub fn of(view: &ClusterView, here: &Here, attachment: &LocalAttachment) -> Self {
        let patient = attachment.patient;
        let outside = Self { identity: None, mode: None, phase: None, is_switched: false, patient };
        let Some(pod) = attachment.pod.as_ref() else { return outside };
        let own = SpiffeId::for_service_account(&here.trust_domain, &pod.namespace, &pod.service_account);
        let Ok(own) = own else { return outside };
        let mode = Desired::membership(view, here, pod).map(|(_, mode)| mode);
        let published = attachment.ips.iter().filter_map(|ip| endpoint(view, here, attachment, *ip));
        let phase = published.map(Endpoint::phase).max();
        let is_switched = phase >= Some(Phase::Switched) || (mode.is_some() && !patient);
        let takes_part = mode.is_some() || phase >= Some(Phase::Ready);
        Self { identity: takes_part.then_some(own), mode, phase, is_switched, patient }
    }

    /// Whether it is to be patient from now on: it was outside as far as anybody knew, or still is not enforced.
    #[must_use]
    pub fn is_patient_after(&self) -> bool {
        match (&self.mode, self.phase) {
            (Some(_), Some(Phase::Enforced)) => false,
            (None, None | Some(Phase::Outside | Phase::Ready)) => true,
            (Some(_) | None, _) => self.patient,
        }
    }

    /// Whether clear text to one of its addresses, published this far, is refused as the mode says.
    fn refuses(&self, published: Option<Phase>) -> bool {
        self.mode.is_some() && (!self.patient || published.or(self.phase) == Some(Phase::Enforced))
    }
}

/// What is published of this workload's address; not what is published of a former holder.
fn endpoint<'a>(view: &'a ClusterView, here: &Here, attachment: &LocalAttachment, ip: IpAddr) -> Option<&'a Endpoint> {
    let uid = &attachment.pod.as_ref()?.uid;
    view.slices.get(&here.node)?.endpoints.get(&ip).filter(|endpoint| endpoint.uid == *uid)
}

/// Adds all attachments and this node itself.
pub(super) fn add(desired: &mut Desired, view: &ClusterView, here: &Here) {
    let mut holder: BTreeMap<IpAddr, usize> = BTreeMap::new();
    for (index, attachment) in here.attachments.iter().enumerate() {
        holder.extend(attachment.ips.iter().map(|ip| (*ip, index)));
    }
    holder.retain(|ip, _| !here.addresses.contains(ip));
    for (index, attachment) in here.attachments.iter().enumerate() {
        let held = |ip: &&IpAddr| holder.get(*ip) == Some(&index);
        let ips = attachment.ips.iter().filter(held).copied().collect();
        add_attachment(desired, view, here, &LocalAttachment { ips, ..attachment.clone() });
    }
    if let Ok(identity) = SpiffeId::for_node(&here.trust_domain, &here.node) {
        desired.locals.entry(identity).or_default().addresses.extend(&here.addresses);
    }
}

fn add_attachment(desired: &mut Desired, view: &ClusterView, here: &Here, attachment: &LocalAttachment) {
    let standing = Standing::of(view, here, attachment);
    let (mac, addresses) = (attachment.mac, attachment.ips.clone());
    let pin = Pin { mac, addresses, enrolled: standing.is_switched };
    desired.filter.pins.insert(attachment.link.clone(), pin);
    desired.filter.local.extend(&attachment.ips);
    if let Some(identity) = &standing.identity {
        desired.locals.entry(identity.clone()).or_default().addresses.extend(&attachment.ips);
    }
    if !standing.is_switched {
        return;
    }
    desired.filter.enrolled.extend(&attachment.ips);
    let Some(mode) = &standing.mode else { return };
    if mode.outbound == Outbound::RequireMesh {
        desired.filter.require_mesh.extend(&attachment.ips);
    }
    for ip in &attachment.ips {
        if standing.refuses(endpoint(view, here, attachment, *ip).map(Endpoint::phase)) {
            add_mode(desired, *ip, mode);
        }
    }
}

/// Members that are on this node and that no attachment is known of: its file was lost, or its ADD is still to come.
/// Nothing reaches them by tunnel and nothing of theirs is marked; clear text to them is judged as their manifests say.
pub(super) fn fence(desired: &mut Desired, view: &ClusterView, here: &Here) {
    for pod in view.pods.values().filter(|pod| pod.node.as_ref() == Some(&here.node)) {
        let Some((_, mode)) = Desired::membership(view, here, pod) else { continue };
        // a status can say anything: only what lies where this node's pods are
        let is_ours = |ip: &&IpAddr| desired.filter.own_ranges.iter().any(|range| range.contains(*ip));
        let is_held = |ip: &IpAddr| desired.filter.local.contains(ip) || here.addresses.contains(ip);
        let fenced: Vec<IpAddr> = pod.ips.iter().filter(is_ours).copied().filter(|ip| !is_held(ip)).collect();
        for ip in fenced {
            desired.filter.enrolled.insert(ip);
            add_mode(desired, ip, &mode);
        }
    }
}

fn add_mode(desired: &mut Desired, ip: IpAddr, mode: &EffectiveMode) {
    desired.filter.enrolled_enforced.insert(ip);
    if mode.is_strict() {
        desired.filter.strict.insert(ip);
    }
    for port in mode.ports.keys() {
        let exceptions = match (mode.is_strict(), mode.refuses_clear_at(*port)) {
            (true, false) => &mut desired.filter.open_ports,
            (false, true) => &mut desired.filter.closed_ports,
            (true, true) | (false, false) => continue,
        };
        exceptions.insert((ip, *port));
    }
}
