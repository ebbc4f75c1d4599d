//! The two back ends on one node: what its kernel is told from an API server, and from the same objects as files in a folder.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Case;
use crate::cluster::Cluster;
use crate::pod::{Pod, namespace, peer_authentication};
use crate::shell::eventually;
use crate::weft;

/// The cases of this file.
pub const CASES: &[(&str, Case)] = &[("the_same_manifests_make_the_same_kernel_by_both_back_ends", by_both_back_ends)];

const SOON: Duration = Duration::from_secs(120);

/// What is in the kernel, by what it is.
type Held = BTreeMap<String, Vec<String>>;

/// Every kind that Weft reads.
const KINDS: &str = "namespaces,nodes,pods,networkpolicies,peerauthentications.weft.dev,authorizationpolicies.weft.dev,\
                     meshnodes,meshendpointslices,meshtrusts";

/// Each kind of policy, so that each has its part in the kernel.
const POLICIES: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: some, namespace: both}\n\
    spec: {podSelector: {matchLabels: {app: here}}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {matchLabels: {app: there}}}, \
    {ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}], ports: [{port: 8080}, {port: 9000, endPort: 9010}]}], egress: [{}]}\n---\n\
    apiVersion: weft.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: some, namespace: both}\n\
    spec: {selector: {matchLabels: {app: here}}, action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/other/sa/a]}}]}]}\n---\n\
    apiVersion: weft.dev/v1alpha1\nkind: PeerAuthentication\nmetadata: {name: one-port, namespace: both}\n\
    spec: {selector: {matchLabels: {app: here}}, mtls: {mode: STRICT}, portLevelMtls: {9000: {mode: PERMISSIVE}}, outbound: RequireMesh}\n---\n";

/// A node daemon on a folder, which ends with this.
struct ByFolder<'a>(&'a Cluster, Child);

impl Drop for ByFolder<'_> {
    fn drop(&mut self) {
        // nsenter waits for what it started on the node
        self.0.on_node("n1", &["sh", "-c", "kill $(pgrep -f '[n]ode --directory')"]);
        self.1.wait().expect("the daemon ends");
    }
}

fn by_both_back_ends(cluster: &Cluster) {
    cluster.apply(&(namespace("both", true) + &peer_authentication("both", "STRICT") + POLICIES));
    let pods = cluster.pods("both", true, &[("here", "n1"), ("there", "n2")]);
    let outside = cluster.pods("both-plain", false, &[("plain", "n1")]);
    let (here, there) = (&pods[0], &pods[1]);
    for ip in &here.ips {
        there.pings_refused(*ip);
        eventually("the other pod is let in", SOON, || there.get(&crate::pod::at(*ip, 8080)));
    }
    // the sandboxes of pods that were deleted before go later than their objects
    cluster.await_only_living("n1");
    let folder = cluster.dir.join("both");
    std::fs::create_dir_all(&folder).expect("the run's folder takes folders");
    // what is on its way in or out has come there when a second goes by without a change: the objects are those of that second
    let by_server = when_same(|| {
        let before = kernel(cluster);
        let objects = cluster.kubectl(&["get", KINDS, "-A", "-o", "json"]);
        std::fs::write(folder.join("all.json"), objects).expect("the folder takes files");
        (before, kernel_a_second_later(cluster))
    });
    assert!(
        by_server.contains_key("table inet weft_guard weft_guard"),
        "the guard behind the rules stands: {:?}",
        by_server.keys()
    );
    let text = format!("{by_server:?}");
    for address in [here, there, &outside[0]].into_iter().flat_map(|pod| &pod.ips) {
        assert!(text.contains(&address.to_string()), "{address} is nowhere in what is compared: {text}");
    }
    cluster.kubectl(&[
        "-n",
        "weft-system",
        "delete",
        "daemonset",
        "weft-node",
        "--cascade=foreground",
        "--timeout=240s",
    ]);
    let meshd = weft::program("meshd").display().to_string();
    cluster.must_on("n1", &format!("{meshd} clean"));
    let nothing = kernel(cluster);
    let left = nothing.iter().filter(|(_, lines)| !lines.is_empty()).collect::<Vec<_>>();
    assert!(left.is_empty(), "the folder's daemon is to begin with nothing: {left:?}");
    let daemon = by_folder(cluster, &meshd, &folder.display().to_string());
    when_same(|| (by_server.clone(), kernel_a_second_later(cluster)));
    drop(daemon);
    weft::install(cluster, "default");
    there.gets(&crate::pod::at(here.ip(false), 8080), true);
    cluster.delete_namespaces(&["both", "both-plain"]);
}

