//! Pod and Node manifests, as far as policy looks at them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use crate::selector::Labels;
use crate::workload::{NamedPort, Node, Protocol, Workload};

/// A pod as a workload, not yet enrolled; `None` for what is none: on the host's network, or ended.
#[must_use]
pub fn pod_workload(namespace: &str, name: &str, manifest: &Value, trust_domain: &str) -> Option<Workload> {
    let text = |pointer: &str| manifest.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
    let is_on_host = manifest.pointer("/spec/hostNetwork").and_then(Value::as_bool).unwrap_or(false);
    if is_on_host || matches!(text("/status/phase"), Some("Succeeded" | "Failed")) {
        return None;
    }
    let account = text("/spec/serviceAccountName").unwrap_or("default");
    let list = manifest.pointer("/status/podIPs").and_then(Value::as_array);
    let addresses = list.into_iter().flatten().filter_map(|ip| ip.get("ip")?.as_str()).chain(text("/status/podIP"));
    Some(Workload {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        labels: labels(manifest),
        addresses: addresses.filter_map(|address| address.parse().ok()).collect(),
        ports: pod_ports(manifest.get("spec").unwrap_or(&Value::Null)),
        identity: Some(format!("spiffe://{trust_domain}/ns/{namespace}/sa/{account}")),
        enrolled: false,
        node: text("/spec/nodeName").map(str::to_owned),
    })
}

/// The named container ports of a PodSpec: of its containers, and of init containers that stay (sidecars).
#[must_use]
pub fn pod_ports(spec: &Value) -> BTreeSet<NamedPort> {
    let list = |name: &str| spec.get(name).and_then(Value::as_array).into_iter().flatten();
    let stays = |container: &&Value| container.get("restartPolicy").and_then(Value::as_str) == Some("Always");
    let containers = list("containers").chain(list("initContainers").filter(stays));
    let ports = containers.filter_map(|container| container.get("ports")?.as_array()).flatten();
    let named = ports.filter_map(|port| {
        let name = port.get("name")?.as_str()?.to_owned();
        let protocol = match port.get("protocol").filter(|protocol| !protocol.is_null()) {
            Some(protocol) => Protocol::of_name(protocol.as_str()?)?,
            None => Protocol::Tcp,
        };
        let port = u16::try_from(port.get("containerPort")?.as_u64()?).ok()?;
        Some(NamedPort { name, protocol, port })
    });
    named.collect()
}

/// A node's labels, addresses and identity.
pub(super) fn node(name: &str, manifest: &Value, trust_domain: &str) -> Node {
    let list = manifest.pointer("/status/addresses").and_then(Value::as_array);
    let addresses =
        list.into_iter().flatten().filter_map(|entry| entry.get("address")?.as_str()?.parse::<IpAddr>().ok());
    Node {
        labels: labels(manifest),
        addresses: addresses.collect(),
        identity: Some(format!("spiffe://{trust_domain}/node/{name}")),
    }
}

/// `metadata.labels`; one that is no text is none.
pub(super) fn labels(manifest: &Value) -> Labels {
    let object = manifest.pointer("/metadata/labels").and_then(Value::as_object);
    let pairs = object.into_iter().flatten();
    pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}
