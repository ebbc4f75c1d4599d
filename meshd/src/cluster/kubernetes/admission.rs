//! Whether the API server lets a node write its own MeshNode only: without that, whoever holds one node's token could speak
//! for another.

use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use kube::{Api, Client};

/// Name of the policy, and of its binding (manifests/base/admission.yaml).
pub(super) const NAME: &str = "weft-meshnodes";
/// How often it is asked for while it is missing.
const RETRY: Duration = Duration::from_secs(2);
/// Longest time for one look.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The policy and its binding in the API server.
#[derive(Clone)]
pub(super) struct Admission {
    policies: Api<ValidatingAdmissionPolicy>,
    bindings: Api<ValidatingAdmissionPolicyBinding>,
}

impl Admission {
    pub(super) fn new(client: &Client) -> Self {
        Self { policies: Api::all(client.clone()), bindings: Api::all(client.clone()) }
    }

    /// Why it is not in force; `None` where it is.
    ///
    /// # Errors
    /// The API server does not answer in time or refuses.
    pub(super) async fn fault(&self) -> anyhow::Result<Option<String>> {
        let found = async { Ok((self.policies.get_opt(NAME).await?, self.bindings.get_opt(NAME).await?)) };
        let found: Result<_, kube::Error> =
            tokio::time::timeout(TIMEOUT, found).await.context("the API server does not answer")?;
        let (policy, binding) = found.with_context(|| format!("cannot read ValidatingAdmissionPolicy {NAME}"))?;
        let fault = fault(policy.as_ref(), binding.as_ref());
        Ok(fault.map(|what| {
            format!(
                "ValidatingAdmissionPolicy {NAME} is not in force, {what}: kubectl apply -k manifests/overlays/default"
            )
        }))
    }

    /// Waits until it is in force.
    pub(super) async fn settled(&self) {
        let mut told = String::new();
        loop {
            let why = match self.fault().await {
                Ok(None) => return,
                Ok(Some(why)) => why,
                Err(error) => format!("{error:#}"),
            };
            if why != told {
                tracing::warn!(why, "The controller signs nothing yet");
                told = why;
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// What of the two does not do what it is for. What the policy says is not read: who may change that may do anything.
fn fault(
    policy: Option<&ValidatingAdmissionPolicy>,
    binding: Option<&ValidatingAdmissionPolicyBinding>,
) -> Option<&'static str> {
    let Some(policy) = policy.and_then(|policy| policy.spec.as_ref()) else { return Some("it is missing") };
    let Some(binding) = binding.and_then(|binding| binding.spec.as_ref()) else {
        return Some("its binding is missing");
    };
    // the server's default is Fail
    if policy.failure_policy.as_deref().is_some_and(|failure| failure != "Fail") {
        return Some("it lets pass what it cannot judge (failurePolicy)");
    }
    if policy.validations.as_ref().is_none_or(Vec::is_empty) {
        return Some("it demands nothing");
    }
    if policy.match_conditions.as_ref().is_some_and(|conditions| !conditions.is_empty()) {
        return Some("it is about some requests only (matchConditions)");
    }
    if binding.policy_name.as_deref() != Some(NAME) {
        return Some("its binding is another policy's");
    }
    if binding.match_resources.is_some() {
        return Some("its binding is about some objects only (matchResources)");
    }
    let denies = binding.validation_actions.iter().flatten().any(|action| action == "Deny");
    (!denies).then_some("its binding does not deny (validationActions)")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The objects as the manifests have them, each changed at one place.
    fn fault_with(changes: [&[(&str, Value)]; 2]) -> Option<&'static str> {
        let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/base/admission.yaml"));
        let documents = text.split("\n---\n").zip(changes).map(|(document, changes)| {
            let mut value: Value = serde_saphyr::from_str(document).unwrap();
            for (place, new) in changes {
                value["spec"][*place] = new.clone();
            }
            value
        });
        let [policy, binding] = documents.collect::<Vec<_>>().try_into().unwrap();
        fault(Some(&serde_json::from_value(policy).unwrap()), Some(&serde_json::from_value(binding).unwrap()))
    }

    #[test]
    fn what_the_manifests_bring_is_in_force_and_anything_less_is_not() {
        assert_eq!(fault_with([&[], &[]]), None);
        let words = [
            (fault_with([&[("failurePolicy", json!("Ignore"))], &[]]), "failurePolicy"),
            (fault_with([&[("validations", json!([]))], &[]]), "demands nothing"),
            (fault_with([&[("matchConditions", json!([{"name": "a", "expression": "false"}]))], &[]]), "some requests"),
            (fault_with([&[], &[("policyName", json!("another"))]]), "another policy's"),
            (fault_with([&[], &[("matchResources", json!({"namespaceSelector": {}}))]]), "some objects"),
            (fault_with([&[], &[("validationActions", json!(["Audit", "Warn"]))]]), "does not deny"),
        ];
        for (said, word) in words {
            assert!(said.is_some_and(|said| said.contains(word)), "{word}: {said:?}");
        }
        assert_eq!(fault(None, None), Some("it is missing"));
        let policy = ValidatingAdmissionPolicy { spec: Some(Default::default()), ..Default::default() };
        assert_eq!(fault(Some(&policy), None), Some("its binding is missing"));
    }
}
