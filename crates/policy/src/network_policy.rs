//! NetworkPolicy (`networking.k8s.io/v1`) as plain data: what is left of a manifest once it has been read.

use ipnet::IpNet;

use crate::selector::Selector;
use crate::workload::Protocol;

/// One NetworkPolicy. It is about the pods of its namespace that its selector selects, and isolates them in each direction
/// for which it has a list of rules, an empty one included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `spec.podSelector`; an empty one selects every pod of the namespace.
    pub selector: Selector,
    /// `spec.ingress`; `None` when the policy is not of type Ingress.
    pub ingress: Option<Vec<NetworkRule>>,
    /// `spec.egress`; `None` when the policy is not of type Egress.
    pub egress: Option<Vec<NetworkRule>>,
}

/// One rule: traffic that has one of the peers at its other end *and* goes to one of the ports is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkRule {
    /// `from` or `to`; `None` (the field missing or an empty list) is anybody. `Some` of nothing is nobody: what is left
    /// when no peer of a list could be read.
    pub peers: Option<Vec<NetworkPeer>>,
    /// `ports`; `None` (missing or an empty list) is every port of every protocol, `Some` of nothing is no port.
    pub ports: Option<Vec<NetworkPort>>,
}

/// One peer of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkPeer {
    /// Pods by their labels.
    Pods {
        /// Which namespaces; `None` is the policy's own.
        namespaces: Option<Selector>,
        /// Which pods of them.
        pods: Selector,
    },
    /// Addresses, whoever they belong to.
    Block {
        /// This prefix,
        cidr: IpNet,
        /// without these.
        except: Vec<IpNet>,
    },
}

/// One port of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkPort {
    /// Every port of a protocol.
    Every(Protocol),
    /// Ports by number, both ends included.
    Range(Protocol, u16, u16),
    /// The container port of this name, at whichever pod is the destination.
    Named(Protocol, String),
}
