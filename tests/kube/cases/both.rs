//! The two back ends on both nodes: what their kernels are told from an API server, and from the same objects as files in a folder.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Case, istio, tiers};
use crate::cluster::{Cluster, NODES};
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
                     meshnodes,meshendpointslices,meshtrusts,clusternetworkpolicies,adminnetworkpolicies,\
                     baselineadminnetworkpolicies,peerauthentications.security.istio.io";

/// Each kind of policy, so that each has its part in the kernel. Those that others define each name a port that nothing else names.
const POLICIES: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: some, namespace: both}\n\
    spec: {podSelector: {matchLabels: {app: here}}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {matchLabels: {app: there}}}, \
    {ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}], ports: [{port: 8080}, {port: 9000, endPort: 9010}]}], egress: [{}]}\n---\n\
    apiVersion: weft.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: some, namespace: both}\n\
    spec: {selector: {matchLabels: {app: here}}, action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/other/sa/a]}}]}]}\n---\n\
    apiVersion: weft.dev/v1alpha1\nkind: PeerAuthentication\nmetadata: {name: one-port, namespace: both}\n\
    spec: {selector: {matchLabels: {app: here}}, mtls: {mode: STRICT}, portLevelMtls: {9000: {mode: PERMISSIVE}}, outbound: RequireMesh}\n---\n\
    apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: theirs, namespace: both}\n\
    spec: {selector: {matchLabels: {app: there}}, mtls: {mode: STRICT}, portLevelMtls: {7101: {mode: PERMISSIVE}}}\n---\n\
    apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: both}\n\
    spec: {tier: Admin, priority: 10, subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: both}}}, ingress: [{action: Deny, \
    from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 7102}}}]}]}\n---\n\
    apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: both}\n\
    spec: {priority: 20, subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: both}}}, ingress: [{action: Allow, \
    from: [{namespaces: {}}], ports: [{portNumber: {protocol: TCP, port: 7103}}]}]}\n---\n\
    apiVersion: policy.networking.k8s.io/v1alpha1\nkind: BaselineAdminNetworkPolicy\nmetadata: {name: default}\n\
    spec: {subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: both}}}, ingress: [{action: Deny, \
    from: [{namespaces: {}}], ports: [{portNumber: {protocol: TCP, port: 7104}}]}]}\n---\n";

/// The ports of those, whose they are, and on which nodes they count: `there` and `alone` have no NetworkPolicy before the baseline.
/// What no pod of a node shows may be unknown to its daemon yet, and its name is a part of the chains' names.
const PORTS: [(&str, &str, &[&str]); 4] = [
    ("7101", "Istio's PeerAuthentication", &["n2"]),
    ("7102", "ClusterNetworkPolicy", &NODES),
    ("7103", "AdminNetworkPolicy", &NODES),
    ("7104", "BaselineAdminNetworkPolicy", &NODES),
];

/// A node's daemon on a folder, which ends with this.
struct ByFolder<'a>(&'a Cluster, &'static str, Child);

impl Drop for ByFolder<'_> {
    fn drop(&mut self) {
        // nsenter waits for what it started on the node
        self.0.on_node(self.1, &["sh", "-c", "kill $(pgrep -f '[n]ode --directory')"]);
        self.2.wait().expect("the daemon ends");
    }
}

