//! A workload as policy sees it: namespace, labels, addresses, named ports, and who its key says it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::selector::Labels;

/// The label that Kubernetes puts on every namespace: its own name.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// `namespace/name`, cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WorkloadId(Arc<str>);

impl WorkloadId {
    /// The workload of this name.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self(format!("{namespace}/{name}").into())
    }

    /// A node where it is a peer: `/name`.
    #[must_use]
    pub fn of_node(name: &str) -> Self {
        Self::new("", name)
    }

    /// `namespace/name`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A transport protocol that policies can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// IP protocol 6.
    Tcp,
    /// IP protocol 17.
    Udp,
    /// IP protocol 132.
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The IP protocol number (IANA).
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol of this IP protocol number.
    #[must_use]
    pub fn of_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.number() == number)
    }

    /// As manifests spell it: `TCP`, `UDP`, `SCTP`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// The protocol that manifests spell like this, exactly.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.as_str() == name)
    }
}

/// A container port with a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedPort {
    /// The name that policies use.
    pub name: String,
    /// Its protocol; a name is looked for together with a protocol.
    pub protocol: Protocol,
    /// The port number.
    pub port: u16,
}

/// A live pod or VM. Pods on the host's network are none, and neither is what has ended (phase Succeeded or Failed): its
/// address may already be somebody else's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its own labels.
    pub labels: Labels,
    /// All its addresses, of both families; may be empty while it has none.
    pub addresses: BTreeSet<IpAddr>,
    /// Named container ports.
    pub ports: BTreeSet<NamedPort>,
    /// The SPIFFE ID that its key proves, or would prove if it were a member.
    pub identity: Option<String>,
    /// Whether it is in the mesh, so that its identity can be proven at all.
    pub enrolled: bool,
    /// Where it runs.
    pub node: Option<String>,
}

impl Workload {
    /// Its key.
    #[must_use]
    pub fn id(&self) -> WorkloadId {
        WorkloadId::new(&self.namespace, &self.name)
    }
}

/// A node as policy sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its labels.
    pub labels: Labels,
    /// Its own addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// The SPIFFE ID that its key proves.
    pub identity: Option<String>,
}

/// Everything that policies are held against.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// Labels by namespace name. [`NAMESPACE_NAME_LABEL`] is added by the compiler. A namespace that is not listed has
    /// only that label.
    pub namespaces: BTreeMap<String, Labels>,
    /// The live workloads.
    pub workloads: Vec<Workload>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// The namespace whose AuthorizationPolicies are about the whole mesh.
    pub root_namespace: String,
}
