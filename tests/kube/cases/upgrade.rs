//! UP-02: what docs/upgrade.md tells people to type, typed as it stands there, up and back, under connections.

use std::time::Duration;

use serde_json::{Value, json};

use super::Case;
use super::faults::WAIT_MAX;
use crate::cluster::{Cluster, NODES, ROOT};
use crate::promise::keeps;
use crate::shell::eventually;
use crate::weft;

/// The cases of this file.
pub const CASES: &[(&str, Case)] = &[("up_02_the_commands_of_docs_upgrade_are_typed", commands_are_typed)];

const PAGE: &str = include_str!("../../../docs/upgrade.md");
/// The same image under another name: the version that is gone away from.
const OTHER: &str = "localhost/weft:other";
/// That of the manifests.
const OWN: &str = "localhost/weft:dev";

/// The lines of each block of commands.
fn blocks() -> Vec<Vec<&'static str>> {
    let block = |text: &'static str| {
        let (block, _) = text.split_once("```").expect("a block ends");
        block.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
    };
    PAGE.split("```sh\n").skip(1).map(block).collect()
}

/// Types a command, as somebody in the repository's folder whose kubectl knows the cluster.
fn type_in(cluster: &Cluster, line: &str) {
    let output = std::process::Command::new("sh")
        .args(["-ec", line])
        .current_dir(ROOT)
        .env("PATH", format!("{}:{}", cluster.tools.display(), std::env::var("PATH").unwrap_or_default()))
        .env("KUBECONFIG", cluster.dir.join("pki/admin.kubeconfig"))
        .output()
        .expect("sh runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}\n{said}");
}

/// Images of the pods of an application, those that end left aside.
fn images(cluster: &Cluster, app: &str) -> Vec<String> {
    let list = cluster.json(&["-n", "weft-system", "get", "pods", "-l", &format!("app.kubernetes.io/name={app}")]);
    let lives = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
    let image = |pod: &Value| pod["spec"]["containers"][0]["image"].as_str().expect("an image").to_owned();
    list["items"].as_array().expect("a list").iter().filter(lives).map(image).collect()
}

/// Installs the same under the other name.
fn install_other(cluster: &Cluster) {
    let folder = cluster.dir.join("other");
    std::fs::create_dir_all(&folder).expect("the run's folder takes folders");
    let up = "../".repeat(folder.components().count() - 1);
    let overlay = format!("{up}{}/manifests/overlays/default", ROOT.trim_start_matches('/'));
    let text =
        format!("resources: [{overlay}]\nimages: [{{name: localhost/weft, newName: localhost/weft, newTag: other}}]\n");
    std::fs::write(folder.join("kustomization.yaml"), text).expect("the folder takes files");
    cluster.kubectl(&["apply", "-k", &folder.display().to_string()]);
    weft::await_ready(cluster);
}

/// Each controller asks the scheduler to keep it from the others of its roll, and of no other: that is all that is promised. Where
/// they came to be is said; the scheduler may have its reasons to have both on one node.
fn controllers_keep_apart(cluster: &Cluster) {
    let label = "app.kubernetes.io/name";
    let list = || cluster.json(&["-n", "weft-system", "get", "pods", "-l", "app.kubernetes.io/name=weft-controller"]);
    let two = || {
        // while a former one ends there are three
        let pods = list()["items"].as_array().cloned()?;
        (pods.len() == 2).then_some(pods)
    };
    let (pods, _) = eventually("there are two controllers", Duration::from_secs(240), two);
    let rolls: Vec<_> = pods.iter().map(|pod| &pod["metadata"]["labels"]["pod-template-hash"]).collect();
    assert!(rolls[0].is_string() && rolls[0] == rolls[1], "of one roll: {rolls:?}");
    for pod in &pods {
        let wishes = &pod["spec"]["affinity"]["podAntiAffinity"];
        let wish = &wishes["preferredDuringSchedulingIgnoredDuringExecution"][0];
        let term = &wish["podAffinityTerm"];
        let selects = &term["labelSelector"];
        assert_eq!((&wish["weight"], &term["topologyKey"]), (&json!(100), &json!("kubernetes.io/hostname")), "{wish}");
        assert_eq!(selects["matchLabels"], json!({label: "weft-controller"}), "{wish}");
        // what the server makes of matchLabelKeys
        let of_its_roll = json!([{"key": "pod-template-hash", "operator": "In", "values": [rolls[0]]}]);
        assert_eq!(selects["matchExpressions"], of_its_roll, "{wish}");
    }
    let nodes = pods.iter().map(|pod| pod["spec"]["nodeName"].as_str().unwrap_or_default()).collect::<Vec<_>>();
    eprintln!("the controllers are on {nodes:?}");
}

fn commands_are_typed(cluster: &Cluster) {
    let ctr = cluster.tools.join("ctr").display().to_string();
    for node in NODES {
        cluster.must_on(node, &format!("{ctr} -n k8s.io image tag --force {OWN} {OTHER}"));
    }
    let pods = cluster.pods("typed", true, &[("client", "n1"), ("server", "n2")]);
    keeps("the longest wait for a line on 40 connections, up and back by docs/upgrade.md", WAIT_MAX, || {
        install_other(cluster);
        for ip in &pods[1].ips {
            pods[0].pings_within(*ip, Duration::from_secs(90));
        }
        let talks: Vec<_> = pods[1].ips.iter().map(|ip| pods[0].talks(*ip, 20, 600)).collect();
        up_and_back(cluster);
        let waits = talks.into_iter().map(|talk| {
            let (lines, gap) = talk.enough();
            eprintln!("up and back: {lines} lines over 20 connections, none broken, longest wait {gap:.2} s");
            gap
        });
        waits.fold(0.0, f64::max)
    });
    cluster.delete_namespaces(&["typed"]);
}

/// From the other name to the manifests' own as the page says, and back.
fn up_and_back(cluster: &Cluster) {
    let [up, back] = blocks().try_into().expect("docs/upgrade.md has two blocks of commands");
    let all = |app: &str, image: &str| images(cluster, app).iter().all(|held| held == image);
    for line in up {
        type_in(cluster, line);
        // the daemons are through before the first controller is another
        let is_rolled = line.contains("rollout status daemonset");
        assert!(!is_rolled || (all("weft-node", OWN) && all("weft-controller", OTHER)), "after {line}");
    }
    weft::await_ready(cluster);
    assert!(all("weft-controller", OWN));
    controllers_keep_apart(cluster);
    // and back, from the other one's manifests to these
    install_other(cluster);
    controllers_keep_apart(cluster);
    for line in back {
        type_in(cluster, line);
        let is_rolled = line.contains("rollout status deployment");
        assert!(!is_rolled || (all("weft-controller", OWN) && all("weft-node", OTHER)), "after {line}");
    }
    weft::await_ready(cluster);
    assert!(all("weft-node", OWN));
    controllers_keep_apart(cluster);
}
