//! What a Pod manifest asks for, as far as a lab can give it: processes on the host's file system, no images.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A pod's namespace and name.
pub(super) type PodKey = (String, String);

/// A Pod manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodSpec {
    /// Namespace and name.
    pub(super) key: PodKey,
    /// `metadata.uid`, where the manifest has one.
    pub(super) uid: Option<String>,
    /// `metadata.labels`; they may change while the pod runs.
    pub(super) labels: BTreeMap<String, String>,
    /// What may not: another one is another pod.
    pub(super) spec: Spec,
}

/// `spec` of a Pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec {
    /// The node it has to run on; the lab chooses where absent.
    pub(super) node_name: Option<String>,
    /// Its service account.
    #[serde(default = "default_account")]
    pub(super) service_account_name: String,
    /// Runs in its node's own namespace.
    #[serde(default)]
    pub(super) host_network: bool,
    /// What happens when a process ends.
    #[serde(default)]
    pub(super) restart_policy: RestartPolicy,
    /// Seconds between SIGTERM and SIGKILL; 2 where absent, since a lab should be quick.
    #[serde(default = "default_grace")]
    pub(super) termination_grace_period_seconds: u64,
    /// Run one after the other before the containers.
    #[serde(default)]
    pub(super) init_containers: Vec<Container>,
    /// The pod's processes.
    #[serde(default)]
    pub(super) containers: Vec<Container>,
    /// Defaults for the containers' own.
    #[serde(default)]
    pub(super) security_context: SecurityContext,
}

/// What happens when a process ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum RestartPolicy {
    /// It is started again.
    #[default]
    Always,
    /// It is started again unless it ended well.
    OnFailure,
    /// The pod is over.
    Never,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Container {
    /// Its name.
    #[serde(default)]
    pub(super) name: String,
    /// The program; the built-in echo server where absent.
    #[serde(default)]
    pub(super) command: Vec<String>,
    /// More arguments.
    #[serde(default)]
    pub(super) args: Vec<String>,
    /// Its environment.
    #[serde(default)]
    pub(super) env: Vec<EnvVar>,
    /// Where the echo server listens.
    #[serde(default)]
    pub(super) ports: Vec<Port>,
    /// Where it starts.
    pub(super) working_dir: Option<String>,
    /// As whom it runs.
    #[serde(default)]
    pub(super) security_context: SecurityContext,
}

/// A variable with a plain value; others (`valueFrom`) are refused by name when the process starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EnvVar {
    /// Its name.
    pub(super) name: String,
    /// Its value.
    #[serde(default)]
    pub(super) value: String,
    /// Where the value would come from.
    pub(super) value_from: Option<ValueFrom>,
}

/// `valueFrom` of a variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ValueFrom {
    /// A field of the pod itself, the only source that a lab has.
    pub(super) field_ref: Option<FieldRef>,
}

/// A field of the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FieldRef {
    /// `metadata.name`, `status.podIP`, …
    pub(super) field_path: String,
}

/// A port that a container says it listens on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Port {
    /// 1 to 65535.
    pub(super) container_port: u16,
}

/// The user a process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SecurityContext {
    /// User number; root where absent.
    pub(super) run_as_user: Option<u32>,
    /// Group number; that of the user where absent.
    pub(super) run_as_group: Option<u32>,
}

fn default_account() -> String {
    "default".to_owned()
}

fn default_grace() -> u64 {
    2
}

impl PodSpec {
    /// Reads a Pod manifest.
    ///
    /// # Errors
    /// A field of the wrong type, or a pod without containers.
    pub(super) fn of(key: PodKey, manifest: &Value) -> anyhow::Result<Self> {
        let spec = manifest.get("spec").context("`spec` is missing")?;
        let spec = Spec::deserialize(spec).context("`spec` cannot be read")?;
        ensure!(!spec.containers.is_empty(), "`spec.containers` is empty: a pod has at least one");
        let labels = match manifest.pointer("/metadata/labels") {
            Some(labels) => BTreeMap::deserialize(labels).context("`metadata.labels` cannot be read")?,
            None => BTreeMap::new(),
        };
        let uid = manifest.pointer("/metadata/uid").and_then(Value::as_str).map(str::to_owned);
        Ok(Self { key, uid, labels, spec })
    }

    /// Whether the other manifest is of the same pod: only labels differ, if anything.
    pub(super) fn is_same_pod(&self, other: &Self) -> bool {
        self.key == other.key && self.uid == other.uid && self.spec == other.spec
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: &Value) -> anyhow::Result<PodSpec> {
        PodSpec::of(("x".into(), "a".into()), &json!({ "metadata": { "name": "a" }, "spec": spec }))
    }

    #[test]
    fn a_pod_in_the_field_is_read_and_unknown_fields_are_not_our_business() {
        let read = pod(&json!({
            "serviceAccountName": "web", "restartPolicy": "Never", "dnsPolicy": "ClusterFirst",
            "containers": [{ "name": "c", "image": "x", "command": ["sh", "-c", "true"],
                "ports": [{ "containerPort": 80, "protocol": "TCP" }], "env": [{ "name": "A", "value": "b" }],
                "securityContext": { "runAsUser": 1000 }, "resources": {} }],
        }))
        .unwrap();
        assert_eq!(read.spec.service_account_name, "web");
        assert_eq!(read.spec.restart_policy, RestartPolicy::Never);
        assert_eq!(read.spec.containers[0].security_context.run_as_user, Some(1000));
    }

    #[test]
    fn labels_may_change_in_a_pods_life_and_nothing_else() {
        let one = pod(&json!({ "containers": [{ "name": "c" }] })).unwrap();
        let relabelled = PodSpec { labels: BTreeMap::from([("a".into(), "b".into())]), ..one.clone() };
        assert!(one.is_same_pod(&relabelled));
        let other = pod(&json!({ "containers": [{ "name": "c" }], "serviceAccountName": "x" })).unwrap();
        assert!(!one.is_same_pod(&other));
    }

    #[test]
    fn a_pod_without_containers_is_refused() {
        assert!(pod(&json!({})).is_err() && pod(&json!({ "containers": [] })).is_err());
    }
}
