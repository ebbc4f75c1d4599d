//! The kinds that Weft reads and writes as the API server names them, and one untyped shape for all of them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use kube::core::{ApiResource, DynamicResourceScope};
use plan::ObjectKey;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::super::convert;
use super::super::parse::Name;

/// A kind as the API server serves it.
#[derive(Clone, Copy, Debug)]
pub(super) struct KindName {
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) kind: &'static str,
    pub(super) plural: &'static str,
    /// Somebody else's custom kind, which may not be installed.
    pub(super) optional: bool,
}

const fn ours(kind: &'static str, plural: &'static str) -> KindName {
    KindName { group: "weft.dev", version: "v1alpha1", kind, plural, optional: false }
}

const fn built_in(kind: &'static str, plural: &'static str) -> KindName {
    KindName { group: "", version: "v1", kind, plural, optional: false }
}

/// Istio's group.
pub(super) const ISTIO: &str = "security.istio.io";
/// The group of the administrator's tiers.
pub(super) const ADMINISTRATORS: &str = "policy.networking.k8s.io";

/// A kind of the administrator's tiers (network-policy-api), where it is installed.
const fn administrators(kind: &'static str, version: &'static str, plural: &'static str) -> KindName {
    KindName { group: ADMINISTRATORS, version, kind, plural, optional: true }
}

pub(super) const NODE: KindName = built_in("Node", "nodes");
pub(super) const NETWORK_POLICY: KindName =
    KindName { group: "networking.k8s.io", ..built_in("NetworkPolicy", "networkpolicies") };
/// Written, and never read.
pub(super) const EVENT: KindName = built_in("Event", "events");
pub(super) const PEER_AUTHENTICATION: KindName = ours("PeerAuthentication", "peerauthentications");
pub(super) const AUTHORIZATION_POLICY: KindName = ours("AuthorizationPolicy", "authorizationpolicies");
pub(super) const MESH_NODE: KindName = ours("MeshNode", "meshnodes");
pub(super) const MESH_ENDPOINT_SLICE: KindName = ours("MeshEndpointSlice", "meshendpointslices");
pub(super) const MESH_TRUST: KindName = ours("MeshTrust", "meshtrusts");

/// Everything that is watched.
pub(super) const WATCHED: [KindName; 13] = [
    built_in("Namespace", "namespaces"),
    NODE,
    built_in("Pod", "pods"),
    NETWORK_POLICY,
    PEER_AUTHENTICATION,
    AUTHORIZATION_POLICY,
    KindName { group: ISTIO, version: "v1", optional: true, ..PEER_AUTHENTICATION },
    MESH_NODE,
    MESH_ENDPOINT_SLICE,
    MESH_TRUST,
    administrators("ClusterNetworkPolicy", "v1alpha2", "clusternetworkpolicies"),
    administrators("AdminNetworkPolicy", "v1alpha1", "adminnetworkpolicies"),
    administrators("BaselineAdminNetworkPolicy", "v1alpha1", "baselineadminnetworkpolicies"),
];

impl KindName {
    pub(super) fn resource(&self) -> ApiResource {
        let (group, version) = (self.group.to_owned(), self.version.to_owned());
        let api_version = if group.is_empty() { version.clone() } else { format!("{group}/{version}") };
        let (kind, plural) = (self.kind.to_owned(), self.plural.to_owned());
        ApiResource { group, version, api_version, kind, plural }
    }

    /// What an object of this kind is called in the view. A name with a slash can be nobody's own: Istio's policies
    /// cannot be taken for ours of the same name.
    pub(super) fn key(&self, object: &Raw) -> Option<ObjectKey> {
        let metadata = &object.metadata;
        let name = metadata.name.clone().unwrap_or_default();
        let is_ours_too = WATCHED.iter().any(|other| other.kind == self.kind && !other.optional);
        let name = if self.optional && is_ours_too { format!("{}/{name}", self.group) } else { name };
        let namespace = metadata.namespace.clone().unwrap_or_default();
        convert::key(&Name { kind: self.kind.to_owned(), namespace, name })
    }
}

/// An object of any kind, as far as Weft looks into one.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Raw {
    #[serde(default, deserialize_with = "read_metadata")]
    pub(super) metadata: ObjectMeta,
    #[serde(default)]
    pub(super) spec: Value,
    #[serde(default)]
    pub(super) status: Value,
}

/// What Weft and its watches look at of the metadata. The rest is passed over: who wrote which field is two fifths of a pod
/// (docs/measurements.md).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    creation_timestamp: Option<Time>,
    resource_version: Option<String>,
    generation: Option<i64>,
}

fn read_metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let read = Metadata::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name: read.name,
        namespace: read.namespace,
        uid: read.uid,
        labels: read.labels,
        creation_timestamp: read.creation_timestamp,
        resource_version: read.resource_version,
        generation: read.generation,
        ..ObjectMeta::default()
    })
}

impl Raw {
    /// Where it stands among all changes of its kind; 0 where that cannot be said. API servers count in whole numbers
    /// (comparable by their word since Kubernetes 1.35, in fact always).
    pub(super) fn version(&self) -> u64 {
        self.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
    }

    /// As a manifest spells it.
    pub(super) fn into_manifest(self) -> Value {
        let metadata = &self.metadata;
        let mut value = json!({"metadata": {
            "name": metadata.name,
            "namespace": metadata.namespace.as_deref().unwrap_or_default(),
            "uid": metadata.uid.as_deref().unwrap_or_default(),
            "labels": metadata.labels,
            "creationTimestamp": metadata.creation_timestamp,
        }});
        if let Value::Object(map) = &mut value {
            for (name, part) in [("spec", self.spec), ("status", self.status)] {
                if !part.is_null() {
                    map.insert(name.to_owned(), part);
                }
            }
        }
        value
    }
}

impl Resource for Raw {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn api_version(resource: &ApiResource) -> Cow<'_, str> {
        resource.api_version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