/// Asks until both are the same, or says what differs.
fn when_same(mut ask: impl FnMut() -> (Held, Held)) -> Held {
    let begin = Instant::now();
    loop {
        let (one, other) = ask();
        let keys: BTreeSet<_> = one.keys().chain(other.keys()).collect();
        let differ = keys.into_iter().filter(|what| one.get(*what) != other.get(*what));
        let differ: Vec<_> = differ.map(|what| (what, one.get(what), other.get(what))).collect();
        if differ.is_empty() {
            return one;
        }
        assert!(begin.elapsed() < SOON, "the kernel was to be the same: {differ:#?}");
    }
}

fn kernel_a_second_later(cluster: &Cluster) -> Held {
    std::thread::sleep(Duration::from_secs(1));
    kernel(cluster)
}

fn by_folder<'a>(cluster: &'a Cluster, meshd: &str, folder: &str) -> ByFolder<'a> {
    let log = std::fs::File::create(cluster.dir.join("both.log")).expect("the run's folder takes files");
    let init = cluster.init_of("n1").to_string();
    let words = ["-t", &init, "-a", meshd, "node", "--directory", folder, "--node", "n1"];
    let mut command = Command::new("nsenter");
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    ByFolder(cluster, command.spawn().expect("nsenter (util-linux) runs"))
}

/// Everything of ours in n1's kernel, by what it is; without what was only counted or remembered.
fn kernel(cluster: &Cluster) -> Held {
    let mut held = Held::new();
    let filter: Value =
        serde_json::from_str(&cluster.must_on("n1", "nft -s -j list ruleset")).expect("nft prints JSON");
    let items = filter["nftables"].as_array().expect("a list");
    // what a rule puts into a set follows from packets that came by, and not from an object
    let rules = items
        .iter()
        .map(|item| &item["rule"])
        .flat_map(|rule| rule["expr"].as_array().into_iter().flatten().map(move |said| (rule, said)));
    let by_packets: BTreeSet<_> = rules
        .filter_map(|(rule, said)| {
            Some((rule["family"].as_str()?, rule["table"].as_str()?, said["set"]["set"].as_str()?))
        })
        .collect();
    for item in items {
        let (kind, value) = item.as_object().and_then(|item| item.iter().next()).expect("one object");
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let table = if kind == "table" { text("name") } else { text("table") };
        if !table.starts_with("weft") {
            continue;
        }
        let name = if kind == "rule" { text("chain") } else { text("name") };
        let lines = held.entry(format!("{kind} {} {table} {name}", text("family"))).or_default();
        let is_remembered =
            by_packets.contains(&(text("family").as_str(), table.as_str(), format!("@{name}").as_str()));
        lines.push(match kind.as_str() {
            "rule" => value["expr"].to_string(),
            "set" | "map" if is_remembered => value["type"].to_string(),
            "set" | "map" => {
                let mut members: Vec<_> =
                    value["elem"].as_array().into_iter().flatten().map(Value::to_string).collect();
                members.sort();
                format!("{} {}", value["type"], members.join(" "))
            }
            "chain" => format!("{} {} {}", value["hook"], value["prio"], value["policy"]),
            _ => String::new(),
        });
    }
    for family in ["-4", "-6"] {
        for what in ["route show table 5182", "route show table 5183"] {
            let script = format!("ip {family} {what} 2>/dev/null | sort");
            let lines = cluster.must_on("n1", &script).lines().map(|line| line.trim().to_owned()).collect();
            held.insert(format!("ip {family} {what}"), lines);
        }
        let script = format!("ip -o {family} addr show dev mesh0 scope global 2>/dev/null | awk '{{print $4}}' | sort");
        let lines = cluster.must_on("n1", &script).lines().map(str::to_owned).collect();
        held.insert(format!("ip {family} addr of mesh0"), lines);
        let script = format!("ip {family} rule | grep -E '^51[0-9]{{2}}:' || true");
        let lines = cluster.must_on("n1", &script).lines().map(str::to_owned).collect();
        held.insert(format!("ip {family} rule"), lines);
    }
    held
}

impl Pod {
    /// A ping that a policy refuses stays without an answer.
    fn pings_refused(&self, to: std::net::IpAddr) {
        eventually("the policy is in force", SOON, || (!self.pings(to)).then_some(()));
    }
}
