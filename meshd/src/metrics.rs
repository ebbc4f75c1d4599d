//! Every metric: name, kind, label and what it says; told in Prometheus' text format from what `status` answers. Pure.
//!
//! `docs/metrics.md` is held against this table by a test.

use std::fmt::Write as _;

use serde_json::Value;

/// One metric, and where `status` has it.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    /// JSON pointer into the status.
    at: &'static str,
    read: Read,
}

/// How a value of the status becomes samples.
#[derive(Clone, Copy)]
enum Read {
    /// A number, or a truth as 0 and 1.
    Number,
    /// How many elements a list has.
    Length,
    /// How many elements of a list have this field true.
    LengthWhere(&'static str),
    /// A map of numbers: one sample an entry, under this label.
    Map(&'static str),
}

const fn gauge(name: &'static str, at: &'static str, read: Read, help: &'static str) -> Metric {
    Metric { name, kind: "gauge", help, at, read }
}

const fn counter(name: &'static str, at: &'static str, read: Read, help: &'static str) -> Metric {
    Metric { name, kind: "counter", help, at, read }
}

/// What a node daemon tells.
const NODE: [Metric; 14] = [
    gauge("mesh_ready", "/ready", Read::Number, "1 when this node serves, 0 while something is missing."),
    gauge("mesh_uptime_seconds", "/uptime_s", Read::Number, "Since the daemon's start."),
    gauge("mesh_observed_revision", "/observed_revision", Read::Number, "The newest endpoint slices in the kernel."),
    gauge("mesh_attached_workloads", "/attachments", Read::Length, "Workload interfaces that are pinned."),
    gauge(
        "mesh_enrolled_workloads",
        "/attachments",
        Read::LengthWhere("enrolled"),
        "Those of them that are in the mesh.",
    ),
    gauge(
        "mesh_pods_outside",
        "/outside",
        Read::Length,
        "Pods of this node that are labelled into the mesh and not protected by it.",
    ),
    gauge(
        "mesh_unused_manifests",
        "/refusals",
        Read::Length,
        "Objects and parts of objects that are not used, and watches that do not get through.",
    ),
    gauge("mesh_peers", "/peers/known", Read::Number, "Remote identities with a key."),
    gauge("mesh_sessions", "/peers/sessions", Read::Number, "Sessions in use."),
    counter(
        "mesh_sent_packets_total",
        "/traffic/sent_packets",
        Read::Number,
        "Packets of workloads that went into the tunnel.",
    ),
    counter("mesh_sent_bytes_total", "/traffic/sent_bytes", Read::Number, "Their bytes."),
    counter(
        "mesh_received_packets_total",
        "/traffic/received_packets",
        Read::Number,
        "Packets that came out of the tunnel.",
    ),
    counter("mesh_received_bytes_total", "/traffic/received_bytes", Read::Number, "Their bytes."),
    counter("mesh_drops_total", "/drops", Read::Map("reason"), "Dropped packets; docs/runbook.md has the reasons."),
];

/// What the controller tells.
const CONTROLLER: [Metric; 4] = [
    gauge("mesh_controller_nodes", "/nodes", Read::Length, "Nodes that have joined."),
    gauge("mesh_controller_refused_nodes", "/refused", Read::Length, "Nodes whose report is not believed."),
    gauge("mesh_controller_revoked_identities", "/revoked", Read::Length, "Identities that get no binding."),
    gauge(
        "mesh_controller_pods_outside",
        "/outside",
        Read::Length,
        "Pods of any node that are labelled into the mesh and not protected by it.",
    ),
];

/// A node's status in Prometheus' text format.
pub(crate) fn of_node(status: &Value) -> String {
    text(&NODE, status)
}

/// The controller's status in Prometheus' text format.
pub(crate) fn of_controller(status: &Value) -> String {
    text(&CONTROLLER, status)
}

fn text(metrics: &[Metric], status: &Value) -> String {
    let mut out = String::new();
    for metric in metrics {
        let Metric { name, kind, help, at, read } = metric;
        let Some(value) = status.pointer(at) else { continue };
        // writing to a String cannot fail
        let _written = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
        let _written = match *read {
            Read::Number => writeln!(out, "{name} {}", number(value)),
            Read::Length => writeln!(out, "{name} {}", list.len()),
            Read::LengthWhere(field) => {
                let count = list.iter().filter(|row| row.get(field).and_then(Value::as_bool) == Some(true)).count();
                writeln!(out, "{name} {count}")
            }
            Read::Map(label) => value.as_object().into_iter().flatten().try_for_each(|(key, value)| {
                // reasons are our own words; whatever else came here cannot end the line
                let key = key.replace(['\\', '"', '\n'], "_");
                writeln!(out, "{name}{{{label}=\"{key}\"}} {}", number(value))
            }),
        };
    }
    out
}

fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_bool().map(u64::from)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_is_told_in_prometheus_text() {
        let status = json!({"ready": true, "outside": [{"pod": "a/b"}], "drops": {"replay": 3, "no\"peer": 1},
            "attachments": [{"enrolled": true}, {"enrolled": false}], "peers": {"known": 7}});
        let told = of_node(&status);
        for line in [
            "mesh_ready 1",
            "mesh_pods_outside 1",
            "mesh_attached_workloads 2",
            "mesh_enrolled_workloads 1",
            "mesh_peers 7",
            "mesh_drops_total{reason=\"replay\"} 3",
            "mesh_drops_total{reason=\"no_peer\"} 1",
            "# TYPE mesh_drops_total counter",
        ] {
            assert!(told.lines().any(|told| told == line), "{line} in\n{told}");
        }
        assert!(!told.contains("mesh_sessions"), "what the status does not have is not told");
        assert!(of_controller(&json!({"nodes": ["n1"]})).contains("\nmesh_controller_nodes 1\n"));
    }

    #[test]
    fn the_page_of_metrics_is_this_table() {
        let page = include_str!("../../docs/metrics.md");
        for metric in NODE.iter().chain(&CONTROLLER) {
            let name = match metric.read {
                Read::Map(label) => format!("{}{{{label}}}", metric.name),
                Read::Number | Read::Length | Read::LengthWhere(_) => metric.name.to_owned(),
            };
            let row = format!("| `{name}` | {} | {} |\n", metric.kind, metric.help);
            assert!(page.contains(&row), "docs/metrics.md lacks: {row}");
        }
        let rows = page.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(rows, NODE.len() + CONTROLLER.len(), "docs/metrics.md has rows of metrics that are not there");
    }
}
