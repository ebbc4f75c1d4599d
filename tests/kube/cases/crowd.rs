//! CN-11: many pods at once, all ADDs and DELs by the runtime itself, and nothing of them afterwards.

use std::time::{Duration, Instant};

use super::Case;
use crate::cluster::{Cluster, NODES};
use crate::pod::{SERVE, namespace};
use crate::shell::eventually;

/// The cases of this file.
pub const CASES: &[(&str, Case)] = &[("cn_11_a_deployment_of_many_comes_and_goes_at_once", many_come_and_go)];

/// Pods of the deployment, on two nodes.
const PODS: usize = 40;

/// Until a node holds nothing of pods that are gone: the kubelet sweeps up once a minute what it did not end at once.
const SWEPT: Duration = Duration::from_secs(240);

/// How many addresses of pods the filter names, but in what it remembers of packets for a while.
const FILTERED: &str = "nft -j list table inet weft | python3 -c \"import json,re,sys\nt=json.load(sys.stdin)['nftables']\n\
    s=json.dumps([x for x in t if 'timeout' not in x.get('set',{})])\n\
    print(len(set(re.findall(r'10[.]88[.][0-9]+[.][0-9]+|fd88:[0-9a-f:]+',s))))\"";

/// How many things a node holds of pods: links, pins and words of the filter, rules, attachments, addresses, results, namespaces.
fn held(cluster: &Cluster, node: &str) -> Vec<usize> {
    let counts = [
        "ls /sys/class/net | grep -c veth",
        "nft list ruleset | grep -c '^table netdev\\|chain .*veth'",
        FILTERED,
        "ip rule | wc -l; ip -6 rule | wc -l",
        "ls /var/lib/weft/attachments | wc -l; ls /var/lib/weft/tombstones 2>/dev/null | wc -l",
        "ls /var/lib/cni/networks/pods | grep -c '[.:]'",
        "ls /var/lib/cni/results | wc -l; ls /run/netns | wc -l",
    ];
    let text = cluster.must_on(node, &format!("({}) || true", counts.join("; ")));
    text.split_whitespace().map(|word| word.parse().expect("a number")).collect()
}

fn many_come_and_go(cluster: &Cluster) {
    cluster.apply(&namespace("crowd", true));
    cluster.apply(&format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: many, namespace: crowd}}\nspec: {{replicas: 0, \
         selector: {{matchLabels: {{app: many}}}}, template: {{metadata: {{labels: {{app: many}}}}, spec: \
         {{terminationGracePeriodSeconds: 0, containers: [{{name: main, image: 'localhost/pod:1', imagePullPolicy: Never, \
         command: [/bin/sh, -c, '{SERVE}']}}]}}}}}}\n"
    ));
    let pods = cluster.pods("crowd", true, &[("client", "n1")]);
    // what earlier cases deleted is to be gone before it is counted
    NODES.iter().for_each(|node| cluster.await_only_living(node));
    let before = NODES.map(|node| held(cluster, node));
    let scale =
        |count: usize| cluster.kubectl(&["-n", "crowd", "scale", "deployment/many", &format!("--replicas={count}")]);
    let count = |path: &str| -> usize {
        let text =
            cluster.kubectl(&["-n", "crowd", "get", "deployment", "many", "-o", &format!("jsonpath={{{path}}}")]);
        text.trim().parse().unwrap_or_default()
    };
    // the second time all go while some of them are still on their way
    for wait_for in [PODS, PODS / 2] {
        let begin = Instant::now();
        scale(PODS);
        eventually("the pods are ready", Duration::from_secs(600), || {
            let ready = count(".status.readyReplicas") >= wait_for;
            if !ready {
                // whoever asks all the time takes a good part of the machine from the pods
                std::thread::sleep(Duration::from_millis(300));
            }
            ready.then_some(())
        });
        let up = begin.elapsed().as_secs_f64();
        if wait_for == PODS {
            let list = cluster.json(&["-n", "crowd", "get", "pods", "-l", "app=many"]);
            for one in list["items"].as_array().expect("a list").iter().step_by(5) {
                let name = one["metadata"]["name"].as_str().expect("text");
                let pod = cluster.pod(&format!("crowd/{name}"));
                for ip in &pod.ips {
                    pods[0].pings_within(*ip, Duration::from_secs(60));
                }
            }
        }
        let begin = Instant::now();
        scale(0);
        eventually("the pods are gone", Duration::from_secs(600), || {
            let names = cluster.kubectl(&["-n", "crowd", "get", "pods", "-l", "app=many", "-o", "name"]);
            names.trim().is_empty().then_some(())
        });
        eprintln!(
            "{wait_for} of {PODS} pods ready after {up:.1} s, all gone {:.1} s later",
            begin.elapsed().as_secs_f64()
        );
        for (node, before) in NODES.iter().zip(&before) {
            let begin = Instant::now();
            loop {
                let now = held(cluster, node);
                // what an earlier case left behind may go meanwhile
                if now.len() == before.len() && now.iter().zip(before).all(|(now, before)| now <= before) {
                    break;
                }
                assert!(begin.elapsed() < SWEPT, "{node} holds {now:?}, before it was {before:?}");
                std::thread::sleep(Duration::from_millis(500));
            }
        }
    }
    cluster.delete_namespaces(&["crowd"]);
}
