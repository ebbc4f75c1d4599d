//! What a node costs at rest because of us, beside what our own processes take: the kubelet and the runtime look after readiness.

use std::time::{Duration, Instant};

use super::Case;
use crate::cluster::Cluster;
use crate::weft;

/// The cases of this file.
pub const CASES: &[(&str, Case)] = &[("figure_what_looking_after_readiness_costs", readiness)];

/// How long each setting is measured.
const TIME: Duration = Duration::from_secs(60);

/// Processor time in seconds of n1's kubelet, runtime and shims, and of all that these have started and seen end.
fn runtime(cluster: &Cluster) -> f64 {
    let script = "for p in $(pgrep '^(kubelet|containerd)'); do sed 's/.*) //' /proc/$p/stat; done | \
                  awk '{s += $12 + $13 + $14 + $15} END {print s / 100}'";
    cluster.must_on("n1", script).trim().parse().expect("a number")
}

fn readiness(cluster: &Cluster) {
    weft::install(cluster, "default");
    let shipped = cluster.kubectl(&[
        "-n",
        "weft-system",
        "get",
        "daemonset",
        "weft-node",
        "-o",
        "jsonpath={.spec.template.spec.containers[0].readinessProbe.periodSeconds}",
    ]);
    let mut none = None;
    for period in [None, Some(5), Some(10), Some(30)] {
        let path = "/spec/template/spec/containers/0/readinessProbe";
        let patch = match period {
            None => format!(r#"[{{"op":"remove","path":"{path}"}}]"#),
            Some(seconds) => format!(
                r#"[{{"op":"add","path":"{path}","value":{{"exec":{{"command":["/usr/local/bin/meshd","ready"]}},"periodSeconds":{seconds},"failureThreshold":1}}}}]"#
            ),
        };
        cluster.kubectl(&["-n", "weft-system", "patch", "daemonset", "weft-node", "--type=json", "-p", &patch]);
        weft::await_ready(cluster);
        // what a start leaves to do ends
        std::thread::sleep(Duration::from_secs(10));
        let (before, began) = (runtime(cluster), Instant::now());
        std::thread::sleep(TIME);
        let share = (runtime(cluster) - before) / began.elapsed().as_secs_f64() * 100.0;
        let base = *none.get_or_insert(share);
        let what = period.map_or("never".to_owned(), |seconds| format!("every {seconds} s"));
        eprintln!(
            "figure: kubelet, containerd and shims of a node, readiness looked at {what} (shipped: {shipped} s): {share:.2} % of a core, \
             {:.2} % more than never (goal 1 % together with meshd)",
            share - base
        );
    }
    weft::install(cluster, "default");
}
