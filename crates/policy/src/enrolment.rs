//! Whether a workload is in the mesh at all: a label on its namespace, overridden by the same label on itself.

use crate::selector::Labels;

/// The label on a namespace or a pod; `enabled` and `disabled` are its values, any other counts as absent.
pub const MESH_LABEL: &str = "weft.dev/mesh";

/// Whether a workload with these labels is enrolled. A pod's own label wins over its namespace's.
#[must_use]
pub fn is_enrolled(namespace: &Labels, workload: &Labels) -> bool {
    said(workload).or_else(|| said(namespace)).unwrap_or(false)
}

fn said(labels: &Labels) -> Option<bool> {
    match labels.get(MESH_LABEL).map(String::as_str) {
        Some("enabled") => Some(true),
        Some("disabled") => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f12_a_pods_label_wins_over_its_namespaces() {
        let label = |value: Option<&str>| -> Labels {
            value.map(|v| (MESH_LABEL.to_owned(), v.to_owned())).into_iter().collect()
        };
        for (namespace, pod, expected) in [
            (None, None, false),
            (Some("enabled"), None, true),
            (Some("enabled"), Some("disabled"), false),
            (Some("disabled"), Some("enabled"), true),
            (None, Some("enabled"), true),
            (Some("true"), None, false),
            (Some("enabled"), Some("yes"), true),
        ] {
            assert_eq!(is_enrolled(&label(namespace), &label(pod)), expected, "{namespace:?} {pod:?}");
        }
    }
}
