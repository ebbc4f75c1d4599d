//! The door: manifests of Kubernetes' and our kinds become the planner's plain data, or a sentence about what is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use identity::NodeName;
use ipnet::IpNet;
use plan::view::{Namespace, Node, Object, ObjectKey, Pod};
use policy::manifest::{Parsed, authorization_policy, cluster_policy, network_policy, pod_ports};
use policy::{Expression, Labels, MESH_LABEL, PeerAuthentication, PolicyKind, Selector};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::api::{self, Metadata, ModeName, OutboundName, null_is_empty};
use super::parse::{Name, is_dns_name};

/// An object of a kind that Weft reads.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Manifest {
    /// What a node says of itself, unverified.
    MeshNode(Box<api::MeshNode>),
    /// The controller's word on a node's addresses, unverified.
    MeshEndpointSlice(api::MeshEndpointSlice),
    /// The trust domain's certificates, unverified.
    MeshTrust(api::MeshTrust),
    /// Everything that needs no proof.
    Plain(Object),
}

/// Kinds of namespaces that say who may talk to whom and how.
const POLICIES: [&str; 3] = ["PeerAuthentication", "NetworkPolicy", "AuthorizationPolicy"];
/// The kinds of the administrator's tiers.
const CLUSTER_POLICIES: [PolicyKind; 3] =
    [PolicyKind::ClusterNetworkPolicy, PolicyKind::AdminNetworkPolicy, PolicyKind::BaselineAdminNetworkPolicy];

/// The key of an object of a kind that Weft reads; `None` for other kinds.
pub(super) fn key(name: &Name) -> Option<ObjectKey> {
    let kinds = ["Namespace", "Node", "MeshNode", "MeshEndpointSlice", "MeshTrust", "Pod"];
    let kinds = kinds.into_iter().chain(POLICIES).chain(CLUSTER_POLICIES.map(PolicyKind::as_str));
    let kind = kinds.into_iter().find(|kind| *kind == name.kind)?;
    let namespace = match kind {
        "Pod" | "PeerAuthentication" | "NetworkPolicy" | "AuthorizationPolicy" if name.namespace.is_empty() => {
            "default".to_owned()
        }
        "Pod" | "PeerAuthentication" | "NetworkPolicy" | "AuthorizationPolicy" => name.namespace.clone(),
        _ => String::new(),
    };
    Some(ObjectKey { kind, namespace, name: name.name.clone() })
}

/// Whether a manifest of a policy's kind is of the group that has that kind for us: other projects use the same words.
pub(super) fn is_of_its_group(key: &ObjectKey, value: &Value) -> bool {
    let version = value.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    let group = version.split_once('/').map_or("", |(group, _)| group);
    match key.kind {
        _ if version.is_empty() => cluster_kind(key).is_none(),
        "NetworkPolicy" => group == "networking.k8s.io",
        "AuthorizationPolicy" | "PeerAuthentication" => ["weft.dev", "security.istio.io"].contains(&group),
        _ => cluster_kind(key).is_none() || group == "policy.networking.k8s.io",
    }
}

fn cluster_kind(key: &ObjectKey) -> Option<PolicyKind> {
    CLUSTER_POLICIES.into_iter().find(|kind| kind.as_str() == key.kind)
}

/// What came out of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Converted {
    pub(super) manifest: Manifest,
    /// What of it is not used although the rest is: parts of policies, each told of by its path.
    pub(super) unused: Vec<String>,
}

