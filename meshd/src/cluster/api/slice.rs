//! The MeshEndpointSlice: which address of a node is whose, and by which keys; and the bytes that its signature covers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use identity::{NodeName, SLICE_DOMAIN, SpiffeId, Verifier};
use plan::view;
use policy::{EffectiveMode, Outbound};
use serde::{Deserialize, Serialize};

use super::{IssuedBinding, Metadata, ModeName, OutboundName, json};

/// Most addresses of one entry; more of one workload are in a further one. The schema says the same, and a node that reports more of a pod
/// must not bring the controller to write what the server refuses.
pub(crate) const ADDRESSES_MAX: u32 = 64;

/// The controller's word on one node's addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MeshEndpointSlice {
    pub(crate) metadata: Metadata,
    pub(crate) spec: MeshEndpointSliceSpec,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MeshEndpointSliceSpec {
    pub(crate) node: NodeName,
    #[serde(rename = "nodeUID")]
    pub(crate) node_uid: String,
    pub(crate) revision: u64,
    #[serde(default)]
    pub(crate) endpoints: Vec<SliceEndpoint>,
    /// Of the node's keys, each signed by itself: neither the signature nor the revision is about them (decision 0024).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) bindings: Vec<IssuedBinding>,
    /// ECDSA P-256 of the issuer over the spec without this field and the bindings, base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) signature: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SliceEndpoint {
    /// What controllers wrote before an entry had all addresses of its workload: one entry for each. Read, and not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ip: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ips: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) identity: Option<SpiffeId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<ModeName>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) ports: BTreeMap<u16, ModeName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) outbound: Option<OutboundName>,
    pub(crate) enforced: bool,
    #[serde(default)]
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

impl MeshEndpointSlice {
    /// What the controller signs.
    pub(crate) fn signed_bytes(&self) -> Vec<u8> {
        json(&MeshEndpointSliceSpec { signature: String::new(), bindings: Vec::new(), ..self.spec.clone() })
    }

    /// Whether the issuer signed this slice, under this very name.
    pub(crate) fn is_signed_by(&self, verifier: &Verifier) -> bool {
        let Ok(signature) = BASE64.decode(&self.spec.signature) else { return false };
        self.metadata.name == self.spec.node.0
            && verifier.verify(SLICE_DOMAIN, &self.signed_bytes(), &signature).is_ok()
    }

    /// As the planner sees it.
    pub(crate) fn to_view(&self) -> view::EndpointSlice {
        let endpoints = |e: &SliceEndpoint| {
            let mode = e.mode.and_then(ModeName::mode).map(|mode| EffectiveMode {
                mode,
                ports: e.ports.iter().map(|(port, name)| (*port, name.mode().unwrap_or(mode))).collect(),
                outbound: e.outbound.map(OutboundName::outbound).unwrap_or_default(),
            });
            let (namespace, name, uid) = (e.namespace.clone(), e.name.clone(), e.uid.clone());
            let endpoint =
                view::Endpoint { identity: e.identity.clone(), mode, enforced: e.enforced, namespace, name, uid };
            let ips: Vec<_> = e.ip.iter().chain(&e.ips).copied().collect();
            ips.into_iter().map(move |ip| (ip, endpoint.clone()))
        };
        view::EndpointSlice {
            node: self.spec.node.clone(),
            node_uid: self.spec.node_uid.clone(),
            revision: self.spec.revision,
            endpoints: self.spec.endpoints.iter().flat_map(endpoints).collect(),
        }
    }

    /// The manifest of a slice, still unsigned, with the bindings of its node's keys.
    pub(crate) fn unsigned(slice: &view::EndpointSlice, bindings: Vec<IssuedBinding>) -> Self {
        let endpoint = |(e, ips): (&view::Endpoint, Vec<IpAddr>)| SliceEndpoint {
            ip: None,
            ips,
            identity: e.identity.clone(),
            mode: e.mode.as_ref().map(|m| m.mode.into()),
            ports: e.mode.iter().flat_map(|m| &m.ports).map(|(port, mode)| (*port, (*mode).into())).collect(),
            outbound: e
                .mode
                .as_ref()
                .filter(|m| m.outbound == Outbound::RequireMesh)
                .map(|_| OutboundName::RequireMesh),
            enforced: e.enforced,
            namespace: e.namespace.clone(),
            name: e.name.clone(),
            uid: e.uid.clone(),
        };
        Self {
            metadata: Metadata { name: slice.node.0.clone(), ..Metadata::default() },
            spec: MeshEndpointSliceSpec {
                node: slice.node.clone(),
                node_uid: slice.node_uid.clone(),
                revision: slice.revision,
                endpoints: by_workload(slice).into_iter().map(endpoint).collect(),
                bindings,
                signature: String::new(),
            },
        }
    }
}

/// Every endpoint once, with the addresses of which the same is said, in the order of the first ones: an API server and
/// each reader work through entries, and a pod of two families would be two.
fn by_workload(slice: &view::EndpointSlice) -> Vec<(&view::Endpoint, Vec<IpAddr>)> {
    let mut entries: Vec<(&view::Endpoint, Vec<IpAddr>)> = Vec::new();
    let mut newest: BTreeMap<&str, usize> = BTreeMap::new();
    for (ip, endpoint) in &slice.endpoints {
        let held = newest.get(endpoint.uid.as_str()).and_then(|index| entries.get_mut(*index));
        match held.filter(|(same, ips)| *same == endpoint && ips.len() < ADDRESSES_MAX as usize) {
            Some((_, ips)) => ips.push(*ip),
            None => {
                newest.insert(&endpoint.uid, entries.len());
                entries.push((endpoint, vec![*ip]));
            }
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A controller that writes bindings into slices, and nodes that know nothing of it, are in one cluster while it is
    /// rolled (decision 0024).
    #[test]
    fn a_slices_signature_is_the_same_with_and_without_bindings_and_is_about_all_else() {
        let text = r#"{"node":"n1","nodeUID":"u","revision":7,"endpoints":[{"ip":"10.1.0.2","enforced":true,"namespace":"n","name":"p","uid":"u"}]}"#;
        let spec: MeshEndpointSliceSpec = serde_json::from_str(text).unwrap();
        let slice = MeshEndpointSlice { metadata: Metadata::default(), spec };
        assert_eq!(
            String::from_utf8(slice.signed_bytes()).unwrap(),
            text,
            "as it was signed before there were bindings"
        );
        let mut bound = slice.clone();
        let binding = serde_json::json!({"identity": "spiffe://td/node/n1", "epoch": 1, "binding": "b", "svid": "s"});
        bound.spec.bindings = vec![serde_json::from_value(binding).unwrap()];
        assert_eq!(bound.signed_bytes(), slice.signed_bytes());
        bound.spec.revision += 1;
        assert_ne!(bound.signed_bytes(), slice.signed_bytes());
    }

    #[test]
    fn an_entry_has_no_more_addresses_than_the_schema_takes() {
        let endpoint = view::Endpoint {
            identity: None,
            mode: None,
            enforced: true,
            namespace: "n".to_owned(),
            name: "a".to_owned(),
            uid: "a".to_owned(),
        };
        let endpoints = (0..150).map(|last| (IpAddr::from([10, 1, 0, last]), endpoint.clone())).collect();
        let (node, node_uid) = (NodeName("n1".to_owned()), "u".to_owned());
        let slice = view::EndpointSlice { node, node_uid, revision: 7, endpoints };
        let written = MeshEndpointSlice::unsigned(&slice, Vec::new());
        assert_eq!(written.spec.endpoints.iter().map(|e| e.ips.len()).collect::<Vec<_>>(), [64, 64, 22]);
        assert_eq!(written.to_view(), slice);
    }

    /// A daemon is rolled before its controller: what the earlier one wrote is read, and its signature is over the same bytes.
    #[test]
    fn an_entry_has_all_addresses_of_which_the_same_is_said_and_one_of_a_single_address_is_read_too() {
        let endpoint = |uid: &str, enforced| view::Endpoint {
            identity: Some("spiffe://td/ns/n/sa/web".parse().unwrap()),
            mode: Some(EffectiveMode::default()),
            enforced,
            namespace: "n".to_owned(),
            name: uid.to_owned(),
            uid: uid.to_owned(),
        };
        let all = [
            ("10.1.0.2", endpoint("a", true)),
            ("10.1.0.3", endpoint("b", true)),
            ("fd00::2", endpoint("a", true)),
            ("fd00::3", endpoint("b", false)),
        ];
        let endpoints: BTreeMap<IpAddr, _> = all.map(|(ip, endpoint)| (ip.parse().unwrap(), endpoint)).into();
        let (node, node_uid) = (NodeName("n1".to_owned()), "u".to_owned());
        let slice = view::EndpointSlice { node, node_uid, revision: 7, endpoints };
        let written = MeshEndpointSlice::unsigned(&slice, Vec::new());
        let ips: Vec<_> = written.spec.endpoints.iter().map(|e| format!("{:?}", e.ips)).collect();
        assert_eq!(ips, ["[10.1.0.2, fd00::2]", "[10.1.0.3]", "[fd00::3]"]);
        assert_eq!(written.to_view(), slice);
        let mut former = written.clone();
        former.spec.endpoints = written
            .spec
            .endpoints
            .iter()
            .flat_map(|e| {
                let one = |ip: &IpAddr| SliceEndpoint { ip: Some(*ip), ips: Vec::new(), ..e.clone() };
                e.ips.iter().map(one).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(former.to_view(), slice);
        let text = String::from_utf8(former.signed_bytes()).unwrap();
        assert!(text.contains(r#""endpoints":[{"ip":"10.1.0.2","identity""#), "{text}");
    }
}
