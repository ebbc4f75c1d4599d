//! CHECK: what has drifted since ADD, inside the pod and in the node's kernel.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use cni::{AddResult, Attachment, Code, Error as CniError};

use super::Node;

/// What CHECK is told that there should be.
pub(super) struct Expected {
    /// Empty where it is not said.
    ips: BTreeSet<IpAddr>,
    /// In bytes; `None` where it is not said.
    mtu: Option<u32>,
}

impl Expected {
    /// What the previous result says of an attachment.
    pub(super) fn of(previous: &AddResult, attachment: &Attachment) -> Self {
        let view = previous.view();
        let ips = view.addresses(attachment.ifname()).into_iter().collect();
        let own = view.interfaces.iter().find(|i| i.sandbox.is_some() && i.name == attachment.ifname());
        Self { ips, mtu: own.and_then(|interface| interface.mtu) }
    }
}

impl Node {
    /// Whether an attachment is as ADD left it, inside the pod and in the node's kernel.
    pub(super) async fn check(
        &mut self,
        attachment: &Attachment,
        netns: &str,
        expected: &Expected,
    ) -> Result<(), CniError> {
        let Some(held) = self.attachments.record(attachment.container_id(), attachment.ifname()).cloned() else {
            let hint = "DEL and ADD it again";
            return Err(CniError::new(Code::UNKNOWN_CONTAINER, format!("{attachment} is not attached"), hint));
        };
        let drifted = |what: String| {
            CniError::new(
                Code::DRIFTED,
                format!("{attachment}: {what}"),
                "meshd repairs what is its own; DEL and ADD the rest",
            )
        };
        let link = self.kernel.host_link(Path::new(netns), attachment.ifname()).await;
        let link = link.map_err(|error| drifted(format!("{error:#}")))?;
        if link.name != held.link || link.mac != held.mac {
            return Err(drifted(format!("its host side was {} and is {}, or its MAC changed", held.link, link.name)));
        }
        if !link.up {
            return Err(drifted(format!("it is down, inside the pod or at its host side {}", link.name)));
        }
        if !held.ips.is_subset(&link.ips) || (!expected.ips.is_empty() && expected.ips != held.ips) {
            return Err(drifted(format!("its addresses were {:?} and are {:?}", held.ips, link.ips)));
        }
        if let Some(mtu) = expected.mtu.filter(|mtu| *mtu != link.mtu) {
            return Err(drifted(format!("its MTU was {mtu} and is {}", link.mtu)));
        }
        match self.kernel.drift().await {
            Ok(drift) if drift.is_empty() && self.kernel.holds_pin(&held.link) => Ok(()),
            Ok(drift) => {
                self.desired = None;
                Err(drifted(format!("gone from the kernel: {}", drift.join(", "))))
            }
            Err(error) => Err(drifted(format!("the kernel cannot be asked: {error:#}"))),
        }
    }
}
