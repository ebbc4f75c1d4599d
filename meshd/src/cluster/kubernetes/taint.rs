//! The start-up taint: a node that comes with it runs no pod before its daemon can serve.

use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::object::{NODE, Raw};

/// The taint's key, whatever its value and effect.
pub(super) const TAINT: &str = "weft.dev/not-ready";

/// Takes the taint off; false where there is none.
///
/// # Errors
/// The server does not answer or refuses, or somebody else changed the node at the same moment.
pub(super) async fn clear(client: &Client, name: &str) -> anyhow::Result<bool> {
    let nodes: Api<Raw> = Api::all_with(client.clone(), &NODE.resource());
    let node = nodes.get(name).await?;
    let Some(others) = without_ours(&node.spec) else { return Ok(false) };
    // the version that was read: whoever changes taints meanwhile is not overwritten
    let patch = json!({"metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": others}});
    nodes.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(true)
}

/// The other taints of a node's spec as they are; `None` when ours is not among them.
fn without_ours(spec: &Value) -> Option<Vec<Value>> {
    let taints = spec.get("taints")?.as_array()?;
    let is_ours = |taint: &&Value| taint.get("key").and_then(Value::as_str) == Some(TAINT);
    taints.iter().any(|taint| is_ours(&taint)).then(|| taints.iter().filter(|t| !is_ours(t)).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_taint_goes_and_the_others_stay_as_they_are() {
        let other = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoExecute", "timeAdded": "x", "newer": 1});
        let ours = |effect: &str| json!({"key": TAINT, "effect": effect});
        let spec = json!({"taints": [ours("NoSchedule"), other, ours("NoExecute")]});
        assert_eq!(without_ours(&spec), Some(vec![other.clone()]));
        assert_eq!(without_ours(&json!({"taints": [ours("NoSchedule")]})), Some(vec![]));
        for none in [json!({}), json!({"taints": [other]}), Value::Null] {
            assert_eq!(without_ours(&none), None, "{none}");
        }
    }
}
