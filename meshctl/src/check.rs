//! `meshctl check`: does Weft work in the cluster, could it be installed (`--pre`), and could a namespace be STRICT (`--strict`).

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use crate::admin_reply::{Chain, SeenFlow, Status};
use crate::door::{Door, each};
use crate::install::MINOR_MIN;
use crate::installed;
use crate::kubectl::ClusterChoice;
use crate::screen::{self, Format};

/// What Weft's image is made for (scripts/image).
const ARCHITECTURES: [&str; 2] = ["amd64", "arm64"];
/// Flows in the text; all that the daemons show are in `meshctl status -o json`.
const FLOWS_MAX: usize = 20;

/// `meshctl check`.
#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    cluster: ClusterChoice,
    /// Whether Weft could be installed, rather than whether it works.
    #[arg(long)]
    pre: bool,
    /// Whether this namespace could be STRICT: who talked to its workloads in clear text within ten minutes.
    #[arg(long, value_name = "NAMESPACE", conflicts_with = "pre")]
    strict: Option<String>,
    /// `json` prints one document, a list with one entry a check: `check`, `ok`, `detail`.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// A check by its name, and what it found: a detail, or why it failed and what to do.
type Outcome = (&'static str, anyhow::Result<String>);

impl CheckArgs {
    /// Checks one after the other; false when one failed.
    ///
    /// # Errors
    /// stdout does not take the result.
    pub(crate) fn run(&self) -> anyhow::Result<bool> {
        let checks = match self.cluster.answers() {
            Err(error) => vec![("the cluster answers", Err(error))],
            Ok(()) if self.pre => self.before(),
            Ok(()) => match &self.strict {
                Some(namespace) => self.could_be_strict(namespace),
                None => self.after(),
            },
        };
        let is_well = checks.iter().all(|(_, outcome)| outcome.is_ok());
        match self.output {
            Format::Json => screen::out_json(&checks.iter().map(row).collect::<Vec<_>>())?,
            Format::Text => {
                for (what, outcome) in checks {
                    screen::out(&match outcome {
                        Ok(detail) if detail.is_empty() => format!("{} {what}", screen::good("ok  ")),
                        Ok(detail) => format!("{} {what}: {detail}", screen::good("ok  ")),
                        Err(error) => {
                            let why = format!("{error:#}").replace('\n', "\n     ");
                            format!("{} {what}\n     {why}", screen::bad("fail"))
                        }
                    })?;
                }
                screen::out(&format!("Status check results are {}", if is_well { "ok" } else { "not ok" }))?;
            }
        }
        Ok(is_well)
    }

    fn before(&self) -> Vec<Outcome> {
        let may = |verb: &str, what: &str| {
            let asked = self.cluster.attempt(&["auth", "can-i", verb, what])?;
            let said = String::from_utf8_lossy(&asked.stdout);
            // a failure without an answer is none
            ensure!(
                asked.status.success() || said.trim_start().starts_with("no"),
                "whether you may {verb} {what} is not told"
            );
            ensure!(asked.status.success(), "you may not {verb} {what}: ask for the role cluster-admin");
            Ok(String::new())
        };
        vec![
            ("the API server is new enough", self.version()),
            ("you may make definitions", may("create", "customresourcedefinitions")),
            ("you may make cluster roles", may("create", "clusterroles")),
            ("you may make admission policies", may("create", "validatingadmissionpolicies")),
            ("you may make namespaces", may("create", "namespaces")),
            ("the nodes run Linux on a processor that the image is for", self.nodes_fit()),
        ]
    }

    fn version(&self) -> anyhow::Result<String> {
        let version = self.cluster.json(&["version"])?;
        let of = |field: &str| version.pointer(&format!("/serverVersion/{field}")).and_then(Value::as_str);
        let minor = of("minor").unwrap_or_default().trim_end_matches('+');
        let number: u32 = minor.parse().context("the API server does not say its version")?;
        ensure!(number >= MINOR_MIN, "it is 1.{number}, and ValidatingAdmissionPolicy came with 1.{MINOR_MIN}");
        Ok(of("gitVersion").unwrap_or_default().to_owned())
    }

    fn nodes_fit(&self) -> anyhow::Result<String> {
        fit(&self.cluster.json(&["get", "nodes"])?)
    }

    fn after(&self) -> Vec<Outcome> {
        let mut checks = vec![
            ("a controller leads, and the issuer is healthy", self.issuer()),
            ("every node runs the daemon", self.daemons()),
            ("every node has joined", self.joined()),
        ];
        match self.asked() {
            Ok(nodes) => checks.extend([
                ("every daemon is ready", ready(&nodes)),
                ("all daemons are of one version", one_version(&nodes)),
                ("nothing is outside the mesh that should be in it", outside(&nodes)),
                ("mesh-cni stays chained where its list is rewritten", Ok(chained(&nodes))),
            ]),
            Err(error) => checks.push(("every daemon is ready", Err(error))),
        }
        checks
    }

    fn could_be_strict(&self, namespace: &str) -> Vec<Outcome> {
        match self.asked() {
            Ok(nodes) => vec![
                ("every daemon is ready", ready(&nodes)),
                ("its workloads are in the mesh", members(&nodes, namespace)),
                ("nobody talked to them in clear text for ten minutes", clear_text(&nodes, namespace)),
            ],
            Err(error) => vec![("every daemon is ready", Err(error))],
        }
    }

    fn issuer(&self) -> anyhow::Result<String> {
        let status = self.cluster.controller()?.ask(&json!({"verb": "status"}))?;
        let healthy = status.get("healthy").and_then(Value::as_bool).unwrap_or(false);
        ensure!(healthy, "it says that it is not healthy: read the log of weft-controller");
        let domain = status.get("trust_domain").and_then(Value::as_str).unwrap_or("-");
        Ok(format!("trust domain {domain}"))
    }

    fn daemons(&self) -> anyhow::Result<String> {
        let namespace = self.cluster.namespace();
        let set = self.cluster.json(&["-n", namespace, "get", "daemonset", "weft-node"])?;
        let of = |field: &str| set.pointer(&format!("/status/{field}")).and_then(Value::as_u64).unwrap_or(0);
        let (ready, wanted) = (of("numberReady"), of("desiredNumberScheduled"));
        let updated = of("updatedNumberScheduled");
        if ready == wanted && updated == wanted && wanted > 0 {
            return Ok(ready.to_string());
        }
        let pods = self.cluster.json(&["-n", namespace, "get", "pods", "-l", "app.kubernetes.io/name=weft-node"])?;
        let why: String = installed::waiting(&pods).iter().map(|line| format!("\n{line}")).collect();
        let old =
            if updated < wanted { format!(", and {updated} are as the DaemonSet has them now") } else { String::new() };
        bail!("{ready} of {wanted} are Ready{old}{why}")
    }

    fn joined(&self) -> anyhow::Result<String> {
        joined(&self.cluster.json(&["get", "meshnodes"])?)
    }

    /// What every daemon says of itself.
    fn asked(&self) -> anyhow::Result<Vec<(String, anyhow::Result<Status>)>> {
        let doors: Vec<_> = self.cluster.nodes(None)?.into_iter().map(Door::Pod).collect();
        let answers = each(&doors, |door| door.ask_for("status"));
        Ok(doors.iter().map(Door::name).zip(answers).collect())
    }
}

fn row((what, outcome): &Outcome) -> Value {
    let detail = match outcome {
        Ok(detail) => detail.clone(),
        Err(error) => format!("{error:#}"),
    };
    json!({"check": what, "ok": outcome.is_ok(), "detail": detail})
}

fn joined(nodes: &Value) -> anyhow::Result<String> {
    let items: Vec<_> = nodes.get("items").and_then(Value::as_array).into_iter().flatten().collect();
    ensure!(!items.is_empty(), "none has reported itself: the log of weft-node says why");
    let has_not = |node: &&&Value| !node.pointer("/status/joined").and_then(Value::as_bool).unwrap_or(false);
    let names = items.iter().filter(has_not).filter_map(|node| node.pointer("/metadata/name")?.as_str());
    let names: Vec<_> = names.collect();
    if let Some(first) = names.first() {
        bail!("{} have not: kubectl get meshnode {first} -o yaml says why, under status.refused", names.join(", "));
    }
    Ok(items.len().to_string())
}

fn fit(nodes: &Value) -> anyhow::Result<String> {
    let items: Vec<_> = nodes.get("items").and_then(Value::as_array).into_iter().flatten().collect();
    let mut kernels = BTreeMap::<&str, usize>::new();
    for node in &items {
        let of = |path: &str| node.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let (name, system) = (of("/metadata/name"), of("/status/nodeInfo/operatingSystem"));
        ensure!(system == "linux", "{name} runs {system}");
        let architecture = of("/status/nodeInfo/architecture");
        let known = ARCHITECTURES.join(" and ");
        ensure!(ARCHITECTURES.contains(&architecture), "{name} is {architecture}, and the image is made for {known}");
        *kernels.entry(of("/status/nodeInfo/kernelVersion")).or_default() += 1;
    }
    ensure!(!items.is_empty(), "there is no node");
    let kernels: Vec<_> = kernels.iter().map(|(kernel, count)| format!("{count} with Linux {kernel}")).collect();
    Ok(kernels.join(", "))
}

type Answer = (String, anyhow::Result<Status>);

fn ready(nodes: &[Answer]) -> anyhow::Result<String> {
    let problem = |(name, answer): &Answer| match answer {
        Err(error) => Some(format!("{name} does not answer: {error:#}")),
        Ok(status) if !status.ready => Some(format!("{name} waits for: {}", status.blocked_on.join("; "))),
        Ok(_) => None,
    };
    let problems: Vec<_> = nodes.iter().filter_map(problem).collect();
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(nodes.len().to_string())
}

fn one_version(nodes: &[Answer]) -> anyhow::Result<String> {
    let mut versions = BTreeMap::<&str, Vec<&str>>::new();
    for (name, status) in nodes {
        if let Ok(status) = status {
            versions.entry(&status.version).or_default().push(name);
        }
    }
    let own = env!("CARGO_PKG_VERSION");
    let of = |(version, names): (&&str, &Vec<&str>)| format!("{version} on {}", names.join(", "));
    match versions.keys().collect::<Vec<_>>().as_slice() {
        [] => bail!("none of them answers"),
        [version] if **version == own => Ok(own.to_owned()),
        [version] => Ok(format!("{version}; this meshctl is {own}, and may not understand all that they say")),
        _ => {
            let each: Vec<_> = versions.iter().map(of).collect();
            bail!("an upgrade is not over (docs/upgrade.md): {}", each.join("; "))
        }
    }
}

fn outside(nodes: &[Answer]) -> anyhow::Result<String> {
    let of = |(name, status): &Answer| {
        let pods = status.as_ref().map(|status| status.outside.clone()).unwrap_or_default();
        pods.into_iter().map(|pod| format!("{} on {name}: {}", pod.pod, pod.reason)).collect::<Vec<_>>()
    };
    let found: Vec<_> = nodes.iter().flat_map(of).collect();
    ensure!(found.is_empty(), "{}", found.join("\n"));
    let silent = nodes.iter().filter(|(_, status)| status.is_err()).count();
    ensure!(silent == 0, "{silent} nodes do not answer, so nobody knows of theirs");
    Ok(String::new())
}

/// No fault of anybody's: who has such nodes should know of it (decision 0025).
fn chained(nodes: &[Answer]) -> String {
    let known = nodes.iter().filter_map(|(name, status)| Some((name, status.as_ref().ok()?)));
    let gaps = known.filter_map(|(name, status)| Some((name, status.chain.as_ref().and_then(Chain::gap)?)));
    let line = |(name, gap): (&String, _)| {
        format!("\n     not on {name}: {gap}; it is put back within a second, and after a boot once the daemon runs")
    };
    gaps.map(line).collect()
}

/// Whether a workload (`namespace/name`) is of this namespace.
fn is_of(workload: &str, namespace: &str) -> bool {
    workload.split_once('/').is_some_and(|(of, _)| of == namespace)
}

fn members(nodes: &[Answer], namespace: &str) -> anyhow::Result<String> {
    let known = nodes.iter().filter_map(|(_, status)| status.as_ref().ok());
    let all: Vec<_> = known.flat_map(|node| &node.attachments).filter(|pod| is_of(&pod.pod, namespace)).collect();
    let enrolled = all.iter().filter(|pod| pod.enrolled).count();
    ensure!(
        enrolled > 0,
        "none of its {} pods is: kubectl label namespace {namespace} weft.dev/mesh=enabled",
        all.len()
    );
    Ok(format!("{enrolled} of {}; the mode is about these alone", all.len()))
}

fn clear_text(nodes: &[Answer], namespace: &str) -> anyhow::Result<String> {
    let mut found = Vec::new();
    for (_, status) in nodes {
        let Ok(status) = status else { continue };
        let own = status.attachments.iter().filter(|pod| is_of(&pod.pod, namespace));
        let own: BTreeMap<_, _> = own.flat_map(|pod| pod.ips.iter().map(move |ip| (ip, &pod.pod))).collect();
        found.extend(status.clear_seen.iter().filter_map(|flow| Some((flow, *own.get(&flow.destination)?))));
    }
    let silent = nodes.iter().filter(|(_, status)| status.is_err()).count();
    ensure!(silent == 0, "{silent} nodes do not answer, so nobody knows of theirs");
    let line = |(flow, to): &(&SeenFlow, &String)| {
        let from = flow.source_workload.as_deref().unwrap_or(&flow.source);
        let port = if flow.port == 0 { String::new() } else { format!(" port {}", flow.port) };
        let (packets, ago) = (flow.count, screen::seconds(flow.last_seen_s));
        format!("\n{from} to {to} {}{port}: {packets} packets, the last {ago} ago", flow.protocol)
    };
    let lines: String = found.iter().take(FLOWS_MAX).map(line).collect();
    let more = found.len().saturating_sub(FLOWS_MAX);
    let more = if more == 0 { String::new() } else { format!("\nand {more} more: meshctl status -o json, clear_seen") };
    ensure!(found.is_empty(), "enrol these, or leave their ports PERMISSIVE by portLevelMtls:{lines}{more}");
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin_reply::{Attachment, OutsidePod};

    fn node(name: &str, version: &str) -> Answer {
        let status = Status { node: name.to_owned(), version: version.to_owned(), ready: true, ..Status::default() };
        (name.to_owned(), Ok(status))
    }

    fn silent(name: &str) -> Answer {
        (name.to_owned(), Err(anyhow::anyhow!("no way to it")))
    }

    #[test]
    fn every_node_that_is_not_ready_is_named_with_why() {
        assert_eq!(ready(&[node("n1", "1"), node("n2", "1")]).unwrap(), "2");
        let mut waits = node("n2", "1");
        if let Ok(status) = &mut waits.1 {
            (status.ready, status.blocked_on) = (false, vec!["its first view".to_owned()]);
        }
        let said = ready(&[node("n1", "1"), waits, silent("n3")]).unwrap_err().to_string();
        assert_eq!(said, "n2 waits for: its first view\nn3 does not answer: no way to it");
    }

    #[test]
    fn versions_that_differ_are_an_upgrade_that_is_not_over() {
        let own = env!("CARGO_PKG_VERSION");
        assert_eq!(one_version(&[node("n1", own), silent("n2")]).unwrap(), own);
        assert!(one_version(&[node("n1", "9.9.9")]).unwrap().contains(&format!("this meshctl is {own}")));
        let said = one_version(&[node("n1", "1"), node("n2", "2"), node("n3", "1")]).unwrap_err().to_string();
        assert!(said.contains("1 on n1, n3; 2 on n2"), "{said}");
        assert!(one_version(&[silent("n1")]).is_err());
    }

    #[test]
    fn a_pod_outside_is_named_and_a_silent_node_is_not_taken_for_a_well_one() {
        assert!(outside(&[node("n1", "1")]).is_ok());
        let mut lost = node("n2", "1");
        if let Ok(status) = &mut lost.1 {
            status.outside = vec![OutsidePod { pod: "shop/web".to_owned(), reason: "no note".to_owned() }];
        }
        assert_eq!(outside(&[node("n1", "1"), lost]).unwrap_err().to_string(), "shop/web on n2: no note");
        assert!(outside(&[node("n1", "1"), silent("n2")]).unwrap_err().to_string().contains("1 nodes do not answer"));
    }

    #[test]
    fn f14_who_still_talks_in_clear_text_is_named_before_strict() {
        let mut one = node("n1", "1");
        let flow = |from: Option<&str>, to: &str| SeenFlow {
            source: "10.1.0.9".to_owned(),
            source_workload: from.map(str::to_owned),
            destination: to.to_owned(),
            protocol: "tcp".to_owned(),
            port: 80,
            count: 3,
            last_seen_s: 5,
            ..SeenFlow::default()
        };
        let pod = |name: &str, enrolled| Attachment {
            pod: name.to_owned(),
            ips: vec![format!("of {name}")],
            enrolled,
            ..Attachment::default()
        };
        if let Ok(status) = &mut one.1 {
            status.attachments = vec![pod("shop/web", true), pod("shop/old", false), pod("shopping/web", true)];
            status.clear_seen = vec![flow(None, "of shop/web"), flow(Some("plain/job"), "of shopping/web")];
        }
        let nodes = [one, node("n2", "1")];
        assert!(members(&nodes, "shop").unwrap().starts_with("1 of 2"));
        assert!(members(&nodes, "sho").unwrap_err().to_string().contains("kubectl label namespace sho "));
        let said = clear_text(&nodes, "shop").unwrap_err().to_string();
        assert!(said.ends_with(":\n10.1.0.9 to shop/web tcp port 80: 3 packets, the last 5 s ago"), "{said}");
        assert!(clear_text(&nodes, "shopping").unwrap_err().to_string().contains("plain/job to shopping/web"));
        assert!(clear_text(&nodes, "quiet").is_ok());
        assert!(clear_text(&[node("n1", "1"), silent("n2")], "quiet").is_err(), "nobody knows");
    }

    #[test]
    fn nodes_that_have_not_joined_are_named() {
        let of = |name: &str, status: Value| json!({"metadata": {"name": name}, "status": status});
        let all = |nodes: &[Value]| joined(&json!({"items": nodes})).map_err(|error| error.to_string());
        let (well, new) = (of("n1", json!({"joined": true})), of("n2", json!({})));
        assert_eq!(all(std::slice::from_ref(&well)).unwrap(), "1");
        assert!(all(&[well, new]).unwrap_err().starts_with("n2 have not: kubectl get meshnode n2 "));
        assert!(all(&[]).unwrap_err().contains("none has reported"));
    }

    #[test]
    fn nodes_that_the_image_is_not_for_are_named() {
        let of = |system: &str, architecture: &str| {
            json!({"metadata": {"name": "n1"}, "status": {"nodeInfo":
                {"operatingSystem": system, "architecture": architecture, "kernelVersion": "6.1.0"}}})
        };
        let all = |nodes: &[Value]| fit(&json!({"items": nodes})).map_err(|error| error.to_string());
        assert_eq!(all(&[of("linux", "amd64"), of("linux", "arm64")]).unwrap(), "2 with Linux 6.1.0");
        assert!(all(&[of("windows", "amd64")]).unwrap_err().contains("n1 runs windows"));
        assert!(all(&[of("linux", "riscv64")]).unwrap_err().contains("made for amd64 and arm64"));
        assert!(all(&[]).is_err());
    }
}
