//! What a node said and is not believed, and why.

use std::net::IpAddr;

use identity::{Epoch, NodeName, SpiffeId};
use thiserror::Error;

/// Something a node said that is not believed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// The node that said it.
    pub node: NodeName,
    /// About which identity and epoch, where it is about a key.
    pub key: Option<(SpiffeId, Epoch)>,
    /// Why.
    pub reason: RefusalReason,
}

/// Why a node's claim is not believed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum RefusalReason {
    /// The identity has no live, enrolled workload attached there.
    #[error("no live enrolled workload of {identity} is attached on this node")]
    NoWorkload {
        /// The identity asked for.
        identity: SpiffeId,
    },
    /// Somebody withdrew the identity.
    #[error("{identity} is revoked: give it back with `meshctl identity restore`")]
    Revoked {
        /// The identity asked for.
        identity: SpiffeId,
    },
    /// More keys than any rotation needs.
    #[error("more than {max} keys of {identity} are asked for")]
    TooManyKeys {
        /// The identity asked for.
        identity: SpiffeId,
        /// The limit.
        max: usize,
    },
    /// The same public key is another's already: a node's secret was copied.
    #[error(
        "the public key asked for is {holder}'s on node {node}: a node's secret was copied, \
         remove it from the node it does not belong to"
    )]
    KeyHeld {
        /// The node that has it.
        node: NodeName,
        /// The identity that has it.
        holder: SpiffeId,
    },
    /// The pod is unknown, finished, of another UID, or scheduled elsewhere.
    #[error("pod {pod} with that UID is not scheduled on this node")]
    NotScheduled {
        /// `namespace/name`.
        pod: String,
    },
    /// The pod is enrolled, has addresses, and no interface of it came through our plugin.
    #[error("pod {pod} is enrolled but not attached: it was started without mesh-cni, start it again")]
    NotAttached {
        /// `namespace/name`.
        pod: String,
    },
    /// The address cannot be this pod's.
    #[error("{ip} cannot be {pod}'s: {why}")]
    Address {
        /// The address claimed.
        ip: IpAddr,
        /// `namespace/name`, or the node's name.
        pod: String,
        /// What stands against it.
        why: AddressFault,
    },
}

/// What stands against an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum AddressFault {
    /// Unspecified, loopback, multicast, link-local, reserved, or an IPv4 address in IPv6 clothes.
    #[error("it is no unicast address of a workload")]
    Kind,
    /// Outside the node's pod ranges, or in another node's.
    #[error("it is outside the node's pod CIDRs")]
    Range,
    /// The pod's status names others.
    #[error("the pod's status names other addresses")]
    Status,
    /// A node's own address.
    #[error("it is a node's own address")]
    NodeAddress,
    /// Another live workload holds it.
    #[error("another live workload holds it")]
    Held,
    /// Not among the node's addresses in its Node object.
    #[error("the Node object does not list it")]
    Unlisted,
    /// The node has more addresses than fit into its slice.
    #[error("the node has too many addresses")]
    TooMany,
}