/// Converts one manifest; `changed` (seconds since 1970) stands in for an absent creation time.
pub(super) fn manifest(key: &ObjectKey, value: &Value, changed: u64) -> Result<Converted, String> {
    let whole = |manifest| Converted { manifest, unused: Vec::new() };
    let plain = |object| whole(Manifest::Plain(object));
    let metadata: Metadata = read(key, value.get("metadata").unwrap_or(&Value::Null))?;
    if let Some(kind) = cluster_kind(key) {
        return Ok(policy(key, cluster_policy(kind, &key.name, value), |it| Object::ClusterPolicy(it.into())));
    }
    match key.kind {
        "Namespace" => {
            let unused = mistaken_label(key, &metadata.labels);
            let namespace = Namespace { name: key.name.clone(), labels: metadata.labels };
            Ok(Converted { manifest: Manifest::Plain(Object::Namespace(namespace)), unused })
        }
        "Node" => node(key, metadata, value).map(|n| plain(Object::Node(n))),
        "Pod" => {
            let unused = mistaken_label(key, &metadata.labels);
            pod(key, metadata, value).map(|p| Converted { manifest: Manifest::Plain(Object::Pod(p)), unused })
        }
        "PeerAuthentication" => {
            let created = created(&metadata, changed)?;
            peer_authentication(key, value, created).map(|p| plain(Object::PeerAuthentication(p)))
        }
        "NetworkPolicy" => {
            let parsed = network_policy(&key.namespace, &key.name, value);
            Ok(policy(key, parsed, |it| Object::NetworkPolicy(it.into())))
        }
        "AuthorizationPolicy" => {
            let parsed = authorization_policy(&key.namespace, &key.name, value);
            // nobody can tell which way it was meant: the last good one stays
            if let Some(refusal) = parsed.refusals.iter().find(|refusal| refusal.path == "spec.direction") {
                return Err(format!("{}: {refusal}", title(key)));
            }
            Ok(policy(key, parsed, |it| Object::AuthorizationPolicy(it.into())))
        }
        "MeshNode" => {
            let node: api::MeshNode = read(key, value)?;
            // a key that is no key is found here, not where it is used
            node.to_view().ok_or_else(|| format!("{}: a key is not 32 bytes of base64", title(key)))?;
            Ok(whole(Manifest::MeshNode(Box::new(node))))
        }
        "MeshEndpointSlice" => {
            let slice: api::MeshEndpointSlice = read(key, value)?;
            match slice.spec.endpoints.iter().find(|e| e.ip.is_none() && e.ips.is_empty()) {
                Some(nowhere) => Err(format!("{}: the endpoint of `{}` has no address", title(key), nowhere.name)),
                None => Ok(whole(Manifest::MeshEndpointSlice(slice))),
            }
        }
        _ => read(key, value).map(Manifest::MeshTrust).map(whole),
    }
}

fn policy<T>(key: &ObjectKey, parsed: Parsed<T>, object: impl FnOnce(T) -> Object) -> Converted {
    let unused = parsed.refusals.iter().map(|refusal| format!("{}: {refusal}", title(key))).collect();
    Converted { manifest: Manifest::Plain(object(parsed.value)), unused }
}

/// A word about a label of ours that says nothing: somebody meant to take part in the mesh, or not to.
fn mistaken_label(key: &ObjectKey, labels: &Labels) -> Vec<String> {
    let value = labels.get(MESH_LABEL).filter(|value| !["enabled", "disabled"].contains(&value.as_str()));
    let word = |value: &String| {
        format!("{}: label {MESH_LABEL}=`{value}` is neither `enabled` nor `disabled` and counts as absent", title(key))
    };
    value.map(word).into_iter().collect()
}

/// How a sentence names an object.
pub(super) fn title(key: &ObjectKey) -> String {
    let slash = if key.namespace.is_empty() { "" } else { "/" };
    format!("{} {}{slash}{}", key.kind, key.namespace, key.name)
}

fn read<T: DeserializeOwned>(key: &ObjectKey, value: &Value) -> Result<T, String> {
    serde_json::from_value(value.clone()).map_err(|error| format!("{}: {error}", title(key)))
}

