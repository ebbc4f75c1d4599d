//! What the wish follows from: what this node knows beside the cluster, and whether any of it is new.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use identity::TrustDomain;
use plan::desired::Standing;
use plan::{BoundKeys, Here, LocalAttachment};

use super::Node;
use super::admission::Attached;
use crate::clock::wall;

/// All that a wish follows from, as far as it is cheap to compare: where this is the same, so is the wish.
#[derive(PartialEq)]
pub(super) struct Known {
    /// Of the view's changes.
    view: u64,
    /// Of the attachments' changes. How patient each is follows from both numbers, or was set with one of them.
    attachments: u64,
    addresses: BTreeSet<IpAddr>,
    pub(super) trust_domain: Option<TrustDomain>,
    keys: Arc<BoundKeys>,
}

impl Node {
    pub(super) fn known(&self) -> Known {
        Known {
            view: self.view_number,
            attachments: self.attachments.number(),
            addresses: self.underlay.addresses.clone(),
            trust_domain: self.trust.trust_domain().cloned(),
            keys: self.trust.keys(wall()),
        }
    }

    /// What this node knows beside the cluster; `None` until its trust domain is known.
    pub(super) fn here(&self) -> Option<Here> {
        let mut attachments: Vec<_> = self.attachments.records().iter().collect();
        attachments.sort_by_key(|(_, attached)| attached.order);
        let local = |(key, attached): &(&(String, String), &Attached)| LocalAttachment {
            pod: self.pod_of(attached),
            link: attached.link.clone(),
            mac: attached.mac,
            ips: attached.ips.clone(),
            patient: self.patient.get(*key).copied().unwrap_or(false),
        };
        Some(Here {
            node: self.config.node.clone(),
            trust_domain: self.trust.trust_domain()?.clone(),
            root_namespace: self.config.shared.root_namespace.clone(),
            addresses: self.underlay.addresses.clone(),
            attachments: attachments.iter().map(local).collect(),
            keys: self.trust.keys(wall()),
        })
    }

    /// The same, once it was followed how far each workload is: one that was reachable in clear text goes in after its
    /// senders.
    pub(super) fn here_followed(&mut self) -> Option<Here> {
        let mut here = self.here()?;
        let mut keys: Vec<_> = self.attachments.records().iter().map(|(k, a)| (a.order, k.clone())).collect();
        keys.sort();
        let patient = |attachment: &LocalAttachment| Standing::of(&self.view, &here, attachment).is_patient_after();
        let patient: Vec<_> = here.attachments.iter().map(patient).collect();
        for (((_, key), attachment), patient) in keys.into_iter().zip(&mut here.attachments).zip(patient) {
            attachment.patient = patient;
            self.patient.insert(key, patient);
        }
        let records = self.attachments.records();
        self.patient.retain(|key, _| records.contains_key(key));
        Some(here)
    }
}