fn by_both_back_ends(cluster: &Cluster) {
    cluster.apply(&(tiers::KINDS.map(tiers::definition).concat() + istio::DEFINITION));
    cluster.apply(&(namespace("both", true) + &peer_authentication("both", "STRICT") + POLICIES));
    let pods = cluster.pods("both", true, &[("here", "n1"), ("there", "n2"), ("alone", "n1")]);
    let outside = cluster.pods("both-plain", false, &[("plain", "n1")]);
    let (here, there) = (&pods[0], &pods[1]);
    for ip in &here.ips {
        there.pings_refused(*ip);
        eventually("the other pod is let in", SOON, || there.get(&crate::pod::at(*ip, 8080)));
    }
    // the sandboxes of pods that were deleted before go later than their objects
    NODES.iter().for_each(|node| cluster.await_only_living(node));
    // a kind that was not there is looked for every half a minute, by each daemon for itself
    for (port, whose, nodes) in PORTS {
        for node in nodes {
            eventually(&format!("{whose} is in {node}'s kernel"), SOON, || {
                holds(&kernel(cluster, node), port).then_some(())
            });
        }
    }
    let folder = cluster.dir.join("both");
    std::fs::create_dir_all(&folder).expect("the run's folder takes folders");
    // what is on its way in or out has come there when a second goes by without a change: the objects are those of that second
    let by_server = when_same(|| {
        let before = kernels(cluster);
        let objects = cluster.kubectl(&["get", KINDS, "-A", "-o", "json"]);
        std::fs::write(folder.join("all.json"), objects).expect("the folder takes files");
        (before, kernels_a_second_later(cluster))
    });
    for node in NODES {
        let guard = format!("{node} table inet weft_guard weft_guard");
        assert!(by_server.contains_key(&guard), "the guard behind the rules stands: {:?}", by_server.keys());
        let of_node = |(what, _): &(&String, &Vec<String>)| what.starts_with(node);
        let compared: Held =
            by_server.iter().filter(of_node).map(|(what, lines)| (what.clone(), lines.clone())).collect();
        let ports = PORTS.iter().filter(|(_, _, nodes)| nodes.contains(&node)).map(|(port, ..)| (*port).to_owned());
        let addresses = [here, there].into_iter().flat_map(|pod| &pod.ips).map(ToString::to_string);
        for word in ports.chain(addresses) {
            assert!(holds(&compared, &word), "{word} is nowhere in what is compared of {node}: {compared:?}");
        }
    }
    for ip in &outside[0].ips {
        assert!(holds(&by_server, &ip.to_string()), "{ip} is nowhere in what is compared: {by_server:?}");
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
    for node in NODES {
        cluster.must_on(node, &format!("{meshd} clean"));
    }
    let nothing = kernels(cluster);
    let left = nothing.iter().filter(|(_, lines)| !lines.is_empty()).collect::<Vec<_>>();
    assert!(left.is_empty(), "the folder's daemon is to begin with nothing: {left:?}");
    let daemons = NODES.map(|node| by_folder(cluster, node, &meshd, &folder.display().to_string()));
    when_same(|| (by_server.clone(), kernels_a_second_later(cluster)));
    drop(daemons);
    weft::install(cluster, "default");
    there.gets(&crate::pod::at(here.ip(false), 8080), true);
    cluster.delete_namespaces(&["both", "both-plain"]);
    tiers::forget_kinds(cluster);
    cluster.kubectl(&["delete", "crd", "--timeout=240s", "peerauthentications.security.istio.io"]);
}

/// Whether a word, whole, is in what a kernel holds.
fn holds(held: &Held, word: &str) -> bool {
    let is_part = |c: char| c.is_ascii_hexdigit() || c == ':' || c == '.';
    held.values().flatten().any(|line| line.split(|c| !is_part(c)).any(|one| one.trim_matches(':') == word))
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

fn kernels_a_second_later(cluster: &Cluster) -> Held {
    std::thread::sleep(Duration::from_secs(1));
    kernels(cluster)
}

fn by_folder<'a>(cluster: &'a Cluster, node: &'static str, meshd: &str, folder: &str) -> ByFolder<'a> {
    let log =
        std::fs::File::create(cluster.dir.join(format!("both-{node}.log"))).expect("the run's folder takes files");
    let init = cluster.init_of(node).to_string();
    let words = ["-t", &init, "-a", meshd, "node", "--directory", folder, "--node", node];
    let mut command = Command::new("nsenter");
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    ByFolder(cluster, node, command.spawn().expect("nsenter (util-linux) runs"))
}

/// As [`kernel`] of every node, each thing with its node's name before it.
fn kernels(cluster: &Cluster) -> Held {
    let of = |node| kernel(cluster, node).into_iter().map(move |(what, lines)| (format!("{node} {what}"), lines));
    NODES.into_iter().flat_map(of).collect()
}

/// Everything of ours in a node's kernel, by what it is; without what was only counted or remembered.
fn kernel(cluster: &Cluster, node: &str) -> Held {
    let mut held = Held::new();
    let filter: Value =
        serde_json::from_str(&cluster.must_on(node, "nft -s -j list ruleset")).expect("nft prints JSON");
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
            let lines = cluster.must_on(node, &script).lines().map(|line| line.trim().to_owned()).collect();
            held.insert(format!("ip {family} {what}"), lines);
        }
        let script = format!("ip -o {family} addr show dev mesh0 scope global 2>/dev/null | awk '{{print $4}}' | sort");
        let lines = cluster.must_on(node, &script).lines().map(str::to_owned).collect();
        held.insert(format!("ip {family} addr of mesh0"), lines);
        let script = format!("ip {family} rule | grep -E '^51[0-9]{{2}}:' || true");
        let lines = cluster.must_on(node, &script).lines().map(str::to_owned).collect();
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