fn created(metadata: &Metadata, changed: u64) -> Result<u64, String> {
    let Some(text) = &metadata.creation_timestamp else { return Ok(changed) };
    let time: jiff::Timestamp = text.parse().map_err(|e| format!("metadata.creationTimestamp `{text}`: {e}"))?;
    Ok(u64::try_from(time.as_second()).unwrap_or(0))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeManifest {
    #[serde(default)]
    spec: NodeSpec,
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeSpec {
    #[serde(default, rename = "podCIDR")]
    pod_cidr: Option<IpNet>,
    #[serde(default, rename = "podCIDRs", deserialize_with = "null_is_empty")]
    pod_cidrs: Vec<IpNet>,
}

#[derive(Default, Deserialize)]
struct NodeStatus {
    #[serde(default, deserialize_with = "null_is_empty")]
    addresses: Vec<NodeAddress>,
}

#[derive(Deserialize)]
struct NodeAddress {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

fn node(key: &ObjectKey, metadata: Metadata, value: &Value) -> Result<Node, String> {
    let manifest: NodeManifest = read(key, value)?;
    let mut pod_cidrs = manifest.spec.pod_cidrs;
    pod_cidrs.extend(manifest.spec.pod_cidr.filter(|cidr| !pod_cidrs.contains(cidr)));
    let internal = manifest.status.addresses.iter().filter(|a| a.kind == "InternalIP");
    let addresses =
        internal.map(|a| a.address.parse().map_err(|e| format!("{}: address `{}`: {e}", title(key), a.address)));
    let addresses = addresses.collect::<Result<_, _>>()?;
    let Metadata { uid, labels, .. } = metadata;
    Ok(Node { name: NodeName(key.name.clone()), uid, labels, pod_cidrs, addresses })
}

#[derive(Deserialize)]
struct PodManifest {
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    node_name: Option<String>,
    service_account_name: Option<String>,
    #[serde(default)]
    host_network: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(default, rename = "podIPs", deserialize_with = "null_is_empty")]
    pod_ips: Vec<PodIp>,
}

#[derive(Deserialize)]
struct PodIp {
    ip: String,
}

fn pod(key: &ObjectKey, metadata: Metadata, value: &Value) -> Result<Pod, String> {
    let manifest: PodManifest = read(key, value)?;
    let account =
        manifest.spec.service_account_name.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".into());
    if !is_dns_name(&account) {
        return Err(format!("{}: spec.serviceAccountName `{account}` is no RFC 1123 subdomain", title(key)));
    }
    let ip = |text: &String| text.parse::<IpAddr>().map_err(|e| format!("{}: pod address `{text}`: {e}", title(key)));
    let texts = manifest.status.pod_ips.iter().map(|p| &p.ip).chain(&manifest.status.pod_ip);
    let uid = if metadata.uid.is_empty() { format!("{}/{}", key.namespace, key.name) } else { metadata.uid };
    Ok(Pod {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        uid,
        labels: metadata.labels,
        node: manifest.spec.node_name.filter(|name| !name.is_empty()).map(NodeName),
        service_account: account,
        host_network: manifest.spec.host_network,
        finished: matches!(manifest.status.phase.as_deref(), Some("Succeeded" | "Failed")),
        ips: texts.map(ip).collect::<Result<BTreeSet<_>, _>>()?,
        ports: value.get("spec").map(pod_ports).unwrap_or_default(),
    })
}

#[derive(Deserialize)]
struct PeerAuthenticationManifest {
    #[serde(default, deserialize_with = "null_is_empty")]
    spec: PeerAuthenticationSpec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PeerAuthenticationSpec {
    selector: Option<LabelSelector>,
    mtls: Option<Mtls>,
    #[serde(default, deserialize_with = "null_is_empty")]
    port_level_mtls: BTreeMap<String, Mtls>,
    outbound: Option<OutboundName>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mtls {
    mode: Option<ModeName>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LabelSelector {
    #[serde(default, deserialize_with = "null_is_empty")]
    match_labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    match_expressions: Vec<Requirement>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Requirement {
    key: String,
    operator: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    values: BTreeSet<String>,
}

fn peer_authentication(key: &ObjectKey, value: &Value, created: u64) -> Result<PeerAuthentication, String> {
    let spec = read::<PeerAuthenticationManifest>(key, value)?.spec;
    let mut ports = BTreeMap::new();
    for (port, mtls) in &spec.port_level_mtls {
        let number = port.parse::<u16>().ok().filter(|p| *p != 0);
        let number =
            number.ok_or_else(|| format!("{}: portLevelMtls: `{port}` is no port (1 to 65535)", title(key)))?;
        ports.insert(number, mtls.mode.and_then(ModeName::mode));
    }
    let selector = spec.selector.map(|s| selector(key, s)).transpose()?;
    if !ports.is_empty() && selector.as_ref().is_none_or(Selector::is_empty) {
        let reason = "portLevelMtls needs a selector that names labels: ports are a workload's";
        return Err(format!("{}: {reason}", title(key)));
    }
    Ok(PeerAuthentication {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        created,
        selector,
        mode: spec.mtls.and_then(|mtls| mtls.mode).and_then(ModeName::mode),
        ports,
        outbound: spec.outbound.map(OutboundName::outbound),
    })
}

fn selector(key: &ObjectKey, selector: LabelSelector) -> Result<Selector, String> {
    let expression = |r: Requirement| match (r.operator.as_str(), r.values.is_empty()) {
        ("In", false) => Ok(Expression::In(r.key, r.values)),
        ("NotIn", false) => Ok(Expression::NotIn(r.key, r.values)),
        ("Exists", true) => Ok(Expression::Exists(r.key)),
        ("DoesNotExist", true) => Ok(Expression::DoesNotExist(r.key)),
        ("In" | "NotIn", true) => Err(format!("{}: operator {} needs values", title(key), r.operator)),
        ("Exists" | "DoesNotExist", false) => Err(format!("{}: operator {} takes no values", title(key), r.operator)),
        _ => Err(format!("{}: `{}` is no operator: In, NotIn, Exists, DoesNotExist", title(key), r.operator)),
    };
    let expressions = selector.match_expressions.into_iter().map(expression).collect::<Result<_, _>>()?;
    Ok(Selector { match_labels: selector.match_labels, expressions })
}
